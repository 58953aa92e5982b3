//! `resource.k8s.io`: dynamic resource allocation.

use std::collections::HashSet;

use apimachinery::cel::Ty;
use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::label_problems;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::table::{age, column, name};
use super::validate::{problems, spec};
use super::value::{at, default, default_zero, has, key, list, list_mut, text, texts};
use super::{AGE, Column, Cx, NAME, Object, Selectable, Strategy};
use crate::expressions::Scope;

pub(super) static STRATEGIES: &[&dyn Strategy] = &[
    &DeviceClass,
    &ResourceClaim("resourceclaims.resource.k8s.io", "spec"),
    &ResourceClaim("resourceclaimtemplates.resource.k8s.io", "spec.spec"),
    &ResourceSlice,
    &DeviceTaintRule,
];

#[derive(Debug)]
struct DeviceClass;

impl Strategy for DeviceClass {
    fn resource(&self) -> &'static str {
        "deviceclasses.resource.k8s.io"
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        selectors(errs, &spec().child("selectors"), list(obj, "spec.selectors"));
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Object, _old: &Object, errs: &mut FieldErrors) {
        selectors(errs, &spec().child("selectors"), list(new, "spec.selectors"));
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, AGE];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        vec![name(obj), age(obj, now)]
    }

    fn has_generation(&self) -> bool {
        true
    }
}

/// Device selectors: expressions about a device.
fn selectors(errs: &mut FieldErrors, path: &Path, selectors: &[Value]) {
    for (n, selector) in selectors.iter().enumerate() {
        let path = path.index(n).child("cel");
        let expression = text(selector, "cel.expression");
        if !has(selector, "cel") {
            errs.required(path, "");
            continue;
        }
        let detail = match Scope::device().compile(expression) {
            Err(why) => format!("compilation failed: {why}"),
            Ok(program) => match &program.ty {
                Ty::Bool | Ty::Dyn => continue,
                ty => format!("must evaluate to bool or the unknown type, not {ty}"),
            },
        };
        errs.invalid(path.child("expression"), expression, detail);
    }
}

/// Claims and their templates: the resource, and where the claim's spec is.
#[derive(Debug)]
struct ResourceClaim(&'static str, &'static str);

impl ResourceClaim {
    fn is_template(&self) -> bool {
        self.1 != "spec"
    }
}

impl Strategy for ResourceClaim {
    fn resource(&self) -> &'static str {
        self.0
    }

    fn default(&self, obj: &mut Object) {
        let inline = text(obj, "apiVersion") == "resource.k8s.io/v1beta1";
        for request in list_mut(obj, &format!("{}.devices.requests", self.1)) {
            if inline && has(request, "deviceClassName") {
                default_request(request);
            }
            if let Some(exactly) = request.get_mut("exactly").filter(|e| !e.is_null()) {
                default_request(exactly);
            }
            for sub in list_mut(request, "firstAvailable") {
                default_request(sub);
            }
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        let path = if self.is_template() { spec().child("spec") } else { spec() };
        claim(errs, &path.child("devices"), at(obj, &format!("{}.devices", self.1)));
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        if cx.subresource.is_empty() && at(new, "spec") != at(old, "spec") {
            errs.invalid("spec", at(new, "spec").clone(), "field is immutable");
        }
    }

    fn columns(&self) -> &'static [Column] {
        const CLAIM: &[Column] = &[NAME, column("State"), AGE];
        const TEMPLATE: &[Column] = &[NAME, AGE];
        if self.is_template() { TEMPLATE } else { CLAIM }
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        if self.is_template() {
            return vec![name(obj), age(obj, now)];
        }
        let mut states = Vec::new();
        if has(obj, "metadata.deletionTimestamp") {
            states.push("deleted");
        }
        if !has(obj, "status.allocation") {
            if states.is_empty() {
                states.push("pending");
            }
        } else {
            states.push("allocated");
            states.extend((!list(obj, "status.reservedFor").is_empty()).then_some("reserved"));
        }
        vec![name(obj), json!(states.join(",")), age(obj, now)]
    }
}

