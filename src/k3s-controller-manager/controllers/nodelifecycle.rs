//! Node health: taints that follow conditions, nodes that fall silent, and the eviction of pods
//! that do not tolerate a `NoExecute` taint for longer.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use client::{
    Action, EventType, Key, ObjectReference, Patch, Time, WorkQueue, is_conflict, is_not_found,
    now, rfc3339,
};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    Cx, Running,
    caches::{NODES, PODS},
    pod_control::delete_quietly,
    types::{
        Condition, condition,
        coordination::Lease,
        core::{Node, Pod, Taint},
    },
    workers,
};

const NAME: &str = "node-lifecycle-controller";
const EVICTION: &str = "taint-eviction-controller";
const WORKERS: usize = 8;
const LEASES: &str = "kube-node-lease";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
const UNINITIALIZED: &str = "node.cloudprovider.kubernetes.io/uninitialized";
/// Conditions that taint when they are true.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
/// Conditions that become unknown with a silent kubelet.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

pub(crate) fn start(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    let filled = queue.clone();
    cx.caches.nodes.on_event(move |event| filled.add(event.object().metadata.key()));
    let (filled, nodes) = (queue.clone(), cx.caches.nodes.lister());
    cx.caches.node_leases.on_event(move |event| {
        // A renewal matters only to a node that was given up.
        let key = Key::cluster(event.object().metadata.name.clone());
        let silent = nodes.get(&key).is_some_and(|node| {
            condition(&node.status.conditions, "Ready").is_none_or(|it| it.status == "Unknown")
        });
        if silent {
            filled.add(key);
        }
    });
    let shared = Arc::new(cx.clone());
    workers(cx, NAME, WORKERS, &queue, move |key| {
        let cx = Arc::clone(&shared);
        async move { reconcile(&cx, &key).await }
    })
}

async fn reconcile(cx: &Cx, key: &Key) -> Result<Action> {
    let Some(node) = cx.caches.nodes.lister().get(key) else { return Ok(Action::Done) };
    if node.metadata.is_deleting() {
        return Ok(Action::Done);
    }
    let lease = cx.caches.node_leases.lister().get(&Key::new(LEASES, &key.name));
    let now = now();
    let heard = last_heard(&node, lease.as_deref());
    let silent_for = u64::try_from(now.duration_since(heard).as_secs()).unwrap_or(0);
    let grace = cx.args.node_monitor_grace_period.as_secs();
    let silent = silent_for > grace;
    if silent && give_up(cx, &node, now).await? {
        return Ok(Action::RequeueAfter(Duration::from_millis(10)));
    }
    let taints = wanted_taints(&node, now);
    if taints != node.spec.taints {
        write_taints(cx, &node, &taints).await?;
    }
    let ready = condition(&node.status.conditions, "Ready").is_some_and(Condition::is_true);
    if !ready {
        mark_pods_not_ready(cx, &node).await?;
    }
    if silent {
        return Ok(Action::Done);
    }
    Ok(Action::RequeueAfter(Duration::from_secs(grace.saturating_sub(silent_for) + 1)))
}

/// When the kubelet last showed life: by its lease, its heartbeat, or the node's creation.
fn last_heard(node: &Node, lease: Option<&Lease>) -> Timestamp {
    let renewed = lease.and_then(|it| it.spec.renew_time.as_ref()).map(|time| time.0);
    let beat = condition(&node.status.conditions, "Ready")
        .and_then(|it| it.last_heartbeat_time.as_ref())
        .map(|time| time.0);
    renewed.max(beat).unwrap_or(node.metadata.created()).max(node.metadata.created())
}

