//! A claim that a pod uses, a volume that is bound, and a class of attributes that either names go
//! only when that has ended: a finalizer holds them until then.

use std::sync::Arc;

use anyhow::{Context, Result};
use client::{Action, Event, HasMeta, Key, Meta, Patch, Reflector, WorkQueue, is_not_found};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{
    Cx, Running,
    types::{
        core::Pod,
        storage::{Claim, Volume},
    },
    workers,
};

const CLAIMS_NAME: &str = "persistentvolumeclaim-protection-controller";
const VOLUMES_NAME: &str = "persistentvolume-protection-controller";
const CLASSES_NAME: &str = "volumeattributesclass-protection-controller";
const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";
const CLASS_FINALIZER: &str = "kubernetes.io/vac-protection";

pub(crate) fn start_claim_protection(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    let filled = queue.clone();
    cx.caches.claims.on_event(move |event| filled.add(event.object().metadata.key()));
    let (filled, claims) = (queue.clone(), cx.caches.claims.lister());
    cx.caches.pods.on_event(move |event| {
        let pod = event.object();
        let gone = matches!(event, Event::Deleted(_));
        if !gone && !pod.is_finished() {
            return;
        }
        for name in &pod.spec.volumes.claims {
            filled.add(Key::new(&pod.metadata.namespace, name));
        }
        if claims.is_empty() {
            return;
        }
        for claim in claims.namespaced(&pod.metadata.namespace) {
            if claim.metadata.controller().is_some_and(|it| it.uid == pod.metadata.uid) {
                filled.add(claim.metadata.key());
            }
        }
    });
    let shared = Arc::new(cx.clone());
    workers(cx, CLAIMS_NAME, 2, &queue, move |key| {
        let cx = Arc::clone(&shared);
        async move {
            let Some(claim) = cx.caches.claims.lister().get(&key) else { return Ok(Action::Done) };
            let used = claim.metadata.is_deleting()
                && cx
                    .caches
                    .pods
                    .lister()
                    .namespaced(&key.namespace)
                    .iter()
                    .any(|pod| uses(pod, &claim));
            protect(&cx, &cx.caches.claims, &claim.metadata, CLAIM_FINALIZER, used).await
        }
    })
}

pub(crate) fn start_volume_protection(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    let filled = queue.clone();
    cx.caches.volumes.on_event(move |event| filled.add(event.object().metadata.key()));
    let shared = Arc::new(cx.clone());
    workers(cx, VOLUMES_NAME, 2, &queue, move |key| {
        let cx = Arc::clone(&shared);
        async move {
            let Some(volume) = cx.caches.volumes.lister().get(&key) else {
                return Ok(Action::Done);
            };
            let used = is_bound(&volume);
            protect(&cx, &cx.caches.volumes, &volume.metadata, VOLUME_FINALIZER, used).await
        }
    })
}

pub(crate) fn start_class_protection(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    let filled = queue.clone();
    cx.caches.attributes_classes.on_event(move |event| filled.add(event.object().metadata.key()));
    let filled = queue.clone();
    cx.caches.claims.on_event(move |event| add_classes(&filled, event, Claim::attributes_classes));
    let filled = queue.clone();
    cx.caches
        .volumes
        .on_event(move |event| add_classes(&filled, event, Volume::attributes_classes));
    let shared = Arc::new(cx.clone());
    workers(cx, CLASSES_NAME, 1, &queue, move |key| {
        let cx = Arc::clone(&shared);
        async move {
            let caches = &cx.caches;
            let Some(class) = caches.attributes_classes.lister().get(&key) else {
                return Ok(Action::Done);
            };
            let names = |classes: Vec<&str>| classes.contains(&key.name.as_str());
            let used = class.metadata.is_deleting()
                && (caches.claims.lister().list().iter().any(|it| names(it.attributes_classes()))
                    || caches
                        .volumes
                        .lister()
                        .list()
                        .iter()
                        .any(|it| names(it.attributes_classes())));
            protect(&cx, &caches.attributes_classes, &class.metadata, CLASS_FINALIZER, used).await
        }
    })
}

/// The classes that the object named before its change, or until it went.
fn add_classes<T>(queue: &WorkQueue<Key>, event: &Event<T>, classes: fn(&T) -> Vec<&str>) {
    if let Event::Updated { old: object, .. } | Event::Deleted(object) = event {
        for class in classes(object) {
            queue.add(Key::cluster(class));
        }
    }
}

