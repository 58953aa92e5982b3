//! The list and watch behind every reflector, which knows no type: it passes JSON on.
//!
//! One copy of this code serves all resources; what is typed is behind [`Sink`]. Invariant: the
//! position moves on only after the sink has taken what came before it.

use std::{collections::BTreeSet, time::Duration};

use bytes::{Buf, BytesMut};
use http::{Request, header};
use http_body_util::BodyExt;
use kube::client::Body;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    meta::{Key, Labels},
    reflector::Selection,
    resource::Resource,
    rest::{Error, ListMeta, Rest, describe, is_gone, with_query},
};

const CHUNK: &str = "500";
const WATCH_SECONDS: u64 = 540;
const WATCH_GRACE: Duration = Duration::from_secs(30);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// What an object must show so that the watch can go on after it.
pub(crate) struct Seen {
    pub(crate) key: Key,
    pub(crate) resource_version: String,
}

/// What happened to an object.
#[derive(Clone, Copy)]
pub(crate) enum Change {
    /// Part of the initial state, or of a list.
    Listed,
    /// Added or modified.
    Put,
    /// Deleted; `initial` while the initial state is still streamed.
    Deleted { initial: bool },
}

/// The cache that is followed for.
pub(crate) trait Sink: Send + Sync {
    /// Takes one object as JSON. Fails when it is not the object it should be.
    fn take(&self, change: Change, json: &str) -> Result<Seen, Error>;
    /// A complete listing has been seen: what it did not have is gone.
    fn finish(&self, seen: &BTreeSet<Key>);
    /// The server has shown everything up to this version.
    fn passed(&self, resource_version: &str);
}

/// What is followed.
pub(crate) struct Follower {
    pub(crate) rest: Rest,
    pub(crate) resource: Resource,
    pub(crate) selection: Selection,
    pub(crate) metadata_only: bool,
}

/// Where the watch stands.
struct Position {
    resource_version: String,
    streaming: bool,
}

enum Ended {
    /// The server closed the watch; go on from the position.
    Closed,
    /// The position is too old: list again.
    Expired,
    /// The server has no `sendInitialEvents`.
    Unsupported,
}