/// The kubelet fell silent: its conditions become unknown. Returns whether anything was written.
async fn give_up(cx: &Cx, node: &Node, now: Timestamp) -> Result<bool> {
    let mut conditions = Vec::new();
    for kind in REPORTED {
        let known = condition(&node.status.conditions, kind);
        if known.is_some_and(|it| it.status == "Unknown") {
            continue;
        }
        let (reason, message) = match known {
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        let mut unknown = Condition::new(kind, "Unknown", reason, message);
        unknown.last_heartbeat_time = known.and_then(|it| it.last_heartbeat_time.clone());
        unknown.last_transition_time = Some(Time(now));
        conditions.push(unknown);
    }
    if conditions.is_empty() {
        return Ok(false);
    }
    let key = node.metadata.key();
    let body = json!({"status": {"conditions": conditions}});
    match cx.rest.patch::<Node>(&NODES, &key, "status", Patch::Strategic, &body).await {
        Ok(updated) => cx.caches.nodes.observe(updated),
        Err(err) if is_not_found(&err) => return Ok(false),
        Err(err) => return Err(err).with_context(|| format!("updating status of node {key}")),
    }
    let about = ObjectReference::new(&NODES, &node.metadata);
    let message = format!("Node {} status is now: NodeNotReady", key.name);
    cx.recorder.named("node-controller").event(&about, EventType::Normal, "NodeNotReady", message);
    tracing::warn!(node = key.name, "Node stopped reporting");
    Ok(true)
}

/// The node's taints with those of this controller brought up to date.
fn wanted_taints(node: &Node, now: Timestamp) -> Vec<Taint> {
    let ready = condition(&node.status.conditions, "Ready").map(|it| it.status.as_str());
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    let key = match ready {
        Some("True") => None,
        Some("Unknown") => Some(UNREACHABLE),
        Some("False") => Some(NOT_READY),
        // Not reported yet: nothing may be placed here, nothing is driven away.
        _ => {
            wanted.push((NOT_READY, "NoSchedule"));
            None
        }
    };
    if let Some(key) = key {
        wanted.extend([(key, "NoSchedule"), (key, "NoExecute")]);
    }
    for (kind, key) in PRESSURES {
        if condition(&node.status.conditions, kind).is_some_and(Condition::is_true) {
            wanted.push((key, "NoSchedule"));
        }
    }
    if node.spec.unschedulable {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let ours = |taint: &Taint| {
        [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&taint.key.as_str())
            || PRESSURES.iter().any(|(_, key)| *key == taint.key)
            // The node is as initialised as it gets: there is no cloud.
            || taint.key == UNINITIALIZED
    };
    let keep = |taint: &&Taint| {
        !ours(taint) || wanted.contains(&(taint.key.as_str(), taint.effect.as_str()))
    };
    let mut taints: Vec<Taint> = node.spec.taints.iter().filter(keep).cloned().collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|it| it.key == key && it.effect == effect) {
            let time_added = Some(Time(now));
            taints.push(Taint {
                key: key.into(),
                value: String::new(),
                effect: effect.into(),
                time_added,
            });
        }
    }
    taints
}

async fn write_taints(cx: &Cx, node: &Node, taints: &[Taint]) -> Result<()> {
    let key = node.metadata.key();
    let body = json!({
        "metadata": {"resourceVersion": node.metadata.resource_version},
        "spec": {"taints": if taints.is_empty() { Value::Null } else { json!(taints) }},
    });
    match cx.rest.patch::<Node>(&NODES, &key, "", Patch::Merge, &body).await {
        Ok(updated) => cx.caches.nodes.observe(updated),
        Err(err) if is_not_found(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("tainting node {key}")),
    }
    Ok(())
}

/// Nobody reports for these pods any more: they must leave their Services.
async fn mark_pods_not_ready(cx: &Cx, node: &Node) -> Result<()> {
    let caches = &cx.caches;
    for pod in caches.pods.lister().by_index(caches.pods_by_node, &node.metadata.name) {
        if !pod.is_ready() || pod.is_finished() {
            continue;
        }
        let key = pod.metadata.key();
        let body = json!({
            "metadata": {"uid": pod.metadata.uid},
            "status": {"conditions": [{
                "type": "Ready", "status": "False", "lastTransitionTime": rfc3339(now()),
            }]},
        });
        match cx.rest.patch::<Pod>(&PODS, &key, "status", Patch::Strategic, &body).await {
            Ok(updated) => caches.pods.observe(updated),
            Err(err) if is_not_found(&err) || is_conflict(&err) => continue,
            Err(err) => return Err(err).with_context(|| format!("marking pod {key} not ready")),
        }
        let about = ObjectReference::new(&PODS, &pod.metadata);
        let recorder = cx.recorder.named("node-controller");
        recorder.event(&about, EventType::Warning, "NodeNotReady", "Node is not ready");
    }
    Ok(())
}

/// Eviction of pods from tainted nodes.
pub(crate) fn start_eviction(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    let filled = queue.clone();
    cx.caches.pods.on_event(move |event| {
        let placed = event.old().is_none_or(|old| old.spec.node_name.is_empty());
        if placed && !event.object().spec.node_name.is_empty() {
            filled.add(event.object().metadata.key());
        }
    });
    let (filled, pods, by_node) = (queue.clone(), cx.caches.pods.lister(), cx.caches.pods_by_node);
    cx.caches.nodes.on_event(move |event| {
        let node = event.object();
        if event.old().is_none_or(|old| old.spec.taints != node.spec.taints) {
            for pod in pods.by_index(by_node, &node.metadata.name) {
                filled.add(pod.metadata.key());
            }
        }
    });
    let shared = Arc::new(cx.clone());
    workers(cx, EVICTION, WORKERS, &queue, move |key| {
        let cx = Arc::clone(&shared);
        async move { evict(&cx, &key).await }
    })
}

