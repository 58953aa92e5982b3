//! PersistentVolumes.

use apimachinery::field::{ErrorKind, FieldErrors, Path};
use apimachinery::validation::subdomain_problems;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::pod_warnings::RENAMED;
use super::podspec::{node_selector, persistent_source};
use super::podspec_defaults::default_volume_source;
use super::resources::nano;
use crate::registry::internal::{Struct, diff, renamed};
use crate::registry::table::{access_modes, age, column, name, or, wide};
use crate::registry::validate::{immutable, problems, spec};
use crate::registry::value::{
    at, at_mut, default, default_zero, has, key, list, list_mut, map, remove, text, texts,
};
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
        validate_spec(errs, &spec(), at(obj, "spec"), text(obj, "metadata.name"));
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        if cx.subresource == "status" {
            return;
        }
        validate_spec(errs, &spec(), at(new, "spec"), text(new, "metadata.name"));
        source_update(errs, at(new, "spec"), at(old, "spec"));
        let path = Path::new("volumeMode");
        immutable(errs, &path, at(new, "spec.volumeMode"), at(old, "spec.volumeMode"));
        let had = at(old, "spec.nodeAffinity");
        if !had.is_null() && !same_but_for_beta(had, at(new, "spec.nodeAffinity")) {
            let shown = renamed(at(new, "spec.nodeAffinity"));
            let detail = "field is immutable, except for updating from beta label to GA";
            errs.invalid("nodeAffinity", shown, detail);
        }
        let class = "spec.volumeAttributesClassName";
        if has(old, class) && !has(new, class) {
            errs.forbidden(class, "update from non-nil value to nil is forbidden");
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

/// Where a volume comes from stays; only the secret for its expansion may be told later.
fn source_update(errs: &mut FieldErrors, new: &Value, old: &Value) {
    let mut compared = new.clone();
    let secret = "csi.controllerExpandSecretRef";
    if has(old, "csi") && !has(old, secret) {
        remove(&mut compared, secret);
    }
    if SOURCES.iter().any(|kind| key(&compared, kind) != key(old, kind)) {
        let diff = diff(Struct::PersistentVolumeSource, old, &compared);
        let detail = format!("spec.persistentvolumesource is immutable after creation\n{diff}");
        errs.forbidden(spec().child("persistentvolumesource"), detail);
    }
}

/// Whether two affinities differ in nothing but labels that have lost their beta.
fn same_but_for_beta(old: &Value, new: &Value) -> bool {
    let mut old = old.clone();
    let terms = list(new, "required.nodeSelectorTerms");
    for (term, now) in list_mut(&mut old, "required.nodeSelectorTerms").zip(terms) {
        let now = list(now, "matchExpressions");
        for (had, have) in list_mut(term, "matchExpressions").zip(now) {
            let stable = RENAMED.iter().find(|(beta, _)| text(had, "key") == *beta);
            if stable.is_some_and(|(_, stable)| text(have, "key") == *stable) {
                had["key"] = have["key"].clone();
            }
        }
    }
    old == *new
}

/// The spec of a volume of this name.
fn validate_spec(errs: &mut FieldErrors, path: &Path, body: &Value, volume: &str) {
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
    if has(body, "nodeAffinity") {
        let path = path.child("nodeAffinity").child("required");
        match at(body, "nodeAffinity.required") {
            Value::Null => errs.required(path, "must specify required node constraints"),
            required => node_selector(errs, &path, required),
        }
    }
    let mut count = 0;
    for kind in SOURCES.iter().filter(|kind| has(body, kind)) {
        // Upstream's check of this one forgets to look whether there is another.
        if count > 0 && *kind != "flexVolume" {
            let shown = if *kind == "cephfs" { "cephFS" } else { kind };
            errs.forbidden(path.child(shown), "may not specify more than 1 volume type");
            continue;
        }
        count += 1;
        persistent_source(errs, path, kind, key(body, kind), volume);
        if *kind == "local" && !has(body, "nodeAffinity") {
            errs.required(path.child("nodeAffinity"), "Local volume requires node affinity");
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
    attributes_class(errs, path, body);
}

/// A class of attributes is for CSI volumes.
fn attributes_class(errs: &mut FieldErrors, path: &Path, body: &Value) {
    let class = text(body, "volumeAttributesClassName");
    let here = path.child("volumeAttributesClassName");
    if !has(body, "volumeAttributesClassName") {
        return;
    }
    if class.is_empty() {
        errs.required(here, "an empty string is disallowed");
    } else {
        problems(errs, &here, class, subdomain_problems(class));
    }
    if !has(body, "csi") {
        errs.required(
            path.child("csi"),
            "has to be specified when using volumeAttributesClassName",
        );
    }
}

/// A spec inside a volume attachment: a CSI volume and nothing that belongs to a volume of its own.
pub(crate) fn validate_inline(errs: &mut FieldErrors, path: &Path, body: &Value) {
    let inline = "may not be specified in the context of inline volumes";
    if has(body, "claimRef") {
        errs.forbidden(path.child("claimRef"), inline);
    }
    if !map(body, "capacity").is_empty() {
        errs.forbidden(path.child("capacity"), inline);
    }
    if !has(body, "csi") {
        errs.required(path.child("csi"), "has to be specified in the context of inline volumes");
    }
    let modes: Vec<&str> = texts(body, "accessModes").collect();
    if modes.is_empty() {
        errs.required(path.child("accessModes"), "");
    }
    access(errs, &path.child("accessModes"), &modes);
    if !matches!(text(body, "persistentVolumeReclaimPolicy"), "" | "Retain") {
        let detail = "may only be Retain in the context of inline volumes";
        errs.forbidden(path.child("persistentVolumeReclaimPolicy"), detail);
    }
    if has(body, "nodeAffinity") {
        errs.forbidden(path.child("nodeAffinity"), inline);
    }
    match SOURCES.iter().find(|kind| has(body, kind)) {
        Some(kind) => persistent_source(errs, path, kind, key(body, kind), ""),
        None => errs.required(path, "must specify a volume type"),
    }
    if !text(body, "storageClassName").is_empty() {
        errs.forbidden(path.child("storageClassName"), inline);
    }
    if has(body, "volumeMode") && text(body, "volumeMode") != "Filesystem" {
        let detail =
            "may not specify volumeMode other than Filesystem in the context of inline volumes";
        errs.forbidden(path.child("volumeMode"), detail);
    }
    attributes_class(errs, path, body);
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
                let detail = "must be a valid resource quantity";
                errs.add(ErrorKind::Invalid, path.clone(), shown, detail);
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
