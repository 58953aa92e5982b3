//! DELETE of one object and of many: preconditions, finalizers, grace.

use std::sync::Arc;

use apimachinery::decode::FieldValidation;
use apimachinery::status::{About, Status};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::list;
use super::object::decode_options;
use super::options::{DeleteOptions, ListOptions, Propagation, WriteOptions};
use super::render::{self, Thing};
use super::select::Filter;
use super::update::is_complete;
use super::write::{
    Draft, Removed, Written, has_finalizers, is_deleting, meta_mut, meta_text, time_text,
};
use crate::admission::Operation;
use crate::body::Body;
use crate::custom::convert;
use crate::filter::Call;
use crate::kinds::Kind;
use crate::negotiate::Accept;
use crate::registry::{Deletion, Object, returns_deleted};
use crate::storage::entry::Entry;

/// Objects of a collection that are deleted at the same time.
const AT_ONCE: usize = 32;
/// Attempts against others who write at the same time.
const ATTEMPTS: usize = 20;

const ORPHANED_PODS: &str = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning";

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// What became of the object.
pub enum Deleted {
    /// It is gone; this was its last state.
    Gone(Arc<Entry>),
    /// It stays until others have done their part.
    Stays(Arc<Entry>),
}

pub async fn delete(call: &Call<'_>, kind: &Kind, body: Bytes) -> Result<Response<Body>, Status> {
    let accept = Accept::read(&call.parts.headers)?;
    let (options, sent) = options(call, &body)?;
    let mut draft = draft(call, kind, &options)?;
    draft.delete_options = sent;
    let name = &call.info.name;
    if kind.resource == "jobs.batch"
        && kind.strategy.orphans_by_default()
        && options.propagation.is_none()
        && options.orphan.is_none()
    {
        draft.warnings.push(ORPHANED_PODS.to_owned());
    }
    let deleted = delete_object(&mut draft, name, &options).await?;
    let mut response = match deleted {
        Deleted::Stays(entry) => {
            render::one(call, kind, accept, StatusCode::OK, Thing::Entry(entry))
        }
        Deleted::Gone(entry) if returns_deleted(&kind.resource) => {
            render::one(call, kind, accept, StatusCode::OK, Thing::Entry(entry))
        }
        Deleted::Gone(entry) => {
            let tree = deleted_status(kind, name, &entry.uid);
            let accept = Accept { shape: crate::negotiate::Shape::Whole, ..accept };
            render::one(call, kind, accept, StatusCode::OK, Thing::Tree(tree))
        }
    };
    render::warn(&mut response, &draft.warnings);
    Ok(response)
}

fn deleted_status(kind: &Kind, name: &str, uid: &str) -> Value {
    let mut details = json!({"name": name, "kind": kind.plural, "uid": uid});
    if !kind.group.is_empty() {
        details["group"] = kind.group.as_str().into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": details})
}

pub async fn collection(
    call: &Call<'_>,
    kind: &Kind,
    body: Bytes,
) -> Result<Response<Body>, Status> {
    let accept = Accept::read(&call.parts.headers)?;
    let list_options = ListOptions::read(&call.query, false)?;
    let filter = Filter::read(&call.info, kind, &list_options)?;
    let (options, sent) = options(call, &body)?;
    let page = list::selected(call, kind, &list_options, &filter).await?;
    // Several at a time: the store writes together what comes together.
    let mut waiting = page.entries.iter();
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < AT_ONCE
            && let Some(entry) = waiting.next()
        {
            running.push(delete_listed(call, kind, entry.name(), &options, &sent));
        }
        match running.next().await {
            None => break,
            Some(Err(status)) if status.code != 404 => return Err(status),
            Some(_) => {}
        }
    }
    drop(running);
    Ok(list::render(call, kind, accept, page))
}

