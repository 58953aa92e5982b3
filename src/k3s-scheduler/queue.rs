//! Pods that wait for a node: ready to be tried, backing off, or unschedulable until something
//! changes that could help.
//!
//! Invariant: a pod is in at most one of the three; time is given, never read.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use client::Key;
use tokio::time::Instant;

use crate::{
    hints::{Change, helps},
    index::Namespaces,
    types::Pod,
};

/// How long pods wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waits {
    /// After a first failed attempt; doubled after each further one.
    pub(crate) backoff_initial: Duration,
    pub(crate) backoff_max: Duration,
    /// An unschedulable pod is tried again after this long even if no event spoke for it.
    pub(crate) unschedulable_max: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Waits {
            backoff_initial: Duration::from_secs(1),
            backoff_max: Duration::from_secs(10),
            unschedulable_max: Duration::from_secs(300),
        }
    }
}

impl Waits {
    fn backoff(&self, attempts: u32) -> Duration {
        let doubled = 1 << attempts.saturating_sub(1).min(20);
        self.backoff_initial.saturating_mul(doubled).min(self.backoff_max)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Place {
    Active,
    Backoff,
    Unschedulable,
    /// Handed out.
    InFlight,
}

struct Entry {
    pod: Arc<Pod>,
    attempts: u32,
    rejected_by: BTreeSet<&'static str>,
    since: Instant,
    place: Place,
    /// A change came while the pod was being tried.
    moved: bool,
}

/// The queue of pods without a node.
#[derive(Default)]
pub(crate) struct Queue {
    waits: Waits,
    entries: HashMap<Key, Entry>,
    /// Those that an event may bring back: unschedulable or handed out.
    attentive: HashSet<Key>,
    active: BTreeMap<(Reverse<i32>, Instant, Key), ()>,
    backoff: BinaryHeap<Reverse<(Instant, Key)>>,
}

impl Queue {
    pub(crate) fn new(waits: Waits) -> Self {
        Queue { waits, ..Queue::default() }
    }

    /// A pod that wants a node, new or changed.
    pub(crate) fn upsert(&mut self, pod: &Arc<Pod>, now: Instant) {
        let key = pod.metadata.key();
        let known = self.entries.get_mut(&key);
        if let Some(entry) = known
            && entry.pod.metadata.uid == pod.metadata.uid
        {
            let relevant = entry.pod.metadata.generation != pod.metadata.generation
                || entry.pod.metadata.labels != pod.metadata.labels;
            let old = Arc::clone(&entry.pod);
            entry.pod = Arc::clone(pod);
            match entry.place {
                Place::Active if old.priority() != pod.priority() => {
                    let since = entry.since;
                    self.active.remove(&(Reverse(old.priority()), since, key.clone()));
                    self.active.insert((Reverse(pod.priority()), since, key), ());
                }
                Place::Unschedulable if relevant => self.activate(&key, now),
                Place::InFlight if relevant => entry.moved = true,
                _ => {}
            }
            return;
        }
        self.remove(&key);
        let entry = Entry {
            pod: Arc::clone(pod),
            attempts: 0,
            rejected_by: BTreeSet::new(),
            since: now,
            place: Place::Active,
            moved: false,
        };
        self.active.insert((Reverse(pod.priority()), now, key.clone()), ());
        self.entries.insert(key, entry);
    }

    /// A pod that no longer wants a node.
    pub(crate) fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.attentive.remove(key);
            self.active.remove(&(Reverse(entry.pod.priority()), entry.since, key.clone()));
        }
    }

