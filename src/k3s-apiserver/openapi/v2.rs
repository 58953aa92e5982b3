//! OpenAPI v2: one document for everything that is built in.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use api::resources::Resource;

use super::descriptions::describe;
use super::paths::{self, Described};
use super::schemas::{self, Dialect, reach};
use super::v3;

/// Definitions that only the unversioned paths (`/api`, `/apis`, `/version`) mention.
const ROOT_TYPES: &[&str] = &[
    "io.k8s.apimachinery.pkg.apis.meta.v1.APIGroup",
    "io.k8s.apimachinery.pkg.apis.meta.v1.APIGroupList",
    "io.k8s.apimachinery.pkg.apis.meta.v1.APIVersions",
    "io.k8s.apimachinery.pkg.version.Info",
];

/// `GET /openapi/v2`.
pub fn document(served: impl Fn(&Resource) -> bool) -> Value {
    let resources = api::resources::all().iter().filter(|r| served(r)).collect::<Vec<_>>();
    let mut types = BTreeSet::new();
    let bodies = v3::reachable(&resources, &mut types);
    for node in ROOT_TYPES.iter().filter_map(|name| api::schema::definition(name)) {
        reach(node, &mut types);
    }
    let mut versions = resources.iter().map(|r| (r.group, r.version)).collect::<Vec<_>>();
    versions.dedup();
    let mut all = Map::new();
    for (group, version) in versions {
        let ours = |r: &&&Resource| (r.group, r.version) == (group, version);
        let ours = resources.iter().filter(ours);
        let ours = ours.map(|resource| Described::from(*resource)).collect::<Vec<_>>();
        all.extend(paths::paths(group, version, &ours, Dialect::V2));
    }
    let mut definitions = schemas::schemas(&types, bodies, Dialect::V2);
    describe(&mut definitions);
    let security = json!({"BearerToken": {"description": "Bearer Token authentication", "in": "header", "name": "authorization", "type": "apiKey"}});
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": v3::version()},
        "paths": all,
        "definitions": definitions,
        "securityDefinitions": security,
        "security": [{"BearerToken": []}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_named_and_referred_to() {
        let document = document(|resource| resource.served_by_default);
        let definitions = document["definitions"].as_object().unwrap();
        assert!(definitions.contains_key("io.k8s.api.core.v1.Pod"));
        assert!(definitions.contains_key("io.k8s.apimachinery.pkg.apis.meta.v1.Patch"));
        let spec = &definitions["io.k8s.api.core.v1.Pod"]["properties"]["spec"]["$ref"];
        assert_eq!(spec, "#/definitions/io.k8s.api.core.v1.PodSpec");
    }
}
