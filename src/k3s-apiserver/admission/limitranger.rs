//! LimitRanger: the namespace's defaults for containers, and its bounds.

use std::collections::BTreeSet;

use apimachinery::status::Status;
use serde_json::{Map, Value, json};

use super::Attributes;
use crate::registry::Object;
use crate::registry::core::resources::{nano, pod_total};
use crate::registry::value::{at, key, list, list_mut, map, object, text};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// The limits of a namespace, all ranges together.
fn ranges(cx: &Attributes<'_>) -> Vec<Object> {
    cx.cluster.list("limitranges", cx.namespace).iter().map(|entry| entry.object()).collect()
}

/// Gives containers the default requests and limits of the namespace.
pub(super) fn mutate(cx: &Attributes<'_>, pod: &mut Object) {
    for range in ranges(cx) {
        let (mut limits, mut requests) = (Map::new(), Map::new());
        for item in list(&range, "spec.limits").iter().filter(|i| text(i, "type") == "Container") {
            limits.extend(map(item, "default").clone());
            requests.extend(map(item, "defaultRequest").clone());
        }
        let mut said = Vec::new();
        for (kind, what) in [("containers", "container"), ("initContainers", "init container")] {
            for container in list_mut(pod, &format!("spec.{kind}")) {
                let name = text(container, "name").to_owned();
                for (field, word, defaults) in
                    [("requests", "request", &requests), ("limits", "limit", &limits)]
                {
                    let set = merge(container, field, defaults);
                    if !set.is_empty() {
                        said.push(format!("{} {word} for {what} {name}", set.join(", ")));
                    }
                }
            }
        }
        if !said.is_empty() {
            let text = format!("LimitRanger plugin set: {}", said.join("; "));
            object(pod, "metadata.annotations").insert(ANNOTATION.to_owned(), json!(text));
        }
    }
}

/// Sets what is missing and says what was set.
fn merge(container: &mut Value, field: &str, defaults: &Map<String, Value>) -> Vec<String> {
    let have = map(key(container, "resources"), field);
    let missing: Vec<(String, Value)> = defaults
        .iter()
        .filter(|(name, _)| !have.contains_key(*name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if !missing.is_empty() {
        let into = object(container, &format!("resources.{field}"));
        into.extend(missing.iter().cloned());
    }
    missing.into_iter().map(|(name, _)| name).collect()
}

/// Holds a pod or a claim against the bounds; all violations are told at once.
pub(super) fn validate(cx: &Attributes<'_>, subject: &Object) -> Result<(), Status> {
    for range in ranges(cx) {
        let mut found = Vec::new();
        for item in list(&range, "spec.limits") {
            let kind = text(item, "type");
            match (cx.resource, kind) {
                ("pods", "Container") => {
                    for field in ["containers", "initContainers"] {
                        for container in list(subject, &format!("spec.{field}")) {
                            let resources = key(container, "resources");
                            bounds(
                                item,
                                kind,
                                map(resources, "requests"),
                                map(resources, "limits"),
                                &mut found,
                            );
                        }
                    }
                }
                ("pods", "Pod") => {
                    let spec = at(subject, "spec");
                    bounds(
                        item,
                        kind,
                        &pod_total(spec, "requests"),
                        &pod_total(spec, "limits"),
                        &mut found,
                    );
                }
                ("persistentvolumeclaims", "PersistentVolumeClaim") => {
                    let requests = map(subject, "spec.resources.requests");
                    claim(item, requests, &mut found);
                }
                _ => {}
            }
        }
        if !found.is_empty() {
            let detail =
                if found.len() == 1 { found.remove(0) } else { format!("[{}]", found.join(", ")) };
            return Err(cx.forbidden_for(Some(subject), &detail));
        }
    }
    Ok(())
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn bounds(
    item: &Value,
    kind: &str,
    requests: &Map<String, Value>,
    limits: &Map<String, Value>,
    found: &mut Vec<String>,
) {
    for (name, min) in map(item, "min") {
        let head = format!("minimum {name} usage per {kind} is {}", shown(min));
        match (requests.get(name), limits.get(name)) {
            (None, _) => found.push(format!("{head}.  No request is specified")),
            (Some(have), _) if nano(have) < nano(min) => {
                found.push(format!("{head}, but request is {}", shown(have)));
            }
            (_, Some(have)) if nano(have) < nano(min) => {
                found.push(format!("{head}, but limit is {}", shown(have)));
            }
            _ => {}
        }
    }
    for (name, max) in map(item, "max") {
        let head = format!("maximum {name} usage per {kind} is {}", shown(max));
        match (requests.get(name), limits.get(name)) {
            (_, None) => found.push(format!("{head}.  No limit is specified")),
            (_, Some(have)) if nano(have) > nano(max) => {
                found.push(format!("{head}, but limit is {}", shown(have)));
            }
            (Some(have), _) if nano(have) > nano(max) => {
                found.push(format!("{head}, but request is {}", shown(have)));
            }
            _ => {}
        }
    }
    for (name, ratio) in map(item, "maxLimitRequestRatio") {
        let head = format!("{name} max limit to request ratio per {kind} is {}", shown(ratio));
        let request = requests.get(name).and_then(nano).unwrap_or_default();
        let limit = limits.get(name).and_then(nano).unwrap_or_default();
        if request == 0 {
            found.push(format!("{head}, but no request is specified or request is 0"));
        } else if limit == 0 {
            found.push(format!("{head}, but no limit is specified or limit is 0"));
        } else if limit * 1_000_000_000 > nano(ratio).unwrap_or_default() * request {
            let actual = limit as f64 / request as f64;
            found.push(format!("{head}, but provided ratio is {actual:.6}"));
        }
    }
}

fn claim(item: &Value, requests: &Map<String, Value>, found: &mut Vec<String>) {
    let names: BTreeSet<&String> = map(item, "min").keys().chain(map(item, "max").keys()).collect();
    for name in names {
        let have = requests.get(name);
        for (field, word) in [("min", "minimum"), ("max", "maximum")] {
            let Some(bound) = map(item, field).get(name) else { continue };
            let head = format!("{word} {name} usage per PersistentVolumeClaim is {}", shown(bound));
            match have {
                None => found.push(format!("{head}.  No request is specified")),
                Some(have) => {
                    let bad = if field == "min" {
                        nano(have) < nano(bound)
                    } else {
                        nano(have) > nano(bound)
                    };
                    if bad {
                        found.push(format!("{head}, but request is {}", shown(have)));
                    }
                }
            }
        }
    }
}
