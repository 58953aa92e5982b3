//! Defaults of a structural schema, and the nulls that it does not allow.

use serde_json::Value;

use super::Structural;

fn is_stray_null(value: &Value, schema: Option<&Structural>) -> bool {
    value.is_null() && schema.is_some_and(|schema| !schema.nullable)
}

/// Fills in what is missing, and replaces nulls that may not be there by the default. A second run
/// changes nothing.
pub fn default(value: &mut Value, schema: &Structural) {
    match value {
        Value::Object(map) => {
            for (name, child) in &schema.properties {
                let Some(default) = &child.default else { continue };
                if map.get(name).is_none_or(|value| is_stray_null(value, Some(child))) {
                    map.insert(name.clone(), default.clone());
                }
            }
            for (name, value) in map.iter_mut() {
                if let Some(child) = schema.properties.get(name) {
                    default(value, child);
                } else if let Some(child) = schema.additional_schema() {
                    default_element(value, child);
                }
            }
        }
        Value::Array(items) => {
            let Some(child) = &schema.items else { return };
            items.iter_mut().for_each(|item| default_element(item, child));
        }
        _ => {}
    }
}

fn default_element(value: &mut Value, schema: &Structural) {
    if is_stray_null(value, Some(schema))
        && let Some(default) = &schema.default
    {
        *value = default.clone();
    }
    default(value, schema);
}

/// Removes nulls of fields that are neither nullable nor have a default.
pub fn drop_nulls(value: &mut Value, schema: &Structural) {
    match value {
        Value::Object(map) => map.retain(|name, value| {
            let child = schema.child(name);
            if is_stray_null(value, child) && child.is_some_and(|child| child.default.is_none()) {
                return false;
            }
            if let Some(child) = child {
                drop_nulls(value, child);
            }
            true
        }),
        Value::Array(items) => {
            let Some(child) = &schema.items else { return };
            items.iter_mut().for_each(|item| drop_nulls(item, child));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_fill_what_is_missing_or_null() {
        let schema = Structural::read(&json!({"type": "object", "properties": {
            "a": {"type": "string", "default": "A"},
            "b": {"type": "string", "nullable": true, "default": "d"},
            "gone": {"type": "string"},
            "n": {"type": "object", "default": {}, "properties": {"x": {"default": 3}}},
            "l": {"type": "array", "items": {"type": "object", "properties": {"p": {"default": "TCP"}}}},
        }}));
        let check = |mut value: Value, want: Value| {
            for _ in 0..2 {
                drop_nulls(&mut value, &schema);
                default(&mut value, &schema);
                assert_eq!(value, want);
            }
        };
        check(
            json!({"l": [{}, {"p": "UDP"}], "gone": null}),
            json!({"a": "A", "b": "d", "n": {"x": 3}, "l": [{"p": "TCP"}, {"p": "UDP"}]}),
        );
        check(
            json!({"a": null, "b": null, "n": null}),
            json!({"a": "A", "b": null, "n": {"x": 3}}),
        );
    }
}
