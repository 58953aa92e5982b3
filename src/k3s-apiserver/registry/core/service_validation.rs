//! Validation of services.

use std::collections::HashSet;

use apimachinery::field::{ErrorKind, FieldErrors, Path};
use apimachinery::validation::{label_problems, qualified_problems, subdomain_problems};
use serde_json::{Value, json};

use super::service::external;
use crate::registry::Object;
use crate::registry::validate::{
    IMMUTABLE, cidr, endpoint_ip, ip, labels, one_of, port, port_or_name, problems, spec,
};
use crate::registry::value::{at, has, int, is_zero, key, list, text, texts};

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

pub(super) fn validate(errs: &mut FieldErrors, obj: &Object) {
    topology_mode(errs, obj);
    let (path, body) = (spec(), at(obj, "spec"));
    let kind = text(body, "type");
    let headless = texts(body, "clusterIPs").next() == Some("None");
    if list(body, "ports").is_empty() && !headless && kind != "ExternalName" {
        errs.required(path.child("ports"), "");
    }
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            let detail = format!("may not be set to 'None' for {kind} services");
            errs.invalid(path.child("clusterIPs").index(0), "None", detail);
        }
        "ExternalName" => external_name(errs, &path, body),
        _ => {}
    }
    ports(errs, &path.child("ports"), body);
    labels(errs, &path.child("selector"), key(body, "selector"));
    affinity(errs, &path, body);
    cluster_ips(errs, &path, body);
    for (n, written) in texts(body, "externalIPs").enumerate() {
        let path = path.child("externalIPs").index(n);
        if let Some(ip) = ip(errs, &path, written) {
            endpoint_ip(errs, &path, ip);
        }
    }
    if kind.is_empty() {
        errs.required(path.child("type"), "");
    } else if !TYPES.contains(&kind) {
        errs.not_supported(path.child("type"), kind, TYPES);
    }
    node_ports(errs, &path.child("ports"), body);
    source_ranges(errs, &path, obj);
    load_balancer(errs, &path, body);
    traffic_policies(errs, &path, body);
}

/// The old and the new annotation for topology aware routing say the same.
fn topology_mode(errs: &mut FieldErrors, obj: &Object) {
    const OLD: &str = "service.kubernetes.io/topology-aware-hints";
    const NEW: &str = "service.kubernetes.io/topology-mode";
    let annotations = at(obj, "metadata.annotations");
    let (old, new) = (key(annotations, OLD), key(annotations, NEW));
    if !old.is_null() && !new.is_null() && old != new {
        let path = Path::new("metadata").child("annotations").key(NEW);
        errs.invalid(
            path,
            new.clone(),
            format!("must match annotations[{OLD}] when both are specified"),
        );
    }
}

/// Whom a load balancer lets in, by the field or by the annotation that was before it.
fn source_ranges(errs: &mut FieldErrors, path: &Path, obj: &Object) {
    const ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let listed: Vec<&str> = texts(obj, "spec.loadBalancerSourceRanges").collect();
    let annotated = key(at(obj, "metadata.annotations"), ANNOTATION).as_str();
    let (path, ranges) = match (listed.is_empty(), annotated) {
        (true, None) => return,
        (true, Some(text)) => {
            let ranges = text.split(',').filter(|_| !text.trim().is_empty()).collect();
            (Path::new("metadata").child("annotations").key(ANNOTATION), ranges)
        }
        (false, _) => (path.child("LoadBalancerSourceRanges"), listed),
    };
    if text(obj, "spec.type") != "LoadBalancer" {
        errs.forbidden(&path, "may only be used when `type` is 'LoadBalancer'");
    }
    let field = has(obj, "spec.loadBalancerSourceRanges");
    for (n, range) in ranges.iter().enumerate() {
        let here = if field { path.index(n) } else { path.clone() };
        cidr(errs, &here, range.trim());
    }
}

fn external_name(errs: &mut FieldErrors, path: &Path, body: &Value) {
    if !list(body, "clusterIPs").is_empty() {
        errs.forbidden(path.child("clusterIPs"), "may not be set for ExternalName services");
    }
    for field in ["ipFamilies", "ipFamilyPolicy"] {
        if !is_zero(key(body, field)) {
            errs.forbidden(path.child(field), "may not be set for ExternalName services");
        }
    }
    let name = text(body, "externalName");
    if name.is_empty() {
        errs.required(path.child("externalName"), "");
    } else {
        let plain = name.strip_suffix('.').unwrap_or(name);
        problems(errs, &path.child("externalName"), plain, subdomain_problems(plain));
    }
}

