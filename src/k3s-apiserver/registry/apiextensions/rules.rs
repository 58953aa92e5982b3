//! `x-kubernetes-validations` of a definition: complete, compiling, and not too expensive.

use apimachinery::field::{FieldErrors, Path};
use apimachinery::structural::{
    Structural, over_rule_limit, over_schema_limit, rule_cost, rule_is_transition, rule_problem,
};
use serde_json::{Value, json};

use super::{key, list, map, text};

const RULES: &str = "x-kubernetes-validations";
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
        let mut most: Vec<&(Path, u64)> =
            self.0.iter().filter(|(_, cost)| *cost >= MATTERS).collect();
        most.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
        for (path, _) in most.into_iter().take(4) {
            let detail = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            errs.forbidden(path.clone(), detail);
        }
        errs.forbidden(
            root.clone(),
            format!(
                "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of {factor} {SIMPLIFY}"
            ),
        );
    }
}

/// A hundredth of what all rules may cost.
const MATTERS: u64 = 1_000_000;
const SIMPLIFY: &str = "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)";

/// Refuses rules that are incomplete.
pub(super) fn complete(path: &Path, schema: &Value, errs: &mut FieldErrors) {
    let breaks = |text: &str| text.contains(['\n', '\r']);
    for (n, rule) in list(schema, RULES).iter().enumerate() {
        let path = path.child(RULES).index(n);
        let (whole, said) = (text(rule, "rule").trim(), text(rule, "message"));
        if whole.is_empty() {
            errs.required(path.child("rule"), "rule is not specified");
        } else if !said.is_empty() && said.trim().is_empty() {
            errs.invalid(path.child("message"), said, "must be non-empty if specified");
        } else if breaks(said.trim()) {
            errs.invalid(path.child("message"), said, "must not contain line breaks");
        } else if breaks(whole) && said.trim().is_empty() {
            let detail = "message must be specified if rule contains line breaks";
            errs.required(path.child("message"), detail);
        }
        let expression = text(rule, "messageExpression");
        if !expression.is_empty() && expression.trim().is_empty() {
            let detail = "messageExpression must be non-empty if specified";
            errs.required(path.child("messageExpression"), detail);
        }
        if let Some(reason) = key(rule, "reason").as_str().filter(|own| !REASONS.contains(own)) {
            errs.not_supported(path.child("reason"), reason, &REASONS);
        }
        let (path, field) = (path.child("fieldPath"), text(rule, "fieldPath"));
        if !field.is_empty() && field.trim().is_empty() {
            errs.invalid(&path, field, "must be non-empty if specified");
        }
        if breaks(field) {
            errs.invalid(&path, field, "must not contain line breaks");
        }
        if !field.is_empty() && !leads_somewhere(field, schema) {
            errs.invalid(path, field, "must be a valid path");
        }
    }
}

/// Where rules stand.
pub(super) struct Place<'a> {
    pub root: bool,
    /// How often the values may occur in one object.
    pub times: u64,
    /// The first part of the schema whose values cannot be told from others after a change.
    pub uncorrelated: Option<&'a Path>,
}

/// Refuses rules that do not compile, cost too much, or compare what cannot be compared.
pub(super) fn compiled(
    path: &Path,
    schema: &Value,
    place: &Place<'_>,
    costs: &mut Costs,
    errs: &mut FieldErrors,
) {
    let rules = list(schema, RULES);
    if rules.is_empty() {
        return;
    }
    let structural = Structural::read(schema);
    for (n, rule) in rules.iter().enumerate() {
        let path = path.child(RULES).index(n);
        let cost = rule_cost(rule, &structural, place.root, place.times);
        if let Some(factor) = over_rule_limit(cost) {
            let detail =
                format!("estimated rule cost exceeds budget by factor of {factor} {SIMPLIFY}");
            errs.forbidden(path.child("rule"), detail);
        }
        costs.0.push((path.child("rule"), cost));
        if let Some(problem) = rule_problem(rule, &structural, place.root) {
            errs.invalid(path.child(problem.field), shown(rule), problem.detail);
        }
        let transition = rule_is_transition(rule, &structural, place.root);
        if let (true, Some(within)) = (transition, place.uncorrelated) {
            let detail = format!(
                "oldSelf cannot be used on the uncorrelatable portion of the schema within {within}"
            );
            errs.invalid(path.child("rule"), text(rule, "rule"), detail);
        }
        let optional = key(rule, "optionalOldSelf");
        if !transition && !optional.is_null() {
            let detail = "may not be set if oldSelf is not used in rule";
            errs.invalid(path.child("optionalOldSelf"), optional.clone(), detail);
        }
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
