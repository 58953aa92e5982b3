//! Pods: creation, update rules, deletion and the fields that selectors may name.

use apimachinery::field::FieldErrors;
use serde_json::{Value, json};

use super::resources::qos_class;
use super::{pod_status, pod_table, pod_update, pod_validation, pod_warnings, podspec_defaults};
use crate::registry::value::{at, carry, has, int, key, list, remove, set, text};
use crate::registry::{Column, Cx, Deletion, Object, Selectable, Strategy};

#[derive(Debug)]
pub(super) struct Pod;

impl Strategy for Pod {
    fn resource(&self) -> &'static str {
        "pods"
    }

    fn default(&self, obj: &mut Object) {
        podspec_defaults::default_pod(obj);
    }

    fn prepare_for_create(&self, cx: &Cx<'_>, obj: &mut Object) {
        let class = qos_class(at(obj, "spec"));
        let mut status = json!({"phase": "Pending", "qosClass": class});
        if !list(obj, "spec.schedulingGates").is_empty() {
            status["conditions"] = json!([{
                "lastProbeTime": null,
                "lastTransitionTime": format!("{:.0}", cx.now),
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "reason": "SchedulingGated",
                "status": "False",
                "type": "PodScheduled",
            }]);
        }
        obj["status"] = status;
        mirror_names(obj);
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        pod_validation::validate(errs, obj);
        pod_validation::validate_create(errs, obj);
    }

    fn prepare_for_update(&self, cx: &Cx<'_>, new: &mut Object, old: &Object) {
        match cx.subresource {
            "status" => {
                if !has(new, "status.qosClass") {
                    carry(old, new, "status.qosClass");
                }
                // A node may report only once whether it resizes; a missing phase is the old one.
                if !has(new, "status.phase") {
                    carry(old, new, "status.phase");
                }
            }
            "ephemeralcontainers" => {
                let containers = at(new, "spec.ephemeralContainers").clone();
                *new = with_metadata_of(old, new);
                if containers.is_null() {
                    remove(new, "spec.ephemeralContainers");
                } else {
                    new["spec"]["ephemeralContainers"] = containers;
                }
            }
            "resize" => {
                let asked = std::mem::replace(new, with_metadata_of(old, new));
                take_resources(new, &asked);
            }
            _ => mirror_names(new),
        }
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        match cx.subresource {
            "status" => pod_status::validate(errs, new, old),
            "ephemeralcontainers" => pod_update::validate_ephemeral(errs, new, old),
            "resize" => pod_update::validate_resize(errs, new, old),
            _ => pod_update::validate(errs, new, old),
        }
    }

    fn warnings(&self, _cx: &Cx<'_>, obj: &Object, old: Option<&Object>) -> Vec<String> {
        pod_warnings::of_pod(obj, old)
    }

    fn selectable_fields(&self) -> &'static [Selectable] {
        const fn field(name: &'static str) -> Selectable {
            Selectable { name, path: name, zero: "" }
        }
        const FIELDS: &[Selectable] = &[
            field("spec.nodeName"),
            field("spec.restartPolicy"),
            field("spec.schedulerName"),
            field("spec.serviceAccountName"),
            Selectable { name: "spec.hostNetwork", path: "spec.hostNetwork", zero: "false" },
            field("status.phase"),
            field("status.podIP"),
            field("status.nominatedNodeName"),
        ];
        FIELDS
    }

    fn columns(&self) -> &'static [Column] {
        pod_table::COLUMNS
    }

    fn row(&self, obj: &Object, now: jiff::Timestamp) -> Vec<Value> {
        pod_table::row(obj, now)
    }

    fn row_conditions(&self, obj: &Object) -> Option<Value> {
        let phase = text(obj, "status.phase");
        let message = match phase {
            "Succeeded" => "The pod has completed successfully.",
            "Failed" => "The pod failed.",
            _ => return None,
        };
        Some(json!([{"type": "Completed", "status": "True", "reason": phase, "message": message}]))
    }

    fn graceful_delete(&self, obj: &Object, grace: Option<i64>) -> Deletion {
        let asked = grace.or_else(|| int(obj, "spec.terminationGracePeriodSeconds")).unwrap_or(30);
        let finished = matches!(text(obj, "status.phase"), "Failed" | "Succeeded");
        if text(obj, "spec.nodeName").is_empty() || finished {
            return Deletion::Graceful(0);
        }
        Deletion::Graceful(if asked < 0 { 1 } else { asked })
    }

    fn has_generation(&self) -> bool {
        true
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are always there.
fn mirror_names(pod: &mut Object) {
    let name = match text(pod, "spec.serviceAccountName") {
        "" => text(pod, "spec.serviceAccount").to_owned(),
        name => name.to_owned(),
    };
    if !name.is_empty() {
        set(pod, "spec.serviceAccountName", name.as_str());
        set(pod, "spec.serviceAccount", name);
    }
}

/// The old pod, with what the generic part of an update has seen to.
fn with_metadata_of(old: &Object, new: &Object) -> Object {
    let mut out = old.clone();
    for field in ["resourceVersion", "managedFields"] {
        carry(new, &mut out, &format!("metadata.{field}"));
    }
    out
}

/// A resize changes the resources of containers and how they take a change, and nothing else.
fn take_resources(pod: &mut Object, asked: &Object) {
    for kind in ["containers", "initContainers"] {
        let path = format!("spec.{kind}");
        let wanted = list(asked, &path);
        for container in crate::registry::value::list_mut(pod, &path) {
            let name = text(container, "name").to_owned();
            let Some(wanted) = wanted.iter().find(|other| text(other, "name") == name) else {
                continue;
            };
            for field in ["resources", "resizePolicy"] {
                match key(wanted, field) {
                    Value::Null => remove(container, field),
                    value => container
                        .as_object_mut()
                        .and_then(|members| members.insert(field.to_owned(), value.clone())),
                };
            }
        }
    }
    carry(asked, pod, "spec.resources");
}
