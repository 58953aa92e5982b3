//! Volumes of a pod and the sources they share with persistent volumes.

use std::collections::HashSet;

use serde_json::Value;

use super::Of;
use super::container::local_path;
use super::env::{field_ref, resource_ref};
use crate::registry::field::{FieldErrors, Path};
use crate::registry::validate::{label_problems, one_of, problems};
use crate::registry::value::{has, int, key, list, text};

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const DOWNWARD: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
const HOST_PATH_TYPES: &[&str] = &[
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];

/// The volumes that containers may mount.
pub(super) struct Volumes<'a> {
    names: HashSet<&'a str>,
    claims: HashSet<&'a str>,
}

impl Volumes<'_> {
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Is it a volume that may be a block device?
    pub(super) fn is_claim(&self, name: &str) -> bool {
        self.claims.contains(name)
    }
}

/// The volumes of a pod spec.
pub(super) fn validate<'a>(
    errs: &mut FieldErrors,
    path: &Path,
    volumes: &'a [Value],
    _of: Of,
) -> Volumes<'a> {
    let mut known = Volumes { names: HashSet::new(), claims: HashSet::new() };
    for (at, volume) in volumes.iter().enumerate() {
        let path = path.index(at);
        source(errs, &path, volume);
        let name = text(volume, "name");
        if name.is_empty() {
            errs.required(path.child("name"), "");
            continue;
        }
        let found = label_problems(name);
        let bad = !found.is_empty();
        problems(errs, &path.child("name"), name, found);
        if known.names.contains(name) {
            errs.duplicate(path.child("name"), name);
        } else if !bad {
            known.names.insert(name);
            if has(volume, "persistentVolumeClaim") || has(volume, "ephemeral") {
                known.claims.insert(name);
            }
        }
    }
    known
}

/// The source types in the order in which upstream looks at them.
const SOURCES: &[&str] = &[
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

fn source(errs: &mut FieldErrors, path: &Path, volume: &Value) {
    let mut count = 0;
    for kind in SOURCES.iter().filter(|kind| has(volume, kind)) {
        let path = path.child(kind);
        if count > 0 {
            errs.forbidden(path, "may not specify more than 1 volume type");
            continue;
        }
        count += 1;
        one(errs, &path, kind, key(volume, kind));
    }
    if count == 0 {
        errs.required(path, "must specify a volume type");
    }
}

fn one(errs: &mut FieldErrors, path: &Path, kind: &str, source: &Value) {
    match kind {
        "secret" => {
            if text(source, "secretName").is_empty() {
                errs.required(path.child("secretName"), "");
            }
            files(errs, path, source);
        }
        "configMap" => {
            if text(source, "name").is_empty() {
                errs.required(path.child("name"), "");
            }
            files(errs, path, source);
        }
        "downwardAPI" => {
            mode(errs, &path.child("defaultMode"), key(source, "defaultMode"));
            downward(errs, path, source);
        }
        "projected" => projected(errs, path, source),
        "persistentVolumeClaim" => {
            if text(source, "claimName").is_empty() {
                errs.required(path.child("claimName"), "");
            }
        }
        "emptyDir" => {
            if crate::registry::core::resources::nano(key(source, "sizeLimit"))
                .is_some_and(|n| n < 0)
            {
                errs.forbidden(
                    path.child("sizeLimit"),
                    "SizeLimit field must be a valid resource quantity",
                );
            }
        }
        "ephemeral" => {
            let template = key(source, "volumeClaimTemplate");
            if template.is_null() {
                errs.required(path.child("volumeClaimTemplate"), "");
            } else {
                let path = path.child("volumeClaimTemplate").child("spec");
                crate::registry::core::persistentvolumeclaim::validate_spec(
                    errs,
                    &path,
                    key(template, "spec"),
                );
            }
        }
        "csi" => {
            if text(source, "driver").is_empty() {
                errs.required(path.child("driver"), "");
            }
        }
        _ => shared_source(errs, path, kind, source),
    }
}

/// A source that persistent volumes have too.
pub(crate) fn shared_source(errs: &mut FieldErrors, path: &Path, kind: &str, source: &Value) {
    let mut need = |field: &str| {
        if text(source, field).is_empty() {
            errs.required(path.child(field), "");
        }
    };
    match kind {
        "hostPath" => host_path(errs, path, source),
        "nfs" => {
            need("server");
            match text(source, "path") {
                "" => need("path"),
                target if !target.starts_with('/') => {
                    errs.invalid(path.child("path"), target, "must be an absolute path");
                }
                _ => {}
            }
        }
        "iscsi" => ["targetPortal", "iqn"].iter().for_each(|field| need(field)),
        "glusterfs" => ["endpoints", "path"].iter().for_each(|field| need(field)),
        "cephfs" if list(source, "monitors").is_empty() => {
            errs.required(path.child("monitors"), "");
        }
        "rbd" => {
            need("image");
            if list(source, "monitors").is_empty() {
                errs.required(path.child("monitors"), "");
            }
        }
        "gcePersistentDisk" => need("pdName"),
        "awsElasticBlockStore" | "cinder" | "portworxVolume" => need("volumeID"),
        "flexVolume" => need("driver"),
        "azureFile" => ["secretName", "shareName"].iter().for_each(|field| need(field)),
        "azureDisk" => ["diskName", "diskURI"].iter().for_each(|field| need(field)),
        "vsphereVolume" => need("volumePath"),
        "image" => {
            need("reference");
            one_of(
                errs,
                &path.child("pullPolicy"),
                key(source, "pullPolicy"),
                &["Always", "IfNotPresent", "Never"],
            );
        }
        _ => {}
    }
}

fn host_path(errs: &mut FieldErrors, path: &Path, source: &Value) {
    let target = text(source, "path");
    if target.is_empty() {
        errs.required(path.child("path"), "");
        return;
    }
    if target.split('/').any(|part| part == "..") {
        errs.invalid(path.child("path"), target, "must not contain '..'");
    }
    let kind = text(source, "type");
    if !HOST_PATH_TYPES.contains(&kind) {
        errs.not_supported(path.child("type"), kind, HOST_PATH_TYPES);
    }
}

fn mode(errs: &mut FieldErrors, path: &Path, value: &Value) {
    if value.as_i64().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
        errs.invalid(path, value.clone(), MODE);
    }
}

