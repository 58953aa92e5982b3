//! `resource.k8s.io`: dynamic resource allocation.

mod claim;
mod parts;
mod slice;

use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::qualified_problems;
use jiff::Timestamp;
use serde_json::{Value, json};

use self::parts::{configuration, each, label, pool_name, selectors, taint};
use super::core::podspec::csi_driver_name;
use super::core::resources::is_extended;
use super::meta::template_metadata;
use super::table::{age, column, name};
use super::validate::{conditions, immutable, spec};
use super::value::{at, default, default_zero, has, list, list_mut, text};
use super::{AGE, Column, Cx, NAME, Object, Selectable, Strategy};

/// The label of namespaces whose claims may have devices that others use.
const ADMIN_NAMESPACE: &str = "resource.kubernetes.io/admin-access";

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
        class(errs, obj, None);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        class(errs, new, Some(old));
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

fn class(errs: &mut FieldErrors, new: &Object, old: Option<&Object>) {
    let path = spec();
    let stored = |name: &str| old.is_some_and(|old| at(old, name) == at(new, name));
    let kept = stored("spec.selectors");
    selectors(errs, &path.child("selectors"), list(new, "spec.selectors"), kept);
    let kept = stored("spec.config");
    each(errs, &path.child("config"), list(new, "spec.config"), 32, |errs, path, config| {
        configuration(errs, path, config, kept);
    });
    let extended = text(new, "spec.extendedResourceName");
    if has(new, "spec.extendedResourceName") && !is_extended_resource(extended) {
        let detail = "must be a valid extended resource name";
        errs.invalid(path.child("extendedResourceName"), extended, detail);
    }
}

/// A resource outside Kubernetes' own domains that quotas can name.
fn is_extended_resource(name: &str) -> bool {
    is_extended(name) && qualified_problems(&format!("requests.{name}")).is_empty()
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

    fn validate(&self, cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        let devices = at(obj, self.1).get("devices").unwrap_or(&Value::Null);
        admin_access(cx, devices, errs);
        let path = if self.is_template() {
            let meta = at(obj, "spec.metadata");
            let path = spec().child("metadata");
            template_metadata(meta, &path, errs);
            spec().child("spec")
        } else {
            spec()
        };
        claim::devices(errs, &path.child("devices"), devices);
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        if cx.subresource == "status" {
            claim::status(errs, new, old);
        } else {
            immutable(errs, &spec(), at(new, "spec"), at(old, "spec"));
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

/// Devices that others use are for the namespaces that an administrator chose.
fn admin_access(cx: &Cx<'_>, devices: &Value, errs: &mut FieldErrors) {
    let Some(n) = claim::admin_request(devices) else { return };
    let namespace = cx.cluster.get("namespaces", "", cx.namespace);
    if namespace.is_some_and(|namespace| namespace.label(ADMIN_NAMESPACE) == Some("true")) {
        return;
    }
    let path = spec().child("devices").child("requests").index(n).child("adminAccess");
    let detail = format!(
        "admin access to devices requires the `{ADMIN_NAMESPACE}: true` label on the containing \
         namespace"
    );
    errs.forbidden(path, detail);
}

#[derive(Debug)]
struct ResourceSlice;

impl Strategy for ResourceSlice {
    fn resource(&self) -> &'static str {
        "resourceslices.resource.k8s.io"
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        slice::validate(errs, obj, None);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        slice::validate(errs, new, Some(old));
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

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        taint_rule(errs, obj, None);
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        if cx.subresource.is_empty() {
            taint_rule(errs, new, Some(old));
        } else {
            let path = Path::new("status").child("conditions");
            conditions(errs, &path, list(new, "status.conditions"));
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

fn taint_rule(errs: &mut FieldErrors, rule: &Object, old: Option<&Object>) {
    let (path, selector) = (spec().child("deviceSelector"), at(rule, "spec.deviceSelector"));
    if has(selector, "driver") {
        csi_driver_name(errs, &path.child("driver"), text(selector, "driver"));
    }
    if has(selector, "pool") {
        pool_name(errs, &path.child("pool"), text(selector, "pool"));
    }
    if has(selector, "device") {
        label(errs, &path.child("device"), text(selector, "device"));
    }
    let old = old.map(|old| at(old, "spec.taint"));
    taint(errs, &spec().child("taint"), at(rule, "spec.taint"), old);
}
