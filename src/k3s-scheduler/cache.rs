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
}

impl PodInfo {
    pub(crate) fn new(pod: Arc<Pod>) -> Self {
        PodInfo {
            requests: pod.requests(Resources::parse),
            nonzero: pod.requests(Resources::parse_nonzero),
            pod,
        }
    }

    pub(crate) fn has_required_anti_affinity(&self) -> bool {
        self.affinity().is_some_and(|it| !it.pod_anti_affinity.required.is_empty())
    }

    pub(crate) fn affinity(&self) -> Option<&crate::types::Affinity> {
        self.pod.spec.affinity.as_deref()
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

/// All nodes.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    pub(crate) nodes: BTreeMap<String, NodeInfo>,
    /// The node that each pod is counted on.
    placed: HashMap<Key, String>,
    /// Pods with required anti-affinity, which every other pod has to respect.
    pub(crate) anti_affinity: usize,
    /// On how many nodes each image is.
    pub(crate) image_nodes: HashMap<String, usize>,
    /// Namespaces by name, for namespace selectors.
    pub(crate) namespaces: HashMap<String, Labels>,
    /// Waiting pods for which others make way, with the node that they are promised.
    pub(crate) nominated: BTreeMap<Key, (String, Arc<PodInfo>)>,
    pub(crate) budgets: BTreeMap<Key, Arc<Budget>>,
    pub(crate) storage: Storage,
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
        info.node = Some(Arc::clone(node));
    }

    pub(crate) fn remove_node(&mut self, name: &str) {
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
        self.anti_affinity += usize::from(info.has_required_anti_affinity());
        self.nodes.entry(node.to_owned()).or_default().add(key.clone(), info);
        self.placed.insert(key, node.to_owned());
    }

    pub(crate) fn remove_pod(&mut self, key: &Key) {
        let Some(node) = self.placed.remove(key) else { return };
        let Some(info) = self.nodes.get_mut(&node) else { return };
        if let Some(pod) = info.remove(key) {
            self.anti_affinity -= usize::from(pod.has_required_anti_affinity());
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
