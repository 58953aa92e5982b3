//! DaemonSets: one pod on every node that the template fits. `plan.rs` decides.

mod plan;

use std::{collections::BTreeSet, sync::Arc};

use anyhow::{Context, Result};
use client::{Action, EventType, Key, Labels, Patch, WorkQueue, is_not_found, now};
use serde_json::{Value, json};

use crate::{
    Cx, Running,
    caches::{DAEMON_SETS, controller_key, owned_and_orphans},
    controllers::replicaset::next_available,
    ownership::claim_all,
    pod_control::{self, Owner},
    revisions::{self, HASH, Of},
    types::{apps::DaemonSet, core::Pod},
    workers,
};

const NAME: &str = "daemonset-controller";
const WORKERS: usize = 4;

pub(crate) fn start(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    let filled = queue.clone();
    cx.caches.daemon_sets.on_event(move |event| filled.add(event.object().metadata.key()));
    let filled = queue.clone();
    cx.caches.pods.on_event(move |event| {
        for pod in event.old().into_iter().chain([event.object()]) {
            if let Some(key) = controller_key(pod.as_ref(), "DaemonSet") {
                filled.add(key);
            }
        }
    });
    let (filled, sets) = (queue.clone(), cx.caches.daemon_sets.lister());
    cx.caches.nodes.on_event(move |event| {
        let node = event.object();
        let relevant = matches!(event, client::Event::Deleted(_))
            || event.old().is_none_or(|old| {
                old.metadata.labels != node.metadata.labels || old.spec.taints != node.spec.taints
            });
        if relevant {
            sets.for_each(|set| filled.add(set.metadata.key()));
        }
    });
    let shared = Arc::new(cx.clone());
    workers(cx, NAME, WORKERS, &queue, move |key| {
        let cx = Arc::clone(&shared);
        async move { reconcile(&cx, &key).await }
    })
}

async fn reconcile(cx: &Cx, key: &Key) -> Result<Action> {
    let Some(set) = cx.caches.daemon_sets.lister().get(key) else { return Ok(Action::Done) };
    if set.metadata.is_deleting() || set.spec.selector.is_empty() {
        return Ok(Action::Done);
    }
    let caches = &cx.caches;
    let template: Value = match &set.spec.template {
        Some(raw) => serde_json::from_str(raw.get()).context("parsing the pod template")?,
        None => json!({}),
    };
    let labels: Labels =
        serde_json::from_value(template["metadata"]["labels"].clone()).unwrap_or_default();
    let of = Of {
        resource: &DAEMON_SETS,
        meta: &set.metadata,
        template: set.spec.template.as_ref(),
        labels: &labels,
        collisions: set.status.collision_count,
    };
    let current = revisions::current(cx, &of).await?;
    let candidates = owned_and_orphans(
        &caches.pods.lister(),
        caches.pods_by_owner,
        &set.metadata.uid,
        &key.namespace,
    );
    let owner = (&DAEMON_SETS, &set.metadata);
    let pods = claim_all(cx, owner, &set.spec.selector, &caches.pods, candidates).await?;
    let nodes = caches.nodes.lister().list();
    let plan = plan::plan(&set, &template, &current.hash, &nodes, &pods, target, now());

    let recorder = cx.recorder.named(NAME);
    let owner = Owner { resource: &DAEMON_SETS, meta: &set.metadata, recorder: &recorder };
    write_status(cx, &set, &plan.status).await?;
    for pod in &plan.failed {
        let (pod_key, node) = (pod.metadata.key(), &pod.spec.node_name);
        let message =
            format!("Found failed daemon pod {pod_key} on node {node}, will try to kill it");
        owner.event(EventType::Warning, "FailedDaemonPod", message);
    }
    pod_control::delete_many(cx, &owner, plan.failed).await?;
    pod_control::delete_many(cx, &owner, plan.delete).await?;
    if !plan.create.is_empty() {
        let pod = pod_control::from_template(set.spec.template.as_ref(), &owner)?;
        let bodies =
            plan.create.iter().map(|node| plan::body(pod.clone(), node, &current.hash)).collect();
        pod_control::create_many(cx, &owner, bodies).await.1?;
    }
    let mut used: BTreeSet<String> =
        pods.iter().filter_map(|pod| pod.metadata.labels.get(HASH).cloned()).collect();
    used.insert(current.hash);
    revisions::clean_up(cx, &set.metadata.uid, &used, set.spec.revision_history_limit).await?;
    Ok(next_available(&pods, set.spec.min_ready_seconds, now()))
}

/// The node that a pod is on, or that its affinity names.
fn target(pod: &Pod) -> Option<String> {
    if !pod.spec.node_name.is_empty() {
        return Some(pod.spec.node_name.clone());
    }
    let path = "/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";
    let name = pod.spec.affinity.as_ref()?.pointer(path)?.as_str()?;
    Some(name.to_owned())
}

async fn write_status(
    cx: &Cx,
    set: &DaemonSet,
    status: &crate::types::apps::DaemonSetStatus,
) -> Result<()> {
    if set.status == *status {
        return Ok(());
    }
    let key = set.metadata.key();
    let body = json!({"metadata": {"uid": set.metadata.uid}, "status": status});
    match cx.rest.patch::<DaemonSet>(&DAEMON_SETS, &key, "status", Patch::Merge, &body).await {
        Ok(updated) => cx.caches.daemon_sets.observe(updated),
        Err(err) if is_not_found(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("updating status of {key}")),
    }
    Ok(())
}
