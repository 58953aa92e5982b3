//! A container's environment: `$(VAR)` expansion, references to fields and objects, service links.
//!
//! Pure: objects are looked up through [`Objects`], which the worker has filled beforehand.
//! Invariant: a missing reference is a [`ConfigError`] unless it is optional.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVarSource, Pod, ResourceFieldSelector, Secret, Service,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::labels::PodNames;
use super::resources;

/// Why a container cannot be configured; shown as `CreateContainerConfigError`.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ConfigError(pub(crate) String);

/// Objects that a pod refers to, `None` where the API has none.
#[derive(Default)]
pub(crate) struct Objects {
    pub(crate) config_maps: BTreeMap<String, Option<std::sync::Arc<ConfigMap>>>,
    pub(crate) secrets: BTreeMap<String, Option<std::sync::Arc<Secret>>>,
}

impl Objects {
    pub(crate) fn config_map(&self, name: &str) -> Option<&ConfigMap> {
        self.config_maps.get(name)?.as_deref()
    }

    pub(crate) fn secret(&self, name: &str) -> Option<&Secret> {
        self.secrets.get(name)?.as_deref()
    }
}

/// What the node knows of itself and the pod when variables are made.
pub(crate) struct Facts<'a> {
    pub(crate) host_ips: &'a [String],
    pub(crate) pod_ips: &'a [String],
    pub(crate) allocatable: &'a BTreeMap<String, Quantity>,
}

/// Replaces `$(NAME)` by its value; `$$` is a dollar sign; an unknown name stays as it is.
pub(crate) fn expand(input: &str, lookup: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// The environment in order, the later definition of a name winning.
pub(crate) fn environment(
    pod: &Pod,
    container: &Container,
    objects: &Objects,
    services: &[Service],
    facts: &Facts,
) -> Result<Vec<(String, String)>, ConfigError> {
    let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let service_env = service_env(pod.namespace(), services, links);
    let mut env: Vec<(String, String)> = Vec::new();
    let mut set = |name: String, value: String| match env.iter_mut().find(|(n, _)| *n == name) {
        Some(entry) => entry.1 = value,
        None => env.push((name, value)),
    };
    for (name, value) in from_objects(pod, container, objects)? {
        set(name, value);
    }
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (Some(value), _) if !value.is_empty() => Some(expand(value, &|name| {
                env.iter()
                    .find(|(n, _)| n == name)
                    .map(|(_, v)| v.clone())
                    .or_else(|| service_env.get(name).cloned())
            })),
            (_, Some(source)) => reference(pod, container, source, objects, facts)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            match env.iter_mut().find(|(n, _)| *n == var.name) {
                Some(entry) => entry.1 = value,
                None => env.push((var.name.clone(), value)),
            }
        }
    }
    for (name, value) in service_env {
        if !env.iter().any(|(n, _)| *n == name) {
            env.push((name, value));
        }
    }
    Ok(env)
}

fn from_objects(
    pod: &Pod,
    container: &Container,
    objects: &Objects,
) -> Result<Vec<(String, String)>, ConfigError> {
    let mut out = Vec::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            match objects.config_map(&reference.name) {
                Some(map) => out.extend(
                    map.data.iter().flatten().map(|(k, v)| (format!("{prefix}{k}"), v.clone())),
                ),
                None if reference.optional == Some(true) => {}
                None => return Err(missing("configmap", &reference.name)),
            }
        }
        if let Some(reference) = &source.secret_ref {
            match objects.secret(&reference.name) {
                Some(secret) => out.extend(secret.data.iter().flatten().map(|(k, v)| {
                    (format!("{prefix}{k}"), String::from_utf8_lossy(&v.0).into_owned())
                })),
                None if reference.optional == Some(true) => {}
                None => return Err(missing("secret", &reference.name)),
            }
        }
    }
    let _ = pod;
    Ok(out)
}

pub(crate) fn missing(kind: &str, name: &str) -> ConfigError {
    ConfigError(format!("{kind} \"{name}\" not found"))
}