async fn delete_listed(
    call: &Call<'_>,
    kind: &Kind,
    name: &str,
    options: &DeleteOptions,
    sent: &Option<Value>,
) -> Result<Deleted, Status> {
    let mut draft = draft(call, kind, options)?;
    draft.delete_options.clone_from(sent);
    delete_object(&mut draft, name, options).await
}

/// What is asked, and the body that says it.
fn options(call: &Call<'_>, body: &Bytes) -> Result<(DeleteOptions, Option<Value>), Status> {
    let tree = if body.is_empty() { None } else { Some(decode_options(call, body)?) };
    Ok((DeleteOptions::read(&call.query, tree.as_ref())?, tree))
}

fn draft<'a>(
    call: &'a Call<'a>,
    kind: &'a Kind,
    options: &DeleteOptions,
) -> Result<Draft<'a>, Status> {
    let write = WriteOptions {
        dry_run: options.dry_run,
        field_manager: String::new(),
        validation: FieldValidation::Ignore,
        force: false,
    };
    Draft::new(call, kind, write)
}

/// Deletes one object, or begins to.
pub async fn delete_object(
    draft: &mut Draft<'_>,
    name: &str,
    options: &DeleteOptions,
) -> Result<Deleted, Status> {
    draft.call.server.storage.settled().await?;
    let mut current = draft.store.get(&draft.key(name));
    for _ in 0..ATTEMPTS {
        let Some(entry) = current else { return Err(Status::not_found(draft.kind.about(name))) };
        let old = draft.served(&entry).await?;
        check(draft, name, options, &entry)?;
        draft.admit(Operation::Delete, name, None, Some(&old)).await?;
        let found = match plan(draft.kind, &old, options, draft.now) {
            Plan::Nothing => {
                let shown = convert::entry(draft.call.server, draft.kind, entry).await?;
                return Ok(Deleted::Stays(shown));
            }
            Plan::Remove(last) => {
                let last = draft.last(name, &entry, &last).await?;
                match draft.remove(name, entry.revision).await? {
                    Removed::Done(revision) => {
                        draft.follow(None, Some(&old)).await;
                        return Ok(Deleted::Gone(Arc::new(last.at_revision(revision))));
                    }
                    Removed::Conflict(found) => found,
                }
            }
            Plan::Mark(mut new) => {
                super::object::normalize(draft.kind, &mut new);
                let value = draft.stored(&new).await?;
                match draft.put(name, entry.revision, value).await? {
                    Written::Done(entry) => return Ok(Deleted::Stays(entry)),
                    Written::Conflict(found) => found,
                }
            }
        };
        current = found;
    }
    Err(Status::modified(draft.kind.about(name)))
}

fn check(
    draft: &Draft<'_>,
    name: &str,
    options: &DeleteOptions,
    entry: &Entry,
) -> Result<(), Status> {
    let about = About { resource: &draft.kind.kind, ..draft.kind.about(name) };
    if let Some(uid) = &options.uid
        && **uid != *entry.uid
    {
        let why = format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object \
             might have been deleted and then recreated",
            entry.uid
        );
        return Err(Status::conflict(about, &why));
    }
    if let Some(version) = &options.resource_version
        && *version != entry.revision.to_string()
    {
        let why = format!(
            "the ResourceVersion in the precondition ({version}) does not match the \
             ResourceVersion in record ({}). The object might have been modified",
            entry.revision
        );
        return Err(Status::conflict(about, &why));
    }
    Ok(())
}

/// What a DELETE does to an object.
#[derive(Debug, PartialEq)]
enum Plan {
    /// It is being deleted already, and no faster for this request.
    Nothing,
    /// It goes; this is its last state.
    Remove(Object),
    /// It is written with the marks of deletion.
    Mark(Object),
}

