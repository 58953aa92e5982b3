//! A reflector: one resource, listed and then watched for ever, kept as the component's own structs.
//!
//! The initial state is streamed (`sendInitialEvents`) where the server can do that, so that the
//! memory needed is that of the trimmed structs and never that of the whole list; otherwise it is
//! listed in chunks. Handlers run in the reflector's task and must only enqueue.
//!
//! Invariant: after [`Reflector::synced`] the lister never goes back to being empty; a relist only
//! reports the differences.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{Buf, BytesMut};
use http::{Request, header};
use http_body_util::BodyExt;
use kube::client::Body;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    meta::{HasMeta, Key, Labels},
    resource::Resource,
    rest::{Error, Rest, describe, is_gone, with_query},
    store::{Index, Lister},
};

const CHUNK: &str = "500";
const WATCH_SECONDS: u64 = 540;
const WATCH_GRACE: Duration = Duration::from_secs(30);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// A change of one object.
#[derive(Debug)]
pub enum Event<T> {
    Added(Arc<T>),
    Updated { old: Arc<T>, new: Arc<T> },
    Deleted(Arc<T>),
}

impl<T> Event<T> {
    /// The newest known state of the object.
    pub fn object(&self) -> &Arc<T> {
        match self {
            Event::Added(object) | Event::Deleted(object) => object,
            Event::Updated { new, .. } => new,
        }
    }

    /// The state before, where there was one.
    pub fn old(&self) -> Option<&Arc<T>> {
        match self {
            Event::Added(_) => None,
            Event::Updated { old, .. } => Some(old),
            Event::Deleted(object) => Some(object),
        }
    }
}

impl<T> Clone for Event<T> {
    fn clone(&self) -> Self {
        match self {
            Event::Added(object) => Event::Added(Arc::clone(object)),
            Event::Updated { old, new } => {
                Event::Updated { old: Arc::clone(old), new: Arc::clone(new) }
            }
            Event::Deleted(object) => Event::Deleted(Arc::clone(object)),
        }
    }
}

/// Which objects of the resource are wanted; empty strings mean all.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    pub namespace: String,
    pub labels: String,
    pub fields: String,
}

type Handler<T> = Box<dyn Fn(&Event<T>) + Send + Sync>;

/// Keeps one resource in memory. Cheap to clone; one clone must be [`Reflector::run`].
pub struct Reflector<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    rest: Rest,
    resource: Resource,
    selection: Selection,
    metadata_only: bool,
    lister: Lister<T>,
    /// The newest resource version that the watch has delivered.
    seen_version: AtomicU64,
    handlers: Mutex<Vec<Handler<T>>>,
    synced: watch::Sender<bool>,
    changes: watch::Sender<u64>,
}

impl<T> Clone for Reflector<T> {
    fn clone(&self) -> Self {
        Reflector { shared: Arc::clone(&self.shared) }
    }
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

impl<T: HasMeta + DeserializeOwned + Send + Sync + 'static> Reflector<T> {
    /// A reflector of all objects of a resource.
    pub fn new(client: kube::Client, resource: Resource) -> Self {
        Self::selecting(client, resource, Selection::default())
    }

    /// A reflector of some objects of a resource.
    pub fn selecting(client: kube::Client, resource: Resource, selection: Selection) -> Self {
        Self::build(client, resource, selection, false)
    }

    /// A reflector that asks the server for metadata only (`PartialObjectMetadata`).
    pub fn metadata(client: kube::Client, resource: Resource, selection: Selection) -> Self {
        Self::build(client, resource, selection, true)
    }

    fn build(
        client: kube::Client,
        resource: Resource,
        selection: Selection,
        metadata_only: bool,
    ) -> Self {
        let shared = Shared {
            rest: Rest::new(client),
            resource,
            selection,
            metadata_only,
            lister: Lister::empty(),
            seen_version: AtomicU64::new(0),
            handlers: Mutex::default(),
            synced: watch::Sender::new(false),
            changes: watch::Sender::new(0),
        };
        Reflector { shared: Arc::new(shared) }
    }

    /// Read access to what is known.
    pub fn lister(&self) -> Lister<T> {
        self.shared.lister.clone()
    }

    /// What is reflected.
    pub fn resource(&self) -> &Resource {
        &self.shared.resource
    }

    /// Adds a secondary index; best before `run`.
    pub fn add_index(&self, terms: impl Fn(&T) -> Vec<String> + Send + Sync + 'static) -> Index {
        self.shared.lister.add_index(terms)
    }

    /// Calls `handler` for every change from now on, after the cache has it. It must not block:
    /// typically it adds keys to a [`crate::WorkQueue`].
    pub fn on_event(&self, handler: impl Fn(&Event<T>) + Send + Sync + 'static) {
        let mut handlers = self.shared.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        handlers.push(Box::new(handler));
    }

