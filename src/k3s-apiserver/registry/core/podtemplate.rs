//! PodTemplates, and what every kind with a pod template shares.

use apimachinery::field::{FieldErrors, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::podspec::{self, Of};
use super::{pod_warnings, podspec_defaults};
use crate::registry::table::{column, containers, labels, name};
use crate::registry::validate;
use crate::registry::value::{at, at_mut, key, map, set};
use crate::registry::{Column, Cx, NAME, Object, Strategy};

#[derive(Debug)]
pub(super) struct PodTemplate;

impl Strategy for PodTemplate {
    fn resource(&self) -> &'static str {
        "podtemplates"
    }

    fn default(&self, obj: &mut Object) {
        default_template(obj, "template");
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        validate_template(errs, &Path::new("template"), key(obj, "template"));
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Object, _old: &Object, errs: &mut FieldErrors) {
        validate_template(errs, &Path::new("template"), key(new, "template"));
    }

    fn warnings(&self, _cx: &Cx<'_>, obj: &Object, old: Option<&Object>) -> Vec<String> {
        template_warnings(obj, old, "template")
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] =
            &[NAME, column("Containers"), column("Images"), column("Pod Labels")];
        COLUMNS
    }

    fn row(&self, obj: &Object, _now: Timestamp) -> Vec<Value> {
        let (names, images) = containers(at(obj, "template.spec"));
        let labels = labels(map(obj, "template.metadata.labels"));
        vec![name(obj), json!(names), json!(images), json!(labels)]
    }

    fn has_generation(&self) -> bool {
        true
    }
}

/// Defaults of the template at a path; the names of the service account say the same.
pub(crate) fn default_template(owner: &mut Object, path: &str) {
    podspec_defaults::default_template(owner, path);
    if let Some(spec) = at_mut(owner, &format!("{path}.spec")) {
        let name = key(spec, "serviceAccountName").as_str().unwrap_or_default().to_owned();
        let old = key(spec, "serviceAccount").as_str().unwrap_or_default().to_owned();
        let name = if name.is_empty() { old } else { name };
        if !name.is_empty() {
            set(spec, "serviceAccountName", name.as_str());
            set(spec, "serviceAccount", name);
        }
    }
}

/// Labels, annotations and spec of a pod template; upstream leaves `metadata` out of their paths.
pub(crate) fn validate_template(errs: &mut FieldErrors, path: &Path, template: &Value) {
    validate::labels(errs, &path.child("labels"), at(template, "metadata.labels"));
    let here = path.child("annotations");
    crate::registry::meta::annotations(&here, at(template, "metadata.annotations"), errs);
    super::pod_validation::annotations(errs, &here, template);
    podspec::validate(errs, &path.child("spec"), at(template, "spec"), Of::Template);
    if !crate::registry::value::list(template, "spec.ephemeralContainers").is_empty() {
        let path = path.child("spec").child("ephemeralContainers");
        errs.forbidden(path, "ephemeral containers not allowed in pod template");
    }
}

/// A template whose selector must match its labels and whose pods run forever.
pub(crate) fn validate_replicated(
    errs: &mut FieldErrors,
    path: &Path,
    template: &Value,
    selector: &Value,
    what: &str,
) {
    if !validate::selector_is_empty(selector) || selector.is_null() {
        let labels = at(template, "metadata.labels");
        if !validate::selects(selector, labels) {
            let detail = "`selector` does not match template `labels`";
            errs.invalid(path.child("metadata").child("labels"), labels.clone(), detail);
        }
    }
    validate_template(errs, path, template);
    always_restarts(errs, path, template, what);
}

/// Pods of a controller that keeps them running restart always and have no deadline.
pub(crate) fn always_restarts(errs: &mut FieldErrors, path: &Path, template: &Value, what: &str) {
    let policy = at(template, "spec.restartPolicy").as_str().unwrap_or_default();
    let spec = path.child("spec");
    if !matches!(policy, "Always" | "") {
        errs.not_supported(spec.child("restartPolicy"), policy, &["Always"]);
    }
    if !at(template, "spec.activeDeadlineSeconds").is_null() {
        let detail = format!("activeDeadlineSeconds in {what} is not Supported");
        errs.forbidden(spec.child("activeDeadlineSeconds"), detail);
    }
}

/// The warnings of a template; an unchanged one earns none.
pub(crate) fn template_warnings(obj: &Object, old: Option<&Object>, path: &str) -> Vec<String> {
    // Any change of the spec earns them again.
    let same = |path: &str, old: &Object| at(old, path) == at(obj, path);
    if old.is_some_and(|old| same("metadata.generation", old) && same(path, old)) {
        return Vec::new();
    }
    pod_warnings::of_template(path, at(obj, path))
}
