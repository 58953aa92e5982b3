//! Server-side apply and managed fields: who owns which field, and what an apply does to an object.
//!
//! Every write passes through a `FieldManager`: creates, updates and patches through `update`,
//! apply patches through `apply`. It knows schemas and trees, nothing of storage or HTTP.
//! Invariant: the result of `apply` carries exactly the managers that its fields deserve; an error
//! leaves nothing changed.

mod compare;
mod conflict;
mod fields_v1;
mod last_applied;
mod managers;
mod merge;
mod path;
mod prune;
mod scale;
mod set;
mod shape;
#[cfg(test)]
mod tests;
mod validate;

use std::sync::LazyLock;

use api::schema::Node;
use jiff::Timestamp;
use serde_json::{Map, Value};

pub use compare::{Comparison, Untrackable};
pub use conflict::{Conflict, Conflicts};
pub use fields_v1::BadFields;
pub use managers::{
    MANAGER_MAX_LENGTH, Manager, Managers, Operation, keep_timestamps, managed_fields,
    manager_or_user_agent, set_managed_fields,
};
pub use path::PathElement;
pub use scale::{from_scale, to_scale};
pub use set::Set;
pub use validate::Misfits;

use shape::Ty;
use validate::Duplicates;

/// Lays a configuration over a live object: maps and keyed lists are merged, all else is replaced.
pub fn lay_over(node: Node<'_>, live: &Value, config: &Value) -> Value {
    merge::merge(Ty::Node(node), live, config)
}

/// The manager of what was there before the first apply.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Fields that nobody owns.
static NOBODYS: LazyLock<Set> = LazyLock::new(|| {
    Set::of_fields(&[
        &["apiVersion"],
        &["kind"],
        &["metadata"],
        &["metadata", "clusterName"],
        &["metadata", "creationTimestamp"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "resourceVersion"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
    ])
});

/// What is there before an object is created.
static NOTHING: Value = Value::Null;

/// The other versions of a kind.
pub trait Versions {
    /// The object, given at any version, at another one with that version's type; `None` where the
    /// version is not served (any more).
    fn convert<'a>(&'a self, object: &Value, api_version: &str) -> Option<(Value, Node<'a>)>;
}

/// A kind with one version.
#[derive(Clone, Copy, Debug)]
pub struct OneVersion;

impl Versions for OneVersion {
    fn convert<'a>(&'a self, _: &Value, _: &str) -> Option<(Value, Node<'a>)> {
        None
    }
}

/// Which fields the strategy of the request takes back, so that nobody comes to own them.
#[derive(Clone, Copy, Debug)]
pub enum Reset<'a> {
    Nothing,
    /// These and all below, such as `status` on the main resource.
    Fields(&'a Set),
    /// All but these and what is below them, such as everything but `status` on `/status`.
    AllBut(&'a Set),
}

impl Reset<'_> {
    fn strike(&self, set: &mut Set) {
        match self {
            Self::Nothing => {}
            Self::Fields(fields) => set.subtract_below(fields),
            Self::AllBut(fields) => set.keep_below(fields),
        }
    }
}

/// Field management of one kind at one version through one (sub)resource.
#[derive(Clone, Copy)]
pub struct FieldManager<'a> {
    pub node: Node<'a>,
    pub api_version: &'a str,
    pub kind: &'a str,
    /// Empty for the main resource.
    pub subresource: &'a str,
    pub reset: Reset<'a>,
    pub versions: &'a dyn Versions,
}

/// Why an apply was refused.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// 400 `BadRequest`.
    #[error("{0}")]
    BadRequest(String),
    /// 409 `Conflict` with one cause per field.
    #[error("{}", .0.message())]
    Conflicts(Conflicts),
    /// 500 without a reason.
    #[error("{0}")]
    Internal(String),
}

