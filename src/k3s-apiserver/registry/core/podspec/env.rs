//! Environment variables and where their values come from.

use serde_json::Value;

use crate::registry::field::{FieldErrors, Path};
use crate::registry::validate::{config_key_problems, problems, subdomain_problems};
use crate::registry::value::{has, key, list, text};

const ENV_NAME: &str = "a valid environment variable name must consist only of printable ASCII characters other than '='";
const SOURCES: &[&str] =
    &["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const FIELDS_SORTED: &[&str] = FIELDS;
const KNOWN_LABELS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "metadata.annotations",
    "metadata.labels",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
    "spec.hostNetwork",
    "status.nominatedNodeName",
];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// `env` and `envFrom` of a container.
pub(super) fn validate(errs: &mut FieldErrors, path: &Path, container: &Value) {
    for (at, env) in list(container, "env").iter().enumerate() {
        let path = path.child("env").index(at);
        let name = text(env, "name");
        if name.is_empty() {
            errs.required(path.child("name"), "");
        } else if !name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=') {
            errs.invalid(path.child("name"), name, ENV_NAME);
        }
        value_from(errs, &path.child("valueFrom"), env);
    }
    for (at, from) in list(container, "envFrom").iter().enumerate() {
        env_from(errs, &path.child("envFrom").index(at), from);
    }
}

fn value_from(errs: &mut FieldErrors, path: &Path, env: &Value) {
    let from = key(env, "valueFrom");
    if from.is_null() {
        return;
    }
    if has(from, "fieldRef") {
        field_ref(errs, &path.child("fieldRef"), key(from, "fieldRef"), FIELDS_SORTED);
    }
    if has(from, "resourceFieldRef") {
        resource_ref(errs, &path.child("resourceFieldRef"), key(from, "resourceFieldRef"), false);
    }
    for field in ["configMapKeyRef", "secretKeyRef"] {
        if has(from, field) {
            key_ref(errs, &path.child(field), key(from, field));
        }
    }
    let count = SOURCES.iter().filter(|field| has(from, field)).count();
    if count == 0 {
        errs.invalid(path, "", "must specify one of: `configMapKeyRef`, `fieldRef`, `fileKeyRef`, `resourceFieldRef` or `secretKeyRef`");
    } else if !text(env, "value").is_empty() {
        errs.invalid(path, "", "may not be specified when `value` is not empty");
    } else if count > 1 {
        errs.invalid(path, "", "may not have more than one field specified at a time");
    }
}

/// A reference to a field of the pod itself.
pub(super) fn field_ref(errs: &mut FieldErrors, path: &Path, from: &Value, allowed: &[&str]) {
    let version = text(from, "apiVersion");
    let field = text(from, "fieldPath");
    if version.is_empty() {
        errs.required(path.child("apiVersion"), "");
        return;
    }
    if field.is_empty() {
        errs.required(path.child("fieldPath"), "");
        return;
    }
    let subscript = field.strip_suffix(']').and_then(|head| head.split_once("['"));
    if let Some((head, name)) = subscript {
        let name = name.trim_end_matches('\'');
        match head {
            "metadata.annotations" | "metadata.labels" => {
                let lower = if head == "metadata.annotations" {
                    name.to_ascii_lowercase()
                } else {
                    name.to_owned()
                };
                problems(errs, path, name, crate::registry::validate::qualified_problems(&lower));
            }
            _ => {
                let detail = format!(
                    "error converting fieldPath: field label does not support subscript: {field}"
                );
                errs.invalid(path.child("fieldPath"), field, detail);
            }
        }
        return;
    }
    if !KNOWN_LABELS.contains(&field) {
        let detail = format!("error converting fieldPath: field label not supported: {field}");
        errs.invalid(path.child("fieldPath"), field, detail);
    } else if !allowed.contains(&field) {
        errs.not_supported(path.child("fieldPath"), field, allowed);
    }
}

/// A reference to a container's resources.
pub(super) fn resource_ref(errs: &mut FieldErrors, path: &Path, from: &Value, volume: bool) {
    let resource = text(from, "resource");
    if volume && text(from, "containerName").is_empty() {
        errs.required(path.child("containerName"), "");
    } else if resource.is_empty() {
        errs.required(path.child("resource"), "");
    } else if !RESOURCES.contains(&resource)
        && !resource.starts_with("limits.hugepages-")
        && !resource.starts_with("requests.hugepages-")
    {
        errs.not_supported(path.child("resource"), resource, RESOURCES);
    }
}

fn key_ref(errs: &mut FieldErrors, path: &Path, from: &Value) {
    let name = text(from, "name");
    if !name.is_empty() {
        problems(errs, &path.child("name"), name, subdomain_problems(name));
    }
    let wanted = text(from, "key");
    if wanted.is_empty() {
        errs.required(path.child("key"), "");
    } else {
        problems(errs, &path.child("key"), wanted, config_key_problems(wanted));
    }
}

fn env_from(errs: &mut FieldErrors, path: &Path, from: &Value) {
    let prefix = text(from, "prefix");
    if !prefix.is_empty() && !prefix.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=') {
        errs.invalid(path.child("prefix"), prefix, ENV_NAME);
    }
    let sources: Vec<&str> =
        ["configMapRef", "secretRef"].into_iter().filter(|field| has(from, field)).collect();
    for field in &sources {
        let name = text(key(from, field), "name");
        if !name.is_empty() {
            problems(errs, &path.child(field).child("name"), name, subdomain_problems(name));
        }
    }
    match sources.len() {
        0 => errs.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"),
        1 => {}
        _ => errs.invalid(path, "", "may not have more than one field specified at a time"),
    }
}
