//! Which pod of a StatefulSet is made, deleted or replaced next. Pure.
//!
//! Invariant: with ordered management pods are made one at a time, and only when all before are
//! available; an update never takes more than `maxUnavailable` pods away.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use jiff::Timestamp;

use crate::{
    revisions::HASH,
    types::{
        apps::{StatefulSet, StatefulSetStatus},
        core::Pod,
    },
};

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Ordinals to make, with the revision to make them from.
    pub(super) create: Vec<(i32, Which)>,
    pub(super) delete: Vec<Arc<Pod>>,
    pub(super) status: StatefulSetStatus,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Current,
    Update,
}

pub(super) fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let (parent, ordinal) = pod.metadata.name.rsplit_once('-')?;
    (parent == set.metadata.name).then(|| ordinal.parse().ok()).flatten()
}

/// The ordinals that the set has pods for.
pub(super) fn ordinals(set: &StatefulSet) -> Range<i32> {
    let first = set.spec.ordinals.start;
    first..first + set.spec.replicas.unwrap_or(1)
}

/// Decides; `current` and `update` are the revisions' names.
pub(super) fn plan(
    set: &StatefulSet,
    pods: &[Arc<Pod>],
    (current, update): (&str, &str),
    now: Timestamp,
) -> Plan {
    let by_ordinal: BTreeMap<i32, Arc<Pod>> =
        pods.iter().filter_map(|pod| Some((ordinal(set, pod)?, Arc::clone(pod)))).collect();
    let mut plan =
        Plan { status: status(set, &by_ordinal, (current, update), now), ..Plan::default() };
    if set.metadata.is_deleting() {
        return plan;
    }
    let Range { start: first, end: last } = ordinals(set);
    let ordered = set.spec.pod_management_policy != "Parallel";
    let partition =
        set.spec.update_strategy.rolling_update.as_ref().and_then(|it| it.partition).unwrap_or(0);
    let healthy = |pod: &Pod| pod.is_active() && pod.is_available(set.spec.min_ready_seconds, now);
    for at in first..last {
        let ready = match by_ordinal.get(&at) {
            None => {
                let which = if at - first < partition
                    && set.status.current_revision != set.status.update_revision
                {
                    Which::Current
                } else {
                    Which::Update
                };
                plan.create.push((at, which));
                false
            }
            Some(pod) if pod.is_finished() && !pod.metadata.is_deleting() => {
                plan.delete.push(Arc::clone(pod));
                false
            }
            Some(pod) => healthy(pod),
        };
        if ordered && !ready {
            return plan;
        }
    }
    let condemned: Vec<&Arc<Pod>> = by_ordinal
        .iter()
        .rev()
        .filter(|(at, _)| **at < first || **at >= last)
        .map(|(_, pod)| pod)
        .collect();
    for pod in condemned {
        if pod.metadata.is_deleting() {
            if ordered {
                return plan;
            }
            continue;
        }
        plan.delete.push(Arc::clone(pod));
        if ordered {
            return plan;
        }
    }
    if set.spec.update_strategy.kind == "OnDelete" || !plan.create.is_empty() {
        return plan;
    }
    plan.delete.extend(outdated(set, &by_ordinal, update, first + partition, healthy));
    plan
}

/// The pods of another revision that may go now: the unavailable ones first, then from the last.
///
/// What is known may be behind, so that a pod seen as unavailable may be available by now: even of
/// those no more than `maxUnavailable` are taken away at a time.
fn outdated(
    set: &StatefulSet,
    pods: &BTreeMap<i32, Arc<Pod>>,
    update: &str,
    from: i32,
    healthy: impl Fn(&Pod) -> bool,
) -> Vec<Arc<Pod>> {
    let ordinals = ordinals(set);
    let limit = set.spec.update_strategy.rolling_update.as_ref();
    let limit = limit.and_then(|it| it.max_unavailable.as_ref());
    let limit = limit.map_or(1, |it| it.scaled(size(ordinals.len()), false).max(1));
    let limit = usize::try_from(limit).unwrap_or(1);
    let mut away = 0;
    let (mut broken, mut fine) = (Vec::new(), Vec::new());
    for at in ordinals.rev() {
        let Some(pod) = pods.get(&at).filter(|pod| !pod.metadata.is_deleting()) else {
            away += 1;
            continue;
        };
        let stale = at >= from && pod.metadata.labels.get(HASH).is_none_or(|it| it != update);
        match (stale, healthy(pod)) {
            (true, true) => fine.push(Arc::clone(pod)),
            (true, false) => broken.push(Arc::clone(pod)),
            (false, true) => {}
            (false, false) => away += 1,
        }
    }
    let unavailable = away + broken.len();
    broken.truncate(limit.saturating_sub(away));
    fine.truncate(limit.saturating_sub(unavailable));
    broken.into_iter().chain(fine).collect()
}

