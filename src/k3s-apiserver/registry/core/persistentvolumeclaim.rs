//! PersistentVolumeClaims.

use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::{label_problems, subdomain_problems};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::persistentvolume::{access, mode};
use super::resources::nano;
use crate::registry::internal::{Struct, diff};
use crate::registry::table::{access_modes, age, column, name, or, wide};
use crate::registry::validate::{IMMUTABLE, immutable, label_selector, problems, spec};
use crate::registry::value::{at, at_mut, carry, default, has, key, map, remove, text, texts};
use crate::registry::{AGE, Column, Cx, NAME, Object, Selectable, Strategy};

const FIXED: &str = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";

const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

#[derive(Debug)]
pub(super) struct PersistentVolumeClaim;

impl Strategy for PersistentVolumeClaim {
    fn resource(&self) -> &'static str {
        "persistentvolumeclaims"
    }

    fn default(&self, obj: &mut Object) {
        if let Some(spec) = at_mut(obj, "spec") {
            default(spec, "volumeMode", "Filesystem");
        }
    }

    fn prepare_for_create(&self, _cx: &Cx<'_>, obj: &mut Object) {
        obj["status"] = json!({"phase": "Pending"});
        sources(obj);
    }

    fn prepare_for_update(&self, cx: &Cx<'_>, new: &mut Object, _old: &Object) {
        if cx.subresource.is_empty() {
            sources(new);
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
        update(errs, new, old);
    }

    fn selectable_fields(&self) -> &'static [Selectable] {
        const FIELDS: &[Selectable] =
            &[Selectable { name: "name", path: "metadata.name", zero: "" }];
        FIELDS
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column("Status"),
            column("Volume"),
            column("Capacity"),
            column("Access Modes"),
            column("StorageClass"),
            column("VolumeAttributesClass"),
            AGE,
            wide("VolumeMode"),
        ];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let phase = text(obj, "status.phase");
        let phase = if has(obj, "metadata.deletionTimestamp") { "Terminating" } else { phase };
        let volume = text(obj, "spec.volumeName");
        let (capacity, modes) = if volume.is_empty() {
            (String::new(), String::new())
        } else {
            let size = or(obj, "status.capacity.storage", "0").to_owned();
            (size, access_modes(at(obj, "status.accessModes")))
        };
        vec![
            name(obj),
            json!(phase),
            json!(volume),
            json!(capacity),
            json!(modes),
            json!(text(obj, "spec.storageClassName")),
            json!(or(obj, "spec.volumeAttributesClassName", "<unset>")),
            age(obj, now),
            json!(or(obj, "spec.volumeMode", "<unset>")),
        ]
    }
}

/// `dataSource` and `dataSourceRef` say the same, where the old field can say it.
fn sources(obj: &mut Object) {
    let Some(spec) = at_mut(obj, "spec") else { return };
    // An old source of a kind that cannot be one is dropped, as it always was.
    let known = |source: &Value| {
        let (group, kind) = (text(source, "apiGroup"), text(source, "kind"));
        (group.is_empty() && kind == "PersistentVolumeClaim")
            || (group == "snapshot.storage.k8s.io" && kind == "VolumeSnapshot")
    };
    if has(spec, "dataSource") && !known(key(spec, "dataSource")) {
        remove(spec, "dataSource");
    }
    let (old, new) = (key(spec, "dataSource").clone(), key(spec, "dataSourceRef").clone());
    if !old.is_null() && new.is_null() {
        spec["dataSourceRef"] = old;
    } else if old.is_null() && !new.is_null() && text(&new, "namespace").is_empty() && known(&new) {
        spec["dataSource"] = new;
    }
}

