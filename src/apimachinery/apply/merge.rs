//! Laying an applied configuration over a live object, and taking fields out of one.
//!
//! Invariant: the applied order of an associative list wins, and live items that the configuration
//! does not name keep their place between the ones that it does.

use std::collections::{BTreeMap, BTreeSet};

use api::schema::ListKind;
use serde_json::{Map, Value};

use super::path::PathElement;
use super::set::Set;
use super::shape::{Fields, List, Shape, Ty, as_list, as_map};

/// The live object with the configuration's fields; nothing is removed.
pub(super) fn merge(ty: Ty<'_>, live: &Value, config: &Value) -> Value {
    merge_value(ty, Some(live), Some(config)).unwrap_or(Value::Null)
}

fn merge_value(ty: Ty<'_>, live: Option<&Value>, config: Option<&Value>) -> Option<Value> {
    let Some(config) = config else { return live.cloned() };
    let Some(live) = live else { return Some(config.clone()) };
    let (left, right) = (ty.shape(Some(live)), ty.shape(Some(config)));
    match (left, right) {
        (Shape::Map(_), Shape::Map(fields)) if !fields.atomic => {
            let (ours, theirs) = (as_map(Some(live)), as_map(Some(config)));
            if ours.is_none_or(Map::is_empty) && theirs.is_none_or(Map::is_empty) {
                return Some(config.clone());
            }
            Some(merge_maps(&fields, ours, theirs))
        }
        (Shape::List(_), Shape::List(list)) if list.kind != ListKind::Atomic => {
            let (ours, theirs) = (as_list(Some(live)), as_list(Some(config)));
            if ours.is_none_or(Vec::is_empty) && theirs.is_none_or(Vec::is_empty) {
                return Some(config.clone());
            }
            let ours = ours.map_or(&[][..], Vec::as_slice);
            Some(merge_lists(&list, ours, theirs.map_or(&[][..], Vec::as_slice)))
        }
        _ => Some(config.clone()),
    }
}

fn merge_maps(
    fields: &Fields<'_>,
    live: Option<&Map<String, Value>>,
    config: Option<&Map<String, Value>>,
) -> Value {
    let mut out = Map::new();
    for (key, ours) in live.into_iter().flatten() {
        let theirs = config.and_then(|map| map.get(key));
        let merged = match (theirs, fields.child(key)) {
            (Some(theirs), Some((ty, _))) => merge_value(ty, Some(ours), Some(theirs)),
            (Some(theirs), None) => Some(theirs.clone()),
            (None, _) => Some(ours.clone()),
        };
        if let Some(merged) = merged {
            out.insert(key.clone(), merged);
        }
    }
    for (key, theirs) in config.into_iter().flatten() {
        if !live.is_some_and(|map| map.contains_key(key)) {
            out.insert(key.clone(), theirs.clone());
        }
    }
    Value::Object(out)
}

/// A list with the identity of every item. Items without one were refused by validation.
struct Indexed<'v> {
    order: Vec<(PathElement, &'v Value)>,
    /// The item to merge with; none where the list repeats itself.
    by_element: BTreeMap<PathElement, Option<&'v Value>>,
}

fn index<'v>(list: &List<'_>, items: &'v [Value]) -> Indexed<'v> {
    let mut out = Indexed { order: Vec::with_capacity(items.len()), by_element: BTreeMap::new() };
    for (at, item) in items.iter().enumerate() {
        if let Ok(element) = list.element(at, item) {
            out.by_element
                .entry(element.clone())
                .and_modify(|merged| *merged = None)
                .or_insert(Some(item));
            out.order.push((element, item));
        }
    }
    out
}

