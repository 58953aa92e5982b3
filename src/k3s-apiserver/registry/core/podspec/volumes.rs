//! Volumes of a pod: names, one source each, files and projections.

use std::collections::HashSet;

use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::label_problems;
use serde_json::Value;

use super::Of;
use super::container::local_path;
use super::env::{field_ref, resource_ref};
use super::volume_sources::{TOO_LONG_PORTAL, need, pod_only};
use crate::registry::validate::problems;
use crate::registry::value::{has, int, key, list, text};

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const DOWNWARD: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
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
    of: Of<'_>,
) -> Volumes<'a> {
    let pod = match of {
        Of::Pod(name) => name,
        Of::Template => "",
    };
    let made: HashSet<String> = volumes
        .iter()
        .filter(|volume| !pod.is_empty() && has(volume, "ephemeral"))
        .map(|volume| format!("{pod}-{}", text(volume, "name")))
        .collect();
    let mut known = Volumes { names: HashSet::new(), claims: HashSet::new() };
    for (at, volume) in volumes.iter().enumerate() {
        let path = path.index(at);
        let before = errs.0.len();
        source(errs, &path, volume, of);
        let name = text(volume, "name");
        if name.is_empty() {
            errs.required(path.child("name"), "");
        } else {
            problems(errs, &path.child("name"), name, label_problems(name));
        }
        if known.names.contains(name) {
            errs.duplicate(path.child("name"), name);
        }
        if errs.0.len() == before {
            known.names.insert(name);
            if has(volume, "persistentVolumeClaim") || has(volume, "ephemeral") {
                known.claims.insert(name);
            }
        }
        let claim = text(volume, "persistentVolumeClaim.claimName");
        if made.contains(claim) {
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            errs.invalid(path.child("persistentVolumeClaim").child("claimName"), claim, detail);
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

fn source(errs: &mut FieldErrors, path: &Path, volume: &Value, of: Of<'_>) {
    let mut count = 0;
    for kind in SOURCES.iter().filter(|kind| has(volume, kind)) {
        if count > 0 {
            // Two of these names are upstream's slips, which clients see.
            let shown = match *kind {
                "cephfs" => "cephFS",
                "downwardAPI" => "downwarAPI",
                kind => kind,
            };
            errs.forbidden(path.child(shown), "may not specify more than 1 volume type");
            continue;
        }
        count += 1;
        one(errs, path, kind, volume, of);
    }
    if count == 0 {
        errs.required(path, "must specify a volume type");
    }
}

fn one(errs: &mut FieldErrors, volume_path: &Path, kind: &str, volume: &Value, of: Of<'_>) {
    let source = key(volume, kind);
    let path = &volume_path.child(kind);
    match kind {
        "secret" => {
            need(errs, path, source, "secretName");
            files(errs, path, source);
        }
        "configMap" => {
            need(errs, path, source, "name");
            files(errs, path, source);
        }
        "downwardAPI" => {
            mode(errs, &path.child("defaultMode"), key(source, "defaultMode"));
            downward(errs, path, source);
        }
        "projected" => projected(errs, path, source),
        "emptyDir" => {
            let limit = crate::registry::core::resources::nano(key(source, "sizeLimit"));
            if limit.is_some_and(|n| n < 0) {
                let detail = "SizeLimit field must be a valid resource quantity";
                errs.forbidden(path.child("sizeLimit"), detail);
            }
        }
        "iscsi" => {
            pod_only(errs, volume_path, kind, source);
            let name = text(volume, "name");
            let long = name.len() + 1 + text(source, "targetPortal").len() > 64;
            if has(source, "initiatorName") && long {
                errs.invalid(volume_path.child("name"), name, TOO_LONG_PORTAL);
            }
        }
        "ephemeral" => ephemeral(errs, volume_path, source, text(volume, "name"), of),
        "image" => {
            if matches!(of, Of::Pod(_)) {
                need(errs, path, source, "reference");
            }
            super::container::pull_policy(errs, &path.child("pullPolicy"), source, "pullPolicy");
        }
        _ => pod_only(errs, volume_path, kind, source),
    }
}

/// A claim that is made for the pod, under a name made of both names.
fn ephemeral(errs: &mut FieldErrors, volume: &Path, source: &Value, name: &str, of: Of<'_>) {
    let path = volume.child("ephemeral").child("volumeClaimTemplate");
    let template = key(source, "volumeClaimTemplate");
    if template.is_null() {
        errs.required(path, "");
    } else {
        let meta = key(template, "metadata");
        let here = path.child("metadata");
        crate::registry::meta::annotations(
            &here.child("annotations"),
            key(meta, "annotations"),
            errs,
        );
        crate::registry::validate::labels(errs, &here.child("labels"), key(meta, "labels"));
        for (field, value) in meta.as_object().into_iter().flatten() {
            let known = matches!(field.as_str(), "annotations" | "labels");
            if !known && !crate::registry::value::is_zero(value) {
                errs.forbidden(here.child(field), "cannot be set");
            }
        }
        crate::registry::core::persistentvolumeclaim::validate_spec(
            errs,
            &path.child("spec"),
            key(template, "spec"),
        );
    }
    if let Of::Pod(pod) = of
        && !pod.is_empty()
        && !name.is_empty()
    {
        let claim = format!("{pod}-{name}");
        for problem in apimachinery::validation::subdomain_problems(&claim) {
            errs.invalid(volume.child("name"), name, format!("PVC name {claim:?}: {problem}"));
        }
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
    need(errs, path, item, "key");
    file(errs, &path.child("path"), text(item, "path"));
    mode(errs, &path.child("mode"), key(item, "mode"));
}

fn file(errs: &mut FieldErrors, path: &Path, target: &str) {
    if target.is_empty() {
        errs.required(path, "");
        return;
    }
    not_reserved(errs, path, target);
}

/// A path inside a volume whose names the kubelet keeps for itself begin with `..`.
fn not_reserved(errs: &mut FieldErrors, path: &Path, target: &str) {
    local_path(errs, path, target);
    if target.starts_with("..") && !target.starts_with("../") {
        errs.invalid(path, target, "must not start with '..'");
    }
}

/// The files of the downward API; upstream says `path` of the source, not of the item.
fn downward(errs: &mut FieldErrors, path: &Path, source: &Value) {
    for item in list(source, "items") {
        file(errs, &path.child("path"), text(item, "path"));
        let (field, resource) = (key(item, "fieldRef"), key(item, "resourceFieldRef"));
        if !field.is_null() {
            field_ref(errs, &path.child("fieldRef"), field, DOWNWARD);
            if !resource.is_null() {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errs.invalid(path, "resource", detail);
            }
        } else if !resource.is_null() {
            resource_ref(errs, &path.child("resourceFieldRef"), resource, true);
        } else {
            errs.required(path, "one of fieldRef and resourceFieldRef is required");
        }
        mode(errs, &path.child("mode"), key(item, "mode"));
    }
}

fn projected(errs: &mut FieldErrors, path: &Path, source: &Value) {
    mode(errs, &path.child("defaultMode"), key(source, "defaultMode"));
    let mut paths = HashSet::new();
    for (n, part) in list(source, "sources").iter().enumerate() {
        let here = path.child("sources").index(n);
        let mut count = 0;
        for kind in [
            "secret",
            "configMap",
            "downwardAPI",
            "serviceAccountToken",
            "clusterTrustBundle",
            "podCertificate",
        ]
        .into_iter()
        .filter(|kind| has(part, kind))
        {
            count += 1;
            projection(errs, path, &here.child(kind), (kind, key(part, kind)), &mut paths);
        }
        if count > 1 {
            errs.forbidden(here, "may not specify more than 1 volume type per source");
        }
    }
}

/// One projection at `path`; what it says of paths is said of the whole volume at `all`.
fn projection<'a>(
    errs: &mut FieldErrors,
    all: &Path,
    path: &Path,
    (kind, from): (&str, &'a Value),
    paths: &mut HashSet<&'a str>,
) {
    let mut taken = |errs: &mut FieldErrors, target: &'a str, shown: &str| {
        if !target.is_empty() && !paths.insert(target) {
            errs.invalid(all, shown, "conflicting duplicate paths");
        }
    };
    match kind {
        "secret" | "configMap" => {
            need(errs, path, from, "name");
            for (at, item) in list(from, "items").iter().enumerate() {
                key_to_path(errs, &path.child("items").index(at), item);
                taken(errs, text(item, "path"), text(from, "name"));
            }
        }
        "downwardAPI" => {
            downward(errs, path, from);
            for item in list(from, "items") {
                taken(errs, text(item, "path"), text(item, "path"));
            }
        }
        "serviceAccountToken" => token(errs, all, path, from),
        "clusterTrustBundle" => {
            trust_bundle(errs, path, from);
            taken(errs, text(from, "path"), text(from, "path"));
        }
        _ => certificate(errs, path, from),
    }
}

fn token(errs: &mut FieldErrors, all: &Path, path: &Path, token: &Value) {
    let seconds = int(token, "expirationSeconds").unwrap_or_default();
    let here = path.child("expirationSeconds");
    if seconds < 600 {
        errs.invalid(&here, seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > 1 << 32 {
        errs.invalid(&here, seconds, "may not specify a duration larger than 2^32 seconds");
    }
    file(errs, &all.child("path"), text(token, "path"));
}

fn trust_bundle(errs: &mut FieldErrors, path: &Path, from: &Value) {
    let selector = key(from, "labelSelector");
    match (has(from, "name"), has(from, "signerName")) {
        (true, true) => {
            let shown = crate::registry::internal::renamed(from);
            errs.invalid(path, shown, "only one of name and signerName may be used");
        }
        (true, false) => {
            let name = text(from, "name");
            if name.is_empty() {
                errs.required(path.child("name"), "must be a valid object name");
            }
            if !selector.is_null() {
                let detail = "labelSelector must be unset if name is specified";
                errs.invalid(path.child("labelSelector"), selector.clone(), detail);
            }
        }
        (false, true) => {
            if text(from, "signerName").is_empty() {
                errs.required(path.child("signerName"), "must be a valid signer name");
            }
            crate::registry::validate::label_selector(errs, &path.child("labelSelector"), selector);
        }
        (false, false) => errs.required(path, "either name or signerName must be specified"),
    }
    need(errs, path, from, "path");
    not_reserved(errs, &path.child("path"), text(from, "path"));
}

fn certificate(errs: &mut FieldErrors, path: &Path, from: &Value) {
    need(errs, path, from, "signerName");
    let paths = ["credentialBundlePath", "keyPath", "certificateChainPath"];
    if paths.iter().all(|field| text(from, field).is_empty()) {
        errs.required(
            path,
            "specify at least one of `credentialBundlePath`, `keyPath` and `certificateChainPath`",
        );
    }
    for field in paths {
        not_reserved(errs, &path.child(field), text(from, field));
    }
}
