//! Claims of devices: made for the pods whose templates ask for them, reserved for pods that have a
//! node, released when nobody uses them.
//!
//! Invariant: a claim loses its devices only after every pod that it was reserved for is known, from
//! the server itself if need be, not to run any more.

mod plan;

use std::{collections::HashMap, fmt, sync::Arc};

use anyhow::{Context, Result};
use client::{
    Action, Event, EventType, Key, ObjectReference, Patch, Preconditions, Propagation, WorkQueue,
    is_conflict, is_namespace_terminating, is_not_found,
};
use serde_json::{Value, json};

use self::plan::{Known, PodStep, Release, release, resolve};
use crate::{
    Cx, Running,
    caches::{PODS, RESOURCE_CLAIM_TEMPLATES, RESOURCE_CLAIMS},
    ownership::controller_ref,
    pod_control::text,
    types::{core::Pod, resource::ResourceClaim},
};

const NAME: &str = "resourceclaim-controller";
const WORKERS: usize = 10;
const MANAGER: &str = "ResourceClaimController";
/// Which of the pod's claims a generated one is.
const POD_CLAIM_NAME: &str = "resource.kubernetes.io/pod-claim-name";
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// Names of generated claims without what makes them unique.
const NAME_MAX: usize = 57;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Subject {
    Pod(Key),
    Claim(Key),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Pod(key) => write!(f, "pod {key}"),
            Subject::Claim(key) => write!(f, "resourceclaim {key}"),
        }
    }
}

/// The names of the claims that a pod uses, as far as they are known.
pub(crate) fn names(pod: &Pod) -> Vec<String> {
    let statuses = pod.status.resource_claim_statuses.iter();
    let generated = statuses.filter_map(|it| it.resource_claim_name.clone());
    pod.spec
        .resource_claims
        .iter()
        .filter_map(|it| it.resource_claim_name.clone())
        .chain(generated)
        .collect()
}

pub(crate) fn start(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    let filled = queue.clone();
    cx.caches.pods.on_event(move |event| {
        let pod = event.object();
        if pod.spec.resource_claims.is_empty() {
            return;
        }
        let gone = matches!(event, Event::Deleted(_));
        if gone || plan::is_done(pod) {
            for name in names(pod) {
                filled.add(Subject::Claim(Key::new(&pod.metadata.namespace, name)));
            }
        } else if !pod.metadata.is_deleting() {
            filled.add(Subject::Pod(pod.metadata.key()));
        }
    });
    let (filled, pods, by_claim) =
        (queue.clone(), cx.caches.pods.lister(), cx.caches.pods_by_claim);
    cx.caches.resource_claims.on_event(move |event| {
        let key = event.object().metadata.key();
        for pod in pods.by_index(by_claim, &key.to_string()) {
            filled.add(Subject::Pod(pod.metadata.key()));
        }
        if !matches!(event, Event::Deleted(_)) {
            filled.add(Subject::Claim(key));
        }
    });
    let (shared, stop) = (Arc::new(cx.clone()), cx.stop.clone());
    Box::pin(client::run_workers(NAME, queue, WORKERS, stop, move |subject| {
        let cx = Arc::clone(&shared);
        async move {
            match &subject {
                Subject::Pod(key) => pod(&cx, key).await,
                Subject::Claim(key) => claim(&cx, key).await,
            }
        }
    }))
}

