//! Environment variables and where their values come from.

use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::{config_key_problems, subdomain_problems};
use serde_json::Value;

use crate::registry::NameRule;
use crate::registry::core::resources::nano;
use crate::registry::validate::problems;
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
        } else {
            problems(errs, &path.child("name"), name, variable_problems(name));
        }
        value_from(errs, &path.child("valueFrom"), env);
    }
    for (at, from) in list(container, "envFrom").iter().enumerate() {
        env_from(errs, &path.child("envFrom"), &path.child("envFrom").index(at), from);
    }
}

fn value_from(errs: &mut FieldErrors, path: &Path, env: &Value) {
    let from = key(env, "valueFrom");
    if from.is_null() {
        return;
    }
    if has(from, "fieldRef") {
        field_ref(errs, &path.child("fieldRef"), key(from, "fieldRef"), FIELDS);
    }
    if has(from, "resourceFieldRef") {
        resource_ref(errs, &path.child("resourceFieldRef"), key(from, "resourceFieldRef"), false);
    }
    for field in ["configMapKeyRef", "secretKeyRef"] {
        if has(from, field) {
            key_ref(errs, &path.child(field), key(from, field));
        }
    }
    if has(from, "fileKeyRef") {
        file_ref(errs, &path.child("fileKeyRef"), key(from, "fileKeyRef"));
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
    let subscript = field
        .strip_suffix("']")
        .and_then(|head| head.split_once("['"))
        .filter(|(head, _)| matches!(*head, "metadata.annotations" | "metadata.labels"));
    match subscript {
        Some((head, name)) => {
            let lower = name.to_lowercase();
            let name = if head == "metadata.annotations" { lower.as_str() } else { name };
            problems(errs, path, name, apimachinery::validation::qualified_problems(name));
        }
        None if field.ends_with("']") && field.contains("['") => {
            let detail = format!(
                "error converting fieldPath: field label does not support subscript: {field}"
            );
            errs.invalid(path.child("fieldPath"), field, detail);
        }
        None if !KNOWN_LABELS.contains(&field) => {
            let detail = format!("error converting fieldPath: field label not supported: {field}");
            errs.invalid(path.child("fieldPath"), field, detail);
        }
        None if !allowed.contains(&field) => {
            errs.not_supported(path.child("fieldPath"), field, allowed);
        }
        None => {}
    }
}

/// A reference to a container's resources.
pub(super) fn resource_ref(errs: &mut FieldErrors, path: &Path, from: &Value, volume: bool) {
    let resource = text(from, "resource");
    let huge = ["limits.hugepages-", "requests.hugepages-"];
    let huge = huge.iter().any(|prefix| resource.starts_with(prefix));
    if volume && text(from, "containerName").is_empty() {
        errs.required(path.child("containerName"), "");
    } else if resource.is_empty() {
        errs.required(path.child("resource"), "");
    } else if !RESOURCES.contains(&resource) && !huge {
        errs.not_supported(path.child("resource"), resource, RESOURCES);
    }
    divisor(errs, &path.child("divisor"), resource, key(from, "divisor"));
}

/// The unit in which a resource is told.
fn divisor(errs: &mut FieldErrors, path: &Path, resource: &str, divisor: &Value) {
    let unit = divisor.as_str().unwrap_or_default();
    if nano(divisor).unwrap_or_default() == 0 {
        return;
    }
    let bytes = ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let what = match resource.split_once('.').map_or("", |(_, name)| name) {
        "cpu" if matches!(unit, "1" | "1m") => return,
        "cpu" => {
            let detail = "only divisor's values 1m and 1 are supported with the cpu resource";
            errs.invalid(path, resource, detail);
            return;
        }
        "memory" => "memory",
        "ephemeral-storage" => "local ephemeral storage",
        name if name.starts_with("hugepages-") => "hugepages",
        _ => return,
    };
    if !bytes.contains(&unit) {
        let detail = format!(
            "only divisor's values {} are supported with the {what} resource",
            bytes.join(", ")
        );
        errs.invalid(path, resource, detail);
    }
}

/// `fileKeyRef`: a variable of a file that an init container wrote.
fn file_ref(errs: &mut FieldErrors, path: &Path, from: &Value) {
    for field in ["volumeName", "path", "key"] {
        if text(from, field).is_empty() {
            errs.required(path.child(field), "");
        }
    }
    let name = text(from, "key");
    if !name.is_empty() {
        problems(errs, &path.child("key"), name, variable_problems(name));
    }
    super::container::local_path(errs, &path.child("path"), text(from, "path"));
}

fn variable_problems(name: &str) -> Vec<String> {
    let good = !name.is_empty() && name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=');
    if good { Vec::new() } else { vec![ENV_NAME.to_owned()] }
}

fn key_ref(errs: &mut FieldErrors, path: &Path, from: &Value) {
    let name = text(from, "name");
    problems(errs, &path.child("name"), name, subdomain_problems(name));
    let wanted = text(from, "key");
    if wanted.is_empty() {
        errs.required(path.child("key"), "");
    } else {
        problems(errs, &path.child("key"), wanted, config_key_problems(wanted));
    }
}

/// One source of `envFrom`; how many there are is said of the list at `all`.
fn env_from(errs: &mut FieldErrors, all: &Path, path: &Path, from: &Value) {
    let prefix = text(from, "prefix");
    if !prefix.is_empty() {
        problems(errs, &path.child("prefix"), prefix, variable_problems(prefix));
    }
    let sources: Vec<&str> =
        ["configMapRef", "secretRef"].into_iter().filter(|field| has(from, field)).collect();
    for field in &sources {
        let name = text(key(from, field), "name");
        let path = path.child(field).child("name");
        if name.is_empty() {
            errs.required(path, "");
        } else {
            let found = crate::registry::meta::name_problems(NameRule::Subdomain, name, true);
            problems(errs, &path, name, found);
        }
    }
    match sources.len() {
        0 => errs.invalid(all, "", "must specify one of: `configMapRef` or `secretRef`"),
        1 => {}
        _ => errs.invalid(all, "", "may not have more than one field specified at a time"),
    }
}
