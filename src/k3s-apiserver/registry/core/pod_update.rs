//! What may change in a pod after it was made, and how a refusal shows the difference.
//!
//! The difference is printed as upstream prints it: the internal object as indented JSON with Go's
//! field names, as a unified diff.

use serde_json::Value;

use super::podspec::{self, Of};
use super::spec_diff;
use crate::registry::Object;
use crate::registry::field::{FieldErrors, Path};
use crate::registry::validate::spec;
use crate::registry::value::{at, has, int, key, list, set, text};

const MAY_CHANGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// An ordinary update.
pub(super) fn validate(errs: &mut FieldErrors, new: &Object, old: &Object) {
    podspec::validate(errs, &spec(), at(new, "spec"), Of::Pod);
    for kind in ["containers", "initContainers"] {
        let path = spec().child(kind);
        let full = format!("spec.{kind}");
        if list(new, &full).len() != list(old, &full).len() {
            errs.forbidden(path, "pod updates may not add or remove containers");
            return;
        }
    }
    deadline(errs, new, old);
    if has(old, "metadata.deletionTimestamp")
        && at(new, "spec.schedulingGates") != at(old, "spec.schedulingGates")
    {
        errs.forbidden(
            spec().child("schedulingGates"),
            "only deletion is allowed, but found new scheduling gate",
        );
    }
    gates(errs, new, old);
    let mut allowed = new.clone();
    restore(&mut allowed, old);
    if at(&allowed, "spec") != at(old, "spec") {
        let diff = spec_diff::pod(at(old, "spec"), at(&allowed, "spec"));
        errs.forbidden(spec(), format!("{MAY_CHANGE}\n{diff}"));
    }
}

/// Puts back what may change, so that what differs is what may not.
fn restore(new: &mut Object, old: &Object) {
    for kind in ["containers", "initContainers"] {
        for (at, container) in list(old, &format!("spec.{kind}")).iter().enumerate() {
            if let Some(slot) = new["spec"][kind].get_mut(at) {
                slot["image"] = key(container, "image").clone();
            }
        }
    }
    let keep = |new: &mut Object, field: &str| match key(at(old, "spec"), field) {
        Value::Null => {
            crate::registry::value::remove(new, &format!("spec.{field}"));
        }
        value => set(new, &format!("spec.{field}"), value.clone()),
    };
    keep(new, "activeDeadlineSeconds");
    if tolerations_grow(new, old) {
        keep(new, "tolerations");
    }
    if int(old, "spec.terminationGracePeriodSeconds").is_some_and(|n| n < 0)
        && int(new, "spec.terminationGracePeriodSeconds") == Some(1)
    {
        keep(new, "terminationGracePeriodSeconds");
    }
    if !list(old, "spec.schedulingGates").is_empty() {
        for field in ["schedulingGates", "nodeSelector", "affinity"] {
            keep(new, field);
        }
    }
}

/// Tolerations may be added, and their seconds may change; none may go.
fn tolerations_grow(new: &Object, old: &Object) -> bool {
    let same = |a: &Value, b: &Value| {
        ["key", "operator", "value", "effect"].iter().all(|field| text(a, field) == text(b, field))
    };
    list(old, "spec.tolerations")
        .iter()
        .all(|had| list(new, "spec.tolerations").iter().any(|have| same(had, have)))
}

fn deadline(errs: &mut FieldErrors, new: &Object, old: &Object) {
    let path = spec().child("activeDeadlineSeconds");
    match (int(new, "spec.activeDeadlineSeconds"), int(old, "spec.activeDeadlineSeconds")) {
        (Some(new), Some(old)) if new > old => {
            errs.invalid(path, new, "must be less than or equal to previous value");
        }
        (None, Some(_)) => {
            errs.invalid(path, Value::Null, "must not update from a positive integer to nil value");
        }
        _ => {}
    }
}

fn gates(errs: &mut FieldErrors, new: &Object, old: &Object) {
    let had = list(old, "spec.schedulingGates");
    for (n, gate) in list(new, "spec.schedulingGates").iter().enumerate() {
        if !had.contains(gate) {
            let path = spec().child("schedulingGates").index(n);
            errs.forbidden(path, "only deletion is allowed, but found new scheduling gate");
        }
    }
}

