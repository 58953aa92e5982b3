//! What a claim asks for: requests, constraints between them, and parameters of drivers; and what
//! its status says it was given.

use std::collections::{BTreeSet, HashMap};

use apimachinery::field::{ErrorKind, FieldErrors, Path};
use serde_json::Value;

use super::parts::{
    binding, by, by_itself, configuration, each, each_once, full_attribute_name, label, pool_name,
    raw, selectors, share_id, tolerations,
};
use crate::registry::Object;
use crate::registry::core::podspec::{csi_driver_name, node_selector};
use crate::registry::validate::{conditions, immutable, problems};
use crate::registry::value::{at, has, int, key, list, text};

const REQUESTS_MAX: usize = 32;
const CONSTRAINTS_MAX: usize = 32;
const CONFIG_MAX: usize = 32;
const ALTERNATIVES_MAX: usize = 8;
const CONSUMERS_MAX: usize = 256;
const NO_REQUEST: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";

/// The names of a claim's requests, each with those of its alternatives.
struct Names<'a>(HashMap<&'a str, BTreeSet<&'a str>>);

impl<'a> Names<'a> {
    fn of(devices: &'a Value) -> Self {
        let requests = list(devices, "requests").iter();
        Self(
            requests
                .map(|request| {
                    let subs = list(request, "firstAvailable").iter();
                    (text(request, "name"), subs.map(|sub| text(sub, "name")).collect())
                })
                .collect(),
        )
    }

    fn has(&self, name: &str) -> bool {
        match name.split_once('/') {
            None => self.0.contains_key(name),
            Some((request, sub)) => self.0.get(request).is_some_and(|subs| subs.contains(sub)),
        }
    }

    /// A reference to a request.
    fn check(&self, errs: &mut FieldErrors, path: &Path, name: &str) {
        if name.split('/').count() > 2 {
            errs.invalid(path, name, NO_REQUEST);
            return;
        }
        for segment in name.split('/') {
            label(errs, path, segment);
        }
        if !self.has(name) {
            errs.invalid(path, name, NO_REQUEST);
        }
    }

    /// `requests` of a constraint or a configuration.
    fn check_all(&self, errs: &mut FieldErrors, path: &Path, holder: &Value) {
        let check = |errs: &mut FieldErrors, path: &Path, name: &Value| {
            self.check(errs, path, name.as_str().unwrap_or_default());
        };
        let path = path.child("requests");
        each_once(errs, &path, list(holder, "requests"), REQUESTS_MAX, check, by_itself);
    }
}

/// `spec.devices` of a claim.
pub(super) fn devices(errs: &mut FieldErrors, path: &Path, devices: &Value) {
    let names = Names::of(devices);
    let requests = list(devices, "requests");
    each_once(errs, &path.child("requests"), requests, REQUESTS_MAX, request, by("name"));
    let constraints = list(devices, "constraints");
    let constraint = |errs: &mut FieldErrors, path: &Path, constraint: &Value| {
        names.check_all(errs, path, constraint);
        if has(constraint, "matchAttribute") {
            let path = path.child("matchAttribute");
            full_attribute_name(errs, &path, text(constraint, "matchAttribute"));
        } else if has(constraint, "distinctAttribute") {
            let path = path.child("distinctAttribute");
            full_attribute_name(errs, &path, text(constraint, "distinctAttribute"));
        } else {
            let detail = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
            errs.required(path, detail);
        }
    };
    each(errs, &path.child("constraints"), constraints, CONSTRAINTS_MAX, constraint);
    each(errs, &path.child("config"), list(devices, "config"), CONFIG_MAX, |errs, path, config| {
        names.check_all(errs, path, config);
        configuration(errs, path, config, false);
    });
}

fn request(errs: &mut FieldErrors, path: &Path, request: &Value) {
    label(errs, &path.child("name"), text(request, "name"));
    let alternatives = list(request, "firstAvailable");
    match (has(request, "exactly"), alternatives.is_empty()) {
        (false, true) => {
            errs.required(path, "exactly one of `exactly` or `firstAvailable` is required");
        }
        (true, false) => {
            let detail = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errs.invalid(path, Value::Null, detail);
        }
        (false, false) => {
            let check = |errs: &mut FieldErrors, path: &Path, sub: &Value| {
                label(errs, &path.child("name"), text(sub, "name"));
                devices_wanted(errs, path, sub);
            };
            let path = path.child("firstAvailable");
            each_once(errs, &path, alternatives, ALTERNATIVES_MAX, check, by("name"));
        }
        (true, true) => devices_wanted(errs, &path.child("exactly"), key(request, "exactly")),
    }
}

