//! What a pod's claims lack, and what a claim has too much of. Pure.
//!
//! Invariant: a claim that is not the pod's is never recorded for it.

use std::{collections::HashMap, sync::Arc};

use super::{FINALIZER, POD_CLAIM_NAME};
use crate::types::{
    core::Pod,
    resource::{Consumer, ResourceClaim},
};

/// Upstream's bound on the pods of one claim.
const CONSUMERS_MAX: usize = 256;

#[derive(Debug)]
pub(super) enum PodStep {
    /// The pod's status is to name the claim that is there.
    Record {
        claim: String,
        name: String,
    },
    Create {
        claim: String,
        template: String,
    },
    /// The pod has a node, the claim has devices: nobody asked the scheduler.
    Reserve(Arc<ResourceClaim>),
}

/// Whether the pod will not run any more.
pub(super) fn is_done(pod: &Pod) -> bool {
    pod.is_finished() || (pod.metadata.is_deleting() && pod.spec.node_name.is_empty())
}

pub(super) fn consumer(pod: &Pod) -> Consumer {
    Consumer {
        api_group: String::new(),
        resource: "pods".into(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
    }
}

fn is_owned(pod: &Pod, claim: &ResourceClaim) -> bool {
    claim.metadata.controller().is_some_and(|it| it.uid == pod.metadata.uid)
}

pub(super) fn resolve(
    pod: &Pod,
    find: &dyn Fn(&str) -> Option<Arc<ResourceClaim>>,
    owned: &[Arc<ResourceClaim>],
) -> Vec<PodStep> {
    let mut steps = Vec::new();
    for wanted in &pod.spec.resource_claims {
        let Some(template) = &wanted.resource_claim_template_name else {
            let claim = wanted.resource_claim_name.as_deref().and_then(find);
            steps.extend(claim.and_then(|claim| to_reserve(pod, claim)));
            continue;
        };
        let statuses = &pod.status.resource_claim_statuses;
        let status = statuses.iter().find(|it| it.name == wanted.name);
        // It was decided that there need not be one.
        if status.is_some_and(|it| it.resource_claim_name.is_none()) {
            continue;
        }
        let named = status.and_then(|it| it.resource_claim_name.as_deref()).and_then(find);
        if let Some(claim) = named.filter(|claim| is_owned(pod, claim)) {
            steps.extend(to_reserve(pod, claim));
            continue;
        }
        let is_it = |claim: &&Arc<ResourceClaim>| {
            is_owned(pod, claim)
                && claim.metadata.annotation(POD_CLAIM_NAME) == Some(wanted.name.as_str())
        };
        let claim = wanted.name.clone();
        steps.push(match owned.iter().find(is_it) {
            Some(found) => PodStep::Record { claim, name: found.metadata.name.clone() },
            None => PodStep::Create { claim, template: template.clone() },
        });
    }
    steps
}

fn to_reserve(pod: &Pod, claim: Arc<ResourceClaim>) -> Option<PodStep> {
    let users = &claim.status.reserved_for;
    let wants = !pod.spec.node_name.is_empty()
        && claim.status.allocation.is_some()
        && !users.iter().any(|it| it.uid == pod.metadata.uid)
        && users.len() < CONSUMERS_MAX;
    wants.then_some(PodStep::Reserve(claim))
}

/// What has become of a pod that somebody names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// It may run, or there is another of that name by now, or none.
    Runs,
    Done,
    Replaced,
    Gone,
}