fn merge_lists(list: &List<'_>, live: &[Value], config: &[Value]) -> Value {
    let ours = index(list, live);
    let theirs = index(list, config);
    let mut shared = theirs
        .order
        .iter()
        .map(|(element, _)| element)
        .filter(|element| ours.by_element.contains_key(*element));
    let mut next_shared = shared.next();
    let mut merged = BTreeSet::<&PathElement>::new();
    let mut out = Vec::with_capacity(live.len().max(config.len()));
    let join = |element: &PathElement| {
        let ours = ours.by_element.get(element).copied().flatten();
        let theirs = theirs.by_element.get(element).copied().flatten();
        merge_value(list.item, ours, theirs)
    };
    let (mut left, mut right) = (0, 0);
    loop {
        let (our, their) = (ours.order.get(left), theirs.order.get(right));
        if let (Some((our, _)), Some((their, _))) = (our, their) {
            if our == their {
                merged.insert(our);
                out.extend(join(our));
                left += 1;
                right += 1;
                next_shared = shared.next();
                continue;
            }
            let elsewhere = next_shared.is_some_and(|next| next != our);
            if theirs.by_element.contains_key(our) && elsewhere {
                // A shared item whose turn comes later.
                left += 1;
                continue;
            }
        }
        if let Some((element, item)) = our {
            if !theirs.by_element.contains_key(element) {
                out.push((*item).clone());
                left += 1;
                continue;
            }
            if merged.contains(element) {
                left += 1;
            }
        }
        if let Some((element, _)) = their {
            merged.insert(element);
            out.extend(join(element));
            right += 1;
            if next_shared == Some(element) {
                next_shared = shared.next();
            }
        } else if ours.order.get(left).is_none() {
            return Value::Array(out);
        } else if our.is_some_and(|(element, _)| !merged.contains(element)) {
            // Shared, never merged: its turn was skipped above; it cannot come any more.
            left += 1;
        }
    }
}

/// The object without the fields of the set; a container that this empties stays, empty.
pub(super) fn remove(ty: Ty<'_>, value: &Value, set: &Set) -> Value {
    if set.is_empty() {
        return value.clone();
    }
    match ty.shape(Some(value)) {
        Shape::Scalar(_) => value.clone(),
        Shape::List(list) => {
            let items = as_list(Some(value)).map_or(&[][..], Vec::as_slice);
            if list.kind == ListKind::Atomic || items.is_empty() {
                return Value::Array(Vec::new());
            }
            let kept = |(at, item): (usize, &Value)| {
                let Some(node) = list.element(at, item).ok().and_then(|e| set.get(&e).cloned())
                else {
                    return Some(item.clone());
                };
                (!node.member).then(|| remove(list.item, item, &node.below))
            };
            Value::Array(items.iter().enumerate().filter_map(kept).collect())
        }
        Shape::Map(fields) => {
            let mut out = Map::new();
            if fields.atomic {
                return Value::Object(out);
            }
            for (key, item) in as_map(Some(value)).into_iter().flatten() {
                let kept = match (set.get_field(key), fields.child(key)) {
                    (Some(node), _) if node.member => continue,
                    (Some(node), Some((ty, _))) => remove(ty, item, &node.below),
                    _ => item.clone(),
                };
                out.insert(key.clone(), kept);
            }
            Value::Object(out)
        }
    }
}

/// The set in which a named field of a struct is a member as soon as anything below it is.
pub(super) fn with_named_fields(ty: Option<Ty<'_>>, set: &Set) -> Set {
    let mut out = Set::new();
    let shape = ty.map(|ty| ty.shape(None));
    for node in set.nodes() {
        let (child, named) = match (&node.element, &shape) {
            (PathElement::Field(name), Some(Shape::Map(fields))) => {
                fields.child(name).map_or((None, false), |(ty, named)| (Some(ty), named))
            }
            (PathElement::Key(_), Some(Shape::List(list))) => (Some(list.item), false),
            _ => (None, false),
        };
        let below = with_named_fields(child, &node.below);
        let member = node.member || (named && !node.below.is_empty());
        out.insert(node.element.clone(), member, below);
    }
    out
}
