//! The local-path provisioner: volumes in folders of a node, for classes of `rancher.io/local-path`.
//!
//! Folders are made and deleted on their node by helper pods, which run the scripts of the ConfigMap
//! `kube-system/local-path-config`. The size that a claim asks for is not enforced.
//! Invariant: a volume is made after its folder is there, and deleted after its folder is gone; both
//! have names that follow from the claim, so that no step is done twice.

mod config;
mod objects;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use client::{
    Action, Event, EventType, Key, ObjectReference, Preconditions, Propagation, WorkQueue,
    is_already_exists, is_not_found, now,
};
use serde_json::Value;

use self::{
    config::{Config, place, volume_name},
    objects::{Task, Work, helper, refusal, volume},
};
use crate::{
    Cx, Running,
    caches::{CLAIMS, CONFIG_MAPS, PODS, VOLUMES},
    pod_control,
    types::{
        core::{ConfigMap, Pod},
        storage::{Claim, StorageClass, Volume},
    },
    workers,
};

const NAME: &str = "local-path-provisioner";
const PROVISIONER: &str = "rancher.io/local-path";
const NAMESPACE: &str = "kube-system";
const CONFIG: &str = "local-path-config";
/// On helper pods: the claim or volume that they work for.
const OF_CLAIM: &str = "local.path.provisioner/of";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// How long a helper pod may take.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn start(cx: &Cx) -> Running {
    let (claims, volumes) = (WorkQueue::new(), WorkQueue::new());
    let filled = claims.clone();
    cx.caches.claims.on_event(move |event| {
        let claim = event.object();
        if claim.metadata.annotation(STORAGE_PROVISIONER) == Some(PROVISIONER) {
            filled.add(claim.metadata.key());
        }
    });
    let filled = volumes.clone();
    cx.caches.volumes.on_event(move |event| {
        let volume = event.object();
        if volume.metadata.annotation(PROVISIONED_BY) == Some(PROVISIONER) {
            filled.add(volume.metadata.key());
        }
    });
    let (of_claims, of_volumes) = (claims.clone(), volumes.clone());
    cx.caches.pods.on_event(move |event| {
        let pod = event.object();
        if matches!(event, Event::Deleted(_)) || pod.metadata.namespace != NAMESPACE {
            return;
        }
        match pod.metadata.annotation(OF_CLAIM).map(|it| it.split_once('/').ok_or(it)) {
            Some(Ok((namespace, name))) => of_claims.add(Key::new(namespace, name)),
            Some(Err(name)) => of_volumes.add(Key::cluster(name)),
            None => {}
        }
    });
    let shared = Arc::new(cx.clone());
    let provisioning = workers(cx, NAME, 4, &claims, move |key| {
        let cx = Arc::clone(&shared);
        async move { provision(&cx, &key).await }
    });
    let shared = Arc::new(cx.clone());
    let reclaiming = workers(cx, NAME, 4, &volumes, move |key| {
        let cx = Arc::clone(&shared);
        async move { reclaim(&cx, &key).await }
    });
    Box::pin(async move {
        tokio::join!(provisioning, reclaiming);
    })
}

async fn provision(cx: &Cx, key: &Key) -> Result<Action> {
    let Some(claim) = cx.caches.claims.lister().get(key) else { return Ok(Action::Done) };
    let volume_key = Key::cluster(volume_name(&claim));
    let settled = !claim.spec.volume_name.is_empty()
        || claim.metadata.is_deleting()
        || claim.metadata.annotation(STORAGE_PROVISIONER) != Some(PROVISIONER);
    if settled || cx.caches.volumes.lister().get(&volume_key).is_some() {
        return Ok(Action::Done);
    }
    let class = cx.caches.storage_classes.lister().get(&Key::cluster(claim.class()));
    let Some(class) = class.filter(|it| it.provisioner == PROVISIONER) else {
        return Ok(Action::Done);
    };
    match attempt(cx, &claim, &class).await {
        Ok(action) => Ok(action),
        Err(err) => {
            let name = &class.metadata.name;
            let message = format!("failed to provision volume with StorageClass {name:?}: {err:#}");
            event(cx, &claim, EventType::Warning, "ProvisioningFailed", message);
            Err(err)
        }
    }
}

