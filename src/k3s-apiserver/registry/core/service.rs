//! Services: what follows from their type, and what an update carries over.

use apimachinery::field::FieldErrors;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{service_alloc, service_table, service_validation};
use crate::companions::{self, Companion};
use crate::registry::value::{
    at, at_mut, carry, default, default_zero, has, is_zero, key, list, list_mut, remove, set, text,
};
use crate::registry::{Column, Cx, Guard, NameRule, Object, Selectable, Strategy};

#[derive(Debug)]
pub(super) struct Service;

impl Strategy for Service {
    fn resource(&self) -> &'static str {
        "services"
    }

    fn default(&self, obj: &mut Object) {
        let Some(spec) = at_mut(obj, "spec") else { return };
        default_zero(spec, "sessionAffinity", "None");
        match text(spec, "sessionAffinity") {
            "None" => {
                remove(spec, "sessionAffinityConfig");
            }
            "ClientIP" if !has(spec, "sessionAffinityConfig.clientIP.timeoutSeconds") => {
                set(spec, "sessionAffinityConfig.clientIP.timeoutSeconds", 10800);
            }
            _ => {}
        }
        default_zero(spec, "type", "ClusterIP");
        for port in list_mut(spec, "ports") {
            default_zero(port, "protocol", "TCP");
            if is_zero(key(port, "targetPort")) {
                let number = key(port, "port").clone();
                port["targetPort"] = if number.is_null() { json!(0) } else { number };
            }
        }
        let kind = text(spec, "type").to_owned();
        let external = external(spec);
        if external {
            default_zero(spec, "externalTrafficPolicy", "Cluster");
        }
        if matches!(kind.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
            default(spec, "internalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            default(spec, "allocateLoadBalancerNodePorts", true);
            for ingress in list_mut(obj, "status.loadBalancer.ingress") {
                if has(ingress, "ip") {
                    default(ingress, "ipMode", "VIP");
                }
            }
        }
    }

    fn prepare_for_create(&self, _cx: &Cx<'_>, obj: &mut Object) {
        both_cluster_ips(obj, None);
    }

    fn prepare_for_update(&self, cx: &Cx<'_>, new: &mut Object, old: &Object) {
        if cx.subresource == "status" {
            return;
        }
        both_cluster_ips(new, Some(old));
        carry_allocated(new, old);
        drop_with_type(new, old);
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        service_validation::validate(errs, obj);
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        if cx.subresource == "status" {
            return service_validation::validate_status(errs, new);
        }
        service_validation::validate_update(errs, new, old);
        service_validation::validate(errs, new);
    }

    fn warnings(&self, _cx: &Cx<'_>, obj: &Object, _old: Option<&Object>) -> Vec<String> {
        service_validation::warnings(obj)
    }

    fn selectable_fields(&self) -> &'static [Selectable] {
        const FIELDS: &[Selectable] = &[
            Selectable { name: "spec.clusterIP", path: "spec.clusterIP", zero: "" },
            Selectable { name: "spec.type", path: "spec.type", zero: "" },
        ];
        FIELDS
    }

    fn columns(&self) -> &'static [Column] {
        service_table::COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        service_table::row(obj, now)
    }

    fn allocate(
        &self,
        cx: &Cx<'_>,
        obj: &mut Object,
        old: Option<&Object>,
        errs: &mut FieldErrors,
    ) -> Guard {
        service_alloc::allocate(cx.cluster, obj, old, errs, cx.dry_run)
    }

    fn companions(&self, obj: &Object) -> Vec<Companion> {
        companions::of_service(obj)
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Service
    }
}

/// Does the service answer from outside of the cluster?
pub(super) fn external(spec: &Value) -> bool {
    match text(spec, "type") {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => !list(spec, "externalIPs").is_empty(),
        _ => false,
    }
}