impl Known {
    pub(super) fn of(pod: Option<&Pod>, uid: &str) -> Self {
        match pod {
            None => Known::Gone,
            Some(pod) if pod.metadata.uid != uid => Known::Replaced,
            Some(pod) if is_done(pod) => Known::Done,
            Some(_) => Known::Runs,
        }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Release {
    /// The users that are left, when they are fewer.
    pub users: Option<Vec<Consumer>>,
    /// Nobody uses it: its devices are free for others.
    pub deallocate: bool,
    pub delete: bool,
}

/// What a claim has too much of. `owner` is the pod that it was made for.
pub(super) fn release(
    claim: &ResourceClaim,
    pods: &HashMap<String, Known>,
    owner: Option<Known>,
) -> Release {
    let users = &claim.status.reserved_for;
    let stays = |user: &&Consumer| {
        // What is no pod is not ours to judge.
        !user.is_pod() || pods.get(&user.uid).is_none_or(|known| *known == Known::Runs)
    };
    let left: Vec<Consumer> = users.iter().filter(stays).cloned().collect();
    let mut step = Release::default();
    let fewer = left.len() < users.len();
    let protected = claim.metadata.has_finalizer(FINALIZER);
    if left.is_empty() {
        step.deallocate = protected && (fewer || claim.metadata.is_deleting());
        // One whose pod is gone goes with it by itself.
        step.delete =
            matches!(owner, Some(Known::Done | Known::Replaced)) && !claim.metadata.is_deleting();
    }
    step.users = fewer.then_some(left);
    step
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn claim(name: &str, owner: &str, status: Value) -> Arc<ResourceClaim> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {
                    "name": name, "annotations": {POD_CLAIM_NAME: "x"},
                    "finalizers": [FINALIZER],
                    "ownerReferences": [{"kind": "Pod", "uid": owner, "controller": true}],
                },
                "status": status,
            }))
            .unwrap(),
        )
    }

    fn steps(pod: Value, claims: &[Arc<ResourceClaim>]) -> String {
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let find = |name: &str| claims.iter().find(|it| it.metadata.name == name).cloned();
        let all = resolve(&pod, &find, claims);
        let shown = all.iter().map(|step| match step {
            PodStep::Record { claim, name } => format!("record {claim}={name}"),
            PodStep::Create { claim, template } => format!("create {claim} of {template}"),
            PodStep::Reserve(claim) => format!("reserve {}", claim.metadata.name),
        });
        shown.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn pods_get_the_claims_of_their_templates() {
        let pod = |node: &str, statuses: Value| {
            json!({
                "metadata": {"name": "p", "uid": "u"},
                "spec": {"nodeName": node, "resourceClaims": [
                    {"name": "x", "resourceClaimTemplateName": "t"},
                    {"name": "y", "resourceClaimName": "shared"},
                ]},
                "status": {"resourceClaimStatuses": statuses},
            })
        };
        let named = || json!([{"name": "x", "resourceClaimName": "p-x"}]);
        assert_eq!(steps(pod("", json!([])), &[]), "create x of t");
        let own = claim("p-x", "u", json!({}));
        assert_eq!(steps(pod("", json!([])), std::slice::from_ref(&own)), "record x=p-x");
        assert_eq!(steps(pod("", named()), std::slice::from_ref(&own)), "");
        assert_eq!(steps(pod("", named()), &[]), "create x of t");
        let foreign = claim("p-x", "other", json!({}));
        assert_eq!(steps(pod("", named()), &[foreign]), "create x of t");
        assert_eq!(steps(pod("", json!([{"name": "x"}])), &[]), "");
        let full = claim("p-x", "u", json!({"allocation": {}}));
        let shared = claim("shared", "", json!({"allocation": {}}));
        let both = [full, shared];
        assert_eq!(steps(pod("n", named()), &both), "reserve p-x, reserve shared");
        assert_eq!(steps(pod("", named()), &both), "");
        let mine = json!({"allocation": {}, "reservedFor": [
            {"resource": "pods", "name": "p", "uid": "u"},
        ]});
        assert_eq!(steps(pod("n", named()), &[claim("p-x", "u", mine)]), "");
    }

    #[test]
    fn claims_are_released_by_pods_that_will_not_run() {
        let user = |uid: &str| json!({"resource": "pods", "name": "p", "uid": uid});
        let consumer = |uid: &str| serde_json::from_value::<Consumer>(user(uid)).unwrap();
        let used =
            claim("c", "a", json!({"allocation": {}, "reservedFor": [user("a"), user("b")]}));
        let check = |a, b, owner, want| {
            let pods = HashMap::from([("a".to_owned(), a), ("b".to_owned(), b)]);
            assert_eq!(release(&used, &pods, owner), want);
        };
        check(Known::Runs, Known::Runs, Some(Known::Runs), Release::default());
        let one = Release { users: Some(vec![consumer("b")]), ..Release::default() };
        check(Known::Done, Known::Runs, None, one);
        let all = Release { users: Some(vec![]), deallocate: true, delete: false };
        check(Known::Gone, Known::Replaced, None, all);
        let generated = Release { users: Some(vec![]), deallocate: true, delete: true };
        check(Known::Done, Known::Gone, Some(Known::Done), generated);
        // Allocated and not used yet: nothing was given back.
        let fresh = claim("c", "a", json!({"allocation": {}}));
        let none = HashMap::new();
        assert_eq!(release(&fresh, &none, Some(Known::Runs)), Release::default());
        let mut going = ResourceClaim::clone(&fresh);
        going.metadata.deletion_timestamp = Some(client::Time(jiff::Timestamp::UNIX_EPOCH));
        let freed = Release { deallocate: true, ..Release::default() };
        assert_eq!(release(&going, &none, None), freed);
    }
}
