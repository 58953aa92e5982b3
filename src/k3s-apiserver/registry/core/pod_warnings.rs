//! Warnings that pods and pod templates earn.

use std::collections::HashSet;

use serde_json::Value;

use crate::registry::Object;
use crate::registry::value::{at, key, list, map, text};

/// Node labels that were renamed: old, new.
pub(super) const RENAMED: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
];

/// The warnings of a pod; a pod whose spec did not change earns none.
pub(super) fn of_pod(pod: &Object, old: Option<&Object>) -> Vec<String> {
    if old.is_some_and(|old| {
        at(old, "spec") == at(pod, "spec")
            && at(old, "metadata.annotations") == at(pod, "metadata.annotations")
    }) {
        return Vec::new();
    }
    of_spec("spec", at(pod, "spec"))
}

/// The warnings of a template at `path`.
pub(crate) fn of_template(path: &str, template: &Value) -> Vec<String> {
    of_spec(&format!("{path}.spec"), at(template, "spec"))
}

fn of_spec(path: &str, spec: &Value) -> Vec<String> {
    let mut out = Vec::new();
    for name in map(spec, "nodeSelector").keys() {
        if let Some((_, new)) = RENAMED.iter().find(|(old, _)| old == name) {
            out.push(format!(
                "{path}.nodeSelector[{name}]: deprecated since v1.14; use \"{new}\" instead"
            ));
        }
    }
    for (n, constraint) in list(spec, "topologySpreadConstraints").iter().enumerate() {
        matches_nothing(&format!("{path}.topologySpreadConstraints[{n}]"), constraint, &mut out);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let affinity = key(at(spec, "affinity"), kind);
        let path = format!("{path}.affinity.{kind}");
        let (required, preferred) = (
            "requiredDuringSchedulingIgnoredDuringExecution",
            "preferredDuringSchedulingIgnoredDuringExecution",
        );
        for (n, term) in list(affinity, required).iter().enumerate() {
            matches_nothing(&format!("{path}.{required}[{n}]"), term, &mut out);
        }
        for (n, term) in list(affinity, preferred).iter().enumerate() {
            let path = format!("{path}.{preferred}[{n}].podAffinityTerm");
            matches_nothing(&path, key(term, "podAffinityTerm"), &mut out);
        }
    }
    for (n, alias) in list(spec, "hostAliases").iter().enumerate() {
        let ip = text(alias, "ip");
        if list(spec, "hostAliases")[..n].iter().any(|other| text(other, "ip") == ip) {
            let first = list(spec, "hostAliases")
                .iter()
                .position(|other| text(other, "ip") == ip)
                .unwrap_or_default();
            out.push(format!("{path}.hostAliases[{n}].ip: duplicate IP \"{ip}\" (previously seen at {path}.hostAliases[{first}].ip)"));
        }
    }
    for (n, secret) in list(spec, "imagePullSecrets").iter().enumerate() {
        if text(secret, "name").is_empty() {
            out.push(format!("{path}.imagePullSecrets[{n}]: invalid empty name \"\""));
        }
    }
    for kind in ["initContainers", "containers"] {
        for (n, container) in list(spec, kind).iter().enumerate() {
            of_container(&format!("{path}.{kind}[{n}]"), container, &mut out);
        }
    }
    duplicate_ports(path, spec, &mut out);
    if at(spec, "terminationGracePeriodSeconds").as_i64().is_some_and(|n| n < 0) {
        out.push(format!("{path}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    out
}

/// A term that names pods by a selector, which it does not have.
fn matches_nothing(path: &str, term: &Value, out: &mut Vec<String>) {
    if key(term, "labelSelector").is_null() {
        let text = "a null labelSelector results in matching no pod";
        out.push(format!("{path}.labelSelector: {text}"));
    }
}

fn of_container(path: &str, container: &Value, out: &mut Vec<String>) {
    let env = list(container, "env");
    let mut seen: HashSet<&str> = HashSet::new();
    for (n, one) in env.iter().enumerate() {
        let name = text(one, "name");
        if !seen.insert(name) && !name.is_empty() {
            out.push(format!("{path}.env[{n}]: hides previous definition of \"{name}\", which may be dropped when using apply"));
        }
    }
    for kind in ["limits", "requests"] {
        for (name, value) in map(key(container, "resources"), kind) {
            let fractional = value.as_str().is_some_and(|text| text.ends_with('m'))
                && (name == "memory" || name == "ephemeral-storage");
            if fractional {
                out.push(format!("{path}.resources.{kind}[{name}]: fractional byte value {value} is invalid, must be an integer"));
            }
        }
    }
}

/// The same port twice in one pod is mostly a mistake.
fn duplicate_ports(path: &str, spec: &Value, out: &mut Vec<String>) {
    let mut seen: Vec<(String, String)> = Vec::new();
    for (n, container) in list(spec, "containers").iter().enumerate() {
        for (p, port) in list(container, "ports").iter().enumerate() {
            let here = format!("{path}.containers[{n}].ports[{p}]");
            let what = format!("{}/{}", key(port, "containerPort"), text(port, "protocol"));
            match seen.iter().find(|(known, _)| *known == what) {
                Some((_, first)) => {
                    out.push(format!("{here}: duplicate port definition with {first}"))
                }
                None => seen.push((what, here)),
            }
        }
    }
}
