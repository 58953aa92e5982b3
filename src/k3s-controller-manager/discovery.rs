//! What resources the server has: each group's preferred version, for those who act on all of them.

use anyhow::{Context, Result};
use client::{Resource, Rest};
use serde::Deserialize;

/// A resource and its verbs.
#[derive(Clone, Debug)]
pub(crate) struct Discovered {
    pub resource: Resource,
    pub verbs: Vec<String>,
}

impl Discovered {
    pub(crate) fn has(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|verb| self.verbs.iter().any(|have| have == verb))
    }
}

/// Everything that could be discovered, and the group versions that could not.
pub(crate) struct Discovery {
    pub found: Vec<Discovered>,
    pub failed: Vec<String>,
}

#[derive(Deserialize)]
struct Groups {
    #[serde(default, deserialize_with = "client::null_default")]
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    name: String,
    #[serde(default)]
    versions: Vec<Version>,
    #[serde(default)]
    preferred_version: Option<Version>,
}

#[derive(Deserialize)]
struct Version {
    version: String,
}

#[derive(Deserialize)]
struct Resources {
    #[serde(default, deserialize_with = "client::null_default")]
    resources: Vec<ResourceEntry>,
}

#[derive(Deserialize)]
struct ResourceEntry {
    name: String,
    namespaced: bool,
    kind: String,
    #[serde(default, deserialize_with = "client::null_default")]
    verbs: Vec<String>,
}

/// Asks the server. A group that does not answer is reported, not fatal.
pub(crate) async fn discover(rest: &Rest) -> Result<Discovery> {
    let mut discovery = Discovery { found: Vec::new(), failed: Vec::new() };
    let core: Resources = rest.get_path("/api/v1").await.context("discovering the core group")?;
    discovery.add("", "v1", core);
    let groups: Groups = rest.get_path("/apis").await.context("discovering groups")?;
    for group in groups.groups {
        let mut versions: Vec<String> = Vec::new();
        versions.extend(group.preferred_version.map(|it| it.version));
        for version in group.versions {
            if !versions.contains(&version.version) {
                versions.push(version.version);
            }
        }
        for version in versions {
            match rest.get_path(&format!("/apis/{}/{version}", group.name)).await {
                Ok(resources) => discovery.add(&group.name, &version, resources),
                Err(err) => {
                    tracing::debug!(group = group.name, err = %err, "Group was not discovered");
                    discovery.failed.push(format!("{}/{version}", group.name));
                }
            }
        }
    }
    Ok(discovery)
}

/// The resources of one group version; none when the server does not have it.
pub(crate) async fn group_version(
    rest: &Rest,
    group: &str,
    version: &str,
) -> Result<Vec<Discovered>> {
    let path = match group {
        "" => format!("/api/{version}"),
        _ => format!("/apis/{group}/{version}"),
    };
    let mut discovery = Discovery { found: Vec::new(), failed: Vec::new() };
    match rest.get_path(&path).await {
        Ok(resources) => discovery.add(group, version, resources),
        Err(err) if client::is_not_found(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("discovering {group}/{version}")),
    }
    Ok(discovery.found)
}

impl Discovery {
    /// The first version that has a resource is the one that counts.
    fn add(&mut self, group: &str, version: &str, resources: Resources) {
        for entry in resources.resources {
            let known = self
                .found
                .iter()
                .any(|it| it.resource.group == group && it.resource.plural == entry.name);
            if known || entry.name.contains('/') {
                continue;
            }
            let resource = Resource {
                group: group.to_owned().into(),
                version: version.to_owned().into(),
                plural: entry.name.into(),
                kind: entry.kind.into(),
                namespaced: entry.namespaced,
            };
            self.found.push(Discovered { resource, verbs: entry.verbs });
        }
    }
}
