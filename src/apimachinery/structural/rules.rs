//! `x-kubernetes-validations`: rules of a schema, compiled once and held against values.
//!
//! An update is judged by what it changes: a rule that fails on a value that is what it was before
//! is a warning. Invariant: rules that do not compile are refused with the definition, so a tree
//! holds none.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Structural;
use super::validate::same_item;
use crate::cel::{self, Program, Ty, Val, Vars};
use crate::field::{ErrorKind, FieldError, index, key, show};

/// The largest body, which limits how many elements a value without limits can have.
const BODY_MAX: u64 = 3 * 1024 * 1024;
/// Upstream's limits of the estimated cost: one rule, and all rules of a schema.
const RULE_COST_MAX: u64 = 10_000_000;
const SCHEMA_COST_MAX: u64 = 100_000_000;
const MESSAGE_MAX: usize = 5120;

/// The rules of a schema and of what is below it.
#[derive(Debug, Default)]
pub struct Rules {
    own: Vec<Rule>,
    properties: BTreeMap<String, Rules>,
    items: Option<Box<Rules>>,
    additional: Option<Box<Rules>>,
}

#[derive(Debug)]
struct Rule {
    text: String,
    program: Program,
    message: String,
    message_program: Option<Program>,
    reason: String,
    field: String,
    transition: bool,
    optional_old: bool,
}

/// What rules found.
#[derive(Debug, Default)]
pub struct Findings {
    pub errors: Vec<FieldError>,
    /// Failures on values that did not change.
    pub warnings: Vec<FieldError>,
}

/// What is wrong with a rule of a schema: the field of the rule and the text.
#[derive(Debug, PartialEq, Eq)]
pub struct RuleProblem {
    pub field: &'static str,
    pub detail: String,
}

fn text<'r>(rule: &'r Value, name: &str) -> &'r str {
    rule[name].as_str().unwrap_or_default()
}

fn variables(schema: &Structural, root: bool, optional_old: bool) -> BTreeMap<String, Ty> {
    let own = Ty::of(schema, root);
    let old = match optional_old {
        true => Ty::Optional(own.clone().into()),
        false => own.clone(),
    };
    BTreeMap::from([("self".to_owned(), own), ("oldSelf".to_owned(), old)])
}

/// Compiles one rule; the problem otherwise.
fn compile(rule: &Value, schema: &Structural, root: bool) -> Result<Rule, RuleProblem> {
    let problem = |field, detail| RuleProblem { field, detail };
    let optional_old = rule["optionalOldSelf"] == true;
    let variables = variables(schema, root, optional_old);
    let expression = text(rule, "rule");
    let program = cel::compile(expression, &variables)
        .map_err(|why| problem("rule", format!("compilation failed: {why}")))?;
    if !matches!(program.ty, Ty::Bool | Ty::Dyn) {
        return Err(problem("rule", "cel expression must evaluate to a bool".to_owned()));
    }
    let transition = program.uses("oldSelf");
    let message_program = match text(rule, "messageExpression").trim() {
        "" => None,
        expression => {
            let program = cel::compile(expression, &variables).map_err(|why| {
                let detail = format!("messageExpression compilation failed: {why}");
                problem("messageExpression", detail)
            })?;
            if !matches!(program.ty, Ty::String | Ty::Dyn) {
                let detail = "messageExpression must evaluate to a string".to_owned();
                return Err(problem("messageExpression", detail));
            }
            Some(program)
        }
    };
    Ok(Rule {
        text: expression.trim().to_owned(),
        program,
        message: text(rule, "message").trim().to_owned(),
        message_program,
        reason: text(rule, "reason").to_owned(),
        field: text(rule, "fieldPath").to_owned(),
        transition,
        optional_old,
    })
}

/// What is wrong with a rule, when something is.
pub fn rule_problem(rule: &Value, schema: &Structural, root: bool) -> Option<RuleProblem> {
    compile(rule, schema, root).err()
}

/// Does a rule compare with what was there before?
pub fn rule_is_transition(rule: &Value, schema: &Structural, root: bool) -> bool {
    compile(rule, schema, root).is_ok_and(|rule| rule.transition)
}

/// The schema of a field as expressions name it, or (`*`) of elements.
fn child<'s>(schema: &'s Structural, step: &str) -> Option<&'s Structural> {
    if step == "*" {
        return schema.items.as_deref().or_else(|| schema.additional_schema());
    }
    let mut named = schema.properties.iter().filter(|(own, _)| cel::escape(own) == step);
    named.next().map(|(_, child)| child)
}

