//! What the definitions' status must say: names, establishment, deletion. Pure.
//!
//! Invariant: a name that a definition got stays its own until it is gone; others that ask for it
//! are told who is too late.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{ESTABLISHED, TERMINATING};
use crate::registry::Object;
use crate::registry::apiextensions::{APPROVED, CLEANUP, is_protected};
use crate::registry::value::{at, key, list, set, text, texts};
use crate::verbs::write::{is_deleting, time_text};

/// One definition after planning.
pub(super) struct Planned {
    pub definition: Object,
    /// Differs from what is stored.
    pub changed: bool,
    /// It is being deleted and its objects must go first.
    pub cleans: bool,
}

/// The status of every definition, in the order given.
pub(super) fn plan(definitions: Vec<Object>, now: Timestamp) -> Vec<Planned> {
    let mut planned: Vec<Planned> = Vec::new();
    let mut all = definitions;
    for at in 0..all.len() {
        let taken = Names::of_others(&all, at);
        let before = all[at].clone();
        if let Some(definition) = all.get_mut(at) {
            name(definition, &taken, now);
            approve(definition, now);
        }
        let definition = all[at].clone();
        let cleans = is_deleting(&definition)
            && texts(&definition, "metadata.finalizers").any(|name| name == CLEANUP);
        planned.push(Planned { changed: definition != before, definition, cleans });
    }
    planned
}

/// Names that other definitions of the group have.
struct Names {
    resources: BTreeSet<String>,
    kinds: BTreeSet<String>,
}

impl Names {
    fn of_others(all: &[Object], at: usize) -> Self {
        let group = text(&all[at], "spec.group");
        let mut names = Self { resources: BTreeSet::new(), kinds: BTreeSet::new() };
        let others = all.iter().enumerate().filter(|(other, _)| *other != at);
        for (_, other) in others.filter(|(_, other)| text(other, "spec.group") == group) {
            let accepted = self::at(other, "status.acceptedNames");
            names
                .resources
                .extend(["plural", "singular"].map(|name| text(accepted, name).to_owned()));
            names.resources.extend(texts(accepted, "shortNames").map(str::to_owned));
            names.kinds.extend(["kind", "listKind"].map(|name| text(accepted, name).to_owned()));
        }
        names
    }
}

/// Accepts the names that are free, and establishes.
fn name(definition: &mut Object, taken: &Names, now: Timestamp) {
    let wanted = at(definition, "spec.names").clone();
    let had = at(definition, "status.acceptedNames").clone();
    let mut accepted = Map::new();
    let mut refusal: Option<(&str, String)> = None;
    let fields = [
        ("plural", "PluralConflict", &taken.resources),
        ("singular", "SingularConflict", &taken.resources),
        ("shortNames", "ShortNamesConflict", &taken.resources),
        ("kind", "KindConflict", &taken.kinds),
        ("listKind", "ListKindConflict", &taken.kinds),
    ];
    for (field, reason, taken) in fields {
        let (want, have) = (key(&wanted, field), key(&had, field));
        let own: Vec<&str> = match have {
            Value::Array(_) => texts(&had, field).collect(),
            one => one.as_str().into_iter().collect(),
        };
        let asked: Vec<&str> = match want {
            Value::Array(_) => texts(&wanted, field).collect(),
            one => one.as_str().into_iter().collect(),
        };
        let clash = |name: &&&str| !own.contains(*name) && taken.contains(**name);
        let value = match asked.iter().find(clash) {
            Some(name) => {
                refusal = Some((reason, format!("{name:?} is already in use")));
                have
            }
            None => want,
        };
        if !value.is_null() {
            accepted.insert(field.to_owned(), value.clone());
        }
    }
    for field in ["kind", "plural"] {
        accepted.entry(field).or_insert_with(|| "".into());
    }
    if let Some(categories) = wanted.get("categories") {
        accepted.insert("categories".to_owned(), categories.clone());
    }
    set(definition, "status.acceptedNames", accepted);
    let free = refusal.is_none();
    let (reason, message) = refusal.unwrap_or(("NoConflicts", "no conflicts found".to_owned()));
    condition(definition, "NamesAccepted", free, reason, &message, now);
    let established = super::definition::is(definition, ESTABLISHED);
    if free && !established {
        let (reason, message) = ("InitialNamesAccepted", "the initial names have been accepted");
        condition(definition, ESTABLISHED, true, reason, message, now);
    } else if !established {
        let (reason, message) = ("NotAccepted", "not all names are accepted");
        condition(definition, ESTABLISHED, false, reason, message, now);
    }
}

