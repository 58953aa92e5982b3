//! The work queue: each key once, one key at a time, later, and later still after each failure.
//!
//! Invariant: a key that is being worked on is never handed out again before [`WorkQueue::done`];
//! a key added meanwhile is handed out once more afterwards.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap, HashSet, VecDeque},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

const BACKOFF_MIN: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_secs(1000);

/// A queue of keys. Cheap to clone; all clones are one queue.
pub struct WorkQueue<K> {
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

struct State<K> {
    ready: VecDeque<K>,
    dirty: HashSet<K>,
    working: HashSet<K>,
    delayed: BinaryHeap<Reverse<(Instant, K)>>,
    due: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
}

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        WorkQueue { shared: Arc::clone(&self.shared) }
    }
}

impl<K: Hash + Eq + Ord + Clone> Default for WorkQueue<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Hash + Eq + Ord + Clone> WorkQueue<K> {
    /// An empty queue.
    pub fn new() -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            working: HashSet::new(),
            delayed: BinaryHeap::new(),
            due: HashMap::new(),
            failures: HashMap::new(),
        };
        WorkQueue { shared: Arc::new(Shared { state: Mutex::new(state), wake: Notify::new() }) }
    }

    /// Wants this key worked on.
    pub fn add(&self, key: K) {
        if self.state().add(key) {
            self.shared.wake.notify_one();
        }
    }

    /// Wants this key worked on after a while; the earliest such wish counts.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        self.state().delay(key, Instant::now() + delay);
        self.shared.wake.notify_one();
    }

    /// Wants this key worked on after its back-off, which doubles with every call until
    /// [`WorkQueue::forget`].
    pub fn add_rate_limited(&self, key: K) {
        let delay = self.state().fail(&key);
        self.add_after(key, delay);
    }

    /// The key's last work went well: its back-off starts anew.
    pub fn forget(&self, key: &K) {
        self.state().failures.remove(key);
    }

    /// How often the key has failed in a row.
    pub fn failures(&self, key: &K) -> u32 {
        self.state().failures.get(key).copied().unwrap_or(0)
    }

    /// Waits for a key to work on. Cancel-safe.
    pub async fn next(&self) -> K {
        loop {
            let woken = self.shared.wake.notified();
            let next_due = {
                let mut state = self.state();
                state.promote(Instant::now());
                if let Some(key) = state.take() {
                    if !state.ready.is_empty() {
                        self.shared.wake.notify_one();
                    }
                    return key;
                }
                state.delayed.peek().map(|Reverse((at, _))| *at)
            };
            match next_due {
                Some(at) => {
                    let _ = tokio::time::timeout_at(at, woken).await;
                }
                None => woken.await,
            }
        }
    }

    /// The work on this key has ended.
    pub fn done(&self, key: &K) {
        if self.state().done(key) {
            self.shared.wake.notify_one();
        }
    }

    /// How many keys wait to be worked on now.
    pub fn len(&self) -> usize {
        self.state().ready.len()
    }

    /// Whether nothing waits to be worked on now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq + Ord + Clone> State<K> {
    /// Returns whether there is something new to take.
    fn add(&mut self, key: K) -> bool {
        if !self.dirty.insert(key.clone()) || self.working.contains(&key) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    fn take(&mut self) -> Option<K> {
        let key = self.ready.pop_front()?;
        self.dirty.remove(&key);
        self.working.insert(key.clone());
        Some(key)
    }

    fn done(&mut self, key: &K) -> bool {
        self.working.remove(key);
        let again = self.dirty.contains(key);
        if again {
            self.ready.push_back(key.clone());
        }
        again
    }

    fn delay(&mut self, key: K, at: Instant) {
        match self.due.get(&key) {
            Some(due) if *due <= at => {}
            _ => {
                self.due.insert(key.clone(), at);
                self.delayed.push(Reverse((at, key)));
            }
        }
    }

    /// Moves what is due to the ready keys.
    fn promote(&mut self, now: Instant) {
        let mut due = BTreeSet::new();
        while let Some(Reverse((at, _))) = self.delayed.peek()
            && *at <= now
        {
            let Some(Reverse((at, key))) = self.delayed.pop() else { break };
            if self.due.get(&key) == Some(&at) {
                self.due.remove(&key);
                due.insert(key);
            }
        }
        for key in due {
            self.add(key);
        }
    }

    fn fail(&mut self, key: &K) -> Duration {
        let failures = self.failures.entry(key.clone()).or_insert(0);
        let delay = BACKOFF_MIN.saturating_mul(1_u32 << (*failures).min(20)).min(BACKOFF_MAX);
        *failures += 1;
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(queue: &WorkQueue<u8>) -> MutexGuard<'_, State<u8>> {
        queue.state()
    }

    #[test]
    fn a_key_is_queued_once_and_worked_on_once_at_a_time() {
        let queue = WorkQueue::new();
        queue.add(1);
        queue.add(1);
        assert_eq!(state(&queue).take(), Some(1));
        assert_eq!(state(&queue).take(), None);
        queue.add(1);
        assert_eq!(state(&queue).take(), None, "still being worked on");
        queue.done(&1);
        assert_eq!(state(&queue).take(), Some(1));
        queue.done(&1);
        assert_eq!(state(&queue).take(), None);
    }

    #[test]
    fn back_off_doubles_from_5_ms_to_1000_s() {
        let queue = WorkQueue::new();
        let delays: Vec<_> = (0..20).map(|_| state(&queue).fail(&1).as_millis()).collect();
        assert_eq!(delays[..4], [5, 10, 20, 40]);
        assert_eq!(delays[19], 1_000_000);
        queue.forget(&1);
        assert_eq!(state(&queue).fail(&1).as_millis(), 5);
    }

    #[tokio::test]
    async fn the_earliest_delay_counts() {
        let queue = WorkQueue::new();
        let start = Instant::now();
        queue.add_after(1, Duration::from_millis(60));
        queue.add_after(1, Duration::from_millis(10));
        assert_eq!(queue.next().await, 1);
        assert!(start.elapsed() >= Duration::from_millis(10));
        queue.done(&1);
        queue.add_after(2, Duration::from_millis(100));
        assert_eq!(queue.next().await, 2, "the longer delay of key 1 was dropped");
    }
}
