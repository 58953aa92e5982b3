//! Request bodies to objects: types checked, unknown fields pruned and reported, scalars in their
//! canonical form, nulls gone.
//!
//! Invariant: after `walk` every value has the type that its schema node says, so later code may
//! read it without looking twice.

use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use api::schema::{Node, Other, Type};

use crate::gotext::quote;
use crate::quantity::Quantity;
use crate::status::Status;
use crate::{duration, json, meta, protobuf, time, yaml};

/// Larger bodies are refused (upstream's limit).
pub const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    Json,
    Yaml,
    Protobuf,
}

/// The query parameter `fieldValidation`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FieldValidation {
    Ignore,
    /// The default.
    #[default]
    Warn,
    Strict,
}

/// What a request's body must be.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
    pub node: Node<'a>,
}

/// A decoded object and what strict decoding found wrong with it.
#[derive(Debug)]
pub struct Decoded {
    pub value: Value,
    /// `unknown field "spec.foo"`, `duplicate field "spec.bar"`.
    pub strict: Vec<String>,
}

/// Why a value does not fit its type, in Go's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypeError {
    /// `json: cannot unmarshal … into Go …`.
    Mismatch {
        /// What was found: `string`, `number 1.5`, `array`.
        what: String,
        /// Struct and path of the field; empty at the top.
        owner: String,
        path: String,
        /// Go's name and kind of the type that was expected.
        go: String,
        expects: &'static str,
    },
    /// A type that decodes itself and says its own words.
    Own(String),
}

impl std::error::Error for TypeError {}

impl std::fmt::Display for TypeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Own(text) => f.write_str(text),
            Self::Mismatch { what, owner, go, .. } if owner.is_empty() => {
                write!(f, "json: cannot unmarshal {what} into Go value of type {go}")
            }
            Self::Mismatch { what, owner, path, go, .. } => {
                let field = format!("{owner}.{path}");
                write!(f, "json: cannot unmarshal {what} into Go struct field {field} of type {go}")
            }
        }
    }
}

impl Decoded {
    /// Applies `fieldValidation`: the object and its warnings, or the refusal.
    pub fn validated(
        self,
        validation: FieldValidation,
        expected: &Expected<'_>,
    ) -> Result<(Value, Vec<String>), Status> {
        match validation {
            FieldValidation::Ignore => Ok((self.value, Vec::new())),
            FieldValidation::Warn => Ok((self.value, self.strict)),
            FieldValidation::Strict if self.strict.is_empty() => Ok((self.value, Vec::new())),
            FieldValidation::Strict => {
                let why = format!("strict decoding error: {}", self.strict.join(", "));
                let version = api::resources::api_version(expected.group, expected.version);
                Err(cannot_be_handled(expected.kind, &version, expected.kind, &why))
            }
        }
    }
}

/// Decodes a request's body.
pub fn body(bytes: &[u8], media: Media, expected: &Expected<'_>) -> Result<Decoded, Status> {
    if bytes.len() > MAX_BODY_BYTES {
        let text = format!("limit is {MAX_BODY_BYTES}");
        return Err(Status::too_large(&text));
    }
    let unrecognized = |why: &str| {
        let (kind, summary) = (expected.kind, summary(bytes));
        let text = format!(
            "the object provided is unrecognized (must be of type {kind}): {why} ({summary})"
        );
        Status::bad_request(text)
    };
    let parsed = match media {
        Media::Json => json::parse(bytes).map_err(|err| {
            unrecognized(&format!("couldn't get version/kind; json parse error: {err}"))
        })?,
        Media::Yaml => yaml::parse(bytes).map_err(|err| unrecognized(&err))?,
        Media::Protobuf => {
            let check = |head: &Value| check_kind(head, expected, unrecognized);
            let value = protobuf::body(bytes, expected, check).map_err(|err| match err {
                protobuf::BodyError::Unrecognized(why) => unrecognized(&why),
                protobuf::BodyError::Undecodable { api_version, kind, why } => {
                    cannot_be_handled(&kind, &api_version, expected.kind, &why)
                }
                protobuf::BodyError::Status(status) => status,
            })?;
            return Ok(Decoded { value, strict: Vec::new() });
        }
    };
    let mut value = parsed.value;
    if value.is_null() {
        value = Value::Object(Map::new());
    }
    let Some(map) = value.as_object_mut() else {
        let err = format!(
            "json: cannot unmarshal {} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
            what(&value)
        );
        return Err(unrecognized(&format!("couldn't get version/kind; json parse error: {err}")));
    };
    for (key, default) in [("apiVersion", ""), ("kind", expected.kind)] {
        match map.get(key) {
            Some(Value::String(text)) if !text.is_empty() => {}
            None | Some(Value::Null | Value::String(_)) => {
                let version = || api::resources::api_version(expected.group, expected.version);
                let text = if default.is_empty() { version() } else { default.to_owned() };
                map.insert(key.to_owned(), Value::String(text));
            }
            Some(other) => {
                let err = format!(
                    "json: cannot unmarshal {} into Go struct field .{key} of type string",
                    what(other)
                );
                let err = format!("couldn't get version/kind; json parse error: {err}");
                return Err(unrecognized(&err));
            }
        }
    }
    check_kind(&value, expected, unrecognized)?;
    let version = meta::api_version(&value).to_owned();
    let unknown = walk(&mut value, expected.node).map_err(|err| {
        cannot_be_handled(expected.kind, &version, expected.kind, &err.to_string())
    })?;
    let strict = in_order(bytes, &parsed.duplicates, &unknown);
    Ok(Decoded { value, strict })
}

