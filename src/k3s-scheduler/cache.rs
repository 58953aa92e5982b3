//! The nodes with what runs on them, kept incrementally.
//!
//! Invariant: a pod is counted on exactly one node: the one that the API server says, or else the
//! one that it is assumed on while its binding is in flight.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use client::{Key, Labels};

use crate::{
    devices::Devices,
    index::{Index, Namespaces, PodStatements},
    plugins::topology_spread::Owners,
    resources::Resources,
    storage::Storage,
    types::{Budget, Node, Pod},
};

/// A pod on a node, with what it asks for.
#[derive(Debug)]
pub(crate) struct PodInfo {
    pub(crate) pod: Arc<Pod>,
    pub(crate) requests: Resources,
    pub(crate) nonzero: Resources,
    pub(crate) terms: PodStatements,
}

impl PodInfo {
    pub(crate) fn new(pod: Arc<Pod>) -> Self {
        PodInfo {
            requests: pod.requests(Resources::parse),
            nonzero: pod.requests(Resources::parse_nonzero),
            terms: PodStatements::of(&pod),
            pod,
        }
    }
}

/// A node and the sums over its pods.
#[derive(Debug, Default)]
pub(crate) struct NodeInfo {
    /// Absent while only pods of the node are known.
    pub(crate) node: Option<Arc<Node>>,
    pub(crate) allocatable: Resources,
    pub(crate) requested: Resources,
    pub(crate) nonzero: Resources,
    pub(crate) pods: BTreeMap<Key, Arc<PodInfo>>,
    /// Normalised image name to size.
    pub(crate) images: HashMap<String, i64>,
}

impl NodeInfo {
    pub(crate) fn labels(&self) -> Option<&Labels> {
        self.node.as_ref().map(|node| &node.metadata.labels)
    }

    fn add(&mut self, key: Key, info: Arc<PodInfo>) {
        self.requested.add(&info.requests);
        self.nonzero.add(&info.nonzero);
        self.pods.insert(key, info);
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<PodInfo>> {
        let info = self.pods.remove(key)?;
        self.requested.sub(&info.requests);
        self.nonzero.sub(&info.nonzero);
        Some(info)
    }
}

/// Nodes by name.
pub(crate) type Nodes = BTreeMap<String, NodeInfo>;

/// All nodes.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    pub(crate) nodes: Nodes,
    /// The node that each pod is counted on.
    placed: HashMap<Key, String>,
    pub(crate) index: Index,
    /// On how many nodes each image is.
    pub(crate) image_nodes: HashMap<String, usize>,
    /// Namespaces by name, for namespace selectors.
    namespaces: Namespaces,
    /// Waiting pods for which others make way, with the node that they are promised.
    pub(crate) nominated: BTreeMap<Key, (String, Arc<PodInfo>)>,
    pub(crate) budgets: BTreeMap<Key, Arc<Budget>>,
    pub(crate) storage: Storage,
    pub(crate) devices: Devices,
    pub(crate) owners: Owners,
}

impl Cache {
    pub(crate) fn set_node(&mut self, node: &Arc<Node>) {
        let info = self.nodes.entry(node.metadata.name.clone()).or_default();
        info.allocatable = Resources::parse(&node.status.allocatable);
        let mut images = HashMap::new();
        for image in &node.status.images {
            for name in &image.names {
                images.insert(normalised(name), image.size_bytes);
            }
        }
        for name in info.images.keys().filter(|name| !images.contains_key(*name)) {
            if let Some(count) = self.image_nodes.get_mut(name) {
                *count = count.saturating_sub(1);
            }
        }
        for name in images.keys().filter(|name| !info.images.contains_key(*name)) {
            *self.image_nodes.entry(name.clone()).or_default() += 1;
        }
        self.image_nodes.retain(|_, count| *count > 0);
        info.images = images;
        let known = info.node.as_ref().is_some_and(|known| {
            known.metadata.labels == node.metadata.labels && known.spec.taints == node.spec.taints
        });
        if !known {
            self.count(&node.metadata.name, -1);
        }
        if let Some(info) = self.nodes.get_mut(&node.metadata.name) {
            info.node = Some(Arc::clone(node));
        }
        if !known {
            self.count(&node.metadata.name, 1);
        }
    }

