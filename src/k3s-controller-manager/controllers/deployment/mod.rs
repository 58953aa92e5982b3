//! Deployments: ReplicaSets of one template each, moved from the old to the new.
//!
//! `plan.rs` decides (rolling, recreate, proportional scaling), `status.rs` computes status and
//! conditions, this file performs. One pass makes one kind of change and is called again by the
//! change's own event.

mod plan;
mod rollback;
#[cfg(test)]
mod simulation;
mod status;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use client::{
    Action, EventType, HasMeta, Key, Labels, ObjectReference, Patch, Preconditions, Propagation,
    WorkQueue, is_already_exists, is_namespace_terminating, is_not_found, now,
};
use serde_json::{Value, json};

use crate::{
    Cx, Running,
    caches::{DEPLOYMENTS, REPLICA_SETS, controller_key, owned_and_orphans},
    hash::template_hash,
    ownership::{claim_all, controller_ref},
    pod_control::text,
    types::apps::{Deployment, ReplicaSet},
    workers,
};
use plan::Scale;
use status::New;

const NAME: &str = "deployment-controller";
const WORKERS: usize = 8;
const HASH: &str = "pod-template-hash";
pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(crate) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(crate) const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// How long the annotation with a set's former revisions may get.
const HISTORY_LENGTH: usize = 2000;
/// The longest name that an object may have.
const NAME_LENGTH: usize = 253;
/// Annotations of a Deployment that its ReplicaSets do not get.
const NOT_COPIED: [&str; 5] = [REVISION, HISTORY, DESIRED, MAX, rollback::TO];

/// A Deployment's ReplicaSets: the one of the current template, and the others, oldest first.
pub(crate) struct Sets {
    pub(crate) new: Option<Arc<ReplicaSet>>,
    pub(crate) old: Vec<Arc<ReplicaSet>>,
}

impl Sets {
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(&self.new)
    }
}

