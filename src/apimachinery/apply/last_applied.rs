//! The annotation of client-side apply beside server-side apply.
//!
//! Invariant: only kubectl's own manager touches it, so both ways of applying can be mixed.

use serde_json::Value;

use super::{FieldManager, Set, compare, shape::Ty};

/// kubectl's manager for server-side apply.
pub(super) const KUBECTL: &str = "kubectl";
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// All annotations of an object together, in bytes.
const ANNOTATIONS_LIMIT: usize = 256 * 1024;

fn annotation(object: &Value) -> Option<&str> {
    let annotations = object.get("metadata")?.get("annotations")?;
    annotations.get(ANNOTATION)?.as_str().filter(|text| !text.is_empty())
}

/// The fields that client-side apply wrote and that still have its values: taking those is no
/// conflict.
pub(super) fn allowed_conflicts(fields: &FieldManager<'_>, live: &Value) -> Option<Set> {
    let last: Value = serde_json::from_str(annotation(live)?).ok()?;
    if last.get("apiVersion").and_then(Value::as_str) != Some(fields.api_version) {
        return None;
    }
    let ty = Ty::Node(fields.node);
    super::validate::validate(ty, &last, super::Duplicates::Refused).ok()?;
    let changes = compare::compare(ty, &last, live).ok()?;
    let mut set = compare::field_set(ty, &last);
    set.subtract(&changes.modified);
    set.subtract(&changes.added);
    set.subtract(&changes.removed);
    Some(set)
}

/// Writes the applied configuration into the annotation of an object that has one.
pub(super) fn sync(object: &mut Value, config: &Value) {
    if annotation(object).is_none() {
        return;
    }
    let mut config = config.clone();
    if let Some(Value::Object(annotations)) =
        config.get_mut("metadata").and_then(|metadata| metadata.get_mut("annotations"))
    {
        annotations.remove(ANNOTATION);
    }
    let text = format!("{config}\n");
    let annotations = object.get_mut("metadata").and_then(|m| m.get_mut("annotations"));
    let Some(Value::Object(annotations)) = annotations else { return };
    annotations.remove(ANNOTATION);
    let size: usize =
        annotations.iter().map(|(key, v)| key.len() + v.as_str().map_or(0, str::len)).sum();
    if size + ANNOTATION.len() + text.len() <= ANNOTATIONS_LIMIT {
        annotations.insert(ANNOTATION.to_owned(), Value::String(text));
    }
}
