//! Metrics in the words of `autoscaling/v1`, which has them in annotations only.
//!
//! One table says where each field of the old types is in the new ones. Invariant: what was written
//! reads back as the same metric.

use serde_json::{Value, json};

use crate::registry::value::{at, has, key, remove, set, text};

/// Whether a metric says what is wanted or what is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    Target,
    Current,
}

impl Of {
    fn word(self) -> &'static str {
        match self {
            Self::Target => "target",
            Self::Current => "current",
        }
    }
}

/// A type of metric: its name, its field, and its old fields in their order with the new place of
/// each. `@` is `target` or `current`.
type Row = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const KINDS: &[Row] = &[
    (
        "Object",
        "object",
        &[
            ("target", "describedObject"),
            ("metricName", "metric.name"),
            ("@Value", "@.value"),
            ("selector", "metric.selector"),
            ("averageValue", "@.averageValue"),
        ],
    ),
    (
        "Pods",
        "pods",
        &[
            ("metricName", "metric.name"),
            ("@AverageValue", "@.averageValue"),
            ("selector", "metric.selector"),
        ],
    ),
    (
        "Resource",
        "resource",
        &[
            ("name", "name"),
            ("@AverageUtilization", "@.averageUtilization"),
            ("@AverageValue", "@.averageValue"),
        ],
    ),
    (
        "ContainerResource",
        "containerResource",
        &[
            ("name", "name"),
            ("@AverageUtilization", "@.averageUtilization"),
            ("@AverageValue", "@.averageValue"),
            ("container", "container"),
        ],
    ),
    (
        "External",
        "external",
        &[
            ("metricName", "metric.name"),
            ("metricSelector", "metric.selector"),
            ("@Value", "@.value"),
            ("@AverageValue", "@.averageValue"),
        ],
    ),
];

/// The old fields that are written even when there is nothing in them.
const ALWAYS: &[(&str, &str)] = &[
    ("Object", "targetValue"),
    ("Object", "currentValue"),
    ("Pods", "targetAverageValue"),
    ("Pods", "currentAverageValue"),
    ("Resource", "currentAverageValue"),
    ("ContainerResource", "currentAverageValue"),
    ("External", "currentValue"),
];

/// Metrics as the annotation has them.
pub(super) fn write(metrics: &[Value], of: Of) -> String {
    let all: Vec<String> = metrics.iter().map(|metric| one(metric, of)).collect();
    format!("[{}]", all.join(","))
}

fn one(metric: &Value, of: Of) -> String {
    let kind = text(metric, "type");
    let Some((_, field, rows)) = KINDS.iter().find(|(name, ..)| *name == kind) else {
        return members(&[("type", json!(kind).to_string())]);
    };
    let source = key(metric, field);
    let mut inside = Vec::new();
    for (old, new) in *rows {
        let old = old.replace('@', of.word());
        let value = at(source, &new.replace('@', of.word())).clone();
        let shown = match (old.as_str(), &value) {
            ("target", target) => object_reference(target),
            (_, Value::Null) if ALWAYS.contains(&(kind, &old)) => "\"0\"".to_owned(),
            (_, Value::Null) => continue,
            (_, value) => value.to_string(),
        };
        inside.push((old, shown));
    }
    let inside: Vec<(&str, String)> =
        inside.iter().map(|(name, shown)| (name.as_str(), shown.clone())).collect();
    members(&[("type", json!(kind).to_string()), (field, members(&inside))])
}

fn object_reference(target: &Value) -> String {
    let field = |name| json!(text(target, name)).to_string();
    let mut all = vec![("kind", field("kind")), ("name", field("name"))];
    if !text(target, "apiVersion").is_empty() {
        all.push(("apiVersion", field("apiVersion")));
    }
    members(&all)
}

fn members(all: &[(&str, String)]) -> String {
    let all: Vec<String> =
        all.iter().map(|(name, shown)| format!("{}:{shown}", json!(name))).collect();
    format!("{{{}}}", all.join(","))
}

/// Conditions as the annotation has them.
pub(super) fn conditions(conditions: &Value) -> String {
    let one = |condition: &Value| {
        let fields = ["type", "status", "lastTransitionTime", "reason", "message"];
        let set = fields.into_iter().filter(|field| {
            matches!(*field, "type" | "status" | "lastTransitionTime") || has(condition, field)
        });
        let all: Vec<(&str, String)> =
            set.map(|field| (field, key(condition, field).to_string())).collect();
        members(&all)
    };
    let all: Vec<String> = conditions.as_array().into_iter().flatten().map(one).collect();
    format!("[{}]", all.join(","))
}

/// A metric of the annotation in the words of `autoscaling/v2`.
pub(super) fn read(metric: &Value, of: Of) -> Value {
    let kind = text(metric, "type");
    let Some((_, field, rows)) = KINDS.iter().find(|(name, ..)| *name == kind) else {
        return metric.clone();
    };
    let source = key(metric, field);
    let mut out = json!({"type": kind});
    for (old, new) in *rows {
        let value = key(source, &old.replace('@', of.word())).clone();
        if !value.is_null() {
            set(&mut out, &format!("{field}.{}", new.replace('@', of.word())), value);
        }
    }
    if of == Of::Target {
        target_type(&mut out, field);
    }
    out
}

/// The old types do not say which of the values is meant; it is the one that is there.
fn target_type(metric: &mut Value, field: &str) {
    let target = format!("{field}.target");
    let average = format!("{target}.averageValue");
    let kind = if has(metric, &format!("{target}.averageUtilization")) {
        "Utilization"
    } else if has(metric, &average) {
        "AverageValue"
    } else {
        "Value"
    };
    if kind == "AverageValue" && text(metric, &format!("{target}.value")) == "0" {
        remove(metric, &format!("{target}.value"));
    }
    set(metric, &format!("{target}.type"), kind);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(metric: Value, of: Of, want: &str) {
        let written = write(std::slice::from_ref(&metric), of);
        assert_eq!(written, want);
        let back: Vec<Value> = serde_json::from_str(&written).expect("it is JSON");
        assert_eq!(back.iter().map(|one| read(one, of)).collect::<Vec<_>>(), [metric]);
    }

    #[test]
    fn metrics_read_back_as_they_were() {
        check(
            json!({"type": "Resource", "resource": {"name": "memory",
                "target": {"type": "Utilization", "averageUtilization": 5}}}),
            Of::Target,
            r#"[{"type":"Resource","resource":{"name":"memory","targetAverageUtilization":5}}]"#,
        );
        check(
            json!({"type": "Object", "object": {
                "describedObject": {"kind": "Ingress", "name": "i"}, "metric": {"name": "rps"},
                "target": {"type": "Value", "value": "10"}}}),
            Of::Target,
            r#"[{"type":"Object","object":{"target":{"kind":"Ingress","name":"i"},"metricName":"rps","targetValue":"10"}}]"#,
        );
        check(
            json!({"type": "Resource", "resource": {"name": "cpu",
                "current": {"averageUtilization": 5, "averageValue": "1"}}}),
            Of::Current,
            r#"[{"type":"Resource","resource":{"name":"cpu","currentAverageUtilization":5,"currentAverageValue":"1"}}]"#,
        );
    }
}
