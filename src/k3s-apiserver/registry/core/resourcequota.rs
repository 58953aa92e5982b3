//! ResourceQuotas.

use std::collections::HashSet;

use apimachinery::field::{FieldErrors, Path};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::resources::{is_standard, resource_name, resource_value};
use crate::registry::internal::renamed;
use crate::registry::table::{age, column, name};
use crate::registry::validate::{IMMUTABLE, spec};
use crate::registry::value::{at, list, map, text, texts};
use crate::registry::{AGE, Column, Cx, NAME, Object, Strategy};

const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

const CONFLICTS: [[&str; 2]; 2] =
    [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];
const EXISTS: &str = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";

#[derive(Debug)]
pub(super) struct ResourceQuota;

impl Strategy for ResourceQuota {
    fn resource(&self) -> &'static str {
        "resourcequotas"
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        validate(obj, errs);
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        if cx.subresource == "status" {
            for field in ["hard", "used"] {
                let path = Path::new("status").child(field);
                quantities(errs, &path, map(at(new, "status"), field));
            }
            return;
        }
        validate(new, errs);
        let set = |obj: &Object| -> HashSet<String> {
            texts(obj, "spec.scopes").map(str::to_owned).collect()
        };
        if set(new) != set(old) {
            errs.invalid(spec().child("scopes"), at(new, "spec.scopes").clone(), IMMUTABLE);
        }
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, column("Request"), column("Limit"), AGE];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (name, hard) in map(obj, "status.hard") {
            let used = map(obj, "status.used").get(name).and_then(Value::as_str).unwrap_or("0");
            let text = format!("{name}: {used}/{}", hard.as_str().unwrap_or_default());
            if name.starts_with("limits.") { limits.push(text) } else { requests.push(text) }
        }
        vec![name(obj), json!(requests.join(", ")), json!(limits.join(", ")), age(obj, now)]
    }
}

fn validate(obj: &Object, errs: &mut FieldErrors) {
    quantities(errs, &spec().child("hard"), map(obj, "spec.hard"));
    scopes(errs, obj);
    scope_selector(errs, obj);
}

fn quantities(errs: &mut FieldErrors, path: &Path, list: &Map<String, Value>) {
    for (name, value) in list {
        let path = path.key(name);
        resource_name(errs, &path, name);
        // A claim's size is counted as what it requests.
        if !name.contains('/') && (!is_standard(name) || name == "storage") {
            errs.invalid(&path, name.as_str(), "must be a standard resource for quota");
        }
        resource_value(errs, &path, name, value);
    }
}

fn scope_selector(errs: &mut FieldErrors, obj: &Object) {
    let path = spec().child("scopeSelector").child("matchExpressions");
    let mut seen = Vec::new();
    for term in list(obj, "spec.scopeSelector.matchExpressions") {
        let (scope, operator) = (text(term, "scopeName"), text(term, "operator"));
        let values = list(term, "values");
        if !SCOPES.contains(&scope) {
            errs.invalid(path.child("scopeName"), scope, "unsupported scope");
        }
        for resource in map(obj, "spec.hard").keys() {
            if SCOPES.contains(&scope) && is_standard(resource) && !scope_fits(scope, resource) {
                let shown = renamed(at(obj, "spec.scopeSelector"));
                errs.invalid(&path, shown, "unsupported scope applied to resource");
            }
        }
        let by_value = matches!(scope, "PriorityClass" | "VolumeAttributesClass");
        if SCOPES.contains(&scope) && !by_value && operator != "Exists" {
            errs.invalid(path.child("operator"), operator, EXISTS);
        }
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                errs.required(path.child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errs.invalid(path.child("values"), json!(values), "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errs.invalid(path.child("operator"), operator, "not a valid selector operator"),
        }
        seen.push(scope);
    }
    for pair in CONFLICTS {
        if pair.iter().all(|scope| seen.contains(scope)) {
            errs.invalid(&path, at(obj, "spec.scopes").clone(), "conflicting scopes");
        }
    }
}

fn scopes(errs: &mut FieldErrors, obj: &Object) {
    let path = spec().child("scopes");
    let scopes: Vec<&str> = texts(obj, "spec.scopes").collect();
    let shown = at(obj, "spec.scopes").clone();
    for scope in &scopes {
        if !SCOPES.contains(scope) {
            errs.invalid(path.clone(), shown.clone(), "unsupported scope");
            continue;
        }
        for resource in map(obj, "spec.hard").keys() {
            if is_standard(resource) && !scope_fits(scope, resource) {
                errs.invalid(path.clone(), shown.clone(), "unsupported scope applied to resource");
            }
        }
    }
    for pair in CONFLICTS {
        if pair.iter().all(|scope| scopes.contains(scope)) {
            errs.invalid(path.clone(), shown.clone(), "conflicting scopes");
        }
    }
}

fn scope_fits(scope: &str, resource: &str) -> bool {
    let of_pods = resource == "pods"
        || matches!(resource, "cpu" | "memory")
        || resource.ends_with(".cpu")
        || resource.ends_with(".memory");
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => {
            resource == "persistentvolumeclaims" || resource.ends_with("storage")
        }
        _ => of_pods,
    }
}
