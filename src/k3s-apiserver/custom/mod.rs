//! Custom resources: kinds that are described by a CustomResourceDefinition at run time.
//!
//! `definition` makes the same `Kind` that the table of built-in resources makes, so every generic
//! verb serves it; `Custom` is its `Strategy`; `controller` keeps the definitions' status and the
//! served kinds up to date; `decode` reads bodies. Invariant: a served kind never changes, a changed
//! definition makes another.

pub mod controller;
pub mod convert;
pub mod decode;
mod definition;
mod plan;
mod print;

use std::sync::LazyLock;

use api::schema::Node;
use apimachinery::field::{ErrorKind, FieldError, FieldErrors};
use apimachinery::jsonpath::JsonPath;
use apimachinery::structural::{
    self, Root, Rules, Structural, canonical_numbers, drop_nulls, prune,
};
use jiff::Timestamp;
use serde_json::Value;

use self::convert::Converter;
use self::print::Column;
use crate::registry::value::text;
use crate::registry::{Cx, Object, ScalePaths, Strategy};

pub use definition::kinds;

/// The condition of a definition whose resources are served.
pub const ESTABLISHED: &str = "Established";
/// The condition of a definition that is being deleted.
pub const TERMINATING: &str = "Terminating";

/// What a definition says about one version of its kind.
pub struct Custom {
    /// `foos.example.com`
    resource: String,
    kind: String,
    api_version: String,
    storage_version: String,
    /// The schema of this version.
    pub schema: Structural,
    /// The schema of the version that objects are stored in.
    storage: Structural,
    rules: Option<Rules>,
    completes_stored: bool,
    /// Who converts between versions, when not only their name changes.
    pub converter: Option<Converter>,
    has_status: bool,
    scale: Option<ScalePaths>,
    columns: Vec<Column>,
    selectable: Vec<(String, JsonPath)>,
    /// What every use is told.
    pub deprecation: Option<String>,
    /// The definition is being deleted: nothing is created any more.
    pub terminating: bool,
    pub singular: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    /// `openAPIV3Schema`, as the definition has it.
    pub published: Value,
}

impl Custom {
    /// Must the stored bytes be completed before anybody sees them?
    pub fn completes_stored(&self) -> bool {
        self.completes_stored
    }

    /// Where a Scale has its numbers, when there is one.
    pub fn scale_paths(&self) -> Option<&ScalePaths> {
        self.scale.as_ref()
    }

    /// Takes out what this version does not know.
    pub fn prune(&self, object: &mut Object) -> Vec<String> {
        canonical_numbers(object);
        prune(object, &self.schema, Root::Object)
    }

    fn check(&self, object: &Object, old: Option<&Object>, errors: &mut FieldErrors) {
        if text(object, "kind") != self.kind {
            let detail = format!("must be {}", self.kind);
            errors.invalid("kind", text(object, "kind"), detail);
        }
        if text(object, "apiVersion") != self.api_version {
            let detail = format!("must be {}", self.api_version);
            errors.invalid("apiVersion", text(object, "apiVersion"), detail);
        }
        let mut found = structural::validate(object, old, &self.schema);
        self.check_scale(object, &mut found);
        structural::check_lists("", object, &self.schema, &mut found);
        if let Some(rules) = &self.rules {
            match found.iter().any(|error| blocks_rules(error.kind)) {
                true => {
                    let detail = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
                    found.push(FieldError::invalid("<nil>", Value::Null, detail));
                }
                false => found.extend(rules.check(object, old, &self.schema).errors),
            }
        }
        errors.0.append(&mut found);
    }

    /// What a Scale could not show.
    fn check_scale(&self, object: &Object, errors: &mut Vec<FieldError>) {
        let Some(paths) = &self.scale else { return };
        for path in [&paths.replicas, &paths.status_replicas] {
            let found = path.iter().try_fold(object, |value, name| value.get(name));
            let Some(found) = found.filter(|value| !value.is_null()) else { continue };
            let shown = format!(".{}", path.join("."));
            match found.as_i64() {
                Some(count) if count < 0 => {
                    let detail = "should be a non-negative integer";
                    errors.push(FieldError::invalid(shown, count, detail));
                }
                Some(count) if count > i64::from(i32::MAX) => {
                    let detail = format!("should be less than or equal to {}", i32::MAX);
                    errors.push(FieldError::invalid(shown, count, detail));
                }
                _ => {}
            }
        }
    }
}

/// Do errors of this kind keep rules from being evaluated: is a value not what its type says?
fn blocks_rules(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NotSupported
            | ErrorKind::Required
            | ErrorKind::TooLong
            | ErrorKind::TooMany
            | ErrorKind::TypeInvalid
    )
}

impl Strategy for Custom {
    fn resource(&self) -> &str {
        &self.resource
    }

    fn default(&self, obj: &mut Object) {
        drop_nulls(obj, &self.schema);
        structural::default(obj, &self.schema);
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        self.check(obj, None, errs);
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        let unchanged = |name: &str| new.get(name) == old.get(name);
        let mut found = FieldErrors::default();
        self.check(new, Some(old), &mut found);
        // Through the status subresource nothing else can be at fault.
        if cx.subresource == "status" && self.has_status && unchanged("spec") {
            found.0.retain(|error| !error.field.starts_with("spec"));
        }
        errs.0.append(&mut found.0);
    }

    fn warnings(&self, _cx: &Cx<'_>, obj: &Object, old: Option<&Object>) -> Vec<String> {
        let (Some(rules), Some(old)) = (&self.rules, old) else { return Vec::new() };
        let findings = rules.check(obj, Some(old), &self.schema);
        findings.warnings.iter().map(ToString::to_string).collect()
    }

    fn selectable_path(&self, field: &str) -> Option<&JsonPath> {
        self.selectable.iter().find(|(name, _)| name == field).map(|(_, path)| path)
    }

    fn scale(&self) -> ScalePaths {
        self.scale.clone().unwrap_or_default()
    }

    fn column_definitions(&self) -> Value {
        print::definitions(&self.columns)
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        print::row(&self.columns, obj, now)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn complete_stored(&self, obj: &mut Object) {
        if self.converter.is_none() || text(obj, "apiVersion") == self.storage_version {
            structural::default(obj, &self.storage);
        }
    }

    fn convert(&self, obj: &mut Object, _from: &str, to: &str) {
        if to == self.storage_version {
            prune(obj, &self.storage, Root::Object);
        }
    }
}

/// The schema of `metadata`, which custom resources share with all others.
pub fn metadata_node() -> Option<Node<'static>> {
    const NAME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    static NODE: LazyLock<Option<Node<'static>>> = LazyLock::new(|| api::schema::definition(NAME));
    *NODE
}