fn ports(errs: &mut FieldErrors, path: &Path, body: &Value) {
    let all = list(body, "ports");
    let mut names = HashSet::new();
    for (n, one) in all.iter().enumerate() {
        let path = path.index(n);
        let name = text(one, "name");
        if name.is_empty() {
            if all.len() > 1 {
                errs.required(path.child("name"), "");
            }
        } else {
            problems(errs, &path.child("name"), name, label_problems(name));
            if !names.insert(name) {
                errs.duplicate(path.child("name"), name);
            }
        }
        port(errs, &path.child("port"), key(one, "port"));
        match text(one, "protocol") {
            "" => errs.required(path.child("protocol"), ""),
            protocol if PROTOCOLS.contains(&protocol) => {}
            protocol => errs.not_supported(path.child("protocol"), protocol, PROTOCOLS),
        }
        port_or_name(errs, &path.child("targetPort"), key(one, "targetPort"));
        let app = text(one, "appProtocol");
        if has(one, "appProtocol") {
            problems(errs, &path.child("appProtocol"), app, qualified_problems(app));
        }
    }
}

/// Node ports belong to some types, and no port may come twice.
fn node_ports(errs: &mut FieldErrors, path: &Path, body: &Value) {
    let mut seen = HashSet::new();
    if text(body, "type") == "ClusterIP" {
        for (n, one) in list(body, "ports").iter().enumerate() {
            if !is_zero(key(one, "nodePort")) {
                let detail = "may not be used when `type` is 'ClusterIP'";
                errs.forbidden(path.index(n).child("nodePort"), detail);
            }
        }
    }
    for (n, one) in list(body, "ports").iter().enumerate() {
        let (protocol, number) = (text(one, "protocol"), int(one, "port").unwrap_or_default());
        if !seen.insert((protocol, number)) {
            let shown = format!(
                "{{\"Name\":\"\",\"Protocol\":{protocol:?},\"AppProtocol\":null,\"Port\":{number},\"TargetPort\":0,\"NodePort\":0}}"
            );
            errs.add(ErrorKind::Duplicate, path.index(n), &shown, "");
        }
    }
}

fn affinity(errs: &mut FieldErrors, path: &Path, body: &Value) {
    let kind = text(body, "sessionAffinity");
    if kind.is_empty() {
        errs.required(path.child("sessionAffinity"), "");
    } else if !matches!(kind, "ClientIP" | "None") {
        errs.not_supported(path.child("sessionAffinity"), kind, &["ClientIP", "None"]);
    }
    let config = key(body, "sessionAffinityConfig");
    let here = path.child("sessionAffinityConfig");
    if kind == "None" && !config.is_null() {
        errs.forbidden(here, "must not be set when session affinity is None");
    } else if kind == "ClientIP" {
        let seconds = int(config, "clientIP.timeoutSeconds").unwrap_or_default();
        if !(1..=86400).contains(&seconds) {
            let path = here.child("clientIP").child("timeoutSeconds");
            errs.invalid(path, seconds, "must be greater than 0 and less than 86400");
        }
    }
}

