//! Kubernetes' channels over a WebSocket: the first byte of every message names a stream.
//!
//! Invariant: the handshake is checked; a refusal carries the server's own words.

use anyhow::{Context, Result, bail};
use http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use kube::client::Body;
use serde_json::Value;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::server::Server;

/// A connection that carries channels.
pub(crate) type Socket = WebSocketStream<TokioIo<Upgraded>>;

pub(crate) const STDIN: u8 = 0;
pub(crate) const STDOUT: u8 = 1;
pub(crate) const STDERR: u8 = 2;
pub(crate) const ERROR: u8 = 3;
pub(crate) const RESIZE: u8 = 4;
/// With `v5`: the next byte names a channel that is closed.
pub(crate) const CLOSE: u8 = 255;

/// Opens a WebSocket on a subresource with the first protocol that the server takes.
pub(crate) async fn open(server: &Server, path: &str, protocols: &[&str]) -> Result<Socket> {
    let key = generate_key();
    let request = Request::get(path)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, &key)
        .header(header::SEC_WEBSOCKET_PROTOCOL, protocols.join(", "))
        .body(Body::empty())?;
    let response = server.client().send(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = response.status();
        let bytes = response.into_body().collect().await?.to_bytes();
        let said: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        match said["message"].as_str() {
            Some(message) => bail!("{message}"),
            None => bail!("unable to upgrade connection: {status}: {}", bytes.escape_ascii()),
        }
    }
    let accept = response.headers().get(header::SEC_WEBSOCKET_ACCEPT);
    if accept.is_none_or(|it| it != derive_accept_key(key.as_bytes()).as_str()) {
        bail!("unable to upgrade connection: the answer does not belong to the question");
    }
    let upgraded = hyper::upgrade::on(response).await.context("upgrading the connection")?;
    Ok(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await)
}
