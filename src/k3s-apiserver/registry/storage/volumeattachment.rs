//! VolumeAttachments.

use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::subdomain_problems;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::core::persistentvolume::validate_inline;
use crate::registry::core::podspec::csi_driver_name;
use crate::registry::internal::renamed;
use crate::registry::table::{age, boolean, column, name};
use crate::registry::validate::{IMMUTABLE, problems, spec};
use crate::registry::value::{at, flag, has, key, map, text};
use crate::registry::{AGE, Column, Cx, NAME, Object, Strategy};

#[derive(Debug)]
pub(super) struct VolumeAttachment;

const METADATA_MAX: usize = 256 << 10;
const ERROR_MAX: usize = 1024;

const ATTACHER: Column =
    Column { name: "Attacher", kind: "string", format: "name", priority: 0, description: "" };

impl Strategy for VolumeAttachment {
    fn resource(&self) -> &'static str {
        "volumeattachments.storage.k8s.io"
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        validate(errs, obj);
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        validate(errs, new);
        if cx.subresource.is_empty() && at(new, "spec") != at(old, "spec") {
            errs.invalid(spec(), renamed(at(new, "spec")), IMMUTABLE);
        }
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] =
            &[NAME, ATTACHER, column("PV"), column("Node"), boolean("Attached"), AGE];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        vec![
            name(obj),
            json!(text(obj, "spec.attacher")),
            json!(text(obj, "spec.source.persistentVolumeName")),
            json!(text(obj, "spec.nodeName")),
            json!(flag(obj, "status.attached")),
            age(obj, now),
        ]
    }
}

fn validate(errs: &mut FieldErrors, obj: &Object) {
    csi_driver_name(errs, &spec().child("attacher"), text(obj, "spec.attacher"));
    let (source, path) = (at(obj, "spec.source"), spec().child("source"));
    match (has(source, "inlineVolumeSpec"), has(source, "persistentVolumeName")) {
        (false, false) => {
            let detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
            errs.required(path, detail);
        }
        (true, true) => {
            let detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
            errs.forbidden(path, detail);
        }
        (false, true) => {
            let path = path.child("persistentVolumeName");
            match text(source, "persistentVolumeName") {
                "" => errs.required(path, "must specify non empty persistentVolumeName"),
                name => problems(errs, &path, name, subdomain_problems(name)),
            }
        }
        (true, false) => {
            let path = path.child("inlineVolumeSpec");
            validate_inline(errs, &path, key(source, "inlineVolumeSpec"));
        }
    }
    let (path, node) = (spec().child("nodeName"), text(obj, "spec.nodeName"));
    problems(errs, &path, node, subdomain_problems(node));
    let metadata = map(obj, "status.attachmentMetadata");
    let size: usize =
        metadata.iter().map(|(name, value)| name.len() + value.as_str().map_or(0, str::len)).sum();
    if size > METADATA_MAX {
        errs.too_long(Path::new("status").child("attachmentMetadata"), METADATA_MAX);
    }
    for field in ["attachError", "detachError"] {
        let message = text(key(at(obj, "status"), field), "message");
        if message.len() > ERROR_MAX {
            let path = Path::new("status").child(field).child("message");
            errs.too_long(path, ERROR_MAX);
        }
    }
}