async fn pod(cx: &Cx, key: &Key) -> Result<Action> {
    let known = cx.caches.pods.lister().get(key);
    let Some(pod) = known.filter(|pod| !pod.metadata.is_deleting() && !plan::is_done(pod)) else {
        return Ok(Action::Done);
    };
    let claims = cx.caches.resource_claims.lister();
    let find = |name: &str| claims.get(&Key::new(&key.namespace, name));
    let owned = claims.by_index(cx.caches.claims_by_owner, &pod.metadata.uid);
    let mut named = HashMap::new();
    for step in resolve(&pod, &find, &owned) {
        match step {
            PodStep::Record { claim, name } => {
                named.insert(claim, name);
            }
            PodStep::Create { claim, template } => {
                match create(cx, &pod, &claim, &template).await {
                    Ok(Some(name)) => {
                        named.insert(claim, name);
                    }
                    Ok(None) => return Ok(Action::Done),
                    Err(err) => {
                        let message = format!("PodResourceClaim {claim}: {err:#}");
                        let about = ObjectReference::new(&PODS, &pod.metadata);
                        cx.recorder.named("resource_claim").event(
                            &about,
                            EventType::Warning,
                            "FailedResourceClaimCreation",
                            message,
                        );
                        return Err(err);
                    }
                }
            }
            PodStep::Reserve(claim) => reserve(cx, &pod, &claim).await?,
        }
    }
    if !named.is_empty() {
        record(cx, &pod, named).await?;
    }
    Ok(Action::Done)
}

/// Makes the claim; `None` when the namespace is going.
async fn create(cx: &Cx, pod: &Pod, claim: &str, template: &str) -> Result<Option<String>> {
    let at = Key::new(&pod.metadata.namespace, template);
    let template: Value = match cx.rest.get(&RESOURCE_CLAIM_TEMPLATES, &at).await {
        Ok(template) => template,
        Err(err) => anyhow::bail!("resource claim template {:?}: {}", at.name, text(&err)),
    };
    let mut meta = template["spec"]["metadata"].clone();
    meta["generateName"] = json!(generate_name(&pod.metadata.name, claim));
    meta["annotations"][POD_CLAIM_NAME] = json!(claim);
    meta["ownerReferences"] = json!([controller_ref(&PODS, &pod.metadata)]);
    let body = json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": meta, "spec": template["spec"]["spec"],
    });
    let namespace = &pod.metadata.namespace;
    match cx.rest.create::<ResourceClaim>(&RESOURCE_CLAIMS, namespace, &body).await {
        Ok(made) => {
            let name = made.metadata.name.clone();
            cx.caches.resource_claims.observe(made);
            Ok(Some(name))
        }
        Err(err) if is_namespace_terminating(&err) => Ok(None),
        Err(err) => anyhow::bail!("create ResourceClaim: {}", text(&err)),
    }
}

/// `<pod>-<claim>-`, both shortened alike when that is too long.
fn generate_name(pod: &str, claim: &str) -> String {
    let full = format!("{pod}-{claim}-");
    if full.len() <= NAME_MAX {
        return full;
    }
    let part = |text: &str| text[..text.len() * NAME_MAX / full.len()].to_owned();
    format!("{}-{}", part(pod), part(claim))
}

async fn record(cx: &Cx, pod: &Pod, named: HashMap<String, String>) -> Result<()> {
    let mut statuses: Vec<Value> = pod
        .status
        .resource_claim_statuses
        .iter()
        .filter(|it| !named.contains_key(&it.name))
        .map(|it| json!(it))
        .collect();
    let fresh =
        named.into_iter().map(|(claim, name)| json!({"name": claim, "resourceClaimName": name}));
    statuses.extend(fresh);
    statuses.sort_by_key(|it| it["name"].to_string());
    let meta = &pod.metadata;
    let body = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
        "status": {"resourceClaimStatuses": statuses},
    });
    let key = meta.key();
    match cx.rest.patch::<Pod>(&PODS, &key, "status", Patch::Apply(MANAGER), &body).await {
        Ok(pod) => cx.caches.pods.observe(pod),
        Err(err) if is_not_found(&err) || is_conflict(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("writing claims of pod {key}")),
    }
    Ok(())
}

async fn reserve(cx: &Cx, pod: &Pod, claim: &ResourceClaim) -> Result<()> {
    let mut users = claim.status.reserved_for.clone();
    users.push(plan::consumer(pod));
    let body = json!({
        "metadata": {"resourceVersion": claim.metadata.resource_version},
        "status": {"reservedFor": users},
    });
    let key = claim.metadata.key();
    let patch = Patch::Merge;
    let patched = cx.rest.patch(&RESOURCE_CLAIMS, &key, "status", patch, &body).await;
    let patched = patched.with_context(|| format!("reserving claim {key} for a pod"))?;
    cx.caches.resource_claims.observe(patched);
    Ok(())
}