pub(crate) fn start(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    let filled = queue.clone();
    cx.caches.deployments.on_event(move |event| filled.add(event.object().metadata.key()));
    let (filled, deployments) = (queue.clone(), cx.caches.deployments.lister());
    cx.caches.replica_sets.on_event(move |event| {
        for set in event.old().into_iter().chain([event.object()]) {
            if let Some(key) = controller_key(set.as_ref(), "Deployment") {
                filled.add(key);
            } else if set.meta().controller().is_none() {
                for deployment in deployments.namespaced(&set.metadata.namespace) {
                    if deployment.spec.selector.matches(&set.metadata.labels) {
                        filled.add(deployment.metadata.key());
                    }
                }
            }
        }
    });
    // Recreate waits for the last old pod to be gone.
    let (filled, sets) = (queue.clone(), cx.caches.replica_sets.lister());
    cx.caches.pods.on_event(move |event| {
        let finished = matches!(event, client::Event::Deleted(_)) || event.object().is_finished();
        if finished
            && let Some(key) = controller_key(event.object().as_ref(), "ReplicaSet")
            && let Some(set) = sets.get(&key)
            && let Some(key) = controller_key(set.as_ref(), "Deployment")
        {
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
    let Some(deployment) = cx.caches.deployments.lister().get(key) else {
        return Ok(Action::Done);
    };
    let d = deployment.as_ref();
    if d.spec.selector.is_empty() {
        let about = ObjectReference::new(&DEPLOYMENTS, &d.metadata);
        let message = "This deployment is selecting all pods. A non-empty selector is required.";
        cx.recorder.named(NAME).event(&about, EventType::Warning, "SelectingAll", message);
        if d.status.observed_generation < d.metadata.generation {
            let seen = json!({"status": {"observedGeneration": d.metadata.generation}});
            write_status(cx, d, seen).await?;
        }
        return Ok(Action::Done);
    }
    let template: Value = match &d.spec.template {
        Some(raw) => serde_json::from_str(raw.get()).context("parsing the pod template")?,
        None => Value::Null,
    };
    let caches = &cx.caches;
    let candidates = owned_and_orphans(
        &caches.replica_sets.lister(),
        caches.replica_sets_by_owner,
        &d.metadata.uid,
        &key.namespace,
    );
    let owner = (&DEPLOYMENTS, &d.metadata);
    let claimed = claim_all(cx, owner, &d.spec.selector, &caches.replica_sets, candidates).await?;
    let mut sets = split(&template, claimed);
    if d.metadata.is_deleting() {
        return finish(cx, d, &sets).await;
    }
    if let Some(to) = rollback::wanted(d).filter(|_| !d.spec.paused) {
        let Rollout::Sets(sets) = with_new(cx, d, &template, sets).await? else {
            return Ok(Action::Done);
        };
        rollback::perform(cx, d, &template, &sets, to).await?;
        return Ok(Action::Done);
    }
    if d.spec.paused || plan::is_scaling(d, &sets) {
        if let Some(new) = &sets.new {
            sets.new = Some(annotate(cx, d, new, &sets).await?);
        }
        let scales = plan::proportional(d, &sets);
        apply(cx, d, &scales).await?;
        let sets = refreshed(cx, sets);
        if d.spec.paused {
            clean_up(cx, d, &sets).await?;
        }
        return finish(cx, d, &sets).await;
    }
    if d.spec.strategy.kind == "Recreate" {
        return recreate(cx, d, &template, sets).await;
    }
    let sets = match with_new(cx, d, &template, sets).await? {
        Rollout::Sets(sets) => sets,
        Rollout::Again(action) => return Ok(action),
    };
    let scales = plan::rolling(d, &sets);
    apply(cx, d, &scales).await?;
    let sets = refreshed(cx, sets);
    if scales.is_empty() && status::is_complete(d, &status::compute(d, &sets, now())) {
        clean_up(cx, d, &sets).await?;
    }
    finish(cx, d, &sets).await
}

async fn recreate(cx: &Cx, d: &Deployment, template: &Value, sets: Sets) -> Result<Action> {
    let scales = plan::recreate_down(&sets);
    if !scales.is_empty() {
        apply(cx, d, &scales).await?;
        return finish(cx, d, &refreshed(cx, sets)).await;
    }
    let caches = &cx.caches;
    let pods = caches.pods.lister();
    let running = sets.old.iter().any(|set| {
        pods.by_index(caches.pods_by_owner, &set.metadata.uid).iter().any(|pod| !pod.is_finished())
    });
    if running {
        return finish(cx, d, &sets).await;
    }
    let sets = match with_new(cx, d, template, sets).await? {
        Rollout::Sets(sets) => sets,
        Rollout::Again(action) => return Ok(action),
    };
    let scales = plan::recreate_up(d, &sets);
    apply(cx, d, &scales).await?;
    let sets = refreshed(cx, sets);
    if status::is_complete(d, &status::compute(d, &sets, now())) {
        clean_up(cx, d, &sets).await?;
    }
    finish(cx, d, &sets).await
}

/// Writes the status if it changed; says when progress must be looked at again.
async fn finish(cx: &Cx, d: &Deployment, sets: &Sets) -> Result<Action> {
    let status = status::compute(d, sets, now());
    if status != d.status {
        let body = json!({
            "metadata": {"resourceVersion": d.metadata.resource_version},
            "status": status,
        });
        write_status(cx, d, body).await?;
    }
    Ok(status::deadline(d, &status, now()))
}

/// Patches the status; a Deployment that is gone needs none.
async fn write_status(cx: &Cx, d: &Deployment, body: Value) -> Result<()> {
    let key = d.metadata.key();
    match cx.rest.patch::<Deployment>(&DEPLOYMENTS, &key, "status", Patch::Merge, &body).await {
        Ok(updated) => cx.caches.deployments.observe(updated),
        Err(err) if is_not_found(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("updating status of {key}")),
    }
    Ok(())
}

/// The ReplicaSets again, as the cache has them after writes.
fn refreshed(cx: &Cx, sets: Sets) -> Sets {
    let lister = cx.caches.replica_sets.lister();
    let again = |set: &Arc<ReplicaSet>| lister.get(&set.metadata.key());
    Sets {
        new: sets.new.as_ref().and_then(again),
        old: sets.old.iter().filter_map(again).collect(),
    }
}

/// Finds the ReplicaSet of the current template: the oldest whose template is equal when the hash
/// label is ignored.
fn split(template: &Value, mut sets: Vec<Arc<ReplicaSet>>) -> Sets {
    sets.sort_by_key(|set| (set.metadata.created(), set.metadata.name.clone()));
    let same = |set: &Arc<ReplicaSet>| {
        let raw = set.spec.template.as_ref();
        let other: Value =
            raw.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or(Value::Null);
        without_hash(&other) == without_hash(template)
    };
    let at = sets.iter().position(same);
    let new = at.map(|at| sets.remove(at));
    Sets { new, old: sets }
}

fn without_hash(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(HASH);
    }
    if let Some(metadata) = template.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        metadata.remove("creationTimestamp");
    }
    template
}

fn revision(set: &ReplicaSet) -> i64 {
    set.metadata.annotation(REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// What making sure of the new ReplicaSet comes to.
enum Rollout {
    Sets(Sets),
    /// This pass ends here.
    Again(Action),
}

/// The Deployment was written: its own event brings the next pass, this one only makes sure.
const SOON: Rollout = Rollout::Again(Action::RequeueAfter(Duration::from_millis(5)));

/// Makes sure that the new ReplicaSet exists and carries the right annotations, and the Deployment
/// its revision and what it says about its progress.
async fn with_new(cx: &Cx, d: &Deployment, template: &Value, sets: Sets) -> Result<Rollout> {
    let (new, made) = match &sets.new {
        Some(new) => (annotate(cx, d, new, &sets).await?, false),
        None => match create(cx, d, template, &sets).await? {
            Created::Set(new) => (new, true),
            Created::Collided => return Ok(SOON),
            // The namespace is ending, or gone: nothing that a retry would change.
            Created::Never => return Ok(Rollout::Again(Action::Done)),
        },
    };
    let name = new.metadata.name.as_str();
    let said = if made { New::Made(name) } else { New::Found(name) };
    let conditions = status::announced(d, &said, now());
    let revision = new.metadata.annotation(REVISION).unwrap_or_default();
    let known = d.metadata.annotation(REVISION) == Some(revision);
    if known && conditions.is_none() {
        return Ok(Rollout::Sets(Sets { new: Some(new), old: sets.old }));
    }
    let mut body = json!({"metadata": {"annotations": {REVISION: revision}}});
    if let Some(conditions) = conditions {
        body["metadata"]["resourceVersion"] = json!(d.metadata.resource_version);
        body["status"]["conditions"] = json!(conditions);
    }
    write_status(cx, d, body).await?;
    Ok(SOON)
}

/// The annotations that the new ReplicaSet must have.
fn annotations(d: &Deployment, sets: &Sets) -> Labels {
    let newest = sets.old.iter().map(|set| revision(set)).max().unwrap_or(0);
    let mut wanted: Labels = d
        .metadata
        .annotations
        .iter()
        .filter(|(name, _)| !NOT_COPIED.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let own = sets.new.as_ref().map_or(0, |set| revision(set));
    let current = if own > newest { own } else { newest.saturating_add(1) };
    wanted.insert(REVISION.into(), current.to_string());
    if own != 0 && own != current {
        let history = sets.new.as_ref().and_then(|set| set.metadata.annotation(HISTORY));
        wanted.insert(HISTORY.into(), longer_history(history.unwrap_or_default(), own));
    }
    wanted
}

/// The history of a set with one more revision; the oldest go when it gets too long.
fn longer_history(text: &str, revision: i64) -> String {
    let mut all: VecDeque<String> =
        text.split(',').filter(|it| !it.is_empty()).map(str::to_owned).collect();
    all.push_back(revision.to_string());
    let mut length = all.iter().map(String::len).sum::<usize>() + all.len() - 1;
    while length > HISTORY_LENGTH
        && let Some(oldest) = all.pop_front()
    {
        length -= oldest.len() + 1;
    }
    Vec::from(all).join(",")
}

async fn annotate(
    cx: &Cx,
    d: &Deployment,
    new: &Arc<ReplicaSet>,
    sets: &Sets,
) -> Result<Arc<ReplicaSet>> {
    let wanted = annotations(d, sets);
    let missing: Labels = wanted
        .into_iter()
        .filter(|(name, value)| new.metadata.annotation(name) != Some(value))
        .collect();
    if missing.is_empty() && new.spec.min_ready_seconds == d.spec.min_ready_seconds {
        return Ok(Arc::clone(new));
    }
    let key = new.metadata.key();
    let body = json!({
        "metadata": {"annotations": missing},
        "spec": {"minReadySeconds": d.spec.min_ready_seconds},
    });
    let updated: ReplicaSet = cx
        .rest
        .patch(&REPLICA_SETS, &key, "", Patch::Merge, &body)
        .await
        .with_context(|| format!("annotating replica set {key}"))?;
    cx.caches.replica_sets.observe(updated);
    Ok(cx.caches.replica_sets.lister().get(&key).unwrap_or_else(|| Arc::clone(new)))
}

async fn create(cx: &Cx, d: &Deployment, template: &Value, sets: &Sets) -> Result<Created> {
    let hash = template_hash(template, d.status.collision_count);
    let name = set_name(&d.metadata.name, &hash);
    let key = Key::new(&d.metadata.namespace, &name);
    let mut template = template.clone();
    template["metadata"]["labels"][HASH] = json!(hash);
    let mut selector = d.spec.selector.clone();
    selector.match_labels.insert(HASH.into(), hash);
    let replicas = plan::new_replicas(d, sets);
    let mut annotations = annotations(d, sets);
    annotations.insert(DESIRED.into(), plan::replicas(d).to_string());
    annotations.insert(MAX.into(), (plan::replicas(d) + plan::max_surge(d)).to_string());
    let body = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {
            "name": name, "namespace": key.namespace,
            "labels": template["metadata"]["labels"],
            "annotations": annotations,
            "ownerReferences": [controller_ref(&DEPLOYMENTS, &d.metadata)],
        },
        "spec": {
            "replicas": replicas,
            "minReadySeconds": d.spec.min_ready_seconds,
            "selector": selector,
            "template": template,
        },
    });
    let recorder = cx.recorder.named(NAME);
    let about = ObjectReference::new(&DEPLOYMENTS, &d.metadata);
    match cx.rest.create::<ReplicaSet>(&REPLICA_SETS, &key.namespace, &body).await {
        Ok(set) => {
            cx.caches.replica_sets.observe(set);
            if replicas > 0 {
                let message = format!("Scaled up replica set {name} from 0 to {replicas}");
                recorder.event(&about, EventType::Normal, "ScalingReplicaSet", message);
            }
            Ok(cx.caches.replica_sets.lister().get(&key).map_or(Created::Never, Created::Set))
        }
        Err(err) if is_already_exists(&err) => {
            collide(cx, d, &key).await.map(|()| Created::Collided)
        }
        Err(err) if is_not_found(&err) || is_namespace_terminating(&err) => Ok(Created::Never),
        Err(err) => {
            let message = format!("Failed to create new replica set {name:?}: {}", text(&err));
            if let Some(conditions) = status::announced(d, &New::Refused(&message), now()) {
                let body = json!({
                    "metadata": {"resourceVersion": d.metadata.resource_version},
                    "status": {"conditions": conditions},
                });
                write_status(cx, d, body).await?;
            }
            recorder.event(&about, EventType::Warning, status::CREATE_ERROR, message);
            Err(err).with_context(|| format!("creating replica set {key}"))
        }
    }
}

/// What making a ReplicaSet came to.
enum Created {
    Set(Arc<ReplicaSet>),
    /// The next pass knows the set, or takes another name.
    Collided,
    Never,
}

/// The name of a ReplicaSet: the Deployment's, shortened when it must be, and the hash.
fn set_name(deployment: &str, hash: &str) -> String {
    let most = NAME_LENGTH.saturating_sub(hash.len() + 1);
    let start = deployment.get(..most).unwrap_or(deployment);
    format!("{start}-{hash}")
}

/// The name is taken: by our own set that the cache does not know yet, or by another's, in which
/// case the hash gets another seed.
async fn collide(cx: &Cx, d: &Deployment, key: &Key) -> Result<()> {
    let live: ReplicaSet =
        cx.rest.get(&REPLICA_SETS, key).await.with_context(|| format!("reading {key}"))?;
    if live.metadata.controller().is_some_and(|owner| owner.uid == d.metadata.uid) {
        cx.caches.replica_sets.observe(live);
        let live: Deployment = cx.rest.get(&DEPLOYMENTS, &d.metadata.key()).await?;
        if live.metadata.resource_version == d.metadata.resource_version {
            let known = cx.caches.replica_sets.lister().get(key);
            if known.is_some_and(|set| matches(d, &set)) {
                return Ok(());
            }
        } else {
            return Ok(());
        }
    }
    let count = d.status.collision_count.unwrap_or(0) + 1;
    let body = json!({
        "metadata": {"resourceVersion": d.metadata.resource_version},
        "status": {"collisionCount": count},
    });
    let at = d.metadata.key();
    let updated: Deployment = cx
        .rest
        .patch(&DEPLOYMENTS, &at, "status", Patch::Merge, &body)
        .await
        .with_context(|| format!("raising the collision count of {at}"))?;
    cx.caches.deployments.observe(updated);
    Ok(())
}

fn matches(d: &Deployment, set: &Arc<ReplicaSet>) -> bool {
    let template: Option<Value> =
        d.spec.template.as_ref().and_then(|raw| serde_json::from_str(raw.get()).ok());
    template.is_some_and(|template| split(&template, vec![Arc::clone(set)]).new.is_some())
}

/// Performs scalings, and keeps the size annotations of every ReplicaSet concerned.
async fn apply(cx: &Cx, d: &Deployment, scales: &[Scale]) -> Result<()> {
    let recorder = cx.recorder.named(NAME);
    let about = ObjectReference::new(&DEPLOYMENTS, &d.metadata);
    for Scale { set, to } in scales {
        let key = set.metadata.key();
        let from = set.replicas();
        let mut body = json!({
            "metadata": {
                "resourceVersion": set.metadata.resource_version,
                "annotations": {
                    DESIRED: plan::replicas(d).to_string(),
                    MAX: (plan::replicas(d) + plan::max_surge(d)).to_string(),
                },
            },
        });
        if from != *to {
            body["spec"]["replicas"] = json!(to);
        }
        let updated: ReplicaSet = cx
            .rest
            .patch(&REPLICA_SETS, &key, "", Patch::Merge, &body)
            .await
            .with_context(|| format!("scaling replica set {key}"))?;
        cx.caches.replica_sets.observe(updated);
        if from != *to {
            let direction = if from < *to { "up" } else { "down" };
            let name = &set.metadata.name;
            let message = format!("Scaled {direction} replica set {name} from {from} to {to}");
            recorder.event(&about, EventType::Normal, "ScalingReplicaSet", message);
        }
    }
    Ok(())
}

/// Deletes old ReplicaSets beyond the history limit.
async fn clean_up(cx: &Cx, d: &Deployment, sets: &Sets) -> Result<()> {
    for set in plan::surplus_history(d, sets) {
        let when = Preconditions { uid: &set.metadata.uid, ..Preconditions::default() };
        let key = set.metadata.key();
        match cx.rest.delete(&REPLICA_SETS, &key, Propagation::Background, when).await {
            Ok(()) => cx.caches.replica_sets.observe_deleted(&key, &set.metadata.uid),
            Err(err) if is_not_found(&err) => {}
            Err(err) => return Err(err).with_context(|| format!("deleting replica set {key}")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_loses_its_oldest_revisions_when_it_is_too_long() {
        let check = |text: &str, revision, want: &str| {
            assert_eq!(longer_history(text, revision), want);
        };
        check("", 1, "1");
        check("1,3", 5, "1,3,5");
        let long = vec!["1000"; 400].join(",");
        check(&long, 2000, &format!("{},2000", vec!["1000"; 399].join(",")));
    }

    #[test]
    fn long_names_are_shortened_to_fit_the_hash() {
        let check = |length: usize, want: usize| {
            let name = set_name(&"d".repeat(length), "abcdefghij");
            assert!(name.ends_with("d-abcdefghij"));
            assert_eq!(name.len(), want);
        };
        check(5, 16);
        check(242, 253);
        check(253, 253);
    }
}