/// What strict decoding found, as Go's decoder meets it: in the document's order, and nothing
/// inside of what is unknown anyhow.
fn in_order(bytes: &[u8], duplicates: &[String], unknown: &[String]) -> Vec<String> {
    let path =
        |text: &str| text.split_once('"').map(|(_, path)| path.trim_end_matches('"').to_owned());
    let unknown: Vec<(String, &String)> =
        unknown.iter().filter_map(|text| Some((path(text)?, text))).collect();
    let is_inside = |inner: &str, outer: &str| {
        inner
            .strip_prefix(outer)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let known = duplicates.iter().filter(|at| !unknown.iter().any(|(of, _)| is_inside(at, of)));
    let known: Vec<&String> = known.collect();
    if known.is_empty() && unknown.len() < 2 {
        return unknown.into_iter().map(|(_, text)| text.clone()).collect();
    }
    let sought = unknown.iter().map(|(path, _)| path.as_str());
    let sought: HashSet<&str> = sought.chain(known.iter().map(|path| path.as_str())).collect();
    let places = json::places(bytes, &sought);
    // A field is a duplicate where it comes the second time.
    let place = |path: &str, nth: usize| places.get(path).and_then(|at| at.get(nth)).copied();
    let mut all: Vec<(Option<usize>, String)> = known
        .iter()
        .map(|path| (place(path, 1), format!("duplicate field {}", quote(path))))
        .chain(unknown.iter().map(|(path, text)| (place(path, 0), (*text).clone())))
        .collect();
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, text)| text).collect()
}

/// What upstream says of a body whose kind is known: it names the version without its group.
fn cannot_be_handled(kind: &str, api_version: &str, expected: &str, why: &str) -> Status {
    let version = quote(meta::split_api_version(api_version).1);
    let text = format!("{kind} in version {version} cannot be handled as a {expected}: {why}");
    Status::bad_request(text)
}

/// Refuses a body that says it is something else.
fn check_kind(
    value: &Value,
    expected: &Expected<'_>,
    unrecognized: impl Fn(&str) -> Status,
) -> Result<(), Status> {
    let (kind, text) = (meta::kind(value), meta::api_version(value));
    let (group, version) = meta::split_api_version(text);
    if version.contains('/') {
        return Err(unrecognized(&format!("unexpected GroupVersion string: {text}")));
    }
    // Every group and version has DeleteOptions, and clients send that of the object's.
    let everywhere = kind == "DeleteOptions" && expected.kind == kind;
    if everywhere || (group, version, kind) == (expected.group, expected.version, expected.kind) {
        return Ok(());
    }
    let served = api::schema::kind(group, version, kind).is_some();
    let legacy = LEGACY.contains(&(group, version));
    if group == expected.group && kind == expected.kind && (served || legacy) {
        let wanted = api::resources::api_version(expected.group, expected.version);
        let text = format!(
            "the API version in the data ({text}) does not match the expected API version ({wanted})"
        );
        return Err(Status::bad_request(text));
    }
    let why = match served {
        true => {
            let group = expected.group.split('.').next().unwrap_or_default();
            let group = if group.is_empty() { "core" } else { group };
            let wanted = expected.kind;
            format!("converting ({version}.{kind}) to ({group}.{wanted}): unknown conversion")
        }
        false => {
            let (kind, text) = (quote(kind), quote(text));
            format!(
                "no kind {kind} is registered for version {text} in scheme \"pkg/api/legacyscheme/scheme.go:30\""
            )
        }
    };
    Err(cannot_be_handled(kind, text, expected.kind, &why))
}

