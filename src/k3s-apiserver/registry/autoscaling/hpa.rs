//! HorizontalPodAutoscalers.

use apimachinery::field::FieldErrors;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{convert, hpa_validation};
use crate::registry::table::{age, column, name, number};
use crate::registry::value::{at, at_mut, default, default_zero, has, int, key, list, text};
use crate::registry::{AGE, Column, Cx, NAME, Object, Strategy};

#[derive(Debug)]
pub(super) struct HorizontalPodAutoscaler;

impl Strategy for HorizontalPodAutoscaler {
    fn resource(&self) -> &'static str {
        "horizontalpodautoscalers.autoscaling"
    }

    fn default(&self, obj: &mut Object) {
        let old = text(obj, "apiVersion") == "autoscaling/v1";
        let annotated =
            !key(at(obj, "metadata.annotations"), "autoscaling.alpha.kubernetes.io/metrics")
                .is_null();
        let Some(spec) = at_mut(obj, "spec") else { return };
        default(spec, "minReplicas", 1);
        if old {
            if !annotated {
                default(spec, "targetCPUUtilizationPercentage", 80);
            }
            return;
        }
        if list(spec, "metrics").is_empty() {
            spec["metrics"] = json!([{"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": 80}}}]);
        }
        if has(spec, "behavior") {
            let behavior = &mut spec["behavior"];
            default(behavior, "scaleUp", json!({}));
            default(behavior, "scaleDown", json!({}));
            let up = &mut behavior["scaleUp"];
            default(up, "stabilizationWindowSeconds", 0);
            default(up, "selectPolicy", "Max");
            default_zero(
                up,
                "policies",
                json!([
                    {"type": "Pods", "value": 4, "periodSeconds": 15},
                    {"type": "Percent", "value": 100, "periodSeconds": 15},
                ]),
            );
            let down = &mut behavior["scaleDown"];
            default(down, "selectPolicy", "Max");
            default_zero(
                down,
                "policies",
                json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]),
            );
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        hpa_validation::validate(errs, &as_v2(obj), None);
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        if cx.subresource == "status" {
            hpa_validation::validate_status(errs, new);
        } else {
            hpa_validation::validate(errs, &as_v2(new), Some(&as_v2(old)));
        }
    }

    fn annotations_of_version(&self) -> &'static [&'static str] {
        convert::ANNOTATIONS
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column("Reference"),
            column("Targets"),
            column("MinPods"),
            column("MaxPods"),
            column("Replicas"),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let obj = &as_v2(obj);
        let reference = format!(
            "{}/{}",
            text(obj, "spec.scaleTargetRef.kind"),
            text(obj, "spec.scaleTargetRef.name")
        );
        let min = int(obj, "spec.minReplicas").map_or("<unset>".to_owned(), |min| min.to_string());
        vec![
            name(obj),
            json!(reference),
            json!(targets(obj)),
            json!(min),
            number(obj, "spec.maxReplicas"),
            number(obj, "status.currentReplicas"),
            age(obj, now),
        ]
    }

    fn convert(&self, obj: &mut Object, from: &str, to: &str) {
        match (from, to) {
            ("autoscaling/v1", "autoscaling/v2") => convert::up(obj),
            ("autoscaling/v2", "autoscaling/v1") => convert::down(obj),
            _ => {}
        }
    }
}

fn as_v2(obj: &Object) -> Object {
    let mut obj = obj.clone();
    if text(&obj, "apiVersion") == "autoscaling/v1" {
        convert::up(&mut obj);
    }
    obj
}

/// `cpu: 10%/50%` for the first two metrics, and how many more there are.
fn targets(obj: &Object) -> String {
    let specs = list(obj, "spec.metrics");
    if specs.is_empty() {
        return "<none>".to_owned();
    }
    let statuses = list(obj, "status.currentMetrics");
    let shown: Vec<String> = specs
        .iter()
        .enumerate()
        .take(2)
        .map(|(n, metric)| target(metric, statuses.get(n)))
        .collect();
    let more = specs.len() - shown.len();
    let text = shown.join(", ");
    if more > 0 { format!("{text} + {more} more...") } else { text }
}

fn target(metric: &Value, status: Option<&Value>) -> String {
    let (field, prefix) = match text(metric, "type") {
        "Resource" => ("resource", Some("resource.name")),
        "ContainerResource" => ("containerResource", Some("containerResource.name")),
        "Pods" => ("pods", None),
        "Object" => ("object", None),
        "External" => ("external", None),
        _ => return "<unknown type>".to_owned(),
    };
    let wanted = at(key(metric, field), "target");
    let current = status.map_or(&Value::Null, |status| at(key(status, field), "current"));
    let average = has(wanted, "averageValue");
    let kind = if has(wanted, "averageUtilization") {
        "averageUtilization"
    } else if average {
        "averageValue"
    } else {
        "value"
    };
    let percent = if kind == "averageUtilization" { "%" } else { "" };
    let show = |value: &Value| match value {
        Value::Null => "<unknown>".to_owned(),
        Value::String(text) => text.clone(),
        other => format!("{other}{percent}"),
    };
    let tail = if average && matches!(field, "object" | "external") { " (avg)" } else { "" };
    let pair = format!("{}/{}{tail}", show(key(current, kind)), show(key(wanted, kind)));
    match prefix {
        Some(path) => format!("{}: {pair}", text(metric, path)),
        None => pair,
    }
}
