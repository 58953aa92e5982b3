//! The plugins for storage and ingress classes: defaults, protection, and growing claims.

use apimachinery::status::Status;
use serde_json::{Value, json};

use super::Attributes;
use crate::registry::Object;
use crate::registry::core::resources::nano;
use crate::registry::value::{at, flag, has, key, list, set, text};

const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// StorageObjectInUseProtection and VolumeAttributesClass protection: a finalizer from the start.
pub(super) fn protect(resource: &str, object: &mut Object) {
    let finalizer = match resource {
        "persistentvolumeclaims" => "kubernetes.io/pvc-protection",
        "persistentvolumes" => "kubernetes.io/pv-protection",
        "volumeattributesclasses" => "kubernetes.io/vac-protection",
        _ => return,
    };
    let mut all = list(object, "metadata.finalizers").to_vec();
    if !all.iter().any(|have| have == finalizer) {
        all.push(json!(finalizer));
        set(object, "metadata.finalizers", all);
    }
}

/// DefaultStorageClass: a claim that names no class gets the default one.
pub(super) fn default_storage_class(cx: &Attributes<'_>, claim: &mut Object) {
    let beta = key(at(claim, "metadata.annotations"), BETA_CLASS);
    if has(claim, "spec.storageClassName") || !beta.is_null() {
        return;
    }
    let marks = [
        "storageclass.kubernetes.io/is-default-class",
        "storageclass.beta.kubernetes.io/is-default-class",
    ];
    if let Some(name) = newest_default(cx, "storageclasses.storage.k8s.io", &marks) {
        set(claim, "spec.storageClassName", name);
    }
}

/// DefaultIngressClass.
pub(super) fn default_ingress_class(
    cx: &Attributes<'_>,
    ingress: &mut Object,
) -> Result<(), Status> {
    let old = key(at(ingress, "metadata.annotations"), "kubernetes.io/ingress.class");
    if has(ingress, "spec.ingressClassName") || !old.is_null() {
        return Ok(());
    }
    let marks = ["ingressclass.kubernetes.io/is-default-class"];
    if let Some(name) = newest_default(cx, "ingressclasses.networking.k8s.io", &marks) {
        set(ingress, "spec.ingressClassName", name);
    }
    Ok(())
}

/// The newest object that an annotation marks as default; names decide between equals.
fn newest_default(cx: &Attributes<'_>, resource: &str, marks: &[&str]) -> Option<String> {
    let marked = |object: &Object| {
        marks.iter().any(|mark| key(at(object, "metadata.annotations"), mark) == "true")
    };
    let mut all: Vec<Object> =
        cx.cluster.list(resource, "").iter().map(|e| e.object()).filter(marked).collect();
    all.sort_by(|a, b| {
        let time = |o: &Object| text(o, "metadata.creationTimestamp").to_owned();
        time(b).cmp(&time(a)).then_with(|| text(a, "metadata.name").cmp(text(b, "metadata.name")))
    });
    all.first().map(|object| text(object, "metadata.name").to_owned())
}

/// PersistentVolumeClaimResize: only a bound claim of a class that allows it may grow.
pub(super) fn resize(cx: &Attributes<'_>, new: &Object, old: &Object) -> Result<(), Status> {
    let size = |claim: &Object| nano(at(claim, "spec.resources.requests.storage"));
    if size(new) <= size(old) {
        return Ok(());
    }
    if text(old, "status.phase") != "Bound" {
        return Err(
            cx.forbidden_for(Some(new), "Only bound persistent volume claims can be expanded")
        );
    }
    let class = match at(new, "spec.storageClassName") {
        Value::String(name) => cx.cluster.get("storageclasses.storage.k8s.io", "", name),
        _ => None,
    };
    if class.is_some_and(|class| flag(&class.object(), "allowVolumeExpansion")) {
        return Ok(());
    }
    let detail = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
    Err(cx.forbidden_for(Some(new), detail))
}
