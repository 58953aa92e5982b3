//! StatefulSets.

use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::label_problems;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::core::podtemplate::{
    default_template, template_warnings, validate_replicated,
};
use crate::registry::table::{age, column, containers, name, wide};
use crate::registry::validate::{not_negative, problems, selector_converts, spec};
use crate::registry::value::{
    at, at_mut, carry, default, default_zero, has, int, key, list_mut, text,
};
use crate::registry::{AGE, Column, Cx, NAME, Object, Strategy};

const FIXED: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
const MAY_CHANGE: &[&str] = &[
    "replicas",
    "template",
    "updateStrategy",
    "minReadySeconds",
    "ordinals",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
];

#[derive(Debug)]
pub(super) struct StatefulSet;

impl Strategy for StatefulSet {
    fn resource(&self) -> &'static str {
        "statefulsets.apps"
    }

    fn default(&self, obj: &mut Object) {
        if let Some(spec) = at_mut(obj, "spec") {
            default_zero(spec, "podManagementPolicy", "OrderedReady");
            default(spec, "updateStrategy", json!({}));
            let strategy = &mut spec["updateStrategy"];
            if text(strategy, "type").is_empty() {
                strategy["type"] = json!("RollingUpdate");
                default(strategy, "rollingUpdate", json!({}));
            }
            if text(strategy, "type") == "RollingUpdate" && has(strategy, "rollingUpdate") {
                default(&mut strategy["rollingUpdate"], "partition", 0);
            }
            default(spec, "persistentVolumeClaimRetentionPolicy", json!({}));
            let policy = &mut spec["persistentVolumeClaimRetentionPolicy"];
            default_zero(policy, "whenDeleted", "Retain");
            default_zero(policy, "whenScaled", "Retain");
            default(spec, "replicas", 1);
            default(spec, "revisionHistoryLimit", 10);
            for claim in list_mut(spec, "volumeClaimTemplates") {
                claim["apiVersion"] = json!("v1");
                claim["kind"] = json!("PersistentVolumeClaim");
                default(claim, "spec", json!({}));
                default(&mut claim["spec"], "volumeMode", "Filesystem");
                default(claim, "status", json!({}));
                default_zero(&mut claim["status"], "phase", "Pending");
            }
        }
        default_template(obj, "spec.template");
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        validate(obj, errs, true);
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        if cx.subresource == "status" {
            status(errs, at(new, "status"));
            super::collisions(errs, new, old);
            return;
        }
        validate(new, errs, false);
        let mut allowed = new.clone();
        for field in MAY_CHANGE {
            carry(old, &mut allowed, &format!("spec.{field}"));
        }
        if at(&allowed, "spec") != at(old, "spec") {
            errs.forbidden(spec(), FIXED);
        }
    }

    fn warnings(&self, _cx: &Cx<'_>, obj: &Object, old: Option<&Object>) -> Vec<String> {
        let mut out = template_warnings(obj, old, "spec.template");
        if int(obj, "spec.revisionHistoryLimit").is_some_and(|n| n < 0) {
            out.push("spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended".to_owned());
        }
        out
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] =
            &[NAME, column("Ready"), AGE, wide("Containers"), wide("Images")];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let (names, images) = containers(at(obj, "spec.template.spec"));
        let number = |path: &str| int(obj, path).unwrap_or_default();
        let ready = format!("{}/{}", number("status.readyReplicas"), number("spec.replicas"));
        vec![name(obj), json!(ready), age(obj, now), json!(names), json!(images)]
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn status(errs: &mut FieldErrors, status: &Value) {
    let path = Path::new("status");
    let counts =
        ["replicas", "readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
    for field in counts.iter().chain(&["observedGeneration", "collisionCount"]) {
        not_negative(errs, &path.child(field), key(status, field));
    }
    let of = |field: &str| int(status, field).unwrap_or_default();
    for field in ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"] {
        if of(field) > of("replicas") {
            errs.invalid(path.child(field), of(field), "cannot be greater than status.replicas");
        }
    }
    if of("availableReplicas") > of("readyReplicas") {
        let detail = "cannot be greater than status.readyReplicas";
        errs.invalid(path.child("availableReplicas"), of("availableReplicas"), detail);
    }
}

/// The name of the Service is judged in new objects only; it can't change.
fn validate(obj: &Object, errs: &mut FieldErrors, new: bool) {
    let path = spec();
    let body = at(obj, "spec");
    let policy = text(body, "podManagementPolicy");
    if policy.is_empty() {
        errs.required(path.child("podManagementPolicy"), "");
    } else if !matches!(policy, "OrderedReady" | "Parallel") {
        let detail = "must be 'OrderedReady' or 'Parallel'";
        errs.invalid(path.child("podManagementPolicy"), policy, detail);
    }
    strategy(errs, &path.child("updateStrategy"), key(body, "updateStrategy"));
    retention(
        errs,
        &path.child("persistentVolumeClaimRetentionPolicy"),
        key(body, "persistentVolumeClaimRetentionPolicy"),
    );
    not_negative(errs, &path.child("replicas"), key(body, "replicas"));
    not_negative(errs, &path.child("minReadySeconds"), key(body, "minReadySeconds"));
    not_negative(errs, &path.child("ordinals").child("start"), at(body, "ordinals.start"));
    let service = text(body, "serviceName");
    if new && !service.is_empty() {
        problems(errs, &path.child("serviceName"), service, label_problems(service));
    }
    super::selector(errs, obj, "statefulset", true);
    let wanted = key(body, "selector");
    if selector_converts(wanted) {
        validate_replicated(
            errs,
            &path.child("template"),
            key(body, "template"),
            wanted,
            "StatefulSet",
        );
    }
}

fn strategy(errs: &mut FieldErrors, path: &Path, strategy: &Value) {
    let rolling = key(strategy, "rollingUpdate");
    match text(strategy, "type") {
        "" => errs.required(path, ""),
        "OnDelete" => {
            if !rolling.is_null() {
                let shown = crate::registry::internal::renamed(rolling);
                let detail = "only allowed for updateStrategy 'RollingUpdate'";
                errs.invalid(path.child("rollingUpdate"), shown, detail);
            }
        }
        "RollingUpdate" => {
            let path = path.child("rollingUpdate");
            not_negative(errs, &path.child("partition"), key(rolling, "partition"));
            let down = key(rolling, "maxUnavailable");
            crate::registry::validate::int_or_percent(errs, &path.child("maxUnavailable"), down);
            if !down.is_null() && super::deployment::number(down) == 0 {
                errs.invalid(path.child("maxUnavailable"), down.clone(), "cannot be 0");
            }
        }
        _ => {
            let shown = crate::registry::internal::renamed(strategy);
            errs.invalid(path, shown, "must be 'RollingUpdate' or 'OnDelete'");
        }
    }
}

fn retention(errs: &mut FieldErrors, path: &Path, policy: &Value) {
    for field in ["whenDeleted", "whenScaled"] {
        let value = text(policy, field);
        if !policy.is_null() && !matches!(value, "Retain" | "Delete") {
            errs.not_supported(path.child(field), value, &["Retain", "Delete"]);
        }
    }
}
