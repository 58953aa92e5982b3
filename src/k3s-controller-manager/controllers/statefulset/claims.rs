//! The claims of a StatefulSet's pods: made from its templates, and owned as
//! `persistentVolumeClaimRetentionPolicy` says, so that the garbage collector deletes them with the
//! set or with a pod that scaling took away.
//!
//! Invariant: references that are not to this set or its pods are never touched.

use anyhow::{Context, Result};
use client::{
    EventType, Key, Labels, Meta, OwnerReference, Patch, is_already_exists, is_conflict,
    is_not_found,
};
use serde_json::{Value, json};

use super::plan::{ordinal, ordinals};
use crate::{
    Cx,
    caches::{CLAIMS, PODS, STATEFUL_SETS},
    ownership::controller_ref,
    pod_control::{Owner, text},
    types::{apps::StatefulSet, core::Pod, storage::Claim},
};

/// The name of a template's claim for a pod.
pub(super) fn name(template: &Value, pod: &str) -> String {
    format!("{}-{pod}", template["metadata"]["name"].as_str().unwrap_or_default())
}

/// Makes what a pod's claims lack; `false` when one still belongs to a predecessor of the pod and
/// is about to go.
pub(super) async fn ensure(
    cx: &Cx,
    owner: &Owner<'_>,
    set: &StatefulSet,
    pod: &str,
) -> Result<bool> {
    for template in &set.spec.volume_claim_templates {
        let key = Key::new(&set.metadata.namespace, name(template, pod));
        match cx.caches.claims.lister().get(&key) {
            Some(claim) if is_of_pod(&claim.metadata, pod) => return Ok(false),
            Some(_) => {}
            None => create(cx, owner, set, template, pod).await?,
        }
    }
    Ok(true)
}

async fn create(
    cx: &Cx,
    owner: &Owner<'_>,
    set: &StatefulSet,
    template: &Value,
    pod: &str,
) -> Result<()> {
    let name = name(template, pod);
    let namespace = &set.metadata.namespace;
    let mut labels: Labels =
        serde_json::from_value(template["metadata"]["labels"].clone()).unwrap_or_default();
    labels.extend(set.spec.selector.match_labels.clone());
    let owners =
        if policy(set).0 { vec![controller_ref(&STATEFUL_SETS, &set.metadata)] } else { vec![] };
    let body = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": name, "namespace": namespace, "labels": labels,
            "annotations": template["metadata"]["annotations"], "ownerReferences": owners,
        },
        "spec": template["spec"],
    });
    let of = &set.metadata.name;
    match cx.rest.create::<Claim>(&CLAIMS, namespace, &body).await {
        Ok(claim) => {
            cx.caches.claims.observe(claim);
            let message = format!("create Claim {name} Pod {pod} in StatefulSet {of} success");
            owner.event(EventType::Normal, "SuccessfulCreate", message);
            Ok(())
        }
        Err(err) if is_already_exists(&err) => Ok(()),
        Err(err) => {
            let message = format!(
                "create Claim {name} for Pod {pod} in StatefulSet {of} failed error: {}",
                text(&err)
            );
            owner.event(EventType::Warning, "FailedCreate", message);
            Err(err).with_context(|| format!("creating claim {namespace}/{name}"))
        }
    }
}

/// Makes the owners of a pod's claims what the retention policy says.
pub(super) async fn retain(cx: &Cx, set: &StatefulSet, pod: &Pod) -> Result<()> {
    for template in &set.spec.volume_claim_templates {
        let key = Key::new(&set.metadata.namespace, name(template, &pod.metadata.name));
        let Some(claim) = cx.caches.claims.lister().get(&key) else { continue };
        let Some(owners) = owners(set, pod, &claim.metadata) else { continue };
        let body = json!({"metadata": {
            "uid": claim.metadata.uid,
            "resourceVersion": claim.metadata.resource_version,
            "ownerReferences": owners,
        }});
        match cx.rest.patch::<Claim>(&CLAIMS, &key, "", Patch::Merge, &body).await {
            Ok(claim) => cx.caches.claims.observe(claim),
            Err(err) if is_not_found(&err) => {}
            Err(err) if is_conflict(&err) => return Err(err.into()),
            Err(err) => return Err(err).with_context(|| format!("changing owners of claim {key}")),
        }
    }
    Ok(())
}

