//! Persistent volumes and claims are bound to each other, and what is in use is protected from
//! deletion.
//!
//! No volume is made here: a claim whose class has a provisioner is marked for it, as upstream marks
//! it for provisioners outside the tree. Neither does this controller delete or recycle the storage
//! behind a volume; where nobody will, the volume becomes `Failed` and says so.
//! Invariant: a volume refers to its claim before the claim refers to the volume.

mod expand;
mod plan;
mod protection;

use std::sync::Arc;

use anyhow::{Context, Result};
use client::{Action, Event, EventType, Key, ObjectReference, Patch, WorkQueue, is_not_found};
use serde_json::{Value, json};

pub(crate) use self::expand::start_expansion;
use self::plan::{BIND_COMPLETED, BOUND_BY_CONTROLLER, ClaimStep, VolumeStep, unreclaimable};
pub(crate) use self::protection::{
    start_claim_protection, start_class_protection, start_volume_protection,
};
use crate::{
    Cx, Running,
    caches::{CLAIMS, VOLUMES},
    types::storage::{Claim, StorageClass, Volume},
    workers,
};

const NAME: &str = "persistentvolume-binder-controller";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const PROVISIONER_BETA: &str = "volume.beta.kubernetes.io/storage-provisioner";

pub(crate) fn start(cx: &Cx) -> Running {
    let (claims, volumes) = (WorkQueue::new(), WorkQueue::new());
    subscribe(cx, &claims, &volumes);
    let (shared, wake) = (Arc::new(cx.clone()), claims.clone());
    // One at a time: two claims must not choose the same volume.
    let of_claims = workers(cx, NAME, 1, &claims, move |key| {
        let cx = Arc::clone(&shared);
        async move { sync_claim(&cx, &key).await }
    });
    let shared = Arc::new(cx.clone());
    let of_volumes = workers(cx, NAME, 1, &volumes, move |key| {
        let (cx, wake) = (Arc::clone(&shared), wake.clone());
        async move { sync_volume(&cx, &key, &wake).await }
    });
    Box::pin(async move {
        futures::join!(of_claims, of_volumes);
    })
}

fn subscribe(cx: &Cx, claims: &WorkQueue<Key>, volumes: &WorkQueue<Key>) {
    let (wake, filled, all) = (volumes.clone(), claims.clone(), cx.caches.volumes.lister());
    cx.caches.claims.on_event(move |event| {
        let claim = event.object();
        filled.add(claim.metadata.key());
        all.for_each(|volume| {
            let refers = volume.spec.claim_ref.as_ref().is_some_and(|it| {
                it.name == claim.metadata.name && it.namespace == claim.metadata.namespace
            });
            if refers || volume.metadata.name == claim.spec.volume_name {
                wake.add(volume.metadata.key());
            }
        });
    });
    let (wake, filled, all) = (claims.clone(), volumes.clone(), cx.caches.claims.lister());
    cx.caches.volumes.on_event(move |event| {
        let volume = event.object();
        filled.add(volume.metadata.key());
        let gone = matches!(event, Event::Deleted(_));
        all.for_each(|claim| {
            let waits = claim.spec.volume_name.is_empty() && !gone;
            if waits || claim.spec.volume_name == volume.metadata.name {
                wake.add(claim.metadata.key());
            }
        });
    });
    let (wake, all) = (claims.clone(), cx.caches.claims.lister());
    cx.caches.storage_classes.on_event(move |event| {
        all.for_each(|claim| {
            if claim.class() == event.object().metadata.name && claim.spec.volume_name.is_empty() {
                wake.add(claim.metadata.key());
            }
        });
    });
}

async fn sync_claim(cx: &Cx, key: &Key) -> Result<Action> {
    let Some(claim) = cx.caches.claims.lister().get(key) else { return Ok(Action::Done) };
    let class = cx.caches.storage_classes.lister().get(&Key::cluster(claim.class()));
    // The scheduler chooses the volume, or the node for which one is made.
    let delays = class.as_ref().is_some_and(|it| it.volume_binding_mode == "WaitForFirstConsumer");
    let waits = delays && claim.metadata.annotation(SELECTED_NODE).is_none();
    let volumes = cx.caches.volumes.lister();
    match plan::claim(&claim, &volumes.list(), delays) {
        ClaimStep::Bind(name) => {
            let Some(volume) = volumes.get(&Key::cluster(name)) else { return Ok(Action::Done) };
            bind(cx, &claim, &volume).await?;
        }
        ClaimStep::Provision => {
            let claim = provision(cx, &claim, class.as_deref(), waits).await?;
            phase(cx, &claim, "Pending").await?;
        }
        ClaimStep::Wait => phase(cx, &claim, "Pending").await?,
        ClaimStep::Mismatch(why) => {
            let message =
                format!("Cannot bind to requested volume {:?}: {why}", claim.spec.volume_name);
            event(cx, &claim, EventType::Warning, "VolumeMismatch", message);
            phase(cx, &claim, "Pending").await?;
        }
        ClaimStep::Lose(reason, message) => {
            if claim.status.phase != "Lost" {
                event(cx, &claim, EventType::Warning, reason, message.to_owned());
            }
            phase(cx, &claim, "Lost").await?;
        }
    }
    Ok(Action::Done)
}