fn status(
    set: &StatefulSet,
    pods: &BTreeMap<i32, Arc<Pod>>,
    (current, update): (&str, &str),
    now: Timestamp,
) -> StatefulSetStatus {
    let count = |test: &dyn Fn(&Pod) -> bool| size(pods.values().filter(|pod| test(pod)).count());
    let of = |pod: &Pod, name: &str| {
        !pod.metadata.is_deleting() && pod.metadata.labels.get(HASH).is_some_and(|it| it == name)
    };
    let mut status = StatefulSetStatus {
        observed_generation: set.metadata.generation,
        replicas: count(&|_| true),
        ready_replicas: count(&Pod::is_ready),
        available_replicas: count(&|pod| pod.is_available(set.spec.min_ready_seconds, now)),
        current_replicas: count(&|pod| of(pod, current)),
        updated_replicas: count(&|pod| of(pod, update)),
        current_revision: current.to_owned(),
        update_revision: update.to_owned(),
        collision_count: set.status.collision_count,
    };
    // A finished update makes the update revision the current one.
    let rolling = set.spec.update_strategy.kind != "OnDelete";
    if rolling
        && status.updated_replicas == status.replicas
        && status.ready_replicas == status.replicas
    {
        status.current_revision.clone_from(&status.update_revision);
        status.current_replicas = status.updated_replicas;
    }
    status
}

fn size(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Condition;

    fn set(replicas: i32, policy: &str) -> StatefulSet {
        let mut set = StatefulSet::default();
        set.metadata.name = "db".into();
        set.spec.replicas = Some(replicas);
        set.spec.pod_management_policy = policy.into();
        set
    }

    fn pod(ordinal: i32, revision: &str, ready: bool) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.name = format!("db-{ordinal}");
        pod.metadata.labels.insert(HASH.into(), revision.into());
        let status = if ready { "True" } else { "False" };
        pod.status.conditions.push(Condition::new("Ready", status, "", ""));
        Arc::new(pod)
    }

    fn check(set: &StatefulSet, pods: &[Arc<Pod>], create: &[i32], delete: &[&str]) {
        let found = plan(set, pods, ("new", "new"), Timestamp::UNIX_EPOCH);
        let made: Vec<i32> = found.create.iter().map(|(at, _)| *at).collect();
        let gone: Vec<&str> = found.delete.iter().map(|it| it.metadata.name.as_str()).collect();
        assert_eq!((made.as_slice(), gone.as_slice()), (create, delete));
    }

    #[test]
    fn ordered_sets_go_one_by_one_and_parallel_ones_at_once() {
        let ordered = set(3, "OrderedReady");
        check(&ordered, &[], &[0], &[]);
        check(&ordered, &[pod(0, "new", false)], &[], &[]);
        check(&ordered, &[pod(0, "new", true)], &[1], &[]);
        check(&set(3, "Parallel"), &[pod(1, "new", false)], &[0, 2], &[]);
        let all: Vec<_> = (0..3).map(|at| pod(at, "new", true)).collect();
        check(&set(1, "OrderedReady"), &all, &[], &["db-2"]);
        check(&set(1, "Parallel"), &all, &[], &["db-2", "db-1"]);
        check(&ordered, &all, &[], &[]);
    }

    #[test]
    fn updates_go_from_the_last_to_the_partition() {
        let mut set = set(3, "OrderedReady");
        let old: Vec<_> = (0..3).map(|at| pod(at, "old", true)).collect();
        check(&set, &old, &[], &["db-2"]);
        check(
            &set,
            &[pod(0, "old", true), pod(1, "old", true), pod(2, "new", true)],
            &[],
            &["db-1"],
        );
        set.spec.update_strategy.rolling_update =
            Some(crate::types::apps::RollingUpdate { partition: Some(2), ..Default::default() });
        check(&set, &[pod(0, "old", true), pod(1, "old", true), pod(2, "new", true)], &[], &[]);
        set.spec.update_strategy.kind = "OnDelete".into();
        check(&set, &old, &[], &[]);
    }

    #[test]
    fn more_than_one_pod_is_updated_at_once_where_that_is_allowed() {
        let rolling = |limit: crate::types::IntOrString| {
            let mut set = set(4, "Parallel");
            set.spec.update_strategy.rolling_update = Some(crate::types::apps::RollingUpdate {
                max_unavailable: Some(limit),
                ..Default::default()
            });
            set
        };
        let two = rolling(crate::types::IntOrString::Int(2));
        let old: Vec<_> = (0..4).map(|at| pod(at, "old", true)).collect();
        check(&two, &old, &[], &["db-3", "db-2"]);
        check(&rolling(crate::types::IntOrString::String("10%".into())), &old, &[], &["db-3"]);
        let half = (0..4).map(|at| pod(at, if at < 3 { "old" } else { "new" }, at != 3));
        check(&two, &half.collect::<Vec<_>>(), &[], &["db-2"]);
        // What is broken already is replaced even when nothing else may go.
        let broken: Vec<_> = (0..4).map(|at| pod(at, "old", at > 2)).collect();
        check(&two, &broken, &[], &["db-2", "db-1"]);
    }

    #[test]
    fn ordinals_may_start_anywhere() {
        let mut set = set(2, "Parallel");
        set.spec.ordinals.start = 3;
        check(&set, &[pod(0, "new", true)], &[3, 4], &["db-0"]);
    }
}
