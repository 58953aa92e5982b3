//! Reading and writing what every object carries: names, labels, owners, versions.
//!
//! Readers never fail: a missing or mistyped value is the empty one, as Go's zero values are.

use std::fmt::{self, Display};

use serde_json::{Map, Value};

/// Namespace and name; the namespace is empty for cluster-scoped objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

/// Group, version and kind of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct GroupVersionKind {
    pub group: String,
    pub version: String,
    pub kind: String,
}

/// Group, version and plural of a resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct GroupVersionResource {
    pub group: String,
    pub version: String,
    pub resource: String,
}

/// An owner reference, borrowed from its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerReference<'a> {
    pub api_version: &'a str,
    pub kind: &'a str,
    pub name: &'a str,
    pub uid: &'a str,
    pub controller: bool,
    pub block_owner_deletion: bool,
}

impl Key {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object.
    pub fn of(object: &Value) -> Self {
        Self::new(namespace(object), name(object))
    }
}

impl Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

impl GroupVersionKind {
    pub fn new(group: &str, version: &str, kind: &str) -> Self {
        Self { group: group.to_owned(), version: version.to_owned(), kind: kind.to_owned() }
    }

    /// What the object says of itself.
    pub fn of(object: &Value) -> Self {
        let (group, version) = split_api_version(str_at(object, "apiVersion"));
        Self::new(group, version, str_at(object, "kind"))
    }

    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        api::resources::api_version(&self.group, &self.version)
    }
}

impl Display for GroupVersionKind {
    /// As upstream prints it: `apps/v1, Kind=Deployment`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}, Kind={}", self.group, self.version, self.kind)
    }
}

impl GroupVersionResource {
    pub fn new(group: &str, version: &str, resource: &str) -> Self {
        Self { group: group.to_owned(), version: version.to_owned(), resource: resource.to_owned() }
    }
}

impl Display for GroupVersionResource {
    /// As upstream prints it: `apps/v1, Resource=deployments`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}, Resource={}", self.group, self.version, self.resource)
    }
}

/// `apps/v1` → (`apps`, `v1`); `v1` → (``, `v1`).
pub fn split_api_version(text: &str) -> (&str, &str) {
    text.split_once('/').unwrap_or(("", text))
}

/// `deployments.apps`, or the resource alone in the core group.
pub fn group_resource(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

fn str_at<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn meta_str<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get("metadata").map(|meta| str_at(meta, key)).unwrap_or_default()
}

pub fn api_version(object: &Value) -> &str {
    str_at(object, "apiVersion")
}

pub fn kind(object: &Value) -> &str {
    str_at(object, "kind")
}

pub fn name(object: &Value) -> &str {
    meta_str(object, "name")
}

pub fn generate_name(object: &Value) -> &str {
    meta_str(object, "generateName")
}

pub fn namespace(object: &Value) -> &str {
    meta_str(object, "namespace")
}

pub fn uid(object: &Value) -> &str {
    meta_str(object, "uid")
}

pub fn resource_version(object: &Value) -> &str {
    meta_str(object, "resourceVersion")
}

pub fn creation_timestamp(object: &Value) -> &str {
    meta_str(object, "creationTimestamp")
}

/// Present once deletion has been asked for.
pub fn deletion_timestamp(object: &Value) -> Option<&str> {
    let text = meta_str(object, "deletionTimestamp");
    (!text.is_empty()).then_some(text)
}

pub fn deletion_grace_period_seconds(object: &Value) -> Option<i64> {
    object.get("metadata")?.get("deletionGracePeriodSeconds")?.as_i64()
}

pub fn generation(object: &Value) -> i64 {
    let generation = object.get("metadata").and_then(|meta| meta.get("generation"));
    generation.and_then(Value::as_i64).unwrap_or_default()
}

pub fn labels(object: &Value) -> Option<&Map<String, Value>> {
    object.get("metadata")?.get("labels")?.as_object()
}

pub fn annotations(object: &Value) -> Option<&Map<String, Value>> {
    object.get("metadata")?.get("annotations")?.as_object()
}

pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    labels(object)?.get(key)?.as_str()
}

pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    annotations(object)?.get(key)?.as_str()
}

