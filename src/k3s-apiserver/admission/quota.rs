//! ResourceQuota: what a new object uses, held against the namespace's quotas.
//!
//! `usage` and `exceeded` are pure. The used amounts are those of the quotas' status, which the quota
//! controller keeps; `charges` adds what is admitted between two of its rounds.

use std::sync::Arc;

use apimachinery::status::Status;
use serde_json::{Map, Value, json};

use super::Attributes;
use crate::registry::Object;
use crate::registry::core::resources::{add, nano, pod_total, qos_class, quantity};
use crate::registry::value::{at, has, int, key, list, map, set, text, texts};
use crate::storage::entry::Entry;

/// Refuses what would exceed a quota; otherwise the quotas that it uses, as the cache has them and
/// as they should be stored.
pub(super) fn charges(
    cx: &Attributes<'_>,
    object: &Object,
    old: Option<&Object>,
) -> Result<Vec<(Arc<Entry>, Object)>, Status> {
    let mut out = Vec::new();
    for entry in cx.cluster.list("resourcequotas", cx.namespace) {
        let mut quota = entry.object();
        let name = text(&quota, "metadata.name").to_owned();
        if !in_scope(&quota, cx, object) {
            continue;
        }
        let limited = hard(&quota);
        let missing = unspecified(cx, object, &limited);
        if !missing.is_empty() {
            let detail = format!("failed quota: {name}: must specify {missing}");
            return Err(cx.forbidden_for(Some(object), &detail));
        }
        let wanted = delta(&usage(cx, object), old.map(|old| usage(cx, old)).as_ref());
        let mut used = map(&quota, "status.used").clone();
        let over = exceeded(&limited, &used, &wanted);
        if !over.is_empty() {
            let show = |from: &Map<String, Value>| {
                let shown = |name: &String| {
                    let value = from.get(name).and_then(Value::as_str).unwrap_or("0");
                    format!("{name}={value}")
                };
                over.iter().map(shown).collect::<Vec<_>>().join(",")
            };
            let (wanted, used, limited) = (show(&wanted), show(&used), show(&limited));
            let detail = format!(
                "exceeded quota: {name}, requested: {wanted}, used: {used}, limited: {limited}"
            );
            return Err(cx.forbidden_for(Some(object), &detail));
        }
        let counted: Map<String, Value> =
            wanted.into_iter().filter(|(name, _)| limited.contains_key(name)).collect();
        if !counted.is_empty() {
            add(&mut used, &counted);
            set(&mut quota, "status.used", used);
            out.push((entry, quota));
        }
    }
    Ok(out)
}

/// The limits in force: those that the controller has seen.
fn hard(quota: &Object) -> Map<String, Value> {
    map(quota, "status.hard").clone()
}

/// What one object uses, per resource name of quotas.
fn usage(cx: &Attributes<'_>, object: &Object) -> Map<String, Value> {
    let mut out = Map::new();
    let resource = cx.group_resource();
    let one = || json!("1");
    out.insert(format!("count/{resource}"), one());
    match (cx.group, cx.resource) {
        ("", "pods") => {
            let finished = matches!(text(object, "status.phase"), "Failed" | "Succeeded");
            if finished {
                return out;
            }
            out.insert("pods".to_owned(), one());
            let spec = at(object, "spec");
            for (name, value) in pod_total(spec, "requests") {
                if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
                    out.insert(name.clone(), value.clone());
                }
                out.insert(format!("requests.{name}"), value);
            }
            for (name, value) in pod_total(spec, "limits") {
                out.insert(format!("limits.{name}"), value);
            }
        }
        ("", "services") => {
            out.insert("services".to_owned(), one());
            let ports = list(object, "spec.ports").len();
            match text(object, "spec.type") {
                "NodePort" => {
                    out.insert("services.nodeports".to_owned(), json!(ports.to_string()));
                }
                "LoadBalancer" => {
                    let allocates =
                        at(object, "spec.allocateLoadBalancerNodePorts").as_bool() != Some(false);
                    let count = if allocates {
                        ports
                    } else {
                        list(object, "spec.ports")
                            .iter()
                            .filter(|p| int(p, "nodePort").is_some_and(|n| n != 0))
                            .count()
                    };
                    out.insert("services.nodeports".to_owned(), json!(count.to_string()));
                    out.insert("services.loadbalancers".to_owned(), one());
                }
                _ => {}
            }
        }
        ("", "persistentvolumeclaims") => {
            out.insert("persistentvolumeclaims".to_owned(), one());
            let storage = at(object, "spec.resources.requests.storage");
            let class = text(object, "spec.storageClassName");
            if !storage.is_null() {
                out.insert("requests.storage".to_owned(), storage.clone());
            }
            if !class.is_empty() {
                let prefix = format!("{class}.storageclass.storage.k8s.io");
                out.insert(format!("{prefix}/persistentvolumeclaims"), one());
                out.insert(format!("{prefix}/requests.storage"), storage.clone());
            }
        }
        ("", "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas") => {
            out.insert(cx.resource.to_owned(), one());
        }
        _ => {}
    }
    out
}