async fn attempt(cx: &Cx, claim: &Claim, class: &StorageClass) -> Result<Action> {
    let settings = settings(cx).await?;
    let node = claim.metadata.annotation(SELECTED_NODE).unwrap_or_default();
    let place = place(&settings.config, class, claim, node).map_err(anyhow::Error::msg)?;
    if let Some(why) = refusal(claim, place.shared) {
        bail!(why);
    }
    if node.is_empty() {
        bail!("configuration error, no node was specified");
    }
    let name = volume_name(claim);
    let of = claim.metadata.key().to_string();
    let work = Work {
        task: Task::Create,
        volume: &name,
        of: &of,
        node,
        base: &place.base,
        path: &place.path(),
        bytes: claim.spec.resources.requests.get("storage").map_or(0, |it| it.0.value()),
        mode: "Filesystem",
    };
    match helper_pod(cx, &settings.template, &work).await? {
        Progress::Begun => {
            let message = format!("External provisioner is provisioning volume for claim {of:?}");
            event(cx, claim, EventType::Normal, "Provisioning", message);
            return Ok(Action::RequeueAfter(PATIENCE));
        }
        Progress::Running(left) => return Ok(Action::RequeueAfter(left)),
        Progress::Finished => {}
    }
    let body = volume(claim, class, &place, node);
    match cx.rest.create::<Volume>(&VOLUMES, "", &body).await {
        Ok(volume) => {
            cx.caches.volumes.observe(volume);
            let message = format!("Successfully provisioned volume {name}");
            event(cx, claim, EventType::Normal, "ProvisioningSucceeded", message);
        }
        Err(err) if is_already_exists(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("creating volume {name}")),
    }
    drop_helper(cx, Task::Create, &name).await?;
    Ok(Action::Done)
}

async fn reclaim(cx: &Cx, key: &Key) -> Result<Action> {
    let Some(volume) = cx.caches.volumes.lister().get(key) else { return Ok(Action::Done) };
    let ours = volume.metadata.annotation(PROVISIONED_BY) == Some(PROVISIONER)
        && volume.spec.persistent_volume_reclaim_policy == "Delete"
        && volume.status.phase == "Released";
    if !ours || volume.metadata.is_deleting() {
        return Ok(Action::Done);
    }
    match tear_down(cx, &volume).await {
        Ok(action) => Ok(action),
        Err(err) => {
            let about = ObjectReference::new(&VOLUMES, &volume.metadata);
            let recorder = cx.recorder.named(PROVISIONER);
            recorder.event(&about, EventType::Warning, "VolumeFailedDelete", format!("{err:#}"));
            Err(err)
        }
    }
}

async fn tear_down(cx: &Cx, volume: &Volume) -> Result<Action> {
    let name = &volume.metadata.name;
    let path = volume.spec.path().context("volume has neither a local path nor a hostPath")?;
    let (base, _) = path.rsplit_once('/').context("volume's path has no folder above")?;
    let node = volume.metadata.annotation("local.path.provisioner/selected-node");
    let node = node.context("volume does not say on which node it is")?;
    // The files of a node that is gone are gone with it.
    if cx.caches.nodes.lister().get(&Key::cluster(node)).is_some() {
        let settings = settings(cx).await?;
        let work = Work {
            task: Task::Delete,
            volume: name,
            of: name,
            node,
            base,
            path,
            bytes: volume.spec.capacity.get("storage").map_or(0, |it| it.0.value()),
            mode: "Filesystem",
        };
        match helper_pod(cx, &settings.template, &work).await? {
            Progress::Begun => return Ok(Action::RequeueAfter(PATIENCE)),
            Progress::Running(left) => return Ok(Action::RequeueAfter(left)),
            Progress::Finished => {}
        }
    }
    let when = Preconditions { uid: &volume.metadata.uid, ..Preconditions::default() };
    match cx.rest.delete(&VOLUMES, &volume.metadata.key(), Propagation::Background, when).await {
        Ok(()) => {}
        Err(err) if is_not_found(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("deleting volume {name}")),
    }
    drop_helper(cx, Task::Delete, name).await?;
    Ok(Action::Done)
}

