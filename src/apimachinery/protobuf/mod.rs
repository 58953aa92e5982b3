//! `application/vnd.kubernetes.protobuf`: objects to messages and back, walked with the schema.
//!
//! Knows the envelope (`k8s\0` and `runtime.Unknown`), watch frames and lists of ready-made items.
//! Invariant: decoding reads no byte twice and its depth is bounded.

use serde_json::{Map, Value};

use api::schema::Node;

use crate::decode::Expected;
use crate::meta;
use crate::status::Status;

mod read;
mod wire;
mod write;

pub use read::{DecodeError, message as decode};
pub use write::message as encode;

/// What every enveloped object begins with.
pub const PREFIX: &[u8; 4] = b"k8s\0";

/// Why a request's body is refused.
#[derive(Debug)]
pub enum BodyError {
    /// It is no object that the server knows.
    Unrecognized(String),
    /// It is a known object that does not decode.
    Undecodable {
        api_version: String,
        kind: String,
        why: String,
    },
    Status(Status),
}

/// The outer message of an object.
#[derive(Debug)]
pub struct Envelope<'a> {
    pub api_version: String,
    pub kind: String,
    pub raw: &'a [u8],
}

/// Reads the envelope of an object.
pub fn open(bytes: &[u8]) -> Result<Envelope<'_>, String> {
    if bytes.is_empty() {
        return Err("empty data".to_owned());
    }
    let Some(message) = bytes.strip_prefix(PREFIX) else {
        return Err(format!(
            "provided data does not appear to be a protobuf message, expected prefix {}",
            "[107 56 115 0]"
        ));
    };
    if message.is_empty() {
        return Err("empty body".to_owned());
    }
    let mut envelope = Envelope { api_version: String::new(), kind: String::new(), raw: &[] };
    let mut reader = wire::Reader::new(message);
    while let Some((number, value)) = reader.next().map_err(|err| err.to_string())? {
        match (number, value) {
            (1, wire::Wire::Bytes(type_meta)) => {
                let mut reader = wire::Reader::new(type_meta);
                while let Some((number, value)) = reader.next().map_err(|err| err.to_string())? {
                    let wire::Wire::Bytes(text) = value else { continue };
                    let text = String::from_utf8_lossy(text).into_owned();
                    match number {
                        1 => envelope.api_version = text,
                        2 => envelope.kind = text,
                        _ => {}
                    }
                }
            }
            (2, wire::Wire::Bytes(raw)) => envelope.raw = raw,
            _ => {}
        }
    }
    Ok(envelope)
}

/// Decodes a request's body; what it says of its kind is filled in where it says nothing.
pub(crate) fn body(
    bytes: &[u8],
    expected: &Expected<'_>,
    check_kind: impl Fn(&Value) -> Result<(), Status>,
) -> Result<Value, BodyError> {
    let envelope = open(bytes).map_err(BodyError::Unrecognized)?;
    let or = |text: String, default: &str| if text.is_empty() { default.to_owned() } else { text };
    let version = api::resources::api_version(expected.group, expected.version);
    let api_version = or(envelope.api_version, &version);
    let kind = or(envelope.kind, expected.kind);
    let mut head = Value::Object(Map::new());
    meta::set_api_version_and_kind(&mut head, &api_version, &kind);
    check_kind(&head).map_err(BodyError::Status)?;
    let mut value = decode(envelope.raw, expected.node).map_err(|err| {
        let (api_version, kind) = (api_version.clone(), kind.clone());
        BodyError::Undecodable { api_version, kind, why: err.to_string() }
    })?;
    meta::set_api_version_and_kind(&mut value, &api_version, &kind);
    Ok(value)
}

/// Wraps a message.
pub fn envelope(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let mut type_meta = Vec::with_capacity(api_version.len() + kind.len() + 4);
    wire::bytes(&mut type_meta, 1, api_version.as_bytes());
    wire::bytes(&mut type_meta, 2, kind.as_bytes());
    let mut out = Vec::with_capacity(message.len() + type_meta.len() + 20);
    out.extend_from_slice(PREFIX);
    wire::bytes(&mut out, 1, &type_meta);
    wire::bytes(&mut out, 2, message);
    wire::bytes(&mut out, 3, b"");
    wire::bytes(&mut out, 4, b"");
    out
}

/// An object in its envelope; kind and version are its own.
pub fn encode_object(object: &Value, node: Node<'_>) -> Vec<u8> {
    let message = encode(object, node);
    envelope(meta::api_version(object), meta::kind(object), &message)
}

/// A list in its envelope, made of `metav1.ListMeta` and messages that are encoded already.
pub fn encode_list<'a>(
    api_version: &str,
    kind: &str,
    list_meta: &Value,
    items: impl Iterator<Item = &'a [u8]>,
) -> Vec<u8> {
    let mut message = Vec::new();
    if let Some(node) = api::schema::definition("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta") {
        wire::bytes(&mut message, 1, &encode(list_meta, node));
    }
    for item in items {
        wire::bytes(&mut message, 2, item);
    }
    envelope(api_version, kind, &message)
}