impl FieldManager<'_> {
    /// Records who changed what when `new` replaces `live` (none: `new` is created), in
    /// `metadata.managedFields` of `new`. Objects that cannot be tracked keep what they had.
    pub fn update(&self, live: Option<&Value>, new: &mut Value, manager: &str, now: Timestamp) {
        let mut managers = self.managers_before(live, new);
        let exists = live.is_some_and(has_uid);
        let resend = managed_fields(new).is_none()
            || managed_fields(new) == live.and_then(managed_fields)
            || !self.subresource.is_empty();
        set_managed_fields(new, None);
        if managers.0.is_empty() && exists {
            return;
        }
        let before = live.unwrap_or(&NOTHING);
        match self.changes(before, new) {
            Ok(changes) if changes.is_same() && resend && live.is_some() => {
                let as_stored = live.and_then(managed_fields).cloned();
                return set_managed_fields(new, as_stored);
            }
            Ok(changes) => {
                self.record_update(&mut managers, before, new, changes, manager, now);
            }
            Err(_) => {}
        }
        set_managed_fields(new, managers.write());
    }

    /// Lays the applied configuration over the live object (none: it is created) for a manager.
    /// The result is undefaulted and carries the new `metadata.managedFields`.
    pub fn apply(
        &self,
        live: Option<&Value>,
        config: &Value,
        manager: &str,
        force: bool,
        now: Timestamp,
    ) -> Result<Value, ApplyError> {
        self.check_kind(config)?;
        let before = live.unwrap_or(&NOTHING);
        let mut managers = Managers::read(managed_fields(before)).ok_or_else(|| {
            ApplyError::Internal("failed to decode managed fields: malformed entry".to_owned())
        })?;
        if managers.0.is_empty() && live.is_some() {
            self.adopt(&mut managers, before, now);
        }
        self.check_fit(live, config)?;
        let result = self.apply_once(&managers, before, config, manager, force, now);
        let mut merged = match result {
            Err(ApplyError::Conflicts(mut conflicts)) if manager == last_applied::KUBECTL => {
                let Some(allowed) = last_applied::allowed_conflicts(self, before) else {
                    return Err(ApplyError::Conflicts(conflicts));
                };
                conflicts.forgive(&allowed);
                if !conflicts.is_empty() {
                    return Err(ApplyError::Conflicts(conflicts));
                }
                self.apply_once(&managers, before, config, manager, true, now)?
            }
            other => other?,
        };
        if manager == last_applied::KUBECTL {
            last_applied::sync(&mut merged, config);
        }
        Ok(merged)
    }

    fn ty(&self) -> Ty<'_> {
        Ty::Node(self.node)
    }

    /// The managers that a write starts from: those it sends, unless it may not or did not.
    fn managers_before(&self, live: Option<&Value>, new: &Value) -> Managers {
        let stored = || live.map(Managers::of).unwrap_or_default();
        if !self.subresource.is_empty() {
            return stored();
        }
        let sent = managed_fields(new);
        if sent.and_then(Value::as_array).is_some_and(|list| is_reset(list)) {
            return Managers::default();
        }
        match Managers::read(sent) {
            Some(managers) if !managers.0.is_empty() => managers,
            _ => stored(),
        }
    }

    fn changes(&self, before: &Value, after: &Value) -> Result<Comparison, Untrackable> {
        changes(self.ty(), &self.reset, before, after)
    }

    fn record_update(
        &self,
        managers: &mut Managers,
        before: &Value,
        after: &Value,
        changes: Comparison,
        manager: &str,
        now: Timestamp,
    ) {
        // Conflicts are the point of an update: what it touches becomes its own.
        self.take_over(managers, before, after, &changes, None, true);
        let set = changes.modified.union(changes.added);
        if !set.is_empty() {
            let mut who = self.manager(manager, Operation::Update);
            who.time = Some(format_time(now));
            match managers.0.iter_mut().find(|known| known.is(&who)) {
                Some(known) => {
                    known.set = std::mem::take(&mut known.set).union(set);
                    known.time = who.time;
                }
                None => {
                    who.set = set;
                    managers.0.push(who);
                }
            }
        }
        managers.cap();
    }

    /// Takes changed fields away from everybody but `me`; what `force` forbids comes back.
    fn take_over(
        &self,
        managers: &mut Managers,
        before: &Value,
        after: &Value,
        changes: &Comparison,
        me: Option<&Manager>,
        force: bool,
    ) -> Conflicts {
        let mut conflicts = Conflicts::default();
        let mut elsewhere: Vec<(String, Option<Comparison>)> = Vec::new();
        managers.0.retain_mut(|other| {
            if me.is_some_and(|me| other.is(me)) {
                return true;
            }
            let changes = if other.api_version == self.api_version {
                changes
            } else {
                let at = match elsewhere.iter().position(|(v, _)| *v == other.api_version) {
                    Some(at) => at,
                    None => {
                        let changes = self.changes_at(&other.api_version, before, after);
                        elsewhere.push((other.api_version.clone(), changes));
                        elsewhere.len() - 1
                    }
                };
                match elsewhere.get(at) {
                    Some((_, Some(changes))) => changes,
                    // Nobody can say any more what this manager owns.
                    _ => return false,
                }
            };
            if !force {
                let mut clash = other.set.intersection(&changes.modified);
                clash = clash.union(other.set.intersection(&changes.added));
                if !clash.is_empty() {
                    conflicts.push(other, clash);
                }
            }
            other.set.subtract(&changes.modified);
            other.set.subtract(&changes.added);
            other.set.subtract(&changes.removed);
            !other.set.is_empty()
        });
        conflicts
    }

    fn changes_at(&self, version: &str, before: &Value, after: &Value) -> Option<Comparison> {
        let (after, node) = self.versions.convert(after, version)?;
        let before =
            if before.is_null() { Value::Null } else { self.versions.convert(before, version)?.0 };
        changes(Ty::Node(node), &self.reset, &before, &after).ok()
    }

    fn manager(&self, name: &str, operation: Operation) -> Manager {
        Manager {
            name: if name.is_empty() { "unknown" } else { name }.to_owned(),
            operation,
            api_version: self.api_version.to_owned(),
            subresource: self.subresource.to_owned(),
            time: None,
            set: Set::new(),
        }
    }

    /// Gives an object that nobody tracked to a manager of its own, so that an apply cannot take
    /// fields silently.
    fn adopt(&self, managers: &mut Managers, live: &Value, now: Timestamp) {
        if let Ok(changes) = self.changes(&NOTHING, live) {
            self.record_update(managers, &NOTHING, live, changes, BEFORE_FIRST_APPLY, now);
        }
    }

    fn apply_once(
        &self,
        managers: &Managers,
        live: &Value,
        config: &Value,
        manager: &str,
        force: bool,
        now: Timestamp,
    ) -> Result<Value, ApplyError> {
        let mut managers = managers.clone();
        let mut me = self.manager(manager, Operation::Apply);
        me.set = compare::field_set(self.ty(), config);
        self.reset.strike(&mut me.set);
        me.set.subtract(&NOBODYS);

        let mut merged =
            if live.is_null() { config.clone() } else { merge::merge(self.ty(), live, config) };
        let last = managers.find(&me).cloned();
        managers.0.retain(|known| !known.is(&me));
        me.time = last.as_ref().and_then(|last| last.time.clone());
        managers.0.push(me.clone());
        if let Some(last) = last.filter(|last| !last.set.is_empty()) {
            merged = prune::prune(self, merged, &managers, &last);
        }
        let untrackable = |why: Untrackable| ApplyError::Internal(why.to_string());
        let changes = self.changes(live, &merged).map_err(untrackable)?;
        let conflicts = self.take_over(&mut managers, live, &merged, &changes, Some(&me), force);
        if !conflicts.is_empty() {
            return Err(ApplyError::Conflicts(conflicts));
        }
        if live.is_null() || !same_but_managers(live, &merged) {
            for known in managers.0.iter_mut().filter(|known| known.is(&me)) {
                known.time = Some(format_time(now));
            }
        }
        managers.drop_empty();
        set_managed_fields(&mut merged, managers.write());
        Ok(merged)
    }

    fn check_kind(&self, config: &Value) -> Result<(), ApplyError> {
        let text = |key: &str| config.get(key).and_then(Value::as_str).unwrap_or_default();
        if text("apiVersion") != self.api_version || text("kind") != self.kind {
            let gvk = group_version_kind(text("apiVersion"), text("kind"));
            return Err(ApplyError::BadRequest(format!("invalid object type: {gvk}")));
        }
        if managed_fields(config).is_some_and(|fields| !fields.is_null()) {
            return Err(ApplyError::BadRequest("metadata.managedFields must be nil".to_owned()));
        }
        Ok(())
    }

    fn check_fit(&self, live: Option<&Value>, config: &Value) -> Result<(), ApplyError> {
        let named = |object: &Value| {
            let metadata = |key: &str| {
                let value = object.get("metadata").and_then(|metadata| metadata.get(key));
                value.and_then(Value::as_str).unwrap_or_default().to_owned()
            };
            let gvk = group_version_kind(self.api_version, self.kind);
            format!("{}/{}; {gvk}", metadata("namespace"), metadata("name"))
        };
        validate::validate(self.ty(), config, Duplicates::Refused).map_err(|misfits| {
            let what = named(config);
            ApplyError::Internal(format!("failed to create typed patch object ({what}): {misfits}"))
        })?;
        if let Some(live) = live {
            validate::validate(self.ty(), live, Duplicates::Allowed).map_err(|misfits| {
                let what = named(live);
                ApplyError::Internal(format!(
                    "failed to create typed live object ({what}): {misfits}"
                ))
            })?;
        }
        Ok(())
    }
}

