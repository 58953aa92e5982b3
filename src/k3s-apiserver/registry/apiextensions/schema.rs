//! `openAPIV3Schema` of a definition: what of OpenAPI may be used, and how.

use apimachinery::field::{FieldErrors, Path};
use apimachinery::structural::{Structural, elements_max};
use serde_json::{Value, json};

use super::rules;
use super::spec::properties;
use super::structure::{self, Level};
use super::{at, flag, has, key, list, map, text, texts};

/// Refuses what a schema may not say.
pub(super) fn validate(path: &Path, schema: &Value, has_status: bool, errs: &mut FieldErrors) {
    if has_status {
        root_with_status(path, schema, errs);
    }
    if flag(schema, "nullable") {
        errs.forbidden(path.child("nullable"), "nullable cannot be true at the root");
    }
    let mut costs = rules::Costs::default();
    let place = Place { root: true, times: 1 };
    walk(path, schema, place, &mut costs, errs);
    costs.refuse(path, errs);
    let before = errs.0.len();
    structure::invariants(path, schema, Level::Root, errs);
    if errs.0.len() == before {
        structure::completeness(path, schema, errs);
    }
    if errs.0.len() == before {
        structure::defaults(path, schema, errs);
    }
}

fn root_with_status(path: &Path, schema: &Value, errs: &mut FieldErrors) {
    const ALLOWED: [&str; 9] = [
        "description",
        "type",
        "format",
        "title",
        "maximum",
        "properties",
        "required",
        "example",
        "externalDocs",
    ];
    let ty = text(schema, "type");
    if !ty.is_empty() && ty != "object" {
        let detail = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        errs.invalid(path.child("type"), ty, detail);
    }
    let fields = schema.as_object().into_iter().flatten();
    for (name, _) in fields.filter(|(_, value)| !value.is_null()) {
        if !ALLOWED.contains(&name.as_str()) && !name.starts_with("x-kubernetes-") {
            let detail = "only [\"description\" \"example\" \"exclusiveMaximum\" \"exclusiveMinimum\" \"externalDocs\" \"format\" \"items\" \"maxItems\" \"maxLength\" \"maximum\" \"minItems\" \"minLength\" \"minimum\" \"multipleOf\" \"pattern\" \"properties\" \"required\" \"title\" \"type\" \"uniqueItems\" \"x-kubernetes-preserve-unknown-fields\" \"x-kubernetes-validations\"] fields are allowed at the root of the schema if the status subresource is enabled";
            const LIMITS: [&str; 13] = [
                "exclusiveMaximum",
                "exclusiveMinimum",
                "items",
                "maxItems",
                "maxLength",
                "minItems",
                "minLength",
                "minimum",
                "multipleOf",
                "pattern",
                "uniqueItems",
                "enum",
                "default",
            ];
            if !LIMITS.contains(&name.as_str()) {
                errs.invalid(path.clone(), schema.clone(), detail);
                return;
            }
        }
    }
}

/// Where a part of a schema stands.
#[derive(Clone, Copy)]
struct Place {
    root: bool,
    /// How often its values may occur in one object.
    times: u64,
}

fn walk(
    path: &Path,
    schema: &Value,
    place: Place,
    costs: &mut rules::Costs,
    errs: &mut FieldErrors,
) {
    for (name, detail) in [
        ("id", "id is not supported"),
        ("additionalItems", "additionalItems is not supported"),
        ("patternProperties", "patternProperties is not supported"),
        ("definitions", "definitions is not supported"),
        ("dependencies", "dependencies is not supported"),
        ("$ref", "$ref is not supported"),
    ] {
        if has_value(key(schema, name)) {
            errs.forbidden(path.child(name), detail);
        }
    }
    if text(schema, "type") == "null" {
        let detail = "type cannot be set to null, use nullable as an alternative";
        errs.forbidden(path.child("type"), detail);
    }
    if key(schema, "items").is_array() {
        let detail = "items must be a schema object and not an array";
        errs.forbidden(path.child("items"), detail);
    }
    if flag(schema, "uniqueItems") {
        let detail =
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errs.forbidden(path.child("uniqueItems"), detail);
    }
    let additional = key(schema, "additionalProperties");
    let other = additional == false || additional.is_object();
    if other && !map(schema, "properties").is_empty() {
        let detail = "additionalProperties and properties are mutual exclusive";
        errs.forbidden(path.child("additionalProperties"), detail);
    }
    let inside = Place { root: false, ..place };
    let count = elements_max(&Structural::read(schema));
    let elements = Place { times: place.times.saturating_mul(count).min(TIMES_MAX), ..inside };
    if additional.is_object() {
        walk(&path.child("additionalProperties"), additional, elements, costs, errs);
    }
    for (name, child) in properties(schema) {
        walk(&path.child("properties").key(name), child, inside, costs, errs);
    }
    if has(schema, "not") {
        walk(&path.child("not"), key(schema, "not"), inside, costs, errs);
    }
    for kind in ["allOf", "oneOf", "anyOf"] {
        for (n, child) in list(schema, kind).iter().enumerate() {
            walk(&path.child(kind).index(n), child, inside, costs, errs);
        }
    }
    if key(schema, "items").is_object() {
        walk(&path.child("items"), key(schema, "items"), elements, costs, errs);
    }
    extensions(path, schema, errs);
    rules::validate(path, schema, place.root, place.times, costs, errs);
}

