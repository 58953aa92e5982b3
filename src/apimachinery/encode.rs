//! What the wire shows: Go's omission rules applied to an object.
//!
//! Invariant: `canonicalize` is idempotent, and two objects that Go would print the same way are
//! equal afterwards.

use serde_json::{Map, Value};

use api::schema::{Field, Node, Omit, Type};

/// Drops what Go omits and adds the zero values that Go always writes. The object must have passed
/// `decode`; values of other types are left alone.
pub fn canonicalize(value: &mut Value, node: Node<'_>) {
    match (node.ty(), value) {
        (Type::Object { .. }, Value::Object(map)) => object(map, node),
        (Type::List { .. }, Value::Array(items)) => {
            let Some(element) = node.element() else { return };
            for item in items {
                canonicalize(item, element);
            }
        }
        (Type::Map { .. }, Value::Object(map)) => {
            let Some(element) = node.element() else { return };
            for item in map.values_mut() {
                canonicalize(item, element);
            }
        }
        (Type::ObjectOr { object: inner, .. }, Value::Object(map)) => {
            object(map, node.schema.node(inner));
        }
        (Type::ObjectOr { object: inner, .. }, Value::Array(items)) => {
            for item in items {
                canonicalize(item, node.schema.node(inner));
            }
        }
        _ => {}
    }
}

fn object(map: &mut Map<String, Value>, node: Node<'_>) {
    map.retain(|key, item| {
        let Some(field) = node.field(key) else { return true };
        canonicalize(item, node.schema.node(field.ty));
        keep(item, field, node)
    });
    for field in node.fields() {
        if !matches!(field.omit, Omit::Never | Omit::Null) {
            continue;
        }
        let name = node.schema.text(field.name);
        if map.contains_key(name) {
            continue;
        }
        let value = match field.omit {
            Omit::Null => Value::Null,
            _ => zero(node.schema.node(field.ty)),
        };
        map.insert(name.to_owned(), value);
    }
}

/// Whether the field's value stays; empty lists and maps of fields that are always written become
/// null, because storage does not tell them apart.
fn keep(item: &mut Value, field: &Field, node: Node<'_>) -> bool {
    let empty = match &*item {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => {
            map.is_empty() && matches!(node.schema.node(field.ty).ty(), Type::Map { .. })
        }
        Value::String(text) => text.is_empty(),
        Value::Bool(set) => !set,
        Value::Number(n) => n.as_f64() == Some(0.0),
    };
    match field.omit {
        Omit::Absent => !item.is_null(),
        Omit::Null => true,
        Omit::Empty => !empty,
        Omit::Never => {
            match item {
                Value::Null => *item = zero(node.schema.node(field.ty)),
                Value::Array(_) | Value::Object(_) if empty => *item = Value::Null,
                _ => {}
            }
            true
        }
    }
}

/// JSON with the fields of every struct in the order of their declaration, as Go writes it. For
/// texts that are shown to people; everything else is sorted by name.
pub fn declared_order(out: &mut String, value: &Value, node: Node<'_>) {
    match (node.ty(), value) {
        (Type::Object { .. }, Value::Object(map)) => {
            let order = |key: &str| {
                let field = node.field(key)?;
                Some((field.within, field.number))
            };
            let mut entries = map.iter().collect::<Vec<_>>();
            entries.sort_by_key(|(key, _)| order(key.as_str()).unwrap_or(([u8::MAX; 2], 0)));
            let child = |key: &str| node.child(key);
            write_object(out, entries.into_iter(), child);
        }
        (Type::Map { .. }, Value::Object(map)) => {
            write_object(out, map.iter(), |_| node.element());
        }
        (Type::List { .. }, Value::Array(items)) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                match node.element() {
                    Some(element) => declared_order(out, item, element),
                    None => out.push_str(&item.to_string()),
                }
            }
            out.push(']');
        }
        _ => out.push_str(&value.to_string()),
    }
}

fn write_object<'v, 'n>(
    out: &mut String,
    entries: impl Iterator<Item = (&'v String, &'v Value)>,
    child: impl Fn(&str) -> Option<Node<'n>>,
) {
    out.push('{');
    for (index, (key, item)) in entries.enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(&Value::from(key.as_str()).to_string());
        out.push(':');
        match child(key) {
            Some(node) => declared_order(out, item, node),
            None => out.push_str(&item.to_string()),
        }
    }
    out.push('}');
}

/// What Go prints for the zero value of a type.
pub fn zero(node: Node<'_>) -> Value {
    match node.ty() {
        Type::String => Value::String(String::new()),
        Type::Bool => Value::Bool(false),
        Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString => 0.into(),
        Type::Quantity => Value::String("0".to_owned()),
        Type::Duration => Value::String("0s".to_owned()),
        Type::Object { .. } => {
            let mut map = Map::new();
            object(&mut map, node);
            Value::Object(map)
        }
        Type::Bytes
        | Type::Time
        | Type::MicroTime
        | Type::FieldsV1
        | Type::RawExtension
        | Type::Any
        | Type::Open { .. }
        | Type::ObjectOr { .. }
        | Type::List { .. }
        | Type::Map { .. } => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(group: &str, kind: &str, mut value: Value, canonical: Value) {
        let node = api::schema::kind(group, "v1", kind).unwrap();
        canonicalize(&mut value, node);
        assert_eq!(value, canonical);
        canonicalize(&mut value, node);
        assert_eq!(value, canonical, "is idempotent");
    }

    #[test]
    fn structs_and_nil_lists_are_written_and_empties_are_not() {
        check(
            "",
            "Pod",
            json!({"metadata": {"labels": {}, "name": ""}, "spec": {"containers": [], "hostPID": false, "priority": 0}}),
            json!({"metadata": {}, "spec": {"containers": null, "priority": 0}, "status": {}}),
        );
        check(
            "rbac.authorization.k8s.io",
            "Role",
            json!({}),
            json!({"metadata": {}, "rules": null}),
        );
        check(
            "",
            "Service",
            json!({"spec": {"ports": [{"port": 80}], "selector": {}}}),
            json!({"metadata": {}, "spec": {"ports": [{"port": 80, "targetPort": 0}]}, "status": {"loadBalancer": {}}}),
        );
    }

    #[test]
    fn pointers_keep_their_zero_and_their_null() {
        check(
            "apps",
            "Deployment",
            json!({"spec": {"replicas": 0}}),
            json!({"metadata": {}, "spec": {"replicas": 0, "selector": null, "strategy": {},
                "template": {"metadata": {}, "spec": {"containers": null}}}, "status": {}}),
        );
    }
}
