//! Bindings of admission policies.

use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::subdomain_problems;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::rules::{default_match, match_resources};
use crate::registry::table::{age, column, name};
use crate::registry::validate::{problems, spec};
use crate::registry::value::{at, at_mut, has, key, list, text, texts};
use crate::registry::{AGE, Column, Cx, NAME, Object, Strategy};

const ACTIONS: &[&str] = &["Audit", "Deny", "Warn"];

/// The strategy of one of the two resources.
#[derive(Debug)]
pub(super) struct Binding(pub(super) &'static str);

impl Binding {
    fn check(&self, obj: &Object, errs: &mut FieldErrors) {
        let (path, body) = (spec(), at(obj, "spec"));
        let policy = text(body, "policyName");
        if policy.is_empty() {
            errs.required(path.child("policyName"), "");
        } else {
            problems(errs, &path.child("policyName"), policy, subdomain_problems(policy));
        }
        if has(body, "paramRef") {
            param_ref(errs, &path.child("paramRef"), key(body, "paramRef"));
        }
        if has(body, "matchResources") {
            match_resources(errs, &path.child("matchResources"), key(body, "matchResources"));
        }
        if !self.0.starts_with("mutating") {
            actions(errs, &path.child("validationActions"), body);
        }
    }
}

impl Strategy for Binding {
    fn resource(&self) -> &'static str {
        self.0
    }

    fn default(&self, obj: &mut Object) {
        if let Some(resources) = at_mut(obj, "spec.matchResources") {
            default_match(resources);
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        self.check(obj, errs);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Object, _old: &Object, errs: &mut FieldErrors) {
        self.check(new, errs);
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, column("PolicyName"), column("ParamRef"), AGE];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let reference = match at(obj, "spec.paramRef") {
            Value::Null => "<unset>".to_owned(),
            param => {
                let name = text(param, "name");
                let shown = if name.is_empty() {
                    crate::registry::table::selector(key(param, "selector"))
                } else {
                    name.to_owned()
                };
                match text(param, "namespace") {
                    "" => format!("*/{shown}"),
                    namespace => format!("{namespace}/{shown}"),
                }
            }
        };
        vec![name(obj), json!(text(obj, "spec.policyName")), json!(reference), age(obj, now)]
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn actions(errs: &mut FieldErrors, path: &Path, body: &Value) {
    let all: Vec<&str> = texts(body, "validationActions").collect();
    if all.is_empty() {
        errs.required(path, "at least one validation action is required");
    }
    for (n, action) in all.iter().enumerate() {
        if !ACTIONS.contains(action) {
            errs.not_supported(path.index(n), *action, ACTIONS);
        }
        if all[..n].contains(action) {
            errs.duplicate(path.index(n), *action);
        }
    }
    if all.contains(&"Deny") && all.contains(&"Warn") {
        let shown = json!(list(body, "validationActions"));
        errs.invalid(path, shown, "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)");
    }
}

fn param_ref(errs: &mut FieldErrors, path: &Path, param: &Value) {
    match (!text(param, "name").is_empty(), has(param, "selector")) {
        (true, true) => {
            errs.forbidden(path.child("name"), "name and selector are mutually exclusive");
            errs.forbidden(path.child("selector"), "name and selector are mutually exclusive");
        }
        (false, false) => errs.required(path, "one of name or selector must be specified"),
        _ => {}
    }
    let action = text(param, "parameterNotFoundAction");
    if action.is_empty() {
        errs.required(path.child("parameterNotFoundAction"), "");
    } else if !matches!(action, "Allow" | "Deny") {
        errs.not_supported(path.child("parameterNotFoundAction"), action, &["Allow", "Deny"]);
    }
}
