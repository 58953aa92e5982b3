//! Deployments with their ReplicaSets in a cluster where everything goes wrong: never more pods than
//! surge allows, never fewer available than promised.

use std::sync::Arc;

use super::{
    Sets,
    plan::{max_surge, max_unavailable, new_replicas, replicas, rolling},
};
use crate::{
    controllers::replicaset::{self, Step},
    simulation::{Ends, World},
    types::{
        apps::{Deployment, ReplicaSet},
        core::Pod,
    },
};

const SET: &str = "set";

struct Run {
    world: World,
    deployment: Deployment,
    /// As the server has them; the last is that of the current template.
    sets: Vec<ReplicaSet>,
    /// As the Deployment's controller knows them: its own writes at once, statuses late.
    cached: Vec<ReplicaSet>,
}

impl Run {
    fn pods_of(&self, set: usize) -> Vec<Arc<Pod>> {
        let name = set.to_string();
        let of = |pod: &Arc<Pod>| pod.metadata.labels[SET] == name && pod.is_active();
        self.world.cached().into_iter().filter(of).collect()
    }

    /// The ReplicaSet's controller works on one of them.
    fn replicate(&mut self) {
        let at = usize::try_from(self.world.rng.below(self.sets.len() as u64)).unwrap();
        let crash = self.world.rng.one_in(4);
        let pods = self.pods_of(at);
        match replicaset::plan(self.sets[at].replicas(), &pods, &pods, client::now()) {
            Step::Nothing => {}
            Step::Create(count) => {
                for _ in 0..count {
                    if crash && self.world.rng.one_in(3) {
                        return self.world.crash();
                    }
                    let mut pod = Pod::default();
                    pod.metadata.labels.insert(SET.into(), at.to_string());
                    self.world.create(pod);
                }
            }
            Step::Delete(pods) => {
                for pod in pods {
                    if crash && self.world.rng.one_in(3) {
                        return self.world.crash();
                    }
                    self.world.delete(&pod.metadata.uid);
                }
            }
        }
        let ready = self.pods_of(at).iter().filter(|it| it.is_ready()).count();
        self.sets[at].status.available_replicas = i32::try_from(ready).unwrap();
    }

    /// The Deployment's controller takes one step.
    fn roll(&mut self) {
        let mut all: Vec<Arc<ReplicaSet>> = self.cached.iter().cloned().map(Arc::new).collect();
        let new = all.pop();
        for scale in rolling(&self.deployment, &Sets { new, old: all }) {
            let name = &scale.set.metadata.name;
            let at = self.sets.iter().position(|it| it.metadata.name == *name).unwrap();
            self.sets[at].spec.replicas = Some(scale.to);
            self.cached[at].spec.replicas = Some(scale.to);
            if self.world.rng.one_in(5) {
                return;
            }
        }
    }

    /// A new template: its ReplicaSet begins as large as surge allows.
    fn update(&mut self) {
        let sets = Sets { new: None, old: self.cached.iter().cloned().map(Arc::new).collect() };
        let mut set = ReplicaSet::default();
        set.metadata.name = format!("set-{}", self.sets.len());
        set.spec.replicas = Some(new_replicas(&self.deployment, &sets));
        self.sets.push(set.clone());
        self.cached.push(set);
    }

    fn check(&self, seed: u64, settled: bool) {
        let d = &self.deployment;
        let sum: i32 = self.sets.iter().map(ReplicaSet::replicas).sum();
        assert!(sum <= replicas(d) + max_surge(d), "seed {seed}: {sum} wanted");
        let up = self.world.pods().filter(|it| it.is_active() && it.is_ready()).count();
        let least = usize::try_from(replicas(d) - max_unavailable(d)).unwrap();
        assert!(!settled || up >= least, "seed {seed}: only {up} are available");
    }
}

fn run(seed: u64, surge: u8, unavailable: u8) {
    let text = format!(
        r#"{{"spec":{{"replicas":6,"strategy":{{"type":"RollingUpdate","rollingUpdate":
        {{"maxSurge":{surge},"maxUnavailable":{unavailable}}}}}}}}}"#
    );
    let mut run = Run {
        world: World::new(seed, Ends::Never),
        deployment: serde_json::from_str(&text).unwrap(),
        sets: Vec::new(),
        cached: Vec::new(),
    };
    for round in 0..3 {
        run.update();
        let newest = round.to_string();
        let mut steps = 0;
        loop {
            let done = run
                .world
                .pods()
                .filter(|it| it.is_active() && it.is_ready() && it.metadata.labels[SET] == newest)
                .count();
            if done == 6 && run.world.pods().count() == 6 {
                break;
            }
            steps += 1;
            assert!(steps < 50_000, "seed {seed}: round {round} never ended");
            match run.world.rng.below(12) {
                0..=2 => run.world.kubelet(),
                3..=5 => run.world.deliver(),
                6..=7 => run.replicate(),
                8..=9 => {
                    let at = usize::try_from(run.world.rng.below(run.sets.len() as u64)).unwrap();
                    run.cached[at] = run.sets[at].clone();
                }
                _ => run.roll(),
            }
            run.check(seed, round > 0);
        }
    }
}

#[test]
fn rollouts_keep_between_their_limits_and_end() {
    for seed in 0..30 {
        run(seed, 1, 0);
        run(seed, 0, 1);
        run(seed, 2, 2);
        run(seed, 6, 3);
    }
}
