//! One message of the tunnel: three signed varints (message, stream, kind), for two kinds a fourth
//! that nobody reads any more, and the rest of the message.

use bytes::{BufMut, Bytes, BytesMut};

/// What remotedialer writes in the place of the deadline.
const DEADLINE_MS: i64 = 15_000;
/// The text of an end that is no failure.
const END: &[u8] = b"EOF";
/// The longest text of a failure, and target of a connection, that is read.
const TEXT_MAX: usize = 300;

/// A message, with the stream that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Data(Bytes),
    /// Open a stream to `protocol/address`.
    Connect(String),
    /// The stream has ended; with a text when it failed.
    End(Option<String>),
    Pause,
    Resume,
    /// Kinds that two ends without peers need not act upon.
    Other,
}

impl Frame {
    /// The message on the wire.
    pub(crate) fn encode(&self, message: i64, stream: i64) -> Bytes {
        let (kind, body): (i64, &[u8]) = match self {
            Self::Data(bytes) => (1, bytes),
            Self::Connect(target) => (2, target.as_bytes()),
            Self::End(None) => (3, END),
            Self::End(Some(why)) => (3, why.as_bytes()),
            Self::Pause => (6, &[]),
            Self::Resume => (7, &[]),
            Self::Other => (8, &[]),
        };
        let mut out = BytesMut::with_capacity(body.len() + 32);
        for number in [message, stream, kind] {
            put(&mut out, number);
        }
        if kind <= 2 {
            put(&mut out, DEADLINE_MS);
        }
        out.put_slice(body);
        out.freeze()
    }

    /// Reads a message; `None` when it is none.
    pub(crate) fn decode(mut bytes: Bytes) -> Option<(i64, Self)> {
        let _message = take(&mut bytes)?;
        let stream = take(&mut bytes)?;
        let kind = take(&mut bytes)?;
        if kind == 1 || kind == 2 {
            take(&mut bytes)?;
        }
        let text = |bytes: &Bytes| {
            let shown = bytes.get(..bytes.len().min(TEXT_MAX)).unwrap_or_default();
            String::from_utf8_lossy(shown).into_owned()
        };
        let frame = match kind {
            1 => Self::Data(bytes),
            2 => Self::Connect(text(&bytes)),
            3 if bytes == END => Self::End(None),
            3 => Self::End(Some(text(&bytes))),
            6 => Self::Pause,
            7 => Self::Resume,
            4 | 5 | 8 => Self::Other,
            _ => return None,
        };
        Some((stream, frame))
    }
}

/// Go's `binary.PutVarint`: zigzag, then seven bits a byte, the lowest first.
fn put(out: &mut BytesMut, number: i64) {
    let mut rest = ((number << 1) ^ (number >> 63)).cast_unsigned();
    while rest >= 0x80 {
        out.put_u8((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

fn take(bytes: &mut Bytes) -> Option<i64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.first()?;
        *bytes = bytes.slice(1..);
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(frame: Frame, wire: &[u8]) {
        let bytes = frame.encode(1, -3);
        assert_eq!(bytes, wire, "{frame:?}");
        assert_eq!(Frame::decode(bytes), Some((-3, frame)));
    }

    #[test]
    fn frames_look_as_remotedialer_writes_them() {
        // 15000 in zigzag is 30000: 0xb0 0xea 0x01.
        check(Frame::Data(Bytes::from_static(b"hi")), b"\x02\x05\x02\xb0\xea\x01hi");
        check(
            Frame::Connect("tcp/127.0.0.1:10250".into()),
            b"\x02\x05\x04\xb0\xea\x01tcp/127.0.0.1:10250",
        );
        check(Frame::End(None), b"\x02\x05\x06EOF");
        check(Frame::End(Some("no".into())), b"\x02\x05\x06no");
        check(Frame::Pause, b"\x02\x05\x0c");
        check(Frame::Resume, b"\x02\x05\x0e");
    }

    #[test]
    fn numbers_survive_and_garbage_is_refused() {
        for number in [0, 1, -1, 63, -64, 64, i64::MAX, i64::MIN] {
            let bytes = Frame::Pause.encode(number, number);
            assert_eq!(Frame::decode(bytes), Some((number, Frame::Pause)));
        }
        for bad in
            [&b""[..], b"\x02", b"\x02\x02\x7f", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"]
        {
            assert_eq!(Frame::decode(Bytes::copy_from_slice(bad)), None);
        }
    }
}
