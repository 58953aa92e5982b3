//! What changed between two states of an object, and which fields one state has.
//!
//! Invariant: nothing is cloned but the path elements of what changed; subtrees that are equal cost
//! one comparison. A field that a typed object always has counts as present with its zero value.

use std::collections::BTreeMap;

use api::schema::ListKind;
use serde_json::Value;

use super::path::{PathElement, same};
use super::set::Set;
use super::shape::{Fields, List, Shape, Ty, as_list, as_map};

/// The difference between two states.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    pub added: Set,
    pub modified: Set,
    pub removed: Set,
}

impl Comparison {
    /// Whether the states are the same.
    pub fn is_same(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }
}

/// The object cannot be tracked: an associative list has an item without identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Untrackable(String);

/// Compares two states of one object.
pub(super) fn compare(ty: Ty<'_>, lhs: &Value, rhs: &Value) -> Result<Comparison, Untrackable> {
    let mut marks = Marks::default();
    walk(ty, Some(lhs), Some(rhs), &mut marks)?;
    Ok(marks.into_comparison())
}

/// The marks at one path (whether the path itself) and below it.
#[derive(Default)]
struct Marks {
    added: bool,
    modified: bool,
    removed: bool,
    below: Comparison,
}

impl Marks {
    fn into_comparison(self) -> Comparison {
        self.below
    }

    fn adopt(&mut self, element: impl FnOnce() -> PathElement, child: Marks) {
        let Marks { added, modified, removed, below } = child;
        if !(added || modified || removed) && below.is_same() {
            return;
        }
        let element = element();
        self.below.added.insert(element.clone(), added, below.added);
        self.below.modified.insert(element.clone(), modified, below.modified);
        self.below.removed.insert(element, removed, below.removed);
    }

    fn leaf(&mut self, lhs: Option<&Value>, rhs: Option<&Value>) {
        match (lhs, rhs) {
            (None, _) => self.added = true,
            (_, None) => self.removed = true,
            (Some(lhs), Some(rhs)) => self.modified |= !same(lhs, rhs),
        }
    }
}

fn walk(
    ty: Ty<'_>,
    lhs: Option<&Value>,
    rhs: Option<&Value>,
    marks: &mut Marks,
) -> Result<(), Untrackable> {
    let left = ty.shape(lhs.or(rhs));
    let right = ty.shape(rhs.or(lhs));
    if std::mem::discriminant(&left) != std::mem::discriminant(&right) {
        one_shape(left, lhs, rhs, marks)?;
    }
    one_shape(right, lhs, rhs, marks)?;
    match (lhs, rhs) {
        (None, _) => marks.added = true,
        (_, None) => marks.removed = true,
        _ => {}
    }
    Ok(())
}

fn one_shape(
    shape: Shape<'_>,
    lhs: Option<&Value>,
    rhs: Option<&Value>,
    marks: &mut Marks,
) -> Result<(), Untrackable> {
    match shape {
        Shape::Scalar(_) => marks.leaf(lhs, rhs),
        Shape::List(list) => {
            let (left, right) = (items(lhs), items(rhs));
            if list.kind == ListKind::Atomic || (left.is_empty() && right.is_empty()) {
                marks.leaf(lhs, rhs);
            } else {
                compare_items(list, left, right, marks)?;
            }
        }
        Shape::Map(fields) => {
            let empty = |value| as_map(value).is_none_or(serde_json::Map::is_empty);
            if fields.atomic || (empty(lhs) && empty(rhs) && !has_always(&fields, lhs, rhs)) {
                marks.leaf(lhs, rhs);
            } else {
                compare_fields(fields, lhs, rhs, marks)?;
            }
        }
    }
    Ok(())
}

fn items(value: Option<&Value>) -> &[Value] {
    as_list(value).map_or(&[], Vec::as_slice)
}

fn has_always(fields: &Fields<'_>, lhs: Option<&Value>, rhs: Option<&Value>) -> bool {
    (as_map(lhs).is_some() || as_map(rhs).is_some()) && fields.always().next().is_some()
}

