//! Validation of autoscalers, in their new version.

use apimachinery::field::{FieldErrors, Path};
use apimachinery::meta::split_api_version;
use serde_json::Value;

use crate::registry::Object;
use crate::registry::core::resources::nano;
use crate::registry::rbac::path_segment;
use crate::registry::validate::{not_negative, spec};
use crate::registry::value::{at, has, int, key, list, text};

const TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];

/// An update of the status.
pub(super) fn validate_status(errs: &mut FieldErrors, obj: &Object) {
    for field in ["currentReplicas", "desiredReplicas"] {
        not_negative(errs, &Path::new("status").child(field), key(at(obj, "status"), field));
    }
}

/// A new autoscaler, or one that was `old`.
pub(super) fn validate(errs: &mut FieldErrors, obj: &Object, old: Option<&Object>) {
    let (path, body) = (spec(), at(obj, "spec"));
    let old = old.map(|old| at(old, "spec"));
    let min = int(body, "minReplicas");
    let max = int(body, "maxReplicas").unwrap_or_default();
    if let Some(min) = min
        && min < 1
    {
        errs.invalid(path.child("minReplicas"), min, "must be greater than or equal to 1");
    }
    if max < 1 {
        errs.required(path.child("maxReplicas"), "must be set and greater than 0");
    }
    if min.is_some_and(|min| max < min) {
        let detail = "must be greater than or equal to `minReplicas`";
        errs.invalid(path.child("maxReplicas"), max, detail);
    }
    let reference = key(body, "scaleTargetRef");
    let checked = target_version(reference, old.map(|old| key(old, "scaleTargetRef")));
    object_reference(errs, &path.child("scaleTargetRef"), reference, checked);
    let checked = match old.is_some_and(|old| list(old, "metrics").iter().any(describes_oddly)) {
        true => ApiVersion::Any,
        false => ApiVersion::Core,
    };
    metrics(errs, &path.child("metrics"), body, min, checked);
    for field in ["scaleUp", "scaleDown"] {
        let rules = at(body, "behavior");
        if has(rules, field) {
            behavior(errs, &path.child("behavior").child(field), key(rules, field));
        }
    }
}

/// What the `apiVersion` of a reference may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ApiVersion {
    /// Whatever it was before.
    Any,
    /// Of a group, or of the core group.
    Core,
    /// Of a group that is named.
    OfGroup,
}

/// The only kind of the core group that scales is the ReplicationController; a target that was
/// there before stays.
fn target_version(reference: &Value, old: Option<&Value>) -> ApiVersion {
    let same = |old: &Value| {
        ["apiVersion", "kind"].iter().all(|field| text(old, field) == text(reference, field))
    };
    match text(reference, "kind") {
        _ if old.is_some_and(same) => ApiVersion::Any,
        "ReplicationController" => ApiVersion::Core,
        _ => ApiVersion::OfGroup,
    }
}

/// An older metric of an object whose `apiVersion` would be refused today.
fn describes_oddly(metric: &Value) -> bool {
    text(metric, "type") == "Object"
        && check_version(text(at(metric, "object.describedObject"), "apiVersion"), ApiVersion::Core)
            .is_err()
}

fn check_version(version: &str, allowed: ApiVersion) -> Result<(), String> {
    match (version.matches('/').count(), allowed) {
        (_, ApiVersion::Any) => Ok(()),
        (2.., _) => Err(format!("unexpected GroupVersion string: {version}")),
        (_, ApiVersion::OfGroup) if split_api_version(version).0.is_empty() => {
            Err("apiVersion must specify API group".to_owned())
        }
        _ => Ok(()),
    }
}

fn metrics(
    errs: &mut FieldErrors,
    path: &Path,
    body: &Value,
    min: Option<i64>,
    described: ApiVersion,
) {
    let all = list(body, "metrics");
    for (n, metric) in all.iter().enumerate() {
        one(errs, &path.index(n), metric, described);
    }
    let from_outside = all.iter().any(|m| matches!(text(m, "type"), "Object" | "External"));
    if min == Some(0) && !from_outside {
        let detail = "must specify at least one Object or External metric to support scaling to zero replicas";
        errs.forbidden(path, detail);
    }
}

/// An object of any kind in the same namespace.
fn object_reference(errs: &mut FieldErrors, path: &Path, reference: &Value, allowed: ApiVersion) {
    for field in ["kind", "name"] {
        let (path, value) = (path.child(field), text(reference, field));
        if value.is_empty() {
            errs.required(path, "");
        } else {
            path_segment(errs, &path, value);
        }
    }
    let version = text(reference, "apiVersion");
    if let Err(why) = check_version(version, allowed) {
        errs.invalid(path.child("apiVersion"), version, why);
    }
}

/// The sources in the order of upstream's checks, with the type that each belongs to.
const SOURCES: &[(&str, &str)] = &[
    ("object", "Object"),
    ("external", "External"),
    ("pods", "Pods"),
    ("resource", "Resource"),
    ("containerResource", "ContainerResource"),
];

fn one(errs: &mut FieldErrors, path: &Path, metric: &Value, described: ApiVersion) {
    let kind = text(metric, "type");
    if kind.is_empty() {
        errs.required(path.child("type"), "must specify a metric source type");
    }
    if !TYPES.contains(&kind) {
        errs.not_supported(path.child("type"), kind, TYPES);
    }
    let present: Vec<&str> =
        SOURCES.iter().map(|(field, _)| *field).filter(|field| has(metric, field)).collect();
    if let Some(field) = present.first() {
        source(errs, &path.child(field), key(metric, field), field, described);
    }
    let expected = SOURCES.iter().find(|(_, of)| *of == kind).map(|(field, _)| *field);
    match expected {
        Some(field) if !present.contains(&field) => {
            let detail = "must populate information for the given metric source";
            errs.required(path.child(field), detail);
        }
        Some(_) => {}
        None => errs.not_supported(path.child("type"), kind, TYPES),
    }
    if present.len() == 1 {
        return;
    }
    for field in present.iter().filter(|field| Some(**field) != expected) {
        errs.forbidden(path.child(field), "must populate the given metric source only");
    }
}

