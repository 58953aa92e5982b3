//! Removing what a manager applied before and does not apply any more.
//!
//! Invariant: a field goes only if its last applier dropped it and nobody else owns it; what the
//! last applier never owned stays, even inside something that goes.

use serde_json::Value;

use super::FieldManager;
use super::compare::field_set;
use super::managers::{Manager, Managers};
use super::merge::{remove, with_named_fields};
use super::set::Set;
use super::shape::Ty;

/// The merged object without what `last` owned and the managers now do not. `managers` already
/// holds the new set of the applier.
pub(super) fn prune(
    fields: &FieldManager<'_>,
    merged: Value,
    managers: &Managers,
    last: &Manager,
) -> Value {
    if last.api_version == fields.api_version {
        return prune_at(fields, &merged, managers, last, fields.ty());
    }
    let Some((at_last, node)) = fields.versions.convert(&merged, &last.api_version) else {
        return merged;
    };
    let pruned = prune_at(fields, &at_last, managers, last, Ty::Node(node));
    match fields.versions.convert(&pruned, fields.api_version) {
        Some((pruned, _)) => pruned,
        None => merged,
    }
}

/// The same, with the object and its type at the version of `last`.
fn prune_at(
    fields: &FieldManager<'_>,
    merged: &Value,
    managers: &Managers,
    last: &Manager,
    ty: Ty<'_>,
) -> Value {
    let lost = with_named_fields(Some(ty), &last.set);
    let mut pruned = remove(ty, merged, &lost);
    for (version, owned) in by_version(managers, &last.api_version) {
        if version == last.api_version {
            pruned = add_back_owned(ty, merged, &pruned, &owned);
        } else if let Some(back) = add_back_owned_at(fields, version, merged, &pruned, &owned, last)
        {
            pruned = back;
        }
    }
    let mut dangling = named_field_set(ty, merged);
    dangling.subtract(&named_field_set(ty, &pruned));
    remove(ty, merged, &dangling.intersection(&lost))
}

fn named_field_set(ty: Ty<'_>, value: &Value) -> Set {
    with_named_fields(Some(ty), &field_set(ty, value))
}

/// What all managers own, by version, `first` first.
fn by_version<'m>(managers: &'m Managers, first: &str) -> Vec<(&'m str, Set)> {
    let mut out: Vec<(&str, Set)> = Vec::new();
    for manager in managers.iter() {
        match out.iter_mut().find(|(version, _)| *version == manager.api_version) {
            Some((_, set)) => *set = std::mem::take(set).union(manager.set.clone()),
            None => out.push((&manager.api_version, manager.set.clone())),
        }
    }
    out.sort_by_key(|(version, _)| *version != first);
    out
}

fn add_back_owned(ty: Ty<'_>, merged: &Value, pruned: &Value, owned: &Set) -> Value {
    let mut gone = named_field_set(ty, merged);
    gone.subtract(&named_field_set(ty, pruned));
    gone.subtract(&with_named_fields(Some(ty), owned));
    remove(ty, merged, &gone)
}

fn add_back_owned_at(
    fields: &FieldManager<'_>,
    version: &str,
    merged: &Value,
    pruned: &Value,
    owned: &Set,
    last: &Manager,
) -> Option<Value> {
    let (merged, node) = fields.versions.convert(merged, version)?;
    let (pruned, _) = fields.versions.convert(pruned, version)?;
    let back = add_back_owned(Ty::Node(node), &merged, &pruned, owned);
    Some(fields.versions.convert(&back, &last.api_version)?.0)
}
