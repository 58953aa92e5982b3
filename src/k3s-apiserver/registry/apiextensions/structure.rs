//! What makes a schema structural: every value has a type outside of `allOf` and its like.

use apimachinery::field::{FieldErrors, Path};
use apimachinery::structural::{Pattern, Root, Structural, check_lists, prune, validate_at};
use serde_json::Value;

use super::super::value::is_zero;
use super::spec::properties;
use super::{flag, has, key, list, map, text};

/// Where a schema stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Root,
    Item,
    Field,
}

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";

/// What a structure cannot say at all; the text of the first one.
pub(super) fn unsupported(schema: &Value) -> Option<String> {
    const FIELDS: [(&str, &str); 7] = [
        ("id", "id"),
        ("$schema", "schema"),
        ("$ref", "$ref"),
        ("patternProperties", "patternProperties"),
        ("dependencies", "dependencies"),
        ("additionalItems", "additionalItems"),
        ("definitions", "definitions"),
    ];
    if let Some((_, shown)) = FIELDS.iter().find(|(name, _)| !is_zero(key(schema, name))) {
        return Some(format!("OpenAPIV3Schema '{shown}' is not supported"));
    }
    if key(schema, PRESERVE) == false {
        return Some(format!("internal error: '{PRESERVE}' must be true or undefined"));
    }
    if key(schema, "items").is_array() {
        return Some("OpenAPIV3Schema 'items' must be a schema, but is an array".to_owned());
    }
    let parts = ["allOf", "anyOf", "oneOf"].into_iter().flat_map(|kind| list(schema, kind));
    let single = ["not", "items", "additionalProperties"].into_iter().map(|name| key(schema, name));
    let children = parts.chain(single).chain(properties(schema).map(|(_, child)| child));
    children.filter(|child| child.is_object()).find_map(unsupported)
}

/// Refuses what is not structural; the errors are sorted.
pub(super) fn validate(path: &Path, schema: &Value, errs: &mut FieldErrors) {
    let before = errs.0.len();
    invariants(path, schema, Level::Root, errs);
    parts_complete(path, path, schema, schema, errs);
    errs.0[before..].sort_by_key(ToString::to_string);
}

fn invariants(path: &Path, schema: &Value, level: Level, errs: &mut FieldErrors) {
    let items = key(schema, "items");
    if items.is_object() {
        invariants(&path.child("items"), items, Level::Item, errs);
    }
    for (name, child) in properties(schema) {
        invariants(&path.child("properties").key(name), child, Level::Field, errs);
    }
    let additional = key(schema, "additionalProperties");
    if level == Level::Root && !additional.is_null() {
        errs.forbidden(path.child("additionalProperties"), "must not be used at the root");
    }
    if additional.is_object() {
        invariants(&path.child("additionalProperties"), additional, Level::Field, errs);
    }
    let ty = text(schema, "type");
    if ty == "array" && items.is_null() {
        errs.required(path.child("items"), "must be specified");
    }
    let (any, embedded) = (flag(schema, INT_OR_STRING), flag(schema, EMBEDDED));
    for name in [PRESERVE, EMBEDDED] {
        if any && flag(schema, name) {
            let detail = format!("must be false if {INT_OR_STRING} is true");
            errs.invalid(path.child(name), true, detail);
        }
    }
    values(path, schema, errs);
    if embedded && ty != "object" {
        let detail = format!("must be object if {EMBEDDED} is true");
        match ty {
            "" => errs.required(path.child("type"), detail),
            ty => errs.invalid(path.child("type"), ty, detail),
        }
    } else if ty.is_empty() && !flag(schema, PRESERVE) && !any {
        let detail = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errs.required(path.child("type"), detail);
    }
    if embedded && !additional.is_null() {
        let detail = format!("must not be used if {EMBEDDED} is set");
        errs.forbidden(path.child("additionalProperties"), detail);
    }
    if level == Level::Root && !ty.is_empty() && ty != "object" {
        errs.invalid(path.child("type"), ty, "must be object at the root");
    }
    if level == Level::Root || embedded {
        resource(path, schema, level, errs);
    }
    if embedded && !flag(schema, PRESERVE) && map(schema, "properties").is_empty() {
        let detail = format!("must not be empty if {EMBEDDED} is true without {PRESERVE}");
        errs.required(path.child("properties"), detail);
    }
}

/// The fields that every object has.
fn resource(path: &Path, schema: &Value, level: Level, errs: &mut FieldErrors) {
    let children = map(schema, "properties");
    let check = |name: &str, want: &str, errs: &mut FieldErrors| {
        if let Some(child) = children.get(name)
            && text(child, "type") != want
        {
            let path = path.child("properties").key(name).child("type");
            errs.invalid(path, text(child, "type"), format!("must be {want}"));
        }
    };
    check("kind", "string", errs);
    check("apiVersion", "string", errs);
    check("metadata", "object", errs);
    if level == Level::Root
        && let Some(meta) = children.get("metadata")
    {
        let names = |name: &String| matches!(name.as_str(), "name" | "generateName");
        let only_names = map(meta, "properties").keys().all(names);
        let more = |(name, value): (&String, &Value)| match name.as_str() {
            "type" | "default" | "example" | "externalDocs" => false,
            "properties" => !only_names,
            _ => !is_zero(value),
        };
        if meta.as_object().into_iter().flatten().any(more) {
            let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
            errs.forbidden(path.child("properties").key("metadata"), detail);
        }
    }
}