fn meta_list<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    let list = object.get("metadata").and_then(|meta| meta.get(key)).and_then(Value::as_array);
    list.map_or(&[], Vec::as_slice)
}

pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    meta_list(object, "finalizers").iter().filter_map(Value::as_str)
}

pub fn owner_references(object: &Value) -> impl Iterator<Item = OwnerReference<'_>> {
    let flag = |owner: &Value, key: &str| owner.get(key).and_then(Value::as_bool) == Some(true);
    meta_list(object, "ownerReferences").iter().map(move |owner| OwnerReference {
        api_version: str_at(owner, "apiVersion"),
        kind: str_at(owner, "kind"),
        name: str_at(owner, "name"),
        uid: str_at(owner, "uid"),
        controller: flag(owner, "controller"),
        block_owner_deletion: flag(owner, "blockOwnerDeletion"),
    })
}

/// The owner with `controller: true`.
pub fn controller(object: &Value) -> Option<OwnerReference<'_>> {
    owner_references(object).find(|owner| owner.controller)
}

/// The metadata, made where it is missing or is no object.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    map_mut(object, "metadata")
}

/// The object at a key, made where it is missing or is no object.
pub fn map_mut<'a>(object: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    let parent = force_map(object);
    let entry = parent.entry(key).or_insert_with(|| Value::Object(Map::new()));
    force_map(entry)
}

fn force_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("was made an object above"),
    }
}

/// Sets one metadata field.
pub fn set(object: &mut Value, key: &str, value: impl Into<Value>) {
    metadata_mut(object).insert(key.to_owned(), value.into());
}

/// Removes one metadata field.
pub fn unset(object: &mut Value, key: &str) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.remove(key)
}

pub fn set_api_version_and_kind(object: &mut Value, api_version: &str, kind: &str) {
    let map = force_map(object);
    map.insert("apiVersion".to_owned(), api_version.into());
    map.insert("kind".to_owned(), kind.into());
}

pub fn set_label(object: &mut Value, key: &str, value: &str) {
    let metadata = metadata_mut(object);
    let labels = metadata.entry("labels").or_insert_with(|| Value::Object(Map::new()));
    force_map(labels).insert(key.to_owned(), value.into());
}

pub fn set_annotation(object: &mut Value, key: &str, value: &str) {
    let metadata = metadata_mut(object);
    let annotations = metadata.entry("annotations").or_insert_with(|| Value::Object(Map::new()));
    force_map(annotations).insert(key.to_owned(), value.into());
}

/// The value at a path of object keys (`["spec", "template", "spec"]`).
pub fn get<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, key| value.get(key))
}

/// The string at a path, empty when there is none.
pub fn get_str<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    get(object, path).and_then(Value::as_str).unwrap_or_default()
}

/// The list at a path, empty when there is none.
pub fn get_list<'a>(object: &'a Value, path: &[&str]) -> &'a [Value] {
    get(object, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The place at a path of object keys; objects on the way are made.
pub fn place<'a>(object: &'a mut Value, path: &[&str]) -> &'a mut Value {
    let mut at = object;
    for key in path {
        at = force_map(at).entry(*key).or_insert(Value::Null);
    }
    at
}

/// Takes the value at a path of object keys away.
pub fn take(object: &mut Value, path: &[&str]) -> Option<Value> {
    let (last, parents) = path.split_last()?;
    let parent = parents.iter().try_fold(object, |value, key| value.get_mut(key))?;
    parent.as_object_mut()?.remove(*last)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn readers_survive_any_shape() {
        for object in [json!(null), json!([]), json!({"metadata": 3}), json!({"metadata": {}})] {
            assert_eq!(name(&object), "");
            assert_eq!(generation(&object), 0);
            assert_eq!(finalizers(&object).count(), 0);
            assert!(controller(&object).is_none());
        }
    }

    #[test]
    fn paths_are_made_and_taken() {
        let mut object = json!({"spec": null});
        *place(&mut object, &["spec", "a", "b"]) = json!(1);
        assert_eq!(object, json!({"spec": {"a": {"b": 1}}}));
        assert_eq!(take(&mut object, &["spec", "a", "b"]), Some(json!(1)));
        assert_eq!(take(&mut object, &["x", "y"]), None);
        set_label(&mut object, "l", "1");
        assert_eq!(label(&object, "l"), Some("1"));
    }
}
