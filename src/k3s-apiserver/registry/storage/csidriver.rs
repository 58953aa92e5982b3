//! CSIDrivers.

use apimachinery::field::FieldErrors;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::core::podspec::csi_driver_name;
use crate::registry::table::{age, boolean, column, name};
use crate::registry::validate::{one_of, spec};
use crate::registry::value::{at, at_mut, default, flag, has, int, key, list, text, texts};
use crate::registry::{AGE, Column, Cx, NAME, Object, Strategy};

#[derive(Debug)]
pub(super) struct CsiDriver;

impl Strategy for CsiDriver {
    fn resource(&self) -> &'static str {
        "csidrivers.storage.k8s.io"
    }

    fn default(&self, obj: &mut Object) {
        let Some(spec) = at_mut(obj, "spec") else { return };
        default(spec, "attachRequired", true);
        for field in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
            default(spec, field, false);
        }
        default(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if list(spec, "volumeLifecycleModes").is_empty() {
            spec["volumeLifecycleModes"] = json!(["Persistent"]);
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        validate_name(obj, errs);
        validate(obj, errs);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        validate(new, errs);
        for field in ["attachRequired", "volumeLifecycleModes"] {
            crate::registry::validate::immutable_spec(errs, field, new, old);
        }
    }

    fn warnings(&self, _cx: &Cx<'_>, obj: &Object, _old: Option<&Object>) -> Vec<String> {
        if list(obj, "spec.tokenRequests").is_empty()
            || has(obj, "spec.serviceAccountTokenInSecrets")
        {
            return Vec::new();
        }
        vec!["spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes".to_owned()]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            boolean("AttachRequired"),
            boolean("PodInfoOnMount"),
            boolean("StorageCapacity"),
            column("TokenRequests"),
            boolean("RequiresRepublish"),
            column("Modes"),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let audiences: Vec<&str> =
            list(obj, "spec.tokenRequests").iter().map(|token| text(token, "audience")).collect();
        let audiences =
            if audiences.is_empty() { "<unset>".to_owned() } else { audiences.join(",") };
        let modes: Vec<&str> = texts(obj, "spec.volumeLifecycleModes").collect();
        let modes = if modes.is_empty() { "<unset>".to_owned() } else { modes.join(",") };
        let set = |path: &str, none: bool| at(obj, path).as_bool().unwrap_or(none);
        vec![
            name(obj),
            json!(set("spec.attachRequired", true)),
            json!(set("spec.podInfoOnMount", false)),
            json!(flag(obj, "spec.storageCapacity")),
            json!(audiences),
            json!(flag(obj, "spec.requiresRepublish")),
            json!(modes),
            age(obj, now),
        ]
    }
}

fn validate(obj: &Object, errs: &mut FieldErrors) {
    let driver = at(obj, "spec");
    for field in ["attachRequired", "podInfoOnMount", "storageCapacity"] {
        if !has(driver, field) {
            errs.required(spec().child(field), "");
        }
    }
    if has(driver, "fsGroupPolicy") {
        let valid = &["ReadWriteOnceWithFSType", "File", "None"];
        one_of(errs, &spec().child("fsGroupPolicy"), key(driver, "fsGroupPolicy"), valid);
    }
    let mut seen: Vec<&str> = Vec::new();
    for (n, token) in list(driver, "tokenRequests").iter().enumerate() {
        let path = spec().child("tokenRequests").index(n);
        let audience = text(token, "audience");
        if seen.contains(&audience) {
            errs.duplicate(path.child("audience"), audience);
            continue;
        }
        seen.push(audience);
        let Some(seconds) = int(token, "expirationSeconds") else { continue };
        let path = path.child("expirationSeconds");
        if seconds < 600 {
            errs.invalid(&path, seconds, "may not specify a duration less than 10 minutes");
        }
        if seconds > 1 << 32 {
            errs.invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds");
        }
    }
    for mode in texts(driver, "volumeLifecycleModes") {
        let valid = &["Persistent", "Ephemeral"];
        if !valid.contains(&mode) {
            errs.not_supported(spec().child("volumeLifecycleModes"), mode, valid);
        }
    }
    if !has(driver, "seLinuxMount") {
        errs.required(spec().child("seLinuxMount"), "");
    }
    if let Some(seconds) = int(driver, "nodeAllocatableUpdatePeriodSeconds").filter(|n| *n < 10) {
        let path = spec().child("nodeAllocatableUpdatePeriodSeconds");
        errs.invalid(path, seconds, "must be greater than or equal to 10 seconds");
    }
    let tokens = at(driver, "serviceAccountTokenInSecrets");
    if !tokens.is_null() && list(driver, "tokenRequests").is_empty() {
        let path = spec().child("serviceAccountTokenInSecrets");
        errs.invalid(path, tokens.clone(), "must be unset when tokenRequests is empty");
    }
}

/// The name of a driver is also its object's.
fn validate_name(obj: &Object, errs: &mut FieldErrors) {
    let path = apimachinery::field::Path::new("metadata").child("name");
    csi_driver_name(errs, &path, text(obj, "metadata.name"));
}