/// `clusterIP` and the first of `clusterIPs` say the same; whichever changed wins.
fn both_cluster_ips(new: &mut Object, old: Option<&Object>) {
    let one = text(new, "spec.clusterIP").to_owned();
    let first = list(new, "spec.clusterIPs").first().and_then(Value::as_str).map(str::to_owned);
    match old {
        None => match (&*one, first) {
            ("", Some(first)) if !has(new, "spec.clusterIP") => set(new, "spec.clusterIP", first),
            (one, None) if !one.is_empty() => {
                let ips = json!([one]);
                set(new, "spec.clusterIPs", ips);
            }
            _ => {}
        },
        Some(old) => {
            let had = text(old, "spec.clusterIP");
            let many_same = at(new, "spec.clusterIPs") == at(old, "spec.clusterIPs");
            if one != had && (many_same || first.is_none()) {
                if one.is_empty() {
                    remove(new, "spec.clusterIPs");
                } else {
                    set(new, "spec.clusterIPs", json!([one]));
                }
            } else if one == had && !many_same {
                match first {
                    Some(first) => set(new, "spec.clusterIP", first),
                    None => {
                        remove(new, "spec.clusterIP");
                    }
                }
            }
        }
    }
}

/// What the server had allocated stays when the client left it out.
fn carry_allocated(new: &mut Object, old: &Object) {
    let needs_ip = |obj: &Object| !matches!(text(obj, "spec.type"), "ExternalName");
    if needs_ip(new) && needs_ip(old) {
        if text(new, "spec.clusterIP").is_empty() && list(new, "spec.clusterIPs").is_empty() {
            carry(old, new, "spec.clusterIP");
            carry(old, new, "spec.clusterIPs");
        }
        for field in ["spec.ipFamilies", "spec.ipFamilyPolicy", "spec.internalTrafficPolicy"] {
            if !has(new, field) {
                carry(old, new, field);
            }
        }
    }
    let ports = |obj: &Object| matches!(text(obj, "spec.type"), "NodePort" | "LoadBalancer");
    if ports(new) && ports(old) {
        let had = list(old, "spec.ports").to_vec();
        let same = |a: &Value, b: &Value| {
            key(a, "port") == key(b, "port") && key(a, "protocol") == key(b, "protocol")
        };
        let taken: Vec<Value> =
            list(new, "spec.ports").iter().map(|port| key(port, "nodePort").clone()).collect();
        for port in list_mut(new, "spec.ports") {
            if is_zero(key(port, "nodePort"))
                && let Some(old) = had.iter().find(|old| same(old, port))
                && !is_zero(key(old, "nodePort"))
                && !taken.contains(key(old, "nodePort"))
            {
                port["nodePort"] = key(old, "nodePort").clone();
            }
        }
    }
    if service_alloc::needs_health_check(new)
        && service_alloc::needs_health_check(old)
        && is_zero(at(new, "spec.healthCheckNodePort"))
    {
        carry(old, new, "spec.healthCheckNodePort");
    }
}

/// Fields that only made sense for the old type go, unless the client changed them too.
fn drop_with_type(new: &mut Object, old: &Object) {
    let (was, is) = (text(old, "spec.type").to_owned(), text(new, "spec.type").to_owned());
    let same = |new: &Object, path: &str| at(new, path) == at(old, path);
    if was != "ExternalName" && is == "ExternalName" {
        if same(new, "spec.clusterIP") || text(new, "spec.clusterIP").is_empty() {
            remove(new, "spec.clusterIP");
            remove(new, "spec.clusterIPs");
        }
        for field in ["spec.ipFamilies", "spec.ipFamilyPolicy", "spec.internalTrafficPolicy"] {
            if same(new, field) {
                remove(new, field);
            }
        }
    }
    let ports = |kind: &str| matches!(kind, "NodePort" | "LoadBalancer");
    if ports(&was) && !ports(&is) {
        let had: Vec<Value> =
            list(old, "spec.ports").iter().map(|port| key(port, "nodePort").clone()).collect();
        for port in list_mut(new, "spec.ports") {
            if had.contains(key(port, "nodePort")) {
                remove(port, "nodePort");
            }
        }
    }
    if service_alloc::needs_health_check(old)
        && !service_alloc::needs_health_check(new)
        && same(new, "spec.healthCheckNodePort")
    {
        remove(new, "spec.healthCheckNodePort");
    }
    if was == "LoadBalancer" && is != "LoadBalancer" {
        for field in ["spec.allocateLoadBalancerNodePorts", "spec.loadBalancerClass"] {
            if same(new, field) {
                remove(new, field);
            }
        }
        set(new, "status.loadBalancer", json!({}));
    }
    if !at(new, "spec").is_null()
        && !external(at(new, "spec"))
        && external(at(old, "spec"))
        && same(new, "spec.externalTrafficPolicy")
    {
        remove(new, "spec.externalTrafficPolicy");
    }
}
