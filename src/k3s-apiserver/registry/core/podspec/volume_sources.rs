//! Where volumes come from: the sources that pods and persistent volumes share.
//!
//! Knows one source at a time; that there is exactly one is the caller's business.

use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::{label_problems, subdomain_problems};
use serde_json::Value;

use super::container::{local_path, no_backsteps};
use crate::registry::validate::{one_of, problems};
use crate::registry::value::{flag, has, int, key, list, map, text};

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
const BYTE_RANGE: &str = "must be between 0 and 255, inclusive";
const IQN_START: &str = "must be valid format starting with iqn, eui, or naa";
const REGISTRY: &str = "must be a host:port pair or multiple pairs separated by commas";

/// What holds the source: secrets of a persistent volume name their namespace.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Holder {
    Pod,
    PersistentVolume,
}

/// A source of a persistent volume, `kind` being its field; `name` is the volume's.
pub(crate) fn persistent_source(
    errs: &mut FieldErrors,
    path: &Path,
    kind: &str,
    source: &Value,
    name: &str,
) {
    let here = path.child(kind);
    match kind {
        "csi" => persistent_csi(errs, &here, source),
        "local" => {
            if need(errs, &here, source, "path") {
                no_backsteps(errs, &here.child("path"), text(source, "path"));
            }
        }
        "iscsi" => {
            let long = name.len() + 1 + text(source, "targetPortal").len() > 64;
            if has(source, "initiatorName") && long {
                let portal = text(source, "targetPortal");
                errs.invalid(here.child("targetportal"), portal, TOO_LONG_PORTAL);
            }
            shared(errs, path, kind, source, Holder::PersistentVolume);
        }
        _ => shared(errs, path, kind, source, Holder::PersistentVolume),
    }
}

/// The portal and the volume's name make one file name.
pub(super) const TOO_LONG_PORTAL: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";

/// A field that may not be empty; tells whether it is there.
pub(super) fn need(errs: &mut FieldErrors, path: &Path, source: &Value, field: &str) -> bool {
    let there = !crate::registry::value::is_zero(key(source, field));
    if !there {
        errs.required(path.child(field), "");
    }
    there
}

/// A source that both pods and persistent volumes have; `path` is that of its holder.
pub(super) fn shared(errs: &mut FieldErrors, path: &Path, kind: &str, source: &Value, of: Holder) {
    let here = path.child(kind);
    let mut all = |fields: &[&str]| {
        for field in fields {
            need(errs, &here, source, field);
        }
    };
    match kind {
        "hostPath" => host_path(errs, &here, source),
        "nfs" => {
            all(&["server", "path"]);
            let target = text(source, "path");
            if !target.starts_with('/') {
                errs.invalid(here.child("path"), target, "must be an absolute path");
            }
        }
        "iscsi" => iscsi(errs, &here, source, of),
        "glusterfs" => {
            all(&["endpoints", "path"]);
            if of == Holder::PersistentVolume && has(source, "endpointsNamespace") {
                endpoints_namespace(errs, &here, text(source, "endpointsNamespace"));
            }
        }
        "flocker" => flocker(errs, &here, source),
        "cephfs" => all(&["monitors"]),
        "rbd" => all(&["monitors", "image"]),
        "gcePersistentDisk" => disk(errs, &path.child("persistentDisk"), source, "pdName"),
        "awsElasticBlockStore" => disk(errs, &here, source, "volumeID"),
        "cinder" => {
            all(&["volumeID"]);
            secret(errs, &here, source, of);
        }
        "portworxVolume" => all(&["volumeID"]),
        "photonPersistentDisk" => all(&["pdID"]),
        "vsphereVolume" => all(&["volumePath"]),
        "scaleIO" => all(&["gateway", "system", "volumeName"]),
        "flexVolume" => flex(errs, &here, source),
        "azureFile" => {
            all(&["secretName", "shareName"]);
            if of == Holder::PersistentVolume && has(source, "secretNamespace") {
                need(errs, &here, source, "secretNamespace");
            }
        }
        "azureDisk" => azure_disk(errs, &here, source),
        "quobyte" => quobyte(errs, &here, source),
        "storageos" => storageos(errs, &here, source, of),
        "fc" => fibre_channel(errs, &here, source),
        _ => {}
    }
}

