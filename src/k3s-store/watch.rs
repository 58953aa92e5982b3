//! One Watch stream: any number of watchers whose changes come from the hub, and from the
//! history while they catch up.
//!
//! Invariant: a progress notification with revision R is sent after every event up to R.

use std::collections::BTreeMap;
use std::sync::Arc;

use etcd::Status;
use etcd::etcdserverpb::{
    FilterType, WatchCreateRequest, WatchRequest, WatchRequestUnion, WatchResponse,
};
use etcd::mvccpb::{Event, EventType, KeyValue};
use etcd::server::{Receiver, Sender};
use etcd::status::STOPPED;
use prost::Message;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::apply::Change;
use crate::database::HistoryRow;
use crate::failure::Failure;
use crate::hub::{Next, Watcher, WatcherKey};
use crate::index::Id;
use crate::keys::KeyRange;
use crate::select::pair;
use crate::service::Store;
use crate::shared::{lock, read};

/// History that is read at once.
const CHUNK: usize = 1 << 20;
/// A fragment of a watcher that asked for them.
const FRAGMENT: usize = 3 << 19;
/// Watchers on one stream.
const WATCHERS_MAX: usize = 10_000;
/// For notifications that concern all watchers of the stream.
const ALL: i64 = -1;

pub(crate) struct WatchStream<'a> {
    store: &'a Store,
    responses: &'a mut Sender<WatchResponse>,
    watchers: BTreeMap<i64, Entry>,
    next_id: i64,
    wake: Arc<Notify>,
    /// Somebody waits for the answer to a progress request.
    progress_asked: bool,
    next_notify: Instant,
}

/// The stream's side of a watcher.
#[derive(Clone)]
struct Entry {
    key: WatcherKey,
    prev_kv: bool,
    fragment: bool,
    progress_notify: bool,
    /// Nothing was sent since the last time notifications were due.
    quiet: bool,
}

impl<'a> WatchStream<'a> {
    pub(crate) fn new(store: &'a Store, responses: &'a mut Sender<WatchResponse>) -> Self {
        Self {
            store,
            responses,
            watchers: BTreeMap::new(),
            next_id: 0,
            wake: Arc::default(),
            progress_asked: false,
            next_notify: Instant::now() + store.progress_interval,
        }
    }

    /// Until the client ends the stream, or the store stops.
    pub(crate) async fn run(mut self, mut requests: Receiver<WatchRequest>) -> Result<(), Status> {
        loop {
            self.deliver().await?;
            let notifies = self.watchers.values().any(|entry| entry.progress_notify);
            tokio::select! {
                biased;
                () = self.store.stop.cancelled() => return Err(STOPPED),
                request = requests.next() => match request? {
                    Some(WatchRequest { request_union: Some(request) }) => self.handle(request).await?,
                    Some(WatchRequest { request_union: None }) => {}
                    None => return Ok(()),
                },
                () = self.wake.notified() => {}
                () = tokio::time::sleep_until(self.next_notify), if notifies => self.notify().await?,
            }
        }
    }

    async fn handle(&mut self, request: WatchRequestUnion) -> Result<(), Status> {
        match request {
            WatchRequestUnion::Create(request) => self.create(request).await,
            WatchRequestUnion::Cancel(request) => self.cancel(request.watch_id).await,
            WatchRequestUnion::Progress(_) => {
                self.progress_asked = true;
                Ok(())
            }
        }
    }

    async fn create(&mut self, mut request: WatchCreateRequest) -> Result<(), Status> {
        if request.key.is_empty() {
            request.key = "\0".into();
        }
        let range = KeyRange::new(&request.key, &request.range_end);
        let refused = if range.is_empty() {
            Some("mvcc: watcher range is empty")
        } else if request.watch_id != 0 && self.watchers.contains_key(&request.watch_id) {
            Some("mvcc: duplicate watch ID provided on the WatchStream")
        } else if self.watchers.len() >= WATCHERS_MAX {
            Some("mvcc: too many watchers on the WatchStream")
        } else {
            None
        };
        let revision = lock(&self.store.shared.hub).revision;
        let header = self.store.shared.header(revision);
        if let Some(reason) = refused {
            let refusal = WatchResponse {
                header,
                watch_id: ALL,
                created: true,
                canceled: true,
                cancel_reason: reason.to_owned(),
                ..Default::default()
            };
            return self.responses.send(&refusal).await;
        }
        let watch_id = self.choose_id(request.watch_id);
        let created = WatchResponse { header, watch_id, created: true, ..Default::default() };
        self.responses.send(&created).await?;
        let start = match request.start_revision {
            ..=0 => revision + 1,
            start => start,
        };
        if start < read(&self.store.shared.state).compacted {
            return self.compacted(watch_id).await;
        }
        let has = |filter: FilterType| request.filters.contains(&(filter as i32));
        let mut watcher = Watcher::new(range, start, self.wake.clone());
        watcher.no_put = has(FilterType::NoPut);
        watcher.no_delete = has(FilterType::NoDelete);
        watcher.prev_kv = request.prev_kv;
        let entry = Entry {
            key: lock(&self.store.shared.hub).add(watcher),
            prev_kv: request.prev_kv,
            fragment: request.fragment,
            progress_notify: request.progress_notify,
            quiet: false,
        };
        self.watchers.insert(watch_id, entry);
        Ok(())
    }

