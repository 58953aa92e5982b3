//! Managed fields of every write: who changed what.

use std::sync::Arc;

use api::schema::Node;
use apimachinery::apply::{
    ApplyError, FieldManager, Reset, Set, Versions, keep_timestamps, manager_or_user_agent,
};
use apimachinery::status::Status;
use serde_json::Value;

use super::object::to_version;
use super::write::Draft;
use crate::custom::convert::{Memo, converter};
use crate::kinds::Kind;
use crate::registry::Object;

/// How a write came about.
#[derive(Clone, Copy, Debug)]
pub enum How<'a> {
    /// Create, update, and patches other than apply, by this manager.
    Update(&'a str),
    /// The object carries its managed fields already.
    Applied,
}

/// The manager of a request.
pub fn manager(draft: &Draft<'_>) -> String {
    let agent = draft.call.parts.headers.get(http::header::USER_AGENT);
    let agent = agent.and_then(|value| value.to_str().ok()).unwrap_or_default();
    manager_or_user_agent(&draft.options.field_manager, agent)
}

/// Records in the new object who changed what.
pub async fn record(
    draft: &Draft<'_>,
    old: Option<&Object>,
    new: &mut Object,
    how: How<'_>,
) -> Result<(), Status> {
    let How::Update(manager) = how else { return Ok(()) };
    if converter(draft.kind).is_none() {
        record_now(draft, old, new, manager);
        return Ok(());
    }
    // Once more as long as conversions are missing.
    loop {
        let mut recorded = new.clone();
        record_now(draft, old, &mut recorded, manager);
        if !draft.memo.fill(draft.call.server, draft.kind).await? {
            *new = recorded;
            return Ok(());
        }
    }
}

fn record_now(draft: &Draft<'_>, old: Option<&Object>, new: &mut Object, manager: &str) {
    let reset = reset(draft.kind, draft.subresource);
    let versions = Others::of(draft);
    field_manager(draft, &reset, &versions).update(old, new, manager, draft.now);
}

/// Lays an applied configuration over the live object.
pub fn apply(
    draft: &Draft<'_>,
    live: Option<&Object>,
    config: &Object,
    manager: &str,
) -> Result<Object, Status> {
    let reset = reset(draft.kind, draft.subresource);
    let versions = Others::of(draft);
    let managers = field_manager(draft, &reset, &versions);
    managers.apply(live, config, manager, draft.options.force, draft.now).map_err(refused)
}

fn refused(err: ApplyError) -> Status {
    match err {
        ApplyError::BadRequest(message) => Status::bad_request(message),
        ApplyError::Internal(message) => Status::plain(message),
        ApplyError::Conflicts(conflicts) => {
            let mut status = Status::new(409, "Conflict", conflicts.message());
            let causes: Vec<Value> = conflicts
                .list()
                .iter()
                .map(|conflict| {
                    serde_json::json!({
                        "reason": "FieldManagerConflict",
                        "message": format!("conflict with {}", conflict.owner),
                        "field": conflict.field,
                    })
                })
                .collect();
            status.details = serde_json::json!({"causes": causes});
            status
        }
    }
}

/// Keeps the managers' times when nothing else changed.
pub fn keep_times(old: &Object, new: &mut Object) {
    keep_timestamps(old, new);
}

fn field_manager<'a>(
    draft: &'a Draft<'_>,
    reset: &'a Option<(bool, Set)>,
    versions: &'a Others<'a>,
) -> FieldManager<'a> {
    FieldManager {
        node: draft.kind.node(),
        api_version: &draft.kind.api_version,
        kind: &draft.kind.kind,
        subresource: draft.subresource,
        reset: match reset {
            None => Reset::Nothing,
            Some((true, set)) => Reset::Fields(set),
            Some((false, set)) => Reset::AllBut(set),
        },
        versions,
    }
}

/// What the strategy of a (sub)resource takes back: these fields, or (false) all but these.
fn reset(kind: &Kind, subresource: &str) -> Option<(bool, Set)> {
    let status = || Set::of_fields(&[&["status"]]);
    // What is signed is as it was asked for: nobody owns a request's spec.
    let signed = kind.resource == "certificatesigningrequests.certificates.k8s.io";
    match subresource {
        "" if signed => Some((true, Set::of_fields(&[&["spec"], &["status"]]))),
        "" if kind.has_status() => Some((true, status())),
        "status" => Some((false, status())),
        _ => None,
    }
}

/// The other versions of a kind.
struct Others<'a> {
    versions: Vec<Arc<Kind>>,
    kind: &'a Kind,
    memo: &'a Memo,
}

impl<'a> Others<'a> {
    fn of(draft: &'a Draft<'_>) -> Self {
        let kind = draft.kind;
        let versions = draft.call.server.kinds.versions(&kind.resource);
        Self { versions, kind, memo: &draft.memo }
    }
}

impl Versions for Others<'_> {
    fn convert<'a>(&'a self, object: &Value, api_version: &str) -> Option<(Value, Node<'a>)> {
        let other = self.versions.iter().find(|kind| kind.api_version == api_version)?;
        let mut object = object.clone();
        let from = object["apiVersion"].as_str().unwrap_or_default().to_owned();
        if from != api_version
            && converter(self.kind).is_some()
            && object["kind"] == self.kind.kind.as_str()
        {
            return Some((self.memo.get(&object, api_version)?, other.node()));
        }
        to_version(self.kind, &mut object, &from, api_version);
        Some((object, other.node()))
    }
}

/// The field manager of a Scale.
fn scale_manager<'a>(
    draft: &'a Draft<'_>,
    node: Node<'a>,
    versions: &'a Others<'a>,
) -> FieldManager<'a> {
    FieldManager {
        node,
        api_version: "autoscaling/v1",
        kind: "Scale",
        subresource: draft.subresource,
        reset: Reset::Nothing,
        versions,
    }
}

/// Records who changed a Scale.
pub fn record_scale(
    draft: &Draft<'_>,
    node: Node<'_>,
    old: &Value,
    new: &mut Value,
    manager: &str,
) {
    let versions = Others::of(draft);
    scale_manager(draft, node, &versions).update(Some(old), new, manager, draft.now);
}

/// Applies a Scale.
pub fn apply_scale(
    draft: &Draft<'_>,
    node: Node<'_>,
    live: &Value,
    config: &Value,
    manager: &str,
) -> Result<Value, Status> {
    let versions = Others::of(draft);
    let managers = scale_manager(draft, node, &versions);
    managers.apply(Some(live), config, manager, draft.options.force, draft.now).map_err(refused)
}