/// A pod without a node will not start any more once its claim is on its way out.
fn uses(pod: &Pod, claim: &Claim) -> bool {
    let owned = claim.metadata.controller().is_some_and(|it| it.uid == pod.metadata.uid);
    let named = pod.spec.volumes.claims.contains(&claim.metadata.name);
    (owned || named) && !pod.is_finished() && !pod.spec.node_name.is_empty()
}

fn is_bound(volume: &Volume) -> bool {
    volume.status.phase == "Bound"
}

/// The finalizers that the object should have, when those are others than it has.
fn plan(meta: &Meta, finalizer: &str, used: bool) -> Option<Vec<String>> {
    let has = meta.has_finalizer(finalizer);
    let mut finalizers = meta.finalizers.clone();
    if meta.is_deleting() && has && !used {
        finalizers.retain(|it| it != finalizer);
    } else if !meta.is_deleting() && !has {
        finalizers.push(finalizer.to_owned());
    } else {
        return None;
    }
    Some(finalizers)
}

async fn protect<T>(
    cx: &Cx,
    cache: &Reflector<T>,
    meta: &Meta,
    finalizer: &str,
    used: bool,
) -> Result<Action>
where
    T: HasMeta + DeserializeOwned + Send + Sync + 'static,
{
    let Some(finalizers) = plan(meta, finalizer, used) else { return Ok(Action::Done) };
    let key = meta.key();
    let body = json!({
        "metadata": {"resourceVersion": meta.resource_version, "finalizers": finalizers},
    });
    match cx.rest.patch::<T>(cache.resource(), &key, "", Patch::Merge, &body).await {
        // Without a finalizer it may be gone by now; then the watch says so.
        Ok(object) if !object.meta().is_deleting() => cache.observe(object),
        Ok(_) => {}
        Err(err) if is_not_found(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("protecting {key}")),
    }
    Ok(Action::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finalizers_come_at_once_and_go_when_nothing_uses_the_object() {
        let check = |deleting: bool, has: &[&str], used, want: Option<&[&str]>| {
            let meta = Meta {
                deletion_timestamp: deleting.then_some(client::Time(jiff::Timestamp::UNIX_EPOCH)),
                finalizers: has.iter().map(|it| (*it).to_owned()).collect(),
                ..Meta::default()
            };
            let found = plan(&meta, "p", used);
            let want = want.map(|it| it.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>());
            assert_eq!(found, want);
        };
        check(false, &["x"], false, Some(&["x", "p"]));
        check(false, &["p"], false, None);
        check(true, &["p", "x"], true, None);
        check(true, &["p", "x"], false, Some(&["x"]));
        check(true, &["x"], false, None);
    }

    #[test]
    fn classes_are_named_by_claims_and_volumes() {
        let read = |text: &str| serde_json::from_str::<Claim>(text).unwrap();
        let claim = read(
            r#"{"spec": {"volumeAttributesClassName": "a"}, "status": {
                "currentVolumeAttributesClassName": "b",
                "modifyVolumeStatus": {"targetVolumeAttributesClassName": "c"}}}"#,
        );
        assert_eq!(claim.attributes_classes(), ["a", "b", "c"]);
        assert!(
            read(r#"{"spec": {"volumeAttributesClassName": ""}}"#).attributes_classes().is_empty()
        );
        let text = r#"{"spec": {"volumeAttributesClassName": "a"}}"#;
        assert_eq!(serde_json::from_str::<Volume>(text).unwrap().attributes_classes(), ["a"]);
    }

    #[test]
    fn claims_are_used_by_scheduled_pods_that_have_not_ended() {
        let mut claim = Claim::default();
        claim.metadata.name = "c".into();
        let read = |text: &str| serde_json::from_str::<Pod>(text).unwrap();
        let volumes =
            r#""volumes": [{"name": "e"}, {"persistentVolumeClaim": {"claimName": "c"}}]"#;
        let check = |rest: &str, phase: &str, want| {
            let pod = read(&format!(
                r#"{{"spec": {{{volumes}{rest}}}, "status": {{"phase": "{phase}"}}}}"#
            ));
            assert_eq!(uses(&pod, &claim), want);
        };
        check(r#", "nodeName": "n""#, "Running", true);
        check(r#", "nodeName": "n""#, "Succeeded", false);
        check("", "Pending", false);
    }
}
