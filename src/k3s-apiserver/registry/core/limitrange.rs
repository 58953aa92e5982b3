//! LimitRanges.

use std::collections::{BTreeSet, HashSet};

use serde_json::{Map, Value};

use super::resources::nano;
use crate::registry::field::{FieldErrors, Path};
use crate::registry::validate::{problems, qualified_problems, spec};
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
        problems(errs, &path.child("type"), kind, qualified_problems(kind));
        if kind.is_empty() || !qualified_problems(kind).is_empty() {
            continue;
        }
        if !types.insert(kind) {
            errs.duplicate(path.child("type"), kind);
        }
        if kind == "Pod" {
            for field in ["default", "defaultRequest"] {
                if !map(item, field).is_empty() {
                    errs.forbidden(path.child(field), "may not be specified when `type` is 'Pod'");
                }
            }
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
        item_values(errs, &path, item);
    }
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
        if let Some(ratio) = ratio
            && nano(ratio) < Some(1_000_000_000)
        {
            errs.invalid(
                at("maxLimitRequestRatio"),
                ratio.clone(),
                format!("ratio {} is less than 1", shown(ratio)),
            );
        }
    }
}
