//! OpenAPI v3: an index of group versions, and one document for each.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use api::resources::Resource;

use super::descriptions::describe;
use super::paths::{self, Described, root};
use super::schemas::{self, Bodies, Dialect, reach};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// `GET /openapi/v3`: where each document is. `documents` are paths without the leading slash
/// (`api/v1`, `apis/apps/v1`) with the hash of their text (`hash`).
pub fn index<'a>(documents: impl Iterator<Item = (&'a str, &'a str)>) -> Value {
    let mut paths = Map::new();
    for (path, hash) in documents {
        let url = format!("/openapi/v3/{path}?hash={hash}");
        paths.insert(path.to_owned(), json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

/// The hash that names a document's text: SHA-512 in hex, upper case.
pub fn hash(document: &[u8]) -> String {
    crate::discovery::etag(document).trim_matches('"').to_owned()
}

/// The path of a group version's document: `api/v1`, `apis/apps/v1`.
pub fn path(group: &str, version: &str) -> String {
    root(group, version).trim_start_matches('/').to_owned()
}

/// `GET /openapi/v3/apis/<group>/<version>` for a built-in group version; `None` where it has no
/// resource that `served` lets through.
pub fn document(group: &str, version: &str, served: impl Fn(&Resource) -> bool) -> Option<Value> {
    let mut document = bare(group, version, served)?;
    if let Some(Value::Object(schemas)) = document.pointer_mut("/components/schemas") {
        describe(schemas);
    }
    Some(document)
}

/// What names a document in the index without rendering all of it: it changes whenever the
/// document does, since descriptions only change with the release.
pub fn fingerprint(
    group: &str,
    version: &str,
    served: impl Fn(&Resource) -> bool,
) -> Option<String> {
    let text = bare(group, version, served)?.to_string();
    Some(hash(format!("{} {text}", env!("CARGO_PKG_VERSION")).as_bytes()))
}

/// A document without descriptions.
fn bare(group: &str, version: &str, served: impl Fn(&Resource) -> bool) -> Option<Value> {
    let ours = |r: &&Resource| r.group == group && r.version == version && served(r);
    let resources = api::resources::all().iter().filter(ours).collect::<Vec<_>>();
    if resources.is_empty() {
        return None;
    }
    let mut types = BTreeSet::new();
    let bodies = reachable(&resources, &mut types);
    let schemas = schemas::schemas(&types, bodies, Dialect::V3);
    let described: Vec<_> = resources.iter().map(|resource| Described::from(*resource)).collect();
    let paths = paths::paths(group, version, &described, Dialect::V3);
    Some(wrap(schemas, paths))
}

/// A whole document.
pub fn wrap(schemas: Map<String, Value>, paths: Map<String, Value>) -> Value {
    let scheme = json!({"BearerToken": {"type": "apiKey", "description": "Bearer Token authentication", "name": "authorization", "in": "header"}});
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": version()},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": scheme},
    })
}

/// What the documents call the release; the recorded server says `1.36`.
pub(super) fn version() -> &'static str {
    "1.36"
}

/// Adds every type that the operations of these resources mention.
pub(super) fn reachable(resources: &[&Resource], types: &mut BTreeSet<u16>) -> Bodies {
    let schema = api::schema::builtin();
    let mut meta = |name: &str| {
        if let Some(node) = api::schema::definition(&format!("{META}{name}")) {
            reach(node, types);
        }
    };
    meta("APIResourceList");
    let has = |verb: &str| resources.iter().any(|resource| resource.has_verb(verb));
    if has("watch") {
        meta("WatchEvent");
    }
    if has("delete") || has("deletecollection") {
        meta("DeleteOptions");
        meta("Status");
    }
    for resource in resources {
        reach(schema.node(resource.ty), types);
        let list = resource.list_ty.into_iter();
        for ty in list.chain(resource.subresources.iter().filter_map(|sub| sub.ty)) {
            reach(schema.node(ty), types);
        }
    }
    let sub_patch = |r: &&Resource| r.subresources.iter().any(|sub| sub.verbs.contains(&"patch"));
    match has("patch") || resources.iter().any(sub_patch) {
        true => Bodies::WithPatch,
        false => Bodies::NoPatch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document_of(group: &str, version: &str) -> Value {
        bare(group, version, |resource| resource.served_by_default).unwrap()
    }

    #[test]
    fn fields_carry_their_extensions() {
        let core = document_of("", "v1");
        let schemas = &core["components"]["schemas"];
        let container = &schemas["io.k8s.api.core.v1.Container"]["properties"];
        assert_eq!(
            container["ports"],
            json!({"items": {"$ref": "#/components/schemas/io.k8s.api.core.v1.ContainerPort"},
                "type": "array", "x-kubernetes-list-map-keys": ["containerPort", "protocol"],
                "x-kubernetes-list-type": "map", "x-kubernetes-patch-merge-key": "containerPort",
                "x-kubernetes-patch-strategy": "merge"})
        );
        assert_eq!(container["name"], json!({"type": "string", "default": ""}));
        let map = &schemas["io.k8s.api.core.v1.ConfigMap"];
        assert_eq!(
            map["x-kubernetes-group-version-kind"],
            json!([{"group": "", "kind": "ConfigMap", "version": "v1"}])
        );
    }

    #[test]
    fn every_reference_leads_to_a_schema() {
        fn check(value: &Value, document: &Value) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(target)) = map.get("$ref") {
                        let pointer = target.trim_start_matches('#');
                        assert!(document.pointer(pointer).is_some(), "{target}");
                    }
                    map.values().for_each(|item| check(item, document));
                }
                Value::Array(items) => items.iter().for_each(|item| check(item, document)),
                _ => {}
            }
        }
        for resource in api::resources::all() {
            let document = bare(resource.group, resource.version, |_| true).unwrap();
            check(&document, &document);
        }
    }

    #[test]
    fn a_patch_says_that_it_takes_field_validation() {
        let apps = document_of("apps", "v1");
        let patch =
            &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
        let parameters = patch["parameters"].as_array().unwrap();
        assert!(parameters.iter().any(|p| p["name"] == "fieldValidation" && p["in"] == "query"));
    }
}
