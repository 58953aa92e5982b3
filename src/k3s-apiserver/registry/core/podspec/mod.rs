//! Validation of pod specs, for pods and every kind with a pod template.
//!
//! One file per part; `validate` calls them in upstream's order, which is the order of the causes.

mod affinity;
mod container;
mod env;
mod probe;
mod scheduling;
mod security;
mod volume_sources;
pub(crate) mod volumes;
mod windows;

use std::collections::HashSet;

use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::{label_problems, qualified_problems, subdomain_problems};
use serde_json::Value;

use crate::registry::validate::{ip, labels, one_of, problems};
use crate::registry::value::{flag, has, int, key, list, text, texts};

pub(crate) use self::affinity::{node_selector, topology_selector_terms};
pub(crate) use self::container::local_path;
pub(crate) use self::scheduling::tolerations_at;
pub(crate) use self::volume_sources::{csi_driver_name, persistent_source};

/// Whose spec it is: some rules are only for pods that will run.
#[derive(Clone, Copy)]
pub(crate) enum Of<'a> {
    /// A pod of this name.
    Pod(&'a str),
    Template,
}

const RESTART: &[&str] = &["Always", "OnFailure", "Never"];
const DNS: &[&str] = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];

const SEARCH: &str = r"a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

/// Validates a pod spec at `path`.
pub(crate) fn validate(errs: &mut FieldErrors, path: &Path, spec: &Value, of: Of<'_>) {
    if !has(spec, "terminationGracePeriodSeconds") {
        errs.required(path.child("terminationGracePeriodSeconds"), "");
    }
    let volumes = volumes::validate(errs, &path.child("volumes"), list(spec, "volumes"), of);
    claims(errs, &path.child("resourceClaims"), list(spec, "resourceClaims"));
    container::validate_all(errs, path, spec, &volumes, of);
    super::resources::validate_pod_resources(errs, &path.child("resources"), spec);
    host_network(errs, path, spec, of);
    restart_policy(errs, path, spec);
    match text(spec, "dnsPolicy") {
        "" => errs.required(path.child("dnsPolicy"), ""),
        _ => one_of(errs, &path.child("dnsPolicy"), key(spec, "dnsPolicy"), DNS),
    }
    labels(errs, &path.child("nodeSelector"), key(spec, "nodeSelector"));
    security::validate_pod(errs, &path.child("securityContext"), spec);
    affinity::validate(errs, &path.child("affinity"), key(spec, "affinity"));
    dns_config(errs, path, spec);
    readiness_gates(errs, path, spec);
    scheduling::gates(errs, path, spec);
    scheduling::spread(errs, path, spec);
    windows::host_process(errs, path, spec);
    host_users(errs, path, spec);
    names(errs, path, spec);
    if let Some(seconds) = int(spec, "activeDeadlineSeconds")
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let path = path.child("activeDeadlineSeconds");
        errs.invalid(path, seconds, "must be between 1 and 2147483647, inclusive");
    }
    for field in ["hostname", "subdomain"] {
        let name = text(spec, field);
        if !name.is_empty() {
            problems(errs, &path.child(field), name, label_problems(name));
        }
    }
    scheduling::tolerations(errs, path, spec);
    host_aliases(errs, path, spec);
    let class = text(spec, "priorityClassName");
    if !class.is_empty() {
        problems(errs, &path.child("priorityClassName"), class, subdomain_problems(class));
    }
    if has(spec, "runtimeClassName") {
        let name = text(spec, "runtimeClassName");
        problems(errs, &path.child("runtimeClassName"), name, subdomain_problems(name));
    }
    if has(spec, "preemptionPolicy") {
        let path = path.child("preemptionPolicy");
        match text(spec, "preemptionPolicy") {
            "" => errs.required(path, ""),
            _ => one_of(
                errs,
                &path,
                key(spec, "preemptionPolicy"),
                &["PreemptLowerPriority", "Never"],
            ),
        }
    }
    if has(spec, "overhead") {
        let limits = serde_json::json!({"limits": key(spec, "overhead")});
        super::resources::validate_resources(errs, &path.child("overhead"), &limits);
    }
    windows::operating_system(errs, path, spec);
}

/// Every container of a spec with its path: init, regular and ephemeral ones.
fn each_container<'a>(path: &Path, spec: &'a Value) -> Vec<(Path, &'a Value)> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|kind| {
            let path = path.child(kind);
            list(spec, kind).iter().enumerate().map(move |(at, one)| (path.index(at), one))
        })
        .collect()
}

fn restart_policy(errs: &mut FieldErrors, path: &Path, spec: &Value) {
    match text(spec, "restartPolicy") {
        "" => errs.required(path.child("restartPolicy"), ""),
        policy if RESTART.contains(&policy) => {}
        policy => errs.not_supported(path.child("restartPolicy"), policy, RESTART),
    }
}

