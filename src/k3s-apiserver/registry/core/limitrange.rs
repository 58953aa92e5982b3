//! LimitRanges.

use std::collections::{BTreeSet, HashSet};

use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::qualified_problems;
use serde_json::{Map, Value};

use super::resources::{container_resource, is_no_overcommit, nano, resource_name};
use crate::registry::validate::{problems, spec};
use crate::registry::value::{key, list, list_mut, map, object, text};
use crate::registry::{Cx, Object, Strategy};

#[derive(Debug)]
pub(super) struct LimitRange;

impl Strategy for LimitRange {
    fn resource(&self) -> &'static str {
        "limitranges"
    }

    fn default(&self, obj: &mut Object) {
        for item in list_mut(obj, "spec.limits") {
            if text(item, "type") == "Container" {
                default_item(item);
            }
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        validate(obj, errs);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Object, _old: &Object, errs: &mut FieldErrors) {
        validate(new, errs);
    }
}

/// A missing default is the maximum; a missing default request is the default, else the minimum.
fn default_item(item: &mut Value) {
    let fill = |item: &mut Value, field: &str, from: &str| {
        let source: Map<String, Value> = map(item, from).clone();
        if source.is_empty() && map(item, field).is_empty() {
            return;
        }
        let into = object(item, field);
        for (name, value) in source {
            into.entry(name).or_insert(value);
        }
    };
    fill(item, "default", "max");
    fill(item, "defaultRequest", "default");
    fill(item, "defaultRequest", "min");
}

fn validate(obj: &Object, errs: &mut FieldErrors) {
    let mut types = HashSet::new();
    for (n, item) in list(obj, "spec.limits").iter().enumerate() {
        let path = spec().child("limits").index(n);
        let kind = text(item, "type");
        let found = qualified_problems(kind);
        let standard = matches!(kind, "Pod" | "Container" | "PersistentVolumeClaim");
        if found.is_empty() && !kind.contains('/') && !standard {
            let detail = "must be a standard limit type or fully qualified";
            errs.invalid(path.child("type"), kind, detail);
        }
        problems(errs, &path.child("type"), kind, found);
        if !types.insert(kind) {
            errs.duplicate(path.child("type"), kind);
        }
        names(errs, &path, item, &["max", "min"]);
        if kind == "Pod" {
            for field in ["default", "defaultRequest"] {
                if !map(item, field).is_empty() {
                    errs.forbidden(path.child(field), "may not be specified when `type` is 'Pod'");
                }
            }
        }
        if kind != "Pod" {
            names(errs, &path, item, &["default", "defaultRequest"]);
        }
        if kind == "PersistentVolumeClaim" {
            let has = |field: &str| map(item, field).contains_key("storage");
            if !has("min") && !has("max") {
                errs.required(
                    path.child("limits"),
                    "either minimum or maximum storage value is required, but neither was provided",
                );
            }
        }
        names(errs, &path, item, &["maxLimitRequestRatio"]);
        item_values(errs, &path, item);
    }
}

/// The resources of some of an item's lists.
fn names(errs: &mut FieldErrors, path: &Path, item: &Value, fields: &[&str]) {
    let of_container = matches!(text(item, "type"), "Pod" | "Container");
    for field in fields {
        for name in map(item, field).keys() {
            let path = path.child(field).key(name);
            if of_container {
                container_resource(errs, &path, name);
            } else {
                resource_name(errs, &path, name);
            }
        }
    }
}

/// The ratio of the largest to the smallest, as upstream prints it.
fn ratio_limit(max: &Value, min: &Value) -> Option<f64> {
    let (max, min) = (nano(max)?, nano(min)?);
    #[expect(clippy::cast_precision_loss, reason = "upstream compares floats too")]
    Some(max as f64 / min as f64)
}

fn item_values(errs: &mut FieldErrors, path: &Path, item: &Value) {
    let names: BTreeSet<&String> =
        ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"]
            .iter()
            .flat_map(|field| map(item, field).keys())
            .collect();
    for name in names {
        let get = |field: &str| map(item, field).get(name).filter(|v| nano(v).is_some());
        let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let (max, min) = (get("max"), get("min"));
        let (default, request, ratio) =
            (get("default"), get("defaultRequest"), get("maxLimitRequestRatio"));
        let over = |a: Option<&Value>, b: Option<&Value>| match (a, b) {
            (Some(a), Some(b)) => (nano(a) > nano(b)).then(|| (shown(a), shown(b))),
            _ => None,
        };
        let at = |field: &str| path.child(field).key(name);
        let value = |field: &str| key(key(item, field), name).clone();
        if let Some((a, b)) = over(min, max) {
            errs.invalid(
                at("min"),
                value("min"),
                format!("min value {a} is greater than max value {b}"),
            );
        }
        if let Some((a, b)) = over(min, request) {
            errs.invalid(
                at("defaultRequest"),
                value("defaultRequest"),
                format!("min value {a} is greater than default request value {b}"),
            );
        }
        if let Some((a, b)) = over(request, max) {
            errs.invalid(
                at("defaultRequest"),
                value("defaultRequest"),
                format!("default request value {a} is greater than max value {b}"),
            );
        }
        if let Some((a, b)) = over(request, default) {
            errs.invalid(
                at("defaultRequest"),
                value("defaultRequest"),
                format!("default request value {a} is greater than default limit value {b}"),
            );
        }
        // Upstream shows the minimum and the maximum as the values of the two next.
        if let Some((a, b)) = over(min, default) {
            errs.invalid(
                at("default"),
                value("min"),
                format!("min value {a} is greater than default value {b}"),
            );
        }
        if let Some((a, b)) = over(default, max) {
            errs.invalid(
                at("default"),
                value("max"),
                format!("default value {a} is greater than max value {b}"),
            );
        }
        if let Some(ratio) = ratio {
            let (path, text) = (at("maxLimitRequestRatio"), shown(ratio));
            if nano(ratio) < Some(1_000_000_000) {
                errs.invalid(&path, ratio.clone(), format!("ratio {text} is less than 1"));
            }
            let most = max.zip(min).and_then(|(max, min)| ratio_limit(max, min));
            #[expect(clippy::cast_precision_loss, reason = "upstream compares floats too")]
            let wanted = nano(ratio).unwrap_or_default() as f64 / 1e9;
            if let Some(most) = most.filter(|most| wanted > *most) {
                let detail = format!("ratio {text} is greater than max/min = {most:.6}");
                errs.invalid(path, ratio.clone(), detail);
            }
        }
        if let (Some(default), Some(request)) = (default, request)
            && is_no_overcommit(name)
            && nano(default) != nano(request)
        {
            let detail = format!(
                "default value {} must equal to defaultRequest value {} in {name}",
                shown(default),
                shown(request)
            );
            errs.invalid(at("defaultRequest"), request.clone(), detail);
        }
    }
}