fn devices_wanted(errs: &mut FieldErrors, path: &Path, request: &Value) {
    let class = text(request, "deviceClassName");
    if class.is_empty() {
        errs.required(path.child("deviceClassName"), "");
    } else {
        let found = apimachinery::validation::subdomain_problems(class);
        problems(errs, &path.child("deviceClassName"), class, found);
    }
    selectors(errs, &path.child("selectors"), list(request, "selectors"), false);
    let count = int(request, "count").unwrap_or_default();
    match text(request, "allocationMode") {
        "All" if count != 0 => {
            let detail = "must not be specified when allocationMode is 'All'";
            errs.invalid(path.child("count"), count, detail);
        }
        "ExactCount" if count <= 0 => {
            errs.invalid(path.child("count"), count, "must be greater than zero");
        }
        "All" | "ExactCount" => {}
        mode => errs.not_supported(path.child("allocationMode"), mode, &["All", "ExactCount"]),
    }
    tolerations(errs, &path.child("tolerations"), list(request, "tolerations"));
}

/// A device that a claim was given: `driver/pool/device[/share]`.
fn device_id(device: &Value) -> String {
    let parts = ["driver", "pool", "device", "shareID"].map(|name| text(device, name));
    let length = if parts[3].is_empty() { 3 } else { 4 };
    parts[..length].join("/")
}

fn shown_id(device: &Value) -> String {
    let [driver, pool, name, share] =
        ["driver", "pool", "device", "shareID"].map(|name| key(device, name));
    format!("{{\"Driver\":{driver},\"Pool\":{pool},\"Device\":{name},\"ShareID\":{share}}}")
}

/// The status of a claim.
pub(super) fn status(errs: &mut FieldErrors, new: &Object, old: &Object) {
    let names = Names::of(at(new, "spec.devices"));
    let (path, status) = (Path::new("status"), at(new, "status"));
    let allocation = key(status, "allocation");
    let given: Vec<String> = list(allocation, "devices.results").iter().map(device_id).collect();
    let reserved = list(status, "reservedFor");
    let reserved_path = path.child("reservedFor");
    each_once(errs, &reserved_path, reserved, CONSUMERS_MAX, consumer, by("uid"));
    devices_status(errs, &path.child("devices"), list(status, "devices"), &given);
    if !reserved.is_empty() {
        let had = list(old, "status.reservedFor");
        if allocation.is_null() {
            errs.forbidden(reserved_path, "may not be specified when `allocated` is not set");
        } else if has(new, "metadata.deletionTimestamp")
            && reserved.iter().any(|r| !had.contains(r))
        {
            let detail = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            errs.forbidden(reserved_path, detail);
        }
    }
    let had = at(old, "status.allocation");
    let path = path.child("allocation");
    if !allocation.is_null() && !had.is_null() {
        immutable(errs, &path, allocation, had);
    } else if !allocation.is_null() {
        allocated(errs, &path, allocation, &names);
    }
}

fn consumer(errs: &mut FieldErrors, path: &Path, consumer: &Value) {
    for field in ["resource", "name", "uid"] {
        if text(consumer, field).is_empty() {
            errs.required(path.child(field), "");
        }
    }
}

fn allocated(errs: &mut FieldErrors, path: &Path, allocation: &Value, names: &Names<'_>) {
    let (here, devices) = (path.child("devices"), key(allocation, "devices"));
    let result = |errs: &mut FieldErrors, path: &Path, result: &Value| {
        names.check(errs, &path.child("request"), text(result, "request"));
        device_names(errs, path, result);
        binding(errs, path, result);
        tolerations(errs, &path.child("tolerations"), list(result, "tolerations"));
        if has(result, "shareID") {
            share_id(errs, &path.child("shareID"), text(result, "shareID"));
        }
    };
    each(errs, &here.child("results"), list(devices, "results"), REQUESTS_MAX, result);
    let config = |errs: &mut FieldErrors, path: &Path, config: &Value| {
        match text(config, "source") {
            "" => errs.required(path.child("source"), ""),
            "FromClass" | "FromClaim" => {}
            other => {
                errs.not_supported(path.child("source"), other, &["FromClaim", "FromClass"]);
            }
        }
        names.check_all(errs, path, config);
        configuration(errs, path, config, false);
    };
    each(errs, &here.child("config"), list(devices, "config"), 2 * CONFIG_MAX, config);
    if has(allocation, "nodeSelector") {
        node_selector(errs, &path.child("nodeSelector"), key(allocation, "nodeSelector"));
    }
}

fn device_names(errs: &mut FieldErrors, path: &Path, device: &Value) {
    csi_driver_name(errs, &path.child("driver"), text(device, "driver"));
    pool_name(errs, &path.child("pool"), text(device, "pool"));
    label(errs, &path.child("device"), text(device, "device"));
}