/// No body holds more values.
const TIMES_MAX: u64 = 3 * 1024 * 1024;

fn has_value(value: &Value) -> bool {
    !super::super::value::is_zero(value)
}

fn extensions(path: &Path, schema: &Value, errs: &mut FieldErrors) {
    let preserve = "x-kubernetes-preserve-unknown-fields";
    if key(schema, preserve) == false {
        errs.invalid(path.child(preserve), false, "must be true or undefined");
    }
    let (ty, map_type, list_type) = (
        text(schema, "type"),
        key(schema, "x-kubernetes-map-type").as_str(),
        key(schema, "x-kubernetes-list-type").as_str(),
    );
    let must_be = |want: &str, what: &str, errs: &mut FieldErrors| {
        let detail = format!("must be {want} if {what} is specified");
        match ty {
            "" => errs.required(path.child("type"), detail),
            ty => errs.invalid(path.child("type"), ty, detail),
        }
    };
    if let Some(kind) = map_type {
        if ty != "object" {
            must_be("object", "x-kubernetes-map-type", errs);
        }
        if !matches!(kind, "atomic" | "granular") {
            errs.not_supported(path.child("x-kubernetes-map-type"), kind, &["atomic", "granular"]);
        }
    }
    if let Some(kind) = list_type {
        if ty != "array" {
            must_be("array", "x-kubernetes-list-type", errs);
        } else if kind == "set" {
            set_items(&path.child("items"), key(schema, "items"), errs);
        }
        if !matches!(kind, "atomic" | "set" | "map") {
            let path = path.child("x-kubernetes-list-type");
            errs.not_supported(path, kind, &["atomic", "set", "map"]);
        }
    }
    let keys: Vec<&str> = texts(schema, "x-kubernetes-list-map-keys").collect();
    if !keys.is_empty() && list_type != Some("map") {
        let path = path.child("x-kubernetes-list-type");
        let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
        match list_type {
            None => errs.required(path, detail),
            Some(kind) => errs.invalid(path, kind, detail),
        }
    }
    if list_type == Some("map") {
        map_list(path, schema, &keys, errs);
    }
    unique_items(path, schema, list_type, &keys, errs);
}

fn set_items(path: &Path, items: &Value, errs: &mut FieldErrors) {
    let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let (list, map) = (key(items, "x-kubernetes-list-type"), key(items, "x-kubernetes-map-type"));
    match text(items, "type") {
        "array" if !list.is_null() && list != "atomic" => {
            errs.invalid(path.child("x-kubernetes-list-type"), list.clone(), detail);
        }
        "object" if map != "atomic" => {
            errs.invalid(path.child("x-kubernetes-map-type"), map.clone(), detail);
        }
        _ => {}
    }
}

fn map_list(path: &Path, schema: &Value, keys: &[&str], errs: &mut FieldErrors) {
    let keys_path = path.child("x-kubernetes-list-map-keys");
    if keys.is_empty() {
        let detail = "must not be empty if x-kubernetes-list-type is map";
        errs.required(keys_path.clone(), detail);
    }
    let items = key(schema, "items");
    if items.is_null() {
        let detail = "must have a schema if x-kubernetes-list-type is map";
        errs.required(path.child("items"), detail);
        return;
    }
    if items.is_array() {
        let detail = "must only have a single schema if x-kubernetes-list-type is map";
        errs.invalid(path.child("items"), items.clone(), detail);
        return;
    }
    let ty = text(items, "type");
    if ty != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        errs.invalid(path.child("items").child("type"), ty, detail);
        return;
    }
    for (n, name) in keys.iter().enumerate() {
        match map(items, "properties").get(*name) {
            Some(property) => {
                if matches!(text(property, "type"), "array" | "object") {
                    let path = path.child("items").child("properties").key(name).child("type");
                    let detail =
                        "must be a scalar type if parent array's x-kubernetes-list-type is map";
                    errs.invalid(path, ty, detail);
                }
            }
            None => {
                let detail = "entries must all be names of item properties";
                errs.invalid(keys_path.clone(), json!(keys), detail);
            }
        }
        if keys[..n].contains(name) {
            errs.invalid(keys_path.clone(), json!(keys), "must not contain duplicate entries");
        }
    }
}

/// Items of sets and maps must have an identity.
fn unique_items(
    path: &Path,
    schema: &Value,
    list_type: Option<&str>,
    keys: &[&str],
    errs: &mut FieldErrors,
) {
    let Some(kind @ ("set" | "map")) = list_type else { return };
    let (path, items) = (path.child("items"), key(schema, "items"));
    if flag(items, "nullable") {
        let detail = format!("cannot be nullable when x-kubernetes-list-type is {kind}");
        errs.forbidden(path.child("nullable"), detail);
    }
    if kind == "set" {
        return;
    }
    for name in keys {
        let Some(property) = map(items, "properties").get(*name) else { continue };
        let path = path.child("properties").key(name);
        let required = texts(items, "required").any(|required| required == *name);
        if at(property, "default").is_null() && !required {
            let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errs.required(path.child("default"), detail);
        }
        if flag(property, "nullable") {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errs.forbidden(path.child("nullable"), detail);
        }
    }
}
