//! PATCH: JSON, merge, strategic merge and apply, each made into an update.

use apimachinery::patch::{self, PatchKind, Typing};
use apimachinery::status::Status;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Map, Value};

use super::create::create_object;
use super::managed::{self, How};
use super::options::{Patch, WriteOptions};
use super::render::{self, Thing};
use super::update::{Source, check_name, update_object};
use super::write::{Draft, meta_mut, meta_text};
use crate::body::Body;
use crate::custom;
use crate::filter::Call;
use crate::kinds::Kind;
use crate::negotiate::{Accept, content_type};
use crate::registry::Object;

/// The patches of custom resources, as refusals list them.
const CUSTOM_PATCHES: &str =
    "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";

pub async fn patch(call: &Call<'_>, kind: &Kind, body: Bytes) -> Result<Response<Body>, Status> {
    let content = content_type(&call.parts.headers);
    if kind.custom().is_some() && content == "application/strategic-merge-patch+json" {
        return Err(Status::unsupported_media_type(CUSTOM_PATCHES));
    }
    let patch_kind = match content {
        "application/json-patch+json" => PatchKind::Json,
        "application/merge-patch+json" => PatchKind::Merge,
        "application/strategic-merge-patch+json" => PatchKind::Strategic,
        "application/apply-patch+yaml" => return apply(call, kind, body).await,
        _ => return Err(unsupported()),
    };
    let accept = Accept::read(&call.parts.headers)?;
    let options = WriteOptions::read_patch(&call.query, Patch::Plain)?;
    let mut draft = Draft::new(call, kind, options)?;
    let validation = draft.options.validation;
    let manager = managed::manager(&draft);
    let name = &call.info.name;
    let make = |old: &Object, warnings: &mut Vec<String>| {
        let typing = if kind.builtin.is_some() { Typing::Typed } else { Typing::Custom };
        let mut patched = patch::apply(patch_kind, old.clone(), &body, kind.node(), typing)?;
        if let Some(custom) = kind.custom() {
            patched.strict.extend(custom::decode::settle(kind, custom, &mut patched.value)?);
        }
        let (mut new, mut found) = patched.validated(validation)?;
        warnings.append(&mut found);
        check_kind(kind, &mut new)?;
        check_name(&new, name)?;
        Ok(new)
    };
    let done = update_object(&mut draft, name, Source::Patch, How::Update(&manager), make).await;
    let entry = done.map_err(|status| status.warned(&draft.warnings))?;
    let mut response = render::one(call, kind, accept, StatusCode::OK, Thing::Entry(entry));
    render::warn(&mut response, &draft.warnings);
    Ok(response)
}

/// A content type that is no patch.
pub fn unsupported() -> Status {
    let mut status = Status::new(415, "UnsupportedMediaType", "415: Unsupported Media Type");
    status.details = Value::Object(Map::new());
    status
}

/// A patch may not make another kind of it.
fn check_kind(kind: &Kind, new: &mut Object) -> Result<(), Status> {
    let (version, name) = (new["apiVersion"].as_str(), new["kind"].as_str());
    if version.is_some_and(|version| version != kind.api_version)
        || name.is_some_and(|name| name != kind.kind)
    {
        let version = version.unwrap_or_default().to_owned();
        let name = name.unwrap_or_default().to_owned();
        let (group, version) = match version.split_once('/') {
            Some((group, version)) => (group.to_owned(), version.to_owned()),
            None => (String::new(), version),
        };
        return Err(Status::bad_request(format!(
            "{name} in version \"{version}\" cannot be handled as a {}: converting \
             ({group}.{version}.{name}) to ({}.{}): unknown conversion",
            kind.kind, kind.plural, kind.kind
        )));
    }
    new["apiVersion"] = kind.api_version.as_str().into();
    new["kind"] = kind.kind.as_str().into();
    Ok(())
}

/// Server-side apply.
async fn apply(call: &Call<'_>, kind: &Kind, body: Bytes) -> Result<Response<Body>, Status> {
    let accept = Accept::read(&call.parts.headers)?;
    let options = WriteOptions::read_patch(&call.query, Patch::Apply)?;
    let mut draft = Draft::new(call, kind, options)?;
    let manager = managed::manager(&draft);
    let name = call.info.name.as_str();
    let config = read_config(&mut draft, &body)?;
    call.server.storage.settled().await?;
    let there = draft.store.get(&draft.key(name)).is_some();
    let mut created = false;
    let entry = if there {
        change(&mut draft, name, &config, &manager).await
    } else {
        Err(Status::not_found(kind.about(name)))
    };
    let entry = match entry {
        Err(status) if status.code == 404 && call.info.subresource.is_empty() => {
            let made = make_new(&mut draft, name, &config, &manager).await;
            created = made.is_ok();
            match made {
                Err(status) if status.reason == "AlreadyExists" => {
                    change(&mut draft, name, &config, &manager).await?
                }
                other => other?,
            }
        }
        other => other?,
    };
    let code = if created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = render::one(call, kind, accept, code, Thing::Entry(entry));
    render::warn(&mut response, &draft.warnings);
    Ok(response)
}

type Applied = Result<std::sync::Arc<crate::storage::entry::Entry>, Status>;

async fn change(draft: &mut Draft<'_>, name: &str, config: &Object, manager: &str) -> Applied {
    let mut planner = Draft::new(draft.call, draft.kind, draft.options.clone())?;
    planner.memo = draft.memo.clone();
    let make = |old: &Object, _: &mut Vec<String>| {
        let mut new = managed::apply(&planner, Some(old), config, manager)?;
        check_name(&new, name)?;
        super::object::settle(planner.kind, &mut new)?;
        Ok(new)
    };
    update_object(draft, name, Source::Patch, How::Applied, make).await
}

async fn make_new(draft: &mut Draft<'_>, name: &str, config: &Object, manager: &str) -> Applied {
    let uid = meta_text(config, "uid");
    if !uid.is_empty() {
        return Err(Status::conflict(
            draft.kind.about(name),
            &format!(
                "uid mismatch: the provided object specified uid {uid}, and no existing object \
                 was found"
            ),
        ));
    }
    let mut new = managed::apply(draft, None, config, manager)?;
    // It said which revision to change; there is none to change.
    meta_mut(&mut new).remove("resourceVersion");
    if meta_text(&new, "name").is_empty() {
        meta_mut(&mut new).insert("name".to_owned(), name.into());
    }
    check_name(&new, name)?;
    super::object::settle(draft.kind, &mut new)?;
    create_object(draft, new, How::Applied).await
}

/// The applied configuration: what the client means, nothing filled in.
fn read_config(draft: &mut Draft<'_>, body: &Bytes) -> Result<Object, Status> {
    let parsed = apimachinery::yaml::parse(body).map_err(|err| {
        Status::bad_request(format!("error decoding YAML: error converting YAML to JSON: {err}"))
    })?;
    let mut config = parsed.value;
    if !config.is_object() {
        config = Value::Object(Map::new());
    }
    let mut strict: Vec<String> = apimachinery::yaml::duplicate(body).into_iter().collect();
    use apimachinery::decode::FieldValidation;
    match draft.options.validation {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => draft.warnings.append(&mut strict),
        FieldValidation::Strict if strict.is_empty() => {}
        FieldValidation::Strict => {
            return Err(Status::bad_request(format!(
                "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  {}",
                strict.join("\n  ")
            )));
        }
    }
    Ok(config)
}
