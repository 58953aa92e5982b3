//! WATCH: events from the ring of a cache, framed for one client.
//!
//! A watcher is a place in the ring and nothing else; the connection pulls. Invariant: a client
//! that is too slow is told so (410) and never buffered for.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use apimachinery::decode::Media;
use apimachinery::status::Status;
use bytes::{Bytes, BytesMut};
use futures::stream;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::get::wait;
use super::object;
use super::options::ListOptions;
use super::render::partial;
use super::select::Filter;
use super::table::{Head, Include, build};
use crate::api_server::ApiServer;
use crate::body::{Body, answer};
use crate::custom::convert;
use crate::filter::Call;
use crate::kinds::Kind;
use crate::negotiate::{Accept, Shape};
use crate::storage::entry::Entry;
use crate::storage::store::{Event, Store};

/// Events taken from the ring at once.
const BATCH: usize = 64;
/// Frames joined into one write.
const CHUNK: usize = 64 << 10;
const BOOKMARK: Duration = Duration::from_secs(60);
/// Upstream ends watches without `timeoutSeconds` after 30 to 60 minutes.
const LIFE_MIN_S: u64 = 1800;

pub async fn watch(call: &Call<'_>, kind: &Arc<Kind>) -> Result<Response<Body>, Status> {
    let accept = Accept::read(&call.parts.headers)?;
    let options = ListOptions::read(&call.query, true)?;
    let filter = Filter::read(&call.info, kind, &options)?;
    let store = call.server.storage.store(&kind.resource).ok_or_else(Status::no_resource)?;
    let now = Instant::now();
    let seconds = options
        .timeout_seconds
        .unwrap_or_else(|| LIFE_MIN_S + u64::from(call.peer.address.port()) % LIFE_MIN_S);
    let mut watcher = Watcher {
        server: call.server.clone(),
        kind: kind.clone(),
        store,
        filter,
        accept,
        include: Include::read(call),
        head: Head::With,
        place: 0,
        pending: VecDeque::new(),
        finished: false,
        deadline: now + Duration::from_secs(seconds),
        bookmark: options.bookmarks.then(|| now + BOOKMARK),
        _counted: Counted::new(call.server.clone()),
    };
    watcher.begin(call, &options).await?;
    let frames = stream::unfold(watcher, |mut watcher| async move {
        let frame = watcher.next().await?;
        Some((frame, watcher))
    });
    Ok(answer(StatusCode::OK, accept.stream_type(), crate::body::stream(frames)))
}

/// The gauge of running watches.
struct Counted(Arc<ApiServer>);

