//! GET of one object: the bytes that the cache has.

use std::time::Duration;

use apimachinery::status::Status;
use http::Response;

use super::options::parse_revision;
use super::render::{self, Thing};
use crate::body::Body;
use crate::custom::convert;
use crate::filter::Call;
use crate::kinds::Kind;
use crate::negotiate::Accept;
use crate::storage::keys::object_key;

/// How long a read waits for a resourceVersion that the cache has not seen.
pub const FRESH: Duration = Duration::from_secs(3);

pub async fn get(call: &Call<'_>, kind: &Kind) -> Result<Response<Body>, Status> {
    let accept = Accept::read(&call.parts.headers)?;
    let revision = parse_revision(call.query.text("resourceVersion")).map_err(Status::plain)?;
    wait(call, revision).await?;
    let store = call.server.storage.store(&kind.resource).ok_or_else(Status::no_resource)?;
    let info = &call.info;
    let entry = store
        .get(&object_key(&info.namespace, &info.name))
        .ok_or_else(|| Status::not_found(kind.about(&info.name)))?;
    let entry = convert::entry(call.server, kind, entry).await?;
    Ok(render::one(call, kind, accept, http::StatusCode::OK, Thing::Entry(entry)))
}

/// Waits as the resourceVersion of a read demands.
pub async fn wait(call: &Call<'_>, revision: Option<i64>) -> Result<i64, Status> {
    let storage = &call.server.storage;
    match revision {
        None => storage.settled().await,
        Some(revision) => match storage.reached(revision, FRESH).await {
            Some(now) => Ok(now),
            None => Err(too_large(revision, storage.revision())),
        },
    }
}

fn too_large(wanted: i64, now: i64) -> Status {
    let message = format!("Too large resource version: {wanted}, current: {now}");
    let mut status = Status::timeout(&message);
    status.details["causes"] = serde_json::json!([
        {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    ]);
    status
}