    /// Takes a node with its pods into the index, or out of it.
    fn count(&mut self, name: &str, by: i64) {
        let Some(info) = self.nodes.get(name) else { return };
        let Some(node) = &info.node else { return };
        if by > 0 {
            self.index.node(node, by);
        }
        for pod in info.pods.values() {
            self.index.pod(&self.namespaces, pod, node, by);
        }
        if by < 0 {
            self.index.node(node, by);
        }
    }

    pub(crate) fn set_namespace(&mut self, name: &str, labels: &Labels) {
        let old = self.namespaces.insert(name.to_owned(), labels.clone());
        if old.as_ref() != Some(labels) {
            self.index.namespace_changed();
        }
    }

    pub(crate) fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
        self.index.namespace_changed();
    }

    pub(crate) fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// The index, with what it counts.
    pub(crate) fn indexed(&mut self) -> (&mut Index, &Nodes, &Namespaces) {
        (&mut self.index, &self.nodes, &self.namespaces)
    }

    pub(crate) fn remove_node(&mut self, name: &str) {
        self.count(name, -1);
        let Some(info) = self.nodes.get_mut(name) else { return };
        for image in info.images.keys() {
            if let Some(count) = self.image_nodes.get_mut(image) {
                *count = count.saturating_sub(1);
            }
        }
        info.images.clear();
        info.node = None;
        if info.pods.is_empty() {
            self.nodes.remove(name);
        }
    }

    /// Counts a pod on a node, and no longer where it was before.
    pub(crate) fn place(&mut self, pod: &Arc<Pod>, node: &str) {
        self.put(Arc::new(PodInfo::new(Arc::clone(pod))), node);
    }

    /// As [`Cache::place`], of a pod whose requests are worked out already.
    pub(crate) fn put(&mut self, info: Arc<PodInfo>, node: &str) {
        let key = info.pod.metadata.key();
        self.remove_pod(&key);
        let on = self.nodes.entry(node.to_owned()).or_default();
        if let Some(node) = &on.node {
            self.index.pod(&self.namespaces, &info, node, 1);
        }
        on.add(key.clone(), info);
        self.placed.insert(key, node.to_owned());
    }

    pub(crate) fn remove_pod(&mut self, key: &Key) {
        let Some(node) = self.placed.remove(key) else { return };
        let Some(info) = self.nodes.get_mut(&node) else { return };
        if let (Some(pod), Some(node)) = (info.remove(key), &info.node) {
            self.index.pod(&self.namespaces, &pod, node, -1);
        }
        if info.pods.is_empty() && info.node.is_none() {
            self.nodes.remove(&node);
        }
    }

    /// Promises a node to a waiting pod.
    pub(crate) fn nominate(&mut self, pod: &Arc<Pod>, node: &str) {
        let info = Arc::new(PodInfo::new(Arc::clone(pod)));
        self.nominated.insert(pod.metadata.key(), (node.to_owned(), info));
    }

    pub(crate) fn node_of(&self, key: &Key) -> Option<&str> {
        self.placed.get(key).map(String::as_str)
    }
}

/// An image name with its tag spelled out, as nodes report it.
pub(crate) fn normalised(name: &str) -> String {
    let path = name.rsplit('/').next().unwrap_or(name);
    if path.contains(':') || path.contains('@') {
        name.to_owned()
    } else {
        format!("{name}:latest")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_counted_on_one_node() {
        let mut cache = Cache::default();
        let pod: Pod = serde_json::from_str(
            r#"{"metadata":{"name":"a","namespace":"n"},"spec":{"containers":[{"resources":{"requests":{"cpu":"250m"}}}]}}"#,
        )
        .unwrap();
        let pod = Arc::new(pod);
        cache.place(&pod, "x");
        cache.place(&pod, "y");
        assert_eq!(cache.node_of(&pod.metadata.key()), Some("y"));
        assert!(!cache.nodes.contains_key("x"));
        assert_eq!(cache.nodes["y"].requested.cpu, 250);
        cache.remove_pod(&pod.metadata.key());
        assert!(cache.nodes.is_empty());
    }

    #[test]
    fn images_without_a_tag_are_latest() {
        assert_eq!(normalised("busybox"), "busybox:latest");
        assert_eq!(normalised("localhost:5000/a"), "localhost:5000/a:latest");
        assert_eq!(normalised("a@sha256:00"), "a@sha256:00");
    }
}