/// Addresses, families and the policy that says how many of them.
fn cluster_ips(errs: &mut FieldErrors, path: &Path, body: &Value) {
    if text(body, "type") == "ExternalName" {
        return;
    }
    let (one, ips) = (text(body, "clusterIP"), texts(body, "clusterIPs").collect::<Vec<_>>());
    let here = path.child("clusterIPs");
    let shown = || key(body, "clusterIPs").clone();
    match (one.is_empty(), ips.first()) {
        (false, None) => errs.required(&here, ""),
        (false, Some(first)) if *first != one => {
            errs.invalid(&here, shown(), "first value must match `clusterIP`");
        }
        (true, Some(_)) => {
            errs.invalid(&here, shown(), "must be empty when `clusterIP` is not specified");
        }
        _ => {}
    }
    let families: Vec<&str> = texts(body, "ipFamilies").collect();
    for (n, family) in families.iter().enumerate() {
        let path = path.child("ipFamilies").index(n);
        if !matches!(*family, "IPv4" | "IPv6") {
            errs.not_supported(&path, *family, &["IPv4", "IPv6"]);
        }
        if families[..n].contains(family) {
            errs.duplicate(path, *family);
        }
    }
    if has(body, "ipFamilyPolicy") {
        let valid = &["PreferDualStack", "RequireDualStack", "SingleStack"];
        one_of(errs, &path.child("ipFamilyPolicy"), key(body, "ipFamilyPolicy"), valid);
    }
    let mut bad = false;
    let mut parsed = Vec::new();
    for (n, written) in ips.iter().enumerate() {
        if n == 0 && *written == "None" {
            if ips.len() > 1 {
                bad = true;
                errs.invalid(&here, shown(), "'None' must be the first and only value");
            }
            continue;
        }
        let ip = ip(errs, &here.index(n), written);
        bad |= ip.is_none();
        parsed.extend(ip);
    }
    if ips.len() > 2 {
        errs.invalid(&here, shown(), "may only hold up to 2 values");
    }
    if bad {
        return;
    }
    if ips.len() > 1 && parsed.iter().filter(|ip| ip.is_ipv4()).count() != 1 {
        let detail = "may specify no more than one IP for each IP family";
        errs.invalid(&here, shown(), detail);
    }
    for (n, (ip, family)) in parsed.iter().zip(&families).enumerate() {
        if matches!((*family, ip.is_ipv4()), ("IPv4", false) | ("IPv6", true)) {
            let detail = format!("expected an {family} value as indicated by `ipFamilies[{n}]`");
            errs.invalid(here.index(n), ips[n], detail);
        }
    }
}

fn load_balancer(errs: &mut FieldErrors, path: &Path, body: &Value) {
    let is = text(body, "type") == "LoadBalancer";
    if !is && has(body, "allocateLoadBalancerNodePorts") {
        let detail = "may only be used when `type` is 'LoadBalancer'";
        errs.forbidden(path.child("allocateLoadBalancerNodePorts"), detail);
    }
    if has(body, "loadBalancerClass") {
        let class = text(body, "loadBalancerClass");
        if !is {
            let detail = "may only be used when `type` is 'LoadBalancer'";
            errs.forbidden(path.child("loadBalancerClass"), detail);
        } else {
            problems(errs, &path.child("loadBalancerClass"), class, qualified_problems(class));
        }
    }
}

fn traffic_policies(errs: &mut FieldErrors, path: &Path, body: &Value) {
    let policy = text(body, "externalTrafficPolicy");
    if !external(body) {
        if !policy.is_empty() {
            let detail = "may only be set for externally-accessible services";
            errs.invalid(path.child("externalTrafficPolicy"), policy, detail);
        }
    } else if policy.is_empty() {
        errs.required(path.child("externalTrafficPolicy"), "");
    } else if !matches!(policy, "Cluster" | "Local") {
        errs.not_supported(path.child("externalTrafficPolicy"), policy, &["Cluster", "Local"]);
    }
    let number = int(body, "healthCheckNodePort").unwrap_or_default();
    if number != 0 && !super::service_alloc::needs_health_check(&json!({"spec": body})) {
        let detail =
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errs.invalid(path.child("healthCheckNodePort"), number, detail);
    }
    if number != 0 && !(1..=65535).contains(&number) {
        let detail = "must be between 1 and 65535, inclusive";
        errs.invalid(path.child("healthCheckNodePort"), number, detail);
    }
    let policy = text(body, "internalTrafficPolicy");
    if has(body, "internalTrafficPolicy") && !matches!(policy, "Cluster" | "Local") {
        errs.not_supported(path.child("internalTrafficPolicy"), policy, &["Cluster", "Local"]);
    }
    let spread = text(body, "trafficDistribution");
    if has(body, "trafficDistribution")
        && !matches!(spread, "PreferClose" | "PreferSameNode" | "PreferSameZone")
    {
        let valid = &["PreferClose", "PreferSameNode", "PreferSameZone"];
        errs.not_supported(path.child("trafficDistribution"), spread, valid);
    }
}

/// Addresses and families stay; a second one may come, or go when the policy says so.
pub(super) fn validate_update(errs: &mut FieldErrors, new: &Object, old: &Object) {
    let external_name = |obj: &Object| text(obj, "spec.type") == "ExternalName";
    if !external_name(new) && !external_name(old) {
        stacks(errs, new, old);
    }
    let balanced = |obj: &Object| text(obj, "spec.type") == "LoadBalancer";
    let class = "spec.loadBalancerClass";
    if balanced(new) && balanced(old) && at(new, class) != at(old, class) {
        errs.invalid(class, at(new, class).clone(), "may not change once set");
    }
    if super::service_alloc::needs_health_check(old)
        && super::service_alloc::needs_health_check(new)
        && int(new, "spec.healthCheckNodePort") != int(old, "spec.healthCheckNodePort")
    {
        errs.forbidden(spec().child("healthCheckNodePort"), IMMUTABLE);
    }
}

