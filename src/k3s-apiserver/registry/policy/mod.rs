//! `policy/v1`.

use apimachinery::field::{FieldErrors, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::table::{age, column, integer, name, number};
use super::validate::{at_most_100, int_or_percent, label_selector, not_negative, one_of, spec};
use super::value::{at, has, key};
use super::{AGE, Column, Cx, NAME, Object, Strategy};

pub(super) static STRATEGIES: &[&dyn Strategy] = &[&PodDisruptionBudget];

#[derive(Debug)]
struct PodDisruptionBudget;

impl Strategy for PodDisruptionBudget {
    fn resource(&self) -> &'static str {
        "poddisruptionbudgets.policy"
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        validate(obj, errs);
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, _old: &Object, errs: &mut FieldErrors) {
        if cx.subresource != "status" {
            validate(new, errs);
            return;
        }
        for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
            not_negative(errs, &Path::new("status").child(field), key(at(new, "status"), field));
        }
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column("Min Available"),
            column("Max Unavailable"),
            integer("Allowed Disruptions"),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let shown = |path: &str| match at(obj, path) {
            Value::Null => "N/A".to_owned(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        vec![
            name(obj),
            json!(shown("spec.minAvailable")),
            json!(shown("spec.maxUnavailable")),
            number(obj, "status.disruptionsAllowed"),
            age(obj, now),
        ]
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

fn validate(obj: &Object, errs: &mut FieldErrors) {
    let (path, body) = (spec(), at(obj, "spec"));
    if has(body, "minAvailable") && has(body, "maxUnavailable") {
        let detail = "minAvailable and maxUnavailable cannot be both set";
        errs.invalid(path.clone(), crate::registry::internal::renamed(body), detail);
    }
    for field in ["minAvailable", "maxUnavailable"] {
        if has(body, field) {
            int_or_percent(errs, &path.child(field), key(body, field));
            at_most_100(errs, &path.child(field), key(body, field));
        }
    }
    label_selector(errs, &path.child("selector"), key(body, "selector"));
    if has(body, "unhealthyPodEvictionPolicy") {
        let value = key(body, "unhealthyPodEvictionPolicy");
        let valid = &["AlwaysAllow", "IfHealthyBudget"];
        one_of(errs, &path.child("unhealthyPodEvictionPolicy"), value, valid);
    }
}
