//! A reflector: one resource, listed and then watched for ever, kept as the component's own structs.
//!
//! The initial state is streamed (`sendInitialEvents`) where the server can do that, so that the
//! memory needed is that of the trimmed structs and never that of the whole list; otherwise it is
//! listed in chunks. Handlers run in the reflector's task and must only enqueue.
//!
//! Invariant: after [`Reflector::synced`] the lister never goes back to being empty; a relist only
//! reports the differences.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    follow::{Change, Follower, Seen, Sink},
    meta::{HasMeta, Key},
    resource::Resource,
    rest::{Error, Rest},
    store::{Index, Lister},
};

/// A change of one object.
#[derive(Debug)]
pub enum Event<T> {
    Added(Arc<T>),
    Updated { old: Arc<T>, new: Arc<T> },
    Deleted(Arc<T>),
}

impl<T> Event<T> {
    /// The newest known state of the object.
    pub fn object(&self) -> &Arc<T> {
        match self {
            Event::Added(object) | Event::Deleted(object) => object,
            Event::Updated { new, .. } => new,
        }
    }

    /// The state before, where there was one.
    pub fn old(&self) -> Option<&Arc<T>> {
        match self {
            Event::Added(_) => None,
            Event::Updated { old, .. } => Some(old),
            Event::Deleted(object) => Some(object),
        }
    }
}

impl<T> Clone for Event<T> {
    fn clone(&self) -> Self {
        match self {
            Event::Added(object) => Event::Added(Arc::clone(object)),
            Event::Updated { old, new } => {
                Event::Updated { old: Arc::clone(old), new: Arc::clone(new) }
            }
            Event::Deleted(object) => Event::Deleted(Arc::clone(object)),
        }
    }
}

/// Which objects of the resource are wanted; empty strings mean all.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    pub namespace: String,
    pub labels: String,
    pub fields: String,
}

type Handler<T> = Box<dyn Fn(&Event<T>) + Send + Sync>;

/// Keeps one resource in memory. Cheap to clone; one clone must be [`Reflector::run`].
pub struct Reflector<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    follower: Follower,
    lister: Lister<T>,
    /// The newest resource version that the watch has delivered.
    seen_version: AtomicU64,
    handlers: Mutex<Vec<Handler<T>>>,
    synced: watch::Sender<bool>,
    changes: watch::Sender<u64>,
}

impl<T> Clone for Reflector<T> {
    fn clone(&self) -> Self {
        Reflector { shared: Arc::clone(&self.shared) }
    }
}

