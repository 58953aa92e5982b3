//! `apps/v1`.

mod controllerrevision;
mod daemonset;
mod deployment;
mod replicaset;
mod statefulset;

use apimachinery::field::FieldErrors;

use super::Object;
use super::Strategy;
use super::validate::spec;
use super::value::at;

pub(super) static STRATEGIES: &[&dyn Strategy] = &[
    &controllerrevision::ControllerRevision,
    &daemonset::DaemonSet,
    &deployment::Deployment,
    &replicaset::ReplicaSet,
    &statefulset::StatefulSet,
];

/// A selector that must be there, be well-formed and select something.
fn selector(errs: &mut FieldErrors, obj: &Object, what: &str, required: bool) {
    let selector = at(obj, "spec.selector");
    let path = spec().child("selector");
    if selector.is_null() {
        if required {
            errs.required(path, "");
        }
        return;
    }
    super::validate::label_selector(errs, &path, selector);
    if super::validate::selector_is_empty(selector) {
        errs.invalid(path, serde_json::json!({}), format!("empty selector is invalid for {what}"));
    }
}

/// The number of name collisions only grows.
fn collisions(errs: &mut FieldErrors, new: &Object, old: &Object) {
    let path = apimachinery::field::Path::new("status").child("collisionCount");
    let of = |obj: &Object| super::value::int(obj, "status.collisionCount");
    match (of(new), of(old)) {
        (new, Some(old)) if new.is_none_or(|new| new < old) => {
            errs.invalid(path, new.unwrap_or_default(), "cannot be decremented");
        }
        _ => {}
    }
}
