//! Deployments.

use apimachinery::field::{ErrorKind, FieldErrors, Path, supported_values};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::core::podtemplate::{
    default_template, template_warnings, validate_replicated,
};
use crate::registry::table::{age, column, containers, name, selector, wide};
use crate::registry::validate::{
    at_most_100, immutable_spec, int_or_percent, not_negative, percent, selector_converts, spec,
};
use crate::registry::value::{at, at_mut, default, default_zero, has, int, key, text};
use crate::registry::{AGE, Column, Cx, NAME, Object, Strategy};

#[derive(Debug)]
pub(super) struct Deployment;

impl Strategy for Deployment {
    fn resource(&self) -> &'static str {
        "deployments.apps"
    }

    fn default(&self, obj: &mut Object) {
        if let Some(spec) = at_mut(obj, "spec") {
            default(spec, "replicas", 1);
            default(spec, "revisionHistoryLimit", 10);
            default(spec, "progressDeadlineSeconds", 600);
            default(spec, "strategy", json!({}));
            let strategy = &mut spec["strategy"];
            default_zero(strategy, "type", "RollingUpdate");
            if text(strategy, "type") == "RollingUpdate" {
                default(strategy, "rollingUpdate", json!({}));
                default(&mut strategy["rollingUpdate"], "maxUnavailable", "25%");
                default(&mut strategy["rollingUpdate"], "maxSurge", "25%");
            }
        }
        default_template(obj, "spec.template");
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        validate(obj, errs);
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        if cx.subresource == "status" {
            status(errs, new);
            return super::collisions(errs, new, old);
        }
        validate(new, errs);
        immutable_spec(errs, "selector", new, old);
    }

    fn generation_follows(&self) -> &'static [&'static str] {
        &["annotations"]
    }

    fn warnings(&self, _cx: &Cx<'_>, obj: &Object, old: Option<&Object>) -> Vec<String> {
        template_warnings(obj, old, "spec.template")
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column("Ready"),
            column("Up-to-date"),
            column("Available"),
            AGE,
            wide("Containers"),
            wide("Images"),
            wide("Selector"),
        ];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let (names, images) = containers(at(obj, "spec.template.spec"));
        let number = |path: &str| int(obj, path).unwrap_or_default();
        vec![
            name(obj),
            json!(format!("{}/{}", number("status.readyReplicas"), number("spec.replicas"))),
            json!(number("status.updatedReplicas")),
            json!(number("status.availableReplicas")),
            age(obj, now),
            json!(names),
            json!(images),
            json!(selector(at(obj, "spec.selector"))),
        ]
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn validate(obj: &Object, errs: &mut FieldErrors) {
    let path = spec();
    let body = at(obj, "spec");
    not_negative(errs, &path.child("replicas"), key(body, "replicas"));
    super::selector(errs, obj, "deployment", true);
    let wanted = key(body, "selector");
    if selector_converts(wanted) {
        validate_replicated(
            errs,
            &path.child("template"),
            key(body, "template"),
            wanted,
            "ReplicaSet",
        );
    } else {
        errs.invalid(path.child("selector"), wanted.clone(), "invalid label selector");
    }
    strategy(errs, &path.child("strategy"), key(body, "strategy"));
    not_negative(errs, &path.child("minReadySeconds"), key(body, "minReadySeconds"));
    not_negative(errs, &path.child("revisionHistoryLimit"), key(body, "revisionHistoryLimit"));
    if let Some(seconds) = int(body, "progressDeadlineSeconds") {
        let here = path.child("progressDeadlineSeconds");
        not_negative(errs, &here, key(body, "progressDeadlineSeconds"));
        if seconds <= int(body, "minReadySeconds").unwrap_or_default() {
            errs.invalid(here, seconds, "must be greater than minReadySeconds");
        }
    }
}

fn strategy(errs: &mut FieldErrors, path: &Path, strategy: &Value) {
    match text(strategy, "type") {
        "Recreate" => {
            if has(strategy, "rollingUpdate") {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                errs.forbidden(path.child("rollingUpdate"), detail);
            }
        }
        "RollingUpdate" => {
            let rolling = key(strategy, "rollingUpdate");
            let path = path.child("rollingUpdate");
            if rolling.is_null() {
                errs.required(path, "this should be defaulted and never be nil");
                return;
            }
            let (down, up) = (key(rolling, "maxUnavailable"), key(rolling, "maxSurge"));
            int_or_percent(errs, &path.child("maxUnavailable"), down);
            int_or_percent(errs, &path.child("maxSurge"), up);
            if number(down) == 0 && number(up) == 0 {
                let detail = "may not be 0 when `maxSurge` is 0";
                errs.invalid(path.child("maxUnavailable"), down.clone(), detail);
            }
            at_most_100(errs, &path.child("maxUnavailable"), down);
        }
        other => {
            let rolling = key(strategy, "rollingUpdate");
            let shown = format!("{{\"Type\":{other:?},\"RollingUpdate\":{rolling}}}");
            let supported = supported_values(&["Recreate", "RollingUpdate"]);
            errs.add(ErrorKind::NotSupported, path, &shown, &supported);
        }
    }
}

/// The number of an int-or-percent.
pub(super) fn number(value: &Value) -> i64 {
    percent(value).or_else(|| value.as_i64()).unwrap_or_default()
}

fn status(errs: &mut FieldErrors, obj: &Object) {
    let path = Path::new("status");
    for field in [
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "collisionCount",
    ] {
        not_negative(errs, &path.child(field), key(at(obj, "status"), field));
    }
    let of = |field: &str| int(at(obj, "status"), field).unwrap_or_default();
    let total = of("replicas");
    for field in ["updatedReplicas", "readyReplicas", "availableReplicas"] {
        if of(field) > total {
            errs.invalid(path.child(field), of(field), "cannot be greater than status.replicas");
        }
    }
    if of("availableReplicas") > of("readyReplicas") {
        let detail = "cannot be greater than readyReplicas";
        errs.invalid(path.child("availableReplicas"), of("availableReplicas"), detail);
    }
}
