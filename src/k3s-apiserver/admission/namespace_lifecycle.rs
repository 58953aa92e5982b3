//! NamespaceLifecycle: nothing is made in a namespace that is not there or is going away, and some
//! namespaces stay.

use apimachinery::status::{About, Status};
use serde_json::{Value, json};

use super::{Attributes, Operation};
use crate::registry::Object;
use crate::registry::value::{at, has, key, list, text};

const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

/// Runs before everything else, so that other plugins may count on the namespace.
pub(super) fn check(cx: &Attributes<'_>, object: Option<&Object>) -> Result<(), Status> {
    if cx.operation == Operation::Delete && cx.group.is_empty() && cx.resource == "namespaces" {
        if IMMORTAL.contains(&cx.name) && cx.subresource.is_empty() {
            return Err(cx.forbidden("this namespace may not be deleted"));
        }
        return Ok(());
    }
    if cx.namespace.is_empty() || cx.operation != Operation::Create || is_review(cx) {
        return Ok(());
    }
    let Some(namespace) = cx.cluster.get("namespaces", "", cx.namespace) else {
        let about = About { group: "", resource: "namespaces", name: cx.namespace };
        return Err(Status::not_found(about));
    };
    let namespace = namespace.object();
    if text(&namespace, "status.phase") != "Terminating"
        && !has(&namespace, "metadata.deletionTimestamp")
    {
        return Ok(());
    }
    let detail = format!(
        "unable to create new content in namespace {} because it is being terminated",
        cx.namespace
    );
    let mut refusal = cx.forbidden_for(object, &detail);
    refusal.details["causes"] = json!([{
        "reason": "NamespaceTerminating",
        "message": terminating(&namespace, cx.namespace),
        "field": "metadata.namespace",
    }]);
    Err(refusal)
}

/// Questions about access may be asked of any namespace.
fn is_review(cx: &Attributes<'_>) -> bool {
    cx.group == "authorization.k8s.io"
}

fn terminating(namespace: &Object, name: &str) -> String {
    let started = at(namespace, "metadata.deletionTimestamp");
    let stuck = list(namespace, "status.conditions").iter().find(|condition| {
        key(condition, "status") == "True"
            && text(condition, "type").starts_with("NamespaceDeletion")
    });
    match (stuck, started) {
        (Some(condition), _) => {
            format!("namespace {name} is being terminated: {}", text(condition, "message"))
        }
        (None, Value::Null | Value::String(_)) => format!("namespace {name} is being terminated"),
        _ => String::new(),
    }
}
