//! UPDATE: from an old object to a new one, whoever made the new one (PUT, patches, subresources).

use std::sync::Arc;

use apimachinery::field::FieldErrors;
use apimachinery::gotext::quote;
use apimachinery::status::Status;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::Value;

use super::create::create_object;
use super::managed::{self, How};
use super::object::{decode_own, normalize};
use super::options::WriteOptions;
use super::render::{self, Thing};
use super::write::{
    Author, Draft, Removed, Written, has_finalizers, is_deleting, match_namespace, meta_mut,
    meta_text,
};
use crate::admission::Operation;
use crate::auth;
use crate::body::Body;
use crate::custom::convert;
use crate::filter::Call;
use crate::kinds::Kind;
use crate::negotiate::Accept;
use crate::registry::{Object, meta};
use crate::storage::entry::Entry;

/// Attempts of one write against others, where the client did not name a revision.
const ATTEMPTS: usize = 20;

/// The metadata that only the server writes.
const KEPT: [&str; 6] = [
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "selfLink",
];

pub async fn update(call: &Call<'_>, kind: &Kind, body: Bytes) -> Result<Response<Body>, Status> {
    let accept = Accept::read(&call.parts.headers)?;
    let options = WriteOptions::read(&call.query, "UpdateOptions")?;
    let validation = options.validation;
    let mut draft = Draft::new(call, kind, options)?;
    let object = decode_own(call, kind, &body, validation, &mut draft.warnings)?;
    check_name(&object, &call.info.name)?;
    let manager = managed::manager(&draft);
    let missing = call.info.subresource.is_empty() && kind.strategy.allow_create_on_update();
    let sent = object.clone();
    let done =
        update_object(&mut draft, &call.info.name, Source::Put, How::Update(&manager), |_, _| {
            Ok(object.clone())
        })
        .await;
    let (code, entry) = match done {
        Err(status) if missing && status.code == 404 => {
            (StatusCode::CREATED, create_object(&mut draft, sent, How::Update(&manager)).await?)
        }
        other => (StatusCode::OK, other.map_err(|status| status.warned(&draft.warnings))?),
    };
    let mut response = render::one(call, kind, accept, code, Thing::Entry(entry));
    render::warn(&mut response, &draft.warnings);
    Ok(response)
}

/// The object's name must be the URL's.
pub fn check_name(object: &Object, name: &str) -> Result<(), Status> {
    match meta_text(object, "name") {
        "" => Err(Status::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        ))),
        have if have != name => Err(Status::bad_request(format!(
            "the name of the object ({have}) does not match the name on the URL ({name})"
        ))),
        _ => Ok(()),
    }
}

/// Where the new object comes from: what happens when somebody else writes in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A whole object from the client.
    Put,
    /// Made from the current object: made again when that changes.
    Patch,
}

/// Replaces an object by what `make` makes of it. `make` runs again when somebody else wrote first
/// and the client did not insist on a revision.
pub async fn update_object(
    draft: &mut Draft<'_>,
    name: &str,
    source: Source,
    how: How<'_>,
    make: impl Fn(&Object, &mut Vec<String>) -> Result<Object, Status>,
) -> Result<Arc<Entry>, Status> {
    draft.call.server.storage.settled().await?;
    let mut current = draft.store.get(&draft.key(name));
    let warnings = draft.warnings.len();
    for _ in 0..ATTEMPTS {
        let Some(entry) = current else { return Err(Status::not_found(draft.kind.about(name))) };
        draft.warnings.truncate(warnings);
        let old = draft.served(&entry).await?;
        let mut made = Vec::new();
        let mut new = make(&old, &mut made);
        while draft.memo.fill(draft.call.server, draft.kind).await? {
            made.clear();
            new = make(&old, &mut made);
        }
        let new = new?;
        draft.warnings.append(&mut made);
        let insists = check_preconditions(draft, name, source, &new, &old)?;
        let attempt = Attempt { name, entry: &entry, old: &old, how };
        match replace(draft, attempt, new).await? {
            Written::Done(entry) => return Ok(entry),
            Written::Conflict(_) if insists => {
                return Err(Status::modified(draft.kind.about(name)));
            }
            Written::Conflict(found) => current = found,
        }
    }
    Err(Status::modified(draft.kind.about(name)))
}

/// Checks uid and resourceVersion of the new object; says whether the client named a revision.
fn check_preconditions(
    draft: &Draft<'_>,
    name: &str,
    source: Source,
    new: &Object,
    old: &Object,
) -> Result<bool, Status> {
    let kind = draft.kind;
    let about = || kind.about(name);
    let (uid, have) = (meta_text(new, "uid"), meta_text(old, "uid"));
    if source == Source::Put && !uid.is_empty() && uid != have {
        let key = format!("{}{}", draft.store.prefix, draft.key(name));
        return Err(Status::conflict(
            about(),
            &format!(
                "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, \
                 AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in \
                 object meta: {have}"
            ),
        ));
    }
    let revision = meta_text(new, "resourceVersion");
    if revision.is_empty() || revision == "0" {
        if kind.strategy.allow_unconditional_update() {
            return Ok(false);
        }
        let mut errors = FieldErrors::default();
        errors.invalid("metadata.resourceVersion", 0, "must be specified for an update");
        return Err(Status::invalid(&kind.group, &kind.plural, name, &errors));
    }
    if revision.parse::<u64>().is_err() {
        let shown = quote(revision);
        return Err(Status::plain(format!("strconv.ParseUint: parsing {shown}: invalid syntax")));
    }
    if revision != meta_text(old, "resourceVersion") {
        return Err(Status::modified(about()));
    }
    // A patch carries the revision of the object that it was made from.
    Ok(source == Source::Put)
}

