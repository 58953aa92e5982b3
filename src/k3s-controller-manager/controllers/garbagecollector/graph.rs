//! Who owns whom, by uid. Pure.
//!
//! Invariant: `dependents` is the inverse of `owners` over all nodes, also for owners that are not
//! (or no longer) nodes.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use client::{Key, Meta, OwnerReference, Resource};

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

/// One object.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) resource: Arc<Resource>,
    pub(super) key: Key,
    pub(super) uid: String,
    pub(super) resource_version: String,
    pub(super) owners: Vec<OwnerReference>,
    pub(super) deleting: bool,
    pub(super) foreground: bool,
    pub(super) orphan: bool,
}

impl Node {
    pub(super) fn new(resource: &Arc<Resource>, meta: &Meta) -> Self {
        Node {
            resource: Arc::clone(resource),
            key: meta.key(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            owners: meta.owner_references.clone(),
            deleting: meta.is_deleting(),
            foreground: meta.has_finalizer(FOREGROUND),
            orphan: meta.has_finalizer(ORPHAN),
        }
    }

    /// Whether it waits for its dependents to be deleted.
    pub(super) fn waits(&self) -> bool {
        self.deleting && self.foreground
    }
}

/// All objects.
#[derive(Default)]
pub(super) struct Graph {
    nodes: HashMap<String, Node>,
    dependents: HashMap<String, BTreeSet<String>>,
}

impl Graph {
    pub(super) fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// The objects that name this one as owner.
    pub(super) fn dependents(&self, uid: &str) -> Vec<&Node> {
        let uids = self.dependents.get(uid).into_iter().flatten();
        uids.filter_map(|uid| self.nodes.get(uid)).collect()
    }

    /// Takes a state of an object in, and returns whom that concerns.
    pub(super) fn put(&mut self, node: Node) -> Vec<String> {
        let uid = node.uid.clone();
        let mut concerned = Vec::new();
        if self.is_suspect(&node) {
            concerned.push(uid.clone());
        }
        if node.waits() {
            concerned.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
        }
        let old = self.nodes.insert(uid.clone(), node.clone());
        let old_owners = old.map(|old| old.owners).unwrap_or_default();
        if old_owners != node.owners {
            for owner in &old_owners {
                self.unlink(&owner.uid, &uid);
                concerned.extend(self.waiting(&owner.uid));
            }
            for owner in &node.owners {
                self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
            }
            if !node.owners.is_empty() && !concerned.contains(&uid) && !old_owners.is_empty() {
                concerned.push(uid);
            }
        }
        concerned
    }

    /// Takes the end of an object in, and returns whom that concerns.
    pub(super) fn remove(&mut self, uid: &str) -> Vec<String> {
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        let mut concerned: Vec<String> =
            self.dependents.get(uid).into_iter().flatten().cloned().collect();
        for owner in &node.owners {
            self.unlink(&owner.uid, uid);
            concerned.extend(self.waiting(&owner.uid));
        }
        concerned
    }

    /// Everything that may have to be deleted or released: for the first look at the whole.
    pub(super) fn suspects(&self) -> Vec<String> {
        let suspects = self.nodes.values().filter(|node| self.is_suspect(node));
        suspects.map(|node| node.uid.clone()).collect()
    }

    /// Something to do for it: its own deletion waits, or an owner is missing or waits.
    fn is_suspect(&self, node: &Node) -> bool {
        (node.deleting && (node.foreground || node.orphan))
            || node.owners.iter().any(|owner| self.nodes.get(&owner.uid).is_none_or(Node::waits))
    }

    fn waiting(&self, uid: &str) -> Option<String> {
        self.nodes.get(uid).filter(|node| node.waits()).map(|node| node.uid.clone())
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
}

/// What a look at one owner says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// It exists.
    Solid,
    /// It does not, under this uid.
    Absent,
    /// It waits for its dependents to go.
    Waiting,
}

/// What happens to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    /// Owners with these uids are taken out of the list.
    Release(Vec<String>),
    /// Its owners need not wait for it any more: it belongs to a circle of objects that would.
    Unblock,
    /// Deleted, its own dependents first.
    DeleteForeground,
    /// Deleted, by the policy that its finalizers tell.
    Delete,
}

