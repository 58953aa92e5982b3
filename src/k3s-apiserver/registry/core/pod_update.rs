//! What may change in a pod after it was made, and how a refusal shows the difference.

use apimachinery::field::{FieldErrors, Path};
use serde_json::Value;

use super::pod_validation::{self, APP_ARMOR, MIRROR};
use super::podspec;
use super::resources::qos_class;
use crate::registry::Object;
use crate::registry::internal::{Struct, diff, renamed};
use crate::registry::validate::spec;
use crate::registry::value::{at, carry, has, int, key, list, map, remove, set, text};

const MAY_CHANGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// An ordinary update.
pub(super) fn validate(errs: &mut FieldErrors, new: &Object, old: &Object) {
    pod_validation::validate(errs, new);
    annotation_updates(errs, new, old);
    for kind in ["containers", "initContainers"] {
        let full = format!("spec.{kind}");
        if list(new, &full).len() != list(old, &full).len() {
            let detail = "pod updates may not add or remove containers";
            errs.forbidden(spec().child(kind), detail);
            return;
        }
        images(errs, &spec().child(kind), list(new, &full));
    }
    if !deadline(errs, new, old) {
        return;
    }
    tolerations(errs, new, old);
    gates(errs, new, old);
    if at(new, "spec") == at(old, "spec") {
        return;
    }
    let mut allowed = new.clone();
    restore(&mut allowed, old);
    if !list(old, "spec.schedulingGates").is_empty() {
        gated(errs, &mut allowed, old);
    }
    if at(&allowed, "spec") != at(old, "spec") {
        let diff = diff(Struct::PodSpec, at(old, "spec"), at(&allowed, "spec"));
        errs.forbidden(spec(), format!("{MAY_CHANGE}\n{diff}"));
    }
}

/// Annotations that stand for fields change no more than those.
pub(super) fn annotation_updates(errs: &mut FieldErrors, new: &Object, old: &Object) {
    let path = pod_validation::metadata_annotations();
    let (had, have) =
        (map(at(old, "metadata"), "annotations"), map(at(new, "metadata"), "annotations"));
    let gone = had.iter().filter(|(name, value)| have.get(*name) != Some(value));
    let added = have.keys().filter(|name| !had.contains_key(*name));
    for (name, verb) in
        gone.map(|(name, _)| (name, "remove or update")).chain(added.map(|name| (name, "add")))
    {
        if name.starts_with(APP_ARMOR) {
            errs.forbidden(path.key(name), format!("may not {verb} AppArmor annotations"));
        }
        if name == MIRROR {
            errs.forbidden(path.key(name), format!("may not {verb} mirror pod annotation"));
        }
    }
    pod_validation::annotations(errs, &path, new);
}

fn images(errs: &mut FieldErrors, path: &Path, containers: &[Value]) {
    for (at, container) in containers.iter().enumerate() {
        let (path, image) = (path.index(at).child("image"), text(container, "image"));
        if image.is_empty() {
            errs.required(&path, "");
        }
        if image.trim() != image {
            errs.invalid(&path, image, "must not have leading or trailing whitespace");
        }
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
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        carry(old, new, &format!("spec.{field}"));
    }
    if int(old, "spec.terminationGracePeriodSeconds").is_some_and(|n| n < 0)
        && int(new, "spec.terminationGracePeriodSeconds") == Some(1)
    {
        carry(old, new, "spec.terminationGracePeriodSeconds");
    }
}

/// While gates hold a pod back, where it may go can still be narrowed.
fn gated(errs: &mut FieldErrors, new: &mut Object, old: &Object) {
    let (had, have) = (map(old, "spec.nodeSelector"), map(new, "spec.nodeSelector"));
    if had.iter().any(|(name, value)| have.get(name) != Some(value)) {
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errs.invalid(spec().child("nodeSelector"), Value::from(have.clone()), detail);
    }
    carry(old, new, "spec.nodeSelector");
    let affinity = "spec.affinity.nodeAffinity";
    if at(new, affinity) == at(old, affinity) {
        return;
    }
    narrowed(errs, at(new, affinity), at(old, affinity));
    if at(old, affinity).is_null() {
        remove(new, affinity);
        let empty = at(new, "spec.affinity").as_object().is_some_and(serde_json::Map::is_empty);
        if !has(old, "spec.affinity") && empty {
            remove(new, "spec.affinity");
        }
    } else {
        set(new, affinity, at(old, affinity).clone());
    }
}

