//! What webhooks and policies share: rules, match resources, match conditions.

use std::collections::HashSet;

use apimachinery::cel::Ty;
use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::qualified_problems;
use serde_json::{Value, json};

use crate::expressions::Scope;
use crate::registry::rbac::path_segment;
use crate::registry::validate::{label_selector, one_of, problems};
use crate::registry::value::{default, has, key, list, list_mut, text, texts};

const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];

/// Defaults of a `MatchResources`.
pub(super) fn default_match(resources: &mut Value) {
    default(resources, "matchPolicy", "Equivalent");
    default(resources, "namespaceSelector", json!({}));
    default(resources, "objectSelector", json!({}));
    for field in ["resourceRules", "excludeResourceRules"] {
        default_rules(resources, field);
    }
}

/// Rules without a scope are for all scopes.
pub(super) fn default_rules(holder: &mut Value, field: &str) {
    for rule in list_mut(holder, field) {
        default(rule, "scope", "*");
    }
}

/// Rules of webhooks and policies.
pub(super) fn rule(errs: &mut FieldErrors, path: &Path, rule: &Value) {
    operations(errs, &path.child("operations"), rule);
    for (field, noun) in [("apiGroups", "API groups"), ("apiVersions", "API versions")] {
        let (path, values) = (path.child(field), texts(rule, field).collect::<Vec<_>>());
        if values.is_empty() {
            errs.required(&path, "");
        }
        if values.len() > 1 && values.contains(&"*") {
            let detail = format!("if '*' is present, must not specify other {noun}");
            errs.invalid(&path, key(rule, field).clone(), detail);
        }
        for (n, value) in values.iter().enumerate() {
            if value.is_empty() && field == "apiVersions" {
                errs.required(path.index(n), "");
            }
        }
    }
    resources(errs, &path.child("resources"), rule);
    if has(rule, "scope") {
        let valid = &["*", "Cluster", "Namespaced"];
        one_of(errs, &path.child("scope"), key(rule, "scope"), valid);
    }
}

fn operations(errs: &mut FieldErrors, path: &Path, rule: &Value) {
    let operations: Vec<&str> = texts(rule, "operations").collect();
    if operations.is_empty() {
        errs.required(path, "");
    }
    if operations.len() > 1 && operations.contains(&"*") {
        let shown = key(rule, "operations").clone();
        errs.invalid(path, shown, "if '*' is present, must not specify other operations");
    }
    for (n, operation) in operations.iter().enumerate() {
        if !OPERATIONS.contains(operation) {
            errs.not_supported(path.index(n), *operation, OPERATIONS);
        }
    }
}

/// `pods`, `pods/status`, `*`, `pods/*`, `*/status`, `*/*`: none may say again what another does.
fn resources(errs: &mut FieldErrors, path: &Path, rule: &Value) {
    let all: Vec<&str> = texts(rule, "resources").collect();
    if all.is_empty() {
        errs.required(path, "");
    }
    let (mut whole, mut everywhere) = (HashSet::new(), HashSet::new());
    let mut without_subresource = false;
    for (n, one) in all.iter().enumerate() {
        let path = path.index(n);
        if one.is_empty() {
            errs.required(path, "");
            continue;
        }
        let Some((resource, sub)) = one.split_once('/') else {
            without_subresource = *one != "*";
            continue;
        };
        if whole.contains(resource) {
            let detail = format!("if '{resource}/*' is present, must not specify {one}");
            errs.invalid(&path, *one, detail);
        }
        if everywhere.contains(sub) {
            let detail = format!("if '*/{sub}' is present, must not specify {one}");
            errs.invalid(&path, *one, detail);
        }
        if sub == "*" {
            whole.insert(resource);
        }
        if resource == "*" {
            everywhere.insert(sub);
        }
    }
    let shown = || key(rule, "resources").clone();
    if all.len() > 1 && all.contains(&"*/*") {
        errs.invalid(path, shown(), "if '*/*' is present, must not specify other resources");
    }
    if all.contains(&"*") && without_subresource {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errs.invalid(path, shown(), detail);
    }
}

/// A rule that may name objects.
fn named_rule(errs: &mut FieldErrors, path: &Path, one: &Value) {
    let mut seen = HashSet::new();
    for (n, name) in texts(one, "resourceNames").enumerate() {
        let path = path.child("resourceNames").index(n);
        path_segment(errs, &path, name);
        if !seen.insert(name) {
            errs.duplicate(path, name);
        }
    }
    rule(errs, path, one);
}

/// A `MatchResources` of a policy (where rules are required) or of a binding.
pub(super) fn match_resources(errs: &mut FieldErrors, path: &Path, resources: &Value) {
    let policy = text(resources, "matchPolicy");
    if has(resources, "matchPolicy") && !matches!(policy, "Equivalent" | "Exact") {
        errs.not_supported(path.child("matchPolicy"), policy, &["Equivalent", "Exact"]);
    }
    for field in ["namespaceSelector", "objectSelector"] {
        label_selector(errs, &path.child(field), key(resources, field));
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        for (n, one) in list(resources, field).iter().enumerate() {
            named_rule(errs, &path.child(field).index(n), one);
        }
    }
}

/// `matchConditions`: named expressions.
pub(super) fn match_conditions(
    errs: &mut FieldErrors,
    path: &Path,
    conditions: &[Value],
    scope: &Scope,
) {
    if conditions.len() > 64 {
        errs.too_many(path, conditions.len(), 64);
    }
    let mut names = HashSet::new();
    for (n, condition) in conditions.iter().enumerate() {
        let path = path.index(n);
        let name = text(condition, "name");
        if text(condition, "expression").trim().is_empty() {
            errs.required(path.child("expression"), "");
        } else {
            expression(errs, &path.child("expression"), text(condition, "expression"), scope);
        }
        if name.is_empty() {
            errs.required(path.child("name"), "");
            continue;
        }
        problems(errs, &path.child("name"), name, qualified_problems(name));
        if !names.insert(name) {
            errs.duplicate(path.child("name"), name);
        }
    }
}

/// A condition: it must compile and be true or false.
pub(super) fn expression(errs: &mut FieldErrors, path: &Path, text: &str, scope: &Scope) {
    typed_expression(errs, path, text, scope, &Ty::Bool);
}

/// An expression of some type.
pub(super) fn typed_expression(
    errs: &mut FieldErrors,
    path: &Path,
    text: &str,
    scope: &Scope,
    want: &Ty,
) {
    if let Some(problem) = scope.problem(text.trim(), want) {
        errs.invalid(path.clone(), text, problem);
    }
}

/// `failurePolicy`.
pub(super) fn failure_policy(errs: &mut FieldErrors, path: &Path, holder: &Value) {
    let policy = text(holder, "failurePolicy");
    if has(holder, "failurePolicy") && !matches!(policy, "Fail" | "Ignore") {
        errs.not_supported(path.child("failurePolicy"), policy, &["Fail", "Ignore"]);
    }
}
