//! Endpoints, the old list of a service's addresses.

use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::{label_problems, qualified_problems, subdomain_problems};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::table::{age, column, name};
use crate::registry::validate::{endpoint_ip, ip, one_of, port, problems};
use crate::registry::value::{default_zero, has, int, key, list, list_mut, text};
use crate::registry::{AGE, Column, Cx, NAME, Object, Strategy};

#[derive(Debug)]
pub(super) struct Endpoints;

impl Strategy for Endpoints {
    fn resource(&self) -> &'static str {
        "endpoints"
    }

    fn default(&self, obj: &mut Object) {
        for subset in list_mut(obj, "subsets") {
            for port in list_mut(subset, "ports") {
                default_zero(port, "protocol", "TCP");
            }
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        validate(obj, errs);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        if new.get("subsets") != old.get("subsets") {
            validate(new, errs);
        }
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, column("Endpoints"), AGE];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        vec![name(obj), json!(endpoints(obj)), age(obj, now)]
    }
}

/// The first three `address:port` pairs.
fn endpoints(obj: &Object) -> String {
    const MAX: usize = 3;
    let mut all: Vec<String> = Vec::new();
    for subset in list(obj, "subsets") {
        let addresses = list(subset, "addresses");
        if list(subset, "ports").is_empty() {
            all.extend(addresses.iter().map(|a| text(a, "ip").to_owned()));
        }
        for port in list(subset, "ports") {
            let number = int(port, "port").unwrap_or_default();
            all.extend(addresses.iter().map(|a| {
                let ip = text(a, "ip");
                if ip.contains(':') { format!("[{ip}]:{number}") } else { format!("{ip}:{number}") }
            }));
        }
    }
    if all.is_empty() {
        return "<none>".to_owned();
    }
    let more = all.len().saturating_sub(MAX);
    let shown = all.iter().take(MAX).cloned().collect::<Vec<_>>().join(",");
    if more > 0 { format!("{shown} + {more} more...") } else { shown }
}

fn validate(obj: &Object, errs: &mut FieldErrors) {
    for (n, subset) in list(obj, "subsets").iter().enumerate() {
        let path = Path::new("subsets").index(n);
        let (ready, not_ready) = (list(subset, "addresses"), list(subset, "notReadyAddresses"));
        if ready.is_empty() && not_ready.is_empty() {
            errs.required(path.clone(), "must specify `addresses` or `notReadyAddresses`");
        }
        for (field, all) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
            for (at, address) in all.iter().enumerate() {
                let here = path.child(field).index(at);
                let written = text(address, "ip");
                let found = ip(errs, &here.child("ip"), written);
                let name = text(address, "hostname");
                if !name.is_empty() {
                    problems(errs, &here.child("hostname"), name, label_problems(name));
                }
                if has(address, "nodeName") {
                    let name = text(address, "nodeName");
                    problems(errs, &here.child("nodeName"), name, subdomain_problems(name));
                }
                match found {
                    Some(ip) => endpoint_ip(errs, &here.child("ip"), ip),
                    None => errs.invalid(here.child("ip"), written, "must be a valid IP address"),
                }
            }
        }
        let ports = list(subset, "ports");
        for (at, one) in ports.iter().enumerate() {
            let path = path.child("ports").index(at);
            let name = text(one, "name");
            if name.is_empty() && ports.len() > 1 {
                errs.required(path.child("name"), "");
            } else if !name.is_empty() {
                problems(errs, &path.child("name"), name, label_problems(name));
            }
            port(errs, &path.child("port"), key(one, "port"));
            one_of(errs, &path.child("protocol"), key(one, "protocol"), &["SCTP", "TCP", "UDP"]);
            if has(one, "appProtocol") {
                let name = text(one, "appProtocol");
                problems(errs, &path.child("appProtocol"), name, qualified_problems(name));
            }
        }
    }
}
