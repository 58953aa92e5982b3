//! CSINodes, CSIStorageCapacities and VolumeAttributesClasses.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::field::{FieldErrors, Path};
use crate::registry::table::{age, column, integer, name};
use crate::registry::validate::{immutable, label_selector, spec};
use crate::registry::value::{key, list, text};
use crate::registry::{AGE, Column, Cx, NAME, Object, Strategy};

#[derive(Debug)]
pub(super) struct CsiNode;

impl Strategy for CsiNode {
    fn resource(&self) -> &'static str {
        "csinodes.storage.k8s.io"
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        drivers(obj, errs);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Object, _old: &Object, errs: &mut FieldErrors) {
        drivers(new, errs);
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, integer("Drivers"), AGE];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        vec![name(obj), json!(list(obj, "spec.drivers").len()), age(obj, now)]
    }
}

fn drivers(obj: &Object, errs: &mut FieldErrors) {
    let mut names = HashSet::new();
    for (n, driver) in list(obj, "spec.drivers").iter().enumerate() {
        let path = spec().child("drivers").index(n);
        let name = text(driver, "name");
        if name.is_empty() {
            errs.required(path.child("name"), "");
        }
        if text(driver, "nodeID").is_empty() {
            errs.required(path.child("nodeID"), "");
        }
        if !names.insert(name) {
            errs.duplicate(path.child("name"), name);
        }
        let mut keys = HashSet::new();
        for (at, topology) in list(driver, "topologyKeys").iter().enumerate() {
            if !keys.insert(topology.as_str()) {
                errs.duplicate(path.child("topologyKeys").index(at), topology.clone());
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct CsiStorageCapacity;

impl Strategy for CsiStorageCapacity {
    fn resource(&self) -> &'static str {
        "csistoragecapacities.storage.k8s.io"
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        label_selector(errs, &Path::new("nodeTopology"), key(obj, "nodeTopology"));
        if text(obj, "storageClassName").is_empty() {
            errs.required("storageClassName", "");
        }
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        for field in ["nodeTopology", "storageClassName"] {
            immutable(errs, &Path::new(field), key(new, field), key(old, field));
        }
    }
}

#[derive(Debug)]
pub(super) struct VolumeAttributesClass;

impl Strategy for VolumeAttributesClass {
    fn resource(&self) -> &'static str {
        "volumeattributesclasses.storage.k8s.io"
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        if text(obj, "driverName").is_empty() {
            errs.required("driverName", "");
        }
        if crate::registry::value::map(obj, "parameters").is_empty() {
            errs.required("parameters", "must contain at least one key/value pair");
        }
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        for field in ["driverName", "parameters"] {
            immutable(errs, &Path::new(field), key(new, field), key(old, field));
        }
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, column("DriverName"), AGE];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        vec![name(obj), json!(text(obj, "driverName")), age(obj, now)]
    }
}
