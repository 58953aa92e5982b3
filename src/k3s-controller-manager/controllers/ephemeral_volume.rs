//! Generic ephemeral volumes: a pod's own claim is made for it, and goes with it.
//!
//! Invariant: a claim of that name that is not the pod's is never touched.

use std::sync::Arc;

use anyhow::{Context, Result};
use client::{
    Action, Event, EventType, Key, ObjectReference, WorkQueue, is_already_exists,
    is_namespace_terminating, is_not_found,
};
use serde_json::{Value, json};

use crate::{
    Cx, Running,
    caches::{CLAIMS, PODS},
    ownership::controller_ref,
    pod_control::text,
    types::{core::Pod, storage::Claim},
    workers,
};

const NAME: &str = "ephemeral-volume-controller";
const WORKERS: usize = 4;

pub(crate) fn start(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    let filled = queue.clone();
    cx.caches.pods.on_event(move |event| {
        let pod = event.object();
        let wants = !pod.spec.volumes.ephemeral.is_empty() && pod.is_active();
        if wants && !matches!(event, Event::Deleted(_)) {
            filled.add(pod.metadata.key());
        }
    });
    let filled = queue.clone();
    cx.caches.claims.on_event(move |event| {
        if let Event::Deleted(claim) = event
            && let Some(key) = crate::caches::controller_key(claim.as_ref(), "Pod")
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

/// What to do about one ephemeral volume.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Create,
    /// The name is taken by a claim that is not the pod's.
    Conflict,
}

fn plan(pod: &Pod, claim: Option<&Claim>) -> Step {
    match claim {
        None => Step::Create,
        Some(claim) => {
            let ours = claim.metadata.controller().is_some_and(|it| it.uid == pod.metadata.uid);
            if ours { Step::Nothing } else { Step::Conflict }
        }
    }
}

async fn reconcile(cx: &Cx, key: &Key) -> Result<Action> {
    let Some(pod) = cx.caches.pods.lister().get(key).filter(|pod| pod.is_active()) else {
        return Ok(Action::Done);
    };
    let mut template = None;
    for volume in &pod.spec.volumes.ephemeral {
        let name = format!("{}-{volume}", key.name);
        let claim = cx.caches.claims.lister().get(&Key::new(&key.namespace, &name));
        match plan(&pod, claim.as_deref()) {
            Step::Nothing => {}
            Step::Conflict => {
                let pod_name = &key.name;
                let message = format!(
                    "PVC \"{}/{name}\" was not created for pod \"{}/{pod_name}\" (pod is not owner)",
                    key.namespace, key.namespace
                );
                event(cx, &pod, "FailedBinding", &message);
                anyhow::bail!(message);
            }
            Step::Create => {
                if template.is_none() {
                    // Templates are large and read once: they are not cached.
                    match cx.rest.get::<Value>(&PODS, key).await {
                        Ok(live) => template = Some(live),
                        Err(err) if is_not_found(&err) => return Ok(Action::Done),
                        Err(err) => return Err(err).with_context(|| format!("reading pod {key}")),
                    }
                }
                if let Some(live) = &template {
                    create(cx, &pod, live, volume, &name).await?;
                }
            }
        }
    }
    Ok(Action::Done)
}

/// The claim of a volume, from the pod as the server has it.
fn body(pod: &Pod, live: &Value, volume: &str, name: &str) -> Option<Value> {
    let volumes = live.pointer("/spec/volumes")?.as_array()?;
    let volume = volumes.iter().find(|it| it["name"] == volume)?;
    let template = volume.pointer("/ephemeral/volumeClaimTemplate")?;
    Some(json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": name, "namespace": pod.metadata.namespace,
            "labels": template["metadata"]["labels"],
            "annotations": template["metadata"]["annotations"],
            "ownerReferences": [controller_ref(&PODS, &pod.metadata)],
        },
        "spec": template["spec"],
    }))
}

async fn create(cx: &Cx, pod: &Pod, live: &Value, volume: &str, name: &str) -> Result<()> {
    let same = live.pointer("/metadata/uid").and_then(Value::as_str);
    let Some(body) = body(pod, live, volume, name).filter(|_| same == Some(&pod.metadata.uid))
    else {
        return Ok(());
    };
    match cx.rest.create::<Claim>(&CLAIMS, &pod.metadata.namespace, &body).await {
        Ok(claim) => cx.caches.claims.observe(claim),
        // Its own event brings the pod back.
        Err(err) if is_already_exists(&err) || is_namespace_terminating(&err) => {}
        Err(err) => {
            event(cx, pod, "FailedBinding", &format!("ephemeral volume: {}", text(&err)));
            return Err(err)
                .with_context(|| format!("creating claim {}/{name}", pod.metadata.namespace));
        }
    }
    Ok(())
}

fn event(cx: &Cx, pod: &Pod, reason: &str, message: &str) {
    let about = ObjectReference::new(&PODS, &pod.metadata);
    cx.recorder.named("ephemeral_volume").event(
        &about,
        EventType::Warning,
        reason,
        message.to_owned(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"namespace": "n", "name": "p", "uid": "u"},
            "spec": {"containers": [], "volumes": [
                {"name": "a", "ephemeral": {"volumeClaimTemplate": {"spec": {"x": 1}}}},
                {"name": "b", "persistentVolumeClaim": {"claimName": "c"}},
                {"name": "d", "emptyDir": {}},
            ]},
        }))
        .unwrap()
    }

    #[test]
    fn volumes_are_told_apart() {
        let volumes = pod().spec.volumes;
        assert_eq!((volumes.claims, volumes.ephemeral), (vec!["c".into()], vec!["a".into()]));
    }

    #[test]
    fn a_claim_is_made_once_and_is_the_pods() {
        let owned = |uid: &str| -> Claim {
            let owner = json!({"kind": "Pod", "name": "p", "uid": uid, "controller": true});
            serde_json::from_value(json!({"metadata": {"ownerReferences": [owner]}})).unwrap()
        };
        assert_eq!(plan(&pod(), None), Step::Create);
        assert_eq!(plan(&pod(), Some(&owned("u"))), Step::Nothing);
        assert_eq!(plan(&pod(), Some(&owned("other"))), Step::Conflict);
        let template = json!({"metadata": {"labels": {"l": "m"}}, "spec": {"x": 1}});
        let live = json!({"spec": {"volumes": [
            {"name": "a", "ephemeral": {"volumeClaimTemplate": template}},
        ]}});
        let made = body(&pod(), &live, "a", "p-a").unwrap();
        assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], "u");
        assert_eq!(
            (&made["metadata"]["labels"]["l"], &made["spec"]["x"]),
            (&json!("m"), &json!(1))
        );
        assert!(body(&pod(), &live, "b", "p-b").is_none());
    }
}
