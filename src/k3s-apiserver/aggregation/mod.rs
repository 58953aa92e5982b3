//! Aggregated API servers: group versions that an APIService leaves to a server behind a Service.
//!
//! `plan` decides what the APIServices' status says, `controller` keeps that and what is known of
//! each server up to date, `proxy` hands requests on. Invariant: a request goes to a server only
//! while its APIService says Available.

pub mod controller;
mod plan;
pub mod proxy;

use std::sync::Arc;

use arc_swap::ArcSwap;
use serde_json::Value;

use crate::discovery;
use crate::registry::value::{flag, key, list, text, texts};
use crate::remote::Server;

/// A group version that another server answers for.
#[derive(Clone, Debug)]
pub struct Delegate {
    /// Of the APIService: `v1beta1.metrics.k8s.io`.
    pub name: String,
    pub group: String,
    pub version: String,
    pub server: Result<Server, String>,
    /// `groupPriorityMinimum`
    pub priority: i64,
    pub available: bool,
    /// What it serves, as it said last.
    pub resources: Vec<discovery::Resource>,
    /// The query of its OpenAPI v3 document: `hash=…`.
    pub openapi: Option<String>,
}

/// What is known of the servers, replaced as a whole.
#[derive(Debug, Default)]
pub struct Delegates(ArcSwap<Vec<Arc<Delegate>>>);

impl Delegates {
    /// The server of a group version, if it is another's.
    pub fn find(&self, group: &str, version: &str) -> Option<Arc<Delegate>> {
        let all = self.0.load();
        all.iter().find(|one| one.group == group && one.version == version).cloned()
    }

    pub fn all(&self) -> Arc<Vec<Arc<Delegate>>> {
        self.0.load_full()
    }

    /// Adds to discovery what the servers said; groups come in the order of their priority.
    pub fn discover(&self, groups: &mut Vec<discovery::Group>) {
        let all = self.0.load();
        if all.is_empty() {
            return;
        }
        for one in all.iter() {
            discovery::add_version(groups, &one.group, &one.version, !one.available);
            for resource in &one.resources {
                discovery::add(groups, &one.group, &one.version, resource.clone());
            }
        }
        let builtin = |name: &str| api::resources::all().iter().any(|one| one.group == name);
        groups.sort_by_key(|group| {
            let own = all.iter().filter(|one| one.group == group.name).map(|one| one.priority);
            let priority = if builtin(&group.name) { i64::MAX } else { own.max().unwrap_or(1000) };
            std::cmp::Reverse(priority)
        });
    }
}

/// The resources of an `APIResourceList`.
fn resources(listed: &Value) -> Vec<discovery::Resource> {
    let mut found: Vec<discovery::Resource> = Vec::new();
    let owned = |value: &Value, field: &str| texts(value, field).map(str::to_owned).collect();
    for one in list(listed, "resources").iter().filter(|one| !text(one, "name").contains('/')) {
        found.push(discovery::Resource {
            plural: text(one, "name").to_owned(),
            singular: text(one, "singularName").to_owned(),
            kind: text(one, "kind").to_owned(),
            namespaced: flag(one, "namespaced"),
            verbs: owned(one, "verbs"),
            short_names: owned(one, "shortNames"),
            categories: owned(one, "categories"),
            storage_hash: key(one, "storageVersionHash").as_str().map(str::to_owned),
            subresources: Vec::new(),
        });
    }
    for one in list(listed, "resources") {
        let Some((plural, name)) = text(one, "name").split_once('/') else { continue };
        let Some(resource) = found.iter_mut().find(|resource| resource.plural == plural) else {
            continue;
        };
        let version = text(one, "version");
        resource.subresources.push(discovery::Subresource {
            name: name.to_owned(),
            group_version: (!version.is_empty())
                .then(|| (text(one, "group").to_owned(), version.to_owned())),
            kind: text(one, "kind").to_owned(),
            verbs: owned(one, "verbs"),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_resources_of_a_server_join_discovery_by_their_priority() {
        let listed = json!({"resources": [
            {"name": "nodes", "kind": "NodeMetrics", "namespaced": false, "verbs": ["get"]},
            {"name": "nodes/status", "kind": "NodeMetrics", "verbs": ["get"]}]});
        let delegate = |priority: i64| Delegate {
            name: "v1.a.b".to_owned(),
            group: "a.b".to_owned(),
            version: "v1".to_owned(),
            server: Err(String::new()),
            priority,
            available: true,
            resources: resources(&listed),
            openapi: None,
        };
        let check = |priority: i64, want: [&str; 3]| {
            let delegates = Delegates::default();
            delegates.0.store(Arc::new(vec![Arc::new(delegate(priority))]));
            let group = |name: &str| discovery::Group { name: name.to_owned(), versions: vec![] };
            let mut groups = vec![group("apps"), group("custom.example.com")];
            delegates.discover(&mut groups);
            let names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
            assert_eq!(names, want);
            let own = groups.iter().find(|group| group.name == "a.b").unwrap();
            assert_eq!(own.versions[0].resources[0].subresources[0].name, "status");
        };
        check(2000, ["apps", "a.b", "custom.example.com"]);
        check(100, ["apps", "custom.example.com", "a.b"]);
    }
}
