//! CSIDrivers.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::field::FieldErrors;
use crate::registry::table::{age, boolean, column, name};
use crate::registry::validate::spec;
use crate::registry::value::{at, at_mut, default, flag, has, list, text, texts};
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
    for mode in texts(obj, "spec.volumeLifecycleModes") {
        if !matches!(mode, "Persistent" | "Ephemeral") {
            errs.not_supported(
                spec().child("volumeLifecycleModes"),
                mode,
                &["Persistent", "Ephemeral"],
            );
        }
    }
    let policy = text(obj, "spec.fsGroupPolicy");
    if has(obj, "spec.fsGroupPolicy")
        && !matches!(policy, "ReadWriteOnceWithFSType" | "File" | "None")
    {
        let valid = &["ReadWriteOnceWithFSType", "File", "None"];
        errs.not_supported(spec().child("fsGroupPolicy"), policy, valid);
    }
    let mut seen: Vec<&str> = Vec::new();
    for (n, token) in list(obj, "spec.tokenRequests").iter().enumerate() {
        let audience = text(token, "audience");
        if seen.contains(&audience) {
            errs.duplicate(spec().child("tokenRequests").index(n).child("audience"), audience);
        }
        seen.push(audience);
    }
}
