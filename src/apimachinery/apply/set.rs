//! A set of fields: the tree that one manager owns.
//!
//! Invariant: `nodes` is sorted by element without duplicates, and no node is idle (neither a
//! member nor a parent of one), so equality of sets is equality of trees and emptiness is free.

use std::cmp::Ordering;

use super::path::PathElement;

/// A set of paths.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Set {
    nodes: Vec<Node>,
}

/// One element on the way: whether the path that ends here is in the set, and what lies below.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) element: PathElement,
    pub(super) member: bool,
    pub(super) below: Set,
}

impl Set {
    /// The set of nothing.
    pub const fn new() -> Self {
        Self { nodes: Vec::new() }
    }

    /// The set of these paths, each given by its field names.
    pub fn of_fields(paths: &[&[&str]]) -> Self {
        let mut set = Self::new();
        for path in paths {
            set.insert_fields(path);
        }
        set
    }

    fn insert_fields(&mut self, path: &[&str]) {
        if let Some((first, rest)) = path.split_first() {
            let mut below = Self::new();
            below.insert_fields(rest);
            self.insert(PathElement::field(first), rest.is_empty(), below);
        }
    }

    /// Whether no path is in the set.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(super) fn get(&self, element: &PathElement) -> Option<&Node> {
        let at = self.nodes.binary_search_by(|node| node.element.cmp(element)).ok()?;
        self.nodes.get(at)
    }

    /// As `get`, for a field, without making an element.
    pub(super) fn get_field(&self, name: &str) -> Option<&Node> {
        let order = |node: &Node| match &node.element {
            PathElement::Field(field) => (**field).cmp(name),
            _ => Ordering::Greater,
        };
        let at = self.nodes.binary_search_by(order).ok()?;
        self.nodes.get(at)
    }

    /// Adds what lies at and below one element.
    pub(super) fn insert(&mut self, element: PathElement, member: bool, below: Set) {
        if !member && below.is_empty() {
            return;
        }
        if self.nodes.last().is_none_or(|last| last.element < element) {
            self.nodes.push(Node { element, member, below });
            return;
        }
        match self.nodes.binary_search_by(|node| node.element.cmp(&element)) {
            Ok(at) => {
                if let Some(node) = self.nodes.get_mut(at) {
                    node.member |= member;
                    let old = std::mem::take(&mut node.below);
                    node.below = old.union(below);
                }
            }
            Err(at) => self.nodes.insert(at, Node { element, member, below }),
        }
    }

    /// The paths in either set.
    #[must_use]
    pub fn union(self, other: Set) -> Set {
        if self.is_empty() {
            return other;
        }
        if other.is_empty() {
            return self;
        }
        let mut nodes = Vec::with_capacity(self.nodes.len().max(other.nodes.len()));
        let mut right = other.nodes.into_iter().peekable();
        for left in self.nodes {
            while let Some(node) = right.next_if(|node| node.element < left.element) {
                nodes.push(node);
            }
            match right.next_if(|node| node.element == left.element) {
                Some(node) => nodes.push(Node {
                    element: left.element,
                    member: left.member || node.member,
                    below: left.below.union(node.below),
                }),
                None => nodes.push(left),
            }
        }
        nodes.extend(right);
        Set { nodes }
    }

    /// The paths in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Set) -> Set {
        let mut out = Set::new();
        for node in &self.nodes {
            if let Some(theirs) = other.get(&node.element) {
                let below = node.below.intersection(&theirs.below);
                let member = node.member && theirs.member;
                if member || !below.is_empty() {
                    out.nodes.push(Node { element: node.element.clone(), member, below });
                }
            }
        }
        out
    }

    /// Takes away exactly the paths of `other`; what lies below them stays.
    pub fn subtract(&mut self, other: &Set) {
        if other.is_empty() {
            return;
        }
        self.nodes.retain_mut(|node| {
            if let Some(theirs) = other.get(&node.element) {
                node.member &= !theirs.member;
                node.below.subtract(&theirs.below);
            }
            node.member || !node.below.is_empty()
        });
    }

    /// Takes away the paths of `other` and everything below them.
    pub fn subtract_below(&mut self, other: &Set) {
        if other.is_empty() {
            return;
        }
        self.nodes.retain_mut(|node| {
            let Some(theirs) = other.get(&node.element) else { return true };
            if theirs.member {
                return false;
            }
            node.below.subtract_below(&theirs.below);
            node.member || !node.below.is_empty()
        });
    }

    /// Keeps only the paths of `other`, what lies below them, and the way there.
    pub fn keep_below(&mut self, other: &Set) {
        self.nodes.retain_mut(|node| {
            let Some(theirs) = other.get(&node.element) else { return false };
            if theirs.member {
                return true;
            }
            node.member = false;
            node.below.keep_below(&theirs.below);
            !node.below.is_empty()
        });
    }

    /// Every path, members of a level before what lies deeper, each level in order.
    pub fn for_each(&self, visit: &mut dyn FnMut(&[&PathElement])) {
        fn walk<'s>(
            set: &'s Set,
            path: &mut Vec<&'s PathElement>,
            visit: &mut dyn FnMut(&[&PathElement]),
        ) {
            for node in set.nodes.iter().filter(|node| node.member) {
                path.push(&node.element);
                visit(path);
                path.pop();
            }
            for node in &set.nodes {
                path.push(&node.element);
                walk(&node.below, path, visit);
                path.pop();
            }
        }
        walk(self, &mut Vec::new(), visit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(paths: &[&[&str]]) -> Set {
        Set::of_fields(paths)
    }

    #[test]
    fn subtracting_a_parent_keeps_its_children_unless_asked() {
        let mut exact = set(&[&["a"], &["a", "b"], &["c"]]);
        exact.subtract(&set(&[&["a"]]));
        assert_eq!(exact, set(&[&["a", "b"], &["c"]]));
        let mut deep = set(&[&["a"], &["a", "b"], &["c"]]);
        deep.subtract_below(&set(&[&["a"]]));
        assert_eq!(deep, set(&[&["c"]]));
        deep.subtract(&set(&[&["c"]]));
        assert!(deep.is_empty());
    }

    #[test]
    fn union_and_intersection_merge_levels() {
        let left = set(&[&["a", "x"], &["b"]]);
        let right = set(&[&["a", "y"], &["b"], &["b", "z"]]);
        assert_eq!(left.intersection(&right), set(&[&["b"]]));
        assert_eq!(left.union(right), set(&[&["a", "x"], &["a", "y"], &["b"], &["b", "z"]]));
    }

    #[test]
    fn keeping_a_prefix_drops_everything_beside_it() {
        let mut kept = set(&[&["spec", "a"], &["status", "b"], &["status"]]);
        kept.keep_below(&set(&[&["status"]]));
        assert_eq!(kept, set(&[&["status"], &["status", "b"]]));
    }
}