fn changes(
    ty: Ty<'_>,
    reset: &Reset<'_>,
    before: &Value,
    after: &Value,
) -> Result<Comparison, Untrackable> {
    static EMPTY: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));
    let before = if before.is_null() { &*EMPTY } else { before };
    let mut changes = compare::compare(ty, before, after)?;
    for set in [&mut changes.added, &mut changes.modified, &mut changes.removed] {
        set.subtract(&NOBODYS);
        reset.strike(set);
    }
    Ok(changes)
}

fn has_uid(object: &Value) -> bool {
    let uid = object.get("metadata").and_then(|metadata| metadata.get("uid"));
    uid.and_then(Value::as_str).is_some_and(|uid| !uid.is_empty())
}

/// A single empty entry asks to forget all managers.
fn is_reset(list: &[Value]) -> bool {
    matches!(list, [Value::Object(entry)] if entry.values().all(Value::is_null))
}

fn same_but_managers(live: &Value, merged: &Value) -> bool {
    let (Some(live), Some(merged)) = (live.as_object(), merged.as_object()) else { return false };
    let same_metadata = |a: &Value, b: &Value| {
        let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return a == b };
        let counts = |key: &&String| *key != "managedFields";
        a.keys().filter(counts).count() == b.keys().filter(counts).count()
            && a.iter().filter(|(key, _)| counts(key)).all(|(key, value)| b.get(key) == Some(value))
    };
    live.len() == merged.len()
        && live.iter().all(|(key, value)| match merged.get(key) {
            Some(theirs) if key == "metadata" => same_metadata(value, theirs),
            Some(theirs) => path::same(value, theirs),
            None => false,
        })
}

fn group_version_kind(api_version: &str, kind: &str) -> String {
    let slash = if api_version.contains('/') { "" } else { "/" };
    format!("{slash}{api_version}, Kind={kind}")
}

fn format_time(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