fn narrowed(errs: &mut FieldErrors, new: &Value, old: &Value) {
    let path = spec().child("affinity").child("nodeAffinity").child(REQUIRED);
    let path = path.child("nodeSelectorTerms");
    let terms = |affinity| list(key(affinity, REQUIRED), "nodeSelectorTerms");
    let (had, have) = (terms(old), terms(new));
    if had.is_empty() {
        return;
    }
    if had.len() != have.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errs.invalid(path, renamed(&Value::from(have.to_vec())), detail);
        return;
    }
    for (n, (had, have)) in had.iter().zip(have).enumerate() {
        let fields = ["matchExpressions", "matchFields"];
        let empty = |term: &Value| fields.iter().all(|field| list(term, field).is_empty());
        let kept = fields.iter().all(|field| list(have, field).starts_with(list(had, field)));
        if !kept || (empty(had) && !empty(have)) {
            let detail = "only additions are allowed (no mutations or deletions)";
            errs.invalid(path.index(n), renamed(have), detail);
        }
    }
}

/// Tolerations may be added, and their seconds may change; none may go.
fn tolerations(errs: &mut FieldErrors, new: &Object, old: &Object) {
    let path = spec().child("tolerations");
    let same = |a: &Value, b: &Value| {
        ["key", "operator", "value", "effect"].iter().all(|field| text(a, field) == text(b, field))
    };
    let have = list(new, "spec.tolerations");
    if list(old, "spec.tolerations").iter().any(|had| !have.iter().any(|one| same(had, one))) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errs.forbidden(path, detail);
        return;
    }
    podspec::tolerations_at(errs, &path, have);
}

/// Tells whether the rest of the update is worth a look.
fn deadline(errs: &mut FieldErrors, new: &Object, old: &Object) -> bool {
    let path = spec().child("activeDeadlineSeconds");
    match (int(new, "spec.activeDeadlineSeconds"), int(old, "spec.activeDeadlineSeconds")) {
        (Some(new), _) if !(0..=i64::from(i32::MAX)).contains(&new) => {
            errs.invalid(path, new, "must be between 0 and 2147483647, inclusive");
            return false;
        }
        (Some(new), Some(old)) if new > old => {
            errs.invalid(path, new, "must be less than or equal to previous value");
            return false;
        }
        (None, Some(_)) => {
            errs.invalid(path, Value::Null, "must not update from a positive integer to nil value");
        }
        _ => {}
    }
    true
}

fn gates(errs: &mut FieldErrors, new: &Object, old: &Object) {
    let had = list(old, "spec.schedulingGates");
    for (n, gate) in list(new, "spec.schedulingGates").iter().enumerate() {
        let name = text(gate, "name");
        if !had.iter().any(|gate| text(gate, "name") == name) {
            let path = spec().child("schedulingGates").index(n).child("name");
            let detail =
                format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errs.forbidden(path, detail);
        }
    }
}

/// `pods/ephemeralcontainers`: containers may only be added.
pub(super) fn validate_ephemeral(errs: &mut FieldErrors, new: &Object, old: &Object) {
    pod_validation::validate(errs, new);
    annotation_updates(errs, new, old);
    if is_static(old) {
        errs.0.clear();
        errs.forbidden("", "static pods do not support ephemeral containers");
        return;
    }
    let path = spec().child("ephemeralContainers");
    for had in list(old, "spec.ephemeralContainers") {
        let name = text(had, "name");
        let now = list(new, "spec.ephemeralContainers").iter().find(|c| text(c, "name") == name);
        match now {
            None => errs.forbidden(
                &path,
                format!("existing ephemeral containers {name:?} may not be removed\n"),
            ),
            Some(now) if now != had => {
                let diff = diff(Struct::EphemeralContainer, had, now);
                let detail =
                    format!("existing ephemeral containers {name:?} may not be changed\n{diff}");
                errs.forbidden(&path, detail);
            }
            Some(_) => {}
        }
    }
}

fn is_static(pod: &Object) -> bool {
    map(at(pod, "metadata"), "annotations").contains_key(MIRROR)
}

