//! Lists that are sets or maps: no item twice.

use api::schema::ListKind;
use serde_json::{Map, Value};

use super::Structural;
use crate::field::{FieldError, child, index, key};

/// Refuses items that occur twice in lists of type `set` or `map`.
pub fn check_lists(path: &str, value: &Value, schema: &Structural, errors: &mut Vec<FieldError>) {
    match value {
        Value::Array(items) => {
            match schema.list.kind {
                Some(ListKind::Set) => check_set(path, items, errors),
                Some(ListKind::Map) => check_map(path, items, schema, errors),
                _ => {}
            }
            if let Some(of) = &schema.items {
                for (at, item) in items.iter().enumerate() {
                    check_lists(&index(path, at), item, of, errors);
                }
            }
        }
        Value::Object(map) => {
            for (name, value) in map {
                if let Some(of) = schema.properties.get(name) {
                    check_lists(&child(path, name), value, of, errors);
                } else if let Some(of) = schema.additional_schema() {
                    check_lists(&key(path, name), value, of, errors);
                }
            }
        }
        _ => {}
    }
}

fn check_set(path: &str, items: &[Value], errors: &mut Vec<FieldError>) {
    for (at, item) in items.iter().enumerate() {
        // Said once for every value, at its second place.
        if items[..at].iter().filter(|before| *before == item).count() == 1 {
            errors.push(FieldError::duplicate(index(path, at), item.clone()));
        }
    }
}

fn check_map(path: &str, items: &[Value], schema: &Structural, errors: &mut Vec<FieldError>) {
    let identity = |item: &Value| -> Value {
        let mut found = Map::new();
        for name in &schema.list.keys {
            let default = || schema.items.as_ref()?.properties.get(name)?.default.clone();
            if let Some(value) = item.get(name).cloned().or_else(default) {
                found.insert(name.clone(), value);
            }
        }
        Value::Object(found)
    };
    let keys: Vec<Value> = items.iter().map(identity).collect();
    for (at, item) in keys.iter().enumerate() {
        if keys[..at].iter().filter(|before| *before == item).count() == 1 {
            errors.push(FieldError::duplicate(index(path, at), item.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn items_of_sets_and_maps_occur_once() {
        let schema = Structural::read(&json!({"properties": {
            "s": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "m": {"type": "array", "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object"}}}}));
        let mut errors = Vec::new();
        let value = json!({"s": ["a", "b", "a", "a"], "m": [{"k": "1", "v": 2}, {"k": "1"}]});
        check_lists("", &value, &schema, &mut errors);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(texts, [r#"m[1]: Duplicate value: {"k":"1"}"#, r#"s[2]: Duplicate value: "a""#]);
    }
}
