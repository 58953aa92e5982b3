//! Values against the limits of their schema, in the words of upstream's OpenAPI validation.
//!
//! An update is judged by what it changes: a value that is what it was before is not looked at
//! again. Invariant: the order of errors is upstream's, properties sorted by name.

use std::collections::BTreeMap;

use api::schema::ListKind;
use serde_json::Value;

use super::{Structural, formats};
use crate::field::{FieldError, child, index};

/// Where errors without a place of their own are.
const NOWHERE: &str = "<nil>";

/// Errors of one value, and how many checks were made: alternatives with more win.
#[derive(Default)]
struct Outcome {
    errors: Vec<FieldError>,
    checks: usize,
}

impl Outcome {
    fn merge(&mut self, other: Self) {
        self.errors.extend(other.errors);
        self.checks += other.checks;
    }
}

/// Validates a whole object; `old` is what it was before an update.
pub fn validate(value: &Value, old: Option<&Value>, schema: &Structural) -> Vec<FieldError> {
    validate_at("", value, old, schema)
}

/// Validates a value that stands at a place of something else (a default).
pub fn validate_at(
    root: &str,
    value: &Value,
    old: Option<&Value>,
    schema: &Structural,
) -> Vec<FieldError> {
    Walk { root }.value("", value, old, schema).errors
}

struct Walk<'a> {
    root: &'a str,
}

