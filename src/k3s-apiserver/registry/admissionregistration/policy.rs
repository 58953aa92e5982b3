//! Validating and mutating admission policies.
//!
//! Expressions are compiled here to be judged, and again (or from the cache) where they are
//! evaluated.

use apimachinery::cel::Ty;
use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::{label_1035_problems, qualified_problems, subdomain_problems};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::rules::{
    default_match, expression, failure_policy, match_conditions, match_resources, typed_expression,
};
use crate::expressions::{Params, Scope};
use crate::registry::table::{age, column, integer, name};
use crate::registry::validate::{problems, spec};
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
        let params = if has(body, "paramKind") { Params::Declared } else { Params::None };
        let mut scope = Scope::admission(params);
        let conditions = list(body, "matchConditions");
        match_conditions(errs, &path.child("matchConditions"), conditions, &scope);
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
                continue;
            }
            let expression = text(variable, "expression");
            match scope.compile(expression.trim()) {
                Ok(program) => scope.declare(name, program.ty.clone()),
                Err(why) => {
                    let detail = format!("compilation failed: {why}");
                    errs.invalid(path.child("expression"), expression, detail);
                }
            }
        }
        match self.mutating() {
            true => mutations(errs, &path, body, &scope),
            false => {
                validations(errs, &path, body, &scope);
                audit_annotations(errs, obj, &scope);
            }
        }
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
    let (here, whole) = (path.child("apiVersion"), text(kind, "apiVersion"));
    let (group, version) = whole.split_once('/').unwrap_or(("", whole));
    if whole.is_empty() {
        errs.required(here, "");
    } else if version.contains('/') {
        errs.invalid(here, whole, format!("unexpected GroupVersion string: {whole}"));
    } else {
        let said = |problems: Vec<String>| problems.join(",");
        let found = if group.is_empty() { Vec::new() } else { subdomain_problems(group) };
        if !found.is_empty() {
            errs.invalid(&here, group, said(found));
        }
        let found = label_1035_problems(version);
        if version.is_empty() {
            errs.invalid(here, version, "version must be specified");
        } else if !found.is_empty() {
            errs.invalid(here, version, said(found));
        }
    }
    let (here, kind) = (path.child("kind"), text(kind, "kind"));
    let found = label_1035_problems(&kind.to_lowercase());
    if kind.is_empty() {
        errs.required(here, "");
    } else if !found.is_empty() {
        let why = found.join(",");
        errs.invalid(here, kind, format!("may have mixed case, but should otherwise match: {why}"));
    }
}

/// What a policy writes into the audit log.
fn audit_annotations(errs: &mut FieldErrors, obj: &Object, scope: &Scope) {
    const MOST: usize = 20;
    const LONGEST: usize = 5 << 10;
    let (all, path) = (list(obj, "spec.auditAnnotations"), spec().child("auditAnnotations"));
    let policy = text(obj, "metadata.name");
    if all.len() > MOST {
        errs.invalid(&path, json!(all), format!("must not have more than {MOST} auditAnnotations"));
    }
    for (n, one) in all.iter().enumerate() {
        let (path, name) = (path.index(n), text(one, "key"));
        let whole = if policy.is_empty() { name.to_owned() } else { format!("{policy}/{name}") };
        problems(errs, &path.child("key"), name, qualified_problems(&whole));
        let (here, value) = (path.child("valueExpression"), text(one, "valueExpression"));
        if value.trim().is_empty() {
            errs.required(here, "valueExpression is not specified");
        } else if value.trim().len() > LONGEST {
            errs.required(here, "must not exceed 5kb in length");
        } else if let Err(why) = scope.compile(value.trim()) {
            errs.invalid(here, value, format!("compilation failed: {why}"));
        }
        if all[..n].iter().any(|other| text(other, "key") == name) {
            errs.duplicate(path.child("key"), name);
        }
    }
}

fn validations(errs: &mut FieldErrors, path: &Path, body: &Value, scope: &Scope) {
    let all = list(body, "validations");
    if all.is_empty() && list(body, "auditAnnotations").is_empty() {
        let detail = "validations or auditAnnotations must contain at least one item";
        errs.required(path.child("validations"), detail);
    }
    for (n, one) in all.iter().enumerate() {
        let path = path.child("validations").index(n);
        if text(one, "expression").trim().is_empty() {
            errs.required(path.child("expression"), "expression is not specified");
        } else {
            expression(errs, &path.child("expression"), text(one, "expression"), scope);
        }
        let made = text(one, "messageExpression");
        if !made.trim().is_empty() {
            let path = path.child("messageExpression");
            typed_expression(errs, &path, made, scope, &Ty::String);
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

/// The expression of a mutation: it makes a list of patches, or an object.
fn mutation(errs: &mut FieldErrors, path: &Path, text: &str, scope: &Scope, patches: bool) {
    let detail = match scope.compile(text.trim()) {
        Err(why) => format!("compilation failed: {why}"),
        Ok(program) => match (&program.ty, patches) {
            (Ty::Dyn, _) | (Ty::List(_), true) | (Ty::Map(..) | Ty::Object(_), false) => return,
            (ty, true) => format!("must evaluate to list(JSONPatch) but got {ty}"),
            (ty, false) => format!("must evaluate to Object but got {ty}"),
        },
    };
    errs.invalid(path.clone(), text, detail);
}

fn mutations(errs: &mut FieldErrors, path: &Path, body: &Value, scope: &Scope) {
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
        } else {
            let path = path.child(own).child("expression");
            mutation(errs, &path, text(key(one, own), "expression"), scope, own == "jsonPatch");
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
