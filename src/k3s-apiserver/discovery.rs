//! Discovery: what is served, in the old form (`/api`, `/apis`, one list per version) and the
//! aggregated one.
//!
//! Pure functions from a list of groups to JSON. The list comes from `builtin_groups`, to which the
//! groups of custom resources are added with `add`; it is made again when those change. Knows no
//! HTTP.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::custom::Custom;
use crate::kinds::{Kind, Sub};

/// One API group; versions in order of preference.
#[derive(Clone, Debug, Default)]
pub struct Group {
    pub name: String,
    pub versions: Vec<Version>,
}

/// One version of a group, resources sorted by name.
#[derive(Clone, Debug, Default)]
pub struct Version {
    pub name: String,
    /// Whoever serves it does not answer: what is known may be old.
    pub stale: bool,
    pub resources: Vec<Resource>,
}

/// One resource as clients see it.
#[derive(Clone, Debug, Default)]
pub struct Resource {
    pub plural: String,
    pub singular: String,
    pub kind: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    /// See `storage_hash`; `None` where nothing is stored.
    pub storage_hash: Option<String>,
    pub subresources: Vec<Subresource>,
}

/// What hangs below an object of a resource.
#[derive(Clone, Debug, Default)]
pub struct Subresource {
    pub name: String,
    /// Group and version of the body where they are not the resource's own.
    pub group_version: Option<(String, String)>,
    pub kind: String,
    pub verbs: Vec<String>,
}

/// The order in which upstream lists its groups (by their priority).
const GROUP_ORDER: &[&str] = &[
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "internal.apiserver.k8s.io",
    "storagemigration.k8s.io",
];

/// The built-in groups; `served` decides about every resource (`--runtime-config`).
pub fn builtin_groups(served: impl Fn(&api::resources::Resource) -> bool) -> Vec<Group> {
    let mut groups = Vec::new();
    for resource in api::resources::all().iter().filter(|resource| served(resource)) {
        add(&mut groups, resource.group, resource.version, builtin(resource));
    }
    groups.sort_by_key(|group: &Group| {
        let place = GROUP_ORDER.iter().position(|name| *name == group.name);
        place.unwrap_or(GROUP_ORDER.len())
    });
    groups
}

/// A custom resource as discovery shows it.
pub fn custom(kind: &Kind, definition: &Custom) -> Resource {
    let sub = |sub: &Sub| {
        let own = (&sub.group, &sub.version) == (&kind.group, &kind.version);
        Subresource {
            name: sub.name.clone(),
            group_version: (!own).then(|| (sub.group.clone(), sub.version.clone())),
            kind: sub.kind.clone(),
            verbs: sub.verbs.clone(),
        }
    };
    let stored = kind.storage_version.rsplit('/').next().unwrap_or_default();
    Resource {
        plural: kind.plural.clone(),
        singular: definition.singular.clone(),
        kind: kind.kind.clone(),
        namespaced: kind.namespaced,
        verbs: kind.verbs.clone(),
        short_names: definition.short_names.clone(),
        categories: definition.categories.clone(),
        storage_hash: Some(storage_hash(&kind.group, stored, &kind.kind)),
        subresources: kind.subresources.iter().map(sub).collect(),
    }
}

/// Adds a resource to its group and version, which are made where they are missing. New groups
/// come last.
pub fn add(groups: &mut Vec<Group>, group: &str, version: &str, resource: Resource) {
    let version = add_version(groups, group, version, false);
    version.resources.push(resource);
    version.resources.sort_by(|a, b| a.plural.cmp(&b.plural));
}

/// The version of a group, made where it is missing.
pub fn add_version<'g>(
    groups: &'g mut Vec<Group>,
    group: &str,
    version: &str,
    stale: bool,
) -> &'g mut Version {
    let at = groups.iter().position(|known| known.name == group).unwrap_or_else(|| {
        groups.push(Group { name: group.to_owned(), versions: Vec::new() });
        groups.len() - 1
    });
    let versions = &mut groups[at].versions;
    if !versions.iter().any(|known| known.name == version) {
        versions.push(Version { name: version.to_owned(), stale, resources: Vec::new() });
        versions.sort_by_key(|version| std::cmp::Reverse(version_priority(&version.name)));
    }
    let at = versions.iter().position(|known| known.name == version);
    &mut versions[at.expect("it was added above")]
}