async fn claim(cx: &Cx, key: &Key) -> Result<Action> {
    let Some(claim) = cx.caches.resource_claims.lister().get(key) else { return Ok(Action::Done) };
    let mut known = HashMap::new();
    for user in claim.status.reserved_for.iter().filter(|it| it.is_pod()) {
        let at = Key::new(&key.namespace, &user.name);
        let pod = match cx.caches.pods.lister().get(&at) {
            Some(pod) => Some(pod),
            None => match cx.rest.get::<Pod>(&PODS, &at).await {
                Ok(pod) => Some(Arc::new(pod)),
                Err(err) if is_not_found(&err) => None,
                Err(err) => return Err(err).with_context(|| format!("reading pod {at}")),
            },
        };
        known.insert(user.uid.clone(), Known::of(pod.as_deref(), &user.uid));
    }
    let owner = claim.metadata.controller().filter(|it| it.kind == "Pod").map(|owner| {
        let pod = cx.caches.pods.lister().get(&Key::new(&key.namespace, &owner.name));
        Known::of(pod.as_deref(), &owner.uid)
    });
    let step = release(&claim, &known, owner);
    if step.users.is_some() || step.deallocate {
        free(cx, &claim, &step).await?;
    }
    if step.delete {
        let meta = &claim.metadata;
        let when = Preconditions { uid: &meta.uid, ..Preconditions::default() };
        match cx.rest.delete(&RESOURCE_CLAIMS, key, Propagation::Background, when).await {
            Ok(()) => {}
            Err(err) if is_not_found(&err) || is_conflict(&err) => {}
            Err(err) => return Err(err).with_context(|| format!("deleting claim {key}")),
        }
    }
    Ok(Action::Done)
}

/// Takes users, and with the last one the devices, out of a claim.
async fn free(cx: &Cx, claim: &ResourceClaim, step: &Release) -> Result<()> {
    let key = claim.metadata.key();
    let mut version = claim.metadata.resource_version.clone();
    let mut status = json!({});
    if let Some(users) = &step.users {
        status["reservedFor"] = json!(users);
    }
    if step.deallocate {
        status["allocation"] = Value::Null;
    }
    let body = json!({"metadata": {"resourceVersion": version}, "status": status});
    let patched: Result<ResourceClaim, _> =
        cx.rest.patch(&RESOURCE_CLAIMS, &key, "status", Patch::Merge, &body).await;
    match patched {
        Ok(claim) => {
            version.clone_from(&claim.metadata.resource_version);
            cx.caches.resource_claims.observe(claim);
        }
        Err(err) if is_not_found(&err) => return Ok(()),
        Err(err) => return Err(err).with_context(|| format!("releasing claim {key}")),
    }
    if !step.deallocate || !claim.metadata.has_finalizer(FINALIZER) {
        return Ok(());
    }
    let finalizers: Vec<&String> =
        claim.metadata.finalizers.iter().filter(|it| *it != FINALIZER).collect();
    let body = json!({"metadata": {"resourceVersion": version, "finalizers": finalizers}});
    match cx.rest.patch::<ResourceClaim>(&RESOURCE_CLAIMS, &key, "", Patch::Merge, &body).await {
        Ok(claim) if claim.metadata.is_deleting() => {}
        Ok(claim) => cx.caches.resource_claims.observe(claim),
        Err(err) if is_not_found(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("unprotecting claim {key}")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_generated_claims_fit() {
        assert_eq!(generate_name("web", "gpu"), "web-gpu-");
        let long = generate_name(&"p".repeat(60), &"c".repeat(20));
        assert!(long.len() <= NAME_MAX && long.contains("p-c"), "{long}");
    }
}