/// Volume, then claim, each step only where it is missing.
async fn bind(cx: &Cx, claim: &Claim, volume: &Volume) -> Result<()> {
    let (name, meta) = (&volume.metadata.name, &claim.metadata);
    let bound = volume.spec.claim_ref.as_ref().is_some_and(|it| it.uid == meta.uid);
    let volume = if bound {
        Arc::new(volume.clone())
    } else {
        let mut body = json!({
            "metadata": {"resourceVersion": volume.metadata.resource_version},
            "spec": {"claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": meta.namespace, "name": meta.name, "uid": meta.uid,
                "resourceVersion": meta.resource_version,
            }},
        });
        if volume.spec.claim_ref.is_none() {
            body["metadata"]["annotations"] = json!({BOUND_BY_CONTROLLER: "yes"});
        }
        let Some(volume) = patch_volume(cx, name, "", &body).await? else { return Ok(()) };
        volume
    };
    if volume.status.phase != "Bound" {
        let body = json!({"status": {"phase": "Bound", "message": null, "reason": null}});
        patch_volume(cx, name, "status", &body).await?;
    }
    let mut claim = Arc::new(claim.clone());
    if claim.spec.volume_name != *name || claim.metadata.annotation(BIND_COMPLETED).is_none() {
        let mut annotations = json!({BIND_COMPLETED: "yes"});
        if claim.spec.volume_name.is_empty() {
            annotations[BOUND_BY_CONTROLLER] = json!("yes");
        }
        let body = json!({
            "metadata": {
                "resourceVersion": claim.metadata.resource_version, "annotations": annotations,
            },
            "spec": {"volumeName": name},
        });
        let Some(bound) = patch_claim(cx, &claim, "", &body).await? else { return Ok(()) };
        claim = bound;
    }
    if claim.status.phase != "Bound" || claim.status.access_modes != volume.spec.access_modes {
        // A later growth of the volume is written by whoever makes it grow.
        let body = json!({"status": {
            "phase": "Bound", "accessModes": volume.spec.access_modes,
            "capacity": volume.spec.capacity,
        }});
        patch_claim(cx, &claim, "status", &body).await?;
    }
    Ok(())
}

/// Marks the claim for its class' provisioner, and says what it waits for.
async fn provision(
    cx: &Cx,
    claim: &Arc<Claim>,
    class: Option<&StorageClass>,
    waits: bool,
) -> Result<Arc<Claim>> {
    let say = |kind, reason: &str, message: String| event(cx, claim, kind, reason, message);
    let Some(class) = class else {
        match claim.class() {
            "" => say(
                EventType::Normal,
                "FailedBinding",
                "no persistent volumes available for this claim and no storage class is set".into(),
            ),
            name => say(
                EventType::Warning,
                "ProvisioningFailed",
                format!("storageclass.storage.k8s.io {name:?} not found"),
            ),
        }
        return Ok(Arc::clone(claim));
    };
    if waits {
        let message = "waiting for first consumer to be created before binding";
        say(EventType::Normal, "WaitForFirstConsumer", message.into());
        return Ok(Arc::clone(claim));
    }
    let provisioner = &class.provisioner;
    if provisioner.starts_with("kubernetes.io/") {
        say(EventType::Warning, "ProvisioningFailed", "no volume plugin matched".into());
        return Ok(Arc::clone(claim));
    }
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or \
         manually by the system administrator. If volume creation is delayed, please verify that \
         the provisioner is running and correctly registered."
    );
    say(EventType::Normal, "ExternalProvisioning", message);
    if claim.metadata.annotation(PROVISIONER) == Some(provisioner) {
        return Ok(Arc::clone(claim));
    }
    let body = json!({"metadata": {
        "resourceVersion": claim.metadata.resource_version,
        "annotations": {PROVISIONER: provisioner, PROVISIONER_BETA: provisioner},
    }});
    Ok(patch_claim(cx, claim, "", &body).await?.unwrap_or_else(|| Arc::clone(claim)))
}

async fn phase(cx: &Cx, claim: &Claim, phase: &str) -> Result<()> {
    if claim.status.phase != phase {
        patch_claim(cx, claim, "status", &json!({"status": {"phase": phase}})).await?;
    }
    Ok(())
}