fn host_path(errs: &mut FieldErrors, path: &Path, source: &Value) {
    if !need(errs, path, source, "path") {
        return;
    }
    no_backsteps(errs, &path.child("path"), text(source, "path"));
    one_of(errs, &path.child("type"), key(source, "type"), HOST_PATH_TYPES);
}

fn endpoints_namespace(errs: &mut FieldErrors, path: &Path, name: &str) {
    let path = path.child("endpointsNamespace");
    if name.is_empty() {
        let detail = "if the endpointnamespace is set, it must be a valid namespace name";
        errs.invalid(path, name, detail);
    } else {
        problems(errs, &path, name, label_problems(name));
    }
}

fn disk(errs: &mut FieldErrors, path: &Path, source: &Value, name: &str) {
    need(errs, path, source, name);
    let partition = int(source, "partition").unwrap_or_default();
    if !(0..=255).contains(&partition) {
        let detail = "must be between 1 and 255, inclusive";
        errs.invalid(path.child("partition"), partition, detail);
    }
}

fn secret(errs: &mut FieldErrors, path: &Path, source: &Value, of: Holder) {
    let path = path.child("secretRef");
    let secret = key(source, "secretRef");
    if secret.is_null() {
        return;
    }
    need(errs, &path, secret, "name");
    if of == Holder::PersistentVolume {
        need(errs, &path, secret, "namespace");
    }
}

fn iscsi(errs: &mut FieldErrors, path: &Path, source: &Value, of: Holder) {
    need(errs, path, source, "targetPortal");
    if need(errs, path, source, "iqn") {
        let start = if of == Holder::Pod { IQN_START } else { "must be valid format" };
        initiator(errs, &path.child("iqn"), text(source, "iqn"), start);
    }
    let lun = int(source, "lun").unwrap_or_default();
    if !(0..=255).contains(&lun) {
        errs.invalid(path.child("lun"), lun, BYTE_RANGE);
    }
    let chap = flag(source, "chapAuthDiscovery") || flag(source, "chapAuthSession");
    if chap && !has(source, "secretRef") {
        errs.required(path.child("secretRef"), "");
    }
    if of == Holder::PersistentVolume && has(source, "secretRef") {
        need(errs, &path.child("secretRef"), key(source, "secretRef"), "name");
    }
    if has(source, "initiatorName") {
        let start = if of == Holder::Pod { IQN_START } else { "must be valid format" };
        initiator(errs, &path.child("initiatorname"), text(source, "initiatorName"), start);
    }
}

/// An iSCSI name: `iqn.2001-04.com.example:storage`, `eui.` with 16 or `naa.` with 32 characters.
fn initiator(errs: &mut FieldErrors, path: &Path, name: &str, wrong_start: &str) {
    let long = |rest: &str, length: usize| {
        rest.len() == length && rest.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    let good = match name.get(..3) {
        Some("iqn") => iqn(name),
        Some("eui") => name.get(4..).is_some_and(|rest| long(rest, 16)),
        Some("naa") => name.get(4..).is_some_and(|rest| long(rest, 32)),
        _ => {
            errs.invalid(path, name, wrong_start);
            return;
        }
    };
    if !good {
        errs.invalid(path, name, "must be valid format");
    }
}

fn iqn(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("iqn.") else { return false };
    let Some((date, rest)) = rest.split_once('.') else { return false };
    let digits =
        |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_digit());
    let dated = date.split_once('-').is_some_and(|(y, m)| digits(y, 4) && digits(m, 2));
    let (host, unit) = rest.split_once(':').unwrap_or((rest, ""));
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    dated
        && !host.is_empty()
        && host.chars().all(plain)
        && !unit.is_empty()
        && !unit.contains(|c: char| c.is_whitespace() || ",;*&$|".contains(c))
}

