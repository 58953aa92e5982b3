//! A pod's volumes to their content.
//!
//! Pure: objects, tokens and claims were fetched before. Invariant: an absent source is an error
//! unless it is optional, and then it is simply empty.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, PersistentVolumeSpec, Pod, PodSpec, Secret,
    VolumeProjection,
};

use super::{File, Files, Source, Volume};
use crate::pod::env::{self, ConfigError, Facts, Objects};
use crate::pod::labels::PodNames;
use crate::pod::{container, resources, security};

const CONFIG_MAP: &str = "kubernetes.io~configmap";
const SECRET: &str = "kubernetes.io~secret";
const PROJECTED: &str = "kubernetes.io~projected";
const DOWNWARD: &str = "kubernetes.io~downward-api";
const MODE_DEFAULT: i32 = 0o644;

/// Which volume could not be made, and why.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {reason}")]
pub(crate) struct VolumeError {
    pub(crate) volume: String,
    pub(crate) reason: String,
}

/// Tokens by volume name and path.
pub(crate) type Tokens = BTreeMap<(String, String), String>;

/// Persistent volumes by the volume that claims them.
pub(crate) type Claims = BTreeMap<String, Result<PersistentVolumeSpec, String>>;

/// A token that a projected volume asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TokenRequest {
    pub(crate) volume: String,
    pub(crate) path: String,
    pub(crate) audience: Option<String>,
    pub(crate) expiration_secs: i64,
}

/// The ConfigMaps and Secrets that volumes and environment refer to.
pub(crate) fn config_names(pod: &Pod) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    let Some(spec) = &pod.spec else { return (maps, secrets) };
    for volume in spec.volumes.iter().flatten() {
        maps.extend(volume.config_map.iter().map(|source| source.name.clone()));
        secrets.extend(volume.secret.iter().filter_map(|source| source.secret_name.clone()));
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            maps.extend(source.config_map.iter().map(|source| source.name.clone()));
            secrets.extend(source.secret.iter().map(|source| source.name.clone()));
        }
    }
    for entry in container::entries(pod) {
        for from in entry.container.env_from.iter().flatten() {
            maps.extend(from.config_map_ref.iter().map(|r| r.name.clone()));
            secrets.extend(from.secret_ref.iter().map(|r| r.name.clone()));
        }
        for source in entry.container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
            maps.extend(source.config_map_key_ref.iter().map(|r| r.name.clone()));
            secrets.extend(source.secret_key_ref.iter().map(|r| r.name.clone()));
        }
    }
    for reference in spec.image_pull_secrets.iter().flatten() {
        secrets.insert(reference.name.clone());
    }
    (maps, secrets)
}

/// The service account tokens that volumes ask for.
pub(crate) fn token_requests(pod: &Pod) -> Vec<TokenRequest> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut out = Vec::new();
    for volume in volumes {
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            if let Some(token) = &source.service_account_token {
                out.push(TokenRequest {
                    volume: volume.name.clone(),
                    path: token.path.clone(),
                    audience: token.audience.clone().filter(|audience| !audience.is_empty()),
                    expiration_secs: token.expiration_seconds.unwrap_or(3600),
                });
            }
        }
    }
    out
}

/// Whether a pod's volumes show what a change of the pod changed: its labels, annotations and
/// resources are files of downward API volumes.
pub(crate) fn is_stale(old: &Pod, new: &Pod) -> bool {
    let mut volumes = new.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let shows_pod = volumes.any(|volume| {
        let mut sources = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
        volume.downward_api.is_some() || sources.any(|source| source.downward_api.is_some())
    });
    let resources = |pod: &Pod| {
        let entries = container::entries(pod);
        entries.iter().map(|entry| entry.container.resources.clone()).collect::<Vec<_>>()
    };
    shows_pod
        && (old.metadata.labels != new.metadata.labels
            || old.metadata.annotations != new.metadata.annotations
            || resources(old) != resources(new))
}

