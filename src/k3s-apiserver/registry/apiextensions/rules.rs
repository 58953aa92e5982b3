//! `x-kubernetes-validations` of a definition: what can be said without evaluating them.

use serde_json::Value;

use super::super::field::{FieldErrors, Path};
use super::{key, list, map, text};

const REASONS: [&str; 4] =
    ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// Refuses rules that are incomplete.
pub(super) fn validate(path: &Path, schema: &Value, errs: &mut FieldErrors) {
    for (n, rule) in list(schema, "x-kubernetes-validations").iter().enumerate() {
        let path = path.child("x-kubernetes-validations").index(n);
        let expression = text(rule, "rule");
        if expression.trim().is_empty() {
            errs.required(path.child("rule"), "rule is not specified");
        } else if expression.contains('\n') && text(rule, "message").is_empty() {
            let detail = "message must be specified if rule contains line breaks";
            errs.required(path.child("message"), detail);
        }
        let message = key(rule, "message").as_str();
        if let Some(message) = message.filter(|message| !message.is_empty()) {
            if message.trim().is_empty() {
                let detail = "message must be non-empty if specified";
                errs.invalid(path.child("message"), message, detail);
            } else if message.contains('\n') {
                let detail = "message must not contain line breaks";
                errs.invalid(path.child("message"), message, detail);
            }
        }
        let expression = key(rule, "messageExpression").as_str();
        if expression.is_some_and(|text| !text.is_empty() && text.trim().is_empty()) {
            let detail = "messageExpression must be non-empty if specified";
            errs.required(path.child("messageExpression"), detail);
        }
        let reason = text(rule, "reason");
        if !reason.is_empty() && !REASONS.contains(&reason) {
            errs.not_supported(path.child("reason"), reason, &REASONS);
        }
        let field = text(rule, "fieldPath");
        if !field.is_empty() && !leads_somewhere(field, schema) {
            errs.invalid(path.child("fieldPath"), field, "must be a valid path");
        }
    }
}

/// Does a path (`.a.b['c']`) lead to a property of the schema?
fn leads_somewhere(path: &str, schema: &Value) -> bool {
    let parsed = apimachinery::jsonpath::JsonPath::parse(path);
    let Some(steps) = parsed.as_ref().and_then(apimachinery::jsonpath::JsonPath::fields) else {
        return false;
    };
    let child = |schema: &'_ Value, step: &&str| -> Option<Value> {
        let named = map(schema, "properties").get(*step);
        let additional = schema.get("additionalProperties").filter(|child| child.is_object());
        named.or(additional).cloned()
    };
    let found = steps.iter().try_fold(schema.clone(), |schema, step| child(&schema, step));
    path.starts_with(['.', '[']) && found.is_some()
}