fn fibre_channel(errs: &mut FieldErrors, path: &Path, source: &Value) {
    let (names, ids) = (list(source, "targetWWNs"), list(source, "wwids"));
    let here = path.child("targetWWNs");
    if names.is_empty() && ids.is_empty() {
        errs.required(&here, "must specify either targetWWNs or wwids, but not both");
    }
    if !names.is_empty() && !ids.is_empty() {
        let detail = "targetWWNs and wwids can not be specified simultaneously";
        errs.invalid(&here, key(source, "targetWWNs").clone(), detail);
    }
    if !names.is_empty() {
        match int(source, "lun") {
            None => {
                errs.required(path.child("lun"), "lun is required if targetWWNs is specified");
            }
            Some(0..=255) => {}
            Some(lun) => errs.invalid(path.child("lun"), lun, BYTE_RANGE),
        }
    }
}

fn flocker(errs: &mut FieldErrors, path: &Path, source: &Value) {
    let name = text(source, "datasetName");
    match (name.is_empty(), text(source, "datasetUUID").is_empty()) {
        (true, true) => errs.required(path, "one of datasetName and datasetUUID is required"),
        (false, false) => {
            let detail = "datasetName and datasetUUID can not be specified simultaneously";
            errs.invalid(path, "resource", detail);
        }
        _ => {}
    }
    if name.contains('/') {
        errs.invalid(path.child("datasetName"), name, "must not contain '/'");
    }
}

fn flex(errs: &mut FieldErrors, path: &Path, source: &Value) {
    need(errs, path, source, "driver");
    for name in map(source, "options").keys() {
        let domain = format!(".{}", name.split_once('/').map_or(name.as_str(), |(head, _)| head));
        let domain = domain.to_lowercase();
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            let detail = "kubernetes.io and k8s.io namespaces are reserved";
            errs.invalid(path.child("options").key(name), name.as_str(), detail);
        }
    }
}

fn quobyte(errs: &mut FieldErrors, path: &Path, source: &Value) {
    let registry = text(source, "registry");
    if registry.is_empty() {
        errs.required(path.child("registry"), REGISTRY);
    } else if text(source, "tenant").len() >= 65 {
        let detail = "must be a UUID and may not exceed a length of 64 characters";
        errs.required(path.child("tenant"), detail);
    } else {
        for pair in registry.split(',') {
            let one = pair.rsplit_once(':').is_some_and(|(host, _)| {
                !host.contains(':') || (host.starts_with('[') && host.ends_with(']'))
            });
            if !one {
                errs.invalid(path.child("registry"), registry, REGISTRY);
            }
        }
    }
    need(errs, path, source, "volume");
}

fn azure_disk(errs: &mut FieldErrors, path: &Path, source: &Value) {
    need(errs, path, source, "diskName");
    need(errs, path, source, "diskURI");
    if has(source, "cachingMode") {
        let valid = &["None", "ReadOnly", "ReadWrite"];
        one_of(errs, &path.child("cachingMode"), key(source, "cachingMode"), valid);
    }
    let (kind, uri) = (text(source, "kind"), text(source, "diskURI"));
    if !has(source, "kind") {
        return;
    }
    one_of(errs, &path.child("kind"), key(source, "kind"), &["Dedicated", "Managed", "Shared"]);
    let (start, shape) = if kind == "Managed" {
        (
            "/subscriptions/",
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
        )
    } else {
        (
            "https://",
            "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd",
        )
    };
    if !uri.starts_with(start) {
        errs.not_supported(path.child("diskURI"), uri, &[shape]);
    }
}

fn storageos(errs: &mut FieldErrors, path: &Path, source: &Value, of: Holder) {
    if need(errs, path, source, "volumeName") {
        let name = text(source, "volumeName");
        problems(errs, &path.child("volumeName"), name, label_problems(name));
    }
    let namespace = text(source, "volumeNamespace");
    if !namespace.is_empty() {
        problems(errs, &path.child("volumeNamespace"), namespace, label_problems(namespace));
    }
    secret(errs, path, source, of);
}

