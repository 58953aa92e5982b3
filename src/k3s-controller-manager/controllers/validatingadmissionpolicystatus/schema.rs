//! From the schema of a kind in an OpenAPI v3 document to the type of its objects.
//!
//! Invariant: what a schema leaves open is `dyn`, so that no expression is blamed for it.

use std::{collections::BTreeMap, sync::Arc};

use apimachinery::cel::{Ty, escape};
use serde_json::Value;

use super::check::Gvk;

/// The type of a kind's objects; `None` where the document does not have the kind.
pub(super) fn type_of(document: &Value, gvk: &Gvk) -> Option<Ty> {
    let schemas = document.pointer("/components/schemas")?.as_object()?;
    let is_it = |schema: &&Value| {
        let kinds = schema["x-kubernetes-group-version-kind"].as_array();
        kinds.into_iter().flatten().any(|it| {
            it["group"] == gvk.group && it["version"] == gvk.version && it["kind"] == gvk.kind
        })
    };
    let schema = schemas.values().find(is_it)?;
    Some(of(schemas, schema, &mut Vec::new()))
}

type Schemas = serde_json::Map<String, Value>;

/// `within` are the schemas that lead here: one that comes again is left open.
fn of<'a>(schemas: &'a Schemas, schema: &'a Value, within: &mut Vec<&'a str>) -> Ty {
    if let Some(name) = reference(schema) {
        let Some(target) = schemas.get(name).filter(|_| !within.contains(&name)) else {
            return Ty::Dyn;
        };
        within.push(name);
        let ty = of(schemas, target, within);
        within.pop();
        return ty;
    }
    if schema["x-kubernetes-int-or-string"] == true || schema["format"] == "int-or-string" {
        return Ty::Dyn;
    }
    match schema["type"].as_str().unwrap_or_default() {
        "boolean" => Ty::Bool,
        "integer" => Ty::Int,
        "number" => Ty::Double,
        "string" => match schema["format"].as_str().unwrap_or_default() {
            "byte" => Ty::Bytes,
            "date" | "date-time" => Ty::Timestamp,
            "duration" => Ty::Duration,
            _ => Ty::String,
        },
        "array" => Ty::list(of(schemas, &schema["items"], within)),
        "object" => of_object(schemas, schema, within),
        _ => Ty::Dyn,
    }
}

fn of_object<'a>(schemas: &'a Schemas, schema: &'a Value, within: &mut Vec<&'a str>) -> Ty {
    if schema["additionalProperties"].is_object() {
        return Ty::map(of(schemas, &schema["additionalProperties"], within));
    }
    let open = schema["x-kubernetes-preserve-unknown-fields"] == true;
    let Some(properties) = schema["properties"].as_object().filter(|_| !open) else {
        return Ty::Dyn;
    };
    let mut fields = BTreeMap::new();
    for (name, property) in properties {
        fields.insert(escape(name), of(schemas, property, within));
    }
    Ty::Object(Arc::new(fields))
}

/// The schema that this one is, by name: alone, or as the only one of `allOf`, beside a default.
fn reference(schema: &Value) -> Option<&str> {
    let direct = schema["$ref"].as_str();
    let all = || match schema["allOf"].as_array()?.as_slice() {
        [one] => one["$ref"].as_str(),
        _ => None,
    };
    direct.or_else(all)?.strip_prefix("#/components/schemas/")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn schemas_become_types() {
        let document = json!({"components": {"schemas": {
            "x.Thing": {
                "type": "object",
                "properties": {
                    "meta": {"allOf": [{"$ref": "#/components/schemas/x.Meta"}], "default": {}},
                    "port": {"format": "int-or-string", "oneOf": []},
                    "again": {"$ref": "#/components/schemas/x.Thing"},
                    "all": {"type": "array", "items": {"type": "integer"}},
                    "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                },
                "x-kubernetes-group-version-kind": [{"group": "g", "version": "v", "kind": "Thing"}],
            },
            "x.Meta": {"type": "object", "properties": {
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "time": {"type": "string", "format": "date-time"},
            }},
        }}});
        let gvk = |kind: &str| Gvk { group: "g".into(), version: "v".into(), kind: kind.into() };
        let meta = Ty::object([("labels", Ty::map(Ty::String)), ("time", Ty::Timestamp)]);
        // A schema inside itself ends at its second appearance by reference.
        let inner = Ty::object([
            ("meta", meta.clone()),
            ("port", Ty::Dyn),
            ("again", Ty::Dyn),
            ("all", Ty::list(Ty::Int)),
            ("open", Ty::Dyn),
        ]);
        let want = Ty::object([
            ("meta", meta),
            ("port", Ty::Dyn),
            ("again", inner),
            ("all", Ty::list(Ty::Int)),
            ("open", Ty::Dyn),
        ]);
        assert_eq!(type_of(&document, &gvk("Thing")), Some(want));
        assert_eq!(type_of(&document, &gvk("Other")), None);
    }
}