impl Follower {
    /// Lists and watches for ever.
    pub(crate) async fn forever(&self, sink: &dyn Sink) {
        let mut at = Position { resource_version: String::new(), streaming: true };
        let mut backoff = BACKOFF_MIN;
        let mut reported = false;
        let resource = self.resource.plural.as_ref();
        loop {
            let outcome = if at.resource_version.is_empty() && !at.streaming {
                self.list(sink).await.map(|version| {
                    at.resource_version = version;
                    Ended::Closed
                })
            } else {
                self.watch(sink, &mut at).await
            };
            match outcome {
                Ok(Ended::Closed) => {
                    backoff = BACKOFF_MIN;
                    reported = false;
                    continue;
                }
                Ok(Ended::Unsupported) => {
                    at.streaming = false;
                    continue;
                }
                Ok(Ended::Expired) => at.resource_version.clear(),
                Err(err) if is_gone(&err) => at.resource_version.clear(),
                Err(err) => {
                    if let Error::Api(status) = &err
                        && (400..500).contains(&status.code)
                        && status.code != 429
                    {
                        at.resource_version.clear();
                    }
                    let err = describe(&err);
                    if reported {
                        tracing::debug!(resource, err, "Watch failed, retrying");
                    } else if backoff > BACKOFF_MIN {
                        // A single failure is what every restart of the API server looks like.
                        tracing::warn!(resource, err, "Watch failed, retrying");
                        reported = true;
                    }
                }
            }
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    /// Lists in chunks and returns the list's version. What the first chunks hold is visible at
    /// once; deletions are known when the last chunk has come.
    async fn list(&self, sink: &dyn Sink) -> Result<String, Error> {
        let mut seen = BTreeSet::new();
        let mut token = String::new();
        loop {
            let mut query = self.selectors();
            if token.is_empty() {
                query.push(("resourceVersion", "0"));
            } else {
                query.push(("continue", &token));
            }
            query.push(("limit", CHUNK));
            let path = with_query(self.path(), &query);
            let request = Request::get(path).header(header::ACCEPT, self.accept("List"));
            let request = request.body(Vec::new()).map_err(Error::HttpError)?;
            let text = self.rest.client().request_text(request).await?;
            let list: RawList<'_> = serde_json::from_str(&text).map_err(Error::SerdeError)?;
            for object in list.items {
                seen.insert(sink.take(Change::Listed, object.get())?.key);
            }
            if list.metadata.continue_token.is_empty() {
                sink.passed(&list.metadata.resource_version);
                sink.finish(&seen);
                return Ok(list.metadata.resource_version);
            }
            token = list.metadata.continue_token;
        }
    }

    async fn watch(&self, sink: &dyn Sink, at: &mut Position) -> Result<Ended, Error> {
        let seconds = WATCH_SECONDS.to_string();
        let mut query = self.selectors();
        query.extend([("watch", "1"), ("allowWatchBookmarks", "true")]);
        query.push(("timeoutSeconds", &seconds));
        let initial = at.resource_version.is_empty();
        if initial {
            query.push(("sendInitialEvents", "true"));
            query.push(("resourceVersionMatch", "NotOlderThan"));
        } else {
            query.push(("resourceVersion", &at.resource_version));
        }
        let path = with_query(self.path(), &query);
        let request = Request::get(path).header(header::ACCEPT, self.accept(""));
        let request = request.body(Body::empty()).map_err(Error::HttpError)?;
        let response = self.rest.client().send(request).await?;
        let status = response.status().as_u16();
        let mut body = response.into_body();
        if status != 200 {
            let text = body.collect().await?.to_bytes();
            if initial && matches!(status, 400 | 403 | 422) && at.streaming {
                return Ok(Ended::Unsupported);
            }
            return Err(api_error(status, &text));
        }
        let deadline =
            tokio::time::Instant::now() + Duration::from_secs(WATCH_SECONDS) + WATCH_GRACE;
        let mut seen = initial.then(BTreeSet::new);
        let mut lines = Lines::default();
        loop {
            let frame = match tokio::time::timeout_at(deadline, body.frame()).await {
                Ok(Some(frame)) => frame?,
                Ok(None) | Err(_) => break,
            };
            let Ok(data) = frame.into_data() else { continue };
            lines.push(&data);
            while let Some(line) = lines.next_line() {
                if let Some(ended) = Self::event(sink, &line, at, &mut seen)? {
                    return Ok(ended);
                }
            }
        }
        if seen.is_some() {
            at.resource_version.clear();
            return Ok(Ended::Expired);
        }
        Ok(Ended::Closed)
    }

    /// Handles one line of the watch.
    fn event(
        sink: &dyn Sink,
        line: &[u8],
        at: &mut Position,
        seen: &mut Option<BTreeSet<Key>>,
    ) -> Result<Option<Ended>, Error> {
        let raw: RawEvent<'_> = serde_json::from_slice(line).map_err(Error::SerdeError)?;
        let json = raw.object.get();
        match raw.kind {
            "ADDED" | "MODIFIED" => match seen {
                Some(seen) => {
                    seen.insert(sink.take(Change::Listed, json)?.key);
                }
                None => at.resource_version = sink.take(Change::Put, json)?.resource_version,
            },
            "DELETED" => {
                let taken = sink.take(Change::Deleted { initial: seen.is_some() }, json)?;
                match seen {
                    Some(seen) => {
                        seen.remove(&taken.key);
                    }
                    None => at.resource_version = taken.resource_version,
                }
            }
            "BOOKMARK" => {
                let bookmark: Bookmark = serde_json::from_str(json).map_err(Error::SerdeError)?;
                let ends = bookmark.metadata.annotations.contains_key(INITIAL_EVENTS_END);
                if ends && let Some(seen) = seen.take() {
                    sink.passed(&bookmark.metadata.resource_version);
                    sink.finish(&seen);
                }
                if seen.is_none() {
                    sink.passed(&bookmark.metadata.resource_version);
                    at.resource_version = bookmark.metadata.resource_version;
                }
            }
            "ERROR" => {
                let err = api_error(500, json.as_bytes());
                if is_gone(&err) {
                    return Ok(Some(Ended::Expired));
                }
                return Err(err);
            }
            other => tracing::debug!(event = other, "Watch event of unknown type, ignoring"),
        }
        Ok(None)
    }

    fn path(&self) -> String {
        self.resource.collection(&self.selection.namespace)
    }

    fn selectors(&self) -> Vec<(&str, &str)> {
        let selection = &self.selection;
        [("labelSelector", selection.labels.as_str()), ("fieldSelector", &selection.fields)]
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .collect()
    }

    fn accept(&self, suffix: &str) -> String {
        if self.metadata_only {
            let kind = format!("PartialObjectMetadata{suffix}");
            format!("application/json;as={kind};g=meta.k8s.io;v=v1,application/json")
        } else {
            "application/json".to_owned()
        }
    }
}

#[derive(Deserialize)]
struct RawEvent<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct RawList<'a> {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(borrow, default, deserialize_with = "crate::meta::null_default")]
    items: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: BookmarkMeta,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct BookmarkMeta {
    resource_version: String,
    #[serde(deserialize_with = "crate::meta::null_default")]
    annotations: Labels,
}

/// Cuts a byte stream into lines.
#[derive(Default)]
struct Lines {
    buffer: BytesMut,
    scanned: usize,
}

impl Lines {
    fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    fn next_line(&mut self) -> Option<BytesMut> {
        loop {
            let rest = self.buffer.get(self.scanned..)?;
            let Some(at) = rest.iter().position(|byte| *byte == b'\n') else {
                self.scanned = self.buffer.len();
                if self.buffer.is_empty() {
                    // Gives the memory of a burst back.
                    self.buffer = BytesMut::new();
                    self.scanned = 0;
                }
                return None;
            };
            let line = self.buffer.split_to(self.scanned + at);
            self.buffer.advance(1);
            self.scanned = 0;
            if !line.is_empty() {
                return Some(line);
            }
        }
    }
}

fn api_error(code: u16, text: &[u8]) -> Error {
    let mut status: kube::core::Status = serde_json::from_slice(text).unwrap_or_default();
    if status.code == 0 {
        status.code = code;
    }
    if status.message.is_empty() {
        status.message =
            String::from_utf8_lossy(text.get(..text.len().min(200)).unwrap_or(text)).into_owned();
    }
    Error::Api(Box::new(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_survive_any_cut() {
        let text = b"{\"a\":1}\n\n{\"b\":2}\n{\"c\"";
        for cut in 0..text.len() {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for part in [&text[..cut], &text[cut..]] {
                lines.push(part);
                while let Some(line) = lines.next_line() {
                    found.push(String::from_utf8(line.to_vec()).unwrap());
                }
            }
            assert_eq!(found, ["{\"a\":1}", "{\"b\":2}"], "cut at {cut}");
        }
    }

    #[test]
    fn errors_keep_the_servers_code() {
        let err =
            api_error(500, br#"{"kind":"Status","code":410,"reason":"Expired","message":"x"}"#);
        assert!(is_gone(&err));
        assert!(matches!(api_error(503, b"no"), Error::Api(status) if status.code == 503));
    }
}