/// One attempt to replace an object.
struct Attempt<'a> {
    name: &'a str,
    entry: &'a Arc<Entry>,
    old: &'a Object,
    how: How<'a>,
}

async fn replace(
    draft: &mut Draft<'_>,
    attempt: Attempt<'_>,
    mut new: Object,
) -> Result<Written, Status> {
    let Attempt { name, entry, old, how } = attempt;
    let kind = draft.kind;
    match_namespace(&mut new, &draft.call.info.namespace)?;
    kind.strategy.default(&mut new);
    managed::record(draft, Some(old), &mut new, how).await?;
    draft.mutate(Operation::Update, name, &mut new, Some(old)).await?;
    auth::check_grant(draft.call, kind, &new, Some(old)).await?;
    let mut errors = FieldErrors::default();
    if draft.author == Author::Client {
        prepare(draft, &mut new, old);
        meta::validate_update(&new, old, &mut errors);
        kind.strategy.validate_update(&draft.cx(), &new, old, &mut errors);
    }
    if !errors.is_empty() {
        return Err(Status::invalid(&kind.group, &kind.kind, name, &errors));
    }
    let warnings = kind.strategy.warnings(&draft.cx(), &new, Some(old));
    draft.warnings.extend(warnings);
    draft.admit(Operation::Update, name, Some(&new), Some(old)).await?;
    if draft.subresource.is_empty() {
        draft.charge(Operation::Update, name, &new, Some(old)).await?;
    }
    let guard = kind.strategy.allocate(&draft.cx(), &mut new, Some(old), &mut errors);
    if !errors.is_empty() {
        return Err(Status::invalid(&kind.group, &kind.kind, name, &errors));
    }
    normalize(kind, &mut new);
    managed::keep_times(old, &mut new);
    if is_complete(kind, &new) {
        let last = draft.last(name, entry, &new).await?;
        return Ok(match draft.remove(name, entry.revision).await? {
            Removed::Done(_) => {
                draft.follow(None, Some(old)).await;
                Written::Done(last)
            }
            Removed::Conflict(found) => Written::Conflict(found),
        });
    }
    let value = draft.stored(&new).await?;
    if draft.is_same(old, &new, &value).await? {
        let shown = convert::entry(draft.call.server, kind, entry.clone()).await?;
        return Ok(Written::Done(shown));
    }
    let written = draft.put(name, entry.revision, value).await?;
    if let Written::Done(entry) = &written {
        draft.follow(Some(&new), Some(old)).await;
        draft.settle(guard, entry.revision).await;
    }
    Ok(written)
}

/// Is a deleted object ready to go?
pub fn is_complete(kind: &Kind, object: &Object) -> bool {
    let grace = object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    is_deleting(object)
        && grace == 0
        && !has_finalizers(object)
        && !kind.strategy.holds_deletion(object)
}

/// Puts back what the request may not change.
fn prepare(draft: &Draft<'_>, new: &mut Object, old: &Object) {
    let kind = draft.kind;
    let sent = meta_mut(new);
    for name in KEPT {
        match old["metadata"].get(name) {
            Some(value) => sent.insert(name.to_owned(), value.clone()),
            None => sent.remove(name),
        };
    }
    match draft.subresource {
        "" if kind.has_status() => carry(new, old, "status"),
        "status" => keep_all_but_status(new, old),
        _ => {}
    }
    kind.strategy.prepare_for_update(&draft.cx(), new, old);
    let untouched = new["metadata"]["generation"] == old["metadata"]["generation"];
    let follows = kind.strategy.generation_follows().iter();
    let meta_changed =
        follows.copied().any(|name| new["metadata"].get(name) != old["metadata"].get(name));
    let changed = || meta_changed && draft.subresource.is_empty() || spec_changed(kind, new, old);
    if kind.strategy.has_generation() && untouched && changed() {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        meta_mut(new).insert("generation".to_owned(), generation.into());
    }
}

/// Takes one top-level field from the old object.
fn carry(new: &mut Object, old: &Object, field: &str) {
    let Some(map) = new.as_object_mut() else { return };
    match old.get(field) {
        Some(value) => map.insert(field.to_owned(), value.clone()),
        None => map.remove(field),
    };
}

/// An update of the status takes the status, and of the metadata what status strategies take.
fn keep_all_but_status(new: &mut Object, old: &Object) {
    let Some(sent) = new.as_object_mut() else { return };
    let fields: Vec<String> =
        sent.keys().chain(old.as_object().into_iter().flat_map(|o| o.keys())).cloned().collect();
    for field in fields {
        if !matches!(field.as_str(), "status" | "metadata" | "kind" | "apiVersion") {
            carry(new, old, &field);
        }
    }
    let sent = meta_mut(new);
    for field in ["labels", "ownerReferences", "finalizers"] {
        match old["metadata"].get(field) {
            Some(value) => sent.insert(field.to_owned(), value.clone()),
            None => sent.remove(field),
        };
    }
}

/// Did anything change but metadata and status?
fn spec_changed(kind: &Kind, new: &Object, old: &Object) -> bool {
    let mut new = new.clone();
    normalize(kind, &mut new);
    let status_too = kind.custom().is_some() && !kind.has_status();
    let relevant = |object: &Value| -> Vec<(String, Value)> {
        let map = object.as_object().into_iter().flatten();
        map.filter(|(name, _)| match name.as_str() {
            "metadata" | "kind" | "apiVersion" => false,
            "status" => status_too,
            _ => true,
        })
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
    };
    relevant(&new) != relevant(old)
}