/// Is this the way to say `x-kubernetes-int-or-string` in OpenAPI?
fn is_int_or_string(alternatives: &[Value]) -> bool {
    matches!(alternatives, [a, b] if text(a, "type") == "integer" && text(b, "type") == "string")
}

/// The alternatives of a schema, which may only limit values.
fn values(path: &Path, schema: &Value, errs: &mut FieldErrors) {
    let any = flag(schema, INT_OR_STRING);
    for kind in ["allOf", "anyOf", "oneOf"] {
        let parts = list(schema, kind);
        if kind == "anyOf" && any && is_int_or_string(parts) {
            continue;
        }
        for (n, part) in parts.iter().enumerate() {
            let path = path.child(kind).index(n);
            let first = kind == "allOf" && n == 0 && any;
            if first && is_int_or_string(list(part, "anyOf")) {
                continue;
            }
            nested(&path, part, errs);
        }
    }
    if has(schema, "not") {
        nested(&path.child("not"), key(schema, "not"), errs);
    }
    let pattern = text(schema, "pattern");
    if let Some(why) = Pattern::problem(pattern) {
        let detail = format!("must be a valid regular expression, but isn't: {why}");
        errs.invalid(path.child("pattern"), pattern, detail);
    }
}

fn nested(path: &Path, part: &Value, errs: &mut FieldErrors) {
    values(path, part, errs);
    if key(part, "items").is_object() {
        nested(&path.child("items"), key(part, "items"), errs);
    }
    for (name, child) in properties(part) {
        nested(&path.child("properties").key(name), child, errs);
    }
    if map(part, "properties").contains_key("metadata") {
        let path = path.child("properties").key("metadata");
        errs.forbidden(path, "must not be specified in a nested context");
    }
    for (name, want) in [
        ("type", "empty"),
        ("additionalProperties", "undefined"),
        ("default", "undefined"),
        ("title", "empty"),
        ("description", "empty"),
        ("nullable", "false"),
        (PRESERVE, "false"),
        (EMBEDDED, "false"),
        (INT_OR_STRING, "false"),
        ("x-kubernetes-list-map-keys", "empty"),
        ("x-kubernetes-list-type", "undefined"),
        ("x-kubernetes-map-type", "undefined"),
        ("x-kubernetes-validations", "empty"),
    ] {
        let value = key(part, name);
        if !is_zero(value) || (name == "default" && !value.is_null()) {
            errs.forbidden(path.child(name), format!("must be {want} to be structural"));
        }
    }
}

/// Refuses limits at the root on fields that the structure does not have.
fn parts_complete(
    path: &Path,
    part_path: &Path,
    schema: &Value,
    part: &Value,
    errs: &mut FieldErrors,
) {
    for kind in ["allOf", "anyOf", "oneOf"] {
        for (n, part) in list(part, kind).iter().enumerate() {
            part_complete(path, &part_path.child(kind).index(n), schema, part, errs);
        }
    }
    if has(part, "not") {
        part_complete(path, &part_path.child("not"), schema, key(part, "not"), errs);
    }
}

fn part_complete(
    path: &Path,
    part_path: &Path,
    schema: &Value,
    part: &Value,
    errs: &mut FieldErrors,
) {
    let items = key(part, "items");
    if items.is_object() {
        let (path, part_path) = (path.child("items"), part_path.child("items"));
        match key(schema, "items") {
            Value::Null => errs.required(path, format!("because it is defined in {part_path}")),
            found => part_complete(&path, &part_path, found, items, errs),
        }
    }
    for (name, child) in properties(part) {
        let step = |path: &Path| path.child("properties").key(name);
        let (path, part_path) = (step(path), step(part_path));
        match map(schema, "properties").get(name) {
            Some(found) => part_complete(&path, &part_path, found, child, errs),
            None => errs.required(path, format!("because it is defined in {part_path}")),
        }
    }
    parts_complete(path, part_path, schema, part, errs);
}

/// Refuses defaults that their own schema would refuse.
pub(super) fn defaults(path: &Path, schema: &Value, errs: &mut FieldErrors) {
    if let Some(default) = schema.get("default").filter(|default| !default.is_null()) {
        let path = path.child("default");
        let structural = Structural::read(schema);
        let mut pruned = default.clone();
        let root = if structural.embedded { Root::Object } else { Root::Value };
        prune(&mut pruned, &structural, root);
        if pruned != *default {
            errs.invalid(path.clone(), default.clone(), "must not have unknown fields");
        }
        let place = path.to_string();
        let mut found = validate_at(&place, default, None, &structural);
        check_lists(&place, default, &structural, &mut found);
        errs.0.append(&mut found);
    }
    for (name, child) in properties(schema) {
        defaults(&path.child("properties").key(name), child, errs);
    }
    for name in ["items", "additionalProperties"] {
        if key(schema, name).is_object() {
            defaults(&path.child(name), key(schema, name), errs);
        }
    }
}
