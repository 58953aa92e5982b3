//! The objects that authentication and authorisation look at.
//!
//! A seam, so that both can be tested without a server. Invariant: `sequence` changes whenever an
//! object of the resource does, so what was derived from it can be kept until then.

use std::sync::Arc;

use serde_json::Value;

use crate::cluster::Cluster;
use crate::storage::entry::Entry;

/// Read access to the watch caches; resources are given as `pods` or `roles.rbac.…`.
pub trait Objects: Send + Sync {
    fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Entry>>;
    /// The objects of a namespace, of all when it is empty.
    fn list(&self, resource: &str, namespace: &str) -> Vec<Arc<Entry>>;
    /// A number that changes with every change of the resource.
    fn sequence(&self, resource: &str) -> u64;
}

impl Objects for Cluster {
    fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        Cluster::get(self, resource, namespace, name)
    }

    fn list(&self, resource: &str, namespace: &str) -> Vec<Arc<Entry>> {
        Cluster::list(self, resource, namespace)
    }

    fn sequence(&self, resource: &str) -> u64 {
        self.store(resource).map_or(0, |store| store.read().place_now())
    }
}

/// Text at a path of an object, empty if it is not there.
pub(super) fn text<'v>(object: &'v Value, path: &[&str]) -> &'v str {
    let value = path.iter().try_fold(object, |value, key| value.get(key));
    value.and_then(Value::as_str).unwrap_or_default()
}

/// The strings of a list, empty if there is none.
pub(super) fn texts(list: Option<&Value>) -> Vec<String> {
    let items = list.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
pub(super) mod fake {
    use std::collections::BTreeMap;

    use super::*;
    use crate::storage::entry::encode;

    /// Objects in a map.
    #[derive(Default)]
    pub(in crate::auth) struct Fake(BTreeMap<(String, String), Arc<Entry>>);

    impl Fake {
        pub(in crate::auth) fn with(mut self, resource: &str, object: &Value) -> Self {
            let name = text(object, &["metadata", "name"]);
            let namespace = text(object, &["metadata", "namespace"]);
            let key = crate::storage::keys::object_key(namespace, name);
            let entry = Entry::parse(&key, 1, &encode(object), &[]).expect("an entry");
            self.0.insert((resource.to_owned(), key), Arc::new(entry));
            self
        }
    }

    impl Objects for Fake {
        fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Arc<Entry>> {
            let key = crate::storage::keys::object_key(namespace, name);
            self.0.get(&(resource.to_owned(), key)).cloned()
        }

        fn list(&self, resource: &str, namespace: &str) -> Vec<Arc<Entry>> {
            let of = |(key, entry): (&(String, String), &Arc<Entry>)| {
                let here = namespace.is_empty() || entry.namespace() == namespace;
                (key.0 == resource && here).then(|| entry.clone())
            };
            self.0.iter().filter_map(of).collect()
        }

        fn sequence(&self, resource: &str) -> u64 {
            self.list(resource, "").len() as u64 + 1
        }
    }
}
