//! `x-kubernetes-validations` of a definition: complete, compiling, and not too expensive.

use apimachinery::field::{FieldErrors, Path};
use apimachinery::structural::{
    Structural, over_rule_limit, over_schema_limit, rule_cost, rule_problem,
};
use serde_json::{Value, json};

use super::{key, list, map, text};

const REASONS: [&str; 4] =
    ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// The estimated costs of all rules of a schema, with their places.
#[derive(Default)]
pub(super) struct Costs(Vec<(Path, u64)>);

impl Costs {
    /// Refuses rules that cost too much together.
    pub(super) fn refuse(&self, root: &Path, errs: &mut FieldErrors) {
        let total = self.0.iter().fold(0_u64, |sum, (_, cost)| sum.saturating_add(*cost));
        let Some(factor) = over_schema_limit(total) else { return };
        for (path, cost) in &self.0 {
            // Those that matter: a hundredth of the sum.
            if *cost > total / 100 {
                let detail = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
                errs.forbidden(path.clone(), detail);
            }
        }
        errs.forbidden(
            root.clone(),
            format!(
                "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of {factor} {SIMPLIFY}"
            ),
        );
    }
}

const SIMPLIFY: &str = "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)";

/// Refuses rules that are incomplete, do not compile or cost too much.
pub(super) fn validate(
    path: &Path,
    schema: &Value,
    root: bool,
    times: u64,
    costs: &mut Costs,
    errs: &mut FieldErrors,
) {
    let rules = list(schema, "x-kubernetes-validations");
    if rules.is_empty() {
        return;
    }
    let structural = Structural::read(schema);
    for (n, rule) in rules.iter().enumerate() {
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
        if text(rule, "rule").trim().is_empty() {
            continue;
        }
        if let Some(problem) = rule_problem(rule, &structural, root) {
            errs.invalid(path.child(problem.field), shown(rule), problem.detail);
            continue;
        }
        let cost = rule_cost(rule, &structural, root, times);
        if let Some(factor) = over_rule_limit(cost) {
            let detail =
                format!("estimated rule cost exceeds budget by factor of {factor} {SIMPLIFY}");
            errs.forbidden(path.child("rule"), detail);
        }
        costs.0.push((path.child("rule"), cost));
    }
}

/// A rule with the field names that upstream shows in refusals.
fn shown(rule: &Value) -> Value {
    let own = |name: &str| key(rule, name).clone();
    json!({
        "Rule": text(rule, "rule"), "Message": text(rule, "message"),
        "MessageExpression": text(rule, "messageExpression"), "Reason": own("reason"),
        "FieldPath": text(rule, "fieldPath"), "OptionalOldSelf": own("optionalOldSelf"),
    })
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
