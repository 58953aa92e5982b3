//! `flowcontrol.apiserver.k8s.io/v1`.

mod validation;

use apimachinery::field::FieldErrors;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::table::{age, column, condition, name, or};
use super::value::{at, at_mut, default, default_zero, int, text};
use super::{AGE, Column, Cx, NAME, Object, Strategy};
use crate::bootstrap::flowcontrol::dangling_status;

pub(super) static STRATEGIES: &[&dyn Strategy] = &[&FlowSchema, &PriorityLevelConfiguration];

#[derive(Debug)]
struct FlowSchema;

impl Strategy for FlowSchema {
    fn resource(&self) -> &'static str {
        "flowschemas.flowcontrol.apiserver.k8s.io"
    }

    fn default(&self, obj: &mut Object) {
        if let Some(spec) = at_mut(obj, "spec") {
            default_zero(spec, "matchingPrecedence", 1000);
        }
    }

    /// The server itself says whether the level is there.
    fn prepare_for_create(&self, cx: &Cx<'_>, obj: &mut Object) {
        judge(cx, obj);
    }

    fn prepare_for_update(&self, cx: &Cx<'_>, new: &mut Object, _old: &Object) {
        if cx.subresource.is_empty() {
            judge(cx, new);
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        validation::flow_schema(errs, obj);
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, _old: &Object, errs: &mut FieldErrors) {
        match cx.subresource {
            "" => validation::flow_schema(errs, new),
            _ => validation::status(errs, new),
        }
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column("PriorityLevel"),
            column("MatchingPrecedence"),
            column("DistinguisherMethod"),
            AGE,
            column("MissingPL"),
        ];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let dangling = condition(obj, "Dangling").map_or("?", |c| text(c, "status"));
        vec![
            name(obj),
            json!(or(obj, "spec.priorityLevelConfiguration.name", "<none>")),
            json!(int(obj, "spec.matchingPrecedence").unwrap_or_default()),
            json!(or(obj, "spec.distinguisherMethod.type", "<none>")),
            age(obj, now),
            json!(dangling),
        ]
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn judge(cx: &Cx<'_>, obj: &mut Object) {
    let level = text(obj, "spec.priorityLevelConfiguration.name");
    let resource = "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io";
    let exists = cx.cluster.get(resource, "", level).is_some();
    if let Some(status) = dangling_status(obj, exists, &format!("{:.0}", cx.now)) {
        obj["status"] = status;
    }
}

#[derive(Debug)]
struct PriorityLevelConfiguration;

impl Strategy for PriorityLevelConfiguration {
    fn resource(&self) -> &'static str {
        "prioritylevelconfigurations.flowcontrol.apiserver.k8s.io"
    }

    fn default(&self, obj: &mut Object) {
        if let Some(exempt) = at_mut(obj, "spec.exempt") {
            default(exempt, "nominalConcurrencyShares", 0);
            default(exempt, "lendablePercent", 0);
        }
        if let Some(limited) = at_mut(obj, "spec.limited") {
            default(limited, "nominalConcurrencyShares", 30);
            default(limited, "lendablePercent", 0);
            if let Some(queuing) = at_mut(limited, "limitResponse.queuing") {
                default_zero(queuing, "handSize", 8);
                default_zero(queuing, "queues", 64);
                default_zero(queuing, "queueLengthLimit", 50);
            }
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        validation::priority_level(errs, obj);
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, _old: &Object, errs: &mut FieldErrors) {
        match cx.subresource {
            "" => validation::priority_level(errs, new),
            _ => validation::status(errs, new),
        }
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column("Type"),
            column("NominalConcurrencyShares"),
            column("Queues"),
            column("HandSize"),
            column("QueueLengthLimit"),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let shown = |path: &str| match at(obj, path) {
            Value::Null => json!("<none>"),
            found => found.clone(),
        };
        let queuing = |field: &str| shown(&format!("spec.limited.limitResponse.queuing.{field}"));
        vec![
            name(obj),
            json!(text(obj, "spec.type")),
            shown("spec.limited.nominalConcurrencyShares"),
            queuing("queues"),
            queuing("handSize"),
            queuing("queueLengthLimit"),
            age(obj, now),
        ]
    }

    fn has_generation(&self) -> bool {
        true
    }
}