/// The name of a CSI driver: a domain, whose case does not matter.
pub(crate) fn csi_driver_name(errs: &mut FieldErrors, path: &Path, name: &str) {
    if name.is_empty() {
        errs.required(path, "");
        return;
    }
    if name.len() > 63 {
        errs.too_long(path, 63);
    }
    problems(errs, path, name, subdomain_problems(&name.to_lowercase()));
}

fn persistent_csi(errs: &mut FieldErrors, path: &Path, source: &Value) {
    csi_driver_name(errs, &path.child("driver"), text(source, "driver"));
    need(errs, path, source, "volumeHandle");
    for field in [
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
    ] {
        let secret = key(source, field);
        if secret.is_null() {
            continue;
        }
        let path = path.child(field);
        if need(errs, &path, secret, "name") {
            let name = text(secret, "name");
            problems(errs, &path.child("name"), name, subdomain_problems(name));
        }
        if need(errs, &path, secret, "namespace") {
            let name = text(secret, "namespace");
            problems(errs, &path.child("namespace"), name, label_problems(name));
        }
    }
}

/// A source that only pods have.
pub(super) fn pod_only(errs: &mut FieldErrors, path: &Path, kind: &str, source: &Value) {
    let here = path.child(kind);
    match kind {
        "gitRepo" => {
            need(errs, &here, source, "repository");
            local_path(errs, &here.child("directory"), text(source, "directory"));
        }
        "persistentVolumeClaim" => {
            need(errs, &here, source, "claimName");
        }
        "csi" => {
            csi_driver_name(errs, &here.child("driver"), text(source, "driver"));
            let secret = key(source, "nodePublishSecretRef");
            let name = text(secret, "name");
            if !secret.is_null() && name.is_empty() {
                errs.required(here.child("nodePublishSecretRef").child("name"), "");
            } else if !secret.is_null() {
                problems(errs, &here.child("name"), name, subdomain_problems(name));
            }
        }
        _ => shared(errs, path, kind, source, Holder::Pod),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(kind: &str, source: Value, want: &[&str]) {
        let mut errs = FieldErrors::default();
        pod_only(&mut errs, &Path::new("v"), kind, &source);
        let got: Vec<String> = errs.0.iter().map(ToString::to_string).collect();
        assert_eq!(got, want, "{kind} {source}");
    }

    #[test]
    fn sources_are_refused_in_upstreams_words() {
        check("nfs", json!({"server": "s", "path": "/x"}), &[]);
        check(
            "nfs",
            json!({}),
            &[
                "v.nfs.server: Required value",
                "v.nfs.path: Required value",
                "v.nfs.path: Invalid value: \"\": must be an absolute path",
            ],
        );
        check(
            "gcePersistentDisk",
            json!({"pdName": "a", "partition": 300}),
            &[
                "v.persistentDisk.partition: Invalid value: 300: must be between 1 and 255, inclusive",
            ],
        );
        check(
            "iscsi",
            json!({"targetPortal": "p", "iqn": "iqn.2001-04.com.example:storage", "lun": 256}),
            &["v.iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive"],
        );
        check(
            "iscsi",
            json!({"targetPortal": "p", "iqn": "abc"}),
            &[
                "v.iscsi.iqn: Invalid value: \"abc\": must be valid format starting with iqn, eui, or naa",
            ],
        );
        check(
            "csi",
            json!({"driver": "a_b"}),
            &[&format!("v.csi.driver: Invalid value: \"a_b\": {}", subdomain_problems("a_b")[0])],
        );
        check(
            "fc",
            json!({"targetWWNs": ["a"]}),
            &["v.fc.lun: Required value: lun is required if targetWWNs is specified"],
        );
        check(
            "quobyte",
            json!({"registry": "a", "volume": "v"}),
            &[
                "v.quobyte.registry: Invalid value: \"a\": must be a host:port pair or multiple pairs separated by commas",
            ],
        );
        check(
            "azureDisk",
            json!({"diskName": "a", "diskURI": "x", "kind": "Managed"}),
            &[
                "v.azureDisk.diskURI: Unsupported value: \"x\": supported values: \"/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}\"",
            ],
        );
    }
}
