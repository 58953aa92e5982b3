//! `pods/binding`: the scheduler's decision written into the pod.

use apimachinery::field::{FieldErrors, Path};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::registry::Object;
use crate::registry::value::{has, key, list, map, object, set, text};

/// Why a pod cannot be bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// 422 of the Binding itself.
    Invalid(FieldErrors),
    /// 409 with this text after `Operation cannot be fulfilled on pods/binding "…": `.
    Conflict(String),
}

/// Checks a Binding.
pub fn validate(binding: &Object) -> FieldErrors {
    let mut errs = FieldErrors::default();
    let path = Path::new("target");
    let kind = text(binding, "target.kind");
    if !matches!(kind, "" | "Node") {
        errs.not_supported(path.child("kind"), kind, &["Node", "<empty>"]);
    }
    let name = text(binding, "target.name");
    if name.is_empty() {
        errs.required(path.child("name"), "");
    }
    errs
}

/// Sets the node of a pod and its condition `PodScheduled`.
pub fn bind(pod: &mut Object, binding: &Object, now: Timestamp) -> Result<(), Refused> {
    let errs = validate(binding);
    if !errs.is_empty() {
        return Err(Refused::Invalid(errs));
    }
    let name = text(pod, "metadata.name").to_owned();
    if has(pod, "metadata.deletionTimestamp") {
        return Err(Refused::Conflict(format!(
            "pod {name} is being deleted, cannot be assigned to a host"
        )));
    }
    let uid = text(binding, "metadata.uid");
    if !uid.is_empty() && uid != text(pod, "metadata.uid") {
        return Err(Refused::Conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            text(pod, "metadata.uid")
        )));
    }
    let node = text(pod, "spec.nodeName");
    if !node.is_empty() {
        return Err(Refused::Conflict(format!("pod {name} is already assigned to node {node:?}")));
    }
    if !list(pod, "spec.schedulingGates").is_empty() {
        return Err(Refused::Conflict(format!("pod {name} has non-empty .spec.schedulingGates")));
    }
    set(pod, "spec.nodeName", text(binding, "target.name"));
    for (field, extra) in [
        ("metadata.annotations", map(binding, "metadata.annotations")),
        ("metadata.labels", map(binding, "metadata.labels")),
    ] {
        if !extra.is_empty() {
            let into: &mut Map<String, Value> = object(pod, field);
            into.extend(extra.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
    }
    scheduled(pod, now);
    Ok(())
}

fn scheduled(pod: &mut Object, now: Timestamp) {
    let condition = json!({
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": format!("{now:.0}"),
    });
    let mut conditions = list(pod, "status.conditions").to_vec();
    conditions.retain(|have| key(have, "type") != "PodScheduled");
    conditions.push(condition);
    set(pod, "status.conditions", conditions);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binding_sets_the_node_once() {
        let mut pod = json!({"metadata": {"name": "p", "generation": 1}, "spec": {}});
        let binding = json!({"target": {"kind": "Node", "name": "n"}});
        bind(&mut pod, &binding, Timestamp::UNIX_EPOCH).expect("a free pod binds");
        assert_eq!(text(&pod, "spec.nodeName"), "n");
        assert_eq!(pod["status"]["conditions"][0]["status"], "True");
        let again = bind(&mut pod, &binding, Timestamp::UNIX_EPOCH);
        assert_eq!(again, Err(Refused::Conflict("pod p is already assigned to node \"n\"".into())));
    }
}