impl Walk<'_> {
    /// The field of an error at a path.
    fn field(&self, path: &str) -> String {
        match (self.root, path) {
            ("", "") => NOWHERE.to_owned(),
            (root, "") => root.to_owned(),
            (root, path) => child(root, path),
        }
    }

    fn nowhere(&self, text: String) -> FieldError {
        let field = if self.root.is_empty() { NOWHERE } else { self.root };
        FieldError::invalid(field, "", text)
    }

    fn invalid(&self, path: &str, value: impl Into<Value>, text: &str) -> FieldError {
        FieldError::invalid(self.field(path), value, format!("{path} in body {text}"))
    }

    fn wrong_type(
        &self,
        path: &str,
        value: impl Into<Value>,
        want: &str,
        have: &str,
    ) -> FieldError {
        let text = format!("{path} in body must be of type {want}: {have:?}");
        FieldError::type_invalid(self.field(path), value, text)
    }

    fn value(
        &self,
        path: &str,
        value: &Value,
        old: Option<&Value>,
        schema: &Structural,
    ) -> Outcome {
        let mut out = Outcome::default();
        if old == Some(value) {
            return out;
        }
        out.merge(self.ty(path, value, schema));
        out.merge(self.alternatives(path, value, old, schema));
        match value {
            Value::String(text) => out.merge(self.string(path, text, schema)),
            Value::Number(_) => out.merge(self.number(path, value, schema)),
            Value::Array(items) => out.merge(self.list(path, items, old, schema)),
            _ => {}
        }
        out.merge(self.one_of_values(path, value, schema));
        if let Value::Object(map) = value {
            out.merge(self.object(path, map, old, schema));
        }
        out.checks += 1;
        out
    }

    fn ty(&self, path: &str, value: &Value, schema: &Structural) -> Outcome {
        let mut out = Outcome { checks: 1, ..Outcome::default() };
        let want = match schema.ty.as_str() {
            "" if schema.int_or_string => "integer,string",
            ty => ty,
        };
        let have = type_name(value);
        let fits = match want {
            "" => true,
            _ if value.is_null() => schema.nullable,
            "number" => value.is_number(),
            "integer" => is_integer(value),
            want => want.split(',').any(|want| want == have),
        };
        if !fits {
            out.errors.push(self.wrong_type(path, have, want, have));
        }
        out
    }

    fn alternatives(
        &self,
        path: &str,
        value: &Value,
        old: Option<&Value>,
        schema: &Structural,
    ) -> Outcome {
        let limits = &schema.limits;
        let mut out = Outcome { checks: 1, ..Outcome::default() };
        let subject = format!("{path:?}");
        if !limits.any_of.is_empty() {
            let (passed, best) = self.best(path, value, old, &limits.any_of);
            if passed == 0 {
                out.errors.push(
                    self.nowhere(format!("{subject} must validate at least one schema (anyOf)")),
                );
                out.merge(best);
            }
        }
        if !limits.one_of.is_empty() {
            let (passed, best) = self.best(path, value, old, &limits.one_of);
            if passed != 1 {
                let more = match passed {
                    0 => "Found none valid".to_owned(),
                    n => format!("Found {n} valid alternatives"),
                };
                out.errors.push(self.nowhere(format!(
                    "{subject} must validate one and only one schema (oneOf). {more}"
                )));
                if passed == 0 {
                    out.merge(best);
                }
            }
        }
        if !limits.all_of.is_empty() {
            let mut passed = 0;
            for part in &limits.all_of {
                let part = self.value(path, value, old, part);
                passed += usize::from(part.errors.is_empty());
                out.merge(part);
            }
            if passed < limits.all_of.len() {
                let more = if passed == 0 { ". None validated" } else { "" };
                out.errors.push(
                    self.nowhere(format!("{subject} must validate all the schemas (allOf){more}")),
                );
            }
        }
        if let Some(not) = &limits.not
            && self.value(path, value, old, not).errors.is_empty()
        {
            out.errors.push(self.nowhere(format!("{subject} must not validate the schema (not)")));
        }
        out
    }

    /// How many alternatives hold, and the errors of the one that came closest.
    fn best(
        &self,
        path: &str,
        value: &Value,
        old: Option<&Value>,
        parts: &[Structural],
    ) -> (usize, Outcome) {
        let mut passed = 0;
        let mut best: Option<Outcome> = None;
        for part in parts {
            let out = self.value(path, value, old, part);
            if out.errors.is_empty() {
                passed += 1;
            } else if best.as_ref().is_none_or(|best| out.checks > best.checks) {
                best = Some(out);
            }
        }
        (passed, best.unwrap_or_default())
    }

    fn string(&self, path: &str, text: &str, schema: &Structural) -> Outcome {
        let limits = &schema.limits;
        let mut out = Outcome { checks: 1, ..Outcome::default() };
        let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
        if let Some(max) = limits.max_length.filter(|max| length > *max) {
            let max = usize::try_from(max).unwrap_or_default();
            out.errors.push(FieldError::too_long(self.field(path), max));
        } else if let Some(min) = limits.min_length.filter(|min| length < *min) {
            let why = format!("should be at least {min} chars long");
            out.errors.push(self.invalid(path, text, &why));
        } else if let Some(pattern) =
            limits.pattern.as_ref().filter(|pattern| !pattern.is_match(text))
        {
            let why = format!("should match '{}'", pattern.text);
            out.errors.push(self.invalid(path, text, &why));
        }
        let format = limits.format.as_str();
        if matches!(schema.ty.as_str(), "" | "string") && formats::is_known(format) {
            out.checks += 1;
            if !formats::matches(format, text) {
                out.errors.push(self.wrong_type(path, text, format, text));
            }
        }
        out
    }

    fn number(&self, path: &str, value: &Value, schema: &Structural) -> Outcome {
        let limits = &schema.limits;
        let mut out = Outcome { checks: 1, ..Outcome::default() };
        if schema.ty == "integer" && !is_integer(value) {
            let text = format!("Checked value must be of type integer (default format) in {path}");
            out.errors.push(self.nowhere(text));
        }
        let have = value.as_f64().unwrap_or_default();
        let float = |limit: &Value| limit.as_f64().unwrap_or_default();
        let shown = |limit: &Value| match value.is_f64() {
            true => go_float(float(limit)),
            false => limit.as_i64().map_or_else(|| go_float(float(limit)), |n| n.to_string()),
        };
        if let Some(factor) = &limits.multiple_of
            && (have / float(factor)).fract() != 0.0
        {
            let why = format!("should be a multiple of {}", shown(factor));
            out.errors.push(self.invalid(path, value.clone(), &why));
        }
        if let Some(max) = &limits.maximum {
            let exclusive = limits.exclusive_maximum;
            if have > float(max) || exclusive && have == float(max) {
                let than = if exclusive { "less than" } else { "less than or equal to" };
                let why = format!("should be {than} {}", shown(max));
                out.errors.push(self.invalid(path, value.clone(), &why));
            }
        }
        if let Some(min) = &limits.minimum {
            let exclusive = limits.exclusive_minimum;
            if have < float(min) || exclusive && have == float(min) {
                let than = if exclusive { "greater than" } else { "greater than or equal to" };
                let why = format!("should be {than} {}", shown(min));
                out.errors.push(self.invalid(path, value.clone(), &why));
            }
        }
        out
    }

    fn list(
        &self,
        path: &str,
        items: &[Value],
        old: Option<&Value>,
        schema: &Structural,
    ) -> Outcome {
        let limits = &schema.limits;
        let mut out = Outcome { checks: 1, ..Outcome::default() };
        if let Some(of) = &schema.items {
            for (at, item) in items.iter().enumerate() {
                let before = old.and_then(|old| same_item(item, old, schema));
                out.merge(self.value(&index(path, at), item, before, of));
            }
        }
        let count = i64::try_from(items.len()).unwrap_or(i64::MAX);
        if let Some(min) = limits.min_items.filter(|min| count < *min) {
            let why = format!("should have at least {min} items");
            out.errors.push(self.invalid(path, count, &why));
        }
        if let Some(max) = limits.max_items.filter(|max| count > *max) {
            out.errors.push(too_many(self.field(path), count, max));
        }
        if limits.unique_items && (1..items.len()).any(|at| items[..at].contains(&items[at])) {
            out.errors.push(self.invalid(path, "", "shouldn't contain duplicates"));
        }
        out
    }

    fn one_of_values(&self, path: &str, value: &Value, schema: &Structural) -> Outcome {
        let mut out = Outcome { checks: 1, ..Outcome::default() };
        let values = &schema.limits.values;
        let equal = |known: &Value| known == value || numbers_equal(known, value);
        if !values.is_empty() && !values.iter().any(equal) {
            let shown: Vec<String> = values
                .iter()
                .map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
                .collect();
            out.errors.push(FieldError::not_supported(self.field(path), value.clone(), &shown));
        }
        out
    }

    fn object(
        &self,
        path: &str,
        map: &serde_json::Map<String, Value>,
        old: Option<&Value>,
        schema: &Structural,
    ) -> Outcome {
        let limits = &schema.limits;
        let mut out = Outcome { checks: 1, ..Outcome::default() };
        let count = i64::try_from(map.len()).unwrap_or(i64::MAX);
        if let Some(min) = limits.min_properties.filter(|min| count < *min) {
            let why = format!("should have at least {min} properties");
            out.errors.push(self.invalid(path, count, &why));
            return out;
        }
        if let Some(max) = limits.max_properties.filter(|max| count > *max) {
            out.errors.push(too_many(self.field(path), count, max));
            return out;
        }
        let before = |name: &str| old.and_then(|old| old.get(name));
        if let Some(of) = schema.additional_schema() {
            for (name, value) in map {
                if !schema.properties.contains_key(name) {
                    out.merge(self.value(&child(path, name), value, before(name), of));
                }
            }
        }
        let properties: &BTreeMap<String, Structural> = &schema.properties;
        for (name, of) in properties {
            if let Some(value) = map.get(name) {
                out.merge(self.value(&child(path, name), value, before(name), of));
            }
        }
        for name in limits.required.iter().filter(|name| !map.contains_key(*name)) {
            out.errors.push(FieldError::required(self.field(&child(path, name)), ""));
        }
        out
    }
}