/// Upstream's order of version names: `v2`, `v1`, `v1beta2`, `v1alpha1`, then anything else
/// backwards through the alphabet.
pub fn version_priority(version: &str) -> (u8, u32, u32, std::cmp::Reverse<String>) {
    let other = (0, 0, 0, std::cmp::Reverse(version.to_owned()));
    let Some(rest) = version.strip_prefix('v') else { return other };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (major, rest) = rest.split_at(digits);
    let Ok(major) = major.parse::<u32>() else { return other };
    let known = |stage, minor: &str| {
        let minor = minor.parse().ok()?;
        Some((stage, major, minor, std::cmp::Reverse(String::new())))
    };
    let found = match rest {
        "" => known(3, "0"),
        _ => match (rest.strip_prefix("beta"), rest.strip_prefix("alpha")) {
            (Some(minor), _) => known(2, minor),
            (_, Some(minor)) => known(1, minor),
            _ => None,
        },
    };
    found.unwrap_or(other)
}

/// `storageVersionHash`: changes when the stored version does.
pub fn storage_hash(group: &str, version: &str, kind: &str) -> String {
    let text = format!("{group}/{version}/{kind}");
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    STANDARD.encode(&digest.as_ref()[..8])
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn builtin(resource: &api::resources::Resource) -> Resource {
    let stored = resource.has_verb("create") && resource.has_verb("get");
    let hash = || storage_hash(resource.storage_group, resource.hash_version, resource.kind);
    let subresource = |sub: &api::resources::Subresource| {
        let own = (sub.group, sub.version) == (resource.group, resource.version);
        Subresource {
            name: sub.name.to_owned(),
            group_version: (!own).then(|| (sub.group.to_owned(), sub.version.to_owned())),
            kind: sub.kind.to_owned(),
            verbs: owned(sub.verbs),
        }
    };
    Resource {
        plural: resource.plural.to_owned(),
        singular: resource.singular.to_owned(),
        kind: resource.kind.to_owned(),
        namespaced: resource.namespaced,
        verbs: owned(resource.verbs),
        short_names: owned(resource.short_names),
        categories: owned(resource.categories),
        storage_hash: stored.then(hash),
        subresources: resource.subresources.iter().map(subresource).collect(),
    }
}

/// `GET /api`. `address` is `host:port` of this server.
pub fn api_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `GET /apis`.
pub fn group_list(groups: &[Group]) -> Value {
    let named = groups.iter().filter(|group| !group.name.is_empty());
    let groups = named.map(|group| Value::Object(group_fields(group))).collect::<Vec<_>>();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `GET /apis/<group>`.
pub fn group(group: &Group) -> Value {
    let mut map = group_fields(group);
    map.insert("kind".to_owned(), "APIGroup".into());
    map.insert("apiVersion".to_owned(), "v1".into());
    Value::Object(map)
}

fn group_fields(group: &Group) -> Map<String, Value> {
    let version = |version: &Version| {
        let group_version = api::resources::api_version(&group.name, &version.name);
        json!({"groupVersion": group_version, "version": version.name})
    };
    let versions = group.versions.iter().map(version).collect::<Vec<_>>();
    let mut map = Map::new();
    map.insert("name".to_owned(), group.name.as_str().into());
    if let Some(preferred) = versions.first() {
        map.insert("preferredVersion".to_owned(), preferred.clone());
    }
    map.insert("versions".to_owned(), versions.into());
    map
}

/// `GET /api/v1` and `GET /apis/<group>/<version>`.
pub fn resource_list(group: &str, version: &Version) -> Value {
    let mut resources = Vec::new();
    for resource in &version.resources {
        resources.push(resource_entry(resource));
        for sub in &resource.subresources {
            resources.push(subresource_entry(resource, sub));
        }
    }
    let group_version = api::resources::api_version(group, &version.name);
    let mut list =
        json!({"kind": "APIResourceList", "groupVersion": group_version, "resources": resources});
    if let (false, Value::Object(map)) = (group.is_empty(), &mut list) {
        map.insert("apiVersion".to_owned(), "v1".into());
    }
    list
}

fn resource_entry(resource: &Resource) -> Value {
    let mut entry = json!({
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": resource.verbs,
    });
    if let Value::Object(map) = &mut entry {
        if !resource.short_names.is_empty() {
            map.insert("shortNames".to_owned(), json!(resource.short_names));
        }
        if !resource.categories.is_empty() {
            map.insert("categories".to_owned(), json!(resource.categories));
        }
        if let Some(hash) = &resource.storage_hash {
            map.insert("storageVersionHash".to_owned(), hash.as_str().into());
        }
    }
    entry
}

fn subresource_entry(resource: &Resource, sub: &Subresource) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", resource.plural, sub.name),
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": sub.kind,
        "verbs": sub.verbs,
    });
    if let (Value::Object(map), Some((group, version))) = (&mut entry, &sub.group_version) {
        map.insert("group".to_owned(), group.as_str().into());
        map.insert("version".to_owned(), version.as_str().into());
    }
    entry
}

