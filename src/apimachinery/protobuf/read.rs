//! Messages to objects. Unknown field numbers are skipped, as protobuf wants it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Number, Value};

use api::schema::{Field, Node, Omit, Other, Type};

use super::wire::{Reader, Wire, WireError};
use crate::{json, time};

/// Why a message is no object of the type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("{0}")]
    Wire(String),
    #[error("proto: wrong wireType for field {0}")]
    WrongType(String),
    #[error("exceeded max depth")]
    Depth,
    #[error("{0}")]
    Json(String),
}

impl From<WireError> for DecodeError {
    fn from(err: WireError) -> Self {
        Self::Wire(err.to_string())
    }
}

/// Messages nest less deep than JSON, and their walk takes more stack per level.
const MAX_DEPTH: usize = 200;

/// Decodes a message of an object type. Zero values of fields that Go omits are left out.
pub fn message(bytes: &[u8], node: Node<'_>) -> Result<Value, DecodeError> {
    value(bytes, node, 0)
}

/// Decodes the body of a message type.
fn value(bytes: &[u8], node: Node<'_>, depth: usize) -> Result<Value, DecodeError> {
    if depth > MAX_DEPTH {
        return Err(DecodeError::Depth);
    }
    match node.ty() {
        Type::Object { .. } => {
            let mut map = Map::new();
            object(&mut map, bytes, node, [0, 0], depth)?;
            Ok(Value::Object(map))
        }
        Type::Quantity => {
            let text = text_field(bytes, 1)?;
            Ok(Value::String(if text.is_empty() { "0".to_owned() } else { text }))
        }
        Type::IntOrString => int_or_string(bytes),
        Type::Time | Type::MicroTime => instant(bytes, node.ty()),
        Type::Duration => {
            let nanos = number_fields(bytes)?[0];
            Ok(Value::String(crate::duration::format(nanos)))
        }
        Type::FieldsV1 | Type::RawExtension | Type::Any | Type::Open { .. } => raw(bytes),
        Type::ObjectOr { object, other } => either(bytes, node.schema.node(object), other, depth),
        Type::List { .. } => {
            let mut items = Vec::new();
            let Some(element) = node.element() else { return Ok(Value::Array(items)) };
            let mut reader = Reader::new(bytes);
            while let Some((number, wire)) = reader.next()? {
                if number == 1 {
                    items.push(single(wire, element, depth + 1)?);
                }
            }
            Ok(Value::Array(items))
        }
        _ => Err(DecodeError::WrongType(format!("{:?}", node.ty()))),
    }
}

fn object(
    map: &mut Map<String, Value>,
    bytes: &[u8],
    node: Node<'_>,
    within: [u8; 2],
    depth: usize,
) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next()? {
        let field = node
            .fields()
            .iter()
            .find(|field| u64::from(field.number) == number && field.within == within);
        if let Some(field) = field {
            named(map, field, wire, node, depth)?;
            continue;
        }
        let (Ok(outer), Wire::Bytes(inner)) = (u8::try_from(number), wire) else { continue };
        let deeper = match within {
            [0, _] => [outer, 0],
            [first, 0] => [first, outer],
            _ => continue,
        };
        let level = usize::from(within[0] != 0);
        let embeds = node.fields().iter().any(|f| f.within[..=level] == deeper[..=level]);
        if embeds {
            object(map, inner, node, deeper, depth)?;
        }
    }
    Ok(())
}

fn named(
    map: &mut Map<String, Value>,
    field: &Field,
    wire: Wire<'_>,
    node: Node<'_>,
    depth: usize,
) -> Result<(), DecodeError> {
    let name = node.schema.text(field.name);
    let ty = node.schema.node(field.ty);
    let wrong = || DecodeError::WrongType(name.to_owned());
    match ty.ty() {
        Type::List { .. } if node.schema.text(field.go) == "v1.Verbs" => {
            let Wire::Bytes(bytes) = wire else { return Err(wrong()) };
            map.insert(name.to_owned(), value(bytes, ty, depth + 1)?);
        }
        Type::List { .. } => {
            let Some(element) = ty.element() else { return Ok(()) };
            let slot = map.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(items) = slot else { return Ok(()) };
            match (element.ty(), wire) {
                (Type::Int32 | Type::Int64 | Type::Bool, Wire::Bytes(packed)) => {
                    let mut reader = Reader::new(packed);
                    while !reader.is_empty() {
                        let number = Wire::Varint(reader.varint()?);
                        items.push(single(number, element, depth + 1)?);
                    }
                }
                (_, wire) => items.push(single(wire, element, depth + 1)?),
            }
        }
        Type::Map { .. } => {
            let Some(element) = ty.element() else { return Ok(()) };
            let Wire::Bytes(entry) = wire else { return Err(wrong()) };
            let (key, item) = map_entry(entry, element, depth + 1)?;
            let slot = map.entry(name).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(entries) = slot {
                entries.insert(key, item);
            }
        }
        _ => {
            let item = single(wire, ty, depth + 1)?;
            let zero = match &item {
                Value::Null => true,
                Value::String(text) => text.is_empty(),
                Value::Bool(set) => !set,
                Value::Number(n) => n.as_f64() == Some(0.0),
                _ => false,
            };
            if item.is_null() || (zero && field.omit == Omit::Empty) {
                map.remove(name);
            } else {
                map.insert(name.to_owned(), item);
            }
        }
    }
    Ok(())
}

