//! OpenAPI v2: one document for everything that is built in.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE;
use ring::digest::{SHA256, digest};
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
    let parameters = share(&mut all);
    let security = json!({"BearerToken": {"description": "Bearer Token authentication", "in": "header", "name": "authorization", "type": "apiKey"}});
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": v3::version()},
        "paths": all,
        "definitions": definitions,
        "parameters": parameters,
        "securityDefinitions": security,
        "security": [{"BearerToken": []}],
    })
}

/// Takes out the parameters that stand in several places, and leaves references to them.
fn share(paths: &mut Map<String, Value>) -> Map<String, Value> {
    let mut counts = BTreeMap::<String, usize>::new();
    each(paths, |parameter| *counts.entry(parameter.to_string()).or_default() += 1);
    let mut shared = Map::new();
    each(paths, |parameter| {
        let text = parameter.to_string();
        if counts.get(&text).is_none_or(|count| *count < 2) {
            return;
        }
        let hash = BASE64_URL_SAFE.encode(&digest(&SHA256, text.as_bytes()).as_ref()[..6]);
        let name = format!("{}-{hash}", parameter["name"].as_str().unwrap_or("param"));
        let reference = json!({"$ref": format!("#/parameters/{name}")});
        shared.insert(name, std::mem::replace(parameter, reference));
    });
    shared
}

fn each(paths: &mut Map<String, Value>, mut see: impl FnMut(&mut Value)) {
    for item in paths.values_mut().filter_map(Value::as_object_mut) {
        for (key, value) in item {
            let list = match key.as_str() {
                "parameters" => Some(value),
                _ => value.get_mut("parameters"),
            };
            list.and_then(Value::as_array_mut).into_iter().flatten().for_each(&mut see);
        }
    }
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
        let list = &document["paths"]["/api/v1/namespaces/{namespace}/pods"]["get"]["parameters"];
        let targets: Vec<_> = list.as_array().unwrap().iter().map(|p| &p["$ref"]).collect();
        assert!(!targets.is_empty());
        for target in targets {
            let pointer = target.as_str().unwrap().trim_start_matches('#');
            assert_eq!(document.pointer(pointer).unwrap()["in"], "query", "{target}");
        }
    }
}