    fn choose_id(&mut self, wanted: i64) -> i64 {
        if wanted != 0 {
            return wanted;
        }
        while self.watchers.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    async fn cancel(&mut self, watch_id: i64) -> Result<(), Status> {
        if !self.remove(watch_id) {
            return Ok(());
        }
        let header = self.store.shared.header(lock(&self.store.shared.hub).revision);
        let canceled = WatchResponse { header, watch_id, canceled: true, ..Default::default() };
        self.responses.send(&canceled).await
    }

    /// Ends a watcher whose next revision is gone.
    async fn compacted(&mut self, watch_id: i64) -> Result<(), Status> {
        self.remove(watch_id);
        let (revision, compact_revision) = {
            let state = read(&self.store.shared.state);
            (state.revision, state.compacted)
        };
        let header = self.store.shared.header(revision);
        let end = WatchResponse {
            header,
            watch_id,
            canceled: true,
            compact_revision,
            ..Default::default()
        };
        self.responses.send(&end).await
    }

    fn remove(&mut self, watch_id: i64) -> bool {
        let Some(entry) = self.watchers.remove(&watch_id) else { return false };
        lock(&self.store.shared.hub).remove(entry.key);
        true
    }

    /// Sends everything that is there to be sent.
    async fn deliver(&mut self) -> Result<(), Status> {
        loop {
            let ids: Vec<i64> = self.watchers.keys().copied().collect();
            let mut idle = true;
            for id in ids {
                idle &= self.step(id).await?;
            }
            if !idle {
                continue;
            }
            if !self.progress_asked {
                return Ok(());
            }
            let keys = self.watchers.values().map(|entry| entry.key);
            let Some(revision) = lock(&self.store.shared.hub).in_step(keys) else { continue };
            self.progress_asked = false;
            self.progress(ALL, revision).await?;
        }
    }

    /// Sends what one watcher has to get next; true when there was nothing.
    async fn step(&mut self, watch_id: i64) -> Result<bool, Status> {
        let Some(entry) = self.watchers.get(&watch_id).cloned() else { return Ok(true) };
        let (next, revision) = {
            let mut hub = lock(&self.store.shared.hub);
            (hub.take(entry.key), hub.revision)
        };
        match next {
            Next::Idle | Next::Unknown => Ok(true),
            Next::Changes(changes) => {
                let events = self.events(changes, entry.prev_kv).await?;
                self.send(watch_id, revision, events).await?;
                Ok(false)
            }
            Next::History(to) => {
                self.history(watch_id, entry, to).await?;
                Ok(false)
            }
        }
    }

    /// Reads one chunk of what the watcher has missed.
    async fn history(&mut self, watch_id: i64, entry: Entry, to: i64) -> Result<(), Status> {
        let shared = &self.store.shared;
        let wanted = lock(&shared.hub)
            .watcher(entry.key)
            .map(|w| (w.range.clone(), w.next, w.no_put, w.no_delete));
        let Some((range, from, no_put, no_delete)) = wanted else { return Ok(()) };
        let read_rows = move |reader: &crate::database::Reader| {
            reader.history(from, to, |key| range.contains(key), CHUNK)
        };
        let (rows, next) =
            shared.blocking(read_rows).await.map_err(|failure: Failure| failure.status())?;
        // Rows that compaction removed meanwhile would be a gap.
        if from < read(&shared.state).compacted {
            return self.compacted(watch_id).await;
        }
        let mut events = Vec::with_capacity(rows.len());
        let mut ids = Vec::new();
        for HistoryRow { key, version, value } in rows {
            if if version.is_deleted() { no_delete } else { no_put } {
                continue;
            }
            let kind = if version.is_deleted() { EventType::Delete } else { EventType::Put };
            ids.push(version.id);
            let kv = Some(pair(key, &version, value));
            events.push(Event { r#type: kind as i32, kv, prev_kv: None });
        }
        if entry.prev_kv {
            self.fill_prev(&mut events, &ids).await?;
        }
        lock(&self.store.shared.hub).advance(entry.key, next);
        if events.is_empty() {
            return Ok(());
        }
        self.send(watch_id, to, events).await
    }

    /// Changes as the watcher wants them.
    async fn events(&self, changes: Vec<Arc<Change>>, prev_kv: bool) -> Result<Vec<Event>, Status> {
        let mut events = Vec::with_capacity(changes.len());
        let mut unknown = Vec::new();
        for (at, change) in changes.iter().enumerate() {
            let mut event = change.event.clone();
            if !prev_kv {
                event.prev_kv = None;
            } else if !change.prev_known {
                unknown.push(at);
            }
            events.push(event);
        }
        if !unknown.is_empty() {
            // Only after a watcher with prev_kv came while there was none: rare, so one by one.
            for at in unknown {
                let ids = [changes[at].id];
                self.fill_prev(&mut events[at..=at], &ids).await?;
            }
        }
        Ok(events)
    }

    /// Adds the pairs before the changes, as far as they are not compacted.
    async fn fill_prev(&self, events: &mut [Event], ids: &[Id]) -> Result<(), Status> {
        let shared = &self.store.shared;
        for (event, id) in events.iter_mut().zip(ids) {
            let Some(key) = event.kv.as_ref().map(|kv| kv.key.clone()) else { continue };
            let before = read(&shared.state).index.before(&key, *id).copied();
            let Some(before) = before else { continue };
            match shared.values(vec![before.id]).await {
                Ok(mut values) => {
                    let prev: Option<KeyValue> = values.pop().map(|v| pair(key, &before, v));
                    event.prev_kv = prev;
                }
                Err(Failure::Gone) => {}
                Err(failure) => return Err(failure.status()),
            }
        }
        Ok(())
    }

    async fn send(
        &mut self,
        watch_id: i64,
        revision: i64,
        events: Vec<Event>,
    ) -> Result<(), Status> {
        let mut fragment = false;
        if let Some(entry) = self.watchers.get_mut(&watch_id) {
            entry.quiet = false;
            fragment = entry.fragment;
        }
        let header = self.store.shared.header(revision);
        let mut response = WatchResponse { header, watch_id, events, ..Default::default() };
        if !fragment || response.encoded_len() <= FRAGMENT {
            return self.responses.send(&response).await;
        }
        let mut rest = std::mem::take(&mut response.events).into_iter().peekable();
        while let Some(event) = rest.next() {
            let mut size = event.encoded_len();
            let mut part = WatchResponse { events: vec![event], ..response.clone() };
            while let Some(event) = rest.next_if(|event| size + event.encoded_len() <= FRAGMENT) {
                size += event.encoded_len();
                part.events.push(event);
            }
            part.fragment = rest.peek().is_some();
            self.responses.send(&part).await?;
        }
        Ok(())
    }

    /// The notifications that are due by time.
    async fn notify(&mut self) -> Result<(), Status> {
        self.next_notify = Instant::now() + self.store.progress_interval;
        let mut due = Vec::new();
        for (id, entry) in self.watchers.iter_mut().filter(|(_, entry)| entry.progress_notify) {
            if entry.quiet {
                due.push((*id, entry.key));
            }
            entry.quiet = true;
        }
        for (id, key) in due {
            let in_step = lock(&self.store.shared.hub).in_step([key].into_iter());
            if let Some(revision) = in_step {
                self.progress(id, revision).await?;
            }
        }
        Ok(())
    }

    async fn progress(&mut self, watch_id: i64, revision: i64) -> Result<(), Status> {
        let header = self.store.shared.header(revision);
        self.responses.send(&WatchResponse { header, watch_id, ..Default::default() }).await
    }
}

impl Drop for WatchStream<'_> {
    fn drop(&mut self) {
        let mut hub = lock(&self.store.shared.hub);
        for entry in self.watchers.values() {
            hub.remove(entry.key);
        }
    }
}
