//! Leases: which exist, until when, and what hangs on them. Time is given by the caller.
//!
//! Keep-alives change only this memory. After a restart every lease has its whole time to live
//! again, as with a new leader of an etcd cluster: keys live longer, never shorter.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

/// Shorter leases are lengthened, as etcd does to outlive an election.
const TTL_MIN: i64 = 2;
/// etcd's bound.
pub(crate) const TTL_MAX: i64 = 9_000_000_000;

#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) id: i64,
    pub(crate) ttl: i64,
    expires: Instant,
    pub(crate) keys: HashSet<Bytes>,
}

impl Lease {
    pub(crate) fn new(id: i64, ttl: i64, now: Instant) -> Self {
        let ttl = ttl.max(TTL_MIN);
        Self { id, ttl, expires: now + seconds(ttl), keys: HashSet::new() }
    }

    pub(crate) fn remaining(&self, now: Instant) -> i64 {
        i64::try_from(self.expires.saturating_duration_since(now).as_secs()).unwrap_or(i64::MAX)
    }
}

#[derive(Default)]
pub(crate) struct Lessor {
    leases: HashMap<i64, Lease>,
    by_expiry: BTreeSet<(Instant, i64)>,
}

impl Lessor {
    pub(crate) fn get(&self, id: i64) -> Option<&Lease> {
        self.leases.get(&id)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = i64> {
        self.leases.keys().copied()
    }

    pub(crate) fn insert(&mut self, lease: Lease) {
        self.by_expiry.insert((lease.expires, lease.id));
        self.leases.insert(lease.id, lease);
    }

    pub(crate) fn remove(&mut self, id: i64) -> Option<Lease> {
        let lease = self.leases.remove(&id)?;
        self.by_expiry.remove(&(lease.expires, id));
        Some(lease)
    }

    /// The granted time again; `None` when the lease is gone.
    pub(crate) fn keep_alive(&mut self, id: i64, now: Instant) -> Option<i64> {
        let lease = self.leases.get_mut(&id)?;
        self.by_expiry.remove(&(lease.expires, id));
        lease.expires = now + seconds(lease.ttl);
        self.by_expiry.insert((lease.expires, id));
        Some(lease.ttl)
    }

    /// Moves a key from one lease to another; 0 is none.
    pub(crate) fn attach(&mut self, key: &Bytes, from: i64, to: i64) {
        if from == to {
            return;
        }
        if let Some(lease) = self.leases.get_mut(&from) {
            lease.keys.remove(key);
        }
        if let Some(lease) = self.leases.get_mut(&to) {
            lease.keys.insert(key.clone());
        }
    }

    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.by_expiry.first().map(|(at, _)| *at)
    }

    /// Up to `limit` leases whose time is over.
    pub(crate) fn expired(&self, now: Instant, limit: usize) -> Vec<i64> {
        self.by_expiry
            .iter()
            .take_while(|(at, _)| *at <= now)
            .take(limit)
            .map(|(_, id)| *id)
            .collect()
    }

    pub(crate) fn is_expired(&self, id: i64, now: Instant) -> bool {
        self.leases.get(&id).is_some_and(|lease| lease.expires <= now)
    }
}

fn seconds(ttl: i64) -> Duration {
    // The bound keeps the addition to an instant from overflowing.
    Duration::from_secs(u64::try_from(ttl.min(TTL_MAX)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_lives_until_nobody_keeps_it_alive() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut lessor = Lessor::default();
        lessor.insert(Lease::new(1, 10, start));
        lessor.insert(Lease::new(2, 1, start));
        assert_eq!(lessor.get(2).unwrap().ttl, TTL_MIN);
        assert_eq!(lessor.next_expiry(), Some(at(2)));
        assert_eq!(lessor.expired(at(1), 9), []);
        assert_eq!(lessor.expired(at(20), 9), [2, 1]);
        assert_eq!(lessor.keep_alive(2, at(9)), Some(2));
        assert_eq!(lessor.expired(at(10), 9), [1]);
        assert_eq!(lessor.remove(1).map(|l| l.id), Some(1));
        assert_eq!(lessor.keep_alive(1, at(10)), None);
        assert_eq!(lessor.next_expiry(), Some(at(11)));
    }

    #[test]
    fn a_key_hangs_on_its_latest_lease() {
        let mut lessor = Lessor::default();
        lessor.insert(Lease::new(1, 10, Instant::now()));
        lessor.insert(Lease::new(2, 10, Instant::now()));
        let key = Bytes::from("k");
        for (from, to, expected) in [(0, 1, [1, 0]), (1, 2, [0, 1]), (2, 2, [0, 1]), (2, 0, [0, 0])]
        {
            lessor.attach(&key, from, to);
            assert_eq!([1, 2].map(|id| lessor.get(id).unwrap().keys.len()), expected);
        }
    }
}
