//! Storage: the watch caches that serve every read, and the writes to the store.
//!
//! One watch on the whole store feeds all caches, so one number (`applied`) says how far they are.
//! Invariant: nothing but `feed` changes a cache, also not our own writes.

pub mod compact;
pub mod entry;
pub mod feed;
pub mod keys;
pub mod store;
pub mod write;

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use apimachinery::status::Status;
use bytes::Bytes;
use etcd::etcdserverpb::RangeRequest;
use tokio::sync::{Mutex, watch};

use self::store::Store;

/// How long a read waits for the caches.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who else writes to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// Only this server: its own writes are all that a read must wait for.
    Us,
    /// Others too: a read asks the store for its revision first.
    Many,
}

/// The caches and the way to the store.
pub struct Storage {
    pub client: etcd::Client,
    stores: HashMap<String, Arc<Store>>,
    by_folder: HashMap<String, Arc<Store>>,
    /// The caches of custom resources by folder (`example.com/foos/`), made when the first object
    /// or the definition comes.
    custom: RwLock<HashMap<String, Arc<Store>>>,
    /// The revision of the last load: a cache that is made later has seen everything since.
    loaded_at: AtomicI64,
    /// All caches have seen everything up to this revision. 0: still loading.
    applied: watch::Sender<i64>,
    /// The newest revision that one of our writes made.
    written: AtomicI64,
    /// What was before this revision is shown to nobody any more.
    compacted: AtomicI64,
    writers: Writers,
    /// One question for the store's revision at a time; waiting readers share the next answer.
    asking: Mutex<()>,
    asked: AtomicI64,
    pub(crate) leases: Mutex<write::EventLease>,
}

impl Storage {
    pub fn new(client: etcd::Client, writers: Writers, stores: Vec<Store>) -> Self {
        let stores: Vec<Arc<Store>> = stores.into_iter().map(Arc::new).collect();
        Self {
            client,
            by_folder: stores
                .iter()
                .map(|store| (store.prefix[keys::ROOT.len()..].to_owned(), store.clone()))
                .collect(),
            stores: stores.into_iter().map(|store| (store.resource.clone(), store)).collect(),
            custom: RwLock::default(),
            loaded_at: AtomicI64::new(0),
            applied: watch::Sender::new(0),
            written: AtomicI64::new(0),
            compacted: AtomicI64::new(0),
            writers,
            asking: Mutex::new(()),
            asked: AtomicI64::new(0),
            leases: Mutex::default(),
        }
    }

    /// The cache of a resource given as `configmaps` or `deployments.apps`.
    pub fn store(&self, resource: &str) -> Option<Arc<Store>> {
        if let Some(store) = self.stores.get(resource) {
            return Some(store.clone());
        }
        let (plural, group) = resource.split_once('.')?;
        let custom = self.custom.read().unwrap_or_else(PoisonError::into_inner);
        custom.get(&keys::custom_folder(group, plural)).cloned()
    }

    /// The cache of a custom resource, made where it is missing.
    pub fn custom(&self, group: &str, plural: &str) -> Arc<Store> {
        let folder = keys::custom_folder(group, plural);
        let mut custom = self.custom.write().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let prefix = format!("{}{folder}", keys::ROOT);
            let store = Store::new(&format!("{plural}.{group}"), prefix);
            // Whatever the store held at the last load has made its cache then.
            store.write().reset(Default::default(), self.loaded_at.load(Ordering::Acquire));
            Arc::new(store)
        };
        custom.entry(folder.clone()).or_insert_with(make).clone()
    }

    pub fn stores(&self) -> Vec<Arc<Store>> {
        let custom = self.custom.read().unwrap_or_else(PoisonError::into_inner);
        self.stores.values().chain(custom.values()).cloned().collect()
    }

    /// The revision that the caches are at.
    pub fn revision(&self) -> i64 {
        *self.applied.borrow()
    }

    /// Has the store given up this revision?
    pub fn is_compacted(&self, revision: i64) -> bool {
        revision < self.compacted.load(Ordering::Acquire)
    }

    fn give_up(&self, before: i64) {
        self.compacted.fetch_max(before, Ordering::AcqRel);
    }

    /// Have the caches been filled?
    pub fn loaded(&self) -> bool {
        self.revision() > 0
    }

    /// Waits until the caches hold everything that was acknowledged before the call: what a read
    /// without resourceVersion promises.
    pub async fn settled(&self) -> Result<i64, Status> {
        let target = match self.writers {
            Writers::Us => self.written.load(Ordering::Acquire).max(1),
            Writers::Many => self.ask().await?,
        };
        self.reached(target, PATIENCE)
            .await
            .ok_or_else(|| Status::unavailable("the store does not answer, the caches are behind"))
    }

    /// Waits until the caches are at `target` at least; none when that takes longer than `limit`.
    pub async fn reached(&self, target: i64, limit: Duration) -> Option<i64> {
        let now = self.revision();
        if now >= target && now > 0 {
            return Some(now);
        }
        let mut applied = self.applied.subscribe();
        let wait = applied.wait_for(|revision| *revision >= target.max(1));
        match tokio::time::timeout(limit, wait).await {
            Ok(Ok(revision)) => Some(*revision),
            _ => None,
        }
    }

    /// The caches' revision, whenever it changes.
    pub fn progress(&self) -> watch::Receiver<i64> {
        self.applied.subscribe()
    }

    /// The store's revision, asked after the call began. Readers that come while a question is
    /// under way share the one after it.
    async fn ask(&self) -> Result<i64, Status> {
        let begun = self.asked.load(Ordering::Acquire);
        let _turn = self.asking.lock().await;
        if self.asked.load(Ordering::Acquire) >= begun + 2 {
            return Ok(self.written.load(Ordering::Acquire));
        }
        let request = RangeRequest {
            key: Bytes::from_static(b"/registry/health"),
            count_only: true,
            limit: 1,
            ..RangeRequest::default()
        };
        let answer = self.client.range(request).await.map_err(unavailable)?;
        let revision = answer.header.map_or(0, |header| header.revision);
        self.written.fetch_max(revision, Ordering::AcqRel);
        self.asked.fetch_add(1, Ordering::AcqRel);
        Ok(revision)
    }
}

/// What a client is told when the store fails.
pub fn unavailable(err: etcd::Status) -> Status {
    Status::unavailable(format!("the store does not answer: {err}"))
}
