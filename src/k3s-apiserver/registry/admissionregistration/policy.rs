//! Validating and mutating admission policies.
//!
//! Expressions are stored and not compiled here: what evaluates them judges them.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::rules::{default_match, failure_policy, match_conditions, match_resources};
use crate::registry::field::{FieldErrors, Path};
use crate::registry::table::{age, column, integer, name};
use crate::registry::validate::spec;
use crate::registry::value::{at, at_mut, default, has, key, list, text};
use crate::registry::{AGE, Column, Cx, NAME, Object, Strategy};

/// The strategy of one of the two resources.
#[derive(Debug)]
pub(super) struct Policy(pub(super) &'static str);

impl Policy {
    fn mutating(&self) -> bool {
        self.0.starts_with("mutating")
    }

    fn check(&self, obj: &Object, errs: &mut FieldErrors) {
        let (path, body) = (spec(), at(obj, "spec"));
        failure_policy(errs, &path, body);
        if has(body, "paramKind") {
            param_kind(errs, &path.child("paramKind"), key(body, "paramKind"));
        }
        let constraints = key(body, "matchConstraints");
        let here = path.child("matchConstraints");
        if constraints.is_null() {
            errs.required(here, "");
        } else {
            match_resources(errs, &here, constraints);
            if list(constraints, "resourceRules").is_empty() {
                errs.required(here.child("resourceRules"), "");
            }
        }
        match_conditions(errs, &path.child("matchConditions"), list(body, "matchConditions"));
        for (n, variable) in list(body, "variables").iter().enumerate() {
            let path = path.child("variables").index(n);
            let name = text(variable, "name");
            if name.is_empty() {
                errs.required(path.child("name"), "name is not specified");
            } else if !identifier(name) {
                errs.invalid(path.child("name"), name, "must be a valid CEL identifier");
            }
            if text(variable, "expression").trim().is_empty() {
                errs.required(path.child("expression"), "expression is not specified");
            }
        }
        if self.mutating() { mutations(errs, &path, body) } else { validations(errs, &path, body) }
    }
}

impl Strategy for Policy {
    fn resource(&self) -> &'static str {
        self.0
    }

    fn default(&self, obj: &mut Object) {
        let Some(spec) = at_mut(obj, "spec") else { return };
        default(spec, "failurePolicy", "Fail");
        if let Some(constraints) = at_mut(spec, "matchConstraints") {
            default_match(constraints);
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        self.check(obj, errs);
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, _old: &Object, errs: &mut FieldErrors) {
        if cx.subresource.is_empty() {
            self.check(new, errs);
        }
    }

    fn columns(&self) -> &'static [Column] {
        const VALIDATING: &[Column] = &[NAME, integer("Validations"), column("ParamKind"), AGE];
        const MUTATING: &[Column] = &[NAME, integer("Mutations"), column("ParamKind"), AGE];
        if self.mutating() { MUTATING } else { VALIDATING }
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let field = if self.mutating() { "spec.mutations" } else { "spec.validations" };
        let kind = match at(obj, "spec.paramKind") {
            Value::Null => "<unset>".to_owned(),
            kind => format!("{}/{}", text(kind, "apiVersion"), text(kind, "kind")),
        };
        vec![name(obj), json!(list(obj, field).len()), json!(kind), age(obj, now)]
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn identifier(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.first().is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_')
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_')
}

fn param_kind(errs: &mut FieldErrors, path: &Path, kind: &Value) {
    let version = text(kind, "apiVersion");
    if version.is_empty() {
        errs.required(path.child("apiVersion"), "");
    } else if version.split('/').count() > 2 {
        let detail = format!("unexpected GroupVersion string: {version}");
        errs.invalid(path.child("apiVersion"), version, detail);
    }
    if text(kind, "kind").is_empty() {
        errs.required(path.child("kind"), "");
    }
}

fn validations(errs: &mut FieldErrors, path: &Path, body: &Value) {
    let all = list(body, "validations");
    if all.is_empty() && list(body, "auditAnnotations").is_empty() {
        let detail = "validations or auditAnnotations must contain at least one item";
        errs.required(path.child("validations"), detail);
    }
    for (n, one) in all.iter().enumerate() {
        let path = path.child("validations").index(n);
        if text(one, "expression").trim().is_empty() {
            errs.required(path.child("expression"), "expression is not specified");
        }
        let message = text(one, "message");
        if message.contains('\n') {
            errs.invalid(path.child("message"), message, "must not contain line breaks");
        } else if has(one, "message") && !message.is_empty() && message.trim().is_empty() {
            errs.invalid(path.child("message"), message, "message must be non-empty if specified");
        }
        let reason = text(one, "reason");
        if has(one, "reason")
            && !matches!(reason, "Forbidden" | "Invalid" | "RequestEntityTooLarge" | "Unauthorized")
        {
            let valid = &["Forbidden", "Invalid", "RequestEntityTooLarge"];
            errs.not_supported(path.child("reason"), reason, valid);
        }
    }
}

fn mutations(errs: &mut FieldErrors, path: &Path, body: &Value) {
    let all = list(body, "mutations");
    if all.is_empty() {
        errs.required(path.child("mutations"), "mutations must contain at least one item");
    }
    for (n, one) in all.iter().enumerate() {
        let path = path.child("mutations").index(n);
        let kind = text(one, "patchType");
        let (own, other) = match kind {
            "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
            "JSONPatch" => ("jsonPatch", "applyConfiguration"),
            "" => {
                errs.required(path.child("patchType"), "");
                continue;
            }
            _ => {
                let valid = &["ApplyConfiguration", "JSONPatch"];
                errs.not_supported(path.child("patchType"), kind, valid);
                continue;
            }
        };
        if !has(one, own) {
            let detail = format!("must be specified when patchType is {kind}");
            errs.required(path.child(own), detail);
        } else if text(key(one, own), "expression").trim().is_empty() {
            errs.required(path.child(own).child("expression"), "expression is not specified");
        }
        if has(one, other) {
            let shown = format!("{{{other}}}");
            let detail = format!("must not be specified when patchType is {kind}");
            errs.invalid(path.child(other), shown, detail);
        }
    }
    let policy = text(body, "reinvocationPolicy");
    if policy.is_empty() {
        errs.required(path.child("reinvocationPolicy"), "");
    } else if !matches!(policy, "IfNeeded" | "Never") {
        errs.not_supported(path.child("reinvocationPolicy"), policy, &["IfNeeded", "Never"]);
    }
}
