//! MutatingAdmissionPolicies: expressions that change an object, as a patch or as a configuration
//! to apply.
//!
//! Invariant: an object that cannot be changed as the policy says is refused, or left as it was when
//! the policy's `failurePolicy` is Ignore.

use apimachinery::apply::lay_over;
use apimachinery::cel::Vars;
use apimachinery::decode::walk;
use apimachinery::patch::json::apply;
use apimachinery::status::Status;
use serde_json::{Value, json};

use super::Attributes;
use super::policies::{Evaluation, bound, params};
use crate::expressions::Scope;
use crate::registry::Object;
use crate::registry::value::{key, list, text};

const POLICIES: [&str; 2] = [
    "mutatingadmissionpolicies.admissionregistration.k8s.io",
    "mutatingadmissionpolicybindings.admissionregistration.k8s.io",
];

/// Whether policies are asked for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Round {
    First,
    /// Others have changed the object since.
    Again,
}

/// Changes the object as the policies say.
pub(super) fn mutate(
    cx: &Attributes<'_>,
    object: &mut Object,
    old: Option<&Object>,
    round: Round,
) -> Result<(), Status> {
    if cx.group == "admissionregistration.k8s.io" {
        return Ok(());
    }
    for (policy, binding) in bound(cx, POLICIES, Some(object), old) {
        if round == Round::Again && text(&policy, "spec.reinvocationPolicy") != "IfNeeded" {
            continue;
        }
        let fails = text(&policy, "spec.failurePolicy") != "Ignore";
        match changed(cx, &policy, &binding, object, old) {
            Ok(new) => *object = new,
            Err(why) if fails => return Err(denied(cx, object, &policy, &binding, &why)),
            Err(_) => {}
        }
    }
    Ok(())
}

fn denied(
    cx: &Attributes<'_>,
    object: &Object,
    policy: &Object,
    binding: &Object,
    why: &str,
) -> Status {
    let (policy, binding) = (text(policy, "metadata.name"), text(binding, "metadata.name"));
    let why = format!("policy '{policy}' with binding '{binding}' denied request: {why}");
    let mut refusal = cx.forbidden_for(Some(object), &why);
    refusal.message.clone_from(&why);
    refusal.reason = "Invalid".into();
    refusal.details["causes"] = json!([{"message": why}]);
    refusal
}

/// The object after a policy, under one binding.
fn changed(
    cx: &Attributes<'_>,
    policy: &Object,
    binding: &Object,
    object: &Object,
    old: Option<&Object>,
) -> Result<Object, String> {
    let mut new = object.clone();
    let given =
        params(cx, policy, binding).map_err(|why| format!("failed to configure binding: {why}"))?;
    for param in given {
        // Each mutation sees what the one before made.
        for mutation in list(policy, "spec.mutations") {
            let evaluation = Evaluation { cx, policy, object: Some(&new), old };
            let judged = evaluation
                .judge(param.as_ref(), |scope, vars| one(cx, mutation, scope, vars, &new))?;
            if let Some(made) = judged {
                new = made?;
            }
        }
    }
    Ok(new)
}

/// The object after one mutation.
fn one(
    cx: &Attributes<'_>,
    mutation: &Value,
    scope: &Scope,
    vars: &Vars<'_>,
    object: &Object,
) -> Result<Object, String> {
    let patches = text(mutation, "patchType") == "JSONPatch";
    let holder = if patches { "jsonPatch" } else { "applyConfiguration" };
    let expression = text(key(mutation, holder), "expression").trim();
    let made = scope.compile(expression)?.run(vars)?.to_json();
    let kind = cx.kinds.get(cx.group, cx.version, cx.resource);
    let kind = kind.ok_or_else(|| format!("{} is not served", cx.resource))?;
    let mut new =
        if patches { patched(object, &made)? } else { lay_over(kind.node(), object, &made) };
    if kind.custom().is_none() {
        walk(&mut new, kind.node()).map_err(|err| err.to_string())?;
    }
    Ok(new)
}

fn patched(object: &Object, patch: &Value) -> Result<Object, String> {
    for step in patch.as_array().into_iter().flatten() {
        let path = text(step, "path");
        if text(step, "op") == "remove" && object.pointer(path).is_none() {
            let name = path.rsplit('/').next().unwrap_or_default();
            return Err(format!(
                "JSON Patch: error in remove for path: '{path}': Unable to remove nonexistent \
                 key: {name}: missing value"
            ));
        }
    }
    let mut new = object.clone();
    apply(&mut new, patch.to_string().as_bytes())
        .map_err(|status| format!("JSON Patch: {}", status.message))?;
    Ok(new)
}