fn too_many(field: String, count: i64, max: i64) -> FieldError {
    let unsigned = |n: i64| usize::try_from(n).unwrap_or_default();
    FieldError::too_many(field, unsigned(count), unsigned(max))
}

/// What an item of a list of type `map` was before.
pub(crate) fn same_item<'v>(
    item: &Value,
    old: &'v Value,
    schema: &Structural,
) -> Option<&'v Value> {
    if schema.list.kind != Some(ListKind::Map) {
        return None;
    }
    let keys = &schema.list.keys;
    let same = |before: &&Value| keys.iter().all(|key| before.get(key) == item.get(key));
    old.as_array()?.iter().find(same)
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_integer(value: &Value) -> bool {
    value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

fn numbers_equal(a: &Value, b: &Value) -> bool {
    a.is_number() && b.is_number() && a.as_f64() == b.as_f64()
}

/// A float as Go's `%v` prints it.
pub(crate) fn go_float(number: f64) -> String {
    if number == 0.0 {
        return "0".to_owned();
    }
    let scientific = format!("{number:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&exponent) {
        return number.to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(schema: Value, value: Value, want: &[&str]) {
        let schema = Structural::read(&json!({"type": "object", "properties": {"a": schema}}));
        let errors = validate(&json!({"a": value}), None, &schema);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(texts, want, "{value}");
    }

    #[test]
    fn texts_are_upstreams() {
        check(
            json!({"type": "integer"}),
            json!("x"),
            &[r#"a: Invalid value: "string": a in body must be of type integer: "string""#],
        );
        check(
            json!({"type": "integer"}),
            json!(1.5),
            &[
                r#"a: Invalid value: "number": a in body must be of type integer: "number""#,
                r#"<nil>: Invalid value: "": Checked value must be of type integer (default format) in a"#,
            ],
        );
        check(
            json!({"oneOf": [{"minimum": 5}, {"maximum": 2}]}),
            json!(3),
            &[
                r#"<nil>: Invalid value: "": "a" must validate one and only one schema (oneOf). Found none valid"#,
                "a: Invalid value: 3: a in body should be greater than or equal to 5",
            ],
        );
        check(
            json!({"enum": ["x", 1]}),
            json!("y"),
            &[r#"a: Unsupported value: "y": supported values: "x", "1""#],
        );
        check(
            json!({"type": "string", "format": "ipv4"}),
            json!("300.0.0.1"),
            &[r#"a: Invalid value: "300.0.0.1": a in body must be of type ipv4: "300.0.0.1""#],
        );
        check(json!({"x-kubernetes-int-or-string": true}), json!("80%"), &[]);
        check(json!({"type": "string", "nullable": true}), json!(null), &[]);
    }

    #[test]
    fn what_an_update_leaves_alone_is_not_judged() {
        let schema = Structural::read(&json!({"type": "object", "properties": {
            "a": {"type": "string", "maxLength": 2}, "b": {"type": "integer"}}}));
        let old = json!({"a": "long", "b": 1});
        assert!(validate(&json!({"a": "long", "b": 2}), Some(&old), &schema).is_empty());
        assert_eq!(validate(&json!({"a": "longer", "b": 1}), Some(&old), &schema).len(), 1);
    }

    #[test]
    fn floats_read_as_go_prints_them() {
        for (number, text) in [(2.5, "2.5"), (5.0, "5"), (0.0, "0"), (1e6, "1e+06")] {
            assert_eq!(go_float(number), text);
        }
    }
}
