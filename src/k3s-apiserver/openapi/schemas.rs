//! Types as OpenAPI schemas, in the two dialects.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use api::schema::{Field, ListKind, Node, Omit, PatchStrategy, Type, TypeId};

/// The version of OpenAPI, which decides how types refer to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    V2,
    V3,
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const APIEXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.";

/// The published name of a type that has a definition of its own.
pub(super) fn name(node: Node<'_>) -> Option<String> {
    let name = match node.ty() {
        Type::Object { .. } => return Some(node.name().to_owned()),
        Type::Quantity => "io.k8s.apimachinery.pkg.api.resource.Quantity".to_owned(),
        Type::IntOrString => "io.k8s.apimachinery.pkg.util.intstr.IntOrString".to_owned(),
        Type::RawExtension => "io.k8s.apimachinery.pkg.runtime.RawExtension".to_owned(),
        Type::Time => format!("{META}Time"),
        Type::MicroTime => format!("{META}MicroTime"),
        Type::FieldsV1 => format!("{META}FieldsV1"),
        Type::ObjectOr { other, .. } => match other {
            api::schema::Other::Objects => format!("{APIEXTENSIONS}JSONSchemaPropsOrArray"),
            api::schema::Other::Bool => format!("{APIEXTENSIONS}JSONSchemaPropsOrBool"),
            api::schema::Other::Strings => format!("{APIEXTENSIONS}JSONSchemaPropsOrStringArray"),
        },
        // The two definitions that are free JSON; an interned `Any` has a higher id than both.
        Type::Any => match api::schema::definition(&format!("{APIEXTENSIONS}JSONSchemaProps")) {
            Some(props) if props.child("default").map(|json| json.id) == Some(node.id) => {
                format!("{APIEXTENSIONS}JSON")
            }
            _ => return None,
        },
        _ => return None,
    };
    Some(name)
}

/// All types that a type refers to, itself included.
pub(super) fn reach(node: Node<'_>, found: &mut BTreeSet<u16>) {
    if !found.insert(node.id.0) {
        return;
    }
    for field in node.fields() {
        reach(node.schema.node(field.ty), found);
    }
    if let Some(element) = node.element() {
        reach(element, found);
    }
    if let Type::ObjectOr { object, .. } = node.ty() {
        reach(node.schema.node(object), found);
    }
}

/// Whether `metav1.Patch` is among the bodies: free JSON with a name, which no field refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bodies {
    WithPatch,
    NoPatch,
}

/// The named schemas of a set of types.
pub(super) fn schemas(
    types: &BTreeSet<u16>,
    bodies: Bodies,
    dialect: Dialect,
) -> Map<String, Value> {
    let schema = api::schema::builtin();
    let mut out = Map::new();
    if bodies == Bodies::WithPatch {
        out.insert(format!("{META}Patch"), json!({"type": "object"}));
    }
    for id in types {
        let node = schema.node(TypeId(*id));
        if let Some(name) = name(node) {
            let definition = definition(node, &name, dialect);
            out.insert(name, definition);
        }
    }
    out
}

/// The schema of a type that has a name.
fn definition(node: Node<'_>, name: &str, dialect: Dialect) -> Value {
    match (node.ty(), dialect) {
        (Type::Object { .. }, _) => object(node, name, dialect),
        (Type::Quantity, Dialect::V3) => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        (Type::Quantity, Dialect::V2) => json!({"type": "string"}),
        (Type::IntOrString, Dialect::V3) => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        (Type::IntOrString, Dialect::V2) => json!({"type": "string", "format": "int-or-string"}),
        (Type::Time | Type::MicroTime, _) => json!({"type": "string", "format": "date-time"}),
        (Type::FieldsV1 | Type::RawExtension, _) => json!({"type": "object"}),
        _ => json!({}),
    }
}

fn object(node: Node<'_>, name: &str, dialect: Dialect) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in node.fields() {
        let key = node.schema.text(field.name);
        properties.insert(key.to_owned(), property(node, field, dialect));
        if field.required {
            required.push(key);
        }
    }
    let mut map = Map::new();
    map.insert("type".to_owned(), "object".into());
    if !properties.is_empty() {
        map.insert("properties".to_owned(), properties.into());
    }
    if !required.is_empty() {
        map.insert("required".to_owned(), json!(required));
    }
    if let Type::Object { atomic: true, .. } = node.ty() {
        map.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
    }
    let kinds = kinds_of(node, name);
    if !kinds.is_empty() {
        map.insert("x-kubernetes-group-version-kind".to_owned(), kinds.into());
    }
    Value::Object(map)
}