    /// A counter that moves with every change: for those who recompute from the whole cache.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Whether the initial state is complete.
    pub fn is_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }

    /// Waits until the initial state is complete.
    pub async fn synced(&self) {
        let mut synced = self.shared.synced.subscribe();
        // The sender lives as long as self, so the wait can't fail.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// Takes the answer of a write into the cache before the watch delivers it, so that the next
    /// decision sees it. An answer that the watch has passed already is ignored.
    pub fn observe(&self, object: T) {
        let version = version(object.meta());
        if version <= self.shared.seen_version.load(Ordering::Relaxed) {
            return;
        }
        let known = self.shared.lister.get(&object.meta().key());
        if known.is_none_or(|known| self::version(known.meta()) < version) {
            self.store(object);
        }
    }

    /// Takes a deletion that the server confirmed into the cache.
    pub fn observe_deleted(&self, key: &Key, uid: &str) {
        let known = self.shared.lister.get(key);
        if known.is_some_and(|known| known.meta().uid == uid)
            && let Some(event) = self.shared.lister.remove(key)
        {
            self.notify(&event);
        }
    }

    /// Lists and watches until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.forever() => {}
        }
    }

    async fn forever(&self) {
        let mut at = Position { resource_version: String::new(), streaming: true };
        let mut backoff = BACKOFF_MIN;
        let mut reported = false;
        let resource = self.shared.resource.plural.as_ref();
        loop {
            let outcome = if at.resource_version.is_empty() && !at.streaming {
                self.list().await.map(|version| {
                    at.resource_version = version;
                    Ended::Closed
                })
            } else {
                self.watch(&mut at).await
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
    async fn list(&self) -> Result<String, Error> {
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
            let list: crate::rest::List<T> = self.shared.rest.client().request(request).await?;
            for object in list.items {
                seen.insert(object.meta().key());
                self.store(object);
            }
            if list.metadata.continue_token.is_empty() {
                self.passed(&list.metadata.resource_version);
                self.finish(&seen);
                return Ok(list.metadata.resource_version);
            }
            token = list.metadata.continue_token;
        }
    }

    async fn watch(&self, at: &mut Position) -> Result<Ended, Error> {
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
        let response = self.shared.rest.client().send(request).await?;
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
                if let Some(ended) = self.event(&line, at, &mut seen)? {
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
        &self,
        line: &[u8],
        at: &mut Position,
        seen: &mut Option<BTreeSet<Key>>,
    ) -> Result<Option<Ended>, Error> {
        let raw: RawEvent<'_> = serde_json::from_slice(line).map_err(Error::SerdeError)?;
        let parse = |raw: &RawValue| -> Result<T, Error> {
            serde_json::from_str(raw.get()).map_err(Error::SerdeError)
        };
        match raw.kind {
            "ADDED" | "MODIFIED" => {
                let object = parse(raw.object)?;
                match seen {
                    Some(seen) => {
                        seen.insert(object.meta().key());
                    }
                    None => {
                        at.resource_version.clone_from(&object.meta().resource_version);
                        self.passed(&at.resource_version);
                        if self.knows_newer(&object) {
                            return Ok(None);
                        }
                    }
                }
                self.store(object);
            }
            "DELETED" => {
                let object = parse(raw.object)?;
                match seen {
                    Some(seen) => {
                        seen.remove(&object.meta().key());
                    }
                    None => {
                        at.resource_version.clone_from(&object.meta().resource_version);
                        self.passed(&at.resource_version);
                        if self.knows_newer(&object) {
                            return Ok(None);
                        }
                    }
                }
                if let Some(event) = self.shared.lister.remove(&object.meta().key()) {
                    // Handlers get the last state that the server reported.
                    let event = match event {
                        Event::Deleted(_) => Event::Deleted(Arc::new(object)),
                        other => other,
                    };
                    self.notify(&event);
                }
            }
            "BOOKMARK" => {
                let bookmark: Bookmark =
                    serde_json::from_str(raw.object.get()).map_err(Error::SerdeError)?;
                let ends = bookmark.metadata.annotations.contains_key(INITIAL_EVENTS_END);
                if ends && let Some(seen) = seen.take() {
                    self.passed(&bookmark.metadata.resource_version);
                    self.finish(&seen);
                }
                if seen.is_none() {
                    self.passed(&bookmark.metadata.resource_version);
                    at.resource_version = bookmark.metadata.resource_version;
                }
            }
            "ERROR" => {
                let err = api_error(500, raw.object.get().as_bytes());
                if is_gone(&err) {
                    return Ok(Some(Ended::Expired));
                }
                return Err(err);
            }
            other => tracing::debug!(event = other, "Watch event of unknown type, ignoring"),
        }
        Ok(None)
    }

    fn passed(&self, version: &str) {
        if let Ok(version) = version.parse() {
            self.shared.seen_version.store(version, Ordering::Relaxed);
        }
    }

    /// Whether an observed write is ahead of this watch event, or this is about a predecessor.
    fn knows_newer(&self, object: &T) -> bool {
        let known = self.shared.lister.get(&object.meta().key());
        known.is_some_and(|known| version(known.meta()) > version(object.meta()))
    }

    fn store(&self, object: T) {
        if let Some(event) = self.shared.lister.put(Arc::new(object)) {
            self.notify(&event);
        }
    }

    /// A complete listing has been seen: what it did not have is gone.
    fn finish(&self, seen: &BTreeSet<Key>) {
        for key in self.shared.lister.keys_not_in(seen) {
            if let Some(event) = self.shared.lister.remove(&key) {
                self.notify(&event);
            }
        }
        self.shared.synced.send_replace(true);
        self.shared.changes.send_modify(|count| *count += 1);
    }

    fn notify(&self, event: &Event<T>) {
        let handlers = self.shared.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        handlers.iter().for_each(|handler| handler(event));
        drop(handlers);
        self.shared.changes.send_modify(|count| *count += 1);
    }

    fn path(&self) -> String {
        self.shared.resource.collection(&self.shared.selection.namespace)
    }

    fn selectors(&self) -> Vec<(&str, &str)> {
        let selection = &self.shared.selection;
        [("labelSelector", selection.labels.as_str()), ("fieldSelector", &selection.fields)]
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .collect()
    }

    fn accept(&self, suffix: &str) -> String {
        if self.shared.metadata_only {
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

fn version(meta: &crate::meta::Meta) -> u64 {
    meta.resource_version.parse().unwrap_or(0)
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
