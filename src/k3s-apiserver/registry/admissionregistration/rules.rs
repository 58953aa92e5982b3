//! What webhooks and policies share: rules, match resources, match conditions.

use std::collections::HashSet;

use apimachinery::cel::Ty;
use serde_json::{Value, json};

use crate::expressions::Scope;
use crate::registry::field::{FieldErrors, Path};
use crate::registry::validate::{label_selector, problems, qualified_problems};
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
    for field in ["apiGroups", "apiVersions", "resources"] {
        let values: Vec<&str> = texts(rule, field).collect();
        if values.is_empty() {
            errs.required(path.child(field), "");
        }
        if values.len() > 1 && values.contains(&"*") {
            let shown = key(rule, field).clone();
            let detail = if field == "resources" {
                "if '*' is present, must not specify other resources without subresources"
            } else {
                "if '*' is present, must not specify other "
            };
            let noun = if field == "apiGroups" { "API groups" } else { "API versions" };
            let detail =
                if field == "resources" { detail.to_owned() } else { format!("{detail}{noun}") };
            errs.invalid(path.child(field), shown, detail);
        }
        if field != "apiGroups" {
            for (n, value) in values.iter().enumerate() {
                if value.is_empty() {
                    errs.required(path.child(field).index(n), "");
                }
            }
        }
    }
    let scope = text(rule, "scope");
    if has(rule, "scope") && !matches!(scope, "*" | "Cluster" | "Namespaced") {
        errs.not_supported(path.child("scope"), scope, &["*", "Cluster", "Namespaced"]);
    }
    let operations: Vec<&str> = texts(rule, "operations").collect();
    let path = path.child("operations");
    if operations.is_empty() {
        errs.required(path.clone(), "");
    }
    if operations.len() > 1 && operations.contains(&"*") {
        let shown = key(rule, "operations").clone();
        errs.invalid(path.clone(), shown, "if '*' is present, must not specify other operations");
    }
    for (n, operation) in operations.iter().enumerate() {
        if !OPERATIONS.contains(operation) {
            errs.not_supported(path.index(n), *operation, OPERATIONS);
        }
    }
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
            rule(errs, &path.child(field).index(n), one);
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
