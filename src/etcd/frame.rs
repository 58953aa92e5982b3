//! gRPC's message framing: a flag byte, a length, the message. No IO.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::status::{Code, Status};

const PREFIX: usize = 5;

/// One message ready for a DATA frame.
pub(crate) fn encode(message: &impl Message) -> Bytes {
    let len = message.encoded_len();
    let mut buf = BytesMut::with_capacity(PREFIX + len);
    buf.put_u8(0);
    buf.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    message.encode(&mut buf).expect("the buffer has the encoded length");
    buf.freeze()
}

/// Cuts DATA frames into messages.
pub(crate) struct Decoder {
    buf: BytesMut,
    whole: Option<Bytes>,
    limit: usize,
}

impl Decoder {
    /// Refuses messages of more than `limit` bytes before they are buffered.
    pub(crate) fn new(limit: usize) -> Self {
        Self { buf: BytesMut::new(), whole: None, limit }
    }

    pub(crate) fn push(&mut self, chunk: Bytes) {
        if self.buf.is_empty() && self.whole.is_none() {
            self.whole = Some(chunk);
            return;
        }
        if let Some(whole) = self.whole.take() {
            self.buf = whole.into();
        }
        self.buf.extend_from_slice(&chunk);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.whole.as_ref().is_none_or(Bytes::is_empty) && self.buf.is_empty()
    }

    /// The next complete message, `None` while bytes are missing.
    pub(crate) fn next<T: Message + Default>(&mut self) -> Result<Option<T>, Status> {
        let have = self.whole.as_deref().unwrap_or(&self.buf);
        let Some(len) = message_len(have, self.limit)? else { return Ok(None) };
        if have.len() < PREFIX + len {
            if self.whole.is_none() {
                self.buf.reserve(PREFIX + len - self.buf.len());
            }
            return Ok(None);
        }
        let message = match &mut self.whole {
            Some(whole) => {
                let mut message = whole.split_to(PREFIX + len);
                if whole.is_empty() {
                    self.whole = None;
                }
                message.split_off(PREFIX)
            }
            None => self.buf.split_to(PREFIX + len).freeze().split_off(PREFIX),
        };
        T::decode(message)
            .map(Some)
            .map_err(|err| Status::with(Code::Internal, format!("grpc: malformed message: {err}")))
    }
}

fn message_len(have: &[u8], limit: usize) -> Result<Option<usize>, Status> {
    let Some((&[flag, a, b, c, d], _)) = have.split_first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    if flag != 0 {
        return Err(Status::new(
            Code::Unimplemented,
            "grpc: compressed messages are not supported",
        ));
    }
    let len = u32::from_be_bytes([a, b, c, d]) as usize;
    if len > limit {
        return Err(Status::with(
            Code::ResourceExhausted,
            format!("grpc: received message larger than max ({len} vs. {limit})"),
        ));
    }
    Ok(Some(len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcdserverpb::PutRequest;

    fn put(value: &'static str) -> PutRequest {
        PutRequest { key: "k".into(), value: value.into(), ..Default::default() }
    }

    #[test]
    fn messages_are_found_however_the_frames_are_cut() {
        let mut wire = BytesMut::new();
        for value in ["one", "", "three"] {
            wire.extend_from_slice(&encode(&put(value)));
        }
        let wire = wire.freeze();
        for size in 1..=wire.len() {
            let mut decoder = Decoder::new(100);
            let mut got = Vec::new();
            for chunk in wire.chunks(size) {
                decoder.push(Bytes::copy_from_slice(chunk));
                while let Some(message) = decoder.next::<PutRequest>().unwrap() {
                    got.push(message);
                }
            }
            assert_eq!(got, [put("one"), put(""), put("three")], "chunks of {size}");
            assert!(decoder.is_empty());
        }
    }

    #[test]
    fn a_message_over_the_limit_is_refused_by_its_length() {
        let mut decoder = Decoder::new(10);
        decoder.push(Bytes::from_static(&[0, 0, 0, 0, 11]));
        assert_eq!(decoder.next::<PutRequest>().unwrap_err().code, Code::ResourceExhausted);
        let mut decoder = Decoder::new(10);
        decoder.push(Bytes::from_static(&[1, 0, 0, 0, 1, 0]));
        assert_eq!(decoder.next::<PutRequest>().unwrap_err().code, Code::Unimplemented);
    }
}