/// Every volume of the pod with its content.
pub(crate) fn plan(
    pod: &Pod,
    objects: &Objects,
    tokens: &Tokens,
    claims: &Claims,
    facts: &Facts,
) -> Result<Vec<Volume>, VolumeError> {
    let Some(spec) = &pod.spec else { return Ok(Vec::new()) };
    let mut out = Vec::new();
    for volume in spec.volumes.iter().flatten() {
        let source = source(pod, spec, volume, objects, tokens, claims, facts)
            .map_err(|ConfigError(reason)| VolumeError { volume: volume.name.clone(), reason })?;
        out.push(Volume { name: volume.name.clone(), source });
    }
    Ok(out)
}

fn source(
    pod: &Pod,
    spec: &PodSpec,
    volume: &k8s_openapi::api::core::v1::Volume,
    objects: &Objects,
    tokens: &Tokens,
    claims: &Claims,
    facts: &Facts,
) -> Result<Source, ConfigError> {
    if let Some(empty) = &volume.empty_dir {
        let size = empty.size_limit.as_ref().and_then(resources::units);
        return match empty.medium.as_deref() {
            None | Some("") => Ok(Source::Disk),
            Some("Memory") => Ok(Source::Memory {
                size_bytes: size.and_then(|size| u64::try_from(size).ok()).filter(|size| *size > 0),
            }),
            Some(other) => Err(ConfigError(format!("emptyDir medium {other:?} is not supported"))),
        };
    }
    if let Some(host) = &volume.host_path {
        let kind = host.type_.clone().unwrap_or_default();
        return Ok(Source::HostPath { path: PathBuf::from(&host.path), kind });
    }
    if let Some(image) = &volume.image {
        return Ok(Source::Image {
            reference: image.reference.clone().unwrap_or_default(),
            pull_policy: image.pull_policy.clone(),
            mounts: Vec::new(),
        });
    }
    let mut files = Files::new();
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(MODE_DEFAULT);
        let optional = source.optional == Some(true);
        let map = objects.config_map(&source.name);
        config_map(&mut files, map, &source.name, optional, source.items.as_deref(), mode)?;
        return Ok(Source::Files { plugin: CONFIG_MAP, files, in_memory: false });
    }
    if let Some(source) = &volume.secret {
        let mode = source.default_mode.unwrap_or(MODE_DEFAULT);
        let optional = source.optional == Some(true);
        let name = source.secret_name.as_deref().unwrap_or_default();
        let found = objects.secret(name);
        secret(&mut files, found, name, optional, source.items.as_deref(), mode)?;
        return Ok(Source::Files { plugin: SECRET, files, in_memory: true });
    }
    if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(MODE_DEFAULT);
        downward(&mut files, pod, source.items.as_deref().unwrap_or_default(), mode, facts)?;
        return Ok(Source::Files { plugin: DOWNWARD, files, in_memory: true });
    }
    if let Some(source) = &volume.projected {
        let mode = source.default_mode.unwrap_or(MODE_DEFAULT);
        for source in source.sources.iter().flatten() {
            projection(&mut files, pod, spec, &volume.name, source, mode, objects, tokens, facts)?;
        }
        return Ok(Source::Files { plugin: PROJECTED, files, in_memory: true });
    }
    if volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some() {
        return persistent(claims.get(&volume.name));
    }
    let kind = serde_json::to_value(volume)
        .ok()
        .and_then(|value| value.as_object()?.keys().find(|key| *key != "name").cloned());
    Err(ConfigError(format!(
        "volumes of type {} are not supported by this kubelet",
        kind.as_deref().unwrap_or("unknown")
    )))
}

fn persistent(claim: Option<&Result<PersistentVolumeSpec, String>>) -> Result<Source, ConfigError> {
    let spec = match claim {
        None => return Err(ConfigError("the claim was not looked up".to_owned())),
        Some(Err(reason)) => return Err(ConfigError(reason.clone())),
        Some(Ok(spec)) => spec,
    };
    if let Some(host) = &spec.host_path {
        let kind = host.type_.clone().unwrap_or_default();
        return Ok(Source::HostPath { path: PathBuf::from(&host.path), kind });
    }
    if let Some(local) = &spec.local {
        return Ok(Source::HostPath { path: PathBuf::from(&local.path), kind: "Directory".into() });
    }
    Err(ConfigError(
        "only hostPath and local persistent volumes are supported by this kubelet".to_owned(),
    ))
}