/// Versions that upstream still knows but has no resource for.
const LEGACY: &[(&str, &str)] = &[
    ("apps", "v1beta1"),
    ("apps", "v1beta2"),
    ("batch", "v1beta1"),
    ("autoscaling", "v2beta1"),
    ("autoscaling", "v2beta2"),
    ("certificates.k8s.io", "v1beta1"),
    ("coordination.k8s.io", "v1beta1"),
    ("discovery.k8s.io", "v1beta1"),
    ("events.k8s.io", "v1beta1"),
    ("flowcontrol.apiserver.k8s.io", "v1beta1"),
    ("flowcontrol.apiserver.k8s.io", "v1beta2"),
    ("flowcontrol.apiserver.k8s.io", "v1beta3"),
    ("networking.k8s.io", "v1beta1"),
    ("node.k8s.io", "v1beta1"),
    ("policy", "v1beta1"),
    ("rbac.authorization.k8s.io", "v1beta1"),
    ("rbac.authorization.k8s.io", "v1alpha1"),
    ("scheduling.k8s.io", "v1beta1"),
    ("scheduling.k8s.io", "v1alpha1"),
    ("storage.k8s.io", "v1beta1"),
    ("storage.k8s.io", "v1alpha1"),
];

/// The beginning of a body that cannot be understood.
fn summary(bytes: &[u8]) -> String {
    const SHOWN: usize = 30;
    let head = &bytes[..bytes.len().min(SHOWN)];
    let more = if bytes.len() > SHOWN { " ..." } else { "" };
    match bytes.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(head)),
        Some(_) => {
            let hex = head.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            format!("{hex}{more}")
        }
    }
}

