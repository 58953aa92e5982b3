//! IPAddresses: who holds an address of a service range.

use std::net::IpAddr;

use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::subdomain_problems;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::rbac::path_segment;
use crate::registry::table::{age, column, name};
use crate::registry::validate::{immutable_spec, problems, spec};
use crate::registry::value::{at, has, text};
use crate::registry::{Column, Cx, NAME, NameRule, Object, Selectable, Strategy};

#[derive(Debug)]
pub(super) struct IpAddress;

impl Strategy for IpAddress {
    fn resource(&self) -> &'static str {
        "ipaddresses.networking.k8s.io"
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        let name = text(obj, "metadata.name");
        if !name.parse::<IpAddr>().is_ok_and(|ip| ip.to_string() == name) {
            let detail = "must be a valid IP address in canonical form";
            errs.invalid(Path::new("metadata").child("name"), name, detail);
        }
        validate(obj, errs);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        validate(new, errs);
        immutable_spec(errs, "parentRef", new, old);
    }

    fn selectable_fields(&self) -> &'static [Selectable] {
        const fn field(name: &'static str) -> Selectable {
            Selectable { name, path: name, zero: "" }
        }
        const FIELDS: &[Selectable] = &[
            field("spec.parentRef.group"),
            field("spec.parentRef.resource"),
            field("spec.parentRef.namespace"),
            field("spec.parentRef.name"),
        ];
        FIELDS
    }

    /// Upstream declares two columns and prints three cells.
    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, column("ParentRef")];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let parent = at(obj, "spec.parentRef");
        let mut parts = vec![text(parent, "resource")];
        let group = text(parent, "group");
        if !group.is_empty() {
            parts.insert(0, group);
        }
        let head = parts.join(".");
        let namespace = text(parent, "namespace");
        let shown = if namespace.is_empty() {
            format!("{head}/{}", text(parent, "name"))
        } else {
            format!("{head}/{namespace}/{}", text(parent, "name"))
        };
        vec![name(obj), json!(shown), age(obj, now)]
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Own
    }
}

fn validate(obj: &Object, errs: &mut FieldErrors) {
    let path = spec().child("parentRef");
    if !has(obj, "spec.parentRef") {
        errs.required(path, "");
        return;
    }
    let parent = at(obj, "spec.parentRef");
    let group = text(parent, "group");
    if !group.is_empty() {
        problems(errs, &path.child("group"), group, subdomain_problems(group));
    }
    for field in ["resource", "name", "namespace"] {
        let (path, value) = (path.child(field), text(parent, field));
        if !value.is_empty() {
            path_segment(errs, &path, value);
        } else if field != "namespace" {
            errs.required(path, "");
        }
    }
}
