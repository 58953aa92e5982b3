//! Ingresses.

use std::net::IpAddr;

use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::{
    label_problems, port_name_problems, subdomain_problems, wildcard_problems,
};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::rbac::path_segment;
use crate::registry::table::{age, column, name, or};
use crate::registry::validate::{ip, port, problems, spec};
use crate::registry::value::{at, has, int, key, list, text, texts};
use crate::registry::{AGE, Column, Cx, NAME, Object, Strategy};

const CLASS: &str = "kubernetes.io/ingress.class";
const PATH_TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];

#[derive(Debug)]
pub(super) struct Ingress;

impl Strategy for Ingress {
    fn resource(&self) -> &'static str {
        "ingresses.networking.k8s.io"
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        let annotation = key(at(obj, "metadata.annotations"), CLASS);
        let class = at(obj, "spec.ingressClassName");
        if !annotation.is_null() && !class.is_null() && annotation != class {
            let path = Path::new("annotations").child(CLASS);
            let detail = "must match `ingressClassName` when both are specified";
            errs.invalid(path, annotation.clone(), detail);
        }
        validate(obj, errs);
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, _old: &Object, errs: &mut FieldErrors) {
        if cx.subresource == "status" {
            return validate_status(errs, new);
        }
        validate(new, errs);
    }

    fn warnings(&self, _cx: &Cx<'_>, obj: &Object, _old: Option<&Object>) -> Vec<String> {
        if key(at(obj, "metadata.annotations"), CLASS).is_null() {
            return Vec::new();
        }
        vec![format!(
            "annotation {CLASS:?} is deprecated, please use 'spec.ingressClassName' instead"
        )]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] =
            &[NAME, column("Class"), column("Hosts"), column("Address"), column("Ports"), AGE];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let class = match at(obj, "spec.ingressClassName").as_str() {
            Some(class) => class,
            None => key(at(obj, "metadata.annotations"), CLASS).as_str().unwrap_or("<none>"),
        };
        let ports = if list(obj, "spec.tls").is_empty() { "80" } else { "80, 443" };
        let address: Vec<&str> = list(obj, "status.loadBalancer.ingress")
            .iter()
            .map(|i| or(i, "ip", text(i, "hostname")))
            .filter(|text| !text.is_empty())
            .collect();
        vec![
            name(obj),
            json!(class),
            json!(hosts(obj)),
            json!(address.join(",")),
            json!(ports),
            age(obj, now),
        ]
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn hosts(obj: &Object) -> String {
    let all: Vec<&str> = list(obj, "spec.rules").iter().map(|rule| or(rule, "host", "*")).collect();
    match all.len() {
        0 => "*".to_owned(),
        1..=3 => all.join(","),
        n => format!("{} + {} more...", all[..3].join(","), n - 3),
    }
}

fn validate(obj: &Object, errs: &mut FieldErrors) {
    let (path, body) = (spec(), at(obj, "spec"));
    let rules = list(body, "rules");
    if rules.is_empty() && !has(body, "defaultBackend") {
        let detail = "either `defaultBackend` or `rules` must be specified";
        errs.invalid(path.clone(), Value::Null, detail);
    }
    if has(body, "defaultBackend") {
        backend(errs, &path.child("defaultBackend"), key(body, "defaultBackend"));
    }
    for (n, rule) in rules.iter().enumerate() {
        let path = path.child("rules").index(n);
        let host = text(rule, "host");
        if !host.is_empty() {
            if host.parse::<IpAddr>().is_ok() {
                errs.invalid(path.child("host"), host, "must be a DNS name, not an IP address");
            }
            let found =
                if host.contains('*') { wildcard_problems(host) } else { subdomain_problems(host) };
            problems(errs, &path.child("host"), host, found);
        }
        if has(rule, "http") {
            let path = path.child("http").child("paths");
            let paths = list(rule, "http.paths");
            if paths.is_empty() {
                errs.required(path.clone(), "");
            }
            for (at, one) in paths.iter().enumerate() {
                http_path(errs, &path.index(at), one);
            }
        }
    }
    for (n, tls) in list(body, "tls").iter().enumerate() {
        let path = path.child("tls").index(n);
        for (at, host) in texts(tls, "hosts").enumerate() {
            let found =
                if host.contains('*') { wildcard_problems(host) } else { subdomain_problems(host) };
            problems(errs, &path.child("hosts").index(at), host, found);
        }
        let secret = text(tls, "secretName");
        if !secret.is_empty() {
            problems(errs, &path.child("secretName"), secret, subdomain_problems(secret));
        }
    }
    if has(body, "ingressClassName") {
        let class = text(body, "ingressClassName");
        problems(errs, &path.child("ingressClassName"), class, subdomain_problems(class));
    }
}