fn what(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Checks and canonicalises a value against its type. Unknown fields are taken out and returned as
/// strict decoding errors, sorted by place.
pub fn walk(value: &mut Value, node: Node<'_>) -> Result<Vec<String>, TypeError> {
    let mut strict = Vec::new();
    let go = match node.name().rsplit('.').nth(1) {
        Some(version) => format!("{version}.{}", node.short_name()),
        None => String::new(),
    };
    walk_value(value, node, &go, &mut strict)?;
    let quoted = strict.iter().map(|path| format!("unknown field {}", quote(path)));
    Ok(quoted.collect())
}

fn mismatch(what: impl Into<String>, go: &str, expects: &'static str) -> TypeError {
    let (what, go) = (what.into(), go.to_owned());
    TypeError::Mismatch { what, owner: String::new(), path: String::new(), go, expects }
}

/// What Go calls the element of a list or map type.
fn element_go<'a>(go: &'a str, element: Node<'_>) -> &'a str {
    if let Some(rest) = go.strip_prefix("[]") {
        return rest;
    }
    if let Some((_, rest)) = go.strip_prefix("map[").and_then(|rest| rest.split_once(']')) {
        return rest;
    }
    match element.ty() {
        Type::String => "string",
        Type::Bytes => "[]uint8",
        Type::Bool => "bool",
        Type::Int32 => "int32",
        Type::Int64 => "int64",
        _ => go,
    }
}

fn walk_value(
    value: &mut Value,
    node: Node<'_>,
    go: &str,
    strict: &mut Vec<String>,
) -> Result<(), TypeError> {
    match node.ty() {
        Type::Any | Type::Open { .. } | Type::FieldsV1 | Type::RawExtension => Ok(()),
        Type::Object { .. } => walk_object(value, node, go, strict),
        Type::List { .. } => walk_list(value, node, go, strict),
        Type::Map { .. } => walk_map(value, node, go, strict),
        Type::ObjectOr { object, other } => {
            let object = node.schema.node(object);
            match (value.is_object(), other) {
                (true, _) => walk_object(value, object, go, strict),
                (false, Other::Objects) => match value {
                    Value::Array(items) => walk_items(items, object, go, strict),
                    _ => Ok(()),
                },
                (false, Other::Bool) if value.is_boolean() => Ok(()),
                (false, Other::Strings) if value.is_array() => Ok(()),
                (false, Other::Bool) => {
                    Err(TypeError::Own("boolean or JSON schema expected".to_owned()))
                }
                (false, Other::Strings) => Ok(()),
            }
        }
        scalar => walk_scalar(value, scalar, go),
    }
}

fn walk_object(
    value: &mut Value,
    node: Node<'_>,
    go: &str,
    strict: &mut Vec<String>,
) -> Result<(), TypeError> {
    let map = match value {
        Value::Object(map) => map,
        Value::Null => {
            *value = Value::Object(Map::new());
            return Ok(());
        }
        other => return Err(mismatch(what(other), go, "struct")),
    };
    let mut failed = None;
    map.retain(|key, item| {
        if failed.is_some() {
            return true;
        }
        let Some(field) = node.field(key) else {
            strict.push(key.clone());
            return false;
        };
        if item.is_null() {
            return false;
        }
        let before = strict.len();
        let go = node.schema.text(field.go);
        if let Err(err) = walk_value(item, node.schema.node(field.ty), go, strict) {
            failed = Some(inside(err, node.short_name(), key));
        }
        for path in &mut strict[before..] {
            let separator = if path.starts_with('[') { "" } else { "." };
            *path = format!("{key}{separator}{path}");
        }
        true
    });
    failed.map_or(Ok(()), Err)
}

/// Adds the field that holds a failing value to its error.
fn inside(err: TypeError, owner: &str, field: &str) -> TypeError {
    match err {
        TypeError::Own(text) => TypeError::Own(text),
        TypeError::Mismatch { what, owner: inner, path, go, expects } => match inner.is_empty() {
            true => {
                let (owner, path) = (owner.to_owned(), field.to_owned());
                TypeError::Mismatch { what, owner, path, go, expects }
            }
            false => {
                let path = format!("{field}.{path}");
                TypeError::Mismatch { what, owner: inner, path, go, expects }
            }
        },
    }
}

fn walk_list(
    value: &mut Value,
    node: Node<'_>,
    go: &str,
    strict: &mut Vec<String>,
) -> Result<(), TypeError> {
    let Some(element) = node.element() else { return Ok(()) };
    match value {
        Value::Array(items) => walk_items(items, element, element_go(go, element), strict),
        Value::Null => {
            *value = Value::Array(Vec::new());
            Ok(())
        }
        other => Err(mismatch(what(other), go, "slice")),
    }
}

fn walk_items(
    items: &mut [Value],
    element: Node<'_>,
    go: &str,
    strict: &mut Vec<String>,
) -> Result<(), TypeError> {
    for (index, item) in items.iter_mut().enumerate() {
        let before = strict.len();
        walk_value(item, element, go, strict)?;
        for path in &mut strict[before..] {
            let separator = if path.starts_with('[') { "" } else { "." };
            *path = format!("[{index}]{separator}{path}");
        }
    }
    Ok(())
}

fn walk_map(
    value: &mut Value,
    node: Node<'_>,
    go: &str,
    strict: &mut Vec<String>,
) -> Result<(), TypeError> {
    let Some(element) = node.element() else { return Ok(()) };
    let map = match value {
        Value::Object(map) => map,
        Value::Null => {
            *value = Value::Object(Map::new());
            return Ok(());
        }
        other => return Err(mismatch(what(other), go, "map")),
    };
    let element_go = element_go(go, element);
    for (key, item) in map.iter_mut() {
        let before = strict.len();
        walk_value(item, element, element_go, strict)?;
        for path in &mut strict[before..] {
            let separator = if path.starts_with('[') { "" } else { "." };
            *path = format!("{key}{separator}{path}");
        }
    }
    // Every resource list is rounded up to thousandths by upstream's defaulting.
    if go == "v1.ResourceList" {
        for item in map.values_mut() {
            let parsed = item.as_str().and_then(|text| Quantity::parse(text).ok());
            if let Some(quantity) = parsed {
                replace_text(item, quantity.round_up_to_milli().to_string());
            }
        }
    }
    Ok(())
}

fn replace_text(value: &mut Value, text: String) {
    if value.as_str() != Some(&text) {
        *value = Value::String(text);
    }
}

fn number_text(value: &Value) -> String {
    format!("number {value}")
}

fn walk_scalar(value: &mut Value, ty: Type, go: &str) -> Result<(), TypeError> {
    let own = |text: String| TypeError::Own(text);
    let kind = match ty {
        Type::Bool => "bool",
        Type::Int32 => "int32",
        Type::Int64 => "int64",
        Type::Double => "float64",
        Type::Bytes => "slice",
        _ => "string",
    };
    match (ty, &*value) {
        (Type::String, Value::String(_)) | (Type::Bool, Value::Bool(_)) => Ok(()),
        (Type::String, Value::Null) => {
            *value = Value::String(String::new());
            Ok(())
        }
        (Type::Bool, Value::Null) => {
            *value = Value::Bool(false);
            Ok(())
        }
        (Type::Int32 | Type::Int64 | Type::Double, Value::Null) => {
            *value = 0.into();
            Ok(())
        }
        (Type::Int32, Value::Number(n)) => {
            match n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) {
                true => Ok(()),
                false => Err(mismatch(number_text(value), go, kind)),
            }
        }
        (Type::Int64, Value::Number(n)) => match n.as_i64() {
            Some(_) => Ok(()),
            None => Err(mismatch(number_text(value), go, kind)),
        },
        (Type::Double, Value::Number(_)) => Ok(()),
        (Type::Bytes, Value::String(text)) => match STANDARD.decode(text) {
            Ok(_) => Ok(()),
            Err(_) => walk_bytes(value).map_err(own),
        },
        (Type::Bytes, Value::Null) => {
            *value = Value::String(String::new());
            Ok(())
        }
        (Type::Quantity, Value::Null) => {
            *value = Value::String("0".to_owned());
            Ok(())
        }
        (Type::Quantity, Value::String(text)) => {
            let parsed = Quantity::parse(text.trim()).map_err(|err| own(err.to_string()))?;
            replace_text(value, parsed.to_string());
            Ok(())
        }
        (Type::Quantity, other) => {
            let parsed = Quantity::parse(&other.to_string()).map_err(|err| own(err.to_string()))?;
            *value = Value::String(parsed.to_string());
            Ok(())
        }
        (Type::IntOrString, Value::String(_)) => Ok(()),
        (Type::IntOrString, Value::Null) => {
            *value = 0.into();
            Ok(())
        }
        (Type::IntOrString, other) => {
            match other.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) {
                true => Ok(()),
                false if other.is_number() => Err(mismatch(number_text(other), "int32", "int32")),
                false => Err(mismatch(what(other), "int32", "int32")),
            }
        }
        (Type::Time | Type::MicroTime, Value::Null) => Ok(()),
        (Type::Time, Value::String(text)) => {
            let text = time::format(time::parse(text).map_err(own)?);
            replace_text(value, text);
            Ok(())
        }
        (Type::MicroTime, Value::String(text)) => {
            let text = time::format_micro(time::parse_micro(text).map_err(own)?);
            replace_text(value, text);
            Ok(())
        }
        (Type::Duration, Value::String(text)) => {
            let text = duration::format(duration::parse(text).map_err(own)?);
            replace_text(value, text);
            Ok(())
        }
        (Type::Time | Type::MicroTime | Type::Duration, other) => {
            Err(mismatch(what(other), "string", "string"))
        }
        (_, other) => Err(mismatch(what(other), go, kind)),
    }
}

