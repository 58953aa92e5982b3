//! The small plugins for pods: default tolerations, priority, runtime classes; and the taint that a
//! new node starts with.

use apimachinery::status::Status;
use serde_json::{Value, json};

use super::Attributes;
use crate::registry::Object;
use crate::registry::value::{at, flag, has, int, key, list, map, object, set, text};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const SECONDS: i64 = 300;

/// DefaultTolerationSeconds: a pod stays five minutes on a node that is gone.
pub(super) fn toleration_seconds(pod: &mut Object) {
    let tolerates = |taint: &str| {
        list(pod, "spec.tolerations").iter().any(|one| {
            let (name, effect) = (text(one, "key"), text(one, "effect"));
            (name == taint || name.is_empty()) && matches!(effect, "NoExecute" | "")
        })
    };
    let missing: Vec<&str> =
        [NOT_READY, UNREACHABLE].into_iter().filter(|taint| !tolerates(taint)).collect();
    for taint in missing {
        push(
            pod,
            json!({
                "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
            }),
        );
    }
}

fn push(pod: &mut Object, toleration: Value) {
    let mut all = list(pod, "spec.tolerations").to_vec();
    all.push(toleration);
    set(pod, "spec.tolerations", all);
}

/// Priority: the number and the preemption policy of the pod's class.
pub(super) fn priority(cx: &Attributes<'_>, pod: &mut Object) -> Result<(), Status> {
    let name = text(pod, "spec.priorityClassName").to_owned();
    let class = if name.is_empty() {
        default_class(cx)
    } else {
        match cx.cluster.get("priorityclasses.scheduling.k8s.io", "", &name) {
            Some(entry) => Some(entry.object()),
            None => {
                let detail = format!("no PriorityClass with name {name} was found");
                return Err(cx.forbidden_for(Some(pod), &detail));
            }
        }
    };
    let (value, policy) = match &class {
        Some(class) => {
            if name.is_empty() {
                set(pod, "spec.priorityClassName", text(class, "metadata.name"));
            }
            let policy = text(class, "preemptionPolicy");
            (
                int(class, "value").unwrap_or_default(),
                if policy.is_empty() { "PreemptLowerPriority" } else { policy },
            )
        }
        None => (0, "PreemptLowerPriority"),
    };
    if let Some(given) = int(pod, "spec.priority")
        && given != value
    {
        let detail = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        );
        return Err(cx.forbidden_for(Some(pod), &detail));
    }
    set(pod, "spec.priority", value);
    if has(pod, "spec.preemptionPolicy") {
        let given = text(pod, "spec.preemptionPolicy");
        if given != policy {
            let detail = format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
            );
            return Err(cx.forbidden_for(Some(pod), &detail));
        }
    } else {
        set(pod, "spec.preemptionPolicy", policy);
    }
    Ok(())
}

/// The class for pods without one: the lowest of those marked as default.
fn default_class(cx: &Attributes<'_>) -> Option<Object> {
    cx.cluster
        .list("priorityclasses.scheduling.k8s.io", "")
        .iter()
        .map(|entry| entry.object())
        .filter(|class| flag(class, "globalDefault"))
        .min_by_key(|class| int(class, "value").unwrap_or_default())
}

/// Only one class may be the default.
pub(super) fn one_default_class(cx: &Attributes<'_>, class: &Object) -> Result<(), Status> {
    if !flag(class, "globalDefault") {
        return Ok(());
    }
    match default_class(cx) {
        Some(other) if text(&other, "metadata.name") != text(class, "metadata.name") => {
            let detail = format!(
                "PriorityClass {} is already marked as default. Only one default can exist",
                text(&other, "metadata.name")
            );
            Err(cx.forbidden_for(Some(class), &detail))
        }
        _ => Ok(()),
    }
}

/// RuntimeClass: the overhead and the nodes of a runtime.
pub(super) fn runtime_class(cx: &Attributes<'_>, pod: &mut Object) -> Result<(), Status> {
    let name = text(pod, "spec.runtimeClassName").to_owned();
    if name.is_empty() {
        return Ok(());
    }
    let Some(class) = cx.cluster.get("runtimeclasses.node.k8s.io", "", &name) else {
        let detail = format!("pod rejected: RuntimeClass {name:?} not found");
        return Err(cx.forbidden_for(Some(pod), &detail));
    };
    let class = class.object();
    let overhead = at(&class, "overhead.podFixed");
    if !overhead.is_null() {
        let given = at(pod, "spec.overhead");
        if !given.is_null() && given != overhead {
            let detail =
                "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
            return Err(cx.forbidden_for(Some(pod), detail));
        }
        let overhead = overhead.clone();
        set(pod, "spec.overhead", overhead);
    }
    for (label, value) in map(&class, "scheduling.nodeSelector") {
        let into = object(pod, "spec.nodeSelector");
        if into.get(label).is_some_and(|have| have != value) {
            let detail = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{label}] and pod.spec.nodeSelector[{label}] have different values"
            );
            return Err(cx.forbidden_for(Some(pod), &detail));
        }
        into.insert(label.clone(), value.clone());
    }
    for toleration in list(&class, "scheduling.tolerations") {
        if !list(pod, "spec.tolerations").contains(toleration) {
            push(pod, toleration.clone());
        }
    }
    Ok(())
}

/// TaintNodesByCondition: a new node takes no pods until it reports ready.
pub(super) fn taint_new_node(node: &mut Object) {
    let mut taints = list(node, "spec.taints").to_vec();
    let there = taints
        .iter()
        .any(|taint| key(taint, "key") == NOT_READY && key(taint, "effect") == "NoSchedule");
    if !there {
        taints.push(json!({"key": NOT_READY, "effect": "NoSchedule"}));
        set(node, "spec.taints", taints);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_are_added_only_where_missing() {
        let mut pod = json!({"spec": {"tolerations": [{"key": NOT_READY, "operator": "Exists"}]}});
        toleration_seconds(&mut pod);
        assert_eq!(list(&pod, "spec.tolerations").len(), 2);
        let mut all = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        toleration_seconds(&mut all);
        assert_eq!(list(&all, "spec.tolerations").len(), 1);
    }

    #[test]
    fn a_new_node_is_tainted_once() {
        let mut node = json!({"spec": {}});
        taint_new_node(&mut node);
        taint_new_node(&mut node);
        assert_eq!(list(&node, "spec.taints").len(), 1);
    }
}