/// The spec of a claim, in templates too.
pub(crate) fn validate_spec(errs: &mut FieldErrors, path: &Path, body: &Value) {
    let modes: Vec<&str> = texts(body, "accessModes").collect();
    if modes.is_empty() {
        errs.required(path.child("accessModes"), "at least 1 access mode is required");
    }
    label_selector(errs, &path.child("selector"), key(body, "selector"));
    access(errs, &path.child("accessModes"), &modes);
    let storage = at(body, "resources.requests.storage");
    let here = path.child("resources").key("storage");
    match nano(storage) {
        None => errs.required(here, ""),
        Some(nanos) if nanos <= 0 => {
            errs.invalid(here, storage.clone(), "must be greater than zero")
        }
        Some(_) => {}
    }
    let class = text(body, "storageClassName");
    if !class.is_empty() {
        problems(errs, &path.child("storageClassName"), class, subdomain_problems(class));
    }
    mode(errs, path, body);
    let (old, new) = (key(body, "dataSource"), key(body, "dataSourceRef"));
    data_source(errs, &path.child("dataSource"), old);
    data_source(errs, &path.child("dataSourceRef"), new);
    let parts =
        |source: &Value| ["apiGroup", "kind", "name"].map(|part| text(source, part).to_owned());
    if old.is_null() || new.is_null() {
    } else if !text(new, "namespace").is_empty() {
        let detail = "may not be specified when dataSourceRef.namespace is specified";
        errs.invalid(path, json!({}), detail);
    } else if parts(old) != parts(new) {
        errs.invalid(path, json!({}), "must match dataSourceRef");
    }
    let class = text(body, "volumeAttributesClassName");
    if !class.is_empty() {
        problems(errs, &path.child("volumeAttributesClassName"), class, subdomain_problems(class));
    }
}

fn data_source(errs: &mut FieldErrors, path: &Path, source: &Value) {
    if source.is_null() {
        return;
    }
    for part in ["name", "kind"] {
        if text(source, part).is_empty() {
            errs.required(path.child(part), "");
        }
    }
    let (group, kind) = (text(source, "apiGroup"), text(source, "kind"));
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errs.invalid(path, kind, detail);
    }
    if !group.is_empty() {
        problems(errs, &path.child("apiGroup"), group, subdomain_problems(group));
    }
    let namespace = text(source, "namespace");
    if !namespace.is_empty() {
        problems(errs, &path.child("namespace"), namespace, label_problems(namespace));
    }
}

/// A claim stays as it was made, but for its size, its class of attributes, and what it lacked.
fn update(errs: &mut FieldErrors, new: &Object, old: &Object) {
    let (mut now, mut before) = (at(new, "spec").clone(), at(old, "spec").clone());
    if text(&before, "volumeName").is_empty() {
        carry(&now, &mut before, "volumeName");
    }
    class_update(errs, &mut now, new, old);
    let bound = text(new, "status.phase") == "Bound";
    if bound && has(&now, "resources.requests") {
        carry(at(old, "spec"), &mut now, "resources.requests.storage");
    }
    let class = "volumeAttributesClassName";
    if bound && has(&now, class) {
        carry(at(old, "spec"), &mut now, class);
    }
    if now != before {
        let diff = diff(Struct::PersistentVolumeClaimSpec, &before, &now);
        errs.forbidden(spec(), format!("{FIXED}\n{diff}"));
    }
    let storage = "spec.resources.requests.storage";
    let (size, had) = (nano(at(new, storage)), nano(at(old, storage)));
    if size < had && size.or(Some(0)) <= nano(at(old, "status.capacity.storage")).or(Some(0)) {
        errs.forbidden(storage, "field can not be less than status.capacity");
    }
    let mode = "spec.volumeMode";
    immutable(errs, &Path::new("volumeMode"), at(new, mode), at(old, mode));
    let class = "spec.volumeAttributesClassName";
    match (at(old, class), at(new, class)) {
        (Value::Null, _) => {}
        (_, Value::Null) => errs.forbidden(class, "update from non-nil value to nil is forbidden"),
        (had, now) if had != now && now == "" => {
            errs.forbidden(class, "update from non-nil value to an empty string is forbidden");
        }
        _ => {}
    }
}

/// A claim without a class may get one, by a default made later; an old annotation may become it.
fn class_update(errs: &mut FieldErrors, now: &mut Value, new: &Object, old: &Object) {
    let annotation = |obj: &Object| {
        map(at(obj, "metadata"), "annotations")
            .get(BETA_CLASS)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let (had, have) = (annotation(old), annotation(new));
    let wanted = at(new, "spec.storageClassName").as_str();
    let unset = !has(old, "spec.storageClassName");
    let upgraded = unset && had.is_some() && wanted == had.as_deref();
    if !(upgraded && (have.is_none() || have == had)) && had != have {
        let shown = have.clone().unwrap_or_default();
        let path = Path::new("metadata").child("annotations").child(BETA_CLASS);
        errs.invalid(path, shown, IMMUTABLE);
    }
    if unset && wanted.is_some() && (had.is_none() || wanted == had.as_deref()) {
        remove(now, "storageClassName");
    }
}
