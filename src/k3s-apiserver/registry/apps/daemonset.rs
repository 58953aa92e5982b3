//! DaemonSets.

use apimachinery::field::{ErrorKind, FieldErrors, Path, supported_values};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::deployment::number as percent_or_number;
use crate::registry::core::podtemplate::{
    always_restarts, default_template, template_warnings, validate_template,
};
use crate::registry::table::{
    age, column, containers, integer, labels, name, number, selector, wide,
};
use crate::registry::validate::{
    at_most_100, immutable_spec, int_or_percent, not_negative, selects, spec,
};
use crate::registry::value::{at, at_mut, default, default_zero, key, map, object, text};
use crate::registry::{AGE, Column, Cx, NAME, Object, Strategy};

/// Where the template's generation is kept for clients of old versions.
const GENERATION: &str = "deprecated.daemonset.template.generation";

#[derive(Debug)]
pub(super) struct DaemonSet;

impl Strategy for DaemonSet {
    fn resource(&self) -> &'static str {
        "daemonsets.apps"
    }

    fn default(&self, obj: &mut Object) {
        if let Some(spec) = at_mut(obj, "spec") {
            default(spec, "revisionHistoryLimit", 10);
            default(spec, "updateStrategy", json!({}));
            let strategy = &mut spec["updateStrategy"];
            default_zero(strategy, "type", "RollingUpdate");
            if text(strategy, "type") == "RollingUpdate" {
                default(strategy, "rollingUpdate", json!({}));
                default(&mut strategy["rollingUpdate"], "maxUnavailable", 1);
                default(&mut strategy["rollingUpdate"], "maxSurge", 0);
            }
        }
        default_template(obj, "spec.template");
    }

    fn prepare_for_create(&self, _cx: &Cx<'_>, obj: &mut Object) {
        set_generation(obj, 1);
    }

    fn prepare_for_update(&self, cx: &Cx<'_>, new: &mut Object, old: &Object) {
        if cx.subresource == "status" {
            return;
        }
        let had = key(at(old, "metadata.annotations"), GENERATION)
            .as_str()
            .and_then(|text| text.parse().ok())
            .unwrap_or(1_i64);
        let changed = at(new, "spec.template") != at(old, "spec.template");
        set_generation(new, had + i64::from(changed));
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        validate(obj, errs);
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        if cx.subresource == "status" {
            let path = Path::new("status");
            for (field, value) in map(new, "status") {
                not_negative(errs, &path.child(field), value);
            }
            return super::collisions(errs, new, old);
        }
        validate(new, errs);
        immutable_spec(errs, "selector", new, old);
    }

    fn annotations_of_version(&self) -> &'static [&'static str] {
        &["deprecated.daemonset.template.generation"]
    }

    fn warnings(&self, _cx: &Cx<'_>, obj: &Object, old: Option<&Object>) -> Vec<String> {
        template_warnings(obj, old, "spec.template")
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            integer("Desired"),
            integer("Current"),
            integer("Ready"),
            integer("Up-to-date"),
            integer("Available"),
            column("Node Selector"),
            AGE,
            wide("Containers"),
            wide("Images"),
            wide("Selector"),
        ];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let (names, images) = containers(at(obj, "spec.template.spec"));
        vec![
            name(obj),
            number(obj, "status.desiredNumberScheduled"),
            number(obj, "status.currentNumberScheduled"),
            number(obj, "status.numberReady"),
            number(obj, "status.updatedNumberScheduled"),
            number(obj, "status.numberAvailable"),
            json!(labels(map(obj, "spec.template.spec.nodeSelector"))),
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

fn set_generation(obj: &mut Object, generation: i64) {
    object(obj, "metadata.annotations")
        .insert(GENERATION.to_owned(), json!(generation.to_string()));
}

fn validate(obj: &Object, errs: &mut FieldErrors) {
    let path = spec();
    let body = at(obj, "spec");
    super::selector(errs, obj, "daemonset", false);
    let (wanted, template) = (key(body, "selector"), key(body, "template"));
    let labels = at(template, "metadata.labels");
    if !selects(wanted, labels) {
        let detail = "`selector` does not match template `labels`";
        errs.invalid(
            path.child("template").child("metadata").child("labels"),
            labels.clone(),
            detail,
        );
    }
    validate_template(errs, &path.child("template"), template);
    always_restarts(errs, &path.child("template"), template, "DaemonSet");
    not_negative(errs, &path.child("minReadySeconds"), key(body, "minReadySeconds"));
    strategy(errs, &path.child("updateStrategy"), key(body, "updateStrategy"));
    not_negative(errs, &path.child("revisionHistoryLimit"), key(body, "revisionHistoryLimit"));
}

fn strategy(errs: &mut FieldErrors, path: &Path, strategy: &Value) {
    match text(strategy, "type") {
        "OnDelete" => {}
        "RollingUpdate" => {
            let rolling = key(strategy, "rollingUpdate");
            let path = path.child("rollingUpdate");
            if rolling.is_null() {
                errs.required(path, "");
                return;
            }
            let (down, up) = (key(rolling, "maxUnavailable"), key(rolling, "maxSurge"));
            int_or_percent(errs, &path.child("maxUnavailable"), down);
            int_or_percent(errs, &path.child("maxSurge"), up);
            match (percent_or_number(down) != 0, percent_or_number(up) != 0) {
                (true, true) => {
                    let detail = "may not be set when maxUnavailable is non-zero";
                    errs.invalid(path.child("maxSurge"), up.clone(), detail);
                }
                (false, false) => {
                    errs.required(path.child("maxUnavailable"), "cannot be 0 when maxSurge is 0");
                }
                _ => {}
            }
            at_most_100(errs, &path.child("maxUnavailable"), down);
            at_most_100(errs, &path.child("maxSurge"), up);
        }
        other => {
            let rolling = key(strategy, "rollingUpdate");
            let shown = format!("{{\"Type\":{other:?},\"RollingUpdate\":{rolling}}}");
            let supported = supported_values(&["RollingUpdate", "OnDelete"]);
            errs.add(ErrorKind::NotSupported, path, &shown, &supported);
        }
    }
}
