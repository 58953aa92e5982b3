//! Who asks, and may they? Authentication, impersonation, authorisation.

use std::sync::Arc;

use http::request::Parts;

use crate::api_server::ApiServer;
use crate::request::RequestInfo;
use crate::server::Peer;
use crate::status::{About, Status};
use crate::user::UserInfo;

/// Finds out who asks. A client certificate was verified with the connection.
pub async fn authenticate(
    _server: &Arc<ApiServer>,
    peer: &Peer,
    _parts: &Parts,
    _info: &RequestInfo,
) -> Result<UserInfo, Status> {
    let certificate = peer.certificate.as_ref().ok_or_else(Status::unauthorized)?;
    let mut user = certificate.1.clone();
    user.groups.push("system:authenticated".to_owned());
    Ok(user)
}

/// Turns the user into the one that the `Impersonate-*` headers name.
pub async fn impersonate(
    _server: &Arc<ApiServer>,
    user: UserInfo,
    parts: &Parts,
    _info: &RequestInfo,
) -> Result<UserInfo, Status> {
    if parts.headers.contains_key("impersonate-user") {
        return Err(Status::plain("impersonation is not there yet"));
    }
    Ok(user)
}

/// Refuses what the user may not do.
pub async fn authorize(
    _server: &Arc<ApiServer>,
    user: &UserInfo,
    info: &RequestInfo,
) -> Result<(), Status> {
    if user.in_group("system:masters") {
        return Ok(());
    }
    let about = About { group: &info.group, resource: &info.resource, name: &info.name };
    Err(Status::forbidden(about, "authorization modes are not there yet, system:masters only"))
}
