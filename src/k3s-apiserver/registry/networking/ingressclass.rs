//! IngressClasses.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::field::FieldErrors;
use crate::registry::table::{age, column, name};
use crate::registry::validate::{immutable_spec, spec};
use crate::registry::value::{at, at_mut, default_zero, has, key, text};
use crate::registry::{AGE, Column, Cx, NAME, Object, Strategy};

#[derive(Debug)]
pub(super) struct IngressClass;

impl Strategy for IngressClass {
    fn resource(&self) -> &'static str {
        "ingressclasses.networking.k8s.io"
    }

    fn default(&self, obj: &mut Object) {
        if let Some(parameters) = at_mut(obj, "spec.parameters") {
            default_zero(parameters, "scope", "Cluster");
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        validate(obj, errs);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        validate(new, errs);
        immutable_spec(errs, "controller", new, old);
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, column("Controller"), column("Parameters"), AGE];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let parameters = match at(obj, "spec.parameters") {
            Value::Null => "<none>".to_owned(),
            parameters => {
                let group = text(parameters, "apiGroup");
                let dot = if group.is_empty() { "" } else { "." };
                format!("{}{dot}{group}/{}", text(parameters, "kind"), text(parameters, "name"))
            }
        };
        vec![name(obj), json!(text(obj, "spec.controller")), json!(parameters), age(obj, now)]
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn validate(obj: &Object, errs: &mut FieldErrors) {
    let (path, body) = (spec(), at(obj, "spec"));
    let controller = text(body, "controller");
    if controller.is_empty() {
        errs.required(path.child("controller"), "");
    } else if !controller.contains('/') {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        errs.invalid(path.child("controller"), controller, detail);
    }
    if !has(body, "parameters") {
        return;
    }
    let (path, parameters) = (path.child("parameters"), key(body, "parameters"));
    for field in ["kind", "name"] {
        if text(parameters, field).is_empty() {
            errs.required(path.child(field), "");
        }
    }
    let (scope, namespace) = (text(parameters, "scope"), text(parameters, "namespace"));
    match scope {
        "Cluster" => {
            if has(parameters, "namespace") {
                let detail = "`parameters.scope` is set to 'Cluster'";
                errs.forbidden(path.child("namespace"), detail);
            }
        }
        "Namespace" => {
            if namespace.is_empty() {
                let detail = "`parameters.scope` is set to 'Namespace'";
                errs.required(path.child("namespace"), detail);
            }
        }
        _ => errs.not_supported(path.child("scope"), scope, &["Cluster", "Namespace"]),
    }
}