fn plan(kind: &Kind, old: &Object, options: &DeleteOptions, now: Timestamp) -> Plan {
    let mut new = old.clone();
    let changed = set_finalizers(&mut new, wanted_finalizers(kind, old, options));
    let deletion = kind.strategy.graceful_delete(old, options.grace);
    if kind.strategy.holds_deletion(old) {
        if is_deleting(old) && !changed {
            return Plan::Nothing;
        }
        if !is_deleting(old) {
            meta_mut(&mut new).insert("deletionTimestamp".to_owned(), time_text(now).into());
        }
        kind.strategy.mark_deleting(&mut new);
        return Plan::Mark(new);
    }
    match deletion {
        Deletion::Now => {
            if !has_finalizers(&new) {
                return Plan::Remove(if is_deleting(old) { new } else { old.clone() });
            }
            if is_deleting(old) && !changed {
                return Plan::Nothing;
            }
            if !is_deleting(old) {
                mark(kind, &mut new, now, 0);
            }
        }
        Deletion::Graceful(grace) => {
            let had = old["metadata"]["deletionGracePeriodSeconds"].as_i64();
            match had {
                None => mark(kind, &mut new, now, grace),
                Some(had) if options.grace.is_some() && grace < had => {
                    shorten(&mut new, had, grace, now)
                }
                Some(_) if changed => {}
                Some(0) if !has_finalizers(&new) => {}
                Some(_) => return Plan::Nothing,
            }
        }
    }
    if is_complete(kind, &new) { Plan::Remove(new) } else { Plan::Mark(new) }
}

/// Sets the marks of deletion.
fn mark(kind: &Kind, new: &mut Object, now: Timestamp, grace: i64) {
    let end = now.checked_add(SignedDuration::from_secs(grace)).unwrap_or(now);
    let generation = new["metadata"]["generation"].as_i64();
    let meta = meta_mut(new);
    meta.insert("deletionTimestamp".to_owned(), time_text(end).into());
    meta.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
    if let Some(generation) = generation.filter(|generation| *generation > 0) {
        meta.insert("generation".to_owned(), (generation + 1).into());
    }
    kind.strategy.mark_deleting(new);
}

/// A later request with less grace; the end does not move into the past.
fn shorten(new: &mut Object, had: i64, grace: i64, now: Timestamp) {
    let ends: Option<Timestamp> = meta_text(new, "deletionTimestamp").parse().ok();
    let Some(ends) = ends else { return };
    let sooner = ends.checked_sub(SignedDuration::from_secs(had - grace)).unwrap_or(ends);
    let late = sooner < now;
    let grace = if late { grace.min(1) } else { grace };
    let meta = meta_mut(new);
    meta.insert("deletionTimestamp".to_owned(), time_text(sooner.max(now)).into());
    meta.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
}

/// The finalizers that the propagation policy asks for.
fn wanted_finalizers(kind: &Kind, old: &Object, options: &DeleteOptions) -> Vec<Value> {
    let list = old["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let has = |name: &str| list.iter().any(|have| have == name);
    let (orphan, foreground) = match (options.orphan, options.propagation) {
        (Some(orphan), _) => (orphan, false),
        (None, Some(Propagation::Orphan)) => (true, false),
        (None, Some(Propagation::Foreground)) => (false, true),
        (None, Some(Propagation::Background)) => (false, false),
        (None, None) if has(ORPHAN) => (true, false),
        (None, None) if has(FOREGROUND) => (false, true),
        (None, None) => (kind.strategy.orphans_by_default(), false),
    };
    let mut wanted: Vec<Value> =
        list.into_iter().filter(|have| have != ORPHAN && have != FOREGROUND).collect();
    if orphan {
        wanted.push(ORPHAN.into());
    }
    if foreground {
        wanted.push(FOREGROUND.into());
    }
    wanted
}

fn set_finalizers(new: &mut Object, wanted: Vec<Value>) -> bool {
    let have = new["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let changed = have.len() != wanted.len() || wanted.iter().any(|one| !have.contains(one));
    if changed {
        let meta = meta_mut(new);
        if wanted.is_empty() {
            meta.remove("finalizers");
        } else {
            meta.insert("finalizers".to_owned(), wanted.into());
        }
    }
    changed
}
