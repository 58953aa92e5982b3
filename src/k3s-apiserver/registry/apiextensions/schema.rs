//! `openAPIV3Schema` of a definition: what of OpenAPI may be used, and how.

use apimachinery::field::{FieldErrors, Path};
use apimachinery::structural::{Structural, elements_max};
use serde_json::{Value, json};

use super::rules;
use super::spec::properties;
use super::structure;
use super::{at, flag, has, key, list, map, text, texts};

/// Refuses what a schema may not say.
pub(super) fn validate(path: &Path, schema: &Value, has_status: bool, errs: &mut FieldErrors) {
    let before = errs.0.len();
    if has_status {
        root_with_status(path, schema, errs);
    }
    if flag(schema, "nullable") {
        errs.forbidden(path.child("nullable"), "nullable cannot be true at the root");
    }
    let unsupported = structure::unsupported(schema);
    let begun = errs.0.len();
    if unsupported.is_none() {
        structure::validate(path, schema, errs);
        if errs.0.len() == begun {
            structure::defaults(path, schema, errs);
        }
    }
    let mut walk = Walk {
        schema_errors: FieldErrors::default(),
        rule_errors: FieldErrors::default(),
        costs: rules::Costs::default(),
        compile: unsupported.is_none() && errs.0.len() == begun,
    };
    let place = Place { root: true, meta: false, times: 1, defaults: None, old: None, rules: true };
    walk.schema(path, schema, &place);
    errs.0.append(&mut walk.schema_errors.0);
    errs.0.append(&mut walk.rule_errors.0);
    if let (Some(why), true) = (unsupported, errs.0.len() == before) {
        errs.invalid(path, "", why);
    }
    walk.costs.refuse(path, errs);
}

/// The fields of a schema by upstream's names and in its order; true for those that the root of an
/// object with a status may have.
const FIELDS: &[(&str, &str, bool)] = &[
    ("id", "ID", false),
    ("$schema", "Schema", false),
    ("$ref", "Ref", false),
    ("description", "Description", true),
    ("type", "Type", true),
    ("nullable", "Nullable", false),
    ("format", "Format", true),
    ("title", "Title", true),
    ("default", "Default", false),
    ("maximum", "Maximum", true),
    ("exclusiveMaximum", "ExclusiveMaximum", true),
    ("minimum", "Minimum", true),
    ("exclusiveMinimum", "ExclusiveMinimum", true),
    ("maxLength", "MaxLength", true),
    ("minLength", "MinLength", true),
    ("pattern", "Pattern", true),
    ("maxItems", "MaxItems", true),
    ("minItems", "MinItems", true),
    ("uniqueItems", "UniqueItems", true),
    ("multipleOf", "MultipleOf", true),
    ("enum", "Enum", false),
    ("maxProperties", "MaxProperties", false),
    ("minProperties", "MinProperties", false),
    ("required", "Required", true),
    ("items", "Items", true),
    ("allOf", "AllOf", false),
    ("oneOf", "OneOf", false),
    ("anyOf", "AnyOf", false),
    ("not", "Not", false),
    ("properties", "Properties", true),
    ("additionalProperties", "AdditionalProperties", false),
    ("patternProperties", "PatternProperties", false),
    ("dependencies", "Dependencies", false),
    ("additionalItems", "AdditionalItems", false),
    ("definitions", "Definitions", false),
    ("externalDocs", "ExternalDocs", true),
    ("example", "Example", true),
    ("x-kubernetes-preserve-unknown-fields", "XPreserveUnknownFields", true),
    ("x-kubernetes-embedded-resource", "XEmbeddedResource", false),
    ("x-kubernetes-int-or-string", "XIntOrString", false),
    ("x-kubernetes-list-map-keys", "XListMapKeys", false),
    ("x-kubernetes-list-type", "XListType", false),
    ("x-kubernetes-map-type", "XMapType", false),
    ("x-kubernetes-validations", "XValidations", true),
];

/// The status is judged by itself: what the root says besides types would be lost on it.
fn root_with_status(path: &Path, schema: &Value, errs: &mut FieldErrors) {
    let allowed: Vec<&str> =
        FIELDS.iter().filter(|(.., allowed)| *allowed).map(|(_, name, _)| *name).collect();
    for (name, _, allowed_here) in FIELDS.iter().filter(|(name, ..)| has_value(key(schema, name))) {
        let ty = text(schema, "type");
        if *name == "type" && ty != "object" {
            let detail = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
            errs.invalid(path.child("type"), ty, detail);
            return;
        }
        if !allowed_here {
            let detail = format!(
                "only [{}] fields are allowed at the root of the schema if the status subresource \
                 is enabled",
                allowed.join(" ")
            );
            errs.invalid(path.clone(), crate::registry::internal::renamed(schema), detail);
            return;
        }
    }
}

/// Where a part of a schema stands.
#[derive(Clone)]
struct Place {
    root: bool,
    /// Inside of `metadata`, `kind` or `apiVersion` of an object.
    meta: bool,
    /// How often its values may occur in one object.
    times: u64,
    /// Why there may be no defaults.
    defaults: Option<String>,
    /// The first part above whose values cannot be told from others after a change.
    old: Option<Path>,
    /// Whether rules are compiled here.
    rules: bool,
}

/// A walk through a schema; what is wrong with its rules is said last.
struct Walk {
    schema_errors: FieldErrors,
    rule_errors: FieldErrors,
    costs: rules::Costs,
    compile: bool,
}