/// On the host's network a port is the host's port. Templates may leave it to be filled in.
fn host_network(errs: &mut FieldErrors, path: &Path, spec: &Value, of: Of<'_>) {
    if !flag(spec, "hostNetwork") {
        return;
    }
    for (at, container) in list(spec, "containers").iter().enumerate() {
        for (n, port) in list(container, "ports").iter().enumerate() {
            let host = int(port, "hostPort").unwrap_or_default();
            let unset = host == 0 && matches!(of, Of::Template);
            if !unset && host != int(port, "containerPort").unwrap_or_default() {
                let path = path.child("containers").index(at).child("ports").index(n);
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errs.invalid(path.child("hostPort"), host, detail);
            }
        }
    }
}

/// A user namespace of its own goes with no other namespace of the host.
fn host_users(errs: &mut FieldErrors, path: &Path, spec: &Value) {
    if key(spec, "hostUsers") != &Value::Bool(false) {
        return;
    }
    for (field, shown) in
        [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")]
    {
        if flag(spec, field) {
            errs.forbidden(path.child(shown), "when `pod.Spec.HostUsers` is false");
        }
    }
}

fn dns_config(errs: &mut FieldErrors, path: &Path, spec: &Value) {
    let config = key(spec, "dnsConfig");
    let path = path.child("dnsConfig");
    let servers = list(config, "nameservers");
    if text(spec, "dnsPolicy") == "None" {
        if config.is_null() {
            errs.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        }
        if servers.is_empty() {
            errs.required(
                path.child("nameservers"),
                "must provide at least one DNS nameserver when `dnsPolicy` is None",
            );
            return;
        }
    }
    if servers.len() > 3 {
        let shown = key(config, "nameservers").clone();
        errs.invalid(path.child("nameservers"), shown, "must not have more than 3 nameservers");
    }
    for (at, server) in texts(config, "nameservers").enumerate() {
        ip(errs, &path.child("nameservers").index(at), server);
    }
    let searches: Vec<&str> = texts(config, "searches").collect();
    if searches.len() > 32 {
        let shown = key(config, "searches").clone();
        errs.invalid(path.child("searches"), shown, "must not have more than 32 search paths");
    }
    if searches.join(" ").len() > 2048 {
        let shown = key(config, "searches").clone();
        let detail =
            "must not have more than 2048 characters (including spaces) in the search list";
        errs.invalid(path.child("searches"), shown, detail);
    }
    for (at, search) in searches.iter().enumerate().filter(|(_, search)| **search != ".") {
        let name = search.strip_suffix('.').unwrap_or(search);
        problems(errs, &path.child("searches").index(at), name, search_problems(name));
    }
    for (at, option) in list(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            errs.required(path.child("options").index(at), "must not be empty");
        }
    }
}

/// A search domain: labels may begin with an underscore, and have some inside.
fn search_problems(name: &str) -> Vec<String> {
    let label = |part: &str| {
        let part = part.strip_prefix('_').unwrap_or(part).as_bytes();
        let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        part.first().is_some_and(plain)
            && part.last().is_some_and(plain)
            && part.iter().all(|b| plain(b) || b"-_".contains(b))
    };
    let mut out = Vec::new();
    if name.len() > 253 {
        out.push("must be no more than 253 characters".to_owned());
    }
    if !name.split('.').all(label) {
        out.push(SEARCH.to_owned());
    }
    out
}

fn readiness_gates(errs: &mut FieldErrors, path: &Path, spec: &Value) {
    for (at, gate) in list(spec, "readinessGates").iter().enumerate() {
        let path = path.child("readinessGates").index(at).child("conditionType");
        let kind = text(gate, "conditionType");
        problems(errs, &path, kind, qualified_problems(kind));
    }
}

fn names(errs: &mut FieldErrors, path: &Path, spec: &Value) {
    for field in ["serviceAccountName", "nodeName"] {
        let name = text(spec, field);
        if !name.is_empty() {
            problems(errs, &path.child(field), name, subdomain_problems(name));
        }
    }
}

/// `resourceClaims`: devices that the pod's containers may name.
fn claims(errs: &mut FieldErrors, path: &Path, claims: &[Value]) {
    let mut seen = HashSet::new();
    for (at, claim) in claims.iter().enumerate() {
        let path = path.index(at);
        let name = text(claim, "name");
        if name.is_empty() {
            errs.required(path.child("name"), "");
        } else if !seen.insert(name) {
            errs.duplicate(path.child("name"), name);
        } else {
            problems(errs, &path.child("name"), name, label_problems(name));
        }
        let fields = ["resourceClaimName", "resourceClaimTemplateName"];
        let shown = || super::super::internal::renamed(claim);
        match fields.map(|field| has(claim, field)) {
            [true, true] => errs.invalid(
                &path,
                shown(),
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            ),
            [false, false] => errs.invalid(
                &path,
                shown(),
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            ),
            _ => {}
        }
        for field in fields.into_iter().filter(|field| has(claim, field)) {
            let name = text(claim, field);
            problems(errs, &path.child(field), name, subdomain_problems(name));
        }
    }
}

fn host_aliases(errs: &mut FieldErrors, path: &Path, spec: &Value) {
    for (n, alias) in list(spec, "hostAliases").iter().enumerate() {
        let path = path.child("hostAliases").index(n);
        ip(errs, &path.child("ip"), text(alias, "ip"));
        for (at, name) in texts(alias, "hostnames").enumerate() {
            problems(errs, &path.child("hostnames").index(at), name, subdomain_problems(name));
        }
    }
}
