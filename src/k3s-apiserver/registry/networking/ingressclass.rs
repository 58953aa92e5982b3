//! IngressClasses.

use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::{label_problems, subdomain_problems};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::ingress::local_reference;
use crate::registry::table::{age, column, name};
use crate::registry::validate::{immutable_spec, problems, spec};
use crate::registry::value::{at, at_mut, default_zero, has, key, text};
use crate::registry::{AGE, Column, Cx, NAME, Object, Strategy};

const CONTROLLER_MAX: usize = 250;
const PATH: &str = r"Invalid path (regex used for validation is '[A-Za-z0-9/\-._~%!$&'()*+,;=:]+')";

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
        immutable_spec(errs, "controller", new, old);
        validate(new, errs);
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
    if controller.len() > CONTROLLER_MAX {
        errs.too_long(path.child("controller"), CONTROLLER_MAX);
    }
    domain_path(errs, &path.child("controller"), controller);
    if !has(body, "parameters") {
        return;
    }
    let (path, parameters) = (path.child("parameters"), key(body, "parameters"));
    local_reference(errs, &path, parameters);
    if !has(parameters, "scope") {
        errs.required(path.child("scope"), "");
        return;
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
            let path = path.child("namespace");
            if has(parameters, "namespace") {
                problems(errs, &path, namespace, label_problems(namespace));
            } else {
                errs.required(path, "`parameters.scope` is set to 'Namespace'");
            }
        }
        _ => errs.not_supported(path.child("scope"), scope, &["Cluster", "Namespace"]),
    }
}

/// A path below a domain: `acme.io/foo`.
fn domain_path(errs: &mut FieldErrors, path: &Path, text: &str) {
    if text.is_empty() {
        errs.required(path, "");
        return;
    }
    let (host, rest) = text.split_once('/').unwrap_or_default();
    if host.is_empty() || rest.is_empty() {
        errs.invalid(path, text, "must be a domain-prefixed path (such as \"acme.io/foo\")");
        return;
    }
    problems(errs, path, host, subdomain_problems(host));
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:".contains(c);
    if !rest.chars().all(plain) {
        errs.invalid(path, rest, PATH);
    }
}
