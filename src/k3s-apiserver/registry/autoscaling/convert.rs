//! The old version of an autoscaler says one metric in a field and the rest in annotations.

use serde_json::{Value, json};

use super::old_metrics::{self, Of};
use crate::registry::Object;
use crate::registry::internal;
use crate::registry::value::{at, has, int, key, list, object, remove, set, text};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// What the old version says in annotations.
pub(super) const ANNOTATIONS: &[&str] = &[METRICS, CURRENT, CONDITIONS, BEHAVIOR];

/// `autoscaling/v1` → `autoscaling/v2`.
pub(super) fn up(obj: &mut Object) {
    let mut metrics: Vec<Value> = Vec::new();
    if let Some(Value::Number(percent)) = remove(obj, "spec.targetCPUUtilizationPercentage") {
        metrics.push(json!({"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": percent}}}));
    }
    if let Some(Value::Array(more)) = take(obj, METRICS) {
        metrics.extend(more.iter().map(|metric| old_metrics::read(metric, Of::Target)));
    }
    if !metrics.is_empty() {
        set(obj, "spec.metrics", metrics);
    }
    if let Some(behavior) = take(obj, BEHAVIOR) {
        set(obj, "spec.behavior", api_names(&behavior));
    }
    if let Some(percent) = remove(obj, "status.currentCPUUtilizationPercentage") {
        set(
            obj,
            "status.currentMetrics",
            json!([{"type": "Resource", "resource": {"name": "cpu",
            "current": {"averageUtilization": percent, "averageValue": "0"}}}]),
        );
    }
    if let Some(Value::Array(current)) = take(obj, CURRENT) {
        let metrics = current.iter().map(|metric| old_metrics::read(metric, Of::Current));
        set(obj, "status.currentMetrics", metrics.collect::<Vec<_>>());
    }
    if let Some(conditions) = take(obj, CONDITIONS) {
        set(obj, "status.conditions", conditions);
    }
}

/// `autoscaling/v2` → `autoscaling/v1`.
pub(super) fn down(obj: &mut Object) {
    let metrics = list(obj, "spec.metrics").to_vec();
    remove(obj, "spec.metrics");
    let is_cpu = |metric: &Value| {
        text(metric, "type") == "Resource"
            && text(metric, "resource.name") == "cpu"
            && has(metric, "resource.target.averageUtilization")
    };
    let cpu = metrics.iter().position(is_cpu);
    if let Some(at) = cpu
        && let Some(percent) = int(&metrics[at], "resource.target.averageUtilization")
    {
        set(obj, "spec.targetCPUUtilizationPercentage", percent);
    }
    let rest: Vec<Value> =
        metrics.into_iter().enumerate().filter(|(n, _)| Some(*n) != cpu).map(|(_, m)| m).collect();
    if !rest.is_empty() {
        put(obj, METRICS, old_metrics::write(&rest, Of::Target));
    }
    if let Some(behavior) = remove(obj, "spec.behavior") {
        let text = internal::json(internal::Struct::HorizontalPodAutoscalerBehavior, &behavior);
        put(obj, BEHAVIOR, text);
    }
    let current = list(obj, "status.currentMetrics").to_vec();
    remove(obj, "status.currentMetrics");
    let of_cpu = current.iter().find(|m| text(m, "resource.name") == "cpu");
    if let Some(percent) = of_cpu.and_then(|m| int(m, "resource.current.averageUtilization")) {
        set(obj, "status.currentCPUUtilizationPercentage", percent);
    }
    if !current.is_empty() {
        put(obj, CURRENT, old_metrics::write(&current, Of::Current));
    }
    if let Some(conditions) = remove(obj, "status.conditions") {
        put(obj, CONDITIONS, old_metrics::conditions(&conditions));
    }
}

/// The annotation for the behaviour holds upstream's internal type, with Go's names.
fn api_names(value: &Value) -> Value {
    match value {
        Value::Object(members) => members
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| {
                let mut name = name.clone();
                if let Some(first) = name.get_mut(..1) {
                    first.make_ascii_lowercase();
                }
                (name, api_names(value))
            })
            .collect(),
        Value::Array(items) => items.iter().map(api_names).collect(),
        other => other.clone(),
    }
}

fn take(obj: &mut Object, annotation: &str) -> Option<Value> {
    let found = key(at(obj, "metadata.annotations"), annotation).as_str()?;
    let value = serde_json::from_str(found).ok();
    let annotations = object(obj, "metadata.annotations");
    annotations.remove(annotation);
    if annotations.is_empty() {
        remove(obj, "metadata.annotations");
        if at(obj, "metadata").as_object().is_some_and(serde_json::Map::is_empty) {
            remove(obj, "metadata");
        }
    }
    value
}

fn put(obj: &mut Object, annotation: &str, text: String) {
    object(obj, "metadata.annotations").insert(annotation.to_owned(), json!(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_lose_nothing() {
        let v2 = json!({"spec": {"metrics": [
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
            {"type": "Pods", "pods": {"metric": {"name": "x"}, "target": {"type": "AverageValue", "averageValue": "5"}}}],
            "behavior": {"scaleUp": {"policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}], "selectPolicy": "Max"}}}});
        let mut v1 = v2.clone();
        down(&mut v1);
        assert_eq!(v1["spec"]["targetCPUUtilizationPercentage"], 50);
        up(&mut v1);
        assert_eq!(v1, v2);
    }
}
