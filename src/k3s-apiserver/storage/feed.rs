//! Keeps the caches equal to the store: one load, then one watch on everything.
//!
//! Survives restarts of the store: the watch resumes after the last revision it delivered; where
//! that is compacted, everything is loaded again and watchers are told to start over.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use etcd::etcdserverpb::{RangeRequest, WatchCreateRequest};
use etcd::mvccpb::{Event, EventType, KeyValue};
use etcd::{Watch, prefix_end};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Storage;
use super::entry::Entry;
use super::keys::ROOT;
use super::store::Store;

/// Objects read at once while loading.
const PAGE: i64 = 1000;
/// Pause after a failure: the client has waited for the store already.
const PAUSE: Duration = Duration::from_millis(100);

/// Feeds the caches until `stop`.
pub async fn run(storage: Arc<Storage>, stop: CancellationToken) {
    loop {
        let err = tokio::select! {
            () = stop.cancelled() => return,
            ended = follow(&storage) => ended.err(),
        };
        if let Some(err) = err {
            warn!(err = %format_args!("{err:#}"), "Lost the store, loading again");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Loads everything, then applies events. Returns when everything must be loaded again.
async fn follow(storage: &Storage) -> anyhow::Result<()> {
    let revision = load(storage).await?;
    let mut watch = storage
        .client
        .watch(WatchCreateRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            start_revision: revision + 1,
            fragment: true,
            ..WatchCreateRequest::default()
        })
        .await
        .context("watch the store")?;
    if watch.created_revision() < revision {
        bail!("the store went back from revision {revision} to {}", watch.created_revision());
    }
    apply_all(storage, &mut watch).await
}

async fn apply_all(storage: &Storage, watch: &mut Watch) -> anyhow::Result<()> {
    loop {
        let response = match watch.next().await {
            Ok(response) => response,
            Err(status) if status.code == etcd::Code::Unavailable => {
                warn!(err = %status, "Waiting for the store");
                continue;
            }
            Err(status) => return Err(status.into()),
        };
        let header = response.header.map_or(0, |header| header.revision);
        if header < storage.revision() {
            bail!("the store went back from revision {} to {header}", storage.revision());
        }
        let last = response.events.last().and_then(|event| event.kv.as_ref());
        let revision = match last {
            Some(kv) => kv.mod_revision,
            None if response.is_progress_notify() => header,
            None => continue,
        };
        let mut changed: Vec<Arc<Store>> = Vec::new();
        for event in response.events {
            if let Some(store) = apply(storage, event)
                && !changed.iter().any(|have| Arc::ptr_eq(have, &store))
            {
                changed.push(store);
            }
        }
        storage.applied.send_replace(revision.max(storage.revision()));
        for store in changed {
            store.changed.notify_waiters();
        }
    }
}

/// Applies one event; returns the cache it belongs to.
fn apply(storage: &Storage, event: Event) -> Option<Arc<Store>> {
    let deleted = event.r#type == EventType::Delete as i32;
    let kv = event.kv?;
    let (store, key) = route(storage, &kv.key)?;
    if deleted {
        let mut state = store.write();
        let last = state.items.get(key)?.at_revision(kv.mod_revision);
        state.remove(Arc::new(last));
    } else {
        let entry = parse(&store, key, &kv)?;
        store.write().put(Arc::new(entry));
    }
    Some(store)
}

fn parse(store: &Store, key: &str, kv: &KeyValue) -> Option<Entry> {
    match Entry::parse(key, kv.mod_revision, &kv.value, store.selectable) {
        Ok(entry) => Some(entry),
        Err(err) => {
            warn!(resource = store.resource, key, err = %format_args!("{err:#}"),
                "Skipped an unreadable object in the store");
            None
        }
    }
}

/// The cache of a key of the store, and the object's key in it.
fn route<'k>(storage: &Storage, key: &'k [u8]) -> Option<(Arc<Store>, &'k str)> {
    let path = std::str::from_utf8(key).ok()?.strip_prefix(ROOT)?;
    let first = path.find('/')? + 1;
    if let Some(store) = storage.by_folder.get(&path[..first]) {
        return Some((store.clone(), &path[first..]));
    }
    let second = first + path[first..].find('/')? + 1;
    if let Some(store) = storage.by_folder.get(&path[..second]) {
        return Some((store.clone(), &path[second..]));
    }
    // Groups of custom resources are domain names, and no folder of ours is.
    let (group, plural) = (&path[..first - 1], &path[first..second - 1]);
    group.contains('.').then(|| (storage.custom(group, plural), &path[second..]))
}

/// Reads every object at one revision and puts it in place of what the caches have.
async fn load(storage: &Storage) -> anyhow::Result<i64> {
    let mut all: HashMap<String, BTreeMap<Arc<str>, Arc<Entry>>> = HashMap::new();
    let mut from = Bytes::from_static(ROOT.as_bytes());
    let mut revision = 0;
    loop {
        let request = RangeRequest {
            key: from.clone(),
            range_end: prefix_end(ROOT.as_bytes()),
            limit: PAGE,
            revision,
            ..RangeRequest::default()
        };
        let answer = storage.client.range(request).await.context("load the store")?;
        if revision == 0 {
            revision = answer.header.map_or(0, |header| header.revision);
        }
        let Some(last) = answer.kvs.last() else { break };
        from = [last.key.as_ref(), b"\0"].concat().into();
        for kv in &answer.kvs {
            if let Some((store, key)) = route(storage, &kv.key)
                && let Some(entry) = parse(&store, key, kv)
            {
                let items = all.entry(store.resource.clone()).or_default();
                items.insert(entry.key.clone(), Arc::new(entry));
            }
        }
        if !answer.more {
            break;
        }
    }
    storage.loaded_at.store(revision, Ordering::Release);
    let objects: usize = all.values().map(BTreeMap::len).sum();
    for store in storage.stores() {
        store.write().reset(all.remove(&store.resource).unwrap_or_default(), revision);
        store.changed.notify_waiters();
    }
    storage.applied.send_replace(revision.max(1));
    info!(revision, objects, "Loaded the store");
    Ok(revision)
}
