//! ResourceQuotas.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::resources::{is_standard, resource_value};
use crate::registry::field::FieldErrors;
use crate::registry::table::{age, column, name};
use crate::registry::validate::{IMMUTABLE, problems, qualified_problems, spec};
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
    for (name, value) in map(obj, "spec.hard") {
        let path = spec().child("hard").key(name);
        problems(errs, &path, name, qualified_problems(name));
        if !name.contains('/') && !is_standard(name) {
            errs.invalid(
                path.clone(),
                name.as_str(),
                "must be a standard resource type or fully qualified",
            );
            errs.invalid(path.clone(), name.as_str(), "must be a standard resource for quota");
        }
        resource_value(errs, &path, name, value);
    }
    scopes(errs, obj);
    for term in list(obj, "spec.scopeSelector.matchExpressions") {
        let path = spec().child("scopeSelector").child("matchExpressions");
        let scope = text(term, "scopeName");
        if !SCOPES.contains(&scope) {
            errs.invalid(path.child("scopeName"), scope, "unsupported scope");
        }
        let operator = text(term, "operator");
        let values = list(term, "values");
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
    for pair in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
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
