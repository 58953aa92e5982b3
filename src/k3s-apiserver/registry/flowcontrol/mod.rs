//! `flowcontrol.apiserver.k8s.io/v1`.

use apimachinery::field::{ErrorKind, FieldErrors, Path, supported_values};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::table::{age, column, condition, name, or};
use super::validate::{not_negative, one_of, spec};
use super::value::{at, at_mut, default, default_zero, has, int, key, list, text};
use super::{AGE, Column, Cx, NAME, Object, Strategy};
use crate::bootstrap::flowcontrol::dangling_status;

const MAX_PRECEDENCE: i64 = 10_000;

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
        flow_schema(errs, obj);
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, _old: &Object, errs: &mut FieldErrors) {
        if cx.subresource.is_empty() {
            flow_schema(errs, new);
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

fn flow_schema(errs: &mut FieldErrors, obj: &Object) {
    let (path, body) = (spec(), at(obj, "spec"));
    let precedence = int(body, "matchingPrecedence").unwrap_or_default();
    if precedence <= 0 {
        errs.invalid(path.child("matchingPrecedence"), precedence, "must be a positive value");
    } else if precedence > MAX_PRECEDENCE {
        let detail = format!("must not be greater than {MAX_PRECEDENCE}");
        errs.invalid(path.child("matchingPrecedence"), precedence, detail);
    } else if precedence == 1 && text(obj, "metadata.name") != "exempt" {
        let detail = "only the schema named 'exempt' may have matchingPrecedence 1";
        errs.invalid(path.child("matchingPrecedence"), precedence, detail);
    }
    if has(body, "distinguisherMethod") {
        let kind = text(body, "distinguisherMethod.type");
        if !matches!(kind, "ByNamespace" | "ByUser") {
            let path = path.child("distinguisherMethod").child("type");
            let supported = supported_values(&["ByNamespace", "ByUser"]);
            errs.add(ErrorKind::NotSupported, path, &format!("{{\"Type\":{kind:?}}}"), &supported);
        }
    }
    if text(body, "priorityLevelConfiguration.name").is_empty() {
        let path = path.child("priorityLevelConfiguration").child("name");
        errs.required(path, "must reference a priority level");
    }
    for (n, rule) in list(body, "rules").iter().enumerate() {
        flow_rule(errs, &path.child("rules").index(n), rule);
    }
}

fn flow_rule(errs: &mut FieldErrors, path: &Path, rule: &Value) {
    let subjects = list(rule, "subjects");
    if subjects.is_empty() {
        errs.required(path.child("subjects"), "subjects must contain at least one value");
    }
    for (n, subject) in subjects.iter().enumerate() {
        let path = path.child("subjects").index(n);
        let kind = text(subject, "kind");
        let fields = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
        let Some((_, own)) = fields.iter().find(|(name, _)| *name == kind) else {
            errs.not_supported(path.child("kind"), kind, &["Group", "ServiceAccount", "User"]);
            continue;
        };
        for (_, field) in fields {
            if field == *own {
                if !has(subject, field) {
                    let detail = format!("{field} is required when subject kind is '{kind}'");
                    errs.required(path.child(field), detail);
                } else if text(key(subject, field), "name").is_empty() {
                    errs.required(path.child(field).child("name"), "");
                }
            } else if has(subject, field) {
                let detail = format!("{field} is forbidden when subject kind is not '{kind}'");
                errs.forbidden(path.child(field), detail);
            }
        }
    }
    if list(rule, "resourceRules").is_empty() && list(rule, "nonResourceRules").is_empty() {
        let detail = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errs.required(path, detail);
    }
    for (kind, fields) in [
        ("resourceRules", &["verbs", "apiGroups", "resources"][..]),
        ("nonResourceRules", &["verbs", "nonResourceURLs"][..]),
    ] {
        for (n, one) in list(rule, kind).iter().enumerate() {
            for field in fields {
                if list(one, field).is_empty() {
                    let detail =
                        format!("{kind} must supply at least one {}", field.trim_end_matches('s'));
                    errs.required(path.child(kind).index(n).child(field), detail);
                }
            }
        }
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
        priority_level(errs, obj);
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, _old: &Object, errs: &mut FieldErrors) {
        if cx.subresource.is_empty() {
            priority_level(errs, new);
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

fn priority_level(errs: &mut FieldErrors, obj: &Object) {
    let (path, body) = (spec(), at(obj, "spec"));
    let kind = text(body, "type");
    let exempt = text(obj, "metadata.name") == "exempt";
    if exempt != (kind == "Exempt") {
        errs.invalid(
            path.child("type"),
            kind,
            "must be 'Exempt' if and only if `name` is 'exempt'",
        );
    }
    match kind {
        "Exempt" => {
            if has(body, "limited") {
                errs.forbidden(path.child("limited"), "must be nil if the type is not Limited");
            }
        }
        "Limited" => {
            if has(body, "exempt") {
                errs.forbidden(path.child("exempt"), "must be nil if the type is Limited");
            }
            if has(body, "limited") {
                limited(errs, &path.child("limited"), key(body, "limited"));
            } else {
                errs.required(path.child("limited"), "must not be empty when type is Limited");
            }
        }
        _ => errs.not_supported(path.child("type"), kind, &["Exempt", "Limited"]),
    }
}

fn limited(errs: &mut FieldErrors, path: &Path, limited: &Value) {
    not_negative(
        errs,
        &path.child("nominalConcurrencyShares"),
        key(limited, "nominalConcurrencyShares"),
    );
    let percent = int(limited, "lendablePercent").unwrap_or_default();
    if !(0..=100).contains(&percent) {
        errs.invalid(
            path.child("lendablePercent"),
            percent,
            "must be between 0 and 100, inclusive",
        );
    }
    let (path, response) = (path.child("limitResponse"), key(limited, "limitResponse"));
    let queuing = key(response, "queuing");
    match text(response, "type") {
        "Reject" => {
            if !queuing.is_null() {
                errs.forbidden(
                    path.child("queuing"),
                    "must be nil if limited.limitResponse.type is not Limited",
                );
            }
        }
        "Queue" => {
            if queuing.is_null() {
                errs.required(
                    path.child("queuing"),
                    "must not be empty if limited.limitResponse.type is Limited",
                );
                return;
            }
            let path = path.child("queuing");
            let of = |field: &str| int(queuing, field).unwrap_or_default();
            for field in ["queueLengthLimit", "queues", "handSize"] {
                if of(field) <= 0 {
                    errs.invalid(path.child(field), of(field), "must be positive");
                }
            }
            if of("queues") > 10_000_000 {
                errs.invalid(
                    path.child("queues"),
                    of("queues"),
                    "must not be greater than 10000000",
                );
            }
            if of("handSize") > of("queues") {
                let detail = format!("should not be greater than queues ({})", of("queues"));
                errs.invalid(path.child("handSize"), of("handSize"), detail);
            }
        }
        _ => one_of(errs, &path.child("type"), key(response, "type"), &["Queue", "Reject"]),
    }
}
