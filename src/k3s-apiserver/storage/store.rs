//! The watch cache of one resource: all its objects and its latest events.
//!
//! Filled by `storage::feed` alone. Watchers keep a place in the ring and no queue; one that falls
//! off the ring is told that its version expired. Invariant: `ring` holds every event of this
//! resource after `floor`, in order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use tokio::sync::Notify;

use super::entry::Entry;
use crate::registry::Selectable;

/// Events that one resource keeps for resuming watchers, and the bytes they may hold on to.
const RING_EVENTS_MAX: usize = 8192;
const RING_BYTES_MAX: usize = 16 << 20;
const RING_EVENTS_MIN: usize = 256;

/// What happened to one object.
#[derive(Debug)]
pub struct Event {
    pub revision: i64,
    /// The object after the event; for a deletion its last state, with the revision of the deletion.
    pub entry: Arc<Entry>,
    /// The object before.
    pub previous: Option<Arc<Entry>>,
    pub deleted: bool,
    /// The watch frame that most watchers get, made by the first of them.
    pub frame: OnceLock<Bytes>,
}

/// What is where, for one resource.
#[derive(Debug)]
pub struct Store {
    /// `deployments.apps`
    pub resource: String,
    /// `/registry/deployments/`
    pub prefix: String,
    pub selectable: &'static [Selectable],
    state: RwLock<State>,
    /// Rung after every change.
    pub changed: Notify,
}

/// The objects and the ring.
#[derive(Debug, Default)]
pub struct State {
    pub items: BTreeMap<Arc<str>, Arc<Entry>>,
    ring: VecDeque<Arc<Event>>,
    /// The sequence number of the ring's first event.
    first: u64,
    /// Events up to this revision are not in the ring.
    pub floor: i64,
    ring_bytes: usize,
}

impl Event {
    /// Bytes that it keeps in memory: the object's and, once somebody watches, the frame's.
    fn size(&self) -> usize {
        2 * self.entry.bytes.len()
    }
}

impl Store {
    pub fn new(resource: &str, prefix: String) -> Self {
        Self {
            resource: resource.to_owned(),
            prefix,
            selectable: &[],
            state: RwLock::default(),
            changed: Notify::new(),
        }
    }

    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// One object by `namespace/name`.
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.read().items.get(key).cloned()
    }

    /// All objects of a namespace (all namespaces when empty), in key order.
    pub fn list(&self, namespace: &str) -> Vec<Arc<Entry>> {
        self.read().range(namespace, "").cloned().collect()
    }
}

impl State {
    /// The objects of a namespace from a key on (empty: from the start), in key order.
    pub fn range(&self, namespace: &str, from: &str) -> impl Iterator<Item = &Arc<Entry>> {
        let prefix = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
        let start: Arc<str> = if from > prefix.as_str() { from } else { prefix.as_str() }.into();
        self.items
            .range(start..)
            .take_while(move |(key, _)| key.starts_with(&prefix))
            .map(|(_, entry)| entry)
    }

    /// Adds or replaces an object and remembers the event.
    pub(super) fn put(&mut self, entry: Arc<Entry>) {
        let previous = self.items.insert(entry.key.clone(), entry.clone());
        self.push(Event {
            revision: entry.revision,
            entry,
            previous,
            deleted: false,
            frame: OnceLock::new(),
        });
    }

    /// Removes an object; `last` is its last state with the revision of the deletion spliced in.
    pub(super) fn remove(&mut self, last: Arc<Entry>) {
        let previous = self.items.remove(&last.key);
        self.push(Event {
            revision: last.revision,
            entry: last,
            previous,
            deleted: true,
            frame: OnceLock::new(),
        });
    }

    fn push(&mut self, event: Event) {
        self.ring_bytes += event.size();
        self.ring.push_back(Arc::new(event));
        while self.ring.len() > RING_EVENTS_MIN
            && (self.ring.len() > RING_EVENTS_MAX || self.ring_bytes > RING_BYTES_MAX)
        {
            let Some(old) = self.ring.pop_front() else { break };
            self.ring_bytes -= old.size();
            self.first += 1;
            self.floor = old.revision;
        }
    }

    /// Forgets all events: watchers start over.
    pub(super) fn reset(&mut self, items: BTreeMap<Arc<str>, Arc<Entry>>, revision: i64) {
        self.first += self.ring.len() as u64 + 1;
        self.ring.clear();
        self.ring_bytes = 0;
        self.items = items;
        self.floor = revision;
    }

    /// The revision of the newest event.
    pub fn latest(&self) -> i64 {
        self.ring.back().map_or(self.floor, |event| event.revision)
    }

    /// The place in the ring of the first event after `revision`; none when it has expired.
    pub fn place_after(&self, revision: i64) -> Option<u64> {
        if revision < self.floor {
            return None;
        }
        let skip = self.ring.partition_point(|event| event.revision <= revision);
        Some(self.first + skip as u64)
    }

    /// The place after the last event.
    pub fn place_now(&self) -> u64 {
        self.first + self.ring.len() as u64
    }

    /// Up to `max` events from a place on; none when the place has fallen off the ring.
    pub fn events(&self, place: u64, max: usize) -> Option<Vec<Arc<Event>>> {
        let skip = usize::try_from(place.checked_sub(self.first)?).ok()?;
        if skip > self.ring.len() {
            return None;
        }
        Some(self.ring.iter().skip(skip).take(max).cloned().collect())
    }

    /// The events after `revision`, newest first; none when they have expired.
    pub fn undo(&self, revision: i64) -> Option<impl Iterator<Item = &Arc<Event>>> {
        if revision < self.floor {
            return None;
        }
        Some(self.ring.iter().rev().take_while(move |event| event.revision > revision))
    }
}
