//! OpenAPI of custom resources: their own schemas, with what every object has around them.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::descriptions::describe;
use super::paths::{self, Described, DescribedSub};
use super::schemas::{self, Bodies, Dialect, gvk, reach, reference};
use super::v3;
use crate::kinds::Kind;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const SCALE: &str = "io.k8s.api.autoscaling.v1.Scale";
const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const METADATA: &str = "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";
const LIST_METADATA: &str = "Standard list metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

/// The document of a group version that holds custom kinds only.
pub fn document(group: &str, version: &str, kinds: &[Arc<Kind>]) -> Value {
    let mut schemas = shared(Dialect::V3);
    describe(&mut schemas);
    let described: Vec<Described<'_>> = kinds.iter().map(|kind| described(kind)).collect();
    for kind in kinds {
        add(&mut schemas, kind, Dialect::V3);
    }
    v3::wrap(schemas, paths::paths(group, version, &described, Dialect::V3))
}

/// Changes when the document of these kinds does.
pub fn fingerprint(kinds: &[Arc<Kind>]) -> String {
    let mut schemas = Map::new();
    for kind in kinds {
        add(&mut schemas, kind, Dialect::V3);
    }
    let subs = kinds.iter().map(|kind| kind.subresources.len().to_string());
    let text = format!("{} {}", Value::Object(schemas), subs.collect::<Vec<_>>().join(" "));
    v3::hash(text.as_bytes())
}

/// Adds the custom kinds to the document of version 2.
pub fn extend_v2(document: &mut Value, kinds: &[Arc<Kind>]) {
    if let Some(definitions) = document["definitions"].as_object_mut() {
        for kind in kinds {
            add(definitions, kind, Dialect::V2);
        }
    }
    let Some(all) = document["paths"].as_object_mut() else { return };
    for group in kinds.chunk_by(|a, b| (&a.group, &a.version) == (&b.group, &b.version)) {
        let described: Vec<Described<'_>> = group.iter().map(|kind| described(kind)).collect();
        let (group, version) = (&group[0].group, &group[0].version);
        all.extend(paths::paths(group, version, &described, Dialect::V2));
    }
}

/// `com.example.gold.v1.Kind`
fn published(kind: &Kind, name: &str) -> String {
    let mut parts: Vec<&str> = kind.group.split('.').collect();
    parts.reverse();
    format!("{}.{}.{name}", parts.join("."), kind.version)
}

fn described(kind: &Kind) -> Described<'_> {
    let subresources = kind.subresources.iter().map(|sub| DescribedSub {
        name: &sub.name,
        group: &sub.group,
        version: &sub.version,
        kind: &sub.kind,
        verbs: sub.verbs.iter().map(String::as_str).collect(),
        own: match sub.name.as_str() {
            "scale" => SCALE.to_owned(),
            _ => published(kind, &kind.kind),
        },
    });
    Described {
        group: &kind.group,
        version: &kind.version,
        plural: &kind.plural,
        kind: &kind.kind,
        namespaced: kind.namespaced,
        verbs: kind.verbs.iter().map(String::as_str).filter(|verb| *verb != "watch").collect(),
        own: published(kind, &kind.kind),
        list: published(kind, &kind.list_kind),
        subresources: subresources.collect(),
        custom: true,
    }
}

/// The definitions that every custom kind refers to.
fn shared(dialect: Dialect) -> Map<String, Value> {
    let mut types = BTreeSet::new();
    let names = ["APIResourceList", "DeleteOptions", "ListMeta", "ObjectMeta", "Status"];
    let names = names.iter().map(|name| format!("{META}{name}"));
    for node in names.chain([SCALE.to_owned()]).filter_map(|name| api::schema::definition(&name)) {
        reach(node, &mut types);
    }
    schemas::schemas(&types, Bodies::WithPatch, dialect)
}

fn add(schemas: &mut Map<String, Value>, kind: &Kind, dialect: Dialect) {
    let Some(custom) = kind.custom() else { return };
    let own = published(kind, &kind.kind);
    let meta = |name: &str, text: &str| {
        let reference = reference(&format!("{META}{name}"), dialect);
        match dialect {
            Dialect::V3 => json!({"allOf": [reference], "description": text}),
            Dialect::V2 => json!({"$ref": reference["$ref"], "description": text}),
        }
    };
    let properties = json!({
        "apiVersion": {"type": "string", "description": API_VERSION},
        "kind": {"type": "string", "description": KIND},
        "metadata": meta("ObjectMeta", METADATA),
    });
    let mut schema = whole(&custom.published, properties, dialect);
    schema["x-kubernetes-group-version-kind"] =
        json!([gvk(&kind.group, &kind.version, &kind.kind)]);
    let list = json!({
        "description": format!("{} is a list of {}", kind.list_kind, kind.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": API_VERSION},
            "items": {
                "description": format!("List of {}. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md", kind.plural),
                "type": "array",
                "items": reference(&own, dialect),
            },
            "kind": {"type": "string", "description": KIND},
            "metadata": meta("ListMeta", LIST_METADATA),
        },
        "x-kubernetes-group-version-kind": [gvk(&kind.group, &kind.version, &kind.list_kind)],
    });
    schemas.insert(own, schema);
    schemas.insert(published(kind, &kind.list_kind), list);
}

/// A published schema with the properties of every object. In version 2, naming some properties of
/// an object that takes any would make clients refuse the others.
fn whole(published: &Value, properties: Value, dialect: Dialect) -> Value {
    if dialect == Dialect::V2 && published["x-kubernetes-preserve-unknown-fields"] == true {
        return json!({"type": "object"});
    }
    let mut schema = published.clone();
    if dialect == Dialect::V2 {
        simplify(&mut schema);
    }
    if let Value::Object(properties) = properties {
        for (name, property) in properties {
            schema["properties"][name] = property;
        }
    }
    schema
}

/// Takes out what version 2 of OpenAPI does not know.
fn simplify(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    let open = map.get("x-kubernetes-preserve-unknown-fields").is_some_and(|open| open == true);
    let nullable = map.get("nullable").is_some_and(|nullable| nullable == true);
    for name in ["allOf", "anyOf", "oneOf", "not", "nullable", "default"] {
        map.remove(name);
    }
    if nullable {
        map.remove("type");
    }
    if nullable || open {
        for name in ["items", "properties", "additionalProperties"] {
            map.remove(name);
        }
    }
    if let Some(children) = map.get_mut("properties").and_then(Value::as_object_mut) {
        children.values_mut().for_each(simplify);
    }
    for name in ["items", "additionalProperties"] {
        if let Some(child) = map.get_mut(name) {
            simplify(child);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_object_has_no_properties_in_version_2() {
        let check = |published: Value, dialect, want: Value| {
            assert_eq!(whole(&published, json!({"kind": {"type": "string"}}), dialect), want);
        };
        let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"a": {"type": "string"}}});
        check(open.clone(), Dialect::V2, json!({"type": "object"}));
        let mut with_kind = open.clone();
        with_kind["properties"]["kind"] = json!({"type": "string"});
        check(open, Dialect::V3, with_kind);
        let closed = json!({"type": "object", "nullable": false});
        let want = json!({"type": "object", "properties": {"kind": {"type": "string"}}});
        check(closed, Dialect::V2, want);
    }
}
