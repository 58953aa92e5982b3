//! CSINodes, CSIStorageCapacities and VolumeAttributesClasses.

use std::collections::HashSet;

use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::{qualified_problems, subdomain_problems};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::storageclass::{parameters, provisioner};
use crate::registry::core::podspec::csi_driver_name;
use crate::registry::core::resources::nano;
use crate::registry::table::{age, column, integer, name};
use crate::registry::validate::{NOT_NEGATIVE, immutable, label_selector, problems, spec};
use crate::registry::value::{has, key, list, map, text, texts};
use crate::registry::{AGE, Column, Cx, NAME, Object, Strategy};

const NODE_ID_MAX: usize = 192;

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
        csi_driver_name(errs, &path.child("name"), name);
        node_id(errs, &path.child("nodeID"), text(driver, "nodeID"));
        let count = key(driver, "allocatable").get("count");
        if let Some(count) = count.filter(|count| count.as_i64().is_some_and(|n| n < 0)) {
            let path = path.child("allocatable").child("count");
            errs.invalid(path, count.clone(), NOT_NEGATIVE);
        }
        if !names.insert(name) {
            errs.duplicate(path.child("name"), name);
        }
        let (path, mut keys) = (path.child("topologyKeys"), HashSet::new());
        for topology in texts(driver, "topologyKeys") {
            if !keys.insert(topology) {
                errs.duplicate(&path, topology);
            }
            problems(errs, &path, topology, qualified_problems(topology));
        }
    }
}

fn node_id(errs: &mut FieldErrors, path: &Path, id: &str) {
    if id.is_empty() {
        errs.required(path, id);
    } else if id.len() > NODE_ID_MAX {
        errs.invalid(path, id, format!("must be {NODE_ID_MAX} characters or less"));
    }
}

#[derive(Debug)]
pub(super) struct CsiStorageCapacity;

impl Strategy for CsiStorageCapacity {
    fn resource(&self) -> &'static str {
        "csistoragecapacities.storage.k8s.io"
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        let class = text(obj, "storageClassName");
        problems(errs, &Path::new("storageClassName"), class, subdomain_problems(class));
        if has(obj, "nodeTopology") {
            label_selector(errs, &Path::new("nodeTopology"), key(obj, "nodeTopology"));
        }
        for field in ["capacity", "maximumVolumeSize"] {
            let size = key(obj, field);
            if nano(size).is_some_and(|size| size < 0) {
                errs.invalid(field, size.clone(), NOT_NEGATIVE);
            }
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
        provisioner(errs, &Path::new("driverName"), text(obj, "driverName"));
        parameters(errs, key(obj, "parameters"));
        if map(obj, "parameters").is_empty() {
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
