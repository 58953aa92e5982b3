//! Structural schemas: what a CustomResourceDefinition says about its objects.
//!
//! One tree is read from `openAPIV3Schema` once; `prune`, `default`, `validate` and `lists` walk an
//! object beside it, and `typed` makes the `api::schema::Schema` that server-side apply walks.
//! Knows no kind and no IO. Invariant: reading never fails; what a definition may not say is
//! refused when it is created, not here.

mod default;
mod formats;
mod lists;
mod pattern;
mod prune;
mod rules;
mod typed;
mod validate;

use std::collections::BTreeMap;

use api::schema::ListKind;
use serde_json::Value;

pub use default::{default, drop_nulls};
pub use formats::{is_known as is_known_format, matches as matches_format};
pub use lists::check_lists;
pub use pattern::Pattern;
pub use prune::{Root, canonical_numbers, prune};
pub use rules::{
    Findings, RuleProblem, Rules, elements_max, over_rule_limit, over_schema_limit, rule_cost,
    rule_is_transition, rule_problem,
};
pub use typed::typed;
pub(crate) use validate::go_float;
pub use validate::{validate, validate_at};

/// A schema without limits on its values: nothing known, nothing kept.
#[derive(Clone, Debug, Default)]
pub struct Structural {
    /// `object`, `array`, `string`, `integer`, `number`, `boolean`; empty for none.
    pub ty: String,
    pub nullable: bool,
    pub default: Option<Value>,
    pub properties: BTreeMap<String, Structural>,
    pub additional: Additional,
    pub items: Option<Box<Structural>>,
    /// `x-kubernetes-preserve-unknown-fields`
    pub preserve: bool,
    /// `x-kubernetes-embedded-resource`
    pub embedded: bool,
    /// `x-kubernetes-int-or-string`
    pub int_or_string: bool,
    pub list: ListType,
    /// `x-kubernetes-map-type: atomic`
    pub atomic: bool,
    /// `x-kubernetes-validations`, as they stand.
    pub rules: Vec<Value>,
    pub limits: Limits,
}

/// `additionalProperties`
#[derive(Clone, Debug, Default)]
pub enum Additional {
    #[default]
    None,
    /// `true`
    Anything,
    Schema(Box<Structural>),
}

/// `x-kubernetes-list-type` and its map keys.
#[derive(Clone, Debug, Default)]
pub struct ListType {
    /// `None` where the schema does not say: atomic.
    pub kind: Option<ListKind>,
    pub keys: Vec<String>,
}

/// What limits a value.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    pub format: String,
    pub pattern: Option<Pattern>,
    pub minimum: Option<Value>,
    pub maximum: Option<Value>,
    pub exclusive_minimum: bool,
    pub exclusive_maximum: bool,
    pub multiple_of: Option<Value>,
    pub min_length: Option<i64>,
    pub max_length: Option<i64>,
    pub min_items: Option<i64>,
    pub max_items: Option<i64>,
    pub unique_items: bool,
    pub min_properties: Option<i64>,
    pub max_properties: Option<i64>,
    pub required: Vec<String>,
    pub values: Vec<Value>,
    pub all_of: Vec<Structural>,
    pub any_of: Vec<Structural>,
    pub one_of: Vec<Structural>,
    pub not: Option<Box<Structural>>,
}

impl Structural {
    /// Reads a schema from its JSON.
    pub fn read(schema: &Value) -> Self {
        let text = |name: &str| schema[name].as_str().unwrap_or_default().to_owned();
        let flag = |name: &str| schema[name].as_bool().unwrap_or_default();
        let list = |name: &str| schema[name].as_array().map(Vec::as_slice).unwrap_or_default();
        let texts = |name: &str| -> Vec<String> {
            list(name).iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let children = schema["properties"].as_object().into_iter().flatten();
        Self {
            ty: text("type"),
            nullable: flag("nullable"),
            default: schema.get("default").filter(|value| !value.is_null()).cloned(),
            properties: children.map(|(name, child)| (name.clone(), Self::read(child))).collect(),
            additional: match &schema["additionalProperties"] {
                Value::Bool(true) => Additional::Anything,
                child @ Value::Object(_) => Additional::Schema(Box::new(Self::read(child))),
                _ => Additional::None,
            },
            items: schema["items"].is_object().then(|| Box::new(Self::read(&schema["items"]))),
            preserve: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            list: ListType {
                kind: match schema["x-kubernetes-list-type"].as_str() {
                    Some("map") => Some(ListKind::Map),
                    Some("set") => Some(ListKind::Set),
                    Some("atomic") => Some(ListKind::Atomic),
                    _ => None,
                },
                keys: texts("x-kubernetes-list-map-keys"),
            },
            atomic: schema["x-kubernetes-map-type"] == "atomic",
            rules: list("x-kubernetes-validations").to_vec(),
            limits: Limits::read(schema),
        }
    }

    /// Does any part of the schema declare a default?
    pub fn has_defaults(&self) -> bool {
        self.any(&|schema| schema.default.is_some())
    }

    /// Does any part of the schema carry validation rules?
    pub fn has_rules(&self) -> bool {
        self.any(&|schema| !schema.rules.is_empty())
    }

    fn any(&self, test: &dyn Fn(&Self) -> bool) -> bool {
        test(self)
            || self.properties.values().any(|child| child.any(test))
            || self.additional_schema().is_some_and(|child| child.any(test))
            || self.items.as_ref().is_some_and(|child| child.any(test))
    }

    /// The schema of properties that have no own one.
    pub fn additional_schema(&self) -> Option<&Self> {
        match &self.additional {
            Additional::Schema(child) => Some(child),
            _ => None,
        }
    }

    /// The schema of a property.
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.properties.get(name).or_else(|| self.additional_schema())
    }
}

impl Limits {
    fn read(schema: &Value) -> Self {
        let number = |name: &str| schema.get(name).filter(|value| value.is_number()).cloned();
        let int = |name: &str| schema[name].as_i64();
        let flag = |name: &str| schema[name].as_bool().unwrap_or_default();
        let list = |name: &str| schema[name].as_array().map(Vec::as_slice).unwrap_or_default();
        let schemas = |name: &str| list(name).iter().map(Structural::read).collect();
        Self {
            format: schema["format"].as_str().unwrap_or_default().to_owned(),
            pattern: schema["pattern"].as_str().filter(|text| !text.is_empty()).map(Pattern::new),
            minimum: number("minimum"),
            maximum: number("maximum"),
            exclusive_minimum: flag("exclusiveMinimum"),
            exclusive_maximum: flag("exclusiveMaximum"),
            multiple_of: number("multipleOf"),
            min_length: int("minLength"),
            max_length: int("maxLength"),
            min_items: int("minItems"),
            max_items: int("maxItems"),
            unique_items: flag("uniqueItems"),
            min_properties: int("minProperties"),
            max_properties: int("maxProperties"),
            required: list("required")
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            values: list("enum").to_vec(),
            all_of: schemas("allOf"),
            any_of: schemas("anyOf"),
            one_of: schemas("oneOf"),
            not: schema["not"].is_object().then(|| Box::new(Structural::read(&schema["not"]))),
        }
    }
}
