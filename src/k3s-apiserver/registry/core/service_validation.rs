//! Validation of services.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::service::external;
use crate::registry::Object;
use crate::registry::field::{FieldErrors, Path};
use crate::registry::validate::{
    cidr, endpoint_ip, ip, label_problems, labels, port, port_or_name, problems,
    qualified_problems, spec, subdomain_problems,
};
use crate::registry::value::{at, has, int, is_zero, key, list, text, texts};

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

pub(super) fn validate(errs: &mut FieldErrors, obj: &Object) {
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
    for (n, range) in texts(body, "loadBalancerSourceRanges").enumerate() {
        cidr(errs, &path.child("loadBalancerSourceRanges").index(n), range.trim());
    }
    load_balancer(errs, &path, body);
    traffic_policies(errs, &path, body);
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
                "Duplicate value: {{\"Name\":\"\",\"Protocol\":{protocol:?},\"AppProtocol\":null,\"Port\":{number},\"TargetPort\":0,\"NodePort\":0}}"
            );
            errs.add("FieldValueDuplicate", path.index(n), shown);
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
    if kind == "ClientIP" {
        let seconds =
            int(body, "sessionAffinityConfig.clientIP.timeoutSeconds").unwrap_or_default();
        if !(1..=86400).contains(&seconds) {
            let path =
                path.child("sessionAffinityConfig").child("clientIP").child("timeoutSeconds");
            errs.invalid(path, seconds, "must be greater than 0 and less than 86400");
        }
    }
}

fn cluster_ips(errs: &mut FieldErrors, path: &Path, body: &Value) {
    let ips: Vec<&str> = texts(body, "clusterIPs").collect();
    for (n, written) in ips.iter().enumerate() {
        let path = path.child("clusterIPs").index(n);
        if *written == "None" {
            if n > 0 {
                errs.invalid(path, *written, "'None' must be the first and only value");
            }
            continue;
        }
        ip(errs, &path, written);
    }
    if ips.len() > 2 {
        let shown = key(body, "clusterIPs").clone();
        errs.invalid(path.child("clusterIPs"), shown, "may only hold up to 2 values");
    }
    let policy = text(body, "ipFamilyPolicy");
    if has(body, "ipFamilyPolicy")
        && !matches!(policy, "PreferDualStack" | "RequireDualStack" | "SingleStack")
    {
        let valid = &["PreferDualStack", "RequireDualStack", "SingleStack"];
        errs.not_supported(path.child("ipFamilyPolicy"), policy, valid);
    }
    let families: Vec<&str> = texts(body, "ipFamilies").collect();
    for (n, family) in families.iter().enumerate() {
        if !matches!(*family, "IPv4" | "IPv6") {
            errs.not_supported(path.child("ipFamilies").index(n), *family, &["IPv4", "IPv6"]);
        } else if families[..n].contains(family) {
            errs.duplicate(path.child("ipFamilies").index(n), *family);
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

/// A cluster IP may not change while the service keeps needing one.
pub(super) fn validate_update(errs: &mut FieldErrors, new: &Object, old: &Object) {
    let external_name = |obj: &Object| text(obj, "spec.type") == "ExternalName";
    if external_name(new) || external_name(old) {
        return;
    }
    let had = list(old, "spec.clusterIPs").first();
    if had.is_some() && had != list(new, "spec.clusterIPs").first() {
        let shown = at(new, "spec.clusterIPs").clone();
        errs.invalid(spec().child("clusterIPs").index(0), shown, "may not change once set");
    }
    let class = at(old, "spec.loadBalancerClass");
    let both = text(new, "spec.type") == "LoadBalancer" && text(old, "spec.type") == "LoadBalancer";
    if both && class != at(new, "spec.loadBalancerClass") {
        let shown = at(new, "spec.loadBalancerClass").clone();
        errs.invalid(spec().child("loadBalancerClass"), shown, "may not change once set");
    }
}

/// Refuses load balancer addresses that are none.
pub(super) fn validate_status(errs: &mut FieldErrors, obj: &Object) {
    for (n, ingress) in list(obj, "status.loadBalancer.ingress").iter().enumerate() {
        let path = Path::new("status").child("loadBalancer").child("ingress").index(n);
        let address = text(ingress, "ip");
        if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errs.invalid(path.child("ip"), address, detail);
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
