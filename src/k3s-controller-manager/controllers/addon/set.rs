//! The objects of one AddOn in the cluster: applied, marked as its own, and pruned.
//!
//! Invariant: only objects that carry the AddOn's mark are ever deleted.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use client::{Key, PartialObject, Patch, Preconditions, Propagation, Resource, Rest, is_not_found};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{ADDONS, NAMESPACE, files};
use crate::discovery::{self, Discovered};

const HASH: &str = "objectset.rio.cattle.io/hash";
const MARK: &str = "objectset.rio.cattle.io";

/// Group, version and kind, as an AddOn's status lists them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Gvk {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) kind: String,
}

impl Gvk {
    pub(super) fn of(object: &Value) -> Self {
        let version = object["apiVersion"].as_str().unwrap_or_default();
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let kind = object["kind"].as_str().unwrap_or_default();
        Gvk { group: group.into(), version: version.into(), kind: kind.into() }
    }

    /// The resource, asked of the server; `None` when it has no such kind.
    async fn resource(&self, rest: &Rest) -> Result<Option<Resource>> {
        let known = discovery::group_version(rest, &self.group, &self.version).await?;
        let found = known.into_iter().find(|it: &Discovered| it.resource.kind == self.kind);
        Ok(found.map(|it| it.resource))
    }
}

/// The label value by which an AddOn's objects are found.
fn hash(name: &str) -> String {
    let text = format!("{}, Kind={}{NAMESPACE}{name}", ADDONS.api_version(), ADDONS.kind);
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Marks an object as the AddOn's.
fn mark(object: &mut Value, addon: &str) {
    let metadata = &mut object["metadata"];
    metadata["labels"][HASH] = json!(hash(addon));
    let gvk = format!("{}, Kind={}", ADDONS.api_version(), ADDONS.kind);
    for (part, value) in
        [("id", ""), ("owner-gvk", &gvk), ("owner-name", addon), ("owner-namespace", NAMESPACE)]
    {
        metadata["annotations"][format!("{MARK}/{part}")] = json!(value);
    }
}

/// Applies all objects and deletes what the AddOn had before and has no more.
pub(super) async fn apply(
    rest: &Rest,
    manager: &str,
    addon: &str,
    mut objects: Vec<Value>,
    before: &BTreeSet<Gvk>,
) -> Result<BTreeSet<Gvk>> {
    objects.sort_by_key(files::rank);
    let mut kept = BTreeSet::new();
    let mut kinds = BTreeSet::new();
    for mut object in objects {
        let gvk = Gvk::of(&object);
        let Some(resource) = gvk.resource(rest).await? else {
            bail!("no matches for kind {:?} in version {:?}", gvk.kind, object["apiVersion"]);
        };
        if resource.namespaced && object["metadata"]["namespace"].as_str().is_none_or(str::is_empty)
        {
            object["metadata"]["namespace"] = json!("default");
        }
        let text = |part: &str| object["metadata"][part].as_str().unwrap_or_default().to_owned();
        let namespace = if resource.namespaced { text("namespace") } else { String::new() };
        let key = Key::new(namespace, text("name"));
        mark(&mut object, addon);
        let answer = rest.patch(&resource, &key, "", Patch::Apply(manager), &object).await;
        let _: PartialObject =
            answer.with_context(|| format!("applying {} {key}", resource.kind))?;
        kept.insert((gvk.clone(), key));
        kinds.insert(gvk);
    }
    for gvk in before.union(&kinds) {
        prune(rest, addon, gvk, &kept).await?;
    }
    Ok(kinds)
}

/// Deletes every object of these kinds that the AddOn has.
pub(super) async fn remove(rest: &Rest, addon: &str, kinds: &BTreeSet<Gvk>) -> Result<()> {
    for gvk in kinds {
        prune(rest, addon, gvk, &BTreeSet::new()).await?;
    }
    Ok(())
}

async fn prune(rest: &Rest, addon: &str, gvk: &Gvk, kept: &BTreeSet<(Gvk, Key)>) -> Result<()> {
    let Some(resource) = gvk.resource(rest).await? else { return Ok(()) };
    let selector = format!("{HASH}={}", hash(addon));
    let query = [("labelSelector", selector.as_str())];
    let listed = rest.list::<PartialObject>(&resource, "", &query).await;
    let listed = listed.with_context(|| format!("listing {}", resource.plural))?;
    for object in listed.items {
        let meta = object.metadata;
        let key = meta.key();
        if kept.contains(&(gvk.clone(), key.clone())) || meta.is_deleting() {
            continue;
        }
        let when = Preconditions { uid: &meta.uid, ..Preconditions::default() };
        match rest.delete(&resource, &key, Propagation::Background, when).await {
            Ok(()) => {}
            Err(err) if is_not_found(&err) => {}
            Err(err) => {
                return Err(err).with_context(|| format!("deleting {} {key}", resource.kind));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_marked_with_their_addon() {
        let mut object =
            json!({"kind": "ConfigMap", "metadata": {"name": "x", "labels": {"a": "b"}}});
        mark(&mut object, "web");
        let metadata = &object["metadata"];
        assert_eq!(metadata["labels"]["a"], "b");
        assert_eq!(metadata["labels"][HASH].as_str().unwrap().len(), 40);
        assert_eq!(
            metadata["annotations"]["objectset.rio.cattle.io/owner-gvk"],
            "k3s.cattle.io/v1, Kind=Addon"
        );
        assert_ne!(hash("web"), hash("other"));
    }

    #[test]
    fn kinds_are_read_from_objects() {
        let gvk = Gvk::of(&json!({"apiVersion": "apps/v1", "kind": "Deployment"}));
        assert_eq!((gvk.group.as_str(), gvk.version.as_str()), ("apps", "v1"));
        assert_eq!(Gvk::of(&json!({"apiVersion": "v1", "kind": "Pod"})).group, "");
    }
}
