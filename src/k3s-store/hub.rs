//! The newest changes in memory, and who watches them.
//!
//! Invariants: the ring holds every change from revision `oldest` on; a watcher that is in step
//! gets every change of its range exactly once, in order, in `pending`; a watcher that falls
//! behind loses its `pending` and reads the history from its `next` revision on instead.

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::sync::Arc;

use bytes::Bytes;
use etcd::mvccpb::EventType;
use tokio::sync::Notify;

use crate::apply::Change;
use crate::index::Id;
use crate::keys::KeyRange;

/// What the ring may hold: changes, and bytes of them.
const RING_CHANGES: usize = 16 << 10;
const RING_BYTES: usize = 4 << 20;
/// What may wait for one slow watcher before it has to read the history.
const PENDING_BYTES: usize = 2 << 20;

/// Names a watcher within the process.
pub(crate) type WatcherKey = u64;

pub(crate) struct Watcher {
    pub(crate) range: KeyRange,
    pub(crate) no_put: bool,
    pub(crate) no_delete: bool,
    pub(crate) prev_kv: bool,
    /// The first revision that was not handed out yet.
    pub(crate) next: i64,
    /// Wakes the stream that the watcher belongs to.
    pub(crate) wake: Arc<Notify>,
    pending: Vec<Arc<Change>>,
    pending_bytes: usize,
    in_step: bool,
}

/// What a stream can do for a watcher now.
pub(crate) enum Next {
    /// Nothing until it is woken: everything up to the hub's revision was handed out.
    Idle,
    /// Send these; they are all up to the hub's revision.
    Changes(Vec<Arc<Change>>),
    /// Read the history from the watcher's `next` revision to this one.
    History(i64),
    /// The revisions that it wants are gone.
    Unknown,
}

pub(crate) struct Hub {
    ring: VecDeque<Arc<Change>>,
    ring_bytes: usize,
    oldest: i64,
    /// The last committed revision.
    pub(crate) revision: i64,
    watchers: HashMap<WatcherKey, Watcher>,
    last_key: WatcherKey,
    with_prev: usize,
}

impl Watcher {
    pub(crate) fn new(range: KeyRange, next: i64, wake: Arc<Notify>) -> Self {
        Self {
            range,
            no_put: false,
            no_delete: false,
            prev_kv: false,
            next,
            wake,
            pending: Vec::new(),
            pending_bytes: 0,
            in_step: false,
        }
    }

    fn wants(&self, change: &Change) -> bool {
        change.id.revision() >= self.next
            && self.range.contains(&change.kv().key)
            && match change.event.r#type == EventType::Delete as i32 {
                true => !self.no_delete,
                false => !self.no_put,
            }
    }
}

impl Hub {
    pub(crate) fn new(revision: i64) -> Self {
        Self {
            ring: VecDeque::new(),
            ring_bytes: 0,
            oldest: revision + 1,
            revision,
            watchers: HashMap::new(),
            last_key: 0,
            with_prev: 0,
        }
    }

    /// Whether some watcher wants the pair before each change.
    pub(crate) fn wants_prev(&self) -> bool {
        self.with_prev > 0
    }

    pub(crate) fn add(&mut self, watcher: Watcher) -> WatcherKey {
        self.last_key += 1;
        self.with_prev += usize::from(watcher.prev_kv);
        self.watchers.insert(self.last_key, watcher);
        self.last_key
    }

    pub(crate) fn remove(&mut self, key: WatcherKey) {
        if let Some(watcher) = self.watchers.remove(&key) {
            self.with_prev -= usize::from(watcher.prev_kv);
        }
    }

    pub(crate) fn watcher(&self, key: WatcherKey) -> Option<&Watcher> {
        self.watchers.get(&key)
    }

    /// New changes were committed.
    pub(crate) fn publish(&mut self, changes: Vec<Arc<Change>>, revision: i64) {
        for watcher in self.watchers.values_mut().filter(|w| w.in_step) {
            let before = watcher.pending.len();
            for change in &changes {
                if watcher.wants(change) {
                    watcher.pending_bytes += size(change);
                    watcher.pending.push(change.clone());
                }
            }
            if watcher.pending.len() == before {
                continue;
            }
            if watcher.pending_bytes > PENDING_BYTES && before > 0 {
                watcher.next = watcher.next.max(watcher.pending[0].id.revision());
                watcher.in_step = false;
                watcher.pending = Vec::new();
                watcher.pending_bytes = 0;
            }
            watcher.wake.notify_one();
        }
        self.revision = revision;
        for change in changes {
            self.ring_bytes += size(&change);
            self.ring.push_back(change);
        }
        while self.ring_bytes > RING_BYTES || self.ring.len() > RING_CHANGES {
            let Some(gone) = self.ring.pop_front() else { break };
            self.ring_bytes -= size(&gone);
            self.oldest = self.oldest.max(gone.id.revision() + 1);
        }
    }

