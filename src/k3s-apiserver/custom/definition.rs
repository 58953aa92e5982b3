//! From a CustomResourceDefinition to the kinds that it serves.

use std::borrow::Cow;
use std::sync::Arc;

use apimachinery::jsonpath::JsonPath;
use apimachinery::structural::{Rules, Structural, typed};
use serde_json::Value;

use super::convert::Converter;
use super::{Custom, ESTABLISHED, TERMINATING, print};
use crate::kinds::{Behaviour, Kind, Sub};
use crate::registry::value::{at, flag, has, key, list, text, texts};
use crate::registry::{Object, ScalePaths};

const VERBS: [&str; 8] =
    ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];

/// Is a condition of this type true?
pub(super) fn is(definition: &Object, condition: &str) -> bool {
    let conditions = list(definition, "status.conditions");
    conditions.iter().any(|c| c["type"] == condition && c["status"] == "True")
}

/// The served versions of an established definition.
pub fn kinds(definition: &Object) -> Vec<Arc<Kind>> {
    if !is(definition, ESTABLISHED) {
        return Vec::new();
    }
    let versions = list(definition, "spec.versions");
    let Some(stored) = versions.iter().find(|version| flag(version, "storage")) else {
        return Vec::new();
    };
    let served = versions.iter().filter(|version| flag(version, "served"));
    served.map(|version| Arc::new(kind(definition, version, stored))).collect()
}

fn schema(version: &Value) -> &Value {
    at(version, "schema.openAPIV3Schema")
}

fn kind(definition: &Object, version: &Value, stored: &Value) -> Kind {
    let spec = at(definition, "spec");
    let names = at(definition, "status.acceptedNames");
    let own = |value: &Value, path: &str| text(value, path).to_owned();
    let group = own(spec, "group");
    let name = own(version, "name");
    let plural = own(names, "plural");
    let api_version = format!("{group}/{name}");
    let storage_version = format!("{group}/{}", text(stored, "name"));
    let structural = Structural::read(schema(version));
    let (tables, ty) = typed(&structural);
    let storage = Structural::read(schema(stored));
    let resource = format!("{plural}.{group}");
    let kind = own(names, "kind");
    let has_status = has(version, "subresources.status");
    let scale = at(version, "subresources.scale");
    let mut subresources = Vec::new();
    let sub = |name: &str, group: &str, version: &str, kind: &str, ty| Sub {
        name: name.to_owned(),
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
        verbs: ["get", "patch", "update"].map(str::to_owned).to_vec(),
        ty,
    };
    if has_status {
        subresources.push(sub("status", &group, &name, &kind, Some(ty)));
    }
    if !scale.is_null() {
        let body = api::schema::kind("autoscaling", "v1", "Scale").map(|node| node.id);
        subresources.push(sub("scale", "autoscaling", "v1", "Scale", body));
    }
    let deprecation =
        flag(version, "deprecated").then(|| match text(version, "deprecationWarning") {
            "" => format!("{api_version} {kind} is deprecated"),
            text => text.to_owned(),
        });
    let many_stored = list(definition, "status.storedVersions").len() > 1;
    let owned = |path: &str| texts(names, path).map(str::to_owned).collect();
    let custom = Custom {
        resource: resource.clone(),
        kind: kind.clone(),
        api_version: api_version.clone(),
        storage_version: storage_version.clone(),
        completes_stored: many_stored || storage.has_defaults(),
        converter: Converter::read(definition),
        rules: Rules::read(&structural),
        schema: structural,
        storage,
        has_status,
        scale: (!scale.is_null()).then(|| scale_paths(scale)),
        columns: print::columns(version),
        selectable: list(version, "selectableFields")
            .iter()
            .filter_map(|field| {
                let path = text(field, "jsonPath");
                let name = path.trim_start_matches('.').to_owned();
                Some((name, JsonPath::parse(path)?))
            })
            .collect(),
        deprecation,
        terminating: is(definition, TERMINATING),
        singular: own(names, "singular"),
        short_names: owned("shortNames"),
        categories: owned("categories"),
        published: schema(version).clone(),
    };
    Kind {
        group,
        version: name,
        plural,
        kind,
        list_kind: own(names, "listKind"),
        namespaced: key(spec, "scope") == "Namespaced",
        verbs: VERBS.map(str::to_owned).to_vec(),
        subresources,
        api_version,
        storage_version,
        resource,
        schema: Cow::Owned(tables),
        ty,
        strategy: Behaviour::Custom(Box::new(custom)),
        builtin: None,
    }
}

fn scale_paths(scale: &Value) -> ScalePaths {
    let path = |name: &str| -> Vec<String> {
        let parsed = JsonPath::parse(text(scale, name));
        let fields = parsed.as_ref().and_then(JsonPath::fields);
        fields.unwrap_or_default().into_iter().map(str::to_owned).collect()
    };
    ScalePaths {
        replicas: path("specReplicasPath"),
        status_replicas: path("statusReplicasPath"),
        selector: path("labelSelectorPath"),
    }
}
