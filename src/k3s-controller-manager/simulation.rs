//! A cluster in memory to try plans in, for tests: pods with a kubelet that makes them ready or lets
//! them end, a cache that lags behind, conflicts and crashes, all by seed.
//!
//! Invariant: as in the controllers, a write's answer is in the cache at once; everything else
//! arrives late and in any order. A crash loses the cache, and the next one is fresh.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use client::Time;
use jiff::Timestamp;

use crate::types::{Condition, core::Pod};

/// Numbers that follow from a seed (xorshift).
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below the limit.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }

    pub(crate) fn one_in(&mut self, chance: u64) -> bool {
        self.below(chance) == 0
    }
}

/// What the kubelet does with running pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    /// They become ready and stay.
    Never,
    /// They succeed, or fail once in so many.
    FailOneIn(u64),
}

/// The pods as they are, and as the controller knows them.
pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) now: Timestamp,
    ends: Ends,
    pods: BTreeMap<String, Pod>,
    cache: BTreeMap<String, Pod>,
    version: u64,
    made: u64,
    pub(crate) succeeded: BTreeSet<String>,
}

impl World {
    pub(crate) fn new(seed: u64, ends: Ends) -> Self {
        World {
            rng: Rng::new(seed),
            now: Timestamp::from_second(1_000_000).unwrap(),
            ends,
            pods: BTreeMap::new(),
            cache: BTreeMap::new(),
            version: 0,
            made: 0,
            succeeded: BTreeSet::new(),
        }
    }

    /// The pods as they are.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// The pods as the controller knows them.
    pub(crate) fn cached(&self) -> Vec<Arc<Pod>> {
        self.cache.values().cloned().map(Arc::new).collect()
    }

    pub(crate) fn made(&self) -> u64 {
        self.made
    }

    /// Makes a pod; one of its name, where it has one, must not be there.
    pub(crate) fn create(&mut self, mut pod: Pod) {
        let name = &pod.metadata.name;
        assert!(name.is_empty() || !self.pods.values().any(|it| it.metadata.name == *name));
        self.made += 1;
        pod.metadata.uid = format!("{:06}", self.made);
        pod.metadata.creation_timestamp = Some(Time(self.now));
        pod.status.phase = "Pending".into();
        self.store(pod, true);
    }

    pub(crate) fn delete(&mut self, uid: &str) {
        let Some(pod) = self.pods.get(uid) else {
            self.cache.remove(uid);
            return;
        };
        let mut pod = pod.clone();
        pod.metadata.deletion_timestamp.get_or_insert(Time(self.now));
        self.store(pod, true);
        self.collect(uid, true);
    }

    /// Takes the finalizers away; `false` when the controller's view of the pod was old.
    pub(crate) fn release(&mut self, uid: &str) -> bool {
        let Some(pod) = self.pods.get(uid) else {
            self.cache.remove(uid);
            return true;
        };
        let known = self.cache.get(uid).map(|it| it.metadata.resource_version.clone());
        if known.as_ref() != Some(&pod.metadata.resource_version) {
            return false;
        }
        let mut pod = pod.clone();
        pod.metadata.finalizers.clear();
        self.store(pod, true);
        self.collect(uid, true);
        true
    }

    /// One thing happens on some node, unseen by the controller for now.
    pub(crate) fn kubelet(&mut self) {
        let uids: Vec<String> = self.pods.keys().cloned().collect();
        if uids.is_empty() {
            return;
        }
        let at = usize::try_from(self.rng.below(uids.len() as u64)).unwrap();
        let uid = uids.into_iter().nth(at).unwrap();
        let mut pod = self.pods[&uid].clone();
        let deleting = pod.metadata.is_deleting();
        match (pod.status.phase.as_str(), self.ends) {
            ("Succeeded" | "Failed", _) if deleting => {}
            ("Succeeded" | "Failed", _) => return,
            _ if deleting => pod.status.phase = "Failed".into(),
            ("Pending", _) => pod.status.phase = "Running".into(),
            (_, Ends::Never) => {
                let mut ready = Condition::new("Ready", "True", "", "");
                ready.last_transition_time = Some(Time(self.now));
                pod.status.conditions = vec![ready];
            }
            (_, Ends::FailOneIn(chance)) if self.rng.one_in(chance) => {
                pod.status.phase = "Failed".into();
            }
            (_, Ends::FailOneIn(_)) => {
                pod.status.phase = "Succeeded".into();
                self.succeeded.insert(uid.clone());
            }
        }
        self.store(pod, false);
        self.collect(&uid, false);
    }

    /// The controller learns the present state of one pod.
    pub(crate) fn deliver(&mut self) {
        let all: BTreeSet<String> = self.pods.keys().chain(self.cache.keys()).cloned().collect();
        let at = usize::try_from(self.rng.below(all.len() as u64)).unwrap();
        let Some(uid) = all.into_iter().nth(at) else { return };
        match self.pods.get(&uid) {
            Some(pod) => drop(self.cache.insert(uid, pod.clone())),
            None => drop(self.cache.remove(&uid)),
        }
    }

    /// The controller's process dies and another begins.
    pub(crate) fn crash(&mut self) {
        self.cache.clone_from(&self.pods);
    }

    fn store(&mut self, mut pod: Pod, own: bool) {
        self.version += 1;
        pod.metadata.resource_version = self.version.to_string();
        if own {
            self.cache.insert(pod.metadata.uid.clone(), pod.clone());
        }
        self.pods.insert(pod.metadata.uid.clone(), pod);
    }

    /// What is deleted, has ended and is held by nobody is gone.
    fn collect(&mut self, uid: &str, own: bool) {
        let gone = self.pods.get(uid).is_some_and(|pod| {
            let ended = pod.is_finished() || pod.status.phase == "Pending";
            pod.metadata.is_deleting() && pod.metadata.finalizers.is_empty() && ended
        });
        if gone {
            self.pods.remove(uid);
            if own {
                self.cache.remove(uid);
            }
        }
    }
}
