//! ReplicationControllers.

use apimachinery::field::FieldErrors;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::podtemplate::{default_template, template_warnings, validate_replicated};
use crate::registry::table::{age, containers, integer, labels, name, number, wide};
use crate::registry::validate::{not_negative, required, spec};
use crate::registry::value::{at, default, has, is_zero, map, set};
use crate::registry::{AGE, Column, Cx, NAME, Object, Selectable, Strategy};

#[derive(Debug)]
pub(super) struct ReplicationController;

impl Strategy for ReplicationController {
    fn resource(&self) -> &'static str {
        "replicationcontrollers"
    }

    fn default(&self, obj: &mut Object) {
        let labels = at(obj, "spec.template.metadata.labels").clone();
        if !is_zero(&labels) {
            for path in ["spec.selector", "metadata.labels"] {
                if is_zero(at(obj, path)) {
                    set(obj, path, labels.clone());
                }
            }
        }
        if has(obj, "spec") {
            default(&mut obj["spec"], "replicas", 1);
        }
        if has(obj, "spec.template") {
            default_template(obj, "spec.template");
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        validate(obj, errs);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Object, _old: &Object, errs: &mut FieldErrors) {
        validate(new, errs);
    }

    fn warnings(&self, _cx: &Cx<'_>, obj: &Object, old: Option<&Object>) -> Vec<String> {
        template_warnings(obj, old, "spec.template")
    }

    fn selectable_fields(&self) -> &'static [Selectable] {
        const FIELDS: &[Selectable] =
            &[Selectable { name: "status.replicas", path: "status.replicas", zero: "0" }];
        FIELDS
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
            json!(labels(map(obj, "spec.selector"))),
        ]
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn orphans_by_default(&self) -> bool {
        true
    }
}

fn validate(obj: &Object, errs: &mut FieldErrors) {
    let path = spec();
    not_negative(errs, &path.child("minReadySeconds"), at(obj, "spec.minReadySeconds"));
    required(errs, &path.child("selector"), at(obj, "spec.selector"));
    not_negative(errs, &path.child("replicas"), at(obj, "spec.replicas"));
    let template = at(obj, "spec.template");
    if template.is_null() {
        errs.required(path.child("template"), "");
        return;
    }
    let selector = json!({"matchLabels": at(obj, "spec.selector")});
    validate_replicated(
        errs,
        &path.child("template"),
        template,
        &selector,
        "ReplicationController",
    );
}