fn default_request(request: &mut Value) {
    default_zero(request, "allocationMode", "ExactCount");
    if text(request, "allocationMode") == "ExactCount" {
        default_zero(request, "count", 1);
    }
    for toleration in list_mut(request, "tolerations") {
        default_zero(toleration, "operator", "Equal");
    }
}

fn claim(errs: &mut FieldErrors, path: &Path, devices: &Value) {
    let mut names: HashSet<String> = HashSet::new();
    for (n, request) in list(devices, "requests").iter().enumerate() {
        let path = path.child("requests").index(n);
        let name = text(request, "name");
        if name.is_empty() {
            errs.required(path.child("name"), "");
        } else {
            problems(errs, &path.child("name"), name, label_problems(name));
        }
        if !names.insert(name.to_owned()) {
            errs.duplicate(path.clone(), name);
        }
        if has(request, "exactly") {
            exactly(errs, &path.child("exactly"), key(request, "exactly"));
        }
        for (at, sub) in list(request, "firstAvailable").iter().enumerate() {
            names.insert(format!("{name}/{}", text(sub, "name")));
            exactly(errs, &path.child("firstAvailable").index(at), sub);
        }
    }
    for (n, constraint) in list(devices, "constraints").iter().enumerate() {
        let path = path.child("constraints").index(n).child("requests");
        for (at, name) in texts(constraint, "requests").enumerate() {
            if !names.contains(name) {
                let detail = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
                errs.invalid(path.index(at), name, detail);
            }
        }
    }
}

fn exactly(errs: &mut FieldErrors, path: &Path, request: &Value) {
    if text(request, "deviceClassName").is_empty() {
        errs.required(path.child("deviceClassName"), "");
    }
    let mode = text(request, "allocationMode");
    if !matches!(mode, "All" | "ExactCount") {
        errs.not_supported(path.child("allocationMode"), mode, &["All", "ExactCount"]);
    }
}

#[derive(Debug)]
struct ResourceSlice;

impl Strategy for ResourceSlice {
    fn resource(&self) -> &'static str {
        "resourceslices.resource.k8s.io"
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        let body = at(obj, "spec");
        let path = spec();
        if text(body, "driver").is_empty() {
            errs.required(path.child("driver"), "");
        }
        if has(body, "nodeName") && text(body, "nodeName").is_empty() {
            let detail = "must be either unset or set to a non-empty string";
            errs.invalid(path.child("nodeName"), "", detail);
        }
        let choices = ["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"];
        let count = choices.iter().filter(|f| !super::value::is_zero(key(body, f))).count();
        let detail = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
        match count {
            0 => errs.required(path.clone(), detail),
            1 => {}
            _ => errs.invalid(path.clone(), json!({}), detail),
        }
        let mut names = HashSet::new();
        for (n, device) in list(body, "devices").iter().enumerate() {
            let path = path.child("devices").index(n);
            let name = text(device, "name");
            if name.is_empty() {
                errs.required(path.child("name"), "");
            } else {
                problems(errs, &path.child("name"), name, label_problems(name));
            }
            if !names.insert(name) {
                errs.duplicate(path, name);
            }
        }
    }

    fn selectable_fields(&self) -> &'static [Selectable] {
        const FIELDS: &[Selectable] = &[
            Selectable { name: "spec.nodeName", path: "spec.nodeName", zero: "" },
            Selectable { name: "spec.driver", path: "spec.driver", zero: "" },
        ];
        FIELDS
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, column("Node"), column("Driver"), column("Pool"), AGE];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        vec![
            name(obj),
            json!(super::table::or(obj, "spec.nodeName", "<unset>")),
            json!(text(obj, "spec.driver")),
            json!(text(obj, "spec.pool.name")),
            age(obj, now),
        ]
    }

    fn has_generation(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct DeviceTaintRule;

impl Strategy for DeviceTaintRule {
    fn resource(&self) -> &'static str {
        "devicetaintrules.resource.k8s.io"
    }

    fn prepare_for_create(&self, cx: &Cx<'_>, obj: &mut Object) {
        if let Some(taint) = super::value::at_mut(obj, "spec.taint") {
            default(taint, "timeAdded", format!("{:.0}", cx.now));
        }
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, AGE];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        vec![name(obj), age(obj, now)]
    }

    fn has_generation(&self) -> bool {
        true
    }
}
