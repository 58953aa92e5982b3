//! Nodes.

use std::collections::HashSet;

use apimachinery::field::{ErrorKind, FieldErrors, Path};
use apimachinery::validation::{label_value_problems, qualified_problems};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::resources::resource_value;
use crate::registry::table::{age, column, condition, name, or, wide};
use crate::registry::validate::{cidr, problems, spec};
use crate::registry::value::{at, at_mut, flag, has, key, list, map, text, texts};
use crate::registry::{AGE, Column, Cx, NAME, Object, Selectable, Strategy};

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

#[derive(Debug)]
pub(super) struct Node;

impl Strategy for Node {
    fn keeps_status_on_create(&self) -> bool {
        true
    }

    fn resource(&self) -> &'static str {
        "nodes"
    }

    fn default(&self, obj: &mut Object) {
        if let Some(status) = at_mut(obj, "status")
            && !has(status, "allocatable")
            && has(status, "capacity")
        {
            status["allocatable"] = status["capacity"].clone();
        }
        // The old single field and the new list say the same.
        let (one, many) =
            (text(obj, "spec.podCIDR").to_owned(), list(obj, "spec.podCIDRs").to_vec());
        match (one.is_empty(), many.first()) {
            (false, None) => obj["spec"]["podCIDRs"] = json!([one]),
            (true, Some(first)) => obj["spec"]["podCIDR"] = first.clone(),
            _ => {}
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        validate(obj, errs);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        update(errs, new, old);
    }

    fn selectable_fields(&self) -> &'static [Selectable] {
        const FIELDS: &[Selectable] =
            &[Selectable { name: "spec.unschedulable", path: "spec.unschedulable", zero: "false" }];
        FIELDS
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column("Status"),
            column("Roles"),
            AGE,
            column("Version"),
            wide("Internal-IP"),
            wide("External-IP"),
            wide("OS-Image"),
            wide("Kernel-Version"),
            wide("Container-Runtime"),
        ];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        vec![
            name(obj),
            json!(status(obj)),
            json!(roles(obj)),
            age(obj, now),
            json!(text(obj, "status.nodeInfo.kubeletVersion")),
            json!(address(obj, "InternalIP")),
            json!(address(obj, "ExternalIP")),
            json!(or(obj, "status.nodeInfo.osImage", "<unknown>")),
            json!(or(obj, "status.nodeInfo.kernelVersion", "<unknown>")),
            json!(or(obj, "status.nodeInfo.containerRuntimeVersion", "<unknown>")),
        ]
    }
}

fn status(node: &Object) -> String {
    let ready = match condition(node, "Ready") {
        Some(ready) if text(ready, "status") == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let blocked = if flag(node, "spec.unschedulable") { ",SchedulingDisabled" } else { "" };
    format!("{ready}{blocked}")
}

fn roles(node: &Object) -> String {
    let mut roles: Vec<&str> = Vec::new();
    for (label, value) in map(node, "metadata.labels") {
        if let Some(role) = label.strip_prefix("node-role.kubernetes.io/")
            && !role.is_empty()
        {
            roles.push(role);
        } else if label == "kubernetes.io/role"
            && let Some(role) = value.as_str().filter(|role| !role.is_empty())
        {
            roles.push(role);
        }
    }
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

fn address<'a>(node: &'a Object, kind: &str) -> &'a str {
    list(node, "status.addresses")
        .iter()
        .find(|address| key(address, "type") == kind)
        .map_or("<none>", |address| text(address, "address"))
}

fn update(errs: &mut FieldErrors, new: &Object, old: &Object) {
    resources(errs, new);
    let addresses = list(new, "status.addresses");
    for (n, address) in addresses.iter().enumerate() {
        if addresses[..n].contains(address) {
            let shown = format!(
                "{{\"Type\":{},\"Address\":{}}}",
                key(address, "type"),
                key(address, "address")
            );
            let path = Path::new("status").child("addresses").index(n);
            errs.add(ErrorKind::Duplicate, path, &shown, "");
        }
    }
    let had = list(old, "spec.podCIDRs");
    if !had.is_empty() && had != list(new, "spec.podCIDRs") {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        errs.forbidden(spec().child("podCIDRs"), detail);
    }
    let had = text(old, "spec.providerID");
    if !had.is_empty() && had != text(new, "spec.providerID") {
        let detail = "node updates may not change providerID except from \"\" to valid";
        errs.forbidden(spec().child("providerID"), detail);
    }
    taints(errs, new);
    if text(new, "spec.externalID") != text(old, "spec.externalID") {
        errs.forbidden(spec().child("externalID"), "may not be updated");
    }
}

/// What a node has: no less than nothing.
fn resources(errs: &mut FieldErrors, node: &Object) {
    for field in ["capacity", "allocatable"] {
        for (name, value) in map(at(node, "status"), field) {
            let path = Path::new("status").child(field).child(name);
            resource_value(errs, &path, name, value);
        }
    }
}

fn validate(node: &Object, errs: &mut FieldErrors) {
    taints(errs, node);
    resources(errs, node);
    let cidrs: Vec<&str> = texts(node, "spec.podCIDRs").collect();
    let path = spec().child("podCIDRs");
    let mut families = HashSet::new();
    let mut twice = false;
    for (at, text) in cidrs.iter().enumerate() {
        if let Some(block) = cidr(errs, &path.index(at), text) {
            twice |= !families.insert(block.is_ipv4());
        }
    }
    if twice || cidrs.len() > 2 {
        let shown = at(node, "spec.podCIDRs").clone();
        errs.invalid(&path, shown, "may specify no more than one CIDR for each IP family");
    }
    for (n, block) in cidrs.iter().enumerate() {
        if cidrs[..n].contains(block) {
            errs.duplicate(path.index(n), *block);
        }
    }
}

/// Upstream looks for taints under `metadata`, and so do its messages.
fn taints(errs: &mut FieldErrors, node: &Object) {
    let mut seen = HashSet::new();
    for (n, taint) in list(node, "spec.taints").iter().enumerate() {
        let path = Path::new("metadata").child("taints").index(n);
        let (name, value, effect) =
            (text(taint, "key"), text(taint, "value"), text(taint, "effect"));
        problems(errs, &path.child("key"), name, qualified_problems(name));
        let found = label_value_problems(value);
        if !found.is_empty() {
            errs.invalid(path.child("value"), value, found.join(";"));
        }
        if effect.is_empty() {
            errs.required(path.child("effect"), "");
        } else if !EFFECTS.contains(&effect) {
            errs.not_supported(path.child("effect"), effect, EFFECTS);
        }
        if !seen.insert((name, effect)) {
            let shown = format!(
                "{{\"Key\":{name:?},\"Value\":{value:?},\"Effect\":{effect:?},\"TimeAdded\":{}}}",
                key(taint, "timeAdded")
            );
            let detail = "taints must be unique by key and effect pair";
            errs.add(ErrorKind::Duplicate, path, &shown, detail);
        }
    }
}
