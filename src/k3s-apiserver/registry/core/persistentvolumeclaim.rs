//! PersistentVolumeClaims.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::persistentvolume::{access, mode};
use super::resources::nano;
use super::spec_diff;
use crate::registry::field::{FieldErrors, Path};
use crate::registry::table::{access_modes, age, column, name, or, wide};
use crate::registry::validate::{label_selector, problems, spec, subdomain_problems};
use crate::registry::value::{at, at_mut, carry, default, has, is_zero, key, remove, text, texts};
use crate::registry::{AGE, Column, Cx, NAME, Object, Selectable, Strategy};

const FIXED: &str = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";

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
    for (field, source) in [("dataSource", old), ("dataSourceRef", new)] {
        if source.is_null() {
            continue;
        }
        for part in ["name", "kind"] {
            if text(source, part).is_empty() {
                errs.required(path.child(field).child(part), "");
            }
        }
    }
    let parts =
        |source: &Value| ["apiGroup", "kind", "name"].map(|part| text(source, part).to_owned());
    if !old.is_null() && !new.is_null() && parts(old) != parts(new) {
        errs.invalid(path, json!({}), "must match dataSourceRef");
    }
}

fn update(errs: &mut FieldErrors, new: &Object, old: &Object) {
    let mut allowed = new.clone();
    let unset = is_zero(at(old, "spec.storageClassName"));
    if unset && !has(old, "spec.storageClassName") {
        // A claim without a class may still get one, by a default made later.
        remove(&mut allowed, "spec.storageClassName");
    }
    if text(old, "spec.volumeName").is_empty() {
        carry(old, &mut allowed, "spec.volumeName");
    }
    let bound = text(old, "status.phase") == "Bound";
    let (size, had) =
        (at(new, "spec.resources.requests.storage"), at(old, "spec.resources.requests.storage"));
    if bound {
        carry(old, &mut allowed, "spec.resources.requests");
        carry(old, &mut allowed, "spec.volumeAttributesClassName");
        let least = at(old, "status.capacity.storage");
        if nano(size) < nano(had) && nano(size) < nano(least).or(nano(had)) {
            let path = spec().child("resources").child("requests").child("storage");
            errs.forbidden(path, "field can not be less than status.capacity");
        }
    }
    if at(&allowed, "spec") != at(old, "spec") {
        let diff = spec_diff::claim(at(old, "spec"), at(&allowed, "spec"));
        errs.forbidden(spec(), format!("{FIXED}\n{diff}"));
    }
}
