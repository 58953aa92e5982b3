//! StatefulSets: pods with names, claims and an order. `plan.rs` decides about pods, `claims.rs`
//! about what becomes of their claims.

mod claims;
mod plan;
#[cfg(test)]
mod simulation;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use client::{Action, EventType, HasMeta, Key, Patch, WorkQueue, is_not_found, now};
use serde_json::{Value, json};

use self::plan::{Which, plan};
use crate::{
    Cx, Running,
    caches::{PODS, STATEFUL_SETS, controller_key, owned_and_orphans},
    controllers::replicaset::next_available,
    ownership::claim_all,
    pod_control::{self, Owner, text},
    revisions::{self, Current, HASH, Of},
    types::{apps::StatefulSet, core::Pod},
    workers,
};

const NAME: &str = "statefulset-controller";
const WORKERS: usize = 4;
/// How soon to look again at a claim that goes with a pod's predecessor.
const STALE_CLAIM: Duration = Duration::from_secs(1);

pub(crate) fn start(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    let filled = queue.clone();
    cx.caches.stateful_sets.on_event(move |event| filled.add(event.object().metadata.key()));
    let (filled, sets) = (queue.clone(), cx.caches.stateful_sets.lister());
    cx.caches.pods.on_event(move |event| {
        for pod in event.old().into_iter().chain([event.object()]) {
            if let Some(key) = controller_key(pod.as_ref(), "StatefulSet") {
                filled.add(key);
            } else if pod.meta().controller().is_none() && !pod.metadata.labels.is_empty() {
                for set in sets.namespaced(&pod.metadata.namespace) {
                    if set.spec.selector.matches(&pod.metadata.labels) {
                        filled.add(set.metadata.key());
                    }
                }
            }
        }
    });
    let shared = Arc::new(cx.clone());
    workers(cx, NAME, WORKERS, &queue, move |key| {
        let cx = Arc::clone(&shared);
        async move { reconcile(&cx, &key).await }
    })
}

async fn reconcile(cx: &Cx, key: &Key) -> Result<Action> {
    let Some(set) = cx.caches.stateful_sets.lister().get(key) else { return Ok(Action::Done) };
    if set.spec.selector.is_empty() || set.metadata.is_deleting() {
        return Ok(Action::Done);
    }
    let caches = &cx.caches;
    let of = Of {
        resource: &STATEFUL_SETS,
        meta: &set.metadata,
        template: set.spec.template.as_ref(),
        labels: &set.spec.selector.match_labels,
        collisions: set.status.collision_count,
    };
    let update = revisions::current(cx, &of).await?;
    let current = current_revision(cx, &set, &update);
    let candidates: Vec<Arc<Pod>> = owned_and_orphans(
        &caches.pods.lister(),
        caches.pods_by_owner,
        &set.metadata.uid,
        &key.namespace,
    )
    .into_iter()
    .filter(|pod| plan::ordinal(&set, pod).is_some())
    .collect();
    let owner = (&STATEFUL_SETS, &set.metadata);
    let pods = claim_all(cx, owner, &set.spec.selector, &caches.pods, candidates).await?;
    let plan = plan(&set, &pods, (&current.name, &update.name), now());

    let recorder = cx.recorder.named(NAME);
    let owner = Owner { resource: &STATEFUL_SETS, meta: &set.metadata, recorder: &recorder };
    write_status(cx, &set, &plan.status).await?;
    for pod in &pods {
        claims::retain(cx, &set, pod).await?;
    }
    for pod in &plan.delete {
        delete(cx, &owner, pod).await?;
    }
    let mut again = next_available(&pods, set.spec.min_ready_seconds, now());
    for (ordinal, which) in plan.create {
        let revision = if which == Which::Current { &current } else { &update };
        again = again.min(create(cx, &owner, &set, ordinal, revision).await?);
    }
    let mut used: BTreeSet<String> =
        pods.iter().filter_map(|pod| pod.metadata.labels.get(HASH).cloned()).collect();
    used.extend([current.name, update.name]);
    revisions::clean_up(cx, &set.metadata.uid, &used, set.spec.revision_history_limit).await?;
    Ok(again)
}

