//! Volumes of CSI drivers are attached to the nodes whose pods want them, by VolumeAttachments that
//! the drivers' attachers act on, and what is attached is told to the nodes.
//!
//! Invariant: an attachment's name follows from driver, volume and node, so that none is made twice.

mod plan;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use client::{
    Action, Event, EventType, Key, ObjectReference, Patch, Preconditions, Propagation, WorkQueue,
    is_already_exists, is_conflict, is_not_found,
};
use ring::digest::{SHA256, digest};
use serde_json::json;

use self::plan::{Scene, Step, plan};
use crate::{
    Cx, Running,
    caches::{NODES, PODS, VOLUME_ATTACHMENTS},
    pod_control::text,
    types::{
        core::{Node, Pod},
        storage::{Attachment, Volume},
    },
    workers,
};

const NAME: &str = "persistentvolume-attach-detach-controller";
const WORKERS: usize = 4;

/// Since when a node has had a volume that no pod wants.
type Unwanted = Mutex<HashMap<(String, String), Instant>>;

struct Shared {
    cx: Cx,
    unwanted: Unwanted,
}

/// Whether attaching has anything to do with the pod.
fn has_volumes(pod: &Pod) -> bool {
    let volumes = &pod.spec.volumes;
    let some = !volumes.claims.is_empty() || !volumes.ephemeral.is_empty();
    some && !pod.spec.node_name.is_empty()
}

pub(crate) fn start(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    let filled = queue.clone();
    cx.caches.pods.on_event(move |event| {
        let pod = event.object();
        if has_volumes(pod) {
            filled.add(Key::cluster(&pod.spec.node_name));
        }
    });
    let (filled, pods) = (queue.clone(), cx.caches.pods.lister());
    cx.caches.claims.on_event(move |event| {
        let claim = event.object();
        if claim.spec.volume_name.is_empty() {
            return;
        }
        let namespace = &claim.metadata.namespace;
        for pod in pods.namespaced(namespace).iter().filter(|pod| has_volumes(pod)) {
            if claims(pod).contains(&claim.metadata.name) {
                filled.add(Key::cluster(&pod.spec.node_name));
            }
        }
    });
    let filled = queue.clone();
    cx.caches.nodes.on_event(move |event| {
        let what = |node: &Node| {
            let status = &node.status;
            let managed = node.metadata.annotation(plan::MANAGED).map(str::to_owned);
            let volumes = (status.volumes_in_use.clone(), status.volumes_attached.clone());
            (managed, node.spec.taints.clone(), volumes)
        };
        let (old, new) = (event.old(), event.object());
        if matches!(event, Event::Deleted(_)) || old.is_none_or(|old| what(old) != what(new)) {
            filled.add(new.metadata.key());
        }
    });
    let (filled, nodes) = (queue.clone(), cx.caches.nodes.lister());
    cx.caches.attachments.on_event(move |event| {
        let attachment = event.object();
        filled.add(Key::cluster(&attachment.spec.node_name));
        if matches!(event, Event::Deleted(_)) {
            // Another node may wait for the volume.
            nodes.for_each(|node| filled.add(node.metadata.key()));
        }
    });
    let (filled, nodes) = (queue.clone(), cx.caches.nodes.lister());
    cx.caches.csi_drivers.on_event(move |_| {
        nodes.for_each(|node| filled.add(node.metadata.key()));
    });
    tell_of_results(cx);
    let shared = Arc::new(Shared { cx: cx.clone(), unwanted: Unwanted::default() });
    workers(cx, NAME, WORKERS, &queue, move |key| {
        let shared = Arc::clone(&shared);
        async move { reconcile(&shared, &key.name).await }
    })
}

/// The names of the pod's claims.
fn claims(pod: &Pod) -> Vec<String> {
    let volumes = &pod.spec.volumes;
    let ephemeral = volumes.ephemeral.iter().map(|it| format!("{}-{it}", pod.metadata.name));
    volumes.claims.iter().cloned().chain(ephemeral).collect()
}

/// The volumes that the pods of a node want and that have to be attached, by name.
fn wanted(cx: &Cx, node: &str) -> BTreeMap<String, Arc<Volume>> {
    let mut wanted = BTreeMap::new();
    let pods = cx.caches.pods.lister().by_index(cx.caches.pods_by_node, node);
    for pod in pods.iter().filter(|pod| has_volumes(pod) && !pod.is_finished()) {
        wanted.extend(volumes(cx, pod).into_iter().map(|it| (it.metadata.name.clone(), it)));
    }
    wanted
}

