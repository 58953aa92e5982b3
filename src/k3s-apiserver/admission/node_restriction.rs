//! NodeRestriction: a kubelet writes its own node, its own pods and its own lease, and nothing else.

use apimachinery::status::Status;

use super::{Attributes, Operation};
use crate::registry::Object;
use crate::registry::value::{at, has, key, map, text};

const MIRROR: &str = "kubernetes.io/config.mirror";

/// The node that the user is, when it is one.
pub(super) fn node_of<'a>(cx: &Attributes<'a>) -> Option<&'a str> {
    let name = cx.user.name.strip_prefix("system:node:")?;
    cx.user.in_group("system:nodes").then_some(name)
}

/// A kubelet may not bring its own labels in the restricted prefix, nor untaint itself.
pub(super) fn check(
    cx: &Attributes<'_>,
    object: Option<&Object>,
    old: Option<&Object>,
) -> Result<(), Status> {
    let Some(node) = node_of(cx) else { return Ok(()) };
    match (cx.group, cx.resource) {
        ("", "pods") => pods(cx, node, object, old),
        ("", "nodes") => nodes(cx, node, object, old),
        ("coordination.k8s.io", "leases") => {
            if cx.namespace != "kube-node-lease" {
                let detail = "can only access leases in the \"kube-node-lease\" system namespace";
                return Err(cx.forbidden(detail));
            }
            let name = match cx.operation {
                Operation::Create => object.map_or(cx.name, |lease| text(lease, "metadata.name")),
                _ => cx.name,
            };
            if name == node {
                Ok(())
            } else {
                Err(cx.forbidden(
                    "can only access node lease with the same name as the requesting node",
                ))
            }
        }
        ("storage.k8s.io", "csinodes") => {
            let name = object.map_or(cx.name, |node| text(node, "metadata.name"));
            if name == node || cx.name == node {
                Ok(())
            } else {
                Err(cx
                    .forbidden("can only access CSINode with the same name as the requesting node"))
            }
        }
        ("", "serviceaccounts") if cx.subresource == "token" => token(cx, node, object),
        _ => Ok(()),
    }
}

fn pods(
    cx: &Attributes<'_>,
    node: &str,
    object: Option<&Object>,
    old: Option<&Object>,
) -> Result<(), Status> {
    let host = |pod: &Object| text(pod, "spec.nodeName").to_owned();
    match (cx.subresource, cx.operation) {
        ("", Operation::Create) => {
            let Some(pod) = object else { return Ok(()) };
            if key(at(pod, "metadata.annotations"), MIRROR).is_null() {
                return Err(cx.forbidden(&format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods")));
            }
            if host(pod) != node {
                let detail =
                    format!("node {node:?} can only create pods with spec.nodeName set to itself");
                return Err(cx.forbidden(&detail));
            }
            Ok(())
        }
        ("", Operation::Delete) | ("status", Operation::Update) => {
            let verb = if cx.subresource.is_empty() {
                "delete pods with spec.nodeName set to itself"
            } else {
                "update pod status for pods with spec.nodeName set to itself"
            };
            if old.is_some_and(|pod| host(pod) != node) {
                return Err(cx.forbidden(&format!("node {node:?} can only {verb}")));
            }
            Ok(())
        }
        ("eviction", Operation::Create) => Ok(()),
        ("", operation) => Err(cx.forbidden(&format!(
            "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
            operation
        ))),
        _ => Ok(()),
    }
}

fn nodes(
    cx: &Attributes<'_>,
    node: &str,
    object: Option<&Object>,
    old: Option<&Object>,
) -> Result<(), Status> {
    let name = match object {
        Some(object) if cx.operation == Operation::Create => text(object, "metadata.name"),
        _ => cx.name,
    };
    if name != node {
        let detail = format!("node {node:?} is not allowed to modify node {name:?}");
        return Err(cx.forbidden(&detail));
    }
    let Some(new) = object else { return Ok(()) };
    match (cx.operation, old) {
        (Operation::Create, _) => {
            let bad: Vec<&String> =
                map(new, "metadata.labels").keys().filter(|label| forbidden_label(label)).collect();
            if has(new, "spec.configSource") {
                return Err(cx.forbidden(&format!(
                    "node {node:?} is not allowed to create pods with a non-nil configSource"
                )));
            }
            refuse_labels(cx, node, &bad)
        }
        (Operation::Update, Some(old)) => {
            if at(new, "spec.taints") != at(old, "spec.taints") {
                return Err(cx.forbidden(&format!("node {node:?} is not allowed to modify taints")));
            }
            if at(new, "metadata.ownerReferences") != at(old, "metadata.ownerReferences") {
                return Err(cx.forbidden(&format!(
                    "node {node:?} is not allowed to modify ownerReferences"
                )));
            }
            let (labels, had) = (map(new, "metadata.labels"), map(old, "metadata.labels"));
            let bad: Vec<&String> = labels
                .keys()
                .chain(had.keys())
                .filter(|label| labels.get(*label) != had.get(*label) && forbidden_label(label))
                .collect();
            refuse_labels(cx, node, &bad)
        }
        _ => Ok(()),
    }
}

fn refuse_labels(cx: &Attributes<'_>, node: &str, bad: &[&String]) -> Result<(), Status> {
    if bad.is_empty() {
        return Ok(());
    }
    let mut names: Vec<&str> = bad.iter().map(|label| label.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let detail = format!("node {node:?} is not allowed to modify labels: {}", names.join(", "));
    Err(cx.forbidden(&detail))
}

/// Labels of Kubernetes' own domains that a kubelet may not set.
fn forbidden_label(label: &str) -> bool {
    const ALLOWED: &[&str] = &[
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "kubernetes.io/os",
        "kubernetes.io/arch",
    ];
    let Some((domain, _)) = label.split_once('/') else { return false };
    let within = |of: &str| domain == of || domain.ends_with(&format!(".{of}"));
    if !within("kubernetes.io") && !within("k8s.io") {
        return false;
    }
    if within("kubelet.kubernetes.io") || within("node.kubernetes.io") {
        return false;
    }
    !ALLOWED.contains(&label)
}

/// A kubelet asks only for tokens of pods that run on it.
fn token(cx: &Attributes<'_>, node: &str, object: Option<&Object>) -> Result<(), Status> {
    let Some(request) = object else { return Ok(()) };
    let bound = at(request, "spec.boundObjectRef");
    if text(bound, "kind") != "Pod" || text(bound, "name").is_empty() {
        return Err(cx.forbidden("node requested token not bound to a pod"));
    }
    let pod = cx.cluster.get("pods", cx.namespace, text(bound, "name")).map(|entry| entry.object());
    let Some(pod) = pod else {
        return Err(cx.forbidden(&format!("pod {:?} not found", text(bound, "name"))));
    };
    if text(bound, "uid") != text(&pod, "metadata.uid") {
        let detail = format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
            text(bound, "uid")
        );
        return Err(cx.forbidden(&detail));
    }
    if text(&pod, "spec.nodeName") != node {
        return Err(
            cx.forbidden("node requested token bound to a pod scheduled on a different node")
        );
    }
    Ok(())
}
