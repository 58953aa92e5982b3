//! `discovery.k8s.io/v1`.

use std::collections::HashSet;
use std::net::IpAddr;

use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::{
    label_problems, label_value_problems, qualified_problems, subdomain_problems,
};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::table::{age, column, name};
use super::validate::{endpoint_ip, immutable, ip, problems};
use super::value::{default, has, key, list, list_mut, remove, text, texts};
use super::{AGE, Column, Cx, NAME, Object, Strategy};

const TYPES: &[&str] = &["FQDN", "IPv4", "IPv6"];
const PORTS_MAX: usize = 20_000;
const HINTS_MAX: usize = 8;
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

pub(super) static STRATEGIES: &[&dyn Strategy] = &[&EndpointSlice];

#[derive(Debug)]
struct EndpointSlice;

impl Strategy for EndpointSlice {
    fn resource(&self) -> &'static str {
        "endpointslices.discovery.k8s.io"
    }

    fn default(&self, obj: &mut Object) {
        for port in list_mut(obj, "ports") {
            default(port, "name", "");
            default(port, "protocol", "TCP");
        }
    }

    /// This version has fields for what topology said.
    fn prepare_for_create(&self, _cx: &Cx<'_>, obj: &mut Object) {
        drop_topology(obj);
    }

    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Object, old: &Object) {
        if key(new, "endpoints") != key(old, "endpoints") {
            drop_topology(new);
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        validate(obj, errs);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        validate(new, errs);
        immutable(
            errs,
            &Path::new("addressType"),
            key(new, "addressType"),
            key(old, "addressType"),
        );
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] =
            &[NAME, column("AddressType"), column("Ports"), column("Endpoints"), AGE];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let ports = list(obj, "ports").iter().map(|port| match key(port, "port") {
            Value::Null => "*".to_owned(),
            number => number.to_string(),
        });
        let addresses = list(obj, "endpoints")
            .iter()
            .flat_map(|endpoint| texts(endpoint, "addresses").map(str::to_owned));
        vec![
            name(obj),
            json!(text(obj, "addressType")),
            json!(some(ports.collect(), "<unset>")),
            json!(some(addresses.collect(), "<unset>")),
            age(obj, now),
        ]
    }

    fn generation_follows(&self) -> &'static [&'static str] {
        &["labels", "annotations", "ownerReferences", "finalizers"]
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn drop_topology(obj: &mut Object) {
    for endpoint in list_mut(obj, "endpoints") {
        remove(endpoint, "deprecatedTopology");
    }
}

/// The first three, and how many more.
fn some(all: Vec<String>, none: &str) -> String {
    match all.len() {
        0 => none.to_owned(),
        1..=3 => all.join(","),
        n => format!("{} + {} more...", all[..3].join(","), n - 3),
    }
}

fn validate(obj: &Object, errs: &mut FieldErrors) {
    let kind = text(obj, "addressType");
    if kind.is_empty() {
        errs.required("addressType", "");
    } else if !TYPES.contains(&kind) {
        errs.not_supported("addressType", kind, TYPES);
    }
    let endpoints = list(obj, "endpoints");
    if endpoints.len() > 1000 {
        errs.too_many("endpoints", endpoints.len(), 1000);
        return;
    }
    for (n, endpoint) in endpoints.iter().enumerate() {
        one(errs, &Path::new("endpoints").index(n), endpoint, kind);
    }
    ports(errs, obj);
}

fn one(errs: &mut FieldErrors, path: &Path, endpoint: &Value, kind: &str) {
    let addresses: Vec<&str> = texts(endpoint, "addresses").collect();
    if addresses.is_empty() {
        errs.required(path.child("addresses"), "must contain at least 1 address");
    } else if addresses.len() > 100 {
        errs.too_many(path.child("addresses"), addresses.len(), 100);
    }
    for (n, address) in addresses.iter().enumerate() {
        let here = path.child("addresses").index(n);
        match kind {
            "IPv4" | "IPv6" => {
                let Some(parsed) = ip(errs, &here, address) else { continue };
                if matches!((kind, parsed), ("IPv4", IpAddr::V6(_)) | ("IPv6", IpAddr::V4(_))) {
                    let which = if kind == "IPv4" { "an IPv4" } else { "an IPv6" };
                    errs.invalid(
                        path.child("addresses"),
                        *address,
                        format!("must be {which} address"),
                    );
                } else {
                    endpoint_ip(errs, &here, parsed);
                }
            }
            "FQDN" => domain_name(errs, &here, address),
            _ => {}
        }
    }
    if has(endpoint, "nodeName") {
        let name = text(endpoint, "nodeName");
        problems(errs, &path.child("nodeName"), name, subdomain_problems(name));
    }
    if has(endpoint, "hostname") {
        let name = text(endpoint, "hostname");
        problems(errs, &path.child("hostname"), name, label_problems(name));
    }
    for of in ["forZones", "forNodes"] {
        hints(errs, &path.child("hints").child(of), list(endpoint, &format!("hints.{of}")));
    }
}

/// The zones or nodes that an endpoint is for.
fn hints(errs: &mut FieldErrors, path: &Path, hints: &[Value]) {
    if hints.len() > HINTS_MAX {
        errs.too_many(path, hints.len(), HINTS_MAX);
        return;
    }
    for (n, hint) in hints.iter().enumerate() {
        let (path, name) = (path.index(n).child("name"), text(hint, "name"));
        if hints[..n].iter().any(|before| text(before, "name") == name) {
            errs.duplicate(&path, name);
        }
        problems(errs, &path, name, label_value_problems(name));
    }
}

/// A domain with at least two labels; a dot may end it.
fn domain_name(errs: &mut FieldErrors, path: &Path, name: &str) {
    if name.is_empty() {
        errs.required(path, "");
        return;
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let problems = subdomain_problems(name);
    if !problems.is_empty() {
        errs.invalid(path, name, problems.join(","));
        return;
    }
    if !name.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errs.invalid(path, name, detail);
        return;
    }
    let long = name.split('.').map(|label| (label, label_problems(label)));
    if let Some((label, problems)) = long.into_iter().find(|(_, problems)| !problems.is_empty()) {
        errs.invalid(path, label, problems.join(","));
    }
}

fn ports(errs: &mut FieldErrors, obj: &Object) {
    let all = list(obj, "ports");
    if all.len() > PORTS_MAX {
        errs.too_many("ports", all.len(), PORTS_MAX);
        return;
    }
    let mut names = HashSet::new();
    for (n, port) in all.iter().enumerate() {
        let path = Path::new("ports").index(n);
        let name = text(port, "name");
        if !name.is_empty() {
            problems(errs, &path.child("name"), name, label_problems(name));
        }
        if !names.insert(name) {
            errs.duplicate(path.child("name"), name);
        }
        match text(port, "protocol") {
            "" => errs.required(path.child("protocol"), ""),
            protocol if PROTOCOLS.contains(&protocol) => {}
            protocol => errs.not_supported(path.child("protocol"), protocol, PROTOCOLS),
        }
        if has(port, "appProtocol") {
            let protocol = text(port, "appProtocol");
            problems(errs, &path.child("appProtocol"), protocol, qualified_problems(protocol));
        }
    }
}
