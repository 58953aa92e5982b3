//! StorageClasses.

use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::qualified_problems;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::core::podspec::topology_selector_terms;
use crate::registry::table::{age, column, name, or};
use crate::registry::validate::{immutable, one_of, problems};
use crate::registry::value::{at, default, flag, key, list, map, text};
use crate::registry::{AGE, Column, Cx, NAME, Object, Strategy};

#[derive(Debug)]
pub(super) struct StorageClass;

impl Strategy for StorageClass {
    fn resource(&self) -> &'static str {
        "storageclasses.storage.k8s.io"
    }

    fn default(&self, obj: &mut Object) {
        default(obj, "reclaimPolicy", "Delete");
        default(obj, "volumeBindingMode", "Immediate");
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        validate(obj, errs);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        validate(new, errs);
        let parameters = |obj: &Object| json!(map(obj, "parameters"));
        immutable(errs, &Path::new("parameters"), &parameters(new), &parameters(old));
        for field in ["provisioner", "reclaimPolicy", "volumeBindingMode"] {
            immutable(errs, &Path::new(field), key(new, field), key(old, field));
        }
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column("Provisioner"),
            column("ReclaimPolicy"),
            column("VolumeBindingMode"),
            column("AllowVolumeExpansion"),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let annotations = at(obj, "metadata.annotations");
        let is_default = [
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.beta.kubernetes.io/is-default-class",
        ]
        .iter()
        .any(|mark| key(annotations, mark) == "true");
        let shown = match name(obj) {
            Value::String(name) if is_default => json!(format!("{name} (default)")),
            name => name,
        };
        vec![
            shown,
            json!(text(obj, "provisioner")),
            json!(or(obj, "reclaimPolicy", "Delete")),
            json!(or(obj, "volumeBindingMode", "Immediate")),
            json!(flag(obj, "allowVolumeExpansion")),
            age(obj, now),
        ]
    }
}

fn validate(obj: &Object, errs: &mut FieldErrors) {
    provisioner(errs, &Path::new("provisioner"), text(obj, "provisioner"));
    parameters(errs, key(obj, "parameters"));
    let valid = &["Delete", "Retain"];
    one_of(errs, &Path::new("reclaimPolicy"), key(obj, "reclaimPolicy"), valid);
    let valid = &["Immediate", "WaitForFirstConsumer"];
    one_of(errs, &Path::new("volumeBindingMode"), key(obj, "volumeBindingMode"), valid);
    topology_selector_terms(errs, &Path::new("allowedTopologies"), list(obj, "allowedTopologies"));
}

/// Who makes volumes: a qualified name whose case does not matter.
pub(super) fn provisioner(errs: &mut FieldErrors, path: &Path, name: &str) {
    if name.is_empty() {
        errs.required(path, name);
    } else {
        problems(errs, path, &name.to_lowercase(), qualified_problems(&name.to_lowercase()));
    }
}

/// `parameters`: few, small, with names.
pub(super) fn parameters(errs: &mut FieldErrors, parameters: &Value) {
    const MOST: usize = 512;
    const SIZE: usize = 256 << 10;
    let all = parameters.as_object().cloned().unwrap_or_default();
    let path = Path::new("parameters");
    if all.len() > MOST {
        errs.too_long(path, MOST);
        return;
    }
    let mut size = 0;
    for (name, value) in &all {
        if name.is_empty() {
            errs.invalid(&path, name.as_str(), "field can not be empty.");
        }
        size += name.len() + value.as_str().unwrap_or_default().len();
    }
    if size > SIZE {
        errs.too_long(path, SIZE);
    }
}