/// An update of the status.
pub(super) fn validate_status(errs: &mut FieldErrors, new: &Object, old: &Object) {
    if text(new, "status.nominatedNodeName") != text(old, "status.nominatedNodeName") {
        let name = text(new, "status.nominatedNodeName");
        if !name.is_empty() {
            let path = Path::new("status").child("nominatedNodeName");
            let found = crate::registry::validate::subdomain_problems(name);
            crate::registry::validate::problems(errs, &path, name, found);
        }
    }
    if at(new, "spec.nodeName") != at(old, "spec.nodeName") {
        errs.forbidden(Path::new("status").child("nodeName"), "may not be changed directly");
    }
    for (field, kind) in
        [("containerStatuses", "containers"), ("initContainerStatuses", "initContainers")]
    {
        restarts(errs, new, old, field, kind);
    }
}

/// A container that has ended for good may not run again.
fn restarts(errs: &mut FieldErrors, new: &Object, old: &Object, field: &str, kind: &str) {
    let policy = text(new, "spec.restartPolicy");
    if policy == "Always" {
        return;
    }
    let path = Path::new("status").child(field);
    for status in list(old, &format!("status.{field}")) {
        let name = text(status, "name");
        let ended = at(status, "state.terminated");
        let sidecar = list(new, &format!("spec.{kind}"))
            .iter()
            .any(|c| text(c, "name") == name && has(c, "restartPolicy"));
        if ended.is_null() || sidecar {
            continue;
        }
        if policy == "OnFailure" && int(ended, "exitCode") != Some(0) {
            continue;
        }
        let here = list(new, &format!("status.{field}"))
            .iter()
            .enumerate()
            .find(|(_, s)| text(s, "name") == name);
        if let Some((n, status)) = here
            && !has(status, "state.terminated")
        {
            errs.forbidden(
                path.index(n).child("state"),
                "may not be transitioned to non-terminated state",
            );
        }
    }
}

/// `pods/ephemeralcontainers`: containers may only be added.
pub(super) fn validate_ephemeral(errs: &mut FieldErrors, new: &Object, old: &Object) {
    podspec::validate(errs, &spec(), at(new, "spec"), Of::Pod);
    let path = spec().child("ephemeralContainers");
    for had in list(old, "spec.ephemeralContainers") {
        let name = text(had, "name");
        match list(new, "spec.ephemeralContainers")
            .iter()
            .enumerate()
            .find(|(_, c)| text(c, "name") == name)
        {
            None => errs.forbidden(
                path.clone(),
                format!("existing ephemeral containers {name:?} may not be removed\n"),
            ),
            Some((n, have)) if have != had => {
                let diff = spec_diff::value(had, have);
                let detail =
                    format!("existing ephemeral containers {name:?} may not be changed\n{diff}");
                errs.forbidden(path.index(n), detail);
            }
            Some(_) => {}
        }
    }
}

/// `pods/resize`: only the resources of containers may change.
pub(super) fn validate_resize(errs: &mut FieldErrors, new: &Object, old: &Object) {
    podspec::validate(errs, &spec(), at(new, "spec"), Of::Pod);
    if super::resources::qos_class(at(new, "spec")) != super::resources::qos_class(at(old, "spec"))
    {
        let class = super::resources::qos_class(at(new, "spec"));
        errs.invalid(spec(), class, "Pod QOS Class may not change as a result of resizing");
    }
    let mut allowed = new.clone();
    for kind in ["containers", "initContainers"] {
        for (n, container) in list(old, &format!("spec.{kind}")).iter().enumerate() {
            if let Some(slot) = allowed["spec"][kind].get_mut(n) {
                slot["resources"] = key(container, "resources").clone();
                slot["resizePolicy"] = key(container, "resizePolicy").clone();
                for field in ["resources", "resizePolicy"] {
                    if slot[field].is_null() {
                        slot.as_object_mut().map(|slot| slot.remove(field));
                    }
                }
            }
        }
    }
    if at(&allowed, "spec") != at(old, "spec") {
        let diff = spec_diff::pod(at(old, "spec"), at(&allowed, "spec"));
        errs.forbidden(spec(), format!("only cpu and memory resources are mutable\n{diff}"));
    }
}