/// The ConfigMap's content.
struct Settings {
    config: Config,
    template: Value,
}

async fn settings(cx: &Cx) -> Result<Settings> {
    let key = Key::new(NAMESPACE, CONFIG);
    let map: ConfigMap = cx
        .rest
        .get(&CONFIG_MAPS, &key)
        .await
        .with_context(|| format!("reading ConfigMap {key}"))?;
    let part = |name: &str| {
        map.data
            .get(name)
            .map(String::as_str)
            .with_context(|| format!("ConfigMap {key}: no {name}"))
    };
    let config = serde_json::from_str(part("config.json")?)
        .with_context(|| format!("ConfigMap {key}: config.json"))?;
    let template = apimachinery::yaml::parse(part("helperPod.yaml")?.as_bytes())
        .map_err(|err| anyhow::anyhow!("ConfigMap {key}: helperPod.yaml: {err}"))?
        .value;
    Ok(Settings { config, template })
}

enum Progress {
    Begun,
    Running(Duration),
    Finished,
}

/// Runs a helper pod, or looks how far it is. One that failed is deleted, and that is an error.
async fn helper_pod(cx: &Cx, template: &Value, work: &Work<'_>) -> Result<Progress> {
    let name = work.task.pod_name(work.volume);
    let key = Key::new(NAMESPACE, &name);
    let Some(pod) = cx.caches.pods.lister().get(&key) else {
        let body = helper(template, work).map_err(anyhow::Error::msg)?;
        return match cx.rest.create::<Pod>(&PODS, NAMESPACE, &body).await {
            Ok(pod) => {
                cx.caches.pods.observe(pod);
                Ok(Progress::Begun)
            }
            Err(err) if is_already_exists(&err) => Ok(Progress::Running(Duration::from_secs(1))),
            Err(err) => Err(err).with_context(|| format!("creating pod {key}")),
        };
    };
    if pod.metadata.is_deleting() {
        return Ok(Progress::Running(Duration::from_secs(1)));
    }
    let age = now().duration_since(pod.metadata.created());
    let left = PATIENCE.saturating_sub(Duration::try_from(age).unwrap_or_default());
    match pod.status.phase.as_str() {
        "Succeeded" => Ok(Progress::Finished),
        "Failed" => {
            pod_control::delete_quietly(cx, &pod).await?;
            bail!("helper pod {name} failed; its node's log says why");
        }
        _ if left.is_zero() => {
            pod_control::delete_quietly(cx, &pod).await?;
            bail!("helper pod {name} did not end within {} seconds", PATIENCE.as_secs());
        }
        _ => Ok(Progress::Running(left)),
    }
}

async fn drop_helper(cx: &Cx, task: Task, volume: &str) -> Result<()> {
    let key = Key::new(NAMESPACE, task.pod_name(volume));
    if let Some(pod) = cx.caches.pods.lister().get(&key) {
        pod_control::delete_quietly(cx, &pod)
            .await
            .with_context(|| format!("deleting pod {key}"))?;
    }
    Ok(())
}

fn event(cx: &Cx, claim: &Claim, kind: EventType, reason: &str, message: String) {
    let about = ObjectReference::new(&CLAIMS, &claim.metadata);
    cx.recorder.named(PROVISIONER).event(&about, kind, reason, message);
}
