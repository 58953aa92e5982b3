//! Jobs in a cluster where everything goes wrong: no end of a pod is lost or counted twice.

use client::Time;

use super::{
    indexes::{INDEX, is_indexed},
    plan::{FINALIZER, plan},
};
use crate::{
    simulation::{Ends, World},
    types::{
        batch::{Job, JobStatus},
        core::Pod,
    },
};

struct Run {
    world: World,
    /// As the server has it, and its version.
    job: (Job, u64),
    cached: (Job, u64),
}

impl Run {
    /// One reconciliation, which may be cut short by a conflict or a crash.
    fn reconcile(&mut self, reliable: bool) {
        let plan = plan(&self.cached.0, &self.world.cached(), self.world.now);
        let crash = !reliable && self.world.rng.one_in(4);
        if crash && self.world.rng.one_in(3) {
            return self.crash();
        }
        if plan.status != self.cached.0.status && !self.write(plan.status) {
            return;
        }
        for pod in plan.release {
            if (crash && self.world.rng.one_in(3)) || !self.world.release(&pod.metadata.uid) {
                return self.crash();
            }
        }
        for pod in plan.delete {
            if crash && self.world.rng.one_in(3) {
                return self.crash();
            }
            self.world.delete(&pod.metadata.uid);
        }
        for new in plan.create {
            if crash && self.world.rng.one_in(3) {
                return self.crash();
            }
            let mut pod = Pod::default();
            pod.metadata.finalizers.push(FINALIZER.into());
            if let Some(index) = new.index {
                pod.metadata.annotations.insert(INDEX.into(), index.to_string());
            }
            self.world.create(pod);
        }
    }

    fn write(&mut self, status: JobStatus) -> bool {
        let current = self.cached.1 == self.job.1;
        if current {
            self.job.0.status = status;
            self.job.1 += 1;
        }
        self.cached = self.job.clone();
        current
    }

    fn crash(&mut self) {
        self.world.crash();
        self.cached = self.job.clone();
    }

    fn check(&self, seed: u64) {
        let parallelism = self.job.0.spec.parallelism.unwrap();
        let active = self.world.pods().filter(|it| it.is_active()).count();
        assert!(active <= usize::try_from(parallelism).unwrap(), "seed {seed}: {active} active");
        let counted = usize::try_from(self.job.0.status.succeeded).unwrap();
        assert!(counted <= self.world.succeeded.len(), "seed {seed}: counted too much");
        if is_indexed(&self.job.0) {
            let mut indexes: Vec<_> = self
                .world
                .pods()
                .filter(|it| it.is_active())
                .map(|it| it.metadata.annotation(INDEX).unwrap().to_owned())
                .collect();
            indexes.sort();
            let all = indexes.len();
            indexes.dedup();
            assert_eq!(indexes.len(), all, "seed {seed}: two pods of one index");
        }
    }
}

fn run(seed: u64, spec: &str) {
    let job: Job = serde_json::from_str(&format!(r#"{{"spec":{{{spec}}}}}"#)).unwrap();
    let mut run = Run {
        world: World::new(seed, Ends::FailOneIn(6)),
        job: (job.clone(), 1),
        cached: (job, 1),
    };
    for _ in 0..20_000 {
        match run.world.rng.below(12) {
            0..=3 => run.world.kubelet(),
            4..=6 => run.world.deliver(),
            // Somebody else writes to the Job.
            7 => run.job.1 += 1,
            // Somebody deletes a pod.
            8 if run.world.rng.one_in(20) => {
                let uid = run.world.pods().next().map(|it| it.metadata.uid.clone());
                uid.iter().for_each(|uid| run.world.delete(uid));
            }
            _ => run.reconcile(false),
        }
        let seconds = i64::try_from(run.world.rng.below(20)).unwrap();
        run.world.now += jiff::SignedDuration::from_secs(seconds);
        run.check(seed);
        if run.job.0.is_finished() {
            break;
        }
    }
    assert!(run.job.0.is_finished(), "seed {seed}: never ended: {:?}", run.job.0.status);
    let status = &run.job.0.status;
    let (succeeded, failed) = (status.succeeded, status.failed);
    if is_indexed(&run.job.0) {
        assert!(usize::try_from(succeeded).unwrap() <= run.world.succeeded.len(), "seed {seed}");
    } else {
        assert_eq!(usize::try_from(succeeded).unwrap(), run.world.succeeded.len(), "seed {seed}");
        let all = u64::try_from(succeeded + failed).unwrap();
        assert_eq!(all, run.world.made(), "seed {seed}: {status:?}");
    }
    assert_eq!(run.job.0.status.active, 0, "seed {seed}");
    // At rest nothing is held and nothing is written.
    for _ in 0..4 {
        run.crash();
        run.reconcile(true);
    }
    let held = run.world.pods().filter(|it| it.metadata.has_finalizer(FINALIZER)).count();
    assert_eq!(held, 0, "seed {seed}: pods are held");
    let before = run.job.1;
    run.reconcile(true);
    assert_eq!(run.job.1, before, "seed {seed}: writes at rest");
    assert!(run.job.0.status.start_time <= Some(Time(run.world.now)));
}

#[test]
fn every_end_is_counted_once() {
    for seed in 0..30 {
        run(seed, r#""parallelism":3,"completions":8,"backoffLimit":1000"#);
        run(seed, r#""parallelism":4,"completions":6,"backoffLimit":2"#);
    }
}

#[test]
fn every_index_is_completed_once() {
    for seed in 0..30 {
        run(
            seed,
            r#""completionMode":"Indexed","parallelism":3,"completions":6,"backoffLimit":1000"#,
        );
        run(
            seed,
            r#""completionMode":"Indexed","parallelism":3,"completions":6,"backoffLimit":1000,"podReplacementPolicy":"Failed""#,
        );
    }
}
