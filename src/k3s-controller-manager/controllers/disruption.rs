//! PodDisruptionBudgets: how many more pods may be taken away now.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use client::{Action, Key, Patch, Time, WorkQueue, is_not_found, now};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    Cx, Running,
    caches::{BUDGETS, Caches, controller_key},
    types::{
        Condition, IntOrString, condition,
        core::Pod,
        policy::{Budget, BudgetStatus},
    },
    workers,
};

const NAME: &str = "disruption-controller";
/// An eviction that was granted must have begun within this time.
const EVICTION_SECONDS: i64 = 120;

pub(crate) fn start(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    let filled = queue.clone();
    cx.caches.budgets.on_event(move |event| filled.add(event.object().metadata.key()));
    let (filled, budgets) = (queue.clone(), cx.caches.budgets.lister());
    cx.caches.pods.on_event(move |event| {
        let pod = event.object();
        for budget in budgets.namespaced(&pod.metadata.namespace) {
            let selects = |pod: &Pod| {
                budget.spec.selector.as_ref().is_some_and(|it| it.matches(&pod.metadata.labels))
            };
            if selects(pod) || event.old().is_some_and(|old| selects(old)) {
                filled.add(budget.metadata.key());
            }
        }
    });
    let shared = Arc::new(cx.clone());
    workers(cx, NAME, 4, &queue, move |key| {
        let cx = Arc::clone(&shared);
        async move { reconcile(&cx, &key).await }
    })
}

async fn reconcile(cx: &Cx, key: &Key) -> Result<Action> {
    let Some(budget) = cx.caches.budgets.lister().get(key) else { return Ok(Action::Done) };
    let pods: Vec<Arc<Pod>> = cx
        .caches
        .pods
        .lister()
        .namespaced(&key.namespace)
        .into_iter()
        .filter(|pod| {
            budget.spec.selector.as_ref().is_some_and(|it| it.matches(&pod.metadata.labels))
        })
        .collect();
    let scale = scale(&cx.caches, &pods);
    let (status, again) = plan(&budget, &pods, scale, now());
    if status != budget.status {
        let mut disrupted = serde_json::Map::new();
        for (name, time) in &status.disrupted_pods {
            disrupted.insert(name.clone(), json!(time));
        }
        for name in budget.status.disrupted_pods.keys() {
            disrupted.entry(name.clone()).or_insert(Value::Null);
        }
        let mut value = serde_json::to_value(&status).context("writing a budget status")?;
        value["disruptedPods"] = Value::Object(disrupted);
        let body = json!({
            "metadata": {"resourceVersion": budget.metadata.resource_version}, "status": value,
        });
        match cx.rest.patch::<Budget>(&BUDGETS, key, "status", Patch::Merge, &body).await {
            Ok(updated) => cx.caches.budgets.observe(updated),
            Err(err) if is_not_found(&err) => {}
            Err(err) => return Err(err).with_context(|| format!("updating status of {key}")),
        }
    }
    Ok(again.map_or(Action::Done, |seconds| Action::RequeueAfter(Duration::from_secs(seconds))))
}

/// How many pods the controllers of these pods want together.
fn scale(caches: &Caches, pods: &[Arc<Pod>]) -> i32 {
    let mut seen = BTreeSet::new();
    let mut total = 0;
    for pod in pods {
        let Some(owner) = pod.metadata.controller() else { continue };
        if !seen.insert(owner.uid.clone()) {
            continue;
        }
        let key = Key::new(&pod.metadata.namespace, &owner.name);
        total += match owner.kind.as_str() {
            "ReplicaSet" => caches.replica_sets.lister().get(&key).map_or(0, |set| {
                let deployment = controller_key(set.as_ref(), "Deployment")
                    .and_then(|key| caches.deployments.lister().get(&key));
                match deployment {
                    // The old and the new set of one Deployment count once.
                    Some(d) if seen.insert(d.metadata.uid.clone()) => d.spec.replicas.unwrap_or(1),
                    Some(_) => 0,
                    None => set.replicas(),
                }
            }),
            "StatefulSet" => {
                let set = caches.stateful_sets.lister().get(&key);
                set.map_or(0, |set| set.spec.replicas.unwrap_or(1))
            }
            "ReplicationController" => {
                caches.replication_controllers.lister().get(&key).map_or(0, |it| it.0.replicas())
            }
            _ => 0,
        };
    }
    total
}

