//! Objects to messages.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use api::schema::{Field, Node, Other, Type};

use super::wire;
use crate::time;

/// Encodes an object. Fields without a number (`kind`, `apiVersion`) and values of a wrong type are
/// left out.
pub fn message(value: &Value, node: Node<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    fill(&mut out, value, node);
    out
}

/// Writes the body of a message type.
fn fill(out: &mut Vec<u8>, value: &Value, node: Node<'_>) {
    match (node.ty(), value) {
        (Type::Object { .. }, Value::Object(map)) => object(out, map, node),
        (Type::Quantity, Value::String(text)) => wire::bytes(out, 1, text.as_bytes()),
        (Type::IntOrString, Value::String(text)) => {
            wire::number(out, 1, 1);
            wire::number(out, 2, 0);
            wire::bytes(out, 3, text.as_bytes());
        }
        (Type::IntOrString, Value::Number(n)) => {
            wire::number(out, 1, 0);
            wire::number(out, 2, n.as_i64().unwrap_or_default());
            wire::bytes(out, 3, b"");
        }
        (Type::Time | Type::MicroTime, Value::String(text)) => {
            let Ok(at) = time::parse(text) else { return };
            wire::number(out, 1, at.as_second());
            let nanos = if node.ty() == Type::Time { 0 } else { at.subsec_nanosecond() };
            wire::number(out, 2, i64::from(nanos));
        }
        (Type::Duration, Value::String(text)) => {
            let nanos = crate::duration::parse(text).unwrap_or_default();
            wire::number(out, 1, nanos);
        }
        (Type::FieldsV1 | Type::RawExtension | Type::Any, value) if !value.is_null() => {
            wire::bytes(out, 1, value.to_string().as_bytes());
        }
        (Type::ObjectOr { object, other }, value) => {
            either(out, value, node.schema.node(object), other)
        }
        (Type::List { .. }, Value::Array(items)) => {
            // A list where a message must be: its items are field 1.
            let Some(element) = node.element() else { return };
            for item in items {
                field_value(out, 1, item, element);
            }
        }
        _ => {}
    }
}

fn either(out: &mut Vec<u8>, value: &Value, object: Node<'_>, other: Other) {
    match (other, value) {
        (Other::Bool, Value::Bool(allows)) => wire::number(out, 1, i64::from(*allows)),
        (Other::Bool, Value::Object(_)) => {
            wire::number(out, 1, 1);
            wire::nested(out, 2, |out| fill(out, value, object));
        }
        (Other::Objects, Value::Array(items)) => {
            for item in items {
                wire::nested(out, 2, |out| fill(out, item, object));
            }
        }
        (Other::Strings, Value::Array(items)) => {
            for item in items.iter().filter_map(Value::as_str) {
                wire::bytes(out, 2, item.as_bytes());
            }
        }
        (_, Value::Object(_)) => wire::nested(out, 1, |out| fill(out, value, object)),
        _ => {}
    }
}

fn object(out: &mut Vec<u8>, map: &Map<String, Value>, node: Node<'_>) {
    let mut fields = Vec::with_capacity(map.len());
    for (key, value) in map {
        fields
            .extend(node.field(key).filter(|field| field.number != 0).map(|field| (field, value)));
    }
    fields.sort_by_key(|(field, _)| match field.within {
        [0, _] => (field.number, 0, 0),
        [outer, 0] => (u16::from(outer), field.number, 0),
        [outer, inner] => (u16::from(outer), u16::from(inner), field.number),
    });
    embedded(out, &fields, node, 0);
}

/// Writes sorted fields; those inside an embedded message follow each other and share it.
fn embedded(out: &mut Vec<u8>, fields: &[(&Field, &Value)], node: Node<'_>, depth: usize) {
    let outer = |field: &Field| field.within.get(depth).copied().unwrap_or_default();
    let mut rest = fields;
    while let Some((field, value)) = rest.first() {
        let group = outer(field);
        if group == 0 {
            named(out, field, value, node);
            rest = &rest[1..];
            continue;
        }
        let count = rest.iter().take_while(|(field, _)| outer(field) == group).count();
        let (inside, after) = rest.split_at(count);
        wire::nested(out, u16::from(group), |out| embedded(out, inside, node, depth + 1));
        rest = after;
    }
}

/// One field: repeated for lists and maps.
fn named(out: &mut Vec<u8>, field: &Field, value: &Value, node: Node<'_>) {
    let ty = node.schema.node(field.ty);
    match (ty.ty(), value) {
        (_, Value::Null) => {}
        (Type::List { .. }, Value::Array(items)) => {
            // The one list type that is a message of its own.
            if node.schema.text(field.go) == "v1.Verbs" {
                wire::nested(out, field.number, |out| fill(out, value, ty));
                return;
            }
            let Some(element) = ty.element() else { return };
            for item in items {
                field_value(out, field.number, item, element);
            }
        }
        (Type::Map { .. }, Value::Object(map)) => {
            let Some(element) = ty.element() else { return };
            for (key, item) in map {
                wire::nested(out, field.number, |out| {
                    wire::bytes(out, 1, key.as_bytes());
                    field_value(out, 2, item, element);
                });
            }
        }
        _ => field_value(out, field.number, value, ty),
    }
}

/// One value with its tag.
fn field_value(out: &mut Vec<u8>, number: u16, value: &Value, node: Node<'_>) {
    match (node.ty(), value) {
        (Type::String, Value::String(text)) => wire::bytes(out, number, text.as_bytes()),
        (Type::Bytes, Value::String(text)) => {
            wire::bytes(out, number, &STANDARD.decode(text).unwrap_or_default());
        }
        (Type::Bool, Value::Bool(set)) => wire::number(out, number, i64::from(*set)),
        (Type::Int32 | Type::Int64, Value::Number(n)) => {
            wire::number(out, number, n.as_i64().unwrap_or_default());
        }
        (Type::Double, Value::Number(n)) => {
            wire::double(out, number, n.as_f64().unwrap_or_default());
        }
        (Type::String | Type::Bytes | Type::Bool | Type::Int32 | Type::Int64 | Type::Double, _) => {
        }
        _ => wire::nested(out, number, |out| fill(out, value, node)),
    }
}