/// The estimated cost of a rule on a value that may occur `times` in an object.
pub fn rule_cost(rule: &Value, schema: &Structural, root: bool, times: u64) -> u64 {
    let Ok(rule) = compile(rule, schema, root) else { return 0 };
    let size = |path: &[String]| {
        let mut steps = path.iter().skip(1);
        let found = steps.try_fold(schema, |schema, step| child(schema, step));
        found.map_or(1, elements_max)
    };
    rule.program.cost(&size).saturating_mul(times)
}

/// What the cost of a rule is over, as the refusal says it.
pub fn over_rule_limit(cost: u64) -> Option<String> {
    over(cost, RULE_COST_MAX)
}

/// What the cost of all rules is over.
pub fn over_schema_limit(cost: u64) -> Option<String> {
    over(cost, SCHEMA_COST_MAX)
}

fn over(cost: u64, limit: u64) -> Option<String> {
    if cost <= limit {
        return None;
    }
    let factor = cost as f64 / limit as f64;
    Some(match factor {
        _ if factor > 100.0 => "more than 100x".to_owned(),
        _ if factor < 1.5 => format!("{factor:.6}x"),
        _ => format!("{factor:.1}x"),
    })
}

/// How many elements a list or map may have.
pub fn elements_max(schema: &Structural) -> u64 {
    let unsigned = |limit: Option<i64>| limit.and_then(|limit| u64::try_from(limit).ok());
    match schema.ty.as_str() {
        "array" => unsigned(schema.limits.max_items).unwrap_or_else(|| {
            let smallest = schema.items.as_deref().map_or(1, size_min);
            (BODY_MAX - 2) / (smallest + 1)
        }),
        "object" => unsigned(schema.limits.max_properties).unwrap_or_else(|| {
            let smallest = schema.additional_schema().map_or(1, size_min);
            (BODY_MAX - 2) / (smallest + 4)
        }),
        _ => 1,
    }
}

/// The shortest JSON of a value.
fn size_min(schema: &Structural) -> u64 {
    match schema.ty.as_str() {
        "boolean" => 4,
        "string" | "array" => 2,
        "object" => {
            let required = schema.properties.iter().filter(|(name, child)| {
                child.default.is_none() && schema.limits.required.contains(name)
            });
            required.fold(2, |sum, (name, child)| sum + name.len() as u64 + 4 + size_min(child))
        }
        _ => 1,
    }
}

impl Rules {
    /// The rules of a schema of whole objects; `None` when it has none.
    pub fn read(schema: &Structural) -> Option<Self> {
        Self::of(schema, true)
    }

    fn of(schema: &Structural, root: bool) -> Option<Self> {
        if !schema.has_rules() {
            return None;
        }
        let own = schema.rules.iter().filter_map(|rule| compile(rule, schema, root).ok());
        let children = schema.properties.iter();
        Some(Self {
            own: own.collect(),
            properties: children
                .filter_map(|(name, child)| Some((name.clone(), Self::of(child, false)?)))
                .collect(),
            items: schema.items.as_ref().and_then(|items| Self::of(items, false)).map(Box::new),
            additional: schema
                .additional_schema()
                .and_then(|child| Self::of(child, false))
                .map(Box::new),
        })
    }

    /// Holds the rules against an object; `old` is what it was before an update.
    pub fn check(&self, value: &Value, old: Option<&Value>, schema: &Structural) -> Findings {
        let mut findings = Findings::default();
        self.walk("", value, old, schema, &mut findings);
        findings
    }

    fn walk(
        &self,
        path: &str,
        value: &Value,
        old: Option<&Value>,
        schema: &Structural,
        findings: &mut Findings,
    ) {
        if value.is_null() {
            return;
        }
        if !self.own.is_empty() {
            let mut vars = Vars::default();
            vars.set("self", Val::typed(value, Some(schema)));
            let before = old.filter(|old| !old.is_null());
            let before = before.map(|old| Val::typed(old, Some(schema)));
            for rule in &self.own {
                if rule.transition {
                    match (&before, rule.optional_old) {
                        (before, true) => vars.set("oldSelf", Val::optional(before.clone())),
                        (Some(before), false) => vars.set("oldSelf", before.clone()),
                        (None, false) => continue,
                    }
                }
                let Some(error) = rule.judge(path, value, schema, &vars) else { continue };
                match old == Some(value) && !rule.transition {
                    true => findings.warnings.push(error),
                    false => findings.errors.push(error),
                }
            }
        }
        match value {
            Value::Array(items) => {
                let (Some(rules), Some(of)) = (&self.items, &schema.items) else { return };
                for (at, item) in items.iter().enumerate() {
                    let before = old.and_then(|old| same_item(item, old, schema));
                    rules.walk(&index(path, at), item, before, of, findings);
                }
            }
            Value::Object(map) => {
                for (name, value) in map {
                    let before = old.and_then(|old| old.get(name));
                    if let (Some(rules), Some(of)) =
                        (self.properties.get(name), schema.properties.get(name))
                    {
                        let path = crate::field::child(path, name);
                        rules.walk(&path, value, before, of, findings);
                    } else if let (Some(rules), Some(of), false) = (
                        &self.additional,
                        schema.additional_schema(),
                        schema.properties.contains_key(name),
                    ) {
                        rules.walk(&key(path, name), value, before, of, findings);
                    }
                }
            }
            _ => {}
        }
    }
}

