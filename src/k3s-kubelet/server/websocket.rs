//! Kubernetes' channels over WebSocket: the first byte of each message names the stream.
//!
//! Speaks `v5`, `v4` and the old unversioned `channel.k8s.io`, each also in base64. Invariant: only
//! v4 and v5 report success; older clients take the end of the connection for it.

use base64::Engine as _;
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

const BASE64: base64::engine::GeneralPurpose = base64::engine::general_purpose::STANDARD;
const MESSAGE_MAX: usize = 32 << 20;

/// A version of the channel protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Protocol {
    pub(crate) name: &'static str,
    base64: bool,
    /// Messages on channel 255 close another channel.
    closes: bool,
    /// The error channel carries a Status, also on success.
    pub(crate) status: bool,
}

/// What the server can speak, best first.
pub(crate) const PROTOCOLS: &[Protocol] = &[
    Protocol { name: "v5.channel.k8s.io", base64: false, closes: true, status: true },
    Protocol { name: "v4.channel.k8s.io", base64: false, closes: false, status: true },
    Protocol { name: "v4.base64.channel.k8s.io", base64: true, closes: false, status: true },
    Protocol { name: "channel.k8s.io", base64: false, closes: false, status: false },
    Protocol { name: "base64.channel.k8s.io", base64: true, closes: false, status: false },
    Protocol { name: "", base64: false, closes: false, status: false },
];

/// The best protocol that the client offers; none offered means the oldest.
pub(crate) fn choose(offered: &[String]) -> Option<Protocol> {
    if offered.is_empty() {
        return PROTOCOLS.last().copied();
    }
    PROTOCOLS.iter().find(|p| offered.iter().any(|name| name == p.name)).copied()
}

/// How a stream that only goes one way is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plain {
    Binary,
    Base64,
}

/// The first way that the client offers and we know; none offered means bytes.
pub(crate) fn choose_plain(offered: &[String]) -> Option<(&'static str, Plain)> {
    if offered.is_empty() {
        return Some(("", Plain::Binary));
    }
    offered.iter().find_map(|name| match name.as_str() {
        "binary.k8s.io" => Some(("binary.k8s.io", Plain::Binary)),
        "base64.binary.k8s.io" => Some(("base64.binary.k8s.io", Plain::Base64)),
        _ => None,
    })
}

/// Sends everything that comes until it ends or the client leaves.
pub(crate) async fn send_all<T>(io: T, plain: Plain, mut pieces: mpsc::Receiver<Bytes>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sink, mut stream) = server(io).await.split();
    loop {
        tokio::select! {
            piece = pieces.recv() => {
                let Some(piece) = piece else { break };
                let message = match plain {
                    Plain::Binary => Message::binary(piece),
                    Plain::Base64 => Message::text(BASE64.encode(&piece)),
                };
                if sink.send(message).await.is_err() {
                    return;
                }
            }
            heard = stream.next() => match heard {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
        }
    }
    // The client may have closed first.
    let _ = sink.send(farewell()).await;
    let _ = sink.close().await;
}

/// What came from the client.
#[derive(Debug, PartialEq)]
pub(crate) enum Received {
    Data(u8, Bytes),
    Closed(u8),
}

/// The client's half of the conversation.
pub(crate) struct Incoming<T> {
    socket: SplitStream<WebSocketStream<T>>,
    protocol: Protocol,
}

/// Our half of the conversation.
pub(crate) struct Outgoing<T> {
    socket: SplitSink<WebSocketStream<T>, Message>,
    protocol: Protocol,
}

/// Both halves on an upgraded connection.
pub(crate) async fn channels<T: AsyncRead + AsyncWrite + Unpin>(
    io: T,
    protocol: Protocol,
) -> (Outgoing<T>, Incoming<T>) {
    let (sink, stream) = server(io).await.split();
    (Outgoing { socket: sink, protocol }, Incoming { socket: stream, protocol })
}

impl<T: AsyncRead + AsyncWrite + Unpin> Incoming<T> {
    /// The next message; `None` when the client is gone.
    pub(crate) async fn recv(&mut self) -> Option<Received> {
        loop {
            let message = self.socket.next().await?.ok()?;
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Text(text) => Bytes::from(text),
                Message::Close(_) => return None,
                _ => continue,
            };
            if let Some(received) = decode(self.protocol, &bytes) {
                return Some(received);
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Outgoing<T> {
    /// Sends data on a channel; false when the client is gone.
    pub(crate) async fn send(&mut self, channel: u8, data: &[u8]) -> bool {
        let message = if self.protocol.base64 {
            let channel = char::from(b'0' + channel);
            Message::text(format!("{channel}{}", BASE64.encode(data)))
        } else {
            let mut bytes = Vec::with_capacity(data.len() + 1);
            bytes.push(channel);
            bytes.extend_from_slice(data);
            Message::binary(bytes)
        };
        self.socket.send(message).await.is_ok()
    }

    pub(crate) async fn close(&mut self) {
        // The client may have closed first.
        let _ = self.socket.send(farewell()).await;
        let _ = self.socket.close().await;
    }
}

/// The closing message of an ordinary end. Clients take one without a code for an error.
pub(crate) fn farewell() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}

/// A server's WebSocket on an upgraded connection.
pub(crate) async fn server<T: AsyncRead + AsyncWrite + Unpin>(io: T) -> WebSocketStream<T> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

fn decode(protocol: Protocol, bytes: &Bytes) -> Option<Received> {
    let first = *bytes.first()?;
    if protocol.base64 {
        let data = BASE64.decode(&bytes[1..]).ok()?;
        return Some(Received::Data(first.checked_sub(b'0')?, data.into()));
    }
    if protocol.closes && first == 255 {
        return Some(Received::Closed(*bytes.get(1)?));
    }
    Some(Received::Data(first, bytes.slice(1..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_common_protocol_is_chosen() {
        let offer = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let name = |list: &[&str]| choose(&offer(list)).map(|protocol| protocol.name);
        assert_eq!(name(&["v4.channel.k8s.io", "v5.channel.k8s.io"]), Some("v5.channel.k8s.io"));
        assert_eq!(name(&["channel.k8s.io"]), Some("channel.k8s.io"));
        assert_eq!(name(&[]), Some(""));
        assert_eq!(name(&["bogus"]), None);
    }

    #[test]
    fn only_v5_closes_channels() {
        let bytes = Bytes::from_static(&[255, 0]);
        assert_eq!(decode(PROTOCOLS[0], &bytes), Some(Received::Closed(0)));
        let data = Received::Data(255, Bytes::from_static(&[0]));
        assert_eq!(decode(PROTOCOLS[1], &bytes), Some(data));
        let text = Bytes::from_static(b"1aGk=");
        assert_eq!(decode(PROTOCOLS[2], &text), Some(Received::Data(1, Bytes::from_static(b"hi"))));
    }
}
