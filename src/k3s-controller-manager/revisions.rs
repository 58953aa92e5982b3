//! ControllerRevisions: the history of a DaemonSet or StatefulSet as data that can be applied again.
//!
//! Invariant: the newest revision of an owner has the data of its current template.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::{Context, Result, bail};
use client::{
    Key, Labels, Meta, Patch, Preconditions, Propagation, Raw, Resource, is_already_exists,
    is_not_found,
};
use serde_json::{Value, json};

use crate::{
    Cx, caches::REVISIONS, hash::template_hash, ownership::controller_ref, types::apps::Revision,
};

/// Upstream's label with the revision's hash, on revisions and pods.
pub(crate) const HASH: &str = "controller-revision-hash";
const HISTORY: usize = 10;

/// Whose revisions these are.
pub(crate) struct Of<'a> {
    pub resource: &'a Resource,
    pub meta: &'a Meta,
    pub template: Option<&'a Raw>,
    pub labels: &'a Labels,
    pub collisions: Option<i32>,
}

/// The revision of the current template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Current {
    pub name: String,
    pub hash: String,
}

/// The template as a revision's data.
fn data(template: Option<&Raw>) -> Result<Value> {
    let mut template: Value = match template {
        Some(raw) => serde_json::from_str(raw.get()).context("parsing the pod template")?,
        None => json!({}),
    };
    template["$patch"] = json!("replace");
    Ok(json!({"spec": {"template": template}}))
}

fn same(revision: &Revision, data: &Value) -> bool {
    let known =
        revision.data.as_ref().and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok());
    known.as_ref() == Some(data)
}

/// The owner's revisions, oldest first.
pub(crate) fn list(cx: &Cx, uid: &str) -> Vec<Arc<Revision>> {
    let mut found = cx.caches.revisions.lister().by_index(cx.caches.revisions_by_owner, uid);
    found.sort_by_key(|it| (it.revision, it.metadata.created(), it.metadata.name.clone()));
    found
}

/// Makes sure that the current template has the newest revision.
pub(crate) async fn current(cx: &Cx, of: &Of<'_>) -> Result<Current> {
    let data = data(of.template)?;
    let known = list(cx, &of.meta.uid);
    let newest = known.iter().map(|it| it.revision).max().unwrap_or(0);
    if let Some(revision) = known.iter().rev().find(|it| same(it, &data)) {
        if revision.revision < newest {
            renumber(cx, revision, newest + 1).await?;
        }
        let hash = revision.metadata.labels.get(HASH).cloned().unwrap_or_default();
        return Ok(Current { name: revision.metadata.name.clone(), hash });
    }
    let hash = template_hash(&data, of.collisions);
    let name = format!("{}-{hash}", of.meta.name);
    let mut labels = of.labels.clone();
    labels.insert(HASH.into(), hash.clone());
    let body = json!({
        "apiVersion": "apps/v1", "kind": "ControllerRevision",
        "metadata": {
            "name": name, "namespace": of.meta.namespace, "labels": labels,
            "ownerReferences": [controller_ref(of.resource, of.meta)],
        },
        "data": data, "revision": newest + 1,
    });
    match cx.rest.create::<Revision>(&REVISIONS, &of.meta.namespace, &body).await {
        Ok(revision) => cx.caches.revisions.observe(revision),
        Err(err) if is_already_exists(&err) => return collide(cx, of, &name, &data).await,
        Err(err) => return Err(err).with_context(|| format!("creating revision {name}")),
    }
    Ok(Current { name, hash })
}

async fn collide(cx: &Cx, of: &Of<'_>, name: &str, data: &Value) -> Result<Current> {
    let key = Key::new(&of.meta.namespace, name);
    let live: Revision = cx.rest.get(&REVISIONS, &key).await?;
    if same(&live, data) {
        let hash = live.metadata.labels.get(HASH).cloned().unwrap_or_default();
        cx.caches.revisions.observe(live);
        return Ok(Current { name: name.to_owned(), hash });
    }
    let count = of.collisions.unwrap_or(0) + 1;
    let body = json!({"status": {"collisionCount": count}});
    let at = of.meta.key();
    let _: client::PartialObject =
        cx.rest.patch(of.resource, &at, "status", Patch::Merge, &body).await?;
    bail!("revision name {name} is taken, trying another")
}

async fn renumber(cx: &Cx, revision: &Revision, number: i64) -> Result<()> {
    let key = revision.metadata.key();
    let body = json!({"revision": number});
    let updated: Revision = cx
        .rest
        .patch(&REVISIONS, &key, "", Patch::Merge, &body)
        .await
        .with_context(|| format!("renumbering revision {key}"))?;
    cx.caches.revisions.observe(updated);
    Ok(())
}

/// Deletes the oldest revisions that nothing uses, beyond the limit. `used` has what pods carry as
/// [`HASH`]: the hashes of revisions, or their names.
pub(crate) async fn clean_up(
    cx: &Cx,
    uid: &str,
    used: &BTreeSet<String>,
    limit: Option<i32>,
) -> Result<()> {
    let limit = limit.and_then(|it| usize::try_from(it).ok()).unwrap_or(HISTORY);
    let unused: Vec<Arc<Revision>> = list(cx, uid)
        .into_iter()
        .filter(|it| {
            let hash = it.metadata.labels.get(HASH);
            !used.contains(&it.metadata.name) && hash.is_none_or(|hash| !used.contains(hash))
        })
        .collect();
    for revision in unused.iter().take(unused.len().saturating_sub(limit)) {
        let key = revision.metadata.key();
        let when = Preconditions { uid: &revision.metadata.uid, ..Preconditions::default() };
        match cx.rest.delete(&REVISIONS, &key, Propagation::Background, when).await {
            Ok(()) => cx.caches.revisions.observe_deleted(&key, &revision.metadata.uid),
            Err(err) if is_not_found(&err) => {}
            Err(err) => return Err(err).with_context(|| format!("deleting revision {key}")),
        }
    }
    Ok(())
}

/// The template of a revision.
pub(crate) fn template(revision: &Revision) -> Option<Value> {
    let data: Value = serde_json::from_str(revision.data.as_ref()?.get()).ok()?;
    let mut template = data.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    Some(template)
}