impl Rule {
    /// What the rule has against a value.
    fn judge(
        &self,
        path: &str,
        value: &Value,
        schema: &Structural,
        vars: &Vars<'_>,
    ) -> Option<FieldError> {
        let place = |path: String| if path.is_empty() { "<nil>".to_owned() } else { path };
        match self.program.run(vars) {
            Ok(Val::Bool(true)) => return None,
            Ok(_) => {}
            Err(why) => {
                let detail = format!("{why} evaluating rule: {}", self.text);
                return Some(FieldError::invalid(
                    place(path.to_owned()),
                    schema.ty.as_str(),
                    detail,
                ));
            }
        }
        let field = place(format!("{path}{}", self.field).trim_start_matches('.').to_owned());
        let detail = self.message(vars);
        let scalar = !value.is_object() && !value.is_array();
        let shown = if scalar { show(value) } else { String::new() };
        let (kind, shown, detail) = match self.reason.as_str() {
            "FieldValueRequired" => (ErrorKind::Required, "", &*detail),
            "FieldValueForbidden" => (ErrorKind::Forbidden, "", &*detail),
            "FieldValueDuplicate" => (ErrorKind::Duplicate, &*shown, ""),
            _ => (ErrorKind::Invalid, &*shown, &*detail),
        };
        Some(FieldError::shown(kind, field, shown, detail))
    }

    fn message(&self, vars: &Vars<'_>) -> String {
        let made = self.message_program.as_ref().and_then(|program| program.run(vars).ok());
        let made = made.as_ref().and_then(Val::as_str).map(str::trim).unwrap_or_default();
        if !made.is_empty() && !made.contains('\n') && made.len() <= MESSAGE_MAX {
            return made.to_owned();
        }
        match self.message.as_str() {
            "" => format!("failed rule: {}", self.text),
            message => message.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Structural {
        Structural::read(&json!({"type": "object", "properties": {"spec": {"type": "object",
            "properties": {
                "a": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > 1"}]},
                "b": {"type": "string", "x-kubernetes-validations":
                    [{"rule": "self == oldSelf", "message": "immutable"}]},
                "m": {"type": "object", "additionalProperties": {"type": "integer",
                    "x-kubernetes-validations": [{"rule": "self >= 0"}]}}},
            "x-kubernetes-validations": [{"rule": "!has(self.a) || self.a < 5",
                "reason": "FieldValueForbidden", "fieldPath": ".a"}]}}}))
    }

    fn check(value: Value, old: Option<Value>, want: &[&str]) {
        let schema = schema();
        let rules = Rules::read(&schema).unwrap();
        let findings = rules.check(&value, old.as_ref(), &schema);
        let texts: Vec<String> = findings.errors.iter().map(ToString::to_string).collect();
        assert_eq!(texts, want, "{value}");
    }

    #[test]
    fn rules_say_what_upstream_says() {
        check(
            json!({"spec": {"a": 0, "m": {"k": -1}}}),
            None,
            &[
                "spec.a: Invalid value: 0: failed rule: self > 1",
                "spec.m[k]: Invalid value: -1: failed rule: self >= 0",
            ],
        );
        check(
            json!({"spec": {"a": 6}}),
            None,
            &["spec.a: Forbidden: failed rule: !has(self.a) || self.a < 5"],
        );
        let old = json!({"spec": {"b": "x"}});
        check(
            json!({"spec": {"b": "y"}}),
            Some(old.clone()),
            &["spec.b: Invalid value: \"y\": immutable"],
        );
        check(json!({"spec": {"b": "y"}}), None, &[]);
        let unchanged = json!({"spec": {"a": 0}});
        check(unchanged.clone(), Some(unchanged), &[]);
    }

    #[test]
    fn rules_without_limits_cost_too_much() {
        let schema =
            Structural::read(&json!({"type": "object", "properties": {"l": {"type": "array",
            "items": {"type": "array", "items": {"type": "string"}}}}}));
        let rule = json!({"rule": "self.l.all(x, x.all(y, self.l.all(z, z.all(w, w == y))))"});
        let cost = rule_cost(&rule, &schema, false, 1);
        assert_eq!(over_rule_limit(cost).as_deref(), Some("more than 100x"));
        let cheap = json!({"rule": "self.l.all(x, x.size() < 5)"});
        assert_eq!(over_rule_limit(rule_cost(&cheap, &schema, false, 1)), None);
    }
}