/// What an object has below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Below {
    Nothing,
    Dependents,
    /// One of the dependents waits for its own dependents to go.
    Waiting,
}

/// Decides about an object whose owners were looked at.
pub(super) fn plan(node: &Node, owners: &[Owner], below: Below) -> Step {
    if node.deleting || node.owners.is_empty() {
        return Step::Nothing;
    }
    if owners.contains(&Owner::Solid) {
        let gone = node.owners.iter().zip(owners).filter(|(_, it)| **it != Owner::Solid);
        let gone: Vec<String> = gone.map(|(owner, _)| owner.uid.clone()).collect();
        return if gone.is_empty() { Step::Nothing } else { Step::Release(gone) };
    }
    if !owners.contains(&Owner::Waiting) || below == Below::Nothing {
        return Step::Delete;
    }
    let blocks = node.owners.iter().any(|owner| owner.block_owner_deletion == Some(true));
    match below {
        Below::Waiting if blocks => Step::Unblock,
        _ => Step::DeleteForeground,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(uid: &str, owners: &[&str], finalizers: &[&str], deleting: bool) -> Node {
        let resource = Arc::new(Resource::namespaced("", "v1", "pods", "Pod"));
        let meta = Meta {
            namespace: "n".into(),
            name: uid.into(),
            uid: uid.into(),
            finalizers: finalizers.iter().map(|it| (*it).to_owned()).collect(),
            deletion_timestamp: deleting.then_some(client::Time(jiff::Timestamp::UNIX_EPOCH)),
            owner_references: owners
                .iter()
                .map(|uid| OwnerReference { uid: (*uid).into(), ..OwnerReference::default() })
                .collect(),
            ..Meta::default()
        };
        Node::new(&resource, &meta)
    }

    #[test]
    fn the_end_of_an_owner_concerns_its_dependents() {
        let mut graph = Graph::default();
        assert!(graph.put(node("a", &[], &[], false)).is_empty());
        assert!(graph.put(node("b", &["a"], &[], false)).is_empty());
        assert_eq!(graph.put(node("c", &["x"], &[], false)), ["c"], "its owner is unknown");
        assert_eq!(graph.remove("a"), ["b"]);
        let mut suspects = graph.suspects();
        suspects.sort();
        assert_eq!(suspects, ["b", "c"]);
    }

    #[test]
    fn an_owner_that_waits_hears_of_each_dependent() {
        let mut graph = Graph::default();
        graph.put(node("a", &[], &[], false));
        graph.put(node("b", &["a"], &[], false));
        assert_eq!(graph.put(node("a", &[], &[FOREGROUND], true)), ["a", "b"]);
        assert_eq!(graph.remove("b"), ["a"]);
        assert!(graph.dependents("a").is_empty());
    }

    #[test]
    fn objects_go_when_no_owner_is_left() {
        let check = |owners: &[Owner], below, want| {
            let uids = ["x", "y"];
            assert_eq!(plan(&node("a", &uids[..owners.len()], &[], false), owners, below), want);
        };
        check(&[Owner::Solid], Below::Nothing, Step::Nothing);
        check(&[Owner::Absent], Below::Dependents, Step::Delete);
        check(&[Owner::Waiting], Below::Nothing, Step::Delete);
        check(&[Owner::Waiting], Below::Dependents, Step::DeleteForeground);
        check(&[Owner::Waiting], Below::Waiting, Step::DeleteForeground);
        check(&[Owner::Solid, Owner::Absent], Below::Nothing, Step::Release(vec!["y".into()]));
        let deleting = node("a", &["x"], &[], true);
        assert_eq!(plan(&deleting, &[Owner::Absent], Below::Nothing), Step::Nothing);
    }

    #[test]
    fn a_circle_is_broken_where_it_would_block() {
        let mut blocking = node("a", &["x"], &[], false);
        let check = |node: &Node, below, want| {
            assert_eq!(plan(node, &[Owner::Waiting], below), want);
        };
        blocking.owners[0].block_owner_deletion = Some(true);
        check(&blocking, Below::Waiting, Step::Unblock);
        check(&blocking, Below::Dependents, Step::DeleteForeground);
        blocking.owners[0].block_owner_deletion = Some(false);
        check(&blocking, Below::Waiting, Step::DeleteForeground);
    }
}