fn reference(
    pod: &Pod,
    container: &Container,
    source: &EnvVarSource,
    objects: &Objects,
    facts: &Facts,
) -> Result<Option<String>, ConfigError> {
    if let Some(field) = &source.field_ref {
        return field_value(pod, &field.field_path, facts).map(Some);
    }
    if let Some(selector) = &source.resource_field_ref {
        return resource_value(pod, Some(container), selector, facts).map(Some);
    }
    let namespace = pod.namespace();
    if let Some(key) = &source.config_map_key_ref {
        let optional = key.optional == Some(true);
        let Some(map) = objects.config_map(&key.name) else {
            return if optional { Ok(None) } else { Err(missing("configmap", &key.name)) };
        };
        return match map.data.as_ref().and_then(|data| data.get(&key.key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(ConfigError(format!(
                "couldn't find key {} in ConfigMap {namespace}/{}",
                key.key, key.name
            ))),
        };
    }
    if let Some(key) = &source.secret_key_ref {
        let optional = key.optional == Some(true);
        let Some(secret) = objects.secret(&key.name) else {
            return if optional { Ok(None) } else { Err(missing("secret", &key.name)) };
        };
        return match secret.data.as_ref().and_then(|data| data.get(&key.key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if optional => Ok(None),
            None => Err(ConfigError(format!(
                "couldn't find key {} in Secret {namespace}/{}",
                key.key, key.name
            ))),
        };
    }
    Ok(Some(String::new()))
}

/// The value of a downward API field.
pub(crate) fn field_value(pod: &Pod, path: &str, facts: &Facts) -> Result<String, ConfigError> {
    let spec = pod.spec.as_ref();
    let meta = &pod.metadata;
    let first = |ips: &[String]| ips.first().cloned().unwrap_or_default();
    Ok(match path {
        "metadata.name" => pod.name().to_owned(),
        "metadata.namespace" => pod.namespace().to_owned(),
        "metadata.uid" => pod.uid().to_owned(),
        "metadata.labels" => format_map(meta.labels.as_ref()),
        "metadata.annotations" => format_map(meta.annotations.as_ref()),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => {
            spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default()
        }
        "status.hostIP" => first(facts.host_ips),
        "status.hostIPs" => facts.host_ips.join(","),
        "status.podIP" => first(facts.pod_ips),
        "status.podIPs" => facts.pod_ips.join(","),
        _ => match path.split_once("['").and_then(|(map, k)| Some((map, k.strip_suffix("']")?))) {
            Some(("metadata.labels", key)) => {
                meta.labels.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default()
            }
            Some(("metadata.annotations", key)) => {
                meta.annotations.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default()
            }
            _ => return Err(ConfigError(format!("unsupported fieldPath: {path}"))),
        },
    })
}

/// `key="value"` lines, sorted, values quoted as Go's `%q` does.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> =
        map.into_iter().flatten().map(|(key, value)| format!("{key}={}", quote(value))).collect();
    lines.join("\n")
}

fn quote(value: &str) -> String {
    let mut out = String::from("\"");
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The value of a resource field of a container; a missing limit is what the node can give.
pub(crate) fn resource_value(
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
    facts: &Facts,
) -> Result<String, ConfigError> {
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let spec = pod.spec.as_ref();
    let found = named.and_then(|name| {
        let spec = spec?;
        spec.containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
            .find(|container| container.name == name)
    });
    let container = match (named, found) {
        (Some(name), None) => return Err(ConfigError(format!("container {name} not found"))),
        (_, found) => found.or(own),
    };
    let (kind, resource) = selector.resource.split_once('.').ok_or_else(|| {
        ConfigError(format!("unsupported container resource : {}", selector.resource))
    })?;
    let requirements = container.and_then(|container| container.resources.as_ref());
    let map = match kind {
        "limits" => requirements.and_then(|r| r.limits.as_ref()),
        "requests" => requirements.and_then(|r| r.requests.as_ref()),
        _ => {
            return Err(ConfigError(format!(
                "unsupported container resource : {}",
                selector.resource
            )));
        }
    };
    let limits = requirements.and_then(|r| r.limits.as_ref());
    let value = map.and_then(|map| map.get(resource)).and_then(resources::milli);
    let value = match kind {
        "requests" => {
            value.or_else(|| limits.and_then(|map| map.get(resource)).and_then(resources::milli))
        }
        _ => value
            .filter(|value| *value != 0)
            .or_else(|| facts.allocatable.get(resource).and_then(resources::milli)),
    };
    let divisor = selector.divisor.as_ref().and_then(resources::milli).filter(|d| *d > 0);
    let divisor = divisor.unwrap_or(1000);
    let value = value.unwrap_or(0);
    Ok(((value + divisor - 1) / divisor).to_string())
}

fn service_env(namespace: &str, services: &[Service], links: bool) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for service in services {
        let (Some(name), Some(spec)) = (&service.metadata.name, &service.spec) else { continue };
        let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None")
        else {
            continue;
        };
        let home = service.metadata.namespace.as_deref().unwrap_or_default();
        let master = home == "default" && name == "kubernetes";
        if !(master || (links && home == namespace)) {
            continue;
        }
        let prefix = name.to_uppercase().replace('-', "_");
        let ports = spec.ports.as_deref().unwrap_or_default();
        let Some(first) = ports.first() else { continue };
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        out.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
        out.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
        for (index, port) in ports.iter().enumerate() {
            if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                let name = name.to_uppercase().replace('-', "_");
                out.insert(format!("{prefix}_SERVICE_PORT_{name}"), port.port.to_string());
            }
            let upper = port.protocol.as_deref().unwrap_or("TCP").to_uppercase();
            let url = format!("{}://{host}:{}", upper.to_lowercase(), port.port);
            if index == 0 {
                out.insert(format!("{prefix}_PORT"), url.clone());
            }
            let base = format!("{prefix}_PORT_{}_{upper}", port.port);
            out.insert(format!("{base}_PROTO"), upper.to_lowercase());
            out.insert(format!("{base}_PORT"), port.port.to_string());
            out.insert(format!("{base}_ADDR"), ip.to_owned());
            out.insert(base, url);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check_expand(input: &str, expected: &str) {
        let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
        assert_eq!(expand(input, &lookup), expected, "{input}");
    }

    #[test]
    fn references_are_expanded_and_escapes_kept() {
        check_expand("$(A);;$(B)", "1;;$(B)");
        check_expand("$$(A)", "$(A)");
        check_expand("$A $( $", "$A $( $");
        check_expand("x$(A)y$$", "x1y$");
    }

    fn pod(container: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "labels": {"b": "2", "a": "x\"y"}},
            "spec": {"containers": [container]}
        }))
        .unwrap()
    }

    fn env_of(pod: &Pod, objects: &Objects) -> Result<Vec<(String, String)>, ConfigError> {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "foo-bar", "namespace": "ns"},
            "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80}]}
        }))
        .unwrap();
        let allocatable = [("cpu".to_owned(), Quantity("2".into()))].into();
        let facts =
            Facts { host_ips: &[], pod_ips: &["10.1.0.2".into()], allocatable: &allocatable };
        environment(pod, &pod.spec.as_ref().unwrap().containers[0], objects, &[service], &facts)
    }

    #[test]
    fn later_variables_see_earlier_ones_and_services() {
        let pod = pod(json!({"name": "c", "env": [
            {"name": "A", "value": "a"},
            {"name": "B", "value": "$(A)-$(FOO_BAR_SERVICE_HOST)"},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "L", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['b']"}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
        ]}));
        let env: BTreeMap<_, _> = env_of(&pod, &Objects::default()).unwrap().into_iter().collect();
        for (name, value) in [
            ("B", "a-10.0.0.1"),
            ("IP", "10.1.0.2"),
            ("L", "2"),
            ("CPU", "2"),
            ("FOO_BAR_PORT", "tcp://10.0.0.1:80"),
            ("FOO_BAR_PORT_80_TCP_ADDR", "10.0.0.1"),
        ] {
            assert_eq!(env.get(name).map(String::as_str), Some(value), "{name}");
        }
    }

    #[test]
    fn a_missing_object_is_named_unless_optional() {
        let of = |optional: bool| {
            pod(json!({"name": "c", "env": [{"name": "A", "valueFrom":
                {"configMapKeyRef": {"name": "m", "key": "k", "optional": optional}}}]}))
        };
        assert_eq!(
            env_of(&of(false), &Objects::default()).unwrap_err().0,
            "configmap \"m\" not found"
        );
        assert!(env_of(&of(true), &Objects::default()).is_ok());
    }

    #[test]
    fn maps_are_sorted_and_quoted() {
        let allocatable = BTreeMap::new();
        let facts = Facts { host_ips: &[], pod_ips: &[], allocatable: &allocatable };
        let text = field_value(&pod(json!({"name": "c"})), "metadata.labels", &facts).unwrap();
        assert_eq!(text, "a=\"x\\\"y\"\nb=\"2\"");
    }
}
