//! CREATE: from a body to a new object.

use std::sync::Arc;

use apimachinery::field::FieldErrors;
use apimachinery::status::Status;
use bytes::Bytes;
use http::{Response, StatusCode};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::Value;

use super::inert;
use super::managed;
use super::object::decode_own;
use super::options::WriteOptions;
use super::render::{self, Thing};
use super::write::{Draft, Written, is_deleting, match_namespace, meta_mut, meta_text, time_text};
use crate::admission::Operation;
use crate::auth;
use crate::body::Body;
use crate::filter::Call;
use crate::kinds::Kind;
use crate::negotiate::Accept;
use crate::registry::{Object, meta};
use crate::storage::entry::Entry;

/// Names tried for one `generateName`, as upstream does.
const NAMES_TRIED: usize = 8;
/// The longest part of `generateName` that is kept: names have at most 63 bytes.
const BASE_MAX: usize = 58;

pub async fn create(call: &Call<'_>, kind: &Kind, body: Bytes) -> Result<Response<Body>, Status> {
    let accept = Accept::read(&call.parts.headers)?;
    let options = WriteOptions::read(&call.query, "CreateOptions")?;
    let validation = options.validation;
    let mut draft = Draft::new(call, kind, options)?;
    let object = decode_own(call, kind, &body, validation, &mut draft.warnings)?;
    let manager = managed::manager(&draft);
    let created = create_object(&mut draft, object, managed::How::Update(&manager)).await;
    let entry = created.map_err(|status| status.warned(&draft.warnings))?;
    let mut response = render::one(call, kind, accept, StatusCode::CREATED, Thing::Entry(entry));
    render::warn(&mut response, &draft.warnings);
    Ok(response)
}

/// Brings a decoded object into the store. Also what apply and PUT do when there is none.
pub async fn create_object(
    draft: &mut Draft<'_>,
    mut object: Object,
    how: managed::How<'_>,
) -> Result<Arc<Entry>, Status> {
    // Admission reads the caches: they must show what was acknowledged before.
    draft.call.server.storage.settled().await?;
    let base = match meta_text(&object, "name") {
        "" => meta_text(&object, "generateName").to_owned(),
        _ => String::new(),
    };
    match_namespace(&mut object, &draft.call.info.namespace)?;
    draft.kind.strategy.default(&mut object);
    managed::record(draft, None, &mut object, how).await?;
    let mut taken = String::new();
    if base.is_empty() {
        if let Some(entry) = once(draft, object, false).await? {
            return Ok(entry);
        }
    } else {
        for _ in 0..NAMES_TRIED {
            let mut object = object.clone();
            taken = generate(&base);
            meta_mut(&mut object).insert("name".to_owned(), taken.as_str().into());
            if let Some(entry) = once(draft, object, true).await? {
                return Ok(entry);
            }
        }
    }
    let mut status = Status::already_exists(draft.kind.about(&taken));
    status.message.push_str(", the server was not able to generate a unique name for the object");
    status.details["retryAfterSeconds"] = 1.into();
    Err(status)
}

/// One attempt; none when a generated name is taken.
async fn once(
    draft: &mut Draft<'_>,
    mut object: Object,
    generated: bool,
) -> Result<Option<Arc<Entry>>, Status> {
    let kind = draft.kind;
    if kind.custom().is_some_and(|custom| custom.terminating) {
        let why = "create not allowed while custom resource definition is terminating";
        return Err(Status::new(405, "MethodNotAllowed", why));
    }
    let name = meta_text(&object, "name").to_owned();
    draft.mutate(Operation::Create, &name, &mut object, None).await?;
    auth::check_grant(draft.call, kind, &object, None).await?;
    prepare(draft, &mut object);
    let mut errors = FieldErrors::default();
    meta::validate(kind, &object, &mut errors);
    kind.strategy.validate(&draft.cx(), &object, &mut errors);
    if !errors.is_empty() {
        return Err(Status::invalid(&kind.group, said_kind(&object, kind), &name, &errors));
    }
    let warnings = kind.strategy.warnings(&draft.cx(), &object, None);
    draft.warnings.extend(warnings);
    draft.admit(Operation::Create, &name, Some(&object), None).await?;
    draft.charge(Operation::Create, &name, &object, None).await?;
    let guard = kind.strategy.allocate(&draft.cx(), &mut object, None, &mut errors);
    if !errors.is_empty() {
        return Err(Status::invalid(&kind.group, &kind.kind, &name, &errors));
    }
    match meta_text(&object, "resourceVersion") {
        "" | "0" => {}
        _ => {
            return Err(Status::plain(
                "resourceVersion should not be set on objects to be created",
            ));
        }
    }
    super::object::normalize(kind, &mut object);
    let value = draft.stored(&object).await?;
    if draft.options.dry_run && draft.store.get(&draft.key(&name)).is_some() {
        return Err(Status::already_exists(kind.about(&name)));
    }
    match draft.put(&name, 0, value).await? {
        Written::Done(entry) => {
            draft.follow(Some(&object), None).await;
            draft.settle(guard, entry.revision).await;
            inert::tell(&kind.kind, &name);
            Ok(Some(entry))
        }
        Written::Conflict(_) if generated => Ok(None),
        Written::Conflict(found) => {
            let mut status = Status::already_exists(kind.about(&name));
            if found.is_some_and(|entry| is_deleting(&entry.object())) {
                status.message = format!("object is being deleted: {}", status.message);
            }
            Err(status)
        }
    }
}

/// The kind that a refusal names: a custom resource's body may say another.
fn said_kind<'o>(object: &'o Object, kind: &'o Kind) -> &'o str {
    object["kind"].as_str().unwrap_or(&kind.kind)
}

/// What the server alone says about a new object.
fn prepare(draft: &Draft<'_>, object: &mut Object) {
    let kind = draft.kind;
    let meta = meta_mut(object);
    for name in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        meta.remove(name);
    }
    meta.insert("creationTimestamp".to_owned(), time_text(draft.now).into());
    meta.insert("uid".to_owned(), uuid::Uuid::new_v4().to_string().into());
    if kind.strategy.has_generation() {
        meta.insert("generation".to_owned(), Value::from(1));
    }
    if kind.has_status()
        && !kind.strategy.keeps_status_on_create()
        && let Some(map) = object.as_object_mut()
    {
        map.remove("status");
    }
    kind.strategy.prepare_for_create(&draft.cx(), object);
}

/// `generateName` with five letters and digits that read well.
fn generate(base: &str) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut base = base;
    if base.len() > BASE_MAX {
        let mut end = BASE_MAX;
        while !base.is_char_boundary(end) {
            end -= 1;
        }
        base = &base[..end];
    }
    let mut random = [0_u8; 5];
    // The kernel's random numbers do not fail after boot; equal names are met with another try.
    let _unlikely = SystemRandom::new().fill(&mut random);
    let suffix: String =
        random.iter().map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()])).collect();
    format!("{base}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_keep_the_base_and_fit_a_label() {
        let name = generate("web-");
        assert!(name.starts_with("web-") && name.len() == 9, "{name}");
        assert_eq!(generate(&"a".repeat(80)).len(), 63);
    }
}