async fn sync_volume(cx: &Cx, key: &Key, claims: &WorkQueue<Key>) -> Result<Action> {
    let Some(volume) = cx.caches.volumes.lister().get(key) else { return Ok(Action::Done) };
    let name = &volume.metadata.name;
    let reference = volume.spec.claim_ref.as_ref();
    let at = reference.map(|it| Key::new(&it.namespace, &it.name));
    let mut owner = at.as_ref().and_then(|at| cx.caches.claims.lister().get(at));
    let step = match (plan::volume(&volume, owner.as_deref()), &at) {
        // The claims' cache may be behind: a volume is released only when the server agrees.
        (VolumeStep::Release, Some(at)) if volume.status.phase != "Released" => {
            owner = live(cx, at).await?;
            plan::volume(&volume, owner.as_deref())
        }
        (step, _) => step,
    };
    match step {
        VolumeStep::Phase(phase) => {
            if volume.status.phase != phase {
                let body = json!({"status": {"phase": phase, "message": null, "reason": null}});
                patch_volume(cx, name, "status", &body).await?;
            }
        }
        VolumeStep::Wake => at.into_iter().for_each(|at| claims.add(at)),
        VolumeStep::Unbind => unbind(cx, &volume).await?,
        VolumeStep::Release => release(cx, &volume).await?,
    }
    Ok(Action::Done)
}

async fn live(cx: &Cx, at: &Key) -> Result<Option<Arc<Claim>>> {
    match cx.rest.get::<Claim>(&CLAIMS, at).await {
        Ok(claim) => Ok(Some(Arc::new(claim))),
        Err(err) if is_not_found(&err) => Ok(None),
        Err(err) => Err(err).with_context(|| format!("reading claim {at}")),
    }
}

/// What this controller bound is free again; what a person kept for the claim stays kept.
async fn unbind(cx: &Cx, volume: &Volume) -> Result<()> {
    let chosen = volume.metadata.annotation(BOUND_BY_CONTROLLER).is_some();
    let reference =
        if chosen { Value::Null } else { json!({"uid": null, "resourceVersion": null}) };
    let body = json!({
        "metadata": {
            "resourceVersion": volume.metadata.resource_version,
            "annotations": {BOUND_BY_CONTROLLER: null},
        },
        "spec": {"claimRef": reference},
    });
    patch_volume(cx, &volume.metadata.name, "", &body).await.map(drop)
}

async fn release(cx: &Cx, volume: &Volume) -> Result<()> {
    let name = &volume.metadata.name;
    if volume.status.phase == "Failed" {
        return Ok(());
    }
    let body = match unreclaimable(volume) {
        None if volume.status.phase == "Released" => return Ok(()),
        None => json!({"status": {"phase": "Released", "message": null, "reason": null}}),
        Some((reason, message)) => {
            let about = ObjectReference::new(&VOLUMES, &volume.metadata);
            cx.recorder.named(NAME).event(&about, EventType::Warning, reason, message.clone());
            json!({"status": {"phase": "Failed", "message": message, "reason": null}})
        }
    };
    patch_volume(cx, name, "status", &body).await.map(drop)
}

async fn patch_volume(
    cx: &Cx,
    name: &str,
    subresource: &str,
    body: &Value,
) -> Result<Option<Arc<Volume>>> {
    let key = Key::cluster(name);
    match cx.rest.patch::<Volume>(&VOLUMES, &key, subresource, Patch::Merge, body).await {
        Ok(volume) => {
            cx.caches.volumes.observe(volume.clone());
            Ok(Some(Arc::new(volume)))
        }
        Err(err) if is_not_found(&err) => Ok(None),
        Err(err) => Err(err).with_context(|| format!("updating volume {name}")),
    }
}

async fn patch_claim(
    cx: &Cx,
    claim: &Claim,
    subresource: &str,
    body: &Value,
) -> Result<Option<Arc<Claim>>> {
    let key = claim.metadata.key();
    match cx.rest.patch::<Claim>(&CLAIMS, &key, subresource, Patch::Merge, body).await {
        Ok(claim) => {
            cx.caches.claims.observe(claim.clone());
            Ok(Some(Arc::new(claim)))
        }
        Err(err) if is_not_found(&err) => Ok(None),
        Err(err) => Err(err).with_context(|| format!("updating claim {key}")),
    }
}

fn event(cx: &Cx, claim: &Claim, kind: EventType, reason: &str, message: String) {
    let about = ObjectReference::new(&CLAIMS, &claim.metadata);
    cx.recorder.named("persistentvolume-controller").event(&about, kind, reason, message);
}
