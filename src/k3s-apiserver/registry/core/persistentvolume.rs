//! PersistentVolumes.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::podspec::{node_selector, volumes::shared_source};
use super::podspec_defaults::default_volume_source;
use super::resources::nano;
use crate::registry::field::{FieldErrors, Path};
use crate::registry::table::{access_modes, age, column, name, or, wide};
use crate::registry::validate::{immutable, problems, spec, subdomain_problems};
use crate::registry::value::{at, at_mut, default, default_zero, has, key, map, text, texts};
use crate::registry::{AGE, Column, Cx, NAME, Object, Selectable, Strategy};

pub(super) const MODES: &[&str] =
    &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const SOURCES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

#[derive(Debug)]
pub(super) struct PersistentVolume;

impl Strategy for PersistentVolume {
    fn resource(&self) -> &'static str {
        "persistentvolumes"
    }

    fn default(&self, obj: &mut Object) {
        if let Some(spec) = at_mut(obj, "spec") {
            default_zero(spec, "persistentVolumeReclaimPolicy", "Retain");
            default(spec, "volumeMode", "Filesystem");
            default_volume_source(spec);
        }
    }

    fn prepare_for_create(&self, cx: &Cx<'_>, obj: &mut Object) {
        obj["status"] =
            json!({"phase": "Pending", "lastPhaseTransitionTime": format!("{:.0}", cx.now)});
    }

    fn prepare_for_update(&self, cx: &Cx<'_>, new: &mut Object, old: &Object) {
        if cx.subresource == "status"
            && at(new, "status.phase") != at(old, "status.phase")
            && at(new, "status.lastPhaseTransitionTime")
                == at(old, "status.lastPhaseTransitionTime")
        {
            new["status"]["lastPhaseTransitionTime"] = json!(format!("{:.0}", cx.now));
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        validate_spec(errs, &spec(), at(obj, "spec"));
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        if cx.subresource == "status" {
            return;
        }
        validate_spec(errs, &spec(), at(new, "spec"));
        for source in SOURCES {
            let path = format!("spec.{source}");
            if at(new, &path) != at(old, &path) && *source != "csi" {
                let detail = "spec.persistentvolumesource is immutable after creation";
                errs.forbidden(spec().child("persistentvolumesource"), detail);
                break;
            }
        }
        immutable(
            errs,
            &Path::new("volumeMode"),
            at(new, "spec.volumeMode"),
            at(old, "spec.volumeMode"),
        );
        let had = at(old, "spec.nodeAffinity");
        if !had.is_null() && had != at(new, "spec.nodeAffinity") {
            let shown = at(new, "spec.nodeAffinity").clone();
            errs.invalid(
                "nodeAffinity",
                shown,
                "field is immutable, except for updating from beta label to GA",
            );
        }
    }

    fn selectable_fields(&self) -> &'static [Selectable] {
        const FIELDS: &[Selectable] =
            &[Selectable { name: "name", path: "metadata.name", zero: "" }];
        FIELDS
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column("Capacity"),
            column("Access Modes"),
            column("Reclaim Policy"),
            column("Status"),
            column("Claim"),
            column("StorageClass"),
            column("VolumeAttributesClass"),
            column("Reason"),
            AGE,
            wide("VolumeMode"),
        ];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let claim = match at(obj, "spec.claimRef") {
            Value::Null => String::new(),
            claim => format!("{}/{}", text(claim, "namespace"), text(claim, "name")),
        };
        let phase = text(obj, "status.phase");
        let phase = if has(obj, "metadata.deletionTimestamp") { "Terminating" } else { phase };
        vec![
            name(obj),
            json!(text(obj, "spec.capacity.storage")),
            json!(access_modes(at(obj, "spec.accessModes"))),
            json!(text(obj, "spec.persistentVolumeReclaimPolicy")),
            json!(phase),
            json!(claim),
            json!(text(obj, "spec.storageClassName")),
            json!(or(obj, "spec.volumeAttributesClassName", "<unset>")),
            json!(text(obj, "status.reason")),
            age(obj, now),
            json!(or(obj, "spec.volumeMode", "<unset>")),
        ]
    }
}