fn devices_status(errs: &mut FieldErrors, path: &Path, devices: &[Value], given: &[String]) {
    for (n, device) in devices.iter().enumerate() {
        device_status(errs, &path.index(n), device, given);
    }
    for (n, device) in devices.iter().enumerate() {
        if devices[..n].iter().any(|before| device_id(before) == device_id(device)) {
            errs.add(ErrorKind::Duplicate, path.index(n), &shown_id(device), "");
        }
    }
}

fn device_status(errs: &mut FieldErrors, path: &Path, device: &Value, given: &[String]) {
    device_names(errs, path, device);
    if has(device, "shareID") {
        share_id(errs, &path.child("shareID"), text(device, "shareID"));
    }
    let id = device_id(device);
    if !given.contains(&id) {
        let detail = "must be an allocated device in the claim";
        errs.add(ErrorKind::Invalid, path, &shown_id(device), detail);
    }
    let all = list(device, "conditions");
    if all.len() > 8 {
        errs.too_many(path.child("conditions"), all.len(), 8);
    }
    conditions(errs, &path.child("conditions"), all);
    if has(device, "data") {
        raw(errs, &path.child("data"), key(device, "data"), 10 << 10);
    }
    let (path, network) = (path.child("networkData"), key(device, "networkData"));
    for (field, max) in [("interfaceName", 256), ("hardwareAddress", 128)] {
        if text(network, field).len() > max {
            errs.too_long(path.child(field), max);
        }
    }
    let address = |errs: &mut FieldErrors, path: &Path, address: &Value| {
        interface_address(errs, path, address.as_str().unwrap_or_default());
    };
    each_once(errs, &path.child("ips"), list(network, "ips"), 16, address, by_itself);
}

/// An address with the length of its network's prefix, in its one form.
fn interface_address(errs: &mut FieldErrors, path: &Path, text: &str) {
    let parsed = text.split_once('/').and_then(|(ip, length)| {
        let ip: std::net::IpAddr = ip.parse().ok()?;
        let length: u8 = length.parse().ok()?;
        (length <= if ip.is_ipv4() { 32 } else { 128 }).then(|| format!("{ip}/{length}"))
    });
    match parsed {
        None => {
            let detail =
                "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
            errs.invalid(path, text, detail);
        }
        Some(form) if form != text => {
            errs.invalid(path, text, format!("must be in canonical form ({form:?})"));
        }
        Some(_) => {}
    }
}

/// The first request for access to devices that others use.
pub(super) fn admin_request(devices: &Value) -> Option<usize> {
    let wants = |request: &Value| at(request, "exactly.adminAccess") == true;
    list(devices, "requests").iter().position(wants)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(spec: Value, want: &str) {
        let mut errs = FieldErrors::default();
        devices(&mut errs, &Path::new("d"), &spec);
        let found = if errs.is_empty() { String::new() } else { errs.aggregate() };
        assert_eq!(found, want, "{spec}");
    }

    #[test]
    fn requests_are_refused_as_upstream_does() {
        let exactly = json!({"deviceClassName": "c", "allocationMode": "ExactCount", "count": 1});
        check(json!({"requests": [{"name": "a", "exactly": exactly}]}), "");
        check(
            json!({"requests": [{"name": "a"}]}),
            "d.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
        );
        check(
            json!({"requests": [{"name": "a", "exactly": {"allocationMode": "All", "count": 1}}]}),
            "[d.requests[0].exactly.deviceClassName: Required value, d.requests[0].exactly.count: \
             Invalid value: 1: must not be specified when allocationMode is 'All']",
        );
        check(
            json!({"requests": [], "constraints": [{"requests": ["x/y/z"], "matchAttribute": "a"}]}),
            &format!(
                "[d.constraints[0].requests[0]: Invalid value: \"x/y/z\": {NO_REQUEST}, \
                 d.constraints[0].matchAttribute: Invalid value: \"a\": a fully qualified name must \
                 be a domain and a name separated by a slash]"
            ),
        );
        check(
            json!({"requests": [], "config": [{"opaque": {"driver": "", "parameters": 1}}]}),
            "[d.config[0].opaque.driver: Required value, d.config[0].opaque.parameters: Invalid \
             value: \"<value omitted>\": must be a valid JSON object]",
        );
    }

    #[test]
    fn a_status_names_what_was_allocated() {
        let old = json!({"spec": {"devices": {"requests": [{"name": "r"}]}}});
        let mut new = old.clone();
        new["status"] = json!({"reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}],
            "devices": [{"driver": "d", "pool": "p", "device": "x", "conditions": []}]});
        let mut errs = FieldErrors::default();
        status(&mut errs, &new, &old);
        assert_eq!(
            errs.aggregate(),
            "[status.devices[0]: Invalid value: {\"Driver\":\"d\",\"Pool\":\"p\",\"Device\":\"x\",\"ShareID\":null}: must be an allocated device in the claim, \
             status.reservedFor: Forbidden: may not be specified when `allocated` is not set]"
        );
    }
}
