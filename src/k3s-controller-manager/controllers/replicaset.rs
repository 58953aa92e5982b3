//! ReplicaSets and ReplicationControllers: as many pods as asked for, the least valuable removed first.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use client::{Action, HasMeta, Key, Patch, Reflector, Resource, WorkQueue, is_not_found, now};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{
    Cx, Running,
    caches::{Caches, REPLICA_SETS, REPLICATION_CONTROLLERS, controller_key, owned_and_orphans},
    ownership::claim_all,
    pod_control::{self, Owner},
    types::{
        Condition,
        apps::{ReplicaSet, ReplicaSetStatus},
        condition,
        core::{Pod, ReplicationController},
    },
    workers,
};

const WORKERS: usize = 8;
const BURST: usize = 500;
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// What the number of pods needs.
#[derive(Debug)]
pub(crate) enum Step {
    Nothing,
    Create(usize),
    Delete(Vec<Arc<Pod>>),
}

/// What tells the two kinds apart.
trait Replicas: HasMeta + DeserializeOwned + Send + Sync + 'static {
    /// The loop's name.
    const NAME: &'static str;
    /// The name that its events carry.
    const COMPONENT: &'static str;
    /// Whether its status counts pods that are on their way out.
    const COUNTS_TERMINATING: bool;
    fn resource() -> &'static Resource;
    fn cache(caches: &Caches) -> &Reflector<Self>;
    fn set(&self) -> &ReplicaSet;
}

impl Replicas for ReplicaSet {
    const NAME: &'static str = "replicaset-controller";
    const COMPONENT: &'static str = "replicaset-controller";
    const COUNTS_TERMINATING: bool = true;

    fn resource() -> &'static Resource {
        &REPLICA_SETS
    }

    fn cache(caches: &Caches) -> &Reflector<Self> {
        &caches.replica_sets
    }

    fn set(&self) -> &ReplicaSet {
        self
    }
}

impl Replicas for ReplicationController {
    const NAME: &'static str = "replicationcontroller-controller";
    const COMPONENT: &'static str = "replication-controller";
    const COUNTS_TERMINATING: bool = false;

    fn resource() -> &'static Resource {
        &REPLICATION_CONTROLLERS
    }

    fn cache(caches: &Caches) -> &Reflector<Self> {
        &caches.replication_controllers
    }

    fn set(&self) -> &ReplicaSet {
        &self.0
    }
}

pub(crate) fn start(cx: &Cx) -> Running {
    run::<ReplicaSet>(cx)
}

pub(crate) fn start_replication(cx: &Cx) -> Running {
    run::<ReplicationController>(cx)
}

fn run<R: Replicas>(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    let filled = queue.clone();
    let cache = R::cache(&cx.caches);
    cache.on_event(move |event| filled.add(event.object().meta().key()));
    let (filled, sets) = (queue.clone(), cache.lister());
    cx.caches.pods.on_event(move |event| {
        for pod in event.old().into_iter().chain([event.object()]) {
            if let Some(key) = controller_key(pod.as_ref(), &R::resource().kind) {
                filled.add(key);
            } else if pod.meta().controller().is_none() && !pod.metadata.labels.is_empty() {
                for set in sets.namespaced(&pod.metadata.namespace) {
                    if set.set().spec.selector.matches(&pod.metadata.labels) {
                        filled.add(set.meta().key());
                    }
                }
            }
        }
    });
    let shared = Arc::new(cx.clone());
    workers(cx, R::NAME, WORKERS, &queue, move |key| {
        let cx = Arc::clone(&shared);
        async move { reconcile::<R>(&cx, &key).await }
    })
}