    /// The value of a recent change.
    pub(crate) fn value(&self, id: Id) -> Option<Bytes> {
        let at = self.ring.binary_search_by_key(&id, |change| change.id).ok()?;
        Some(self.ring[at].kv().value.clone())
    }

    /// Hands out what a watcher has to get next.
    pub(crate) fn take(&mut self, key: WatcherKey) -> Next {
        let (oldest, revision) = (self.oldest, self.revision);
        let Some(watcher) = self.watchers.get_mut(&key) else { return Next::Unknown };
        if !watcher.in_step {
            if watcher.next <= revision && watcher.next < oldest {
                return Next::History(revision);
            }
            let first = self.ring.partition_point(|c| c.id.revision() < watcher.next);
            watcher.pending =
                self.ring.range(first..).filter(|c| watcher.wants(c)).cloned().collect();
            watcher.in_step = true;
        }
        watcher.pending_bytes = 0;
        watcher.next = watcher.next.max(revision + 1);
        match mem::take(&mut watcher.pending) {
            pending if pending.is_empty() => Next::Idle,
            pending => Next::Changes(pending),
        }
    }

    /// The revision up to which all of these watchers got everything; `None` while some did not.
    pub(crate) fn in_step(&self, mut keys: impl Iterator<Item = WatcherKey>) -> Option<i64> {
        keys.all(|key| self.watchers.get(&key).is_none_or(|w| w.in_step && w.pending.is_empty()))
            .then_some(self.revision)
    }

    /// History up to before `next` was handed out.
    pub(crate) fn advance(&mut self, key: WatcherKey, next: i64) {
        if let Some(watcher) = self.watchers.get_mut(&key) {
            watcher.next = watcher.next.max(next);
        }
    }
}

fn size(change: &Change) -> usize {
    // The fixed part is what the structures around it take.
    let prev = change.event.prev_kv.as_ref().map_or(0, |prev| prev.value.len());
    change.kv().value.len() + prev + 256
}

#[cfg(test)]
mod tests {
    use super::*;
    use etcd::mvccpb::{Event, KeyValue};

    fn change(revision: i64, key: &'static str, value: usize) -> Arc<Change> {
        let kv = KeyValue {
            key: key.into(),
            mod_revision: revision,
            value: vec![0; value].into(),
            ..Default::default()
        };
        let event = Event { kv: Some(kv), ..Default::default() };
        Arc::new(Change { id: Id::first_of(revision), event, prev_known: true })
    }

    fn watch(hub: &mut Hub, key: &'static str, next: i64) -> WatcherKey {
        let range = KeyRange::new(&key.into(), &"".into());
        hub.add(Watcher::new(range, next, Arc::default()))
    }

    fn revisions(next: Next) -> Vec<i64> {
        match next {
            Next::Changes(changes) => changes.iter().map(|c| c.id.revision()).collect(),
            Next::Idle => vec![],
            Next::History(to) => vec![-to],
            Next::Unknown => panic!("watcher is unknown"),
        }
    }

    #[test]
    fn a_watcher_gets_its_changes_once_and_in_order() {
        let mut hub = Hub::new(10);
        hub.publish(vec![change(11, "a", 1), change(12, "b", 1)], 12);
        let from_ring = watch(&mut hub, "a", 11);
        let from_now = watch(&mut hub, "a", 13);
        let from_later = watch(&mut hub, "a", 14);
        let from_history = watch(&mut hub, "a", 5);
        let all = [from_ring, from_now, from_later, from_history];
        assert_eq!(all.map(|w| revisions(hub.take(w))), [vec![11], vec![], vec![], vec![-12]]);
        hub.publish(vec![change(13, "a", 1)], 13);
        hub.publish(vec![change(14, "a", 1)], 14);
        assert_eq!(revisions(hub.take(from_ring)), [13, 14]);
        assert_eq!(revisions(hub.take(from_now)), [13, 14]);
        assert_eq!(revisions(hub.take(from_later)), [14]);
        // History up to 12 was read from disk; the ring has the rest.
        hub.advance(from_history, 13);
        assert_eq!(revisions(hub.take(from_history)), [13, 14]);
        assert_eq!(revisions(hub.take(from_history)), []);
    }

    #[test]
    fn a_watcher_that_falls_behind_reads_again_from_where_it_was() {
        let mut hub = Hub::new(1);
        let slow = watch(&mut hub, "a", 2);
        assert_eq!(revisions(hub.take(slow)), []);
        for revision in 2..=9 {
            hub.publish(vec![change(revision, "a", 1 << 20)], revision);
        }
        // The ring has less than what was missed.
        assert_eq!(revisions(hub.take(slow)), [-9]);
        hub.advance(slow, 10);
        assert_eq!(revisions(hub.take(slow)), []);
        hub.publish(vec![change(10, "a", 1)], 10);
        assert_eq!(revisions(hub.take(slow)), [10]);
    }
}
