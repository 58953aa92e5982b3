//! ReplicaSets.

use apimachinery::field::{FieldErrors, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::core::podtemplate::{
    default_template, template_warnings, validate_replicated,
};
use crate::registry::table::{age, containers, integer, name, number, selector, wide};
use crate::registry::validate::{immutable_spec, not_negative, selector_converts, spec};
use crate::registry::value::{at, at_mut, default, int, key};
use crate::registry::{AGE, Column, Cx, NAME, Object, Strategy};

#[derive(Debug)]
pub(super) struct ReplicaSet;

impl Strategy for ReplicaSet {
    fn resource(&self) -> &'static str {
        "replicasets.apps"
    }

    fn default(&self, obj: &mut Object) {
        if let Some(spec) = at_mut(obj, "spec") {
            default(spec, "replicas", 1);
        }
        default_template(obj, "spec.template");
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        validate(obj, errs);
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        if cx.subresource == "status" {
            return status(errs, new);
        }
        validate(new, errs);
        immutable_spec(errs, "selector", new, old);
    }

    fn warnings(&self, _cx: &Cx<'_>, obj: &Object, old: Option<&Object>) -> Vec<String> {
        template_warnings(obj, old, "spec.template")
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            integer("Desired"),
            integer("Current"),
            integer("Ready"),
            AGE,
            wide("Containers"),
            wide("Images"),
            wide("Selector"),
        ];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let (names, images) = containers(at(obj, "spec.template.spec"));
        vec![
            name(obj),
            number(obj, "spec.replicas"),
            number(obj, "status.replicas"),
            number(obj, "status.readyReplicas"),
            age(obj, now),
            json!(names),
            json!(images),
            json!(selector(at(obj, "spec.selector"))),
        ]
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn validate(obj: &Object, errs: &mut FieldErrors) {
    let path = spec();
    let body = at(obj, "spec");
    not_negative(errs, &path.child("replicas"), key(body, "replicas"));
    not_negative(errs, &path.child("minReadySeconds"), key(body, "minReadySeconds"));
    super::selector(errs, obj, "deployment", true);
    let wanted = key(body, "selector");
    if selector_converts(wanted) {
        validate_replicated(
            errs,
            &path.child("template"),
            key(body, "template"),
            wanted,
            "ReplicaSet",
        );
    } else {
        errs.invalid(path.child("selector"), wanted.clone(), "invalid label selector");
    }
}

fn status(errs: &mut FieldErrors, obj: &Object) {
    let path = Path::new("status");
    let body = at(obj, "status");
    let all = [
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "observedGeneration",
    ];
    for field in all {
        not_negative(errs, &path.child(field), key(body, field));
    }
    let of = |field: &str| int(body, field).unwrap_or_default();
    for field in ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"] {
        if of(field) > of("replicas") {
            errs.invalid(path.child(field), of(field), "cannot be greater than status.replicas");
        }
    }
    if of("availableReplicas") > of("readyReplicas") {
        let detail = "cannot be greater than readyReplicas";
        errs.invalid(path.child("availableReplicas"), of("availableReplicas"), detail);
    }
}
