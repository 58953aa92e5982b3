//! Defaults of pods and pod templates, as upstream's `core/v1` fills them in.
//!
//! Everything here is a pure function on the versioned object. What Go writes for a struct that is
//! never absent (`resources: {}`) is the encoder's matter, not a default.

use serde_json::{Value, json};

use crate::registry::value::{
    at_mut, default, default_zero, flag, has, is_zero, key, list_mut, map, text,
};

/// A pod: the template's defaults and those that only a running pod gets.
pub(crate) fn default_pod(pod: &mut Value) {
    let Some(spec) = at_mut(pod, "spec") else { return };
    default(spec, "enableServiceLinks", true);
    let host_network = flag(spec, "hostNetwork");
    for kind in ["containers", "initContainers"] {
        for container in list_mut(spec, kind) {
            requests_from_limits(container);
            if host_network {
                host_ports(container);
            }
        }
    }
    super::resources::default_pod_level_requests(spec);
    default_pod_spec(spec);
}

/// A pod template: `template.spec` under the given object.
pub(crate) fn default_template(owner: &mut Value, path: &str) {
    if let Some((parent, name)) = path.rsplit_once('.')
        && let Some(parent) = at_mut(owner, parent)
    {
        default(parent, name, json!({}));
    }
    if let Some(template) = at_mut(owner, path) {
        default(template, "spec", json!({}));
        default_pod_spec(&mut template["spec"]);
    }
}

/// The defaults that every pod spec gets, wherever it is.
pub(crate) fn default_pod_spec(spec: &mut Value) {
    default_zero(spec, "dnsPolicy", "ClusterFirst");
    default_zero(spec, "restartPolicy", "Always");
    default(spec, "securityContext", json!({}));
    default(spec, "terminationGracePeriodSeconds", 30);
    default_zero(spec, "schedulerName", "default-scheduler");
    for volume in list_mut(spec, "volumes") {
        default_volume(volume);
    }
    for kind in ["containers", "initContainers", "ephemeralContainers"] {
        for container in list_mut(spec, kind) {
            default_container(container);
        }
    }
}