fn put(files: &mut Files, path: &str, content: Vec<u8>, mode: i32) {
    let mode = u32::try_from(mode).unwrap_or(0o644) & 0o777;
    files.insert(path.to_owned(), File { content, mode, owner: None });
}

/// Puts all entries, or those that `items` choose.
fn put_items(
    files: &mut Files,
    data: BTreeMap<&str, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
    missing: impl Fn(&str) -> ConfigError,
) -> Result<(), ConfigError> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        for (key, content) in data {
            put(files, key, content, mode);
        }
        return Ok(());
    };
    for item in items {
        match data.get(item.key.as_str()) {
            Some(content) => put(files, &item.path, content.clone(), item.mode.unwrap_or(mode)),
            None if optional => {}
            None => return Err(missing(&item.key)),
        }
    }
    Ok(())
}

fn config_map(
    files: &mut Files,
    map: Option<&ConfigMap>,
    name: &str,
    optional: bool,
    items: Option<&[KeyToPath]>,
    mode: i32,
) -> Result<(), ConfigError> {
    let Some(map) = map else {
        return if optional { Ok(()) } else { Err(env::missing("configmap", name)) };
    };
    let text = map.data.iter().flatten().map(|(k, v)| (k.as_str(), v.clone().into_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.clone()));
    let missing =
        |key: &str| ConfigError(format!("configmap references non-existent config key: {key}"));
    put_items(files, text.chain(binary).collect(), items, mode, optional, missing)
}

fn secret(
    files: &mut Files,
    secret: Option<&Secret>,
    name: &str,
    optional: bool,
    items: Option<&[KeyToPath]>,
    mode: i32,
) -> Result<(), ConfigError> {
    let Some(secret) = secret else {
        return if optional { Ok(()) } else { Err(env::missing("secret", name)) };
    };
    let data = secret.data.iter().flatten().map(|(k, v)| (k.as_str(), v.0.clone()));
    let missing = |key: &str| ConfigError(format!("references non-existent secret key: {key}"));
    put_items(files, data.collect(), items, mode, optional, missing)
}

fn downward(
    files: &mut Files,
    pod: &Pod,
    items: &[DownwardAPIVolumeFile],
    mode: i32,
    facts: &Facts,
) -> Result<(), ConfigError> {
    for item in items {
        let text = if let Some(field) = &item.field_ref {
            env::field_value(pod, &field.field_path, facts)?
        } else if let Some(selector) = &item.resource_field_ref {
            env::resource_value(pod, None, selector, facts)?
        } else {
            continue;
        };
        put(files, &item.path, text.into_bytes(), item.mode.unwrap_or(mode));
    }
    Ok(())
}

fn projection(
    files: &mut Files,
    pod: &Pod,
    spec: &PodSpec,
    volume: &str,
    source: &VolumeProjection,
    mode: i32,
    objects: &Objects,
    tokens: &Tokens,
    facts: &Facts,
) -> Result<(), ConfigError> {
    if let Some(source) = &source.config_map {
        let optional = source.optional == Some(true);
        let map = objects.config_map(&source.name);
        config_map(files, map, &source.name, optional, source.items.as_deref(), mode)?;
    }
    if let Some(source) = &source.secret {
        let optional = source.optional == Some(true);
        let found = objects.secret(&source.name);
        secret(files, found, &source.name, optional, source.items.as_deref(), mode)?;
    }
    if let Some(source) = &source.downward_api {
        downward(files, pod, source.items.as_deref().unwrap_or_default(), mode, facts)?;
    }
    if let Some(source) = &source.service_account_token {
        let token = tokens.get(&(volume.to_owned(), source.path.clone())).ok_or_else(|| {
            ConfigError(format!("no token for service account of pod {}", pod.format()))
        })?;
        let group = spec.security_context.as_ref().and_then(|context| context.fs_group);
        let owner = common_user(pod, spec);
        // A token that only one user needs is readable by that user alone.
        let mode = if owner.is_some() || group.is_some() { 0o600 } else { mode };
        put(files, &source.path, token.clone().into_bytes(), mode);
        if let Some(file) = files.get_mut(&source.path) {
            file.owner = owner;
        }
    }
    if source.cluster_trust_bundle.is_some() || source.pod_certificate.is_some() {
        return Err(ConfigError(
            "projections of clusterTrustBundle and podCertificate are not supported by this kubelet"
                .to_owned(),
        ));
    }
    Ok(())
}

