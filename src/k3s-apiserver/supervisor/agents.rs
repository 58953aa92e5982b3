//! The agents that hold a tunnel to this server, and the way through it.
//!
//! Invariant: a session is in the list exactly while its WebSocket lives; of several sessions of one
//! node the newest is used.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use apimachinery::status::Status;
use http::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;
use tracing::{debug, info};
use tunnel::Session;

use super::Call;
use crate::auth::node::node_name;
use crate::body::{Body, full};
use crate::proxy;

/// Nodes whose password is remembered; past that the memory starts over.
const VERIFIED_MAX: usize = 10_000;

/// A verified password: the revision of its Secret, and its digest.
pub(super) type Verified = (i64, Vec<u8>);

/// What is known of agents.
#[derive(Debug, Default)]
pub struct Agents {
    sessions: Mutex<HashMap<String, Vec<Session>>>,
    connected: Notify,
    verified: Mutex<HashMap<String, Verified>>,
}

impl Agents {
    /// The tunnel to a node, if there is one.
    pub fn session(&self, node: &str) -> Option<Session> {
        self.sessions().get(node)?.iter().rev().find(|session| !session.is_ended()).cloned()
    }

    /// Waits until there is a tunnel to a node.
    pub async fn connected(&self, node: &str) -> Session {
        loop {
            let change = self.connected.notified();
            if let Some(session) = self.session(node) {
                return session;
            }
            change.await;
        }
    }

    pub(super) fn has_verified(&self, node: &str, seen: &Verified) -> bool {
        let verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        verified.get(node) == Some(seen)
    }

    pub(super) fn verified(&self, node: &str, seen: Verified) {
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if verified.len() >= VERIFIED_MAX {
            verified.clear();
        }
        verified.insert(node.to_owned(), seen);
    }

    fn add(&self, node: &str, session: Session) {
        self.sessions().entry(node.to_owned()).or_default().push(session);
        self.connected.notify_waiters();
    }

    fn remove_ended(&self, node: &str) {
        let mut sessions = self.sessions();
        if let Some(list) = sessions.get_mut(node) {
            list.retain(|session| !session.is_ended());
            if list.is_empty() {
                sessions.remove(node);
            }
        }
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<String, Vec<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Turns the connection of an agent into a tunnel.
pub(super) fn connect(call: &Call<'_>) -> Result<Response<Body>, Status> {
    let not = |what: &str| Status::bad_request(format!("not a WebSocket handshake: {what}"));
    let node = node_name(&call.user).ok_or_else(|| Status::bad_request("not a node"))?.to_owned();
    if !call.header("upgrade").eq_ignore_ascii_case("websocket") {
        return Err(not("Upgrade is missing"));
    }
    if call.header(SEC_WEBSOCKET_VERSION.as_str()) != "13" {
        return Err(not("the version must be 13"));
    }
    let key = call.parts.headers.get(SEC_WEBSOCKET_KEY).ok_or_else(|| not("the key is missing"))?;
    let accept = HeaderValue::from_str(&tunnel::accept_key(key.as_bytes()));
    let upgrade = call.parts.extensions.get::<OnUpgrade>().cloned();
    let upgrade = upgrade.ok_or_else(|| not("the connection cannot be upgraded, use HTTP/1.1"))?;
    let server = call.server.clone();
    proxy::run(call.server, async move {
        let io = match upgrade.await {
            Ok(io) => TokioIo::new(io),
            Err(err) => return debug!(node, %err, "Lost an agent before its tunnel was open"),
        };
        let (session, runner) = tunnel::session();
        server.agents.add(&node, session);
        info!(node, "An agent opened its tunnel");
        let err = runner.serve(tunnel::server(io).await, None, |_| None).await;
        server.agents.remove_ended(&node);
        info!(node, %err, "The tunnel of an agent ended");
    });
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept.map_err(Status::internal)?);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_living_session_of_a_node_is_used() {
        let agents = Agents::default();
        assert!(agents.session("a").is_none());
        let (old, old_runner) = tunnel::session();
        let (new, new_runner) = tunnel::session();
        agents.add("a", old);
        agents.add("a", new);
        drop(new_runner);
        assert!(agents.session("a").is_some_and(|session| !session.is_ended()));
        drop(old_runner);
        assert!(agents.session("a").is_none());
        agents.remove_ended("a");
        assert!(agents.sessions().is_empty());
    }
}
