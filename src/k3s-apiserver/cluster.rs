//! All objects of the cluster as this server sees them.
//!
//! Reads come from the watch caches. Strategies and admission read what is there; verbs first wait
//! until the caches have caught up (`Storage::settled`).

use std::ops::RangeInclusive;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::storage::Storage;
use crate::storage::entry::Entry;
use crate::storage::keys::object_key;
use crate::storage::store::Store;

/// What of the configuration strategies and allocators need.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// `--service-cluster-ip-range`, the primary family first.
    pub service_cidrs: Vec<IpNetwork>,
    /// `--service-node-port-range`
    pub node_ports: RangeInclusive<u16>,
}

/// Read access to every resource.
pub struct Cluster {
    pub options: ClusterOptions,
    pub storage: Arc<Storage>,
}

impl Cluster {
    pub fn new(options: ClusterOptions, storage: Arc<Storage>) -> Self {
        Self { options, storage }
    }

    /// The cache of a resource given as `configmaps` or `deployments.apps`.
    pub fn store(&self, resource: &str) -> Option<Arc<Store>> {
        self.storage.store(resource)
    }

    /// One object as the cache has it; the namespace is empty for cluster-scoped resources.
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        self.store(resource)?.get(&object_key(namespace, name))
    }

    /// The objects of a namespace (of all when empty) as the cache has them.
    pub fn list(&self, resource: &str, namespace: &str) -> Vec<Arc<Entry>> {
        self.store(resource).map(|store| store.list(namespace)).unwrap_or_default()
    }
}