/// The revision that the status calls current, as long as it exists.
fn current_revision(cx: &Cx, set: &StatefulSet, update: &Current) -> Current {
    let known = revisions::list(cx, &set.metadata.uid);
    let named = known.iter().find(|it| it.metadata.name == set.status.current_revision);
    named.map_or_else(
        || update.clone(),
        |it| Current {
            name: it.metadata.name.clone(),
            hash: it.metadata.labels.get(HASH).cloned().unwrap_or_default(),
        },
    )
}

async fn create(
    cx: &Cx,
    owner: &Owner<'_>,
    set: &StatefulSet,
    ordinal: i32,
    revision: &Current,
) -> Result<Action> {
    let name = format!("{}-{ordinal}", set.metadata.name);
    let namespace = &set.metadata.namespace;
    if !claims::ensure(cx, owner, set, &name).await? {
        return Ok(Action::RequeueAfter(STALE_CLAIM));
    }
    let mut pod = pod_control::from_template(set.spec.template.as_ref(), owner)?;
    let known = revisions::list(cx, &set.metadata.uid);
    let stored = known.iter().find(|it| it.metadata.name == revision.name);
    if let Some(template) = stored.and_then(|it| revisions::template(it)) {
        pod["spec"] = template["spec"].clone();
        for part in ["labels", "annotations"] {
            pod["metadata"][part] = template["metadata"][part].clone();
        }
    }
    let pod = identity(pod, set, ordinal, &name, &revision.name);
    match cx.rest.create::<Pod>(&PODS, namespace, &pod).await {
        Ok(made) => {
            cx.caches.pods.observe(made);
            let message =
                format!("create Pod {name} in StatefulSet {} successful", set.metadata.name);
            owner.event(EventType::Normal, "SuccessfulCreate", message);
            Ok(Action::Done)
        }
        Err(err) => {
            let set = &set.metadata.name;
            let message =
                format!("create Pod {name} in StatefulSet {set} failed error: {}", text(&err));
            owner.event(EventType::Warning, "FailedCreate", message);
            Err(err).with_context(|| format!("creating pod {namespace}/{name}"))
        }
    }
}

/// Name, labels, host name and claims of one ordinal. Unlike a DaemonSet's, the label of the
/// revision is its whole name.
fn identity(mut pod: Value, set: &StatefulSet, ordinal: i32, name: &str, revision: &str) -> Value {
    if let Some(metadata) = pod["metadata"].as_object_mut() {
        metadata.remove("generateName");
    }
    pod["metadata"]["name"] = json!(name);
    pod["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"] = json!(name);
    pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"] = json!(ordinal.to_string());
    pod["metadata"]["labels"][HASH] = json!(revision);
    pod["spec"]["hostname"] = json!(name);
    pod["spec"]["subdomain"] = json!(set.spec.service_name);
    let mut volumes = pod["spec"]["volumes"].as_array().cloned().unwrap_or_default();
    for claim in &set.spec.volume_claim_templates {
        let template = &claim["metadata"]["name"];
        volumes.retain(|it| it["name"] != *template);
        volumes.push(json!({
            "name": template,
            "persistentVolumeClaim": {"claimName": claims::name(claim, name)},
        }));
    }
    if !volumes.is_empty() {
        pod["spec"]["volumes"] = json!(volumes);
    }
    pod
}

async fn delete(cx: &Cx, owner: &Owner<'_>, pod: &Pod) -> Result<()> {
    let (name, set) = (&pod.metadata.name, &owner.meta.name);
    let gone = pod_control::delete_quietly(cx, pod)
        .await
        .with_context(|| format!("deleting pod {}", pod.metadata.key()))?;
    if gone {
        let message = format!("delete Pod {name} in StatefulSet {set} successful");
        owner.event(EventType::Normal, "SuccessfulDelete", message);
    }
    Ok(())
}

async fn write_status(
    cx: &Cx,
    set: &StatefulSet,
    status: &crate::types::apps::StatefulSetStatus,
) -> Result<()> {
    if set.status == *status {
        return Ok(());
    }
    let key = set.metadata.key();
    let body = json!({"metadata": {"uid": set.metadata.uid}, "status": status});
    match cx.rest.patch::<StatefulSet>(&STATEFUL_SETS, &key, "status", Patch::Merge, &body).await {
        Ok(updated) => cx.caches.stateful_sets.observe(updated),
        Err(err) if is_not_found(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("updating status of {key}")),
    }
    Ok(())
}