/// The volumes of a pod that have to be attached.
fn volumes(cx: &Cx, pod: &Pod) -> Vec<Arc<Volume>> {
    let mut found = Vec::new();
    for name in claims(pod) {
        let at = Key::new(&pod.metadata.namespace, &name);
        let Some(claim) = cx.caches.claims.lister().get(&at) else { continue };
        let volume = Key::cluster(&claim.spec.volume_name);
        let Some(volume) = cx.caches.volumes.lister().get(&volume) else { continue };
        let bound = volume.spec.claim_ref.as_ref();
        let Some(csi) = &volume.spec.csi else { continue };
        let driver = cx.caches.csi_drivers.lister().get(&Key::cluster(&csi.driver));
        // A driver that says nothing wants its volumes attached.
        let attaches = driver.is_none_or(|it| it.spec.attach_required != Some(false));
        if attaches && bound.is_some_and(|it| it.uid == claim.metadata.uid) {
            found.push(volume);
        }
    }
    found
}

/// What is to be done about a node, and the volumes that its pods want.
fn steps(shared: &Shared, name: &str) -> (Vec<Step>, BTreeMap<String, Arc<Volume>>) {
    let cx = &shared.cx;
    let node = cx.caches.nodes.lister().get(&Key::cluster(name));
    let all = cx.caches.attachments.lister();
    let mut attachments = all.by_index(cx.caches.attachments_by_node, name);
    attachments.retain(|it| !it.volume().is_empty());
    let wanted = wanted(cx, name);
    note(&shared.unwanted, name, &wanted, &attachments);
    let volume = |name: &str| cx.caches.volumes.lister().get(&Key::cluster(name));
    let elsewhere = |volume: &str| {
        let mut nodes = Vec::new();
        all.for_each(|it| {
            if it.volume() == volume && it.spec.node_name != name {
                nodes.push(it.spec.node_name.clone());
            }
        });
        nodes
    };
    let unwanted_for = |volume: &str| {
        let since = shared.unwanted.lock().unwrap_or_else(PoisonError::into_inner);
        since.get(&(name.to_owned(), volume.to_owned())).map_or(Duration::ZERO, Instant::elapsed)
    };
    let scene = Scene {
        node: node.as_deref(),
        wanted,
        attachments,
        volume: &volume,
        elsewhere: &elsewhere,
        unwanted_for: &unwanted_for,
    };
    (plan(&scene), scene.wanted)
}

async fn reconcile(shared: &Shared, name: &str) -> Result<Action> {
    let cx = &shared.cx;
    let (steps, wanted) = steps(shared, name);
    let mut action = Action::Done;
    for step in steps {
        match step {
            Step::Attach(volume) => attach(cx, name, &wanted[&volume]).await?,
            Step::Elsewhere(volume, nodes) => refuse(cx, name, &volume, &nodes),
            Step::Report(attached) => {
                let body = json!({"status": {"volumesAttached": attached}});
                let key = Key::cluster(name);
                match cx.rest.patch::<Node>(&NODES, &key, "status", Patch::Merge, &body).await {
                    Ok(node) => cx.caches.nodes.observe(node),
                    Err(err) if is_not_found(&err) => {}
                    Err(err) => {
                        return Err(err)
                            .with_context(|| format!("reporting volumes of node {name}"));
                    }
                }
            }
            Step::Detach(attachment) => detach(cx, &attachment).await?,
            Step::Wait(left) => action = action.min(Action::RequeueAfter(left)),
        }
    }
    Ok(action)
}

/// Remembers since when volumes are not wanted.
fn note(
    unwanted: &Unwanted,
    node: &str,
    wanted: &BTreeMap<String, Arc<Volume>>,
    attachments: &[Arc<Attachment>],
) {
    let loose: BTreeSet<&str> =
        attachments.iter().map(|it| it.volume()).filter(|it| !wanted.contains_key(*it)).collect();
    let mut since = unwanted.lock().unwrap_or_else(PoisonError::into_inner);
    since.retain(|(on, volume), _| on != node || loose.contains(volume.as_str()));
    for volume in loose {
        since.entry((node.to_owned(), volume.to_owned())).or_insert_with(Instant::now);
    }
}

/// The attachment's name, as drivers know it.
fn attachment_name(handle: &str, driver: &str, node: &str) -> String {
    let hash = digest(&SHA256, format!("{handle}{driver}{node}").as_bytes());
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}{hex}", plan::PREFIX)
}