/// The status, and when a granted eviction is to be given up.
fn plan(
    budget: &Budget,
    pods: &[Arc<Pod>],
    scale: i32,
    now: Timestamp,
) -> (BudgetStatus, Option<u64>) {
    let count = i32::try_from(pods.len()).unwrap_or(i32::MAX);
    let (expected, desired) = match (&budget.spec.min_available, &budget.spec.max_unavailable) {
        (_, Some(most)) => (scale, (scale - most.scaled(scale, true)).max(0)),
        (Some(IntOrString::Int(least)), None) => (count, *least),
        (Some(least), None) => (scale, least.scaled(scale, true)),
        (None, None) => (count, 1),
    };
    let mut disrupted = BTreeMap::new();
    let mut again = None;
    for (name, time) in &budget.status.disrupted_pods {
        let left = EVICTION_SECONDS - now.duration_since(time.0).as_secs();
        let there = pods.iter().any(|it| it.metadata.name == *name && !it.metadata.is_deleting());
        if there && left > 0 {
            disrupted.insert(name.clone(), time.clone());
            let left = left.unsigned_abs();
            again = Some(again.map_or(left, |it: u64| it.min(left)));
        }
    }
    let healthy = pods.iter().filter(|pod| {
        pod.is_ready()
            && !pod.metadata.is_deleting()
            && !pod.is_finished()
            && !disrupted.contains_key(&pod.metadata.name)
    });
    let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
    let allowed = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
    let mut conditions = budget.status.conditions.clone();
    let (status, reason) =
        if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let known = condition(&conditions, "DisruptionAllowed");
    let generation = budget.metadata.generation;
    if known.is_none_or(|it| it.status != status || it.observed_generation != Some(generation)) {
        let since =
            known.filter(|it| it.status == status).and_then(|it| it.last_transition_time.clone());
        let mut fresh = Condition::new("DisruptionAllowed", status, reason, "");
        fresh.observed_generation = Some(generation);
        fresh.last_transition_time = Some(since.unwrap_or(Time(now)));
        conditions.retain(|it| it.kind != "DisruptionAllowed");
        conditions.push(fresh);
    }
    let status = BudgetStatus {
        observed_generation: generation,
        disrupted_pods: disrupted,
        disruptions_allowed: allowed,
        current_healthy: healthy,
        desired_healthy: desired,
        expected_pods: expected,
        conditions,
    };
    (status, again)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods(ready: usize) -> Vec<Arc<Pod>> {
        let pod = |at: usize| {
            let mut pod = Pod::default();
            pod.metadata.name = format!("p{at}");
            pod.status.conditions.push(Condition::new("Ready", "True", "", ""));
            Arc::new(pod)
        };
        (0..ready).map(pod).collect()
    }

    fn check(
        min: Option<&str>,
        max: Option<&str>,
        ready: usize,
        scale: i32,
        want: (i32, i32, i32),
    ) {
        let parse = |it: &str| serde_json::from_str(it).unwrap();
        let mut budget = Budget::default();
        budget.spec.min_available = min.map(parse);
        budget.spec.max_unavailable = max.map(parse);
        let (found, _) = plan(&budget, &pods(ready), scale, Timestamp::UNIX_EPOCH);
        assert_eq!((found.expected_pods, found.desired_healthy, found.disruptions_allowed), want);
        budget.status = found.clone();
        assert_eq!(plan(&budget, &pods(ready), scale, Timestamp::UNIX_EPOCH).0, found);
    }

    #[test]
    fn budgets_allow_what_is_above_the_limit() {
        check(Some("2"), None, 3, 0, (3, 2, 1));
        check(Some("3"), None, 3, 3, (3, 3, 0));
        check(Some("\"50%\""), None, 4, 5, (5, 3, 1));
        check(None, Some("1"), 3, 3, (3, 2, 1));
        check(None, Some("0"), 3, 3, (3, 3, 0));
        check(Some("1"), None, 0, 0, (0, 1, 0));
    }
}