/// Says whether a definition in one of Kubernetes' own groups was approved there.
fn approve(definition: &mut Object, now: Timestamp) {
    if !is_protected(text(definition, "spec.group")) {
        return;
    }
    let approval = key(at(definition, "metadata.annotations"), APPROVED).as_str();
    let approval = approval.unwrap_or_default().to_owned();
    let (good, reason, message) = match approval.as_str() {
        "" => {
            let message = format!(
                "protected groups must have approval annotation {APPROVED:?}, see https://github.com/kubernetes/enhancements/pull/1111"
            );
            (false, "MissingAnnotation", message)
        }
        text if text.starts_with("unapproved") => {
            (false, "UnapprovedAnnotation", format!("not approved: {text:?}"))
        }
        text if text.starts_with("https://") || text.starts_with("http://") => {
            (true, "ApprovedAnnotation", format!("approved in {text}"))
        }
        text => {
            let message = format!(
                "protected groups must have approval annotation {APPROVED:?} with either a URL or a reason starting with \"unapproved\", got {text:?}"
            );
            (false, "InvalidAnnotation", message)
        }
    };
    condition(definition, "KubernetesAPIApprovalPolicyConformant", good, reason, &message, now);
}

/// Sets a condition; the time changes with the status alone.
pub(super) fn condition(
    definition: &mut Object,
    kind: &str,
    holds: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let status = if holds { "True" } else { "False" };
    let mut conditions = list(definition, "status.conditions").to_vec();
    let new = |time: Value| {
        json!({"type": kind, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": time})
    };
    match conditions.iter_mut().find(|known| known["type"] == kind) {
        Some(known) if known["status"] == status => {
            *known = new(known["lastTransitionTime"].clone());
        }
        Some(known) => *known = new(time_text(now).into()),
        None => conditions.push(new(time_text(now).into())),
    }
    set(definition, "status.conditions", conditions);
}

/// Says that the objects of a definition are being deleted and some remain.
pub(super) fn in_progress(definition: &mut Object, now: Timestamp) {
    let (reason, message) =
        ("InstanceDeletionInProgress", "CustomResource deletion is in progress");
    condition(definition, TERMINATING, true, reason, message, now);
}

/// A definition whose objects are gone: without its finalizer, `None` when it may go itself.
pub(super) fn cleaned(definition: &Object, now: Timestamp) -> Option<Object> {
    let mut definition = definition.clone();
    let (reason, message) = ("InstanceDeletionCompleted", "removed all instances");
    condition(&mut definition, TERMINATING, false, reason, message, now);
    let finalizers = list(&definition, "metadata.finalizers");
    let left: Vec<Value> = finalizers.iter().filter(|name| *name != CLEANUP).cloned().collect();
    let gone = left.is_empty();
    set(&mut definition, "metadata.finalizers", left);
    (!gone).then_some(definition)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(plural: &str, kind: &str) -> Object {
        json!({"metadata": {"name": format!("{plural}.a.b")}, "spec": {"group": "a.b", "names":
            {"plural": plural, "kind": kind, "listKind": format!("{kind}List")}}})
    }

    #[test]
    fn the_first_has_the_name() {
        let planned = plan(vec![definition("as", "X"), definition("bs", "X")], Timestamp::now());
        let condition = |at: usize, kind: &str| {
            let all = list(&planned[at].definition, "status.conditions");
            all.iter().find(|c| c["type"] == kind).unwrap().clone()
        };
        assert_eq!(condition(0, "Established")["status"], "True");
        assert_eq!(condition(1, "NamesAccepted")["reason"], "ListKindConflict");
        assert_eq!(condition(1, "NamesAccepted")["message"], "\"XList\" is already in use");
        assert_eq!(condition(1, "Established")["reason"], "NotAccepted");
        let stored = planned.into_iter().map(|planned| planned.definition).collect();
        let again = plan(stored, Timestamp::now());
        assert!(again.iter().all(|planned| !planned.changed));
    }
}