impl Counted {
    fn new(server: Arc<ApiServer>) -> Self {
        server.metrics.watches.fetch_add(1, Ordering::Relaxed);
        Self(server)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.metrics.watches.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One running watch.
struct Watcher {
    server: Arc<ApiServer>,
    kind: Arc<Kind>,
    store: Arc<Store>,
    filter: Filter,
    accept: Accept,
    include: Include,
    head: Head,
    /// The next event in the ring.
    place: u64,
    /// Initial objects that have not been sent.
    pending: VecDeque<Initial>,
    finished: bool,
    deadline: Instant,
    bookmark: Option<Instant>,
    _counted: Counted,
}

enum Initial {
    Object(Arc<Entry>),
    /// The bookmark after all initial objects.
    End(i64),
    /// The resourceVersion has expired: said in the stream, as upstream says it.
    Expired(Status),
}

impl Watcher {
    /// Finds the place to start from, and what is sent before it.
    async fn begin(&mut self, call: &Call<'_>, options: &ListOptions) -> Result<(), Status> {
        let from = match (options.revision, options.send_initial_events) {
            (Some(revision), None | Some(false)) if revision > 0 => Some(revision),
            (None, Some(false)) => {
                self.place = {
                    wait(call, None).await?;
                    self.store.read().place_now()
                };
                return Ok(());
            }
            _ => None,
        };
        if let Some(revision) = from {
            self.resume(revision);
            return Ok(());
        }
        let now = wait(call, options.revision).await?;
        let (revision, found) = {
            let state = self.store.read();
            self.place = state.place_now();
            let all = state.range(&self.filter.namespace, "").cloned();
            (now.max(state.latest()), all.collect::<Vec<Arc<Entry>>>())
        };
        let found = convert::entries(call.server, &self.kind, found).await?;
        let filter = &self.filter;
        let seen = found.into_iter().filter(|entry| filter.matches(entry));
        self.pending = seen.map(Initial::Object).collect();
        if options.send_initial_events == Some(true) && options.bookmarks {
            self.pending.push_back(Initial::End(revision));
        }
        Ok(())
    }

    /// Goes on after a revision that the client has seen.
    fn resume(&mut self, revision: i64) {
        let state = self.store.read();
        match state.place_after(revision) {
            Some(place) => self.place = place,
            None => {
                let message = format!("too old resource version: {revision} ({})", state.floor);
                self.pending.push_back(Initial::Expired(Status::expired(message)));
                self.finished = true;
            }
        }
    }

    /// The next bytes to send; none at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frames) = self.initial() {
                return Some(frames);
            }
            if self.finished {
                return None;
            }
            let store = self.store.clone();
            let mut changed = std::pin::pin!(store.changed.notified());
            changed.as_mut().enable();
            let revision = self.server.storage.revision();
            let events = self.store.read().events(self.place, BATCH);
            let Some(events) = events else {
                self.finished = true;
                return Some(self.gone());
            };
            if !events.is_empty() {
                self.place += events.len() as u64;
                // On the heap: a watch that waits would keep the room that conversion takes.
                let events = match Box::pin(self.converted(events)).await {
                    Ok(events) => events,
                    Err(status) => {
                        self.finished = true;
                        return Some(self.tree_frame("ERROR", &status.to_value()));
                    }
                };
                match self.frames(&events) {
                    Some(frames) => return Some(frames),
                    None => continue,
                }
            }
            let bookmark = self.bookmark.unwrap_or(self.deadline);
            tokio::select! {
                () = changed => {}
                () = sleep_until(self.deadline) => return None,
                () = self.server.stop.cancelled() => return None,
                () = sleep_until(bookmark), if self.bookmark.is_some() => {
                    self.bookmark = Some(Instant::now() + BOOKMARK);
                    return Some(self.bookmark_frame(revision, false));
                }
            }
        }
    }

    /// Events with their objects in the version that is watched.
    async fn converted(&self, events: Vec<Arc<Event>>) -> Result<Vec<Arc<Event>>, Status> {
        if convert::converter(&self.kind).is_none() {
            return Ok(events);
        }
        let mut all = Vec::with_capacity(events.len());
        for event in events {
            let entry = convert::entry(&self.server, &self.kind, event.entry.clone()).await?;
            let previous = match event.previous.clone() {
                Some(previous) => Some(convert::entry(&self.server, &self.kind, previous).await?),
                None => None,
            };
            all.push(Arc::new(Event {
                revision: event.revision,
                entry,
                previous,
                deleted: event.deleted,
                frame: OnceLock::new(),
            }));
        }
        Ok(all)
    }

    fn initial(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        while out.len() < CHUNK {
            match self.pending.pop_front() {
                None => break,
                Some(Initial::Object(entry)) => {
                    out.extend_from_slice(&self.frame("ADDED", &entry));
                }
                Some(Initial::End(revision)) => {
                    out.extend_from_slice(&self.bookmark_frame(revision, true));
                }
                Some(Initial::Expired(status)) => {
                    out.extend_from_slice(&self.tree_frame("ERROR", &status.to_value()));
                }
            }
        }
        (!out.is_empty()).then(|| out.freeze())
    }

    /// The frames of those events that this watcher sees; none when it sees none.
    fn frames(&mut self, events: &[Arc<Event>]) -> Option<Bytes> {
        let mut first: Option<Bytes> = None;
        let mut joined: Option<BytesMut> = None;
        for event in events {
            let Some(frame) = self.event(event) else { continue };
            match (&mut first, &mut joined) {
                (None, _) => first = Some(frame),
                (Some(before), None) => {
                    let mut out = BytesMut::from(before.as_ref());
                    out.extend_from_slice(&frame);
                    joined = Some(out);
                }
                (_, Some(out)) => out.extend_from_slice(&frame),
            }
        }
        joined.map(BytesMut::freeze).or(first)
    }

    /// One event as this watcher's selectors see it.
    fn event(&mut self, event: &Event) -> Option<Bytes> {
        let before = event.previous.as_ref().filter(|entry| self.filter.matches(entry));
        let after = (!event.deleted && self.filter.matches(&event.entry)).then_some(&event.entry);
        match (before, after) {
            (None, None) => None,
            (None, Some(entry)) => {
                let plain = event.previous.is_none();
                Some(self.shared(plain.then_some(event), "ADDED", entry))
            }
            (Some(_), Some(entry)) => Some(self.shared(Some(event), "MODIFIED", entry)),
            (Some(_), None) if event.deleted => {
                Some(self.shared(Some(event), "DELETED", &event.entry))
            }
            (Some(previous), None) => {
                let last = previous.at_revision(event.revision);
                Some(self.frame("DELETED", &last))
            }
        }
    }

    /// A frame that other watchers may send too.
    fn shared(&mut self, event: Option<&Event>, what: &str, entry: &Entry) -> Bytes {
        let plain = self.accept == Accept::JSON && self.kind.sends_stored();
        match event {
            Some(event) if plain => event.frame.get_or_init(|| json_frame(what, entry)).clone(),
            _ => self.frame(what, entry),
        }
    }

    fn frame(&mut self, what: &str, entry: &Entry) -> Bytes {
        if self.accept == Accept::JSON && self.kind.sends_stored() {
            return json_frame(what, entry);
        }
        let tree = object::served(&self.kind, entry);
        let tree = match self.accept.shape {
            Shape::Whole => tree,
            Shape::Partial => partial(&self.kind, self.accept, &tree),
            Shape::Table => {
                let meta = json!({"resourceVersion": entry.revision.to_string()});
                let head = std::mem::replace(&mut self.head, Head::Without);
                let now = self.server.now();
                build(&self.kind, self.accept, self.include, meta, &[tree], head, now)
            }
        };
        self.tree_frame(what, &tree)
    }

    fn tree_frame(&self, what: &str, tree: &Value) -> Bytes {
        match self.accept.media {
            Media::Json => format!("{{\"type\":\"{what}\",\"object\":{tree}}}\n").into(),
            Media::Yaml => {
                let event = json!({"type": what, "object": tree});
                format!("{}---\n", object::to_yaml(&event)).into()
            }
            Media::Protobuf => object::protobuf_frame(what, tree).into(),
        }
    }

    fn bookmark_frame(&mut self, revision: i64, end: bool) -> Bytes {
        let mut meta = json!({"resourceVersion": revision.to_string()});
        if end {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let mut tree = object::empty(&self.kind, meta);
        match self.accept.shape {
            Shape::Whole => {}
            Shape::Partial => tree = partial(&self.kind, self.accept, &tree),
            Shape::Table => {
                let meta = json!({"resourceVersion": revision.to_string()});
                let head = std::mem::replace(&mut self.head, Head::Without);
                let now = self.server.now();
                tree = build(&self.kind, self.accept, self.include, meta, &[tree], head, now);
            }
        }
        self.tree_frame("BOOKMARK", &tree)
    }

    /// The watcher has fallen off the ring.
    fn gone(&self) -> Bytes {
        let status = Status::expired("The resourceVersion for the provided watch is too old.");
        self.tree_frame("ERROR", &status.to_value())
    }
}

fn json_frame(what: &str, entry: &Entry) -> Bytes {
    let mut out = BytesMut::with_capacity(entry.bytes.len() + 40);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(what.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(&entry.bytes);
    out.extend_from_slice(b"}\n");
    out.freeze()
}