/// Defaults of a volume; the sources are shared with persistent volumes.
pub(crate) fn default_volume(volume: &mut Value) {
    let sources = volume.as_object().map_or(0, |members| {
        members.iter().filter(|(name, source)| *name != "name" && !source.is_null()).count()
    });
    if sources == 0 {
        default(volume, "emptyDir", json!({}));
    }
    for kind in ["configMap", "secret", "downwardAPI"] {
        if let Some(source) = at_mut(volume, kind) {
            default(source, "defaultMode", 0o644);
            items_field_refs(source);
        }
    }
    if let Some(projected) = at_mut(volume, "projected") {
        default(projected, "defaultMode", 0o644);
        for source in list_mut(projected, "sources") {
            if let Some(token) = at_mut(source, "serviceAccountToken") {
                default(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = at_mut(source, "downwardAPI") {
                items_field_refs(downward);
            }
        }
    }
    if let Some(claim) = at_mut(volume, "ephemeral.volumeClaimTemplate.spec") {
        default(claim, "volumeMode", "Filesystem");
    }
    if let Some(image) = at_mut(volume, "image") {
        let policy = pull_policy(text(image, "reference"));
        default_zero(image, "pullPolicy", policy);
    }
    default_volume_source(volume);
}

/// Defaults of the sources that volumes and persistent volumes share.
pub(crate) fn default_volume_source(holder: &mut Value) {
    if let Some(source) = at_mut(holder, "hostPath") {
        default(source, "type", "");
    }
    if let Some(source) = at_mut(holder, "iscsi") {
        default_zero(source, "iscsiInterface", "default");
    }
    if let Some(source) = at_mut(holder, "rbd") {
        default_zero(source, "pool", "rbd");
        default_zero(source, "user", "admin");
        default_zero(source, "keyring", "/etc/ceph/keyring");
    }
    if let Some(source) = at_mut(holder, "azureDisk") {
        default(source, "cachingMode", "ReadWrite");
        default(source, "kind", "Shared");
        default(source, "fsType", "ext4");
        default(source, "readOnly", false);
    }
    if let Some(source) = at_mut(holder, "scaleIO") {
        default_zero(source, "storageMode", "ThinProvisioned");
        default_zero(source, "fsType", "xfs");
    }
}

/// The pull policy that an image's tag stands for: `latest` (also by omission) is always pulled.
pub(crate) fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = match image.split_once('@') {
        Some((name, _)) => (name, true),
        None => (image, false),
    };
    let last = name.rsplit('/').next().unwrap_or(name);
    let tag = last.split_once(':').map(|(_, tag)| tag);
    match tag {
        Some("latest") => "Always",
        None if !digest && !name.is_empty() && parses(name) => "Always",
        _ => "IfNotPresent",
    }
}

fn parses(name: &str) -> bool {
    let path = name
        .split_once('/')
        .filter(|(host, _)| host.contains(['.', ':']))
        .map_or(name, |(_, rest)| rest);
    path.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-/".contains(&b))
}

fn default_container(container: &mut Value) {
    let policy = pull_policy(text(container, "image"));
    default_zero(container, "imagePullPolicy", policy);
    default_zero(container, "terminationMessagePath", "/dev/termination-log");
    default_zero(container, "terminationMessagePolicy", "File");
    for port in list_mut(container, "ports") {
        default_zero(port, "protocol", "TCP");
    }
    for env in list_mut(container, "env") {
        if let Some(field) = at_mut(env, "valueFrom.fieldRef") {
            default_zero(field, "apiVersion", "v1");
        }
        if let Some(file) = at_mut(env, "valueFrom.fileKeyRef") {
            default(file, "optional", false);
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = at_mut(container, probe) {
            default_probe(probe);
        }
    }
    for hook in ["lifecycle.postStart.httpGet", "lifecycle.preStop.httpGet"] {
        if let Some(http) = at_mut(container, hook) {
            default_http_get(http);
        }
    }
}

fn default_probe(probe: &mut Value) {
    default_zero(probe, "timeoutSeconds", 1);
    default_zero(probe, "periodSeconds", 10);
    default_zero(probe, "successThreshold", 1);
    default_zero(probe, "failureThreshold", 3);
    if let Some(http) = at_mut(probe, "httpGet") {
        default_http_get(http);
    }
    if let Some(grpc) = at_mut(probe, "grpc") {
        default(grpc, "service", "");
    }
}

fn default_http_get(http: &mut Value) {
    default_zero(http, "path", "/");
    default_zero(http, "scheme", "HTTP");
}

fn items_field_refs(source: &mut Value) {
    for item in list_mut(source, "items") {
        if let Some(field) = at_mut(item, "fieldRef") {
            default_zero(field, "apiVersion", "v1");
        }
    }
}

/// A limit without a request is the request too.
fn requests_from_limits(container: &mut Value) {
    if !has(container, "resources.limits") {
        return;
    }
    let limits = map(container, "resources.limits").clone();
    let requests = crate::registry::value::object(container, "resources.requests");
    for (name, limit) in limits {
        requests.entry(name).or_insert(limit);
    }
}

/// On the host's network a port is the host's port.
fn host_ports(container: &mut Value) {
    for port in list_mut(container, "ports") {
        if is_zero(key(port, "hostPort")) {
            let number = key(port, "containerPort").clone();
            port["hostPort"] = number;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_decides_the_pull_policy() {
        for (image, policy) in [
            ("x", "Always"),
            ("x:1", "IfNotPresent"),
            ("x:latest", "Always"),
            ("host:5000/x", "Always"),
            ("host:5000/x:2", "IfNotPresent"),
            ("x@sha256:00", "IfNotPresent"),
            ("", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }

    #[test]
    fn a_template_gets_no_host_ports_or_requests() {
        let mut owner = json!({"template": {"spec": {"hostNetwork": true, "containers": [
            {"name": "a", "image": "x:1", "ports": [{"containerPort": 80}],
             "resources": {"limits": {"cpu": "1"}}}]}}});
        default_template(&mut owner, "template");
        let container = &owner["template"]["spec"]["containers"][0];
        assert_eq!(container["ports"][0], json!({"containerPort": 80, "protocol": "TCP"}));
        assert_eq!(container["resources"], json!({"limits": {"cpu": "1"}}));
        assert_eq!(owner["template"]["spec"]["enableServiceLinks"], Value::Null);
    }

    #[test]
    fn a_volume_without_source_is_an_empty_dir() {
        let mut pod = json!({"spec": {"volumes": [{"name": "a"}, {"name": "b", "configMap": {"name": "c"}}]}});
        default_pod(&mut pod);
        assert_eq!(pod["spec"]["volumes"][0]["emptyDir"], json!({}));
        assert_eq!(pod["spec"]["volumes"][1]["configMap"]["defaultMode"], json!(420));
    }
}
