//! NetworkPolicies.

use apimachinery::field::{FieldErrors, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::table::{age, column, name, selector};
use crate::registry::validate::{self, cidr, label_selector, port_or_name, spec};
use crate::registry::value::{
    at, at_mut, default_zero, has, int, key, list, list_mut, text, texts,
};
use crate::registry::{AGE, Column, Cx, NAME, Object, Strategy};

const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];

#[derive(Debug)]
pub(super) struct NetworkPolicy;

impl Strategy for NetworkPolicy {
    fn resource(&self) -> &'static str {
        "networkpolicies.networking.k8s.io"
    }

    fn default(&self, obj: &mut Object) {
        let Some(spec) = at_mut(obj, "spec") else { return };
        for way in ["ingress", "egress"] {
            for rule in list_mut(spec, way) {
                for port in list_mut(rule, "ports") {
                    default_zero(port, "protocol", "TCP");
                }
            }
        }
        if list(spec, "policyTypes").is_empty() {
            let mut types = vec!["Ingress"];
            if !list(spec, "egress").is_empty() {
                types.push("Egress");
            }
            spec["policyTypes"] = json!(types);
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        validate(obj, errs);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Object, _old: &Object, errs: &mut FieldErrors) {
        validate(new, errs);
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, column("Pod-Selector"), AGE];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        vec![name(obj), json!(selector(at(obj, "spec.podSelector"))), age(obj, now)]
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn validate(obj: &Object, errs: &mut FieldErrors) {
    let (path, body) = (spec(), at(obj, "spec"));
    label_selector(errs, &path.child("podSelector"), key(body, "podSelector"));
    for (way, peers) in [("ingress", "from"), ("egress", "to")] {
        for (n, rule) in list(body, way).iter().enumerate() {
            let path = path.child(way).index(n);
            for (at, port) in list(rule, "ports").iter().enumerate() {
                one_port(errs, &path.child("ports").index(at), port);
            }
            for (at, one) in list(rule, peers).iter().enumerate() {
                peer(errs, &path.child(peers).index(at), one);
            }
        }
    }
    let types: Vec<&str> = texts(body, "policyTypes").collect();
    if types.len() > 2 {
        let shown = key(body, "policyTypes").clone();
        errs.invalid(path.child("policyTypes"), shown, "may not specify more than two policyTypes");
        return;
    }
    for (n, kind) in types.iter().enumerate() {
        if !matches!(*kind, "Ingress" | "Egress") {
            errs.not_supported(path.child("policyTypes").index(n), *kind, &["Ingress", "Egress"]);
        }
    }
}

fn one_port(errs: &mut FieldErrors, path: &Path, port: &Value) {
    let protocol = text(port, "protocol");
    if has(port, "protocol") && !PROTOCOLS.contains(&protocol) {
        errs.not_supported(path.child("protocol"), protocol, PROTOCOLS);
    }
    let end = int(port, "endPort");
    match key(port, "port") {
        Value::Null => {
            if let Some(end) = end {
                errs.invalid(
                    path.child("endPort"),
                    end,
                    "may not be specified when `port` is not specified",
                );
            }
        }
        from => {
            if let (Some(end), true) = (end, from.is_string()) {
                let detail = "may not be specified when `port` is non-numeric";
                errs.invalid(path.child("endPort"), end, detail);
            }
            port_or_name(errs, &path.child("port"), from);
            if let (Some(end), Some(from)) = (end, from.as_i64()) {
                if end < from {
                    let detail = "must be greater than or equal to `port`";
                    errs.invalid(path.child("endPort"), from, detail);
                }
                validate::port(errs, &path.child("endPort"), key(port, "endPort"));
            }
        }
    }
}

fn peer(errs: &mut FieldErrors, path: &Path, peer: &Value) {
    let mut count = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if has(peer, field) {
            count += 1;
            label_selector(errs, &path.child(field), key(peer, field));
        }
    }
    if has(peer, "ipBlock") {
        count += 1;
        ip_block(errs, &path.child("ipBlock"), key(peer, "ipBlock"));
    }
    if count == 0 {
        errs.required(path, "must specify a peer");
    } else if count > 1 && has(peer, "ipBlock") {
        errs.forbidden(path, "may not specify both ipBlock and another peer");
    }
}

fn ip_block(errs: &mut FieldErrors, path: &Path, block: &Value) {
    let written = text(block, "cidr");
    if written.is_empty() {
        errs.required(path.child("cidr"), "");
        return;
    }
    let Some(outer) = cidr(errs, &path.child("cidr"), written) else { return };
    for (n, text) in texts(block, "except").enumerate() {
        let path = path.child("except").index(n);
        let Some(inner) = cidr(errs, &path, text) else { continue };
        if !outer.contains(inner.network()) || inner.prefix() <= outer.prefix() {
            errs.invalid(path, text, "must be a strict subset of `cidr`");
        }
    }
}
