//! Validation of pod specs, for pods and every kind with a pod template.
//!
//! One file per part; `validate` calls them in upstream's order, which is the order of the causes.

mod affinity;
mod container;
mod env;
mod probe;
mod scheduling;
mod security;
pub(crate) mod volumes;

use std::collections::HashSet;

use serde_json::Value;

use crate::registry::field::{FieldErrors, Path};
use crate::registry::validate::{
    ip, label_problems, labels, one_of, problems, qualified_problems, subdomain_problems,
};
use crate::registry::value::{at, flag, has, int, key, list, text, texts};

pub(crate) use self::affinity::{node_selector, topology_selector_terms};
pub(crate) use self::scheduling::tolerations_at;

/// Whose spec it is: some rules are only for pods that will run.
#[derive(Clone, Copy)]
pub(crate) enum Of {
    Pod,
    Template,
}

const RESTART: &[&str] = &["Always", "OnFailure", "Never"];
const DNS: &[&str] = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];

/// Validates a pod spec at `path`.
pub(crate) fn validate(errs: &mut FieldErrors, path: &Path, spec: &Value, of: Of) {
    let volumes = volumes::validate(errs, &path.child("volumes"), list(spec, "volumes"), of);
    container::validate_all(errs, path, spec, &volumes);
    restart_policy(errs, path, spec);
    one_of(errs, &path.child("dnsPolicy"), key(spec, "dnsPolicy"), DNS);
    labels(errs, &path.child("nodeSelector"), key(spec, "nodeSelector"));
    security::validate_pod(errs, &path.child("securityContext"), spec);
    host_network(errs, path, spec);
    for (at, secret) in list(spec, "imagePullSecrets").iter().enumerate() {
        if text(secret, "name").is_empty() {
            errs.required(path.child("imagePullSecrets").index(at).child("name"), "");
        }
    }
    affinity::validate(errs, &path.child("affinity"), key(spec, "affinity"));
    dns_config(errs, path, spec);
    readiness_gates(errs, path, spec);
    scheduling::gates(errs, path, spec);
    scheduling::spread(errs, path, spec);
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
    for field in ["priorityClassName", "runtimeClassName"] {
        let name = text(spec, field);
        if !name.is_empty() {
            problems(errs, &path.child(field), name, subdomain_problems(name));
        }
    }
    if has(spec, "preemptionPolicy") {
        let valid = &["PreemptLowerPriority", "Never"];
        one_of(errs, &path.child("preemptionPolicy"), key(spec, "preemptionPolicy"), valid);
    }
    for (name, value) in crate::registry::value::map(spec, "overhead") {
        let path = path.child("overhead").key(name);
        super::resources::resource_value(errs, &path, name, value);
    }
    operating_system(errs, path, spec);
    if int(spec, "terminationGracePeriodSeconds").is_some_and(|n| n < 0)
        && matches!(of, Of::Template)
    {
        let path = path.child("terminationGracePeriodSeconds");
        errs.invalid(
            path,
            key(spec, "terminationGracePeriodSeconds").clone(),
            crate::registry::validate::NOT_NEGATIVE,
        );
    }
}

fn restart_policy(errs: &mut FieldErrors, path: &Path, spec: &Value) {
    match text(spec, "restartPolicy") {
        "" => errs.required(path.child("restartPolicy"), ""),
        policy if RESTART.contains(&policy) => {}
        policy => errs.not_supported(path.child("restartPolicy"), policy, RESTART),
    }
}

fn host_network(errs: &mut FieldErrors, path: &Path, spec: &Value) {
    if !flag(spec, "hostNetwork") {
        return;
    }
    for kind in ["containers", "initContainers"] {
        for (at, container) in list(spec, kind).iter().enumerate() {
            for (n, port) in list(container, "ports").iter().enumerate() {
                let host = int(port, "hostPort").unwrap_or_default();
                if host != 0 && Some(host) != int(port, "containerPort") {
                    let path = path.child(kind).index(at).child("ports").index(n);
                    let detail = "must match `hostPort` when `hostNetwork` is true";
                    errs.invalid(
                        path.child("containerPort"),
                        key(port, "containerPort").clone(),
                        detail,
                    );
                }
            }
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
    if searches.iter().map(|s| s.len() + 1).sum::<usize>() > 2049 {
        let shown = key(config, "searches").clone();
        let detail =
            "must not have more than 2048 characters (including spaces) in the search list";
        errs.invalid(path.child("searches"), shown, detail);
    }
    for (at, search) in searches.iter().enumerate() {
        let name = search.strip_suffix('.').unwrap_or(search);
        if *search != "." {
            let relaxed = name.replace('_', "-");
            let found = subdomain_problems(&relaxed);
            problems(errs, &path.child("searches").index(at), search, found);
        }
    }
    for (at, option) in list(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            errs.required(path.child("options").index(at), "must not be empty");
        }
    }
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
    let mut seen = HashSet::new();
    for (at, claim) in list(spec, "resourceClaims").iter().enumerate() {
        let path = path.child("resourceClaims").index(at);
        let name = text(claim, "name");
        if name.is_empty() {
            errs.required(path.child("name"), "");
        } else if !seen.insert(name) {
            errs.duplicate(path.child("name"), name);
        } else {
            problems(errs, &path.child("name"), name, label_problems(name));
        }
        match (has(claim, "resourceClaimName"), has(claim, "resourceClaimTemplateName")) {
            (true, true) => errs.invalid(
                path,
                claim.clone(),
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            ),
            (false, false) => errs.invalid(
                path,
                claim.clone(),
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            ),
            _ => {}
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

fn operating_system(errs: &mut FieldErrors, path: &Path, spec: &Value) {
    if !has(spec, "os") {
        return;
    }
    let path_os = path.child("os");
    let name = text(spec, "os.name");
    match name {
        "" => errs.required(path_os.child("name"), "cannot be empty"),
        "linux" => {
            if has(spec, "securityContext.windowsOptions") {
                let path = path.child("securityContext").child("windowsOptions");
                errs.forbidden(path, "windows options cannot be set for a linux pod");
            }
        }
        "windows" => {
            for field in ["hostPID", "hostIPC"] {
                if flag(spec, field) {
                    errs.forbidden(path.child(field), "cannot be set for a windows pod");
                }
            }
            let context = at(spec, "securityContext");
            for field in [
                "seLinuxOptions",
                "fsGroup",
                "fsGroupChangePolicy",
                "sysctls",
                "shareProcessNamespace",
                "runAsUser",
                "runAsGroup",
                "supplementalGroups",
                "seccompProfile",
                "appArmorProfile",
            ] {
                if has(context, field) {
                    let path = path.child("securityContext").child(field);
                    errs.forbidden(path, "cannot be set for a windows pod");
                }
            }
        }
        _ => errs.not_supported(path_os, name, &["linux", "windows"]),
    }
}