/// One event of a watch stream: four bytes of length and a `metav1.WatchEvent` around the
/// enveloped object.
pub fn watch_frame(event: &str, object: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(object.len() + 8);
    wire::bytes(&mut raw, 1, object);
    let mut out = vec![0; 4];
    wire::bytes(&mut out, 1, event.as_bytes());
    wire::bytes(&mut out, 2, &raw);
    let len = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&len.to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use api::schema::{Schema, Type, TypeId};
    use serde_json::json;

    use super::*;
    use crate::encode::canonicalize;

    /// A value of the type with every field filled in.
    fn sample(schema: &'static Schema, id: TypeId, depth: usize) -> Value {
        let node = schema.node(id);
        match node.ty() {
            Type::String => json!("text é"),
            Type::Bool => json!(true),
            Type::Int32 => json!(-7),
            Type::Int64 => json!(1_234_567_890_123_i64),
            Type::Double => json!(1.5),
            Type::Bytes => json!("aGVsbG8="),
            Type::Quantity => json!("1500m"),
            Type::IntOrString if depth.is_multiple_of(2) => json!("25%"),
            Type::IntOrString => json!(-3),
            Type::Time => json!("2024-01-02T03:04:05Z"),
            Type::MicroTime => json!("2024-01-02T03:04:05.678901Z"),
            Type::Duration => json!("1m0s"),
            Type::FieldsV1 | Type::RawExtension | Type::Any | Type::Open { .. } => {
                json!({"f:a": {".": {}}})
            }
            Type::ObjectOr { object, .. } => sample(schema, object, depth + 1),
            Type::List { item, .. } => {
                json!([sample(schema, item, depth + 1), sample(schema, item, depth + 2)])
            }
            Type::Map { value, .. } => {
                json!({"k": sample(schema, value, depth + 1), "l": sample(schema, value, depth + 1)})
            }
            Type::Object { .. } => {
                let mut map = Map::new();
                if depth < 7 {
                    for field in node.fields().iter().filter(|field| field.number != 0) {
                        let name = schema.text(field.name).to_owned();
                        map.insert(name, sample(schema, field.ty, depth + 1));
                    }
                }
                Value::Object(map)
            }
        }
    }

    fn round_trip(value: &Value, node: Node<'_>) -> Value {
        let mut back = decode(&encode(value, node), node).unwrap();
        canonicalize(&mut back, node);
        back
    }

    #[test]
    fn every_kind_survives_the_round_trip() {
        let schema = api::schema::builtin();
        for kind in api::schema::kinds() {
            let node = schema.node(kind.ty);
            let name = schema.text(kind.kind);
            if node.fields().iter().all(|field| field.number == 0) {
                continue;
            }
            for start in [0, 5, 6] {
                let mut value = sample(schema, kind.ty, start);
                canonicalize(&mut value, node);
                assert_eq!(round_trip(&value, node), value, "{name} from depth {start}");
            }
            let mut empty = json!({});
            canonicalize(&mut empty, node);
            assert_eq!(round_trip(&empty, node), empty, "empty {name}");
        }
    }

    #[test]
    fn schemas_keep_their_alternatives() {
        let name = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
        let node = api::schema::definition(name).unwrap();
        for value in [
            json!({"items": [{"type": "string"}, {}]}),
            json!({"items": {"type": "string"}}),
            json!({"additionalProperties": false}),
            json!({"additionalProperties": true}),
            json!({"additionalProperties": {"type": "integer"}}),
            json!({"dependencies": {"a": ["b", "c"], "d": {"type": "x"}}}),
            json!({"default": {"a": [1, null, "x"]}, "enum": [1, "a"]}),
            json!({"default": false, "minimum": 0.0}),
        ] {
            assert_eq!(decode(&encode(&value, node), node).unwrap(), value);
        }
    }

    #[test]
    fn pointers_keep_their_zero() {
        let node = api::schema::kind("apps", "v1", "Deployment").unwrap();
        let mut value =
            json!({"spec": {"replicas": 0, "paused": false, "strategy": {"rollingUpdate": {}}}});
        canonicalize(&mut value, node);
        assert_eq!(round_trip(&value, node), value);
        assert_eq!(value["spec"]["replicas"], 0);
    }

    #[test]
    fn garbage_ends_in_an_error() {
        let node = api::schema::kind("", "v1", "Pod").unwrap();
        let good = encode(&sample(node.schema, node.id, 0), node);
        let mut seed = 12345_u32;
        for round in 0..3000 {
            let mut bytes = good.clone();
            bytes.truncate(200 + round % 300);
            for _ in 0..8 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let at = (seed >> 8) as usize % bytes.len();
                bytes[at] = seed as u8;
            }
            let _ = decode(&bytes, node);
            let _ = open(&bytes);
        }
        assert!(decode(&[0xff, 0xff], node).is_err());
        let deep = (0..5000).fold(Vec::new(), |inner, _| {
            let mut out = Vec::new();
            wire::bytes(&mut out, 26, &inner);
            out
        });
        let name = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
        assert!(decode(&deep, api::schema::definition(name).unwrap()).is_err());
    }

    #[test]
    fn a_recorded_body_decodes() {
        let recorded = b"k8s\0\n\x0f\n\x02v1\x12\tConfigMap\x12\x06\n\x04\n\x02cm\x1a\0\"\0";
        let envelope = open(recorded).unwrap();
        assert_eq!((envelope.api_version.as_str(), envelope.kind.as_str()), ("v1", "ConfigMap"));
        let node = api::schema::kind("", "v1", "ConfigMap").unwrap();
        assert_eq!(decode(envelope.raw, node).unwrap(), json!({"metadata": {"name": "cm"}}));
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm"}});
        assert_eq!(encode_object(&object, node), recorded);
    }
}
