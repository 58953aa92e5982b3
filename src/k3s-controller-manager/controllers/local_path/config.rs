//! The provisioner's `config.json` and the parameters of storage classes: which folder a volume
//! gets. Pure.
//!
//! Invariant: the folder of a claim is always the same, however often it is worked out.

use std::collections::BTreeMap;

use client::null_default;
use serde::Deserialize;

use crate::types::storage::{Claim, StorageClass};

const ANY_NODE: &str = "DEFAULT_PATH_FOR_NON_LISTED_NODES";

/// `config.json`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Config {
    #[serde(flatten)]
    paths: Paths,
    storage_class_configs: BTreeMap<String, Paths>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Paths {
    #[serde(deserialize_with = "null_default")]
    node_path_map: Vec<NodePaths>,
    shared_file_system_path: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NodePaths {
    node: String,
    #[serde(deserialize_with = "null_default")]
    paths: Vec<String>,
}

/// Where a volume lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The folder that volumes are made in.
    pub(super) base: String,
    /// The volume's own, below it.
    pub(super) folder: String,
    /// Every node sees the same files.
    pub(super) shared: bool,
}

impl Place {
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.base.trim_end_matches('/'), self.folder)
    }
}

/// The place for a claim on a node, or why there is none.
pub(super) fn place(
    config: &Config,
    class: &StorageClass,
    claim: &Claim,
    node: &str,
) -> Result<Place, String> {
    let name = &class.metadata.name;
    let paths = match config.storage_class_configs.get(name) {
        Some(paths) => paths,
        None if config.storage_class_configs.is_empty() => &config.paths,
        None => return Err(format!("BUG: Got request for unexpected storage class {name}")),
    };
    let folder = folder(class, claim)?;
    if !paths.shared_file_system_path.is_empty() {
        let base = paths.shared_file_system_path.clone();
        return Ok(Place { base, folder, shared: true });
    }
    let of = |node: &str| paths.node_path_map.iter().find(|it| it.node == node);
    let found = of(node).or_else(|| of(ANY_NODE)).map(|it| &it.paths);
    let found = found.ok_or_else(|| {
        format!("config doesn't contain node {node}, and no {ANY_NODE} available")
    })?;
    if let Some(wanted) = class.parameters.get("nodePath") {
        if !found.contains(wanted) {
            return Err(format!("config doesn't contain path {wanted} on node {node}"));
        }
        return Ok(Place { base: wanted.clone(), folder, shared: false });
    }
    // Spread over the folders, but by the claim, so that the choice is no second one after a crash.
    let sum: usize = claim.metadata.uid.bytes().map(usize::from).sum();
    let base = found.get(sum % found.len().max(1)).cloned();
    let base = base.ok_or_else(|| format!("no local path available on node {node}"))?;
    Ok(Place { base, folder, shared: false })
}

/// The name of a claim's volume.
pub(super) fn volume_name(claim: &Claim) -> String {
    format!("pvc-{}", claim.metadata.uid)
}