/// `pods/resize`: only the resources of containers may change.
pub(super) fn validate_resize(errs: &mut FieldErrors, new: &Object, old: &Object) {
    pod_validation::validate(errs, new);
    let refusal = match () {
        () if is_static(old) => Some("static pods cannot be resized"),
        () if text(old, "spec.os.name") == "windows" => Some("windows pods cannot be resized"),
        () => None,
    };
    if let Some(refusal) = refusal {
        errs.0.clear();
        errs.forbidden("", refusal);
        return;
    }
    if qos_class(at(new, "spec")) != text(old, "status.qosClass") {
        let class = text(new, "status.qosClass");
        errs.invalid(spec(), class, "Pod QOS Class may not change as a result of resizing");
    }
    for kind in ["initContainers", "containers"] {
        let full = format!("spec.{kind}");
        let pairs = list(new, &full).iter().zip(list(old, &full)).enumerate();
        for (n, (new, old)) in pairs {
            let sidecar = text(old, "restartPolicy") == "Always";
            if kind == "containers" || sidecar {
                resized(errs, &spec().child(kind).index(n).child("resources"), new, old);
            }
        }
    }
    for kind in ["containers", "initContainers"] {
        let full = format!("spec.{kind}");
        for (new, old) in list(new, &full).iter().zip(list(old, &full)) {
            let detail = match (kind, text(old, "restartPolicy")) {
                ("containers", _) => "only cpu and memory resources are mutable",
                (_, "Always") => "only cpu and memory resources for sidecar containers are mutable",
                _ if new != old => "resources for non-sidecar init containers are immutable",
                _ => continue,
            };
            if other_resources(new) != other_resources(old)
                || detail.starts_with("resources for non-sidecar")
            {
                errs.forbidden(spec(), detail);
            }
        }
    }
}

/// A container without what a resize may change.
fn other_resources(container: &Value) -> Value {
    let mut rest = container.clone();
    for kind in ["limits", "requests"] {
        for name in ["cpu", "memory"] {
            remove(&mut rest, &format!("resources.{kind}.{name}"));
        }
        if at(&rest, &format!("resources.{kind}"))
            .as_object()
            .is_some_and(serde_json::Map::is_empty)
        {
            remove(&mut rest, &format!("resources.{kind}"));
        }
    }
    rest
}

fn resized(errs: &mut FieldErrors, path: &Path, new: &Value, old: &Value) {
    for kind in ["requests", "limits"] {
        let (had, have) = (map(key(old, "resources"), kind), map(key(new, "resources"), kind));
        if had.keys().any(|name| !have.contains_key(name)) {
            errs.forbidden(path.child(kind), format!("resource {kind} cannot be removed"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(old: Value, new: Value, want: &[&str]) {
        let pod = |change: &Value| {
            let mut spec = json!({
                "containers": [{"name": "a", "image": "x", "imagePullPolicy": "Always",
                    "terminationMessagePolicy": "File"}],
                "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
                "terminationGracePeriodSeconds": 30});
            for (name, value) in change.as_object().into_iter().flatten() {
                spec[name] = value.clone();
            }
            json!({"metadata": {"name": "p"}, "spec": spec})
        };
        let mut errs = FieldErrors::default();
        validate(&mut errs, &pod(&new), &pod(&old));
        let got: Vec<String> = errs.0.iter().map(ToString::to_string).collect();
        assert_eq!(got, want, "{old} → {new}");
    }

    #[test]
    fn gates_only_go_and_what_they_hold_back_only_narrows() {
        let gate = |name| json!([{"name": name}]);
        check(json!({"schedulingGates": gate("a")}), json!({}), &[]);
        check(
            json!({}),
            json!({"schedulingGates": gate("a")}),
            &[
                "spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'a'",
            ],
        );
        check(
            json!({"schedulingGates": gate("a")}),
            json!({"schedulingGates": gate("a"), "nodeSelector": {"x": "y"}}),
            &[],
        );
        check(
            json!({"schedulingGates": gate("a"), "nodeSelector": {"x": "y"}}),
            json!({"schedulingGates": gate("a")}),
            &[
                "spec.nodeSelector: Invalid value: {}: only additions to spec.nodeSelector are allowed (no mutations or deletions)",
            ],
        );
    }

    #[test]
    fn deadlines_only_shrink_and_tolerations_only_grow() {
        check(json!({"activeDeadlineSeconds": 5}), json!({"activeDeadlineSeconds": 4}), &[]);
        check(
            json!({"activeDeadlineSeconds": 5}),
            json!({"activeDeadlineSeconds": 6}),
            &[
                "spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value",
            ],
        );
        check(
            json!({"tolerations": [{"key": "a", "operator": "Exists"}]}),
            json!({"tolerations": []}),
            &[
                "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds",
            ],
        );
    }
}
