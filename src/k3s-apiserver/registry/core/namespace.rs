//! Namespaces: the finalizer, the phase and the label with their name.

use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::qualified_problems;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::table::{age, column, name};
use crate::registry::validate::{problems, spec};
use crate::registry::value::{at, list, map, object, text};
use crate::registry::{AGE, Column, Cx, Deletion, NAME, NameRule, Object, Selectable, Strategy};

const NAME_LABEL: &str = "kubernetes.io/metadata.name";

#[derive(Debug)]
pub(super) struct Namespace;

impl Strategy for Namespace {
    fn resource(&self) -> &'static str {
        "namespaces"
    }

    fn default(&self, obj: &mut Object) {
        let name = text(obj, "metadata.name").to_owned();
        if !name.is_empty() {
            object(obj, "metadata.labels").insert(NAME_LABEL.to_owned(), json!(name));
        }
    }

    fn prepare_for_create(&self, _cx: &Cx<'_>, obj: &mut Object) {
        obj["status"] = json!({"phase": "Active"});
        let mut finalizers = list(obj, "spec.finalizers").to_vec();
        if !finalizers.iter().any(|f| f == "kubernetes") {
            finalizers.push(json!("kubernetes"));
        }
        crate::registry::value::set(obj, "spec.finalizers", finalizers);
    }

    fn prepare_for_update(&self, cx: &Cx<'_>, new: &mut Object, old: &Object) {
        match cx.subresource {
            "finalize" => new["status"] = old["status"].clone(),
            "" => {
                new["spec"] = old["spec"].clone();
                new["status"] = old["status"].clone();
            }
            _ => {}
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        security_labels(errs, obj, None);
        finalizers(errs, obj, |_| spec().child("finalizers"));
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        if cx.subresource == "status" {
            let terminating = !at(new, "metadata.deletionTimestamp").is_null();
            let phase = text(new, "status.phase");
            let path = Path::new("status").child("Phase");
            if terminating && phase != "Terminating" {
                errs.invalid(
                    path,
                    phase,
                    "may only be 'Terminating' if `deletionTimestamp` is not empty",
                );
            } else if !terminating && phase != "Active" {
                errs.invalid(path, phase, "may only be 'Active' if `deletionTimestamp` is empty");
            }
            return;
        }
        security_labels(errs, new, Some(old));
        if cx.subresource == "finalize" {
            finalizers(errs, new, |n| spec().child("finalizers").index(n));
        }
    }

    fn selectable_fields(&self) -> &'static [Selectable] {
        const FIELDS: &[Selectable] = &[
            Selectable { name: "status.phase", path: "status.phase", zero: "" },
            Selectable { name: "name", path: "metadata.name", zero: "" },
        ];
        FIELDS
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, column("Status"), AGE];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        vec![name(obj), json!(text(obj, "status.phase")), age(obj, now)]
    }

    fn graceful_delete(&self, _obj: &Object, _grace: Option<i64>) -> Deletion {
        Deletion::Now
    }

    fn mark_deleting(&self, obj: &mut Object) {
        crate::registry::value::set(obj, "status.phase", "Terminating");
    }

    fn holds_deletion(&self, obj: &Object) -> bool {
        !list(obj, "spec.finalizers").is_empty()
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }
}

/// Finalizers of the spec; creation names the list, `finalize` the item.
fn finalizers(errs: &mut FieldErrors, obj: &Object, path: impl Fn(usize) -> Path) {
    for (n, finalizer) in list(obj, "spec.finalizers").iter().enumerate() {
        let (path, text) = (path(n), finalizer.as_str().unwrap_or_default());
        problems(errs, &path, text, qualified_problems(text));
        if !text.contains('/') && !matches!(text, "kubernetes" | "orphan" | "foregroundDeletion") {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errs.invalid(path, text, detail);
        }
    }
}

/// The pod security labels; values that were there before are not checked again.
fn security_labels(errs: &mut FieldErrors, obj: &Object, old: Option<&Object>) {
    for (label, value) in map(obj, "metadata.labels") {
        let Some(mode) = label.strip_prefix("pod-security.kubernetes.io/") else { continue };
        if old.is_some_and(|old| map(old, "metadata.labels").get(label) == Some(value)) {
            continue;
        }
        let path = Path::new("metadata").child("labels").key(label);
        let value = value.as_str().unwrap_or_default();
        match mode {
            "enforce" | "warn" | "audit"
                if !matches!(value, "privileged" | "baseline" | "restricted") =>
            {
                errs.invalid(path, value, "must be one of privileged, baseline, restricted");
            }
            "enforce-version" | "warn-version" | "audit-version" => {
                let minor = value.strip_prefix("v1.").unwrap_or_default();
                let good = value == "latest"
                    || (minor == "0" || (!minor.starts_with('0') && minor.parse::<u32>().is_ok()));
                if !good {
                    errs.invalid(path, value, "must be \"latest\" or \"v1.x\"");
                }
            }
            _ => {}
        }
    }
}