fn folder(class: &StorageClass, claim: &Claim) -> Result<String, String> {
    let (meta, volume) = (&claim.metadata, volume_name(claim));
    let Some(pattern) = class.parameters.get("pathPattern") else {
        return Ok(format!("{volume}_{}_{}", meta.namespace, meta.name));
    };
    let mut path = String::new();
    let mut rest = pattern.as_str();
    while let Some((before, after)) = rest.split_once("{{") {
        let (field, after) = after
            .split_once("}}")
            .ok_or_else(|| format!("pathPattern {pattern:?} is not closed"))?;
        path.push_str(before);
        let field = field.trim();
        let of = |map: &client::Labels, key: &str| map.get(key).cloned().unwrap_or_default();
        path.push_str(&match field {
            ".PVName" => volume.clone(),
            ".PVC.Name" => meta.name.clone(),
            ".PVC.Namespace" => meta.namespace.clone(),
            _ => {
                if let Some(key) = field.strip_prefix(".PVC.Annotations.") {
                    of(&meta.annotations, key)
                } else if let Some(key) = field.strip_prefix(".PVC.Labels.") {
                    of(&meta.labels, key)
                } else {
                    return Err(format!("pathPattern {pattern:?}: {field} is not known"));
                }
            }
        });
        rest = after;
    }
    path.push_str(rest);
    let unsafe_allowed =
        class.parameters.get("allowUnsafePathPattern").is_some_and(|it| it == "true");
    if path.split('/').any(|part| part == "..") || path.starts_with('/') || path.is_empty() {
        return Err(format!("pathPattern {pattern:?} leads out of the folder: {path:?}"));
    }
    let own = path.contains(&meta.namespace) && path.contains(&meta.name);
    if !own && !unsafe_allowed {
        return Err(format!(
            "pathPattern {pattern:?} must contain the claim's namespace and name, or allowUnsafePathPattern be true"
        ));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: &str, parameters: &str, node: &str, want: Result<&str, &str>) {
        let config: Config = serde_json::from_str(config).unwrap();
        let class: StorageClass = serde_json::from_str(&format!(
            r#"{{"metadata":{{"name":"fast"}},"parameters":{{{parameters}}}}}"#
        ))
        .unwrap();
        let claim: Claim = serde_json::from_str(
            r#"{"metadata":{"namespace":"n","name":"c","uid":"u","labels":{"app":"web"}}}"#,
        )
        .unwrap();
        let found = place(&config, &class, &claim, node).map(|it| it.path());
        assert_eq!(found.as_deref().map_err(String::as_str), want);
    }

    #[test]
    fn the_node_and_its_class_decide_about_the_folder() {
        let config = r#"{"nodePathMap":[{"node":"DEFAULT_PATH_FOR_NON_LISTED_NODES","paths":["/data"]},
            {"node":"a","paths":["/x","/y"]},{"node":"none","paths":[]}]}"#;
        check(config, "", "other", Ok("/data/pvc-u_n_c"));
        check(config, "", "a", Ok("/y/pvc-u_n_c"));
        check(config, "", "none", Err("no local path available on node none"));
        check(config, r#""nodePath":"/x""#, "a", Ok("/x/pvc-u_n_c"));
        let unknown = Err("config doesn't contain path /z on node a");
        check(config, r#""nodePath":"/z""#, "a", unknown);
        check(r#"{"sharedFileSystemPath":"/nfs/"}"#, "", "a", Ok("/nfs/pvc-u_n_c"));
        let of_class = r#"{"storageClassConfigs":{"fast":{"sharedFileSystemPath":"/ssd"}}}"#;
        check(of_class, "", "a", Ok("/ssd/pvc-u_n_c"));
        let nowhere =
            "config doesn't contain node a, and no DEFAULT_PATH_FOR_NON_LISTED_NODES available";
        check("{}", "", "a", Err(nowhere));
    }

    #[test]
    fn patterns_stay_inside_the_folder() {
        let config = r#"{"sharedFileSystemPath":"/d"}"#;
        let pattern = |text: &str| format!(r#""pathPattern":"{text}""#);
        check(config, &pattern("{{ .PVC.Namespace }}/{{.PVC.Name}}"), "a", Ok("/d/n/c"));
        let labelled = pattern("{{ .PVC.Labels.app }}");
        let free = format!(r#"{labelled},"allowUnsafePathPattern":"true""#);
        check(config, &free, "a", Ok("/d/web"));
        check(
            config,
            &labelled,
            "a",
            Err(
                "pathPattern \"{{ .PVC.Labels.app }}\" must contain the claim's namespace and name, or allowUnsafePathPattern be true",
            ),
        );
        check(
            config,
            &pattern("../{{.PVC.Namespace}}{{.PVC.Name}}"),
            "a",
            Err(
                "pathPattern \"../{{.PVC.Namespace}}{{.PVC.Name}}\" leads out of the folder: \"../nc\"",
            ),
        );
    }
}