/// `items` and `defaultMode` of secrets and config maps.
fn files(errs: &mut FieldErrors, path: &Path, source: &Value) {
    mode(errs, &path.child("defaultMode"), key(source, "defaultMode"));
    for (at, item) in list(source, "items").iter().enumerate() {
        key_to_path(errs, &path.child("items").index(at), item);
    }
}

fn key_to_path(errs: &mut FieldErrors, path: &Path, item: &Value) {
    if text(item, "key").is_empty() {
        errs.required(path.child("key"), "");
    }
    file(errs, &path.child("path"), text(item, "path"));
    mode(errs, &path.child("mode"), key(item, "mode"));
}

fn file(errs: &mut FieldErrors, path: &Path, target: &str) {
    if target.is_empty() {
        errs.required(path, "");
        return;
    }
    local_path(errs, path, target);
    if target.starts_with("..") && !target.split('/').any(|part| part == "..") {
        errs.invalid(path, target, "must not start with '..'");
    }
}

fn downward(errs: &mut FieldErrors, path: &Path, source: &Value) {
    for (n, item) in list(source, "items").iter().enumerate() {
        let path = path.child("items").index(n);
        file(errs, &path.child("path"), text(item, "path"));
        match (has(item, "fieldRef"), has(item, "resourceFieldRef")) {
            (true, false) => {
                field_ref(errs, &path.child("fieldRef"), key(item, "fieldRef"), DOWNWARD)
            }
            (false, true) => {
                resource_ref(
                    errs,
                    &path.child("resourceFieldRef"),
                    key(item, "resourceFieldRef"),
                    true,
                );
            }
            (true, true) => errs.invalid(
                path.child("resource"),
                "",
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            ),
            (false, false) => errs.required(
                path.child("fieldRef"),
                "one of fieldRef and resourceFieldRef is required",
            ),
        }
        mode(errs, &path.child("mode"), key(item, "mode"));
    }
}

fn projected(errs: &mut FieldErrors, path: &Path, source: &Value) {
    mode(errs, &path.child("defaultMode"), key(source, "defaultMode"));
    let mut paths = HashSet::new();
    for (n, part) in list(source, "sources").iter().enumerate() {
        let path = path.child("sources").index(n);
        let mut count = 0;
        for kind in [
            "secret",
            "configMap",
            "downwardAPI",
            "serviceAccountToken",
            "clusterTrustBundle",
            "podCertificate",
        ] {
            if !has(part, kind) {
                continue;
            }
            let path = path.child(kind);
            if count > 0 {
                errs.forbidden(path, "may not specify more than 1 volume type");
                continue;
            }
            count += 1;
            let from = key(part, kind);
            match kind {
                "secret" | "configMap" => {
                    if text(from, "name").is_empty() {
                        errs.required(path.child("name"), "");
                    }
                    files(errs, &path, from);
                }
                "downwardAPI" => downward(errs, &path, from),
                "serviceAccountToken" => token(errs, &path, from),
                _ => {}
            }
            for item in list(from, "items") {
                let target = text(item, "path");
                if !target.is_empty() && !paths.insert(target) {
                    errs.invalid(path.child("path"), target, "conflicting duplicate paths");
                }
            }
        }
        if count == 0 {
            errs.required(path, "must specify a volume type");
        }
    }
}

fn token(errs: &mut FieldErrors, path: &Path, token: &Value) {
    let seconds = int(token, "expirationSeconds").unwrap_or_default();
    let here = path.child("expirationSeconds");
    if seconds < 600 {
        errs.invalid(here, seconds, "may not specify a duration less than 10 minutes");
    } else if seconds > 1 << 32 {
        errs.invalid(here, seconds, "may not specify a duration larger than 2^32 seconds");
    }
    file(errs, &path.child("path"), text(token, "path"));
}