async fn evict(cx: &Cx, key: &Key) -> Result<Action> {
    let Some(pod) = cx.caches.pods.lister().get(key) else { return Ok(Action::Done) };
    if pod.metadata.is_deleting() || pod.spec.node_name.is_empty() {
        return Ok(Action::Done);
    }
    let node = cx.caches.nodes.lister().get(&Key::cluster(pod.spec.node_name.clone()));
    let Some(node) = node else { return Ok(Action::Done) };
    let Some(left) = stay(&pod, &node, now()) else { return Ok(Action::Done) };
    if left > 0 {
        return Ok(Action::RequeueAfter(Duration::from_secs(left.unsigned_abs())));
    }
    let recorder = cx.recorder.named("taint-eviction-controller");
    let about = ObjectReference::new(&PODS, &pod.metadata);
    let message = format!("Marking for deletion Pod {key}");
    recorder.event(&about, EventType::Normal, "TaintManagerEviction", message);
    let body = json!({
        "metadata": {"uid": pod.metadata.uid},
        "status": {"conditions": [{
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": rfc3339(now()),
        }]},
    });
    match cx.rest.patch::<Pod>(&PODS, key, "status", Patch::Strategic, &body).await {
        Ok(updated) => cx.caches.pods.observe(updated),
        Err(err) if is_not_found(&err) => return Ok(Action::Done),
        Err(err) => return Err(err).with_context(|| format!("marking pod {key}")),
    }
    delete_quietly(cx, &pod).await.with_context(|| format!("evicting pod {key}"))?;
    Ok(Action::Done)
}

/// Seconds that the pod may stay; `None` for ever.
fn stay(pod: &Pod, node: &Node, now: Timestamp) -> Option<i64> {
    let taints = node.spec.taints.iter().filter(|taint| taint.effect == "NoExecute");
    let mut least = None;
    for taint in taints {
        let tolerated: Vec<_> =
            pod.spec.tolerations.iter().filter(|it| it.tolerates(taint)).collect();
        if tolerated.is_empty() {
            return Some(0);
        }
        let Some(seconds) = tolerated.iter().filter_map(|it| it.toleration_seconds).min() else {
            continue;
        };
        let since = taint.time_added.as_ref().map_or(now, |time| time.0);
        let left = (seconds - now.duration_since(since).as_secs()).max(0);
        least = Some(least.map_or(left, |least: i64| least.min(left)));
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::core::Toleration;

    fn node(ready: &str, taints: &[(&str, &str)]) -> Node {
        let mut node = Node::default();
        if !ready.is_empty() {
            node.status.conditions.push(Condition::new("Ready", ready, "", ""));
        }
        node.spec.taints = taints
            .iter()
            .map(|(key, effect)| Taint {
                key: (*key).into(),
                effect: (*effect).into(),
                time_added: Some(Time(Timestamp::UNIX_EPOCH)),
                ..Taint::default()
            })
            .collect();
        node
    }

    #[test]
    fn taints_follow_readiness() {
        let check = |ready: &str, before: &[(&str, &str)], want: &[(&str, &str)]| {
            let found = wanted_taints(&node(ready, before), Timestamp::UNIX_EPOCH);
            let found: Vec<_> =
                found.iter().map(|it| (it.key.as_str(), it.effect.as_str())).collect();
            assert_eq!(found, want, "{ready} {before:?}");
        };
        check(
            "True",
            &[(NOT_READY, "NoSchedule"), ("mine", "NoSchedule")],
            &[("mine", "NoSchedule")],
        );
        check("False", &[], &[(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]);
        check(
            "Unknown",
            &[(NOT_READY, "NoExecute")],
            &[(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")],
        );
        check("", &[], &[(NOT_READY, "NoSchedule")]);
        check("True", &[(UNINITIALIZED, "NoSchedule")], &[]);
    }

    #[test]
    fn pods_stay_as_long_as_they_tolerate() {
        let now = Timestamp::from_second(100).unwrap();
        let tainted = node("False", &[(NOT_READY, "NoExecute")]);
        let tolerating = |seconds: Option<i64>| {
            let mut pod = Pod::default();
            pod.spec.tolerations = vec![Toleration {
                key: NOT_READY.into(),
                operator: "Exists".into(),
                effect: "NoExecute".into(),
                toleration_seconds: seconds,
                ..Toleration::default()
            }];
            pod
        };
        assert_eq!(stay(&Pod::default(), &tainted, now), Some(0));
        assert_eq!(stay(&tolerating(None), &tainted, now), None);
        assert_eq!(stay(&tolerating(Some(300)), &tainted, now), Some(200));
        assert_eq!(stay(&tolerating(Some(60)), &tainted, now), Some(0));
        assert_eq!(stay(&Pod::default(), &node("True", &[]), now), None);
    }
}