impl Walk {
    fn schema(&mut self, path: &Path, schema: &Value, place: &Place) {
        let before = self.schema_errors.0.len();
        standard(path, schema, place, &mut self.schema_errors);
        self.children(path, schema, place);
        extensions(path, schema, &mut self.schema_errors);
        rules::complete(path, schema, &mut self.schema_errors);
        if self.compile && place.rules && self.schema_errors.0.len() == before {
            let place = rules::Place {
                root: place.root,
                times: place.times,
                uncorrelated: place.old.as_ref(),
            };
            rules::compiled(path, schema, &place, &mut self.costs, &mut self.rule_errors);
        }
    }

    fn children(&mut self, path: &Path, schema: &Value, place: &Place) {
        let inside = Place { root: false, ..place.clone() };
        let count = elements_max(&Structural::read(schema));
        let times = place.times.saturating_mul(count).min(TIMES_MAX);
        let elements = Place { times, ..inside.clone() };
        let additional = key(schema, "additionalProperties");
        if additional.is_object() {
            let mut elements = elements.clone();
            if place.meta {
                let why = "inside additionalProperties applying to object metadata";
                elements.defaults = Some(why.to_owned());
            }
            self.schema(&path.child("additionalProperties"), additional, &elements);
        }
        let correlated =
            matches!(key(schema, "x-kubernetes-map-type").as_str(), None | Some("granular"));
        for (name, child) in properties(schema) {
            let mut inside = inside.clone();
            if !correlated {
                inside.old.get_or_insert_with(|| path.clone());
            }
            let meta = matches!(name.as_str(), "metadata" | "kind" | "apiVersion");
            if meta && (place.root || flag(schema, "x-kubernetes-embedded-resource")) {
                inside.meta = true;
                if place.root {
                    inside.defaults = Some(format!("in top-level {name}"));
                }
            }
            self.schema(&path.child("properties").key(name), child, &inside);
        }
        let parts = Place { rules: false, ..inside };
        if has(schema, "not") {
            self.schema(&path.child("not"), key(schema, "not"), &parts);
        }
        for kind in ["allOf", "oneOf", "anyOf"] {
            for (n, child) in list(schema, kind).iter().enumerate() {
                self.schema(&path.child(kind).index(n), child, &parts);
            }
        }
        let items = key(schema, "items");
        let mut elements = elements;
        if key(schema, "x-kubernetes-list-type") != "map" {
            elements.old.get_or_insert_with(|| path.clone());
        }
        if items.is_object() {
            self.schema(&path.child("items"), items, &elements);
        }
        for (n, child) in items.as_array().into_iter().flatten().enumerate() {
            self.schema(&path.child("items").index(n), child, &elements);
        }
    }
}

/// What OpenAPI has and definitions may not.
fn standard(path: &Path, schema: &Value, place: &Place, errs: &mut FieldErrors) {
    let ty = text(schema, "type");
    if !ty.is_empty() && !TYPES.contains(&ty) {
        errs.not_supported(path.child("type"), ty, TYPES);
    }
    if let (Some(why), false) = (&place.defaults, key(schema, "default").is_null()) {
        errs.forbidden(path.child("default"), format!("must not be set {why}"));
    }
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
    if ty == "null" {
        let detail = "type cannot be set to null, use nullable as an alternative";
        errs.forbidden(path.child("type"), detail);
    }
    if key(schema, "items").is_array() {
        let detail = "items must be a schema object and not an array";
        errs.forbidden(path.child("items"), detail);
    }
    if place.meta && flag(schema, "x-kubernetes-embedded-resource") {
        let path = path.child("x-kubernetes-embedded-resource");
        errs.forbidden(path, "must not be used inside of resource meta");
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
}

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
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

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schema: Value, want: &[&str]) {
        let mut errs = FieldErrors::default();
        validate(&Path::new("s"), &schema, true, &mut errs);
        let found: Vec<String> = errs.0.iter().map(ToString::to_string).collect();
        assert_eq!(found, want, "{schema}");
    }

    #[test]
    fn structure_is_judged_before_the_rest_and_rules_last() {
        check(json!({"type": "object", "properties": {"a": {"type": "string"}}}), &[]);
        check(
            json!({"type": "object", "properties": {"a": {}, "b": {"type": "array"}, "c": {
                "type": "thing", "x-kubernetes-validations": [{"rule": "self"}]}}}),
            &[
                "s.properties[a].type: Required value: must not be empty for specified object fields",
                "s.properties[b].items: Required value: must be specified",
                "s.properties[c].type: Unsupported value: \"thing\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
            ],
        );
        check(
            json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "(",
                "anyOf": [{"title": "t"}]}, "metadata": {"type": "object", "required": ["name"]}}}),
            &[
                "s.properties[a].anyOf[0].title: Forbidden: must be empty to be structural",
                "s.properties[a].pattern: Invalid value: \"(\": must be a valid regular expression, but isn't: error parsing regexp: missing closing ): `(`",
                "s.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
            ],
        );
        check(
            json!({"type": "object", "properties": {"a": {"$ref": "x", "type": "string"}}}),
            &["s.properties[a].$ref: Forbidden: $ref is not supported"],
        );
        check(
            json!({"type": "object", "properties": {"metadata": {"type": "object", "default": {}}}}),
            &["s.properties[metadata].default: Forbidden: must not be set in top-level metadata"],
        );
    }

    #[test]
    fn rules_on_items_cannot_ask_for_what_was() {
        check(
            json!({"type": "object", "properties": {"l": {"type": "array", "maxItems": 2, "items": {
                "type": "integer", "x-kubernetes-validations": [
                    {"rule": "self > oldSelf"}, {"rule": "self > 0", "optionalOldSelf": true}]}}}}),
            &[
                "s.properties[l].items.x-kubernetes-validations[0].rule: Invalid value: \"self > oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema within s.properties[l]",
                "s.properties[l].items.x-kubernetes-validations[1].optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule",
            ],
        );
    }
}
