//! Making and deleting pods for a controller: from a template, with events, and with the answers
//! taken into the cache so that the next reconciliation counts them.

use std::sync::Arc;

use anyhow::{Context, Result};
use client::{
    EventType, Meta, ObjectReference, OwnerReference, Preconditions, Propagation, Raw, Recorder,
    Resource, is_namespace_terminating, is_not_found,
};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use crate::{Cx, caches::PODS, types::core::Pod};

/// Creations in flight at once, for one controller object.
const PARALLEL: usize = 16;

/// The controller object on whose behalf pods are made.
pub(crate) struct Owner<'a> {
    pub resource: &'a Resource,
    pub meta: &'a Meta,
    pub recorder: &'a Recorder,
}

impl Owner<'_> {
    pub(crate) fn reference(&self) -> ObjectReference {
        ObjectReference::new(self.resource, self.meta)
    }

    pub(crate) fn event(&self, kind: EventType, reason: &str, message: String) {
        self.recorder.event(&self.reference(), kind, reason, message);
    }
}

/// A Pod from a template: metadata and spec copied, controlled by the owner, `generateName` from
/// the owner's name.
pub(crate) fn from_template(template: Option<&Raw>, owner: &Owner<'_>) -> Result<Value> {
    let template: Value = match template {
        Some(raw) => serde_json::from_str(raw.get()).context("parsing the pod template")?,
        None => json!({}),
    };
    let reference: OwnerReference = crate::ownership::controller_ref(owner.resource, owner.meta);
    let mut metadata = json!({
        "namespace": owner.meta.namespace,
        "generateName": format!("{}-", owner.meta.name),
        "ownerReferences": [reference],
    });
    for part in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template.pointer(&format!("/metadata/{part}")) {
            metadata[part] = value.clone();
        }
    }
    let spec = template.get("spec").cloned().unwrap_or_else(|| json!({}));
    Ok(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}))
}

/// Creates pods in growing batches (1, 2, 4 …), so that a refusal is met once and not a hundred
/// times. Returns how many were made and the first error.
pub(crate) async fn create_many(
    cx: &Cx,
    owner: &Owner<'_>,
    pods: Vec<Value>,
) -> (usize, Result<()>) {
    let mut made = 0;
    let mut batch = 1;
    let mut pods = pods.into_iter();
    loop {
        let next: Vec<Value> = pods.by_ref().take(batch).collect();
        if next.is_empty() {
            return (made, Ok(()));
        }
        let outcomes: Vec<Result<bool>> = stream::iter(next)
            .map(|pod| create(cx, owner, pod))
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        made += outcomes.iter().filter(|outcome| matches!(outcome, Ok(true))).count();
        let ending = outcomes.iter().any(|outcome| matches!(outcome, Ok(false)));
        if let Some(err) = outcomes.into_iter().find_map(Result::err) {
            return (made, Err(err));
        }
        if ending {
            return (made, Ok(()));
        }
        batch *= 2;
    }
}

/// Creates one pod; `false` when the namespace is ending, which no retry changes.
async fn create(cx: &Cx, owner: &Owner<'_>, pod: Value) -> Result<bool> {
    match cx.rest.create::<Pod>(&PODS, &owner.meta.namespace, &pod).await {
        Ok(pod) => {
            let message = format!("Created pod: {}", pod.metadata.name);
            cx.caches.pods.observe(pod);
            owner.event(EventType::Normal, "SuccessfulCreate", message);
            Ok(true)
        }
        Err(err) if is_namespace_terminating(&err) => Ok(false),
        Err(err) => {
            let message = format!("Error creating: {}", text(&err));
            owner.event(EventType::Warning, "FailedCreate", message);
            Err(err).context("creating a pod")
        }
    }
}

/// Deletes pods, several at once. A pod that is gone already is fine.
pub(crate) async fn delete_many(cx: &Cx, owner: &Owner<'_>, pods: Vec<Arc<Pod>>) -> Result<()> {
    stream::iter(pods.into_iter().map(Ok))
        .try_for_each_concurrent(PARALLEL, |pod| async move { delete(cx, owner, &pod).await })
        .await
}

/// Deletes one pod.
pub(crate) async fn delete(cx: &Cx, owner: &Owner<'_>, pod: &Pod) -> Result<()> {
    let name = &pod.metadata.name;
    match delete_quietly(cx, pod).await {
        Ok(true) => {
            owner.event(EventType::Normal, "SuccessfulDelete", format!("Deleted pod: {name}"));
            Ok(())
        }
        Ok(false) => Ok(()),
        Err(err) => {
            let message = format!("Error deleting: {}", text(&err));
            owner.event(EventType::Warning, "FailedDelete", message);
            Err(err).with_context(|| format!("deleting pod {}", pod.metadata.key()))
        }
    }
}

/// Deletes one pod without an event; returns whether it was there. The cache then has the pod as
/// the server has it: marked for deletion, or gone.
pub(crate) async fn delete_quietly(cx: &Cx, pod: &Pod) -> Result<bool, client::Error> {
    let key = pod.metadata.key();
    let when = Preconditions { uid: &pod.metadata.uid, ..Preconditions::default() };
    match cx.rest.delete_returning::<Pod>(&PODS, &key, Propagation::Background, when).await {
        Ok(Some(pod)) => {
            let now = pod.metadata.deletion_grace_period_seconds.unwrap_or(0) == 0;
            if now && pod.metadata.finalizers.is_empty() {
                cx.caches.pods.observe_deleted(&key, &pod.metadata.uid);
            } else {
                cx.caches.pods.observe(pod);
            }
            Ok(true)
        }
        Ok(None) => Ok(true),
        Err(err) if is_not_found(&err) || client::is_conflict(&err) => {
            cx.caches.pods.observe_deleted(&key, &pod.metadata.uid);
            Ok(false)
        }
        Err(err) => Err(err),
    }
}

pub(crate) use client::describe as text;