fn source(errs: &mut FieldErrors, path: &Path, source: &Value, field: &str, described: ApiVersion) {
    match field {
        "resource" | "containerResource" => {
            if text(source, "name").is_empty() {
                errs.required(path.child("name"), "must specify a resource name");
            }
            if field == "containerResource" && text(source, "container").is_empty() {
                errs.required(path.child("container"), "must specify a container");
            }
        }
        _ => {
            if field == "object" {
                let path = path.child("describedObject");
                object_reference(errs, &path, key(source, "describedObject"), described);
            }
            let (path, name) = (path.child("metric").child("name"), text(source, "metric.name"));
            if name.is_empty() {
                errs.required(path, "must specify a metric name");
            } else {
                path_segment(errs, &path, name);
            }
        }
    }
    target(errs, &path.child("target"), key(source, "target"), field);
}

fn target(errs: &mut FieldErrors, path: &Path, target: &Value, field: &str) {
    let kind = text(target, "type");
    if kind.is_empty() {
        errs.required(path.child("type"), "must specify a metric target type");
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        errs.invalid(
            path.child("type"),
            kind,
            "must be either Utilization, Value, or AverageValue",
        );
    }
    for name in ["value", "averageValue"] {
        if nano(key(target, name)).is_some_and(|n| n <= 0) {
            errs.invalid(path.child(name), key(target, name).clone(), "must be positive");
        }
    }
    if let Some(percent) = int(target, "averageUtilization")
        && percent < 1
    {
        errs.invalid(path.child("averageUtilization"), percent, "must be greater than 0");
    }
    let (value, average, percent) =
        (has(target, "value"), has(target, "averageValue"), has(target, "averageUtilization"));
    match field {
        "resource" | "containerResource" => {
            if !percent && !average {
                let detail = "must set either a target raw value or a target utilization";
                errs.required(path.child("averageUtilization"), detail);
            }
            if percent && average {
                errs.forbidden(
                    path.child("averageValue"),
                    "may not set both a target raw value and a target utilization",
                );
            }
        }
        "pods" => {
            if !average {
                errs.required(
                    path.child("averageValue"),
                    "must specify a positive target averageValue",
                );
            }
        }
        "external" => {
            if value && average {
                errs.forbidden(
                    path.child("value"),
                    "may not set both a target value for metric and a per-pod target",
                );
            }
            if !value && !average {
                errs.required(
                    path.child("averageValue"),
                    "must set either a target value for metric or a per-pod target",
                );
            }
        }
        _ => {
            if !value && !average {
                errs.required(
                    path.child("averageValue"),
                    "must set either a target value or averageValue",
                );
            }
        }
    }
}

fn behavior(errs: &mut FieldErrors, path: &Path, rules: &Value) {
    if let Some(seconds) = int(rules, "stabilizationWindowSeconds") {
        let here = path.child("stabilizationWindowSeconds");
        not_negative(errs, &here, key(rules, "stabilizationWindowSeconds"));
        if seconds > 3600 {
            errs.invalid(here, seconds, "must be less than or equal to 3600");
        }
    }
    let select = text(rules, "selectPolicy");
    if has(rules, "selectPolicy") && !matches!(select, "Disabled" | "Max" | "Min") {
        errs.not_supported(path.child("selectPolicy"), select, &["Disabled", "Max", "Min"]);
    }
    let policies = list(rules, "policies");
    if policies.is_empty() {
        errs.required(path.child("policies"), "must specify at least one Policy");
    }
    for (n, policy) in policies.iter().enumerate() {
        let path = path.child("policies").index(n);
        let kind = text(policy, "type");
        if !matches!(kind, "Percent" | "Pods") {
            errs.not_supported(path.child("type"), kind, &["Percent", "Pods"]);
        }
        for (field, most) in [("value", i64::MAX), ("periodSeconds", 1800)] {
            let number = int(policy, field).unwrap_or_default();
            if number <= 0 {
                errs.invalid(path.child(field), number, "must be greater than zero");
            } else if number > most {
                errs.invalid(
                    path.child(field),
                    number,
                    format!("must be less than or equal to {most}"),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn targets_name_their_group() {
        let check = |kind: &str, version: &str, old: Option<&Value>, wanted: Result<(), &str>| {
            let target = json!({"kind": kind, "apiVersion": version});
            let found = check_version(version, target_version(&target, old));
            assert_eq!(found, wanted.map_err(str::to_owned), "{kind} {version}");
        };
        let old = json!({"kind": "Scaler", "apiVersion": "v1"});
        check("Deployment", "apps/v1", None, Ok(()));
        check("Deployment", "", None, Err("apiVersion must specify API group"));
        check("Scaler", "v1", None, Err("apiVersion must specify API group"));
        check("Scaler", "v1", Some(&old), Ok(()));
        check("Scaler", "", Some(&old), Err("apiVersion must specify API group"));
        check("ReplicationController", "v1", None, Ok(()));
        check("Deployment", "a/b/c", None, Err("unexpected GroupVersion string: a/b/c"));
    }

    #[test]
    fn metrics_that_were_odd_stay() {
        let metric = |version: &str| json!({"type": "Object", "object": {"describedObject": {"apiVersion": version}}});
        assert!(describes_oddly(&metric("a/b/c")));
        assert!(!describes_oddly(&metric("")));
        assert!(!describes_oddly(&json!({"type": "Pods", "pods": {}})));
    }
}
