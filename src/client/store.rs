//! The cache behind a reflector: objects by key, secondary indexes, and what changed.
//!
//! Invariant: an index holds exactly the keys whose current object yields that term.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use crate::{
    meta::{HasMeta, Key},
    reflector::Event,
};

type Terms<T> = Box<dyn Fn(&T) -> Vec<String> + Send + Sync>;

/// A handle to a secondary index; only meaningful with the reflector that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Index(usize);

/// Read access to a reflector's cache. Cheap to clone.
pub struct Lister<T> {
    shared: Arc<RwLock<Contents<T>>>,
}

struct Contents<T> {
    objects: BTreeMap<Key, Arc<T>>,
    indexes: Vec<SecondaryIndex<T>>,
}

struct SecondaryIndex<T> {
    terms: Terms<T>,
    keys: HashMap<String, BTreeSet<Key>>,
}

impl<T> Clone for Lister<T> {
    fn clone(&self) -> Self {
        Lister { shared: Arc::clone(&self.shared) }
    }
}

impl<T: HasMeta> Default for Lister<T> {
    fn default() -> Self {
        Self::empty()
    }
}

impl<T: HasMeta> Lister<T> {
    /// The object of this key.
    pub fn get(&self, key: &Key) -> Option<Arc<T>> {
        self.read().objects.get(key).cloned()
    }

    /// Every object, in order of namespace and name.
    pub fn list(&self) -> Vec<Arc<T>> {
        self.read().objects.values().cloned().collect()
    }

    /// The objects of a namespace, in order of name.
    pub fn namespaced(&self, namespace: &str) -> Vec<Arc<T>> {
        let from = Key::new(namespace, "");
        let contents = self.read();
        let range = contents.objects.range(from..);
        range.take_while(|(key, _)| key.namespace == namespace).map(|(_, it)| it.clone()).collect()
    }

    /// The objects that yield this term.
    pub fn by_index(&self, index: Index, term: &str) -> Vec<Arc<T>> {
        let contents = self.read();
        let keys = contents.indexes.get(index.0).and_then(|index| index.keys.get(term));
        keys.into_iter().flatten().filter_map(|key| contents.objects.get(key).cloned()).collect()
    }

    /// Calls `each` for every object without cloning handles.
    pub fn for_each(&self, mut each: impl FnMut(&Arc<T>)) {
        self.read().objects.values().for_each(&mut each);
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.read().objects.len()
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A lister over these objects: for tests of code that reads caches.
    pub fn of(objects: Vec<T>) -> Self {
        let lister = Self::empty();
        for object in objects {
            lister.put(Arc::new(object));
        }
        lister
    }

    pub(crate) fn empty() -> Self {
        let contents = Contents { objects: BTreeMap::new(), indexes: Vec::new() };
        Lister { shared: Arc::new(RwLock::new(contents)) }
    }

    /// Adds an index over what is there and what will come.
    pub fn add_index(&self, terms: impl Fn(&T) -> Vec<String> + Send + Sync + 'static) -> Index {
        let mut contents = self.write();
        let mut index = SecondaryIndex { terms: Box::new(terms), keys: HashMap::new() };
        for (key, object) in &contents.objects {
            index.insert(key, object);
        }
        contents.indexes.push(index);
        Index(contents.indexes.len() - 1)
    }

    /// Stores a newer object; `None` when it is the one that is stored already.
    pub(crate) fn put(&self, object: Arc<T>) -> Option<Event<T>> {
        let key = object.meta().key();
        let mut contents = self.write();
        let Contents { objects, indexes } = &mut *contents;
        let old = objects.insert(key.clone(), Arc::clone(&object));
        if let Some(old) = &old {
            if old.meta().resource_version == object.meta().resource_version
                && old.meta().uid == object.meta().uid
            {
                return None;
            }
            indexes.iter_mut().for_each(|index| index.remove(&key, old));
        }
        indexes.iter_mut().for_each(|index| index.insert(&key, &object));
        Some(match old {
            Some(old) => Event::Updated { old, new: object },
            None => Event::Added(object),
        })
    }

    pub(crate) fn remove(&self, key: &Key) -> Option<Event<T>> {
        let mut contents = self.write();
        let Contents { objects, indexes } = &mut *contents;
        let old = objects.remove(key)?;
        indexes.iter_mut().for_each(|index| index.remove(key, &old));
        Some(Event::Deleted(old))
    }

    /// The keys that a complete listing no longer has.
    pub(crate) fn keys_not_in(&self, seen: &BTreeSet<Key>) -> Vec<Key> {
        self.read().objects.keys().filter(|key| !seen.contains(key)).cloned().collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Contents<T>> {
        self.shared.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Contents<T>> {
        self.shared.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> SecondaryIndex<T> {
    fn insert(&mut self, key: &Key, object: &T) {
        for term in (self.terms)(object) {
            self.keys.entry(term).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &Key, object: &T) {
        for term in (self.terms)(object) {
            if let Some(keys) = self.keys.get_mut(&term) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(&term);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::{Meta, PartialObject};

    fn object(name: &str, version: &str, label: &str) -> PartialObject {
        let labels = [("app".to_owned(), label.to_owned())].into();
        let metadata = Meta {
            namespace: "ns".into(),
            name: name.into(),
            resource_version: version.into(),
            labels,
            ..Meta::default()
        };
        PartialObject { metadata, ..PartialObject::default() }
    }

    #[test]
    fn indexes_follow_updates_and_deletions() {
        let lister = Lister::empty();
        let by_app = lister.add_index(|it: &PartialObject| vec![it.metadata.labels["app"].clone()]);
        assert!(matches!(lister.put(Arc::new(object("a", "1", "x"))), Some(Event::Added(_))));
        assert!(lister.put(Arc::new(object("a", "1", "x"))).is_none());
        assert_eq!(lister.by_index(by_app, "x").len(), 1);
        assert!(matches!(lister.put(Arc::new(object("a", "2", "y"))), Some(Event::Updated { .. })));
        assert_eq!(lister.by_index(by_app, "x").len(), 0);
        assert_eq!(lister.by_index(by_app, "y").len(), 1);
        assert!(lister.remove(&Key::new("ns", "a")).is_some());
        assert_eq!(lister.by_index(by_app, "y").len(), 0);
    }

    #[test]
    fn a_namespace_is_a_range_of_keys() {
        let lister = Lister::of(vec![object("b", "1", "x"), object("a", "1", "x")]);
        let names: Vec<_> =
            lister.namespaced("ns").iter().map(|it| it.metadata.name.clone()).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(lister.namespaced("n").is_empty());
    }
}