/// The spec of a volume, as volume attachments have it inline too.
pub(crate) fn validate_spec(errs: &mut FieldErrors, path: &Path, body: &Value) {
    let modes: Vec<&str> = texts(body, "accessModes").collect();
    if modes.is_empty() {
        errs.required(path.child("accessModes"), "");
    }
    access(errs, &path.child("accessModes"), &modes);
    capacity(errs, &path.child("capacity"), body);
    let policy = text(body, "persistentVolumeReclaimPolicy");
    if !matches!(policy, "" | "Delete" | "Recycle" | "Retain") {
        let valid = &["Delete", "Recycle", "Retain"];
        errs.not_supported(path.child("persistentVolumeReclaimPolicy"), policy, valid);
    }
    if has(body, "nodeAffinity.required") {
        node_selector(
            errs,
            &path.child("nodeAffinity").child("required"),
            at(body, "nodeAffinity.required"),
        );
    }
    let mut count = 0;
    for kind in SOURCES.iter().filter(|kind| has(body, kind)) {
        if count > 0 {
            errs.forbidden(path.child(kind), "may not specify more than 1 volume type");
            continue;
        }
        count += 1;
        let source = key(body, kind);
        let path_source = path.child(kind);
        match *kind {
            "csi" => {
                for field in ["driver", "volumeHandle"] {
                    if text(source, field).is_empty() {
                        errs.required(path_source.child(field), "");
                    }
                }
            }
            "local" => {
                if text(source, "path").is_empty() {
                    errs.required(path_source.child("path"), "");
                }
                if !has(body, "nodeAffinity") {
                    errs.required(
                        path.child("nodeAffinity"),
                        "Local volume requires node affinity",
                    );
                }
            }
            _ => shared_source(errs, &path_source, kind, source),
        }
    }
    if count == 0 {
        errs.required(path, "must specify a volume type");
    }
    if text(body, "hostPath.path") == "/" && policy == "Recycle" {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        errs.forbidden(path.child("persistentVolumeReclaimPolicy"), detail);
    }
    let class = text(body, "storageClassName");
    if !class.is_empty() {
        problems(errs, &path.child("storageClassName"), class, subdomain_problems(class));
    }
    mode(errs, path, body);
}

fn capacity(errs: &mut FieldErrors, path: &Path, body: &Value) {
    let capacity = map(body, "capacity");
    if capacity.is_empty() {
        errs.required(path, "");
    }
    if capacity.len() != 1 || !capacity.contains_key("storage") {
        errs.not_supported(path, json!(capacity), &["storage"]);
    }
    for (name, value) in capacity {
        let path = path.key(name);
        if let Some(nanos) = nano(value)
            && nanos <= 0
        {
            if nanos < 0 {
                let shown = value.as_str().unwrap_or_default();
                let text = format!("Invalid value: {shown}: must be a valid resource quantity");
                errs.add("FieldValueInvalid", path.clone(), text);
            }
            errs.invalid(path, value.clone(), "must be greater than zero");
        }
    }
}

/// Access modes of volumes and claims.
pub(super) fn access(errs: &mut FieldErrors, path: &Path, modes: &[&str]) {
    for mode in modes {
        if !MODES.contains(mode) {
            errs.not_supported(path, *mode, MODES);
        }
    }
    if modes.len() > 1 && modes.contains(&"ReadWriteOncePod") {
        errs.forbidden(path, "may not use ReadWriteOncePod with other access modes");
    }
}

/// `volumeMode` of volumes and claims.
pub(super) fn mode(errs: &mut FieldErrors, path: &Path, body: &Value) {
    let mode = text(body, "volumeMode");
    if has(body, "volumeMode") && !matches!(mode, "Block" | "Filesystem") {
        errs.not_supported(path.child("volumeMode"), mode, &["Block", "Filesystem"]);
    }
}
