//! StatefulSets in a cluster where everything goes wrong: an update takes no more pods away than it
//! may, and ends.

use super::plan::{Which, plan};
use crate::{
    revisions::HASH,
    simulation::{Ends, World},
    types::{apps::StatefulSet, core::Pod},
};

fn reconcile(world: &mut World, set: &mut StatefulSet, hashes: (&str, &str)) {
    let plan = plan(set, &world.cached(), hashes, world.now);
    let crash = world.rng.one_in(4);
    if plan.status != set.status {
        set.status = plan.status;
    }
    for pod in plan.delete {
        if crash && world.rng.one_in(2) {
            return world.crash();
        }
        world.delete(&pod.metadata.uid);
    }
    for (ordinal, which) in plan.create {
        if crash && world.rng.one_in(2) {
            return world.crash();
        }
        let name = format!("db-{ordinal}");
        // The server refuses a second pod of a name.
        if world.pods().any(|it| it.metadata.name == name) {
            return world.crash();
        }
        let hash = if which == Which::Current { hashes.0 } else { hashes.1 };
        let mut pod = Pod::default();
        pod.metadata.name = name;
        pod.metadata.labels.insert(HASH.into(), hash.into());
        world.create(pod);
    }
}

fn run(seed: u64, policy: &str, limit: usize) {
    let text = format!(
        r#"{{"metadata":{{"name":"db"}},"spec":{{"replicas":5,"podManagementPolicy":"{policy}",
        "updateStrategy":{{"type":"RollingUpdate","rollingUpdate":{{"maxUnavailable":{limit}}}}}}}}}"#
    );
    let mut set: StatefulSet = serde_json::from_str(&text).unwrap();
    let mut world = World::new(seed, Ends::Never);
    let ready = |world: &World, hash: &str| {
        world
            .pods()
            .filter(|it| it.is_active() && it.is_ready() && it.metadata.labels[HASH] == hash)
            .count()
    };
    for (old, new) in [("one", "one"), ("one", "two"), ("two", "three")] {
        let mut steps = 0;
        while ready(&world, new) < 5 {
            steps += 1;
            assert!(steps < 20_000, "seed {seed}: {policy} {limit} never got to {new}");
            match world.rng.below(8) {
                0..=2 => world.kubelet(),
                3..=5 => world.deliver(),
                _ => reconcile(&mut world, &mut set, (old, new)),
            }
            if old != new {
                let up = world.pods().filter(|it| it.is_active() && it.is_ready()).count();
                assert!(up + limit >= 5, "seed {seed}: {policy} {limit}: only {up} are ready");
            }
        }
    }
    for _ in 0..3 {
        world.crash();
        reconcile(&mut world, &mut set, ("three", "three"));
    }
    assert_eq!(world.pods().count(), 5, "seed {seed}");
}

#[test]
fn updates_keep_to_their_limit_and_end() {
    for seed in 0..30 {
        run(seed, "OrderedReady", 1);
        run(seed, "Parallel", 1);
        run(seed, "Parallel", 3);
    }
}
