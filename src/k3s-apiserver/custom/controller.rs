//! Keeps the served kinds and the definitions' status equal to the definitions.
//!
//! One task, woken by the cache of definitions (and, while one is being deleted, by those of its
//! objects). Invariant: a kind is served before its definition says Established, and no longer when
//! its definition is gone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use apimachinery::status::Status;
use futures::future::select_all;
use jiff::Timestamp;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::plan::{Planned, cleaned, in_progress, plan};
use super::{definition, kinds};
use crate::api_server::ApiServer;
use crate::kinds::Kind;
use crate::registry::Object;
use crate::registry::value::text;
use crate::storage::entry::{Entry, encode};
use crate::storage::store::Store;
use crate::storage::write::{Change, Outcome};
use crate::verbs::write::{has_finalizers, is_deleting, meta_mut, time_text};

const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";
/// When to try again what failed.
const AGAIN: Duration = Duration::from_secs(5);

/// Kinds of earlier rounds, by the definition's uid, and what they were made of.
type Made = HashMap<String, (Object, Vec<Arc<Kind>>)>;

/// Runs until `stop`.
pub async fn run(server: Arc<ApiServer>, stop: CancellationToken) {
    let Some(definitions) = server.storage.store(DEFINITIONS) else { return };
    let mut made = Made::new();
    loop {
        // Asked for before the round, so that no change falls between.
        let mut changed = std::pin::pin!(definitions.changed.notified());
        changed.as_mut().enable();
        let round = round(&server, &definitions, &mut made).await;
        let again = match &round {
            Ok(left) => !left.is_empty(),
            Err(err) => {
                warn!(err = %err, "Could not settle custom resource definitions, retrying");
                true
            }
        };
        let left = round.unwrap_or_default();
        tokio::select! {
            () = stop.cancelled() => return,
            () = changed => {}
            () = any_changed(&left), if !left.is_empty() => {}
            () = tokio::time::sleep(AGAIN), if again => {}
        }
    }
}

/// Waits until one of the caches changes.
async fn any_changed(stores: &[Arc<Store>]) {
    select_all(stores.iter().map(|store| Box::pin(store.changed.notified()))).await;
}

/// Serves what is established, without writing anything: for the start.
pub fn load(server: &ApiServer) {
    let Some(definitions) = server.storage.store(DEFINITIONS) else { return };
    let all = definitions.list("");
    serve(server, &mut Made::new(), all.iter().map(|entry| entry.object()));
}

/// One round; returns the caches whose objects keep a definition from going.
async fn round(
    server: &ApiServer,
    definitions: &Store,
    made: &mut Made,
) -> Result<Vec<Arc<Store>>, Status> {
    if !server.storage.loaded() {
        return Ok(Vec::new());
    }
    let entries = definitions.list("");
    let now = Timestamp::now();
    let mut objects: Vec<(Object, Arc<Entry>)> =
        entries.into_iter().map(|entry| (entry.object(), entry)).collect();
    // Who came first has the name.
    objects.sort_by(|(a, _), (b, _)| {
        let created = |object: &Object| text(object, "metadata.creationTimestamp").to_owned();
        (created(a), text(a, "metadata.name")).cmp(&(created(b), text(b, "metadata.name")))
    });
    let (objects, entries): (Vec<Object>, Vec<Arc<Entry>>) = objects.into_iter().unzip();
    let planned = plan(objects, now);
    serve(server, made, planned.iter().map(|planned| planned.definition.clone()));
    let mut left = Vec::new();
    for (planned, entry) in planned.iter().zip(entries) {
        if planned.cleans {
            left.extend(clean(server, definitions, made, planned, &entry, now).await?);
        } else if planned.changed {
            put(server, definitions, &entry, &planned.definition).await?;
        }
    }
    Ok(left)
}

/// Puts the kinds of these definitions in place.
fn serve(server: &ApiServer, made: &mut Made, definitions: impl Iterator<Item = Object>) {
    let mut next = Made::new();
    for definition in definitions {
        let uid = text(&definition, "metadata.uid").to_owned();
        let same = |before: &Object| {
            before["spec"] == definition["spec"] && before["status"] == definition["status"]
        };
        let entry = match made.remove(&uid) {
            Some((before, kinds)) if same(&before) => (before, kinds),
            _ => {
                let kinds = kinds(&definition);
                for kind in &kinds {
                    server.storage.custom(&kind.group, &kind.plural);
                }
                (definition, kinds)
            }
        };
        next.insert(uid, entry);
    }
    server.kinds.set_custom(next.values().flat_map(|(_, kinds)| kinds.clone()).collect());
    *made = next;
}

/// Deletes the objects of a definition, and then the definition; returns the cache that still holds
/// some.
async fn clean(
    server: &ApiServer,
    definitions: &Store,
    made: &mut Made,
    planned: &Planned,
    entry: &Entry,
    now: Timestamp,
) -> Result<Option<Arc<Store>>, Status> {
    let definition = &planned.definition;
    let (group, plural) = (text(definition, "spec.group"), text(definition, "spec.names.plural"));
    // A definition that never got its names has no objects: they are another's.
    let served = definition::is(definition, super::ESTABLISHED);
    let store = server.storage.custom(group, plural);
    let mut waiting = false;
    for object in store.list("").into_iter().filter(|_| served) {
        waiting |= !remove(server, &store, &object, now).await?;
    }
    if waiting {
        let mut definition = definition.clone();
        in_progress(&mut definition, now);
        if definition != entry.object() {
            put(server, definitions, entry, &definition).await?;
        }
        return Ok(Some(store));
    }
    match cleaned(definition, now) {
        Some(left) => put(server, definitions, entry, &left).await?,
        None => {
            made.remove(text(definition, "metadata.uid"));
            let rest = made.values().flat_map(|(_, kinds)| kinds.clone()).collect();
            server.kinds.set_custom(rest);
            let path = format!("{}{}", definitions.prefix, entry.key);
            server.storage.write(&path, entry.revision, Change::Delete).await?;
        }
    }
    Ok(None)
}

/// Deletes one object, or marks it where finalizers hold it; says whether it is gone.
async fn remove(
    server: &ApiServer,
    store: &Store,
    entry: &Entry,
    now: Timestamp,
) -> Result<bool, Status> {
    let mut object = entry.object();
    let path = format!("{}{}", store.prefix, entry.key);
    if !has_finalizers(&object) {
        let outcome = server.storage.write(&path, entry.revision, Change::Delete).await?;
        return Ok(matches!(outcome, Outcome::Done(_)));
    }
    if !is_deleting(&object) {
        let meta = meta_mut(&mut object);
        meta.insert("deletionTimestamp".to_owned(), time_text(now).into());
        meta.insert("deletionGracePeriodSeconds".to_owned(), Value::from(0));
        let change = Change::Put { value: encode(&object).into(), lease: 0 };
        server.storage.write(&path, entry.revision, change).await?;
    }
    Ok(false)
}

/// Writes a definition; when another was quicker, the next round sees it.
async fn put(
    server: &ApiServer,
    store: &Store,
    entry: &Entry,
    definition: &Object,
) -> Result<(), Status> {
    let path = format!("{}{}", store.prefix, entry.key);
    let change = Change::Put { value: encode(definition).into(), lease: 0 };
    server.storage.write(&path, entry.revision, change).await.map(|_| ())
}