impl<T: HasMeta + DeserializeOwned + Send + Sync + 'static> Reflector<T> {
    /// A reflector of all objects of a resource.
    pub fn new(client: kube::Client, resource: Resource) -> Self {
        Self::selecting(client, resource, Selection::default())
    }

    /// A reflector of some objects of a resource.
    pub fn selecting(client: kube::Client, resource: Resource, selection: Selection) -> Self {
        Self::build(client, resource, selection, false)
    }

    /// A reflector that asks the server for metadata only (`PartialObjectMetadata`).
    pub fn metadata(client: kube::Client, resource: Resource, selection: Selection) -> Self {
        Self::build(client, resource, selection, true)
    }

    fn build(
        client: kube::Client,
        resource: Resource,
        selection: Selection,
        metadata_only: bool,
    ) -> Self {
        let rest = Rest::new(client);
        let shared = Shared {
            follower: Follower { rest, resource, selection, metadata_only },
            lister: Lister::empty(),
            seen_version: AtomicU64::new(0),
            handlers: Mutex::default(),
            synced: watch::Sender::new(false),
            changes: watch::Sender::new(0),
        };
        Reflector { shared: Arc::new(shared) }
    }

    /// Read access to what is known.
    pub fn lister(&self) -> Lister<T> {
        self.shared.lister.clone()
    }

    /// What is reflected.
    pub fn resource(&self) -> &Resource {
        &self.shared.follower.resource
    }

    /// Adds a secondary index; best before `run`.
    pub fn add_index(&self, terms: impl Fn(&T) -> Vec<String> + Send + Sync + 'static) -> Index {
        self.shared.lister.add_index(terms)
    }

    /// Calls `handler` for every change from now on, after the cache has it. It must not block:
    /// typically it adds keys to a [`crate::WorkQueue`].
    pub fn on_event(&self, handler: impl Fn(&Event<T>) + Send + Sync + 'static) {
        let mut handlers = self.shared.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        handlers.push(Box::new(handler));
    }

    /// A counter that moves with every change: for those who recompute from the whole cache.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Whether the initial state is complete.
    pub fn is_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }

    /// Waits until the initial state is complete.
    pub async fn synced(&self) {
        let mut synced = self.shared.synced.subscribe();
        // The sender lives as long as self, so the wait can't fail.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// Takes the answer of a write into the cache before the watch delivers it, so that the next
    /// decision sees it. An answer that the watch has passed already is ignored.
    pub fn observe(&self, object: T) {
        let version = version(object.meta());
        if version <= self.shared.seen_version.load(Ordering::Relaxed) {
            return;
        }
        let known = self.shared.lister.get(&object.meta().key());
        if known.is_none_or(|known| self::version(known.meta()) < version) {
            self.store(object);
        }
    }

    /// Takes a deletion that the server confirmed into the cache.
    pub fn observe_deleted(&self, key: &Key, uid: &str) {
        let known = self.shared.lister.get(key);
        if known.is_some_and(|known| known.meta().uid == uid)
            && let Some(event) = self.shared.lister.remove(key)
        {
            self.notify(&event);
        }
    }

    /// Lists and watches until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.shared.follower.forever(&self) => {}
        }
    }

    /// Whether an observed write is ahead of this watch event, or this is about a predecessor.
    fn knows_newer(&self, object: &T) -> bool {
        let known = self.shared.lister.get(&object.meta().key());
        known.is_some_and(|known| version(known.meta()) > version(object.meta()))
    }

    fn store(&self, object: T) {
        if let Some(event) = self.shared.lister.put(Arc::new(object)) {
            self.notify(&event);
        }
    }

    fn notify(&self, event: &Event<T>) {
        let handlers = self.shared.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        handlers.iter().for_each(|handler| handler(event));
        drop(handlers);
        self.shared.changes.send_modify(|count| *count += 1);
    }
}

impl<T: HasMeta + DeserializeOwned + Send + Sync + 'static> Sink for Reflector<T> {
    fn take(&self, change: Change, json: &str) -> Result<Seen, Error> {
        let object: T = serde_json::from_str(json).map_err(Error::SerdeError)?;
        let meta = object.meta();
        let seen = Seen { key: meta.key(), resource_version: meta.resource_version.clone() };
        let watched = matches!(change, Change::Put | Change::Deleted { initial: false });
        if watched {
            self.passed(&seen.resource_version);
            if self.knows_newer(&object) {
                return Ok(seen);
            }
        }
        match change {
            Change::Listed | Change::Put => self.store(object),
            Change::Deleted { .. } => {
                if self.shared.lister.remove(&seen.key).is_some() {
                    // Handlers get the last state that the server reported.
                    self.notify(&Event::Deleted(Arc::new(object)));
                }
            }
        }
        Ok(seen)
    }

    fn finish(&self, seen: &BTreeSet<Key>) {
        for key in self.shared.lister.keys_not_in(seen) {
            if let Some(event) = self.shared.lister.remove(&key) {
                self.notify(&event);
            }
        }
        self.shared.synced.send_replace(true);
        self.shared.changes.send_modify(|count| *count += 1);
    }

    fn passed(&self, version: &str) {
        if let Ok(version) = version.parse() {
            self.shared.seen_version.store(version, Ordering::Relaxed);
        }
    }
}

fn version(meta: &crate::meta::Meta) -> u64 {
    meta.resource_version.parse().unwrap_or(0)
}