async fn reconcile<R: Replicas>(cx: &Cx, key: &Key) -> Result<Action> {
    let Some(object) = R::cache(&cx.caches).lister().get(key) else { return Ok(Action::Done) };
    let set = object.set();
    if set.spec.selector.is_empty() {
        // Would select every pod of the namespace; validation lets none through.
        return Ok(Action::Done);
    }
    let caches = &cx.caches;
    let candidates: Vec<Arc<Pod>> = owned_and_orphans(
        &caches.pods.lister(),
        caches.pods_by_owner,
        &set.metadata.uid,
        &key.namespace,
    )
    .into_iter()
    .filter(|pod| !pod.is_finished())
    .collect();
    let owner = (R::resource(), &set.metadata);
    let claimed = claim_all(cx, owner, &set.spec.selector, &caches.pods, candidates).await?;
    let active: Vec<Arc<Pod>> = claimed.into_iter().filter(|pod| pod.is_active()).collect();

    let recorder = cx.recorder.named(R::COMPONENT);
    let owner = Owner { resource: R::resource(), meta: &set.metadata, recorder: &recorder };
    let mut failure = Ok(());
    if !set.metadata.is_deleting() {
        let related = related(caches, set);
        let step = plan(set.replicas(), &active, related.as_deref().unwrap_or(&active), now());
        failure = perform(cx, &owner, set, step).await;
    }
    // Counted anew: what was just made or deleted is in the cache.
    let (pods, others): (Vec<Arc<Pod>>, Vec<Arc<Pod>>) = caches
        .pods
        .lister()
        .by_index(caches.pods_by_owner, &set.metadata.uid)
        .into_iter()
        .filter(|pod| set.spec.selector.matches(&pod.metadata.labels))
        .partition(|pod| pod.is_active());
    let terminating = R::COUNTS_TERMINATING
        .then(|| size(others.iter().filter(|pod| pod.is_terminating()).count()));
    let status = status(set, &pods, terminating, failure.as_ref().err(), now());
    write_status::<R>(cx, set, &status).await?;
    failure?;
    Ok(next_available(&pods, set.spec.min_ready_seconds, now()))
}

async fn perform(cx: &Cx, owner: &Owner<'_>, set: &ReplicaSet, step: Step) -> Result<()> {
    match step {
        Step::Nothing => Ok(()),
        Step::Create(count) => {
            let pod = pod_control::from_template(set.spec.template.as_ref(), owner)?;
            pod_control::create_many(cx, owner, vec![pod; count]).await.1
        }
        Step::Delete(pods) => pod_control::delete_many(cx, owner, pods).await,
    }
}

/// The active pods of all sets that have the same controller, which a node may be crowded with.
/// `None` for a set on its own.
fn related(caches: &Caches, set: &ReplicaSet) -> Option<Vec<Arc<Pod>>> {
    let controller = &set.metadata.controller()?.uid;
    let sets = caches.replica_sets.lister().by_index(caches.replica_sets_by_owner, controller);
    let pods = caches.pods.lister();
    let of = |set: &Arc<ReplicaSet>| pods.by_index(caches.pods_by_owner, &set.metadata.uid);
    Some(sets.iter().flat_map(of).filter(|pod| pod.is_active()).collect())
}

/// How many pods to make, or which to delete. `related` are the pods that one would rather not
/// have on the same node.
pub(crate) fn plan(
    replicas: i32,
    active: &[Arc<Pod>],
    related: &[Arc<Pod>],
    now: Timestamp,
) -> Step {
    let want = usize::try_from(replicas).unwrap_or(0);
    if active.len() < want {
        return Step::Create((want - active.len()).min(BURST));
    }
    if active.len() == want {
        return Step::Nothing;
    }
    let mut ranked = active.to_vec();
    let mut crowds: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in related {
        *crowds.entry(&pod.spec.node_name).or_default() += 1;
    }
    let crowd = |pod: &Pod| crowds.get(pod.spec.node_name.as_str()).copied().unwrap_or(0);
    ranked.sort_by_cached_key(|pod| deletion_rank(pod, crowd(pod), now));
    ranked.truncate((active.len() - want).min(BURST));
    Step::Delete(ranked)
}

type Rank = (bool, u8, bool, i32, Reverse<usize>, Option<u32>, Reverse<(i32, i32)>, u32, String);