    /// The next pod to try.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Arc<Pod>> {
        self.promote(now);
        let ((_, _, key), ()) = self.active.pop_first()?;
        let entry = self.entries.get_mut(&key)?;
        entry.place = Place::InFlight;
        entry.attempts += 1;
        entry.moved = false;
        let pod = Arc::clone(&entry.pod);
        self.attentive.insert(key);
        Some(pod)
    }

    /// The pod could not be placed.
    pub(crate) fn unschedulable(
        &mut self,
        key: &Key,
        rejected_by: BTreeSet<&'static str>,
        now: Instant,
    ) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.rejected_by = rejected_by;
        entry.since = now;
        if entry.moved {
            self.back_off(key);
        } else {
            entry.place = Place::Unschedulable;
            // The far end of waiting, in the same heap as back-off.
            self.backoff.push(Reverse((now + self.waits.unschedulable_max, key.clone())));
            self.attentive.insert(key.clone());
        }
    }

    /// The attempt failed for a reason that has nothing to do with the cluster's state.
    pub(crate) fn failed(&mut self, key: &Key, now: Instant) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.since = now;
            self.back_off(key);
        }
    }

    /// Something changed: what it may help is tried again, after its back-off.
    pub(crate) fn changed(&mut self, change: &Change, namespaces: &Namespaces, now: Instant) {
        let mut helped = Vec::new();
        for key in &self.attentive {
            let Some(entry) = self.entries.get_mut(key) else { continue };
            let mut rejected_by = entry.rejected_by.iter();
            let may = entry.rejected_by.is_empty()
                || rejected_by.any(|plugin| helps(plugin, change, &entry.pod, namespaces));
            match entry.place {
                Place::Unschedulable if may => helped.push(key.clone()),
                Place::InFlight => entry.moved = true,
                _ => {}
            }
        }
        for key in helped {
            self.activate(&key, now);
        }
    }

    /// When the next pod comes out of back-off.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.backoff.peek().map(|Reverse((at, _))| *at)
    }

    /// How many pods wait: to be tried, backing off, unschedulable.
    pub(crate) fn lengths(&self) -> (usize, usize, usize) {
        let count = |place| self.entries.values().filter(|it| it.place == place).count();
        (self.active.len(), count(Place::Backoff), count(Place::Unschedulable))
    }

    fn activate(&mut self, key: &Key, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.since + self.waits.backoff(entry.attempts) > now {
            self.back_off(key);
            return;
        }
        entry.place = Place::Active;
        self.attentive.remove(key);
        self.active.insert((Reverse(entry.pod.priority()), entry.since, key.clone()), ());
    }

    fn back_off(&mut self, key: &Key) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.place = Place::Backoff;
        self.attentive.remove(key);
        let due = entry.since + self.waits.backoff(entry.attempts);
        self.backoff.push(Reverse((due, key.clone())));
    }

    /// Moves what has waited long enough. An entry of the heap may be out of date.
    fn promote(&mut self, now: Instant) {
        while let Some(Reverse((at, _))) = self.backoff.peek()
            && *at <= now
        {
            let Some(Reverse((_, key))) = self.backoff.pop() else { return };
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            let due = match entry.place {
                Place::Backoff => entry.since + self.waits.backoff(entry.attempts) <= now,
                Place::Unschedulable => entry.since + self.waits.unschedulable_max <= now,
                _ => false,
            };
            if due {
                entry.place = Place::Active;
                self.attentive.remove(&key);
                self.active.insert((Reverse(entry.pod.priority()), entry.since, key), ());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::FIT;

    fn changed(queue: &mut Queue, change: Change, now: Instant) {
        queue.changed(&change, &Namespaces::new(), now);
    }

    fn gone() -> Change {
        Change::PodGone(pod("gone", 0))
    }

    fn pod(name: &str, priority: i32) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.name = name.into();
        pod.metadata.uid = name.into();
        pod.spec.priority = Some(priority);
        Arc::new(pod)
    }

    fn name(pod: Option<Arc<Pod>>) -> Option<String> {
        pod.map(|pod| pod.metadata.name.clone())
    }

    #[test]
    fn higher_priority_then_longer_wait_goes_first() {
        let start = Instant::now();
        let mut queue = Queue::default();
        queue.upsert(&pod("old", 0), start);
        queue.upsert(&pod("new", 0), start + Duration::from_secs(1));
        queue.upsert(&pod("high", 5), start + Duration::from_secs(2));
        let order: Vec<_> = std::iter::from_fn(|| name(queue.pop(start))).collect();
        assert_eq!(order, ["high", "old", "new"]);
    }

    #[test]
    fn only_a_change_that_can_help_brings_a_pod_back_and_back_off_doubles() {
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let mut queue = Queue::default();
        queue.upsert(&pod("a", 0), start);
        let key = pod("a", 0).metadata.key();
        assert!(queue.pop(start).is_some());
        queue.unschedulable(&key, [FIT].into(), start);
        changed(&mut queue, Change::PodPlaced(pod("x", 0)), later(5));
        assert!(queue.pop(later(5)).is_none(), "a pod more does not make room");
        changed(&mut queue, gone(), later(5));
        assert!(queue.pop(later(5)).is_some());
        queue.unschedulable(&key, [FIT].into(), later(5));
        changed(&mut queue, gone(), later(6));
        assert!(queue.pop(later(6)).is_none(), "two seconds after the second attempt");
        assert_eq!(name(queue.pop(later(7))).as_deref(), Some("a"));
        queue.unschedulable(&key, [FIT].into(), later(7));
        assert!(queue.pop(later(306)).is_none());
        assert!(queue.pop(later(308)).is_some(), "tried again in the end");
    }

    #[test]
    fn a_change_during_the_attempt_is_not_lost() {
        let start = Instant::now();
        let mut queue = Queue::default();
        queue.upsert(&pod("a", 0), start);
        assert!(queue.pop(start).is_some());
        changed(&mut queue, gone(), start);
        queue.unschedulable(&pod("a", 0).metadata.key(), BTreeSet::new(), start);
        assert!(queue.pop(start + Duration::from_secs(1)).is_some());
    }
}
