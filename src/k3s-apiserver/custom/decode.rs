//! Bodies of custom resources: JSON or YAML, metadata typed, everything else pruned.

use apimachinery::decode::{FieldValidation, MAX_BODY_BYTES, Media, walk};
use apimachinery::gotext::quote;
use apimachinery::status::Status;
use apimachinery::{json, yaml};
use serde_json::{Map, Value};

use super::{Custom, metadata_node};
use crate::kinds::Kind;
use crate::negotiate::CUSTOM_ACCEPTED;
use crate::registry::Object;

/// Decodes a body into an object of the kind; what strict decoding found goes to `warnings`, or
/// refuses.
pub fn body(
    kind: &Kind,
    custom: &Custom,
    bytes: &[u8],
    media: Media,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Object, Status> {
    if bytes.len() > MAX_BODY_BYTES {
        return Err(Status::too_large(&format!("limit is {MAX_BODY_BYTES}")));
    }
    let unrecognized = |why: &str| {
        let shown = String::from_utf8_lossy(bytes);
        let kind = &kind.kind;
        let head: String = shown.chars().take(512).collect();
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): {why} ({head})"
        ))
    };
    let parsed = match media {
        Media::Json => json::parse(bytes).map_err(|err| {
            unrecognized(&format!("couldn't get version/kind; json parse error: {err}"))
        })?,
        Media::Yaml => yaml::parse(bytes).map_err(|err| unrecognized(&err))?,
        Media::Protobuf => return Err(Status::unsupported_media_type(CUSTOM_ACCEPTED)),
    };
    let mut object = parsed.value;
    if !object.is_object() {
        object = Value::Object(Map::new());
    }
    if object["kind"].as_str().is_none_or(str::is_empty) {
        let text = String::from_utf8_lossy(bytes);
        return Err(unrecognized(&format!("Object 'Kind' is missing in '{text}'")));
    }
    let version = object["apiVersion"].as_str().unwrap_or_default().to_owned();
    if version.is_empty() {
        object["apiVersion"] = kind.api_version.as_str().into();
    } else if version != kind.api_version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({})",
            kind.api_version
        )));
    }
    let mut strict: Vec<String> =
        parsed.duplicates.iter().map(|path| format!("duplicate field {}", quote(path))).collect();
    strict.extend(settle(kind, custom, &mut object)?);
    judge(kind, validation, strict, warnings)?;
    Ok(object)
}

/// Types the metadata and takes out what the kind does not know; says what that was.
pub fn settle(kind: &Kind, custom: &Custom, object: &mut Object) -> Result<Vec<String>, Status> {
    let mut strict = Vec::new();
    if let (Some(node), Some(meta)) = (metadata_node(), object.get_mut("metadata")) {
        if meta.is_null() {
            *meta = Value::Object(Map::new());
        }
        let unknown = walk(meta, node).map_err(|err| {
            let name = &kind.kind;
            let version = quote(&kind.api_version);
            Status::bad_request(format!(
                "{name} in version {version} cannot be handled as a {name}: {err}"
            ))
        })?;
        let place = |text: String| text.replacen("field \"", "field \"metadata.", 1);
        strict.extend(unknown.into_iter().map(place));
    }
    strict.extend(custom.prune(object));
    Ok(strict)
}

fn judge(
    kind: &Kind,
    validation: FieldValidation,
    mut strict: Vec<String>,
    warnings: &mut Vec<String>,
) -> Result<(), Status> {
    match validation {
        FieldValidation::Ignore => Ok(()),
        FieldValidation::Warn => {
            warnings.append(&mut strict);
            Ok(())
        }
        FieldValidation::Strict if strict.is_empty() => Ok(()),
        FieldValidation::Strict => {
            let (name, version) = (&kind.kind, quote(&kind.version));
            let why = strict.join(", ");
            Err(Status::bad_request(format!(
                "{name} in version {version} cannot be handled as a {name}: strict decoding \
                 error: {why}"
            )))
        }
    }
}