/// Whether claims go with the set, and with pods that scaling removes.
fn policy(set: &StatefulSet) -> (bool, bool) {
    let policy = set.spec.persistent_volume_claim_retention_policy.as_ref();
    policy.map_or((false, false), |it| (it.when_deleted == "Delete", it.when_scaled == "Delete"))
}

fn is_of_pod(claim: &Meta, pod: &str) -> bool {
    claim.owner_references.iter().any(|it| it.kind == PODS.kind && it.name == pod)
}

/// The owner references that a claim should have; `None` when it has them.
fn owners(set: &StatefulSet, pod: &Pod, claim: &Meta) -> Option<Vec<OwnerReference>> {
    let ours = |it: &OwnerReference| {
        it.uid == set.metadata.uid || (it.kind == PODS.kind && it.name == pod.metadata.name)
    };
    let mut wanted: Vec<OwnerReference> =
        claim.owner_references.iter().filter(|it| !ours(it)).cloned().collect();
    if !wanted.iter().any(OwnerReference::is_controller) {
        let (with_set, with_pod) = policy(set);
        let condemned = ordinal(set, pod).is_none_or(|at| !ordinals(set).contains(&at));
        if with_pod && condemned {
            wanted.push(controller_ref(&PODS, &pod.metadata));
        } else if with_set {
            wanted.push(controller_ref(&STATEFUL_SETS, &set.metadata));
        }
    }
    (wanted != claim.owner_references).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_follow_the_retention_policy() {
        let check = |deleted: &str,
                     scaled: &str,
                     ordinal: i32,
                     have: &str,
                     want: Option<&[&str]>| {
            let set: StatefulSet = serde_json::from_str(&format!(
                r#"{{"metadata":{{"name":"db","uid":"s"}},"spec":{{"replicas":2,
                "persistentVolumeClaimRetentionPolicy":{{"whenDeleted":"{deleted}","whenScaled":"{scaled}"}}}}}}"#
            ))
            .unwrap();
            let pod: Pod = serde_json::from_str(&format!(
                r#"{{"metadata":{{"name":"db-{ordinal}","uid":"p{ordinal}"}},"spec":{{"containers":[]}}}}"#
            ))
            .unwrap();
            let claim: Meta =
                serde_json::from_str(&format!(r#"{{"ownerReferences":[{have}]}}"#)).unwrap();
            let found = owners(&set, &pod, &claim);
            let uids = found.as_ref().map(|it| it.iter().map(|it| it.uid.as_str()).collect());
            assert_eq!(uids, want.map(<[&str]>::to_vec), "{deleted} {scaled} {ordinal} {have}");
        };
        let set = r#"{"apiVersion":"apps/v1","kind":"StatefulSet","name":"db","uid":"s","controller":true,"blockOwnerDeletion":true}"#;
        check("Retain", "Retain", 0, "", None);
        check("Retain", "Retain", 0, set, Some(&[]));
        check("Delete", "Retain", 0, "", Some(&["s"]));
        check("Delete", "Retain", 0, set, None);
        check("Delete", "Retain", 5, set, None);
        check("Retain", "Delete", 1, "", None);
        check("Retain", "Delete", 2, "", Some(&["p2"]));
        check("Delete", "Delete", 2, set, Some(&["p2"]));
        check("Delete", "Delete", 1, r#"{"kind":"Pod","name":"db-1","uid":"old"}"#, Some(&["s"]));
        check(
            "Delete",
            "Delete",
            1,
            r#"{"kind":"Foo","name":"x","uid":"x","controller":true}"#,
            None,
        );
        check("Delete", "Retain", 1, r#"{"kind":"Foo","name":"x","uid":"x"}"#, Some(&["x", "s"]));
    }
}