/// Which of the two aggregated documents is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// `/api`
    Core,
    /// `/apis`
    Named,
}

/// `GET /api` or `/apis` with `Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList`.
/// The answer's content type is that text, and its ETag is `etag`.
pub fn aggregated(groups: &[Group], root: Root) -> Value {
    let wanted = |group: &&Group| group.name.is_empty() == (root == Root::Core);
    let items = groups.iter().filter(wanted).map(aggregated_group).collect::<Vec<_>>();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    })
}

/// The ETag of a rendered document: its SHA-512 in hex, quoted.
pub fn etag(document: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA512, document);
    let hex = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<String>();
    format!("\"{hex}\"")
}

fn aggregated_group(group: &Group) -> Value {
    let versions = group.versions.iter().map(|version| {
        let resources = version.resources.iter().map(aggregated_resource).collect::<Vec<_>>();
        let freshness = if version.stale { "Stale" } else { "Current" };
        json!({"version": version.name, "freshness": freshness, "resources": resources})
    });
    let metadata = match group.name.as_str() {
        "" => json!({}),
        name => json!({"name": name}),
    };
    json!({"metadata": metadata, "versions": versions.collect::<Vec<_>>()})
}

fn aggregated_resource(resource: &Resource) -> Value {
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": {"group": "", "version": "", "kind": resource.kind},
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    let subresource = |sub: &Subresource| {
        let (group, version) = match &sub.group_version {
            Some((group, version)) => (group.as_str(), version.as_str()),
            None => ("", ""),
        };
        json!({
            "subresource": sub.name,
            "responseKind": {"group": group, "version": version, "kind": sub.kind},
            "verbs": sub.verbs,
        })
    };
    if let Value::Object(map) = &mut entry {
        if !resource.short_names.is_empty() {
            map.insert("shortNames".to_owned(), json!(resource.short_names));
        }
        if !resource.categories.is_empty() {
            map.insert("categories".to_owned(), json!(resource.categories));
        }
        if !resource.subresources.is_empty() {
            let subs = resource.subresources.iter().map(subresource).collect::<Vec<_>>();
            map.insert("subresources".to_owned(), subs.into());
        }
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups() -> Vec<Group> {
        builtin_groups(|resource| resource.served_by_default)
    }

    #[test]
    fn groups_come_in_upstream_s_order() {
        let list = group_list(&groups());
        let names = list["groups"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap());
        let names = names.collect::<Vec<_>>();
        assert_eq!(names.len(), 20);
        assert_eq!(names[..3], ["apiregistration.k8s.io", "apps", "events.k8s.io"]);
        let autoscaling = groups().into_iter().find(|group| group.name == "autoscaling").unwrap();
        let group = group(&autoscaling);
        assert_eq!(group["preferredVersion"]["version"], "v2");
        assert_eq!(group["versions"][1]["groupVersion"], "autoscaling/v1");
    }

    #[test]
    fn resource_lists_are_upstream_s() {
        let core = groups().remove(0);
        let list = resource_list("", &core.versions[0]);
        assert!(list.get("apiVersion").is_none());
        let entry = |name: &str| {
            let entries = list["resources"].as_array().unwrap();
            entries.iter().find(|entry| entry["name"] == name).unwrap().clone()
        };
        assert_eq!(entry("configmaps")["storageVersionHash"], "qFsyl6wFWjQ=");
        assert!(entry("bindings").get("storageVersionHash").is_none());
        assert_eq!(
            entry("pods/eviction"),
            json!({"group": "policy", "kind": "Eviction", "name": "pods/eviction",
                "namespaced": true, "singularName": "", "verbs": ["create"], "version": "v1"})
        );
    }

    #[test]
    fn aggregated_discovery_splits_core_from_the_rest() {
        assert_eq!(aggregated(&groups(), Root::Core)["items"].as_array().unwrap().len(), 1);
        let named = aggregated(&groups(), Root::Named);
        assert_eq!(named["items"][1]["versions"][0]["resources"][2]["resource"], "deployments");
    }

    #[test]
    fn versions_are_preferred_as_upstream_does() {
        let mut versions = ["v1alpha1", "foo", "v1", "v1beta1", "v2", "v10", "bar", "v1beta2"];
        versions.sort_by_key(|version| std::cmp::Reverse(version_priority(version)));
        assert_eq!(versions, ["v10", "v2", "v1", "v1beta2", "v1beta1", "v1alpha1", "bar", "foo"]);
    }
}
