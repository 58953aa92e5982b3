//! Many byte streams over one WebSocket: how a server reaches the kubelet of an agent that only
//! dials out.
//!
//! The frames are those of rancher/remotedialer, which k3s uses. Knows nothing of Kubernetes, TLS
//! or who may connect. Invariant: a slow reader stops only its own stream, and a session that has
//! ended leaves no stream waiting.

mod frame;
mod session;
mod stream;

pub use session::{Runner, Session, session};
pub use stream::Stream;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

/// The largest message: peers copy 32 KiB at a time.
const MESSAGE_MAX: usize = 1 << 20;

/// The client's end of an upgraded connection.
pub async fn client<S: AsyncRead + AsyncWrite + Unpin>(io: S) -> WebSocketStream<S> {
    WebSocketStream::from_raw_socket(io, Role::Client, Some(config())).await
}

/// The server's end of an upgraded connection.
pub async fn server<S: AsyncRead + AsyncWrite + Unpin>(io: S) -> WebSocketStream<S> {
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config())).await
}

/// What `Sec-WebSocket-Accept` must be for a key.
pub fn accept_key(key: &[u8]) -> String {
    tokio_tungstenite::tungstenite::handshake::derive_accept_key(key)
}

/// A `Sec-WebSocket-Key` for a new connection.
pub fn new_key() -> String {
    tokio_tungstenite::tungstenite::handshake::client::generate_key()
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default().max_message_size(Some(MESSAGE_MAX)).max_frame_size(Some(MESSAGE_MAX))
}