/// What is more than before; an update counts only its growth.
fn delta(new: &Map<String, Value>, old: Option<&Map<String, Value>>) -> Map<String, Value> {
    let Some(old) = old else { return new.clone() };
    new.iter()
        .filter_map(|(name, value)| {
            let more = nano(value)? - old.get(name).and_then(nano).unwrap_or_default();
            (more > 0).then(|| (name.clone(), quantity(more, value)))
        })
        .collect()
}

fn exceeded(
    hard: &Map<String, Value>,
    used: &Map<String, Value>,
    wanted: &Map<String, Value>,
) -> Vec<String> {
    hard.iter()
        .filter(|(name, limit)| {
            let more = wanted.get(*name).and_then(nano).unwrap_or_default();
            let have = used.get(*name).and_then(nano).unwrap_or_default();
            more > 0 && Some(have + more) > nano(limit)
        })
        .map(|(name, _)| name.clone())
        .collect()
}

/// Containers that do not say what the quota counts, as upstream lists them.
fn unspecified(cx: &Attributes<'_>, pod: &Object, hard: &Map<String, Value>) -> String {
    if cx.resource != "pods" || !cx.group.is_empty() {
        return String::new();
    }
    let mut parts = Vec::new();
    for name in hard.keys() {
        let (kind, resource) = match name.split_once('.') {
            Some(("requests", resource)) => ("requests", resource),
            Some(("limits", resource)) => ("limits", resource),
            None if matches!(name.as_str(), "cpu" | "memory") => ("requests", name.as_str()),
            _ => continue,
        };
        if !matches!(resource, "cpu" | "memory") {
            continue;
        }
        let mut missing: Vec<&str> = list(pod, "spec.containers")
            .iter()
            .chain(list(pod, "spec.initContainers"))
            .filter(|c| !map(key(c, "resources"), kind).contains_key(resource))
            .map(|c| text(c, "name"))
            .collect();
        missing.sort_unstable();
        if !missing.is_empty() && !map(at(pod, "spec.resources"), kind).contains_key(resource) {
            parts.push(format!("{name} for: {}", missing.join(",")));
        }
    }
    parts.join("; ")
}

/// Does the quota speak of this object?
fn in_scope(quota: &Object, cx: &Attributes<'_>, object: &Object) -> bool {
    let is_pod = cx.resource == "pods" && cx.group.is_empty();
    let is_claim = cx.resource == "persistentvolumeclaims" && cx.group.is_empty();
    let scopes = texts(quota, "spec.scopes").map(|scope| (scope, "Exists", &[][..]));
    let selector = list(quota, "spec.scopeSelector.matchExpressions")
        .iter()
        .map(|term| (text(term, "scopeName"), text(term, "operator"), list(term, "values")));
    let mut any = false;
    let fits = scopes.chain(selector).all(|(scope, operator, values)| {
        any = true;
        match scope {
            "VolumeAttributesClass" => is_claim && claim_fits(operator, values, object),
            _ => is_pod && pod_fits(scope, operator, values, object),
        }
    });
    !any || fits
}

/// By the classes of attributes that the claim has, gets, or asks for.
fn claim_fits(operator: &str, values: &[Value], claim: &Object) -> bool {
    let classes: Vec<&str> = [
        "spec.volumeAttributesClassName",
        "status.currentVolumeAttributesClassName",
        "status.modifyVolumeStatus.targetVolumeAttributesClassName",
    ]
    .iter()
    .map(|path| text(claim, path))
    .filter(|name| !name.is_empty())
    .collect();
    let listed = classes.iter().any(|name| values.iter().any(|value| value == name));
    match operator {
        "In" => listed,
        "NotIn" => !listed,
        "DoesNotExist" => classes.is_empty(),
        _ => !classes.is_empty(),
    }
}

fn pod_fits(scope: &str, operator: &str, values: &[Value], pod: &Object) -> bool {
    let spec = at(pod, "spec");
    match scope {
        "BestEffort" => qos_class(spec) == "BestEffort",
        "NotBestEffort" => qos_class(spec) != "BestEffort",
        "Terminating" => has(spec, "activeDeadlineSeconds"),
        "NotTerminating" => !has(spec, "activeDeadlineSeconds"),
        "PriorityClass" => {
            let class = text(spec, "priorityClassName");
            let listed = values.iter().any(|value| value == class);
            match operator {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => !class.is_empty(),
                "DoesNotExist" => class.is_empty(),
                _ => false,
            }
        }
        "CrossNamespacePodAffinity" => ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
            let affinity = key(at(spec, "affinity"), kind);
            list(affinity, "requiredDuringSchedulingIgnoredDuringExecution")
                .iter()
                .chain(
                    list(affinity, "preferredDuringSchedulingIgnoredDuringExecution")
                        .iter()
                        .map(|t| key(t, "podAffinityTerm")),
                )
                .any(|term| has(term, "namespaceSelector") || !list(term, "namespaces").is_empty())
        }),
        _ => false,
    }
}