/// Go's decoder skips line breaks inside base64; what is stored is the text without them.
fn walk_bytes(value: &mut Value) -> Result<(), String> {
    let text = value.as_str().unwrap_or_default();
    let compact = text.replace(['\r', '\n'], "");
    match STANDARD.decode(&compact) {
        Ok(bytes) => {
            *value = Value::String(STANDARD.encode(bytes));
            Ok(())
        }
        Err(err) => {
            let offset = match err {
                base64::DecodeError::InvalidByte(offset, _)
                | base64::DecodeError::InvalidLastSymbol(offset, _) => offset,
                _ => compact.len() / 4 * 4,
            };
            Err(format!("illegal base64 data at input byte {offset}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn expected(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
    ) -> Expected<'static> {
        let node = api::schema::kind(group, version, kind).unwrap();
        Expected { group, version, kind, node }
    }

    fn error(kind: &'static str, text: &str) -> String {
        body(text.as_bytes(), Media::Json, &expected("", "v1", kind)).unwrap_err().message
    }

    #[test]
    fn refusals_are_upstreams() {
        let check = |text: &str, message: &str| assert_eq!(error("ConfigMap", text), message);
        check(
            "{",
            "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: unexpected end of JSON input ({)",
        );
        check(
            r#"{"data":{"a":5}}"#,
            r#"ConfigMap in version "v1" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ConfigMap.data of type string"#,
        );
        check(
            r#"{"metadata":{"name":true}}"#,
            r#"ConfigMap in version "v1" cannot be handled as a ConfigMap: json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.name of type string"#,
        );
        check(
            r#"{"apiVersion":"v1","kind":"Secret"}"#,
            r#"Secret in version "v1" cannot be handled as a ConfigMap: converting (v1.Secret) to (core.ConfigMap): unknown conversion"#,
        );
        check(
            r#"{"apiVersion":"v2","kind":"ConfigMap"}"#,
            r#"ConfigMap in version "v2" cannot be handled as a ConfigMap: no kind "ConfigMap" is registered for version "v2" in scheme "pkg/api/legacyscheme/scheme.go:30""#,
        );
        assert_eq!(
            error("Pod", r#"{"spec":{"containers":{}}}"#),
            r#"Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container"#
        );
        assert_eq!(
            error("Secret", r#"{"data":{"a":"$"}}"#),
            r#"Secret in version "v1" cannot be handled as a Secret: illegal base64 data at input byte 0"#
        );
        let status = body(b"{\"metadata\":[]}", Media::Json, &expected("apps", "v1", "Deployment"));
        assert_eq!(
            status.unwrap_err().message,
            r#"Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal array into Go struct field Deployment.metadata of type v1.ObjectMeta"#
        );
    }

    #[test]
    fn delete_options_come_in_the_version_of_any_group() {
        let node = api::schema::definition("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions");
        let (group, version, kind) = ("", "v1", "DeleteOptions");
        let expected = Expected { group, version, kind, node: node.unwrap() };
        let text = r#"{"apiVersion":"apps/v1","kind":"DeleteOptions","gracePeriodSeconds":1}"#;
        let enveloped = protobuf::envelope("apps/v1", kind, &[0x08, 0x01]);
        for (bytes, media) in [(text.as_bytes(), Media::Json), (&enveloped, Media::Protobuf)] {
            let decoded = body(bytes, media, &expected).unwrap();
            assert_eq!(decoded.value["gracePeriodSeconds"], 1);
        }
    }

    #[test]
    fn unknown_and_duplicate_fields_are_named_and_gone() {
        let text = r#"{"kind":"Pod","spec":{"containers":[{"name":"a","imagee":1}],"zz":1,"hostPID":true,"zz":2,"hostPID":true},"top":1}"#;
        let decoded = body(text.as_bytes(), Media::Json, &expected("", "v1", "Pod")).unwrap();
        let strict = [
            r#"unknown field "spec.containers[0].imagee""#,
            r#"unknown field "spec.zz""#,
            r#"duplicate field "spec.hostPID""#,
            r#"unknown field "top""#,
        ];
        assert_eq!(decoded.strict, strict);
        assert_eq!(decoded.value["spec"], json!({"containers": [{"name": "a"}], "hostPID": true}));
        let err = decoded.validated(FieldValidation::Strict, &expected("", "v1", "Pod"));
        assert!(err.unwrap_err().message.contains("strict decoding error: unknown field"));
    }

    #[test]
    fn the_deepest_document_is_walked_on_a_small_stack() {
        let depth = 240;
        let text = format!("{}1{}", r#"{"not":{"items":"#.repeat(depth), "}}".repeat(depth));
        let name = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
        let node = api::schema::definition(name).unwrap();
        let mut value = json::parse(text.as_bytes()).unwrap().value;
        walk(&mut value, node).unwrap();
        crate::encode::canonicalize(&mut value, node);
        assert!(!crate::protobuf::encode(&value, node).is_empty());
    }

    #[test]
    fn scalars_become_canonical() {
        let text = r#"{"metadata":{"creationTimestamp":null,"labels":{"a":null},"deletionTimestamp":"2024-01-01T01:00:00+01:00"},
            "spec":{"containers":[{"resources":{"limits":{"cpu":1.5,"memory":"1024Mi","x":"0.1m"}},"livenessProbe":{"httpGet":{"port":80}}}],"priority":null}}"#;
        let decoded = body(text.as_bytes(), Media::Json, &expected("", "v1", "Pod")).unwrap();
        let value = decoded.value;
        assert_eq!(
            value["metadata"],
            json!({"labels": {"a": ""}, "deletionTimestamp": "2024-01-01T00:00:00Z"})
        );
        let limits = &value["spec"]["containers"][0]["resources"]["limits"];
        assert_eq!(limits, &json!({"cpu": "1500m", "memory": "1Gi", "x": "1m"}));
        assert!(value["spec"].get("priority").is_none());
    }
}