async fn attach(cx: &Cx, node: &str, volume: &Volume) -> Result<()> {
    let Some(csi) = &volume.spec.csi else { return Ok(()) };
    let name = attachment_name(&csi.volume_handle, &csi.driver, node);
    let body = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment",
        "metadata": {"name": name},
        "spec": {
            "attacher": csi.driver, "nodeName": node,
            "source": {"persistentVolumeName": volume.metadata.name},
        },
    });
    match cx.rest.create::<Attachment>(&VOLUME_ATTACHMENTS, "", &body).await {
        Ok(attachment) => cx.caches.attachments.observe(attachment),
        // One that is going yet: its end brings the node back.
        Err(err) if is_already_exists(&err) => {}
        Err(err) => {
            let message = format!(
                "AttachVolume.Attach failed for volume {:?} : {}",
                volume.metadata.name,
                text(&err)
            );
            tell(
                cx,
                node,
                &volume.metadata.name,
                EventType::Warning,
                "FailedAttachVolume",
                &message,
            );
            return Err(err)
                .with_context(|| format!("attaching {} to {node}", volume.metadata.name));
        }
    }
    Ok(())
}

async fn detach(cx: &Cx, name: &str) -> Result<()> {
    let (key, when) = (Key::cluster(name), Preconditions::default());
    let deleted = cx
        .rest
        .delete_returning::<Attachment>(&VOLUME_ATTACHMENTS, &key, Propagation::Default, when)
        .await;
    match deleted {
        Ok(Some(attachment)) if attachment.metadata.is_deleting() => {
            cx.caches.attachments.observe(attachment);
        }
        Ok(_) => {}
        Err(err) if is_not_found(&err) || is_conflict(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("deleting VolumeAttachment {name}")),
    }
    Ok(())
}

/// The volume may be on one node only: says on which it is.
fn refuse(cx: &Cx, node: &str, volume: &str, nodes: &[String]) {
    let users: Vec<String> = nodes
        .iter()
        .flat_map(|node| cx.caches.pods.lister().by_index(cx.caches.pods_by_node, node))
        .filter(|pod| volumes(cx, pod).iter().any(|it| it.metadata.name == volume))
        .map(|pod| pod.metadata.name.clone())
        .collect();
    let why = match users.is_empty() {
        true => {
            "Volume is already exclusively attached to one node and can't be attached to another"
                .to_owned()
        }
        false => format!("Volume is already used by pod(s) {}", users.join(", ")),
    };
    let message = format!("Multi-Attach error for volume {volume:?} {why}");
    tell(cx, node, volume, EventType::Warning, "FailedAttachVolume", &message);
}

/// An event about each pod of the node that wants the volume.
fn tell(cx: &Cx, node: &str, volume: &str, kind: EventType, reason: &str, message: &str) {
    for pod in cx.caches.pods.lister().by_index(cx.caches.pods_by_node, node) {
        if pod.is_active() && volumes(cx, &pod).iter().any(|it| it.metadata.name == volume) {
            let about = ObjectReference::new(&PODS, &pod.metadata);
            cx.recorder.named("attachdetach-controller").event(&about, kind, reason, message);
        }
    }
}

/// What attachers say becomes events about the pods that wait.
fn tell_of_results(cx: &Cx) {
    let shared = cx.clone();
    cx.caches.attachments.on_event(move |event| {
        let Event::Updated { old, new } = event else { return };
        let (node, volume) = (&new.spec.node_name, new.volume());
        if new.status.attached && !old.status.attached {
            let message = format!("AttachVolume.Attach succeeded for volume {volume:?} ");
            tell(&shared, node, volume, EventType::Normal, "SuccessfulAttachVolume", &message);
        }
        let error = |it: &Attachment| it.status.attach_error.as_ref().map(|it| it.message.clone());
        if let Some(why) = error(new).filter(|why| Some(why) != error(old).as_ref()) {
            let message = format!("AttachVolume.Attach failed for volume {volume:?} : {why}");
            tell(&shared, node, volume, EventType::Warning, "FailedAttachVolume", &message);
        }
    });
}

/// The cache of attachments by node.
pub(crate) fn by_node(attachment: &Attachment) -> Vec<String> {
    vec![attachment.spec.node_name.clone()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_attachments_are_those_that_drivers_expect() {
        let name = attachment_name("handle", "driver", "node");
        assert!(name.starts_with("csi-") && name.len() == 4 + 64, "{name}");
        assert_ne!(name, attachment_name("handle", "driver", "other"));
    }
}