fn compare_fields(
    fields: Fields<'_>,
    lhs: Option<&Value>,
    rhs: Option<&Value>,
    marks: &mut Marks,
) -> Result<(), Untrackable> {
    let (left, right) = (as_map(lhs), as_map(rhs));
    let zero = |key: &str| fields.always().find(|(name, _, _)| *name == key).map(|(_, _, v)| v);
    for (key, theirs) in right.into_iter().flatten() {
        let mut ours = left.and_then(|map| map.get(key));
        if ours.is_some_and(|ours| ours == theirs) {
            continue;
        }
        if ours.is_none() && left.is_some() {
            ours = zero(key);
        }
        field(&fields, key, ours, Some(theirs), marks)?;
    }
    for (key, ours) in left.into_iter().flatten() {
        if right.is_some_and(|map| map.contains_key(key)) {
            continue;
        }
        let theirs = right.and_then(|_| zero(key));
        field(&fields, key, Some(ours), theirs, marks)?;
    }
    if left.is_none() || right.is_none() {
        // The whole object came or went, and with it the fields that nobody wrote.
        let there = left.or(right);
        for (key, ty, value) in fields.always() {
            if there.is_some_and(|map| !map.contains_key(key)) {
                let (ours, theirs) =
                    if left.is_some() { (Some(value), None) } else { (None, Some(value)) };
                let mut child = Marks::default();
                walk(ty, ours, theirs, &mut child)?;
                marks.adopt(|| PathElement::field(key), child);
            }
        }
    }
    Ok(())
}

fn field(
    fields: &Fields<'_>,
    key: &str,
    lhs: Option<&Value>,
    rhs: Option<&Value>,
    marks: &mut Marks,
) -> Result<(), Untrackable> {
    let (ty, _) = fields
        .child(key)
        .ok_or_else(|| Untrackable(format!(".{key}: field not declared in schema")))?;
    let mut child = Marks::default();
    walk(ty, lhs, rhs, &mut child)?;
    marks.adopt(|| PathElement::field(key), child);
    Ok(())
}

/// The items of a list by identity; more than one where a live object repeats itself.
fn index<'v>(
    list: &List<'_>,
    items: &'v [Value],
) -> Result<BTreeMap<PathElement, Vec<&'v Value>>, Untrackable> {
    let mut map = BTreeMap::<_, Vec<&Value>>::new();
    for (at, item) in items.iter().enumerate() {
        let element = list.element(at, item).map_err(Untrackable)?;
        map.entry(element).or_default().push(item);
    }
    Ok(map)
}

fn compare_items(
    list: List<'_>,
    lhs: &[Value],
    rhs: &[Value],
    marks: &mut Marks,
) -> Result<(), Untrackable> {
    let left = index(&list, lhs)?;
    let mut right = index(&list, rhs)?;
    for (element, ours) in left {
        let theirs = right.remove(&element).unwrap_or_default();
        compare_item(&list, element, &ours, &theirs, marks)?;
    }
    for (element, theirs) in right {
        compare_item(&list, element, &[], &theirs, marks)?;
    }
    Ok(())
}

fn compare_item(
    list: &List<'_>,
    element: PathElement,
    ours: &[&Value],
    theirs: &[&Value],
    marks: &mut Marks,
) -> Result<(), Untrackable> {
    let mut child = Marks::default();
    match (ours.len(), theirs.len()) {
        (0 | 1, 0 | 1) => {
            if let ([a], [b]) = (ours, theirs)
                && a == b
            {
                return Ok(());
            }
            walk(list.item, first_of(ours), first_of(theirs), &mut child)?;
        }
        (2.., 2..) => {
            let equal =
                ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| same(a, b));
            child.modified = !equal;
        }
        (2.., _) => {
            if let Some(theirs) = first_of(theirs) {
                walk(list.item, None, Some(theirs), &mut child)?;
            }
            child.removed = true;
        }
        _ => {
            if let Some(ours) = first_of(ours) {
                walk(list.item, Some(ours), None, &mut child)?;
            }
            child.added = true;
        }
    }
    marks.adopt(|| element, child);
    Ok(())
}

fn first_of<'v>(items: &[&'v Value]) -> Option<&'v Value> {
    items.first().copied()
}

/// Every field that a valid object has.
pub(super) fn field_set(ty: Ty<'_>, value: &Value) -> Set {
    collect(ty, value).1
}

/// Whether the path itself is in the set, and what is below it.
fn collect(ty: Ty<'_>, value: &Value) -> (bool, Set) {
    let mut set = Set::new();
    match ty.shape(Some(value)) {
        Shape::Scalar(_) => return (true, set),
        Shape::List(list) => {
            if list.kind == ListKind::Atomic {
                return (true, set);
            }
            let Ok(index) = index(&list, items(Some(value))) else { return (false, set) };
            for (element, items) in index {
                let below = match items.as_slice() {
                    [one] => collect(list.item, one).1,
                    _ => Set::new(),
                };
                set.insert(element, true, below);
            }
        }
        Shape::Map(fields) => {
            if fields.atomic {
                return (true, set);
            }
            for (key, value) in as_map(Some(value)).into_iter().flatten() {
                let Some((ty, named)) = fields.child(key) else { continue };
                let (own, below) = collect(ty, value);
                let nothing =
                    value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
                set.insert(PathElement::field(key), own || nothing || !named, below);
            }
        }
    }
    (false, set)
}
