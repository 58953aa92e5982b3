//! Descriptions of types and fields, for `kubectl explain`.
//!
//! They are packed at build time (`build.rs`), unpacked when a document is rendered and dropped with
//! it.

use std::io::Read;

use flate2::read::ZlibDecoder;
use serde_json::{Map, Value, json};
use tracing::error;

/// By definition and field; `""` is the definition itself.
static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.json.z"));

/// Adds descriptions to schemas, which are named as published.
pub(super) fn describe(schemas: &mut Map<String, Value>) {
    match unpack() {
        Ok(texts) => copy(schemas, &texts),
        Err(err) => error!(%err, "Could not read the descriptions of types"),
    }
    super::enums::add(schemas);
}

fn unpack() -> anyhow::Result<Map<String, Value>> {
    let mut text = Vec::new();
    ZlibDecoder::new(PACKED).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

/// Copies descriptions into schemas of the same name.
fn copy(schemas: &mut Map<String, Value>, known: &Map<String, Value>) {
    for (name, schema) in schemas {
        let (Some(known), Value::Object(schema)) = (known.get(name), schema) else { continue };
        if let Some(text) = known.get("") {
            schema.insert("description".to_owned(), text.clone());
        }
        let Some(Value::Object(properties)) = schema.get_mut("properties") else { continue };
        for (key, property) in properties {
            let text = known[key].as_str();
            let (Some(text), Value::Object(property)) = (text, property) else { continue };
            property.insert("description".to_owned(), text.into());
            // A reference stands alone in version 3, so what is said beside it goes around it.
            let target = property.get("$ref").and_then(Value::as_str).unwrap_or_default();
            if target.starts_with("#/components/") {
                let target = target.to_owned();
                property.remove("$ref");
                property.insert("allOf".to_owned(), json!([{"$ref": target}]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_fields_are_described() {
        let mut schemas = Map::new();
        let container = json!({"properties": {
            "imagePullPolicy": {"type": "string"},
            "lifecycle": {"$ref": "#/components/schemas/io.k8s.api.core.v1.Lifecycle"},
        }});
        schemas.insert("io.k8s.api.core.v1.Container".to_owned(), container);
        schemas.insert("io.k8s.api.core.v1.Pod".to_owned(), json!({}));
        describe(&mut schemas);
        let container = &schemas["io.k8s.api.core.v1.Container"];
        assert!(container["description"].as_str().is_some_and(|text| text.contains("container")));
        assert!(container["properties"]["imagePullPolicy"]["description"].is_string());
        assert!(container["properties"]["lifecycle"]["allOf"][0]["$ref"].is_string());
    }
}