/// Group, version and kind as the extension shows them.
pub(super) fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

fn kinds_of(node: Node<'_>, name: &str) -> Vec<Value> {
    let everywhere = name.strip_prefix(META);
    if let Some(kind @ ("DeleteOptions" | "WatchEvent")) = everywhere {
        let mut seen = BTreeSet::new();
        for resource in api::resources::all() {
            seen.insert((resource.group, resource.version));
        }
        return seen.into_iter().map(|(group, version)| gvk(group, version, kind)).collect();
    }
    let text = |name| node.schema.text(name);
    let own = api::schema::kinds().iter().filter(|kind| kind.ty == node.id);
    own.map(|kind| gvk(text(kind.group), text(kind.version), text(kind.kind))).collect()
}

fn property(owner: Node<'_>, field: &Field, dialect: Dialect) -> Value {
    let node = owner.schema.node(field.ty);
    let mut map = inline(node, dialect);
    let default = match (field.omit, node.ty()) {
        (Omit::Never, Type::Object { .. }) => Some(json!({})),
        (Omit::Never, Type::String) => Some(json!("")),
        (Omit::Never, Type::Int32 | Type::Int64 | Type::Double) => Some(json!(0)),
        (Omit::Never, Type::Bool) => Some(json!(false)),
        _ => super::enums::default(owner.name(), owner.schema.text(field.name)),
    };
    if let (Some(default), Dialect::V3) = (default, dialect) {
        if let Some(reference) = map.remove("$ref") {
            map.insert("allOf".to_owned(), json!([{"$ref": reference}]));
        }
        map.insert("default".to_owned(), default);
    }
    let strategy = match field.patch {
        PatchStrategy::Replace => None,
        PatchStrategy::Merge => Some("merge"),
        PatchStrategy::RetainKeys => Some("retainKeys"),
        PatchStrategy::MergeRetainKeys => Some("merge,retainKeys"),
    };
    if let Some(strategy) = strategy {
        map.insert("x-kubernetes-patch-strategy".to_owned(), strategy.into());
    }
    let key = owner.schema.text(field.merge_key);
    if !key.is_empty() {
        map.insert("x-kubernetes-patch-merge-key".to_owned(), key.into());
    }
    if map.len() > 1
        && dialect == Dialect::V3
        && let Some(reference) = map.remove("$ref")
    {
        map.insert("allOf".to_owned(), json!([{"$ref": reference}]));
    }
    Value::Object(map)
}

/// A reference to a named type.
pub(super) fn reference(name: &str, dialect: Dialect) -> Value {
    let root = match dialect {
        Dialect::V2 => "#/definitions/",
        Dialect::V3 => "#/components/schemas/",
    };
    json!({"$ref": format!("{root}{name}")})
}

/// A type where it is used: a reference for named types, else the type itself.
fn inline(node: Node<'_>, dialect: Dialect) -> Map<String, Value> {
    if let Some(name) = name(node) {
        return match reference(&name, dialect) {
            Value::Object(map) => map,
            _ => Map::new(),
        };
    }
    let element = || node.element().map(|element| Value::Object(inline(element, dialect)));
    let value = match node.ty() {
        Type::String => json!({"type": "string"}),
        Type::Bool => json!({"type": "boolean"}),
        Type::Int32 => json!({"type": "integer", "format": "int32"}),
        Type::Int64 => json!({"type": "integer", "format": "int64"}),
        Type::Double => json!({"type": "number", "format": "double"}),
        Type::Bytes => json!({"type": "string", "format": "byte"}),
        Type::Duration => json!({"type": "string"}),
        Type::List { kind, keys, .. } => {
            let mut list = json!({"type": "array", "items": element()});
            let (name, keys) = (list_type(kind), node.schema.text(keys));
            if let Value::Object(map) = &mut list {
                map.insert("x-kubernetes-list-type".to_owned(), name.into());
                if !keys.is_empty() {
                    let keys = keys.split(',').collect::<Vec<_>>();
                    map.insert("x-kubernetes-list-map-keys".to_owned(), json!(keys));
                }
            }
            list
        }
        Type::Map { atomic, .. } => {
            let mut map = json!({"type": "object", "additionalProperties": element()});
            if let (true, Value::Object(map)) = (atomic, &mut map) {
                map.insert("x-kubernetes-map-type".to_owned(), "atomic".into());
            }
            map
        }
        _ => json!({}),
    };
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn list_type(kind: ListKind) -> &'static str {
    match kind {
        ListKind::Atomic => "atomic",
        ListKind::Set => "set",
        ListKind::Map => "map",
    }
}