/// The user that all containers of the pod run as, if it is one and known.
fn common_user(pod: &Pod, spec: &PodSpec) -> Option<u32> {
    let mut users = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .map(|container| security::run_as_user(pod, container));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok())?
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn plan_of(volume: serde_json::Value) -> Result<Vec<Volume>, VolumeError> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns"},
            "spec": {"containers": [{"name": "c"}], "volumes": [volume]}
        }))
        .unwrap();
        let map: ConfigMap = serde_json::from_value(json!({"data": {"a": "1", "b": "2"}})).unwrap();
        let mut objects = Objects::default();
        objects.config_maps.insert("m".into(), Some(Arc::new(map)));
        let none = BTreeMap::new();
        let facts = Facts { host_ips: &[], pod_ips: &[], allocatable: &none };
        plan(&pod, &objects, &Tokens::new(), &Claims::new(), &facts)
    }

    fn check(volume: serde_json::Value, expected: &[(&str, &str, u32)]) {
        let volumes = plan_of(volume).unwrap();
        let Source::Files { files, .. } = &volumes[0].source else { panic!("not files") };
        let found: Vec<_> = files
            .iter()
            .map(|(name, file)| {
                (name.as_str(), std::str::from_utf8(&file.content).unwrap(), file.mode)
            })
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn only_what_shows_the_pod_follows_it() {
        let check = |volume: serde_json::Value, change: serde_json::Value, want: bool| {
            let old = json!({
                "metadata": {"labels": {"a": "1"}},
                "spec": {"containers": [{"name": "c"}], "volumes": [volume]}
            });
            let mut new = old.clone();
            new["metadata"]["labels"] = change.clone();
            let pod = |value| serde_json::from_value::<Pod>(value).unwrap();
            assert_eq!(is_stale(&pod(old), &pod(new)), want, "{volume} {change}");
        };
        let downward = json!({"name": "v", "downwardAPI": {}});
        let projected = json!({"name": "v", "projected": {"sources": [{"downwardAPI": {}}]}});
        check(downward.clone(), json!({"a": "2"}), true);
        check(downward, json!({"a": "1"}), false);
        check(projected, json!({}), true);
        check(json!({"name": "v", "emptyDir": {}}), json!({"a": "2"}), false);
    }

    #[test]
    fn items_choose_and_rename_keys() {
        check(
            json!({"name": "v", "configMap": {"name": "m"}}),
            &[("a", "1", 0o644), ("b", "2", 0o644)],
        );
        check(
            json!({"name": "v", "configMap": {"name": "m", "defaultMode": 256,
                "items": [{"key": "b", "path": "x/y"}]}}),
            &[("x/y", "2", 0o400)],
        );
        check(json!({"name": "v", "configMap": {"name": "gone", "optional": true}}), &[]);
        check(
            json!({"name": "v", "projected": {"sources": [{"configMap": {"name": "m"}},
                {"downwardAPI": {"items": [{"path": "n", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}}),
            &[("a", "1", 0o644), ("b", "2", 0o644), ("n", "p", 0o644)],
        );
    }

    #[test]
    fn what_is_missing_or_unsupported_is_named() {
        for (volume, reason) in [
            (json!({"name": "v", "configMap": {"name": "gone"}}), "configmap \"gone\" not found"),
            (
                json!({"name": "v", "nfs": {"server": "s", "path": "/"}}),
                "volumes of type nfs are not supported by this kubelet",
            ),
        ] {
            let text = plan_of(volume).unwrap_err().to_string();
            assert_eq!(text, format!("MountVolume.SetUp failed for volume \"v\" : {reason}"));
        }
    }
}
