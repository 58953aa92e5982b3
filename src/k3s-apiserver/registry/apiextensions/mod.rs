//! `apiextensions.k8s.io/v1`: the objects that define custom resources.
//!
//! What they define is served by `crate::custom`. Paths in refusals are those of upstream's internal
//! version, in which what all versions share stands at the top (`spec.validation`).

mod rules;
mod schema;
mod spec;
mod structure;

use apimachinery::field::{FieldErrors, Path};
use apimachinery::structural::is_known_format;
use serde_json::{Value, json};

use super::meta::name_problems;
use super::value::{
    at, at_mut, default, default_zero, flag, has, key, list, map, set, text, texts,
};
use super::{Cx, NameRule, Object, Strategy};
use crate::custom::{ESTABLISHED, TERMINATING};
use crate::verbs::write::time_text;

pub(super) static STRATEGIES: &[&dyn Strategy] = &[&CustomResourceDefinition];

/// The finalizer that keeps a definition until its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";
/// The annotation that says where a definition in one of Kubernetes' groups was approved.
pub const APPROVED: &str = "api-approved.kubernetes.io";

/// Is the group one of Kubernetes' own?
pub fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"].iter().any(|domain| {
        group == *domain || group.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
    })
}

#[derive(Debug)]
struct CustomResourceDefinition;

impl Strategy for CustomResourceDefinition {
    fn resource(&self) -> &str {
        "customresourcedefinitions.apiextensions.k8s.io"
    }

    fn default(&self, obj: &mut Object) {
        let Some(spec) = at_mut(obj, "spec") else { return };
        let kind = text(spec, "names.kind").to_owned();
        if let Some(names) = at_mut(spec, "names") {
            default_zero(names, "singular", kind.to_lowercase());
            if !kind.is_empty() {
                default_zero(names, "listKind", format!("{kind}List"));
            }
        }
        default(spec, "conversion", json!({"strategy": "None"}));
        if let Some(service) = at_mut(spec, "conversion.webhook.clientConfig.service") {
            default(service, "port", 443);
        }
    }

    fn prepare_for_create(&self, _cx: &Cx<'_>, obj: &mut Object) {
        let stored = list(obj, "spec.versions").iter().find(|version| flag(version, "storage"));
        let stored: Vec<Value> =
            stored.map(|version| key(version, "name").clone()).into_iter().collect();
        obj["status"] = json!({
            "acceptedNames": {"kind": "", "plural": ""},
            "conditions": null,
            "storedVersions": stored,
        });
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        let name = text(obj, "metadata.name");
        let wanted = format!("{}.{}", text(obj, "spec.names.plural"), text(obj, "spec.group"));
        let path = Path::new("metadata").child("name");
        for problem in name_problems(NameRule::Subdomain, name, false) {
            errs.invalid(path.clone(), name, problem);
        }
        if name != wanted {
            errs.invalid(path, name, "must be spec.names.plural+\".\"+spec.group");
        }
        spec::validate(obj, errs);
        spec::stored_versions(obj, errs);
        approval(obj, errs);
        no_preservation(obj, errs);
    }

    fn prepare_for_update(&self, cx: &Cx<'_>, new: &mut Object, _old: &Object) {
        if !cx.subresource.is_empty() {
            return;
        }
        let stored = list(new, "spec.versions").iter().find(|version| flag(version, "storage"));
        let Some(name) = stored.map(|version| text(version, "name").to_owned()) else { return };
        let mut versions = list(new, "status.storedVersions").to_vec();
        if !versions.iter().any(|known| *known == name) {
            versions.push(name.into());
            set(new, "status.storedVersions", versions);
        }
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        if !cx.subresource.is_empty() {
            spec::stored_versions(new, errs);
            return;
        }
        spec::validate(new, errs);
        let established = list(old, "status.conditions")
            .iter()
            .any(|condition| condition["type"] == ESTABLISHED && condition["status"] == "True");
        for (field, always) in
            [("scope", false), ("names.kind", false), ("group", true), ("names.plural", true)]
        {
            if always || established {
                super::validate::immutable_spec(errs, field, new, old);
            }
        }
        spec::stored_versions(new, errs);
        let annotation = |object| key(at(object, "metadata.annotations"), APPROVED).clone();
        if annotation(new) != annotation(old) {
            approval(new, errs);
        }
        if !flag(old, "spec.preserveUnknownFields") {
            no_preservation(new, errs);
        }
    }

    fn warnings(&self, _cx: &Cx<'_>, obj: &Object, _old: Option<&Object>) -> Vec<String> {
        let mut formats = Vec::new();
        for version in list(obj, "spec.versions") {
            unknown_formats(at(version, "schema.openAPIV3Schema"), &mut formats);
        }
        formats.dedup();
        formats.into_iter().map(|format| format!("unrecognized format \"{format}\"")).collect()
    }

    fn mark_deleting(&self, obj: &mut Object) {
        let time = jiff::Timestamp::now();
        let mut finalizers = list(obj, "metadata.finalizers").to_vec();
        if !finalizers.iter().any(|name| name == CLEANUP) {
            finalizers.push(CLEANUP.into());
        }
        set(obj, "metadata.finalizers", finalizers);
        let mut conditions = list(obj, "status.conditions").to_vec();
        conditions.retain(|condition| condition["type"] != TERMINATING);
        conditions.push(json!({
            "type": TERMINATING, "status": "True", "reason": "InstanceDeletionPending",
            "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
            "lastTransitionTime": time_text(time),
        }));
        set(obj, "status.conditions", conditions);
    }

    fn holds_deletion(&self, obj: &Object) -> bool {
        !has(obj, "metadata.deletionTimestamp")
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Own
    }
}

fn approval(obj: &Object, errs: &mut FieldErrors) {
    if !is_protected(text(obj, "spec.group")) {
        return;
    }
    let path = Path::new("metadata").child("annotations").key(APPROVED);
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    match key(at(obj, "metadata.annotations"), APPROVED).as_str().unwrap_or_default() {
        "" => errs.required(
            path,
            format!("protected groups must have approval annotation {APPROVED:?}, {see}"),
        ),
        text if text.starts_with("unapproved") || text.starts_with("http") => {}
        text => errs.invalid(
            path,
            text,
            format!(
                "protected groups must have approval annotation {APPROVED:?} with either a URL or a reason starting with \"unapproved\", {see}"
            ),
        ),
    }
}

/// That is for each schema to say.
fn no_preservation(obj: &Object, errs: &mut FieldErrors) {
    if flag(obj, "spec.preserveUnknownFields") {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errs.invalid("spec.preserveUnknownFields", true, detail);
    }
}

fn unknown_formats(schema: &Value, found: &mut Vec<String>) {
    let format = text(schema, "format");
    if text(schema, "type") == "string" && !format.is_empty() && !is_known_format(format) {
        found.push(format.to_owned());
    }
    map(schema, "properties").values().for_each(|child| unknown_formats(child, found));
    for name in ["items", "additionalProperties"] {
        let child = key(schema, name);
        if child.is_object() {
            unknown_formats(child, found);
        }
    }
}
