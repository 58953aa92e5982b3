//! Removing what a structural schema does not know.

use serde_json::{Map, Number, Value};

use super::{Additional, Structural};
use crate::gotext::quote;

/// Whether a value is a whole object, whose `apiVersion`, `kind` and `metadata` stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    Object,
    Value,
}

/// Takes unknown fields out and names them: `unknown field "spec.foo"`, sorted by place.
pub fn prune(value: &mut Value, schema: &Structural, root: Root) -> Vec<String> {
    let mut unknown = Vec::new();
    let embedded = schema.embedded || root == Root::Object;
    walk(value, Some(schema), embedded, &mut unknown);
    unknown.sort();
    unknown.iter().map(|path| format!("unknown field {}", quote(path))).collect()
}

fn walk(value: &mut Value, schema: Option<&Structural>, embedded: bool, unknown: &mut Vec<String>) {
    let keeps = schema.is_some_and(|schema| schema.preserve);
    match value {
        Value::Object(map) => walk_map(map, schema, embedded, keeps, unknown),
        Value::Array(items) => {
            let item_schema = schema.and_then(|schema| schema.items.as_deref());
            if keeps && item_schema.is_none() || schema.is_none() {
                return;
            }
            for (at, item) in items.iter_mut().enumerate() {
                let embedded = item_schema.is_some_and(|schema| schema.embedded);
                inside(&format!("[{at}]"), unknown, |unknown| {
                    walk(item, item_schema, embedded, unknown);
                });
            }
        }
        _ => {}
    }
}

fn walk_map(
    map: &mut Map<String, Value>,
    schema: Option<&Structural>,
    embedded: bool,
    keeps: bool,
    unknown: &mut Vec<String>,
) {
    map.retain(|name, value| {
        if embedded && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            return true;
        }
        let named = schema.and_then(|schema| schema.properties.get(name));
        let child = match (named, schema.map(|schema| &schema.additional)) {
            (Some(child), _) => Some(child),
            (None, Some(Additional::Schema(child))) => Some(&**child),
            (None, Some(Additional::Anything)) if !keeps => None,
            _ if keeps => return true,
            _ => {
                unknown.push(name.clone());
                return false;
            }
        };
        let embedded = child.is_some_and(|child| child.embedded);
        inside(name, unknown, |unknown| walk(value, child, embedded, unknown));
        true
    });
}

/// Puts a step before the paths that `collect` finds.
fn inside(step: &str, unknown: &mut Vec<String>, collect: impl FnOnce(&mut Vec<String>)) {
    let before = unknown.len();
    collect(unknown);
    for path in &mut unknown[before..] {
        let separator = if path.starts_with('[') { "" } else { "." };
        *path = format!("{step}{separator}{path}");
    }
}

/// Numbers as Go prints them again: whole floats become integers.
pub fn canonical_numbers(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            const EXACT: f64 = 9_007_199_254_740_992.0;
            if let Some(float) = number.as_f64()
                && float.fract() == 0.0
                && float.abs() <= EXACT
            {
                *number = Number::from(float as i64);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(canonical_numbers),
        Value::Object(map) => map.values_mut().for_each(canonical_numbers),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unknown_fields_go_and_are_named() {
        let schema = Structural::read(&json!({"type": "object", "properties": {"spec": {
            "type": "object", "properties": {
                "a": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                    "properties": {"b": {"type": "object"}}},
                "e": {"type": "object", "x-kubernetes-embedded-resource": true},
                "l": {"type": "array", "items": {"type": "object"}},
                "m": {"type": "object", "additionalProperties": {"type": "string"}}}}}}));
        let mut value = json!({"kind": "K", "metadata": {"x": 1}, "top": 1, "spec": {
            "a": {"z": {"y": 1}, "b": {"q": 1}}, "e": {"kind": "Pod", "spec": {}},
            "l": [{"q": 1}], "m": {"k": "v"}}});
        let unknown = prune(&mut value, &schema, Root::Object);
        assert_eq!(
            unknown,
            ["spec.a.b.q", "spec.e.spec", "spec.l[0].q", "top"]
                .map(|path| format!("unknown field \"{path}\""))
        );
        assert_eq!(
            value,
            json!({"kind": "K", "metadata": {"x": 1}, "spec": {
                "a": {"z": {"y": 1}, "b": {}}, "e": {"kind": "Pod"}, "l": [{}], "m": {"k": "v"}}})
        );
    }

    #[test]
    fn whole_floats_become_integers() {
        let mut value = json!({"a": 2.0, "b": [1.5]});
        canonical_numbers(&mut value);
        assert_eq!(value.to_string(), r#"{"a":2,"b":[1.5]}"#);
    }
}