fn http_path(errs: &mut FieldErrors, path: &Path, one: &Value) {
    let kind = text(one, "pathType");
    let target = text(one, "path");
    let here = path.child("path");
    if !has(one, "pathType") {
        errs.required(path.child("pathType"), "pathType must be specified");
        return;
    }
    match kind {
        "Exact" | "Prefix" => {
            if !target.starts_with('/') {
                errs.invalid(here.clone(), target, "must be an absolute path");
            }
            if !target.is_empty() {
                for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                    if target.contains(bad) {
                        errs.invalid(here.clone(), target, format!("must not contain '{bad}'"));
                    }
                }
                for bad in ["/..", "/."] {
                    if target.ends_with(bad) {
                        errs.invalid(here.clone(), target, format!("cannot end with '{bad}'"));
                    }
                }
            }
        }
        "ImplementationSpecific" => {
            if !target.is_empty() && !target.starts_with('/') {
                errs.invalid(here, target, "must be an absolute path");
            }
        }
        _ => errs.not_supported(path.child("pathType"), kind, PATH_TYPES),
    }
    backend(errs, &path.child("backend"), key(one, "backend"));
}

fn backend(errs: &mut FieldErrors, path: &Path, backend: &Value) {
    let (service, resource) = (key(backend, "service"), key(backend, "resource"));
    match (service.is_null(), resource.is_null()) {
        (false, false) => errs.invalid(path, "", "cannot set both resource and service backends"),
        (true, true) => errs.invalid(path, "", "resource or service backend is required"),
        (true, false) => local_reference(errs, &path.child("resource"), resource),
        (false, true) => {
            let name = text(service, "name");
            let here = path.child("service");
            if name.is_empty() {
                errs.required(here.child("name"), "");
            } else {
                problems(errs, &here.child("name"), name, label_problems(name));
            }
            let (by_name, number) =
                (text(service, "port.name"), int(service, "port.number").unwrap_or_default());
            match (by_name.is_empty(), number) {
                (false, n) if n != 0 => {
                    errs.invalid(path, "", "cannot set both port name & port number");
                }
                (false, _) => {
                    let found = port_name_problems(by_name);
                    problems(errs, &here.child("port").child("name"), by_name, found);
                }
                (true, 0) => errs.required(path, "port name or number is required"),
                (true, _) => {
                    port(errs, &here.child("port").child("number"), at(service, "port.number"))
                }
            }
        }
    }
}

/// A reference to an object of any kind in the same place.
pub(super) fn local_reference(errs: &mut FieldErrors, path: &Path, reference: &Value) {
    if has(reference, "apiGroup") {
        let group = text(reference, "apiGroup");
        problems(errs, &path.child("apiGroup"), group, subdomain_problems(group));
    }
    for field in ["kind", "name"] {
        let (path, value) = (path.child(field), text(reference, field));
        if value.is_empty() {
            errs.required(path, "");
        } else {
            path_segment(errs, &path, value);
        }
    }
}

/// The addresses that a load balancer has for the ingress.
fn validate_status(errs: &mut FieldErrors, obj: &Object) {
    let path = Path::new("status").child("loadBalancer").child("ingress");
    for (n, ingress) in list(obj, "status.loadBalancer.ingress").iter().enumerate() {
        let (path, address, name) = (path.index(n), text(ingress, "ip"), text(ingress, "hostname"));
        if !address.is_empty() {
            ip(errs, &path.child("ip"), address);
        }
        if !name.is_empty() {
            problems(errs, &path.child("hostname"), name, subdomain_problems(name));
            if name.parse::<IpAddr>().is_ok() {
                let detail = "must be a DNS name, not an IP address";
                errs.invalid(path.child("hostname"), name, detail);
            }
        }
    }
}