/// Smaller is deleted sooner: unassigned, pending, not ready, cheap, crowded, ready only lately,
/// often restarted, young. Times count by their order of magnitude, so that among pods of about
/// the same age chance decides, not the order in which nodes failed.
fn deletion_rank(pod: &Pod, crowd: usize, now: Timestamp) -> Rank {
    let phase = match pod.status.phase.as_str() {
        "Pending" | "" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let cost = pod.metadata.annotation(DELETION_COST).and_then(|it| it.parse().ok()).unwrap_or(0);
    (
        !pod.spec.node_name.is_empty(),
        phase,
        pod.is_ready(),
        cost,
        Reverse(crowd),
        pod.ready_since().map(|since| magnitude(since, now)),
        Reverse(pod.most_restarts()),
        magnitude(pod.metadata.created(), now),
        pod.metadata.uid.clone(),
    )
}

/// The base-2 logarithm of an age.
fn magnitude(since: Timestamp, now: Timestamp) -> u32 {
    let age = u64::try_from(now.duration_since(since).as_nanos()).unwrap_or(0);
    age.checked_ilog2().map_or(0, |it| it + 1)
}

fn size(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// When the next ready pod becomes available by the passing of time.
pub(crate) fn next_available(pods: &[Arc<Pod>], min_ready_seconds: i32, now: Timestamp) -> Action {
    let waits =
        pods.iter().filter(|pod| !pod.is_available(min_ready_seconds, now)).filter_map(|pod| {
            let ready = now.duration_since(pod.ready_since()?).as_secs();
            u64::try_from(i64::from(min_ready_seconds) - ready).ok()
        });
    waits.min().map_or(Action::Done, |wait| Action::RequeueAfter(Duration::from_secs(wait.max(1))))
}

/// The status for these active pods.
fn status(
    set: &ReplicaSet,
    pods: &[Arc<Pod>],
    terminating: Option<i32>,
    failure: Option<&anyhow::Error>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let template: serde_json::Value = set
        .spec
        .template
        .as_ref()
        .and_then(|raw| serde_json::from_str(raw.get()).ok())
        .unwrap_or_default();
    let labels = template.pointer("/metadata/labels").and_then(|it| it.as_object());
    let fully = |pod: &Pod| {
        labels.is_none_or(|labels| {
            labels.iter().all(|(key, value)| {
                pod.metadata.labels.get(key).map(String::as_str) == value.as_str()
            })
        })
    };
    let count = |test: &dyn Fn(&Pod) -> bool| size(pods.iter().filter(|pod| test(pod)).count());
    let mut conditions = set.status.conditions.clone();
    match failure {
        None => conditions.retain(|it| it.kind != "ReplicaFailure"),
        Some(err) if condition(&conditions, "ReplicaFailure").is_none() => {
            let reason = if pods.len() < usize::try_from(set.replicas()).unwrap_or(0) {
                "FailedCreate"
            } else {
                "FailedDelete"
            };
            let api = err.chain().find_map(|it| it.downcast_ref::<client::Error>());
            let message = api.map_or_else(|| err.to_string(), client::describe);
            let mut failed = Condition::new("ReplicaFailure", "True", reason, message);
            failed.last_transition_time = Some(client::Time(now));
            conditions.push(failed);
        }
        Some(_) => {}
    }
    ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: count(&fully),
        ready_replicas: count(&|pod| pod.is_ready()),
        available_replicas: count(&|pod| pod.is_available(set.spec.min_ready_seconds, now)),
        terminating_replicas: terminating,
        observed_generation: set.metadata.generation,
        conditions,
    }
}

async fn write_status<R: Replicas>(
    cx: &Cx,
    set: &ReplicaSet,
    status: &ReplicaSetStatus,
) -> Result<()> {
    if set.status == *status {
        return Ok(());
    }
    let key = set.metadata.key();
    let body = json!({
        "metadata": {"uid": set.metadata.uid},
        "status": status,
    });
    match cx.rest.patch::<R>(R::resource(), &key, "status", Patch::Merge, &body).await {
        Ok(set) => R::cache(&cx.caches).observe(set),
        Err(err) if is_not_found(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("updating status of {key}")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, node: &str, phase: &str, ready: bool, cost: i64) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.name = name.into();
        pod.metadata.annotations.insert(DELETION_COST.into(), cost.to_string());
        pod.spec.node_name = node.into();
        pod.status.phase = phase.into();
        if ready {
            pod.status.conditions.push(Condition::new("Ready", "True", "", ""));
        }
        Arc::new(pod)
    }

    #[test]
    fn the_least_valuable_pods_are_deleted() {
        let pods = [
            pod("ready", "n1", "Running", true, 0),
            pod("cheap", "n2", "Running", true, -5),
            pod("starting", "n3", "Running", false, 0),
            pod("pending", "n3", "Pending", false, 0),
            pod("unassigned", "", "Pending", false, 9),
        ];
        let want = ["unassigned", "pending", "starting", "cheap", "ready"];
        for keep in 0..5_i32 {
            let Step::Delete(gone) = plan(keep, &pods, &pods, now()) else {
                panic!("nothing to delete")
            };
            let names: Vec<&str> = gone.iter().map(|pod| pod.metadata.name.as_str()).collect();
            assert_eq!(names, want[..5 - usize::try_from(keep).unwrap()]);
        }
        assert!(matches!(plan(5, &pods, &pods, now()), Step::Nothing));
        assert!(matches!(plan(7, &pods, &pods, now()), Step::Create(2)));
    }

    #[test]
    fn of_equal_pods_the_crowded_restarted_and_young_are_deleted() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let check = |first: &dyn Fn(&mut Pod), crowd: &[&str], want: bool| {
            let make = |name: &str, change: &dyn Fn(&mut Pod)| {
                let mut made = Arc::unwrap_or_clone(pod(name, name, "Running", true, 0));
                made.metadata.uid = name.into();
                made.metadata.creation_timestamp = Some(client::Time(at(1000)));
                made.status.conditions[0].last_transition_time = Some(client::Time(at(1100)));
                change(&mut made);
                Arc::new(made)
            };
            let pods = [make("b", first), make("a", &|_| {})];
            let related: Vec<Arc<Pod>> =
                crowd.iter().map(|node| pod("", node, "Running", true, 0)).collect();
            let Step::Delete(gone) = plan(1, &pods, &related, at(2000)) else { panic!() };
            assert_eq!(gone[0].metadata.uid == "b", want);
        };
        check(&|_| {}, &[], false);
        check(&|_| {}, &["b", "b", "a"], true);
        check(&|pod| pod.metadata.creation_timestamp = Some(client::Time(at(1010))), &[], false);
        check(&|pod| pod.metadata.creation_timestamp = Some(client::Time(at(1900))), &[], true);
        let since = |seconds| {
            move |pod: &mut Pod| {
                pod.status.conditions[0].last_transition_time = Some(client::Time(at(seconds)));
            }
        };
        check(&since(1990), &[], true);
        check(&since(1150), &[], false);
        let restarted = |sidecar: bool| {
            move |pod: &mut Pod| {
                let status = crate::types::core::ContainerStatus {
                    name: "c".into(),
                    restart_count: 3,
                    ..Default::default()
                };
                if sidecar {
                    pod.spec.init_containers.push(crate::types::core::Container {
                        name: "c".into(),
                        restart_policy: "Always".into(),
                        ..Default::default()
                    });
                    pod.status.init_container_statuses.push(status);
                } else {
                    pod.status.container_statuses.push(status);
                }
            }
        };
        check(&restarted(false), &[], true);
        check(&restarted(true), &[], true);
    }

    #[test]
    fn status_counts_what_is_ready_and_available() {
        let set = ReplicaSet::default();
        let pods = [pod("a", "n", "Running", true, 0), pod("b", "n", "Running", false, 0)];
        let found = status(&set, &pods, Some(1), None, now());
        assert_eq!((found.replicas, found.ready_replicas, found.available_replicas), (2, 1, 1));
        assert_eq!(found.terminating_replicas, Some(1));
        let failed = status(&set, &pods, None, Some(&anyhow::anyhow!("quota")), now());
        assert_eq!(failed.conditions[0].message, "quota");
    }
}
