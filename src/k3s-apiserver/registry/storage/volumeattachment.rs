//! VolumeAttachments.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::field::FieldErrors;
use crate::registry::table::{age, boolean, column, name};
use crate::registry::validate::{immutable, spec};
use crate::registry::value::{at, flag, has, text};
use crate::registry::{AGE, Column, Cx, NAME, Object, Strategy};

#[derive(Debug)]
pub(super) struct VolumeAttachment;

const ATTACHER: Column =
    Column { name: "Attacher", kind: "string", format: "name", priority: 0, description: "" };

impl Strategy for VolumeAttachment {
    fn resource(&self) -> &'static str {
        "volumeattachments.storage.k8s.io"
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        for field in ["attacher", "nodeName"] {
            if text(at(obj, "spec"), field).is_empty() {
                errs.required(spec().child(field), "");
            }
        }
        let source = at(obj, "spec.source");
        let path = spec().child("source");
        match (has(source, "inlineVolumeSpec"), has(source, "persistentVolumeName")) {
            (false, false) => errs.required(
                path,
                "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            ),
            (true, true) => errs.forbidden(
                path,
                "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            ),
            _ => {}
        }
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        if cx.subresource.is_empty() {
            immutable(errs, &spec(), at(new, "spec"), at(old, "spec"));
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
