//! Reading and writing fields of an object tree, with Go's idea of absence.
//!
//! A missing key, a `null` and (for scalars that are not pointers) the zero value are the same thing
//! to Kubernetes; these accessors say so in one place. Nothing here knows a kind.

use std::sync::LazyLock;

use serde_json::{Map, Value};

static NULL: Value = Value::Null;
static EMPTY: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

/// The value at a dotted path; `null` when any part is missing. Keys with dots need `key`.
pub(crate) fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(value, key)
}

/// One member of an object; `null` when missing.
pub(crate) fn key<'a>(value: &'a Value, name: &str) -> &'a Value {
    value.get(name).unwrap_or(&NULL)
}

/// The string at a dotted path, empty when missing.
pub(crate) fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    at(value, path).as_str().unwrap_or_default()
}

/// The integer at a dotted path, when there is one.
pub(crate) fn int(value: &Value, path: &str) -> Option<i64> {
    at(value, path).as_i64()
}

/// The boolean at a dotted path, false when missing.
pub(crate) fn flag(value: &Value, path: &str) -> bool {
    at(value, path).as_bool().unwrap_or_default()
}

/// The list at a dotted path, empty when missing.
pub(crate) fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    at(value, path).as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The map at a dotted path, empty when missing.
pub(crate) fn map<'a>(value: &'a Value, path: &str) -> &'a Map<String, Value> {
    at(value, path).as_object().unwrap_or(&EMPTY)
}

/// The strings of a list at a dotted path.
pub(crate) fn texts<'a>(value: &'a Value, path: &str) -> impl Iterator<Item = &'a str> {
    list(value, path).iter().filter_map(Value::as_str)
}

/// Whether a pointer field is set.
pub(crate) fn has(value: &Value, path: &str) -> bool {
    !at(value, path).is_null()
}

/// The existing value at a dotted path, for writing; nothing is made.
pub(crate) fn at_mut<'a>(value: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    path.split('.').try_fold(value, |value, name| value.get_mut(name)).filter(|v| !v.is_null())
}

/// The elements of the list at a dotted path, for writing.
pub(crate) fn list_mut<'a>(
    value: &'a mut Value,
    path: &str,
) -> impl Iterator<Item = &'a mut Value> + use<'a> {
    at_mut(value, path).and_then(Value::as_array_mut).into_iter().flatten()
}

/// The object at a dotted path, made where it is missing or not an object.
pub(crate) fn object<'a>(value: &'a mut Value, path: &str) -> &'a mut Map<String, Value> {
    let mut here = value;
    for name in path.split('.').filter(|name| !name.is_empty()) {
        here = as_map(here).entry(name).or_insert(Value::Null);
    }
    as_map(here)
}

/// Sets one member of the object at a dotted path, making the path.
pub(crate) fn set(value: &mut Value, path: &str, what: impl Into<Value>) {
    let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
    object(value, parent).insert(name.to_owned(), what.into());
}

/// Removes the member at a dotted path.
pub(crate) fn remove(value: &mut Value, path: &str) -> Option<Value> {
    let (parent, name) = match path.rsplit_once('.') {
        Some((parent, name)) => (at_mut(value, parent)?, name),
        None => (value, path),
    };
    parent.as_object_mut()?.remove(name)
}

/// A pointer field's default: applies when the field is missing or null.
pub(crate) fn default(value: &mut Value, name: &str, what: impl Into<Value>) {
    let slot = as_map(value).entry(name).or_insert(Value::Null);
    if slot.is_null() {
        *slot = what.into();
    }
}

/// A plain field's default: applies when the field is missing or has Go's zero value.
pub(crate) fn default_zero(value: &mut Value, name: &str, what: impl Into<Value>) {
    let slot = as_map(value).entry(name).or_insert(Value::Null);
    if is_zero(slot) {
        *slot = what.into();
    }
}

/// Go's zero value of a scalar, an empty list or map, or nothing.
pub(crate) fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(set) => !set,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
    }
}

/// Copies the member at a dotted path from one object to another, removing it where the source has none.
pub(crate) fn carry(from: &Value, to: &mut Value, path: &str) {
    match at(from, path) {
        Value::Null => {
            remove(to, path);
        }
        found => set(to, path, found.clone()),
    }
}

fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(members) => members,
        _ => unreachable!("made an object above"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn absence_is_null_and_paths_are_made() {
        let mut object = json!({"spec": {"a": null, "n": 0}});
        assert!(!has(&object, "spec.a"));
        default(&mut object["spec"], "a", 1);
        default(&mut object["spec"], "n", 5);
        default_zero(&mut object["spec"], "m", 7);
        set(&mut object, "status.phase", "Pending");
        assert_eq!(
            object,
            json!({"spec": {"a": 1, "n": 0, "m": 7}, "status": {"phase": "Pending"}})
        );
        let from = json!({"status": {"x": 1}});
        carry(&from, &mut object, "status");
        carry(&from, &mut object, "spec");
        assert_eq!(object, json!({"status": {"x": 1}}));
    }
}