fn stacks(errs: &mut FieldErrors, new: &Object, old: &Object) {
    let headless = |obj: &Object| {
        let ips: Vec<&str> = texts(obj, "spec.clusterIPs").collect();
        ips == ["None"]
    };
    let single = text(new, "spec.ipFamilyPolicy") == "SingleStack";
    let policy = |errs: &mut FieldErrors, what: &str| {
        let shown = at(new, "spec.ipFamilyPolicy").clone();
        let detail = format!("must be set to 'SingleStack' when releasing the secondary {what}");
        errs.invalid(spec().child("ipFamilyPolicy"), shown, detail);
    };
    let both_headless = headless(new) && headless(old);
    let same_kind = headless(new) == headless(old);
    for (field, what) in [("clusterIPs", "clusterIP"), ("ipFamilies", "ipFamily")] {
        if both_headless || (field == "ipFamilies" && !same_kind) {
            continue;
        }
        let full = format!("spec.{field}");
        let (had, have) = (list(old, &full), list(new, &full));
        let path = spec().child(field);
        let shown = || at(new, &full).clone();
        let fixed = "may not change once set";
        if had.len() == have.len() {
            for (n, (a, b)) in had.iter().zip(have).enumerate() {
                if a != b {
                    let n = if field == "clusterIPs" { n } else { 0 };
                    errs.invalid(path.index(n), shown(), fixed);
                }
            }
            continue;
        }
        if had.len() > have.len() && have.is_empty() {
            errs.invalid(path.index(0), shown(), format!("primary {what} can not be unset"));
        }
        if let (Some(a), Some(b)) = (had.first(), have.first())
            && a != b
        {
            errs.invalid(path.index(0), at(new, "spec.clusterIPs").clone(), fixed);
        }
        if had.len() > have.len() && have.len() == 1 && !single {
            policy(errs, what);
        }
    }
}

/// Refuses load balancer addresses that are none.
pub(super) fn validate_status(errs: &mut FieldErrors, obj: &Object) {
    let path = Path::new("status").child("loadBalancer").child("ingress");
    let all = list(obj, "status.loadBalancer.ingress");
    if text(obj, "spec.type") != "LoadBalancer" && !all.is_empty() {
        errs.forbidden(path, "may only be used when `spec.type` is 'LoadBalancer'");
        return;
    }
    for (n, ingress) in all.iter().enumerate() {
        let (path, address) = (path.index(n), text(ingress, "ip"));
        if !address.is_empty() {
            ip(errs, &path.child("ip"), address);
        }
        let mode = path.child("ipMode");
        match (has(ingress, "ipMode"), address.is_empty()) {
            (false, false) => errs.required(mode, "must be specified when `ip` is set"),
            (true, true) => errs.forbidden(mode, "may not be specified when `ip` is not set"),
            (true, false) => one_of(errs, &mode, key(ingress, "ipMode"), &["Proxy", "VIP"]),
            (false, true) => {}
        }
        let name = text(ingress, "hostname");
        if !name.is_empty() {
            problems(errs, &path.child("hostname"), name, subdomain_problems(name));
            if name.parse::<std::net::IpAddr>().is_ok() {
                let detail = "must be a DNS name, not an IP address";
                errs.invalid(path.child("hostname"), name, detail);
            }
        }
    }
}

pub(super) fn warnings(obj: &Object) -> Vec<String> {
    let mut out = Vec::new();
    if !list(obj, "spec.externalIPs").is_empty() {
        out.push(
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters"
                .to_owned(),
        );
    }
    if !text(obj, "spec.loadBalancerIP").is_empty() {
        out.push("spec.loadBalancerIP is deprecated, and may be ignored by some load balancer implementations".to_owned());
    }
    if texts(obj, "spec.clusterIPs").next() == Some("None")
        && text(obj, "spec.sessionAffinity") == "ClientIP"
    {
        out.push("spec.SessionAffinity is ignored for headless services".to_owned());
    }
    if text(obj, "spec.trafficDistribution") == "PreferClose" {
        out.push(
            "spec.trafficDistribution: PreferClose is deprecated, use PreferSameZone instead"
                .to_owned(),
        );
    }
    out
}