fn map_entry(
    bytes: &[u8],
    element: Node<'_>,
    depth: usize,
) -> Result<(String, Value), DecodeError> {
    let (mut key, mut item) = (String::new(), None);
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Bytes(text)) => key = String::from_utf8_lossy(text).into_owned(),
            (2, wire) => item = Some(single(wire, element, depth)?),
            _ => {}
        }
    }
    let item = match (item, element.ty()) {
        (Some(item), _) => item,
        (None, Type::String | Type::Bytes) => Value::String(String::new()),
        (None, Type::Int32 | Type::Int64 | Type::Double) => 0.into(),
        (None, Type::Bool) => Value::Bool(false),
        (None, _) => value(&[], element, depth)?,
    };
    Ok((key, item))
}

/// One value that stands alone.
fn single(wire: Wire<'_>, node: Node<'_>, depth: usize) -> Result<Value, DecodeError> {
    match (node.ty(), wire) {
        (Type::String, Wire::Bytes(text)) => {
            Ok(Value::String(String::from_utf8_lossy(text).into_owned()))
        }
        (Type::Bytes, Wire::Bytes(bytes)) => Ok(Value::String(STANDARD.encode(bytes))),
        (Type::Bool, Wire::Varint(n)) => Ok(Value::Bool(n != 0)),
        (Type::Int32, Wire::Varint(n)) => Ok((n as i32).into()),
        (Type::Int64, Wire::Varint(n)) => Ok((n as i64).into()),
        (Type::Double, Wire::Fixed64(bits)) => {
            Ok(Number::from_f64(f64::from_bits(bits)).map_or(Value::Null, Value::Number))
        }
        (Type::String | Type::Bytes | Type::Bool | Type::Int32 | Type::Int64 | Type::Double, _) => {
            Err(DecodeError::WrongType(format!("{:?}", node.ty())))
        }
        (_, Wire::Bytes(bytes)) => value(bytes, node, depth),
        (ty, _) => Err(DecodeError::WrongType(format!("{ty:?}"))),
    }
}

fn text_field(bytes: &[u8], wanted: u64) -> Result<String, DecodeError> {
    let mut found = String::new();
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next()? {
        if let (true, Wire::Bytes(text)) = (number == wanted, wire) {
            found = String::from_utf8_lossy(text).into_owned();
        }
    }
    Ok(found)
}

/// The fields 1 and 2 of a message of numbers.
fn number_fields(bytes: &[u8]) -> Result<[i64; 2], DecodeError> {
    let mut found = [0; 2];
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next()? {
        if let (1 | 2, Wire::Varint(n)) = (number, wire) {
            found[usize::from(number == 2)] = n as i64;
        }
    }
    Ok(found)
}

fn int_or_string(bytes: &[u8]) -> Result<Value, DecodeError> {
    let [kind, number] = number_fields(bytes)?;
    match kind {
        1 => Ok(Value::String(text_field(bytes, 3)?)),
        _ => Ok((number as i32).into()),
    }
}

/// An empty message is the zero time.
fn instant(bytes: &[u8], ty: Type) -> Result<Value, DecodeError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let [seconds, nanos] = number_fields(bytes)?;
    let nanos = if ty == Type::Time { 0 } else { nanos as i32 };
    let Ok(at) = Timestamp::new(seconds, nanos) else { return Ok(Value::Null) };
    let text = if ty == Type::Time { time::format(at) } else { time::format_micro(at) };
    Ok(Value::String(text))
}

/// JSON inside a message; a whole enveloped object is possible too.
fn raw(bytes: &[u8]) -> Result<Value, DecodeError> {
    let mut inner: &[u8] = &[];
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next()? {
        if let (1, Wire::Bytes(found)) = (number, wire) {
            inner = found;
        }
    }
    if inner.is_empty() {
        return Ok(Value::Null);
    }
    json::parse(inner).map(|parsed| parsed.value).map_err(DecodeError::Json)
}

fn either(
    bytes: &[u8],
    object: Node<'_>,
    other: Other,
    depth: usize,
) -> Result<Value, DecodeError> {
    let mut items = Vec::new();
    let (mut allows, mut schema) = (false, None);
    let schema_number = if other == Other::Bool { 2 } else { 1 };
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (number, Wire::Bytes(inner)) if number == schema_number => {
                schema = Some(value(inner, object, depth + 1)?);
            }
            (2, Wire::Bytes(inner)) if other == Other::Objects => {
                items.push(value(inner, object, depth + 1)?);
            }
            (2, Wire::Bytes(text)) => {
                items.push(Value::String(String::from_utf8_lossy(text).into_owned()));
            }
            (1, Wire::Varint(n)) => allows = n != 0,
            _ => {}
        }
    }
    Ok(match (schema, other) {
        (Some(schema), _) => schema,
        (None, Other::Bool) => Value::Bool(allows),
        (None, _) => Value::Array(items),
    })
}
