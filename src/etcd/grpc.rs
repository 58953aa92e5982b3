//! What both ends share of gRPC over HTTP/2: the end of a stream as [`Status`], sending with
//! flow control, receiving messages.

use std::borrow::Cow;
use std::future::poll_fn;
use std::marker::PhantomData;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue};
use prost::Message;

use crate::frame::{self, Decoder};
use crate::status::{Code, Status};

pub(crate) const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
/// A stream may have this much on its way before the reader has seen it.
pub(crate) const STREAM_WINDOW: u32 = 4 << 20;
pub(crate) const CONNECTION_WINDOW: u32 = 64 << 20;
pub(crate) const FRAME_SIZE: u32 = 256 << 10;

/// The `grpc-status` of trailers, or of headers that are the whole answer.
pub(crate) fn status_of(headers: &HeaderMap) -> Option<Result<(), Status>> {
    let code = Code::from_ascii(headers.get("grpc-status")?.as_bytes());
    if code == Code::Ok {
        return Some(Ok(()));
    }
    let text = headers.get("grpc-message").map_or(&b""[..], HeaderValue::as_bytes);
    Some(Err(Status { code, message: Cow::Owned(unescape(text)) }))
}

/// Writes a status into trailers.
pub(crate) fn put_status(headers: &mut HeaderMap, status: &Result<(), Status>) {
    let code = status.as_ref().map_or_else(|s| s.code, |()| Code::Ok);
    headers.insert("grpc-status", HeaderValue::from(code as u16));
    if let Err(status) = status
        && let Ok(text) = HeaderValue::from_bytes(escape(&status.message).as_bytes())
    {
        headers.insert("grpc-message", text);
    }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn unescape(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let hex = tail.first_chunk::<2>().and_then(|h| std::str::from_utf8(h).ok());
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) if *first == b'%' => {
                out.push(byte);
                rest = &tail[2..];
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The peer or the network ended the stream without a gRPC status.
pub(crate) fn broken(err: &h2::Error) -> Status {
    if err.reason() == Some(h2::Reason::CANCEL) {
        return Status::with(Code::Canceled, "grpc: the stream was cancelled");
    }
    Status::unavailable(format!("grpc: connection broken: {err}"))
}

/// The messages that the peer sends on one stream.
pub struct Receiver<T> {
    body: RecvStream,
    decoder: Decoder,
    message: PhantomData<fn() -> T>,
}

impl<T: Message + Default> Receiver<T> {
    pub(crate) fn new(body: RecvStream, limit: usize) -> Self {
        Self { body, decoder: Decoder::new(limit), message: PhantomData }
    }

    /// The next message; `None` when the peer has sent its last. Safe to cancel.
    pub async fn next(&mut self) -> Result<Option<T>, Status> {
        loop {
            if let Some(message) = self.decoder.next()? {
                return Ok(Some(message));
            }
            let Some(chunk) = self.body.data().await else { break };
            let chunk = chunk.map_err(|err| broken(&err))?;
            self.body.flow_control().release_capacity(chunk.len()).map_err(|err| broken(&err))?;
            self.decoder.push(chunk);
        }
        if !self.decoder.is_empty() {
            return Err(Status::new(Code::Internal, "grpc: the stream ended within a message"));
        }
        Ok(None)
    }

    /// The status after the last message.
    pub(crate) async fn status(&mut self) -> Result<(), Status> {
        let trailers = self.body.trailers().await.map_err(|err| broken(&err))?;
        trailers.as_ref().and_then(status_of).unwrap_or_else(|| {
            Err(Status::new(Code::Unavailable, "grpc: the stream ended without a status"))
        })
    }
}

/// Sends messages on one stream, no faster than the peer reads.
pub struct Sender<T> {
    pub(crate) stream: SendStream<Bytes>,
    message: PhantomData<fn(T)>,
}

impl<T: Message> Sender<T> {
    pub(crate) fn new(stream: SendStream<Bytes>) -> Self {
        Self { stream, message: PhantomData }
    }

    /// Returns when the message is on its way; an error means that the peer is gone.
    pub async fn send(&mut self, message: &T) -> Result<(), Status> {
        let mut data = frame::encode(message);
        while !data.is_empty() {
            self.stream.reserve_capacity(data.len());
            let room = match poll_fn(|cx| self.stream.poll_capacity(cx)).await {
                Some(Ok(room)) => room,
                Some(Err(err)) => return Err(broken(&err)),
                None => return Err(Status::new(Code::Canceled, "grpc: the stream is closed")),
            };
            let part = data.split_to(room.min(data.len()));
            self.stream.send_data(part, false).map_err(|err| broken(&err))?;
        }
        Ok(())
    }

    /// Resolves when the peer has given up the stream.
    pub async fn closed(&mut self) {
        let _ = poll_fn(|cx| self.stream.poll_reset(cx)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_survives_the_trailers() {
        for text in ["plain", "50 % of \u{e4}\n", "%zz", ""] {
            let status = Err(Status::with(Code::NotFound, text));
            let mut headers = HeaderMap::new();
            put_status(&mut headers, &status);
            assert_eq!(status_of(&headers), Some(status));
        }
        let mut headers = HeaderMap::new();
        put_status(&mut headers, &Ok(()));
        assert_eq!(status_of(&headers), Some(Ok(())));
        assert_eq!(status_of(&HeaderMap::new()), None);
    }
}
