//! Mends the `:authority` of clients that dial a path or name a scheme.
//!
//! gRPC for Go sends what it dialled, `/run/k3s/store.sock` or `http://127.0.0.1:2379`, and etcd
//! does not mind. Our HTTP/2 library resets such a stream before anybody sees it, so the value is
//! changed on its way in. It knows frames and the syntax of header blocks, not their tables.
//!
//! Invariant: neither the octets nor the characters of a value change in number, for the sizes of
//! the tables on both sides depend on them. What is not understood passes as it is.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use http::uri::Authority;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a client says before its first frame.
const PREFACE_LEN: usize = 24;
const FRAME_HEAD_LEN: usize = 9;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;
const PRIORITY_LEN: usize = 5;
/// What is held back at most. No client needs more for the headers of a call.
const HEADERS_MAX: usize = 16 << 10;
const CHUNK: usize = 4096;
/// The place of `:authority` in the static table.
const AUTHORITY: usize = 1;

/// The characters of the Huffman code by the length of their codes. The codes of one length
/// are consecutive. Codes longer than these are of characters that no address has.
const SYMBOLS: [&[u8]; 16] = [
    b"",
    b"",
    b"",
    b"",
    b"",
    b"012aceiost",
    b" %-./3456789=A_bdfghlmnpru",
    b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
    b"&*,;XZ",
    b"",
    b"!\"()?",
    b"'+|",
    b"#>",
    b"\0$@[]~",
    b"^}",
    b"<`{",
];

/// An accepted connection whose requests have an authority that is one.
pub(crate) struct Mended<S> {
    io: S,
    scan: Scan,
    held: BytesMut,
    /// So much of `held` may be read.
    clear: usize,
}

impl<S> Mended<S> {
    pub(crate) fn new(io: S) -> Self {
        let scan = Scan::Frames { skip: PREFACE_LEN, mending: false };
        Self { io, scan, held: BytesMut::new(), clear: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Mended<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.clear > 0 {
                let len = this.clear.min(buf.remaining());
                buf.put_slice(&this.held[..len]);
                this.held.advance(len);
                this.clear -= len;
                return Poll::Ready(Ok(()));
            }
            if matches!(this.scan, Scan::Done) {
                this.held = BytesMut::new();
                return Pin::new(&mut this.io).poll_read(cx, buf);
            }
            let mut chunk = [0; CHUNK];
            let mut chunk = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut chunk))?;
            this.held.extend_from_slice(chunk.filled());
            this.clear = match chunk.filled().is_empty() {
                true => this.scan.give_up(&this.held),
                false => this.scan.advance(&mut this.held),
            };
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Mended<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// Where in the frames of a connection we are.
enum Scan {
    /// `skip` octets until the next frame. `mending`: the first request was in need of it, so the
    /// later ones are looked at too: a value that falls out of the table is spelled out again.
    Frames { skip: usize, mending: bool },
    /// Everything passes.
    Done,
}

impl Scan {
    /// Mends what is complete in `held`, which begins where the last call stopped, and says how
    /// much of it may pass. Only an unfinished frame head or HEADERS frame may not.
    fn advance(&mut self, held: &mut [u8]) -> usize {
        let Self::Frames { skip, mending } = self else { return held.len() };
        let mut at = 0;
        loop {
            let step = (*skip).min(held.len() - at);
            at += step;
            *skip -= step;
            let Some((head, rest)) = held[at..].split_first_chunk_mut::<FRAME_HEAD_LEN>() else {
                // Either within a frame and at the end of `held`, or before a frame head.
                return at;
            };
            let [high, middle, low, kind, flags, ..] = *head;
            let len = u32::from_be_bytes([0, high, middle, low]) as usize;
            if kind == HEADERS {
                if len > HEADERS_MAX {
                    return self.give_up(held);
                }
                let Some(payload) = rest.get_mut(..len) else { return at };
                *mending |= mend_headers(flags, payload).unwrap_or(false);
                if !*mending {
                    return self.give_up(held);
                }
            }
            *skip = FRAME_HEAD_LEN + len;
        }
    }

    fn give_up(&mut self, held: &[u8]) -> usize {
        *self = Self::Done;
        held.len()
    }
}

/// Whether the frame's authority was changed; `None` when the frame is malformed.
fn mend_headers(flags: u8, payload: &mut [u8]) -> Option<bool> {
    let mut block = payload;
    if flags & PADDED != 0 {
        let (padding, rest) = block.split_first_mut()?;
        let len = rest.len().checked_sub(usize::from(*padding))?;
        block = rest.get_mut(..len)?;
    }
    if flags & PRIORITY != 0 {
        block = block.get_mut(PRIORITY_LEN..)?;
    }
    mend_block(block)
}

fn mend_block(block: &mut [u8]) -> Option<bool> {
    let mut at = 0;
    while let Some(&first) = block.get(at) {
        let index_bits = match first {
            0x80.. => 7,
            0x40.. => 6,
            0x20.. => 5,
            _ => 4,
        };
        let index = integer(block, &mut at, index_bits)?;
        if matches!(index_bits, 7 | 5) {
            // A reference into a table, or the size of one: nothing follows.
            continue;
        }
        if index == 0 {
            string(block, &mut at)?;
        }
        let (huffman, start) = string(block, &mut at)?;
        if index == AUTHORITY {
            let value = &mut block[start..at];
            return if huffman { mend_huffman(value) } else { mend_plain(value) };
        }
    }
    Some(false)
}

/// An integer whose first octet has `bits` bits of it; `at` moves behind it.
fn integer(block: &[u8], at: &mut usize, bits: u32) -> Option<usize> {
    let most = (1 << bits) - 1;
    let mut value = usize::from(*block.get(*at)?) & most;
    *at += 1;
    if value < most {
        return Some(value);
    }
    // Three more octets are two million, beyond any frame that we look at.
    for shift in [0, 7, 14] {
        let octet = *block.get(*at)?;
        *at += 1;
        value += usize::from(octet & 0x7f) << shift;
        if octet & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Whether a string is in Huffman code, and where it starts; `at` moves behind it.
fn string(block: &[u8], at: &mut usize) -> Option<(bool, usize)> {
    let huffman = block.get(*at)? & 0x80 != 0;
    let len = integer(block, at, 7)?;
    let start = *at;
    *at = start.checked_add(len).filter(|end| *end <= block.len())?;
    Some((huffman, start))
}

fn mend_plain(value: &mut [u8]) -> Option<bool> {
    if Authority::try_from(&*value).is_ok() {
        return Some(false);
    }
    let mut mended = false;
    for symbol in value.iter_mut().filter(|symbol| !harmless(**symbol)) {
        *symbol = b'-';
        mended = true;
    }
    Some(mended)
}

/// Puts characters with codes of the same length in place of the harmful ones.
fn mend_huffman(value: &mut [u8]) -> Option<bool> {
    let codes = decode(value)?;
    let text: Vec<u8> = codes.iter().map(|code| code.symbol).collect();
    if Authority::try_from(text.as_slice()).is_ok() {
        return Some(false);
    }
    let mut changes = Vec::new();
    for code in codes.iter().filter(|code| !harmless(code.symbol)) {
        let place = |symbol| SYMBOLS[code.len].iter().position(|s| *s == symbol);
        let other = SYMBOLS[code.len].iter().position(|symbol| harmless(*symbol))?;
        // Codes of one length are in one row, so this turns the one into the other.
        changes.push((code, (code.bits - place(code.symbol)?) + other));
    }
    for (code, bits) in &changes {
        for bit in 0..code.len {
            let (octet, shift) = ((code.start + bit) / 8, 7 - (code.start + bit) % 8);
            let set = (bits >> (code.len - 1 - bit)) & 1;
            value[octet] = value[octet] & !(1 << shift) | (set as u8) << shift;
        }
    }
    Some(!changes.is_empty())
}

/// Harmless wherever in an authority it stands.
fn harmless(symbol: u8) -> bool {
    symbol.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&symbol)
}

/// A character in Huffman code.
struct Code {
    symbol: u8,
    bits: usize,
    /// In bits, both.
    start: usize,
    len: usize,
}

/// `None` when there is a code that we do not know.
fn decode(value: &[u8]) -> Option<Vec<Code>> {
    let end = value.len() * 8;
    let mut codes = Vec::new();
    let mut start = 0;
    while start < end {
        let (mut bits, mut first, mut found) = (0, 0, None);
        for (len, symbols) in SYMBOLS.iter().enumerate().skip(1) {
            let at = start + len - 1;
            if at >= end {
                // What is left is shorter than any other code: the padding.
                return (end - start < 8).then_some(codes);
            }
            bits = bits << 1 | usize::from(value[at / 8] >> (7 - at % 8) & 1);
            first = (first + SYMBOLS[len - 1].len()) << 1;
            if let Some(symbol) = symbols.get(bits - first) {
                found = Some(Code { symbol: *symbol, bits, start, len });
                break;
            }
        }
        let code = found?;
        start += code.len;
        codes.push(code);
    }
    Some(codes)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

    /// `:authority` as `etcdctl` spells what it was given.
    const UNIX: &[u8] = b"\x41\x8e\x61\x34\xd6\xc0\xed\x4c\xec\x21\x27\xb0\xab\xa0\xe4\xeb";
    const HTTP: &[u8] = b"\x41\x90\x9d\x29\xae\xe3\x0c\x04\x4e\xae\x05\xc0\xb8\x6e\x09\x97\x5f\x07";
    const HOST: &[u8] = b"\x41\x8b\x08\x9d\x5c\x0b\x81\x70\xdc\x13\x2e\xbe\x0f";

    fn text(literal: &[u8]) -> String {
        let value = &literal[2..];
        let symbols = match literal[1] & 0x80 {
            0 => value.to_vec(),
            _ => decode(value).unwrap().iter().map(|code| code.symbol).collect(),
        };
        String::from_utf8(symbols).unwrap()
    }

    #[test]
    fn an_authority_becomes_acceptable_and_keeps_its_length() {
        for (literal, before, after) in [
            (UNIX, "/tmp/auth/store.sock", "-tmp-auth-store.sock"),
            (HTTP, "http://127.0.0.1:23790", "httpB--127.0.0.1B23790"),
            (HOST, "127.0.0.1:23790", "127.0.0.1:23790"),
            (b"\x41\x06/s.%:]", "/s.%:]", "-s.---"),
            (b"\x01\x02/s", "/s", "-s"),
            (b"\x11\x02/s", "/s", "-s"),
            (b"\x41\x05[::1]", "[::1]", "[::1]"),
            (b"\x41\x00", "", ""),
            // A `#`, whose code nothing harmless is as long as.
            (b"\x41\x82\xff\xaf", "#", "#"),
            // Another header, literally named and indexed.
            (b"\x44\x02/s", "/s", "/s"),
        ] {
            assert_eq!(text(literal), before);
            let mut block = [b"\x83\x3f\x01\x40\x81\x1f\x81\x1f\x86", literal].concat();
            let at = block.len() - literal.len();
            let changed = mend_block(&mut block).unwrap_or(false);
            assert_eq!(changed, before != after, "{before}");
            assert_eq!(text(&block[at..]), after);
        }
    }

    fn headers(flags: u8, payload: &[u8]) -> Vec<u8> {
        let len = (payload.len() as u32).to_be_bytes();
        [&len[1..], &[HEADERS, flags, 0, 0, 0, 1], payload].concat()
    }

    /// What a reader gets of `sent`, written in pieces of `piece` octets.
    async fn through(sent: &[u8], piece: usize) -> Vec<u8> {
        let (mut near, far) = tokio::io::duplex(piece);
        let mut far = Mended::new(far);
        let mut got = Vec::new();
        let write = async {
            near.write_all(sent).await.unwrap();
            near.shutdown().await.unwrap();
        };
        let (_, read) = tokio::join!(write, far.read_to_end(&mut got));
        read.unwrap();
        got
    }

    #[tokio::test]
    async fn frames_are_found_however_they_arrive() {
        let plain = b"\x41\x02/s";
        let padded = [b"\x02".as_slice(), plain, b"/\0"].concat();
        let weighed = [b"\0\0\0\0\x10".as_slice(), plain].concat();
        let both = [b"\x01\0\0\0\0\x10".as_slice(), plain, b"\0"].concat();
        for (flags, payload) in [(4, plain.to_vec()), (12, padded), (36, weighed), (44, both)] {
            let frame = headers(flags, &payload);
            let sent = [PREFACE, SETTINGS, &frame, SETTINGS, &frame].concat();
            let mut expected = sent.clone();
            let mut at = 0;
            while let Some(next) = expected[at..].windows(4).position(|w| w == plain) {
                at += next;
                expected[at + 2] = b'-';
            }
            for piece in [1, 7, 4096] {
                assert_eq!(through(&sent, piece).await, expected, "flags {flags}");
            }
        }
    }

    #[tokio::test]
    async fn nothing_is_looked_for_after_a_first_request_that_is_well() {
        let frames = [headers(4, HOST), headers(4, b"\x41\x02/s")].concat();
        let sent = [PREFACE, SETTINGS, &frames].concat();
        assert_eq!(through(&sent, 5).await, sent);
    }

    #[tokio::test]
    async fn garbage_passes_as_it_is() {
        let huge = headers(4, &[0x41; HEADERS_MAX + 1]);
        let endless = headers(4, b"\x7f\xff\xff\xff\xff\xff\xff\xff");
        let outside = headers(4, b"\x41\x7f\xff\x01/");
        let padding = headers(12, b"\xff\x41\x02/s");
        let unfinished = b"\x00\x40\x00\x01\x04\0\0\0\x01\x41\x02/s".to_vec();
        for frame in [huge, endless, outside, padding, headers(44, b""), unfinished] {
            let sent = [PREFACE, &frame].concat();
            assert_eq!(through(&sent, 64).await, sent);
        }
        let mut random = 1_u32;
        for round in 0..20_000 {
            let mut block: Vec<u8> = (0..round % 40)
                .map(|_| {
                    random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (random >> 24) as u8
                })
                .collect();
            let len = block.len();
            mend_headers(random as u8, &mut block);
            mend_huffman(&mut block);
            assert_eq!(block.len(), len);
        }
    }

    #[tokio::test]
    async fn what_precedes_the_first_request_passes_at_once() {
        let (mut near, far) = tokio::io::duplex(64);
        let mut far = Mended::new(far);
        let mut got = [0; 33];
        near.write_all(PREFACE).await.unwrap();
        near.write_all(SETTINGS).await.unwrap();
        far.read_exact(&mut got).await.unwrap();
        assert_eq!(got, *[PREFACE, SETTINGS].concat());
    }

    /// The second request refers to the value that the first one put into the table.
    #[tokio::test]
    async fn a_recorded_client_is_heard() {
        for (literal, authority) in
            [(UNIX, "-tmp-auth-store.sock"), (HTTP, "httpB--127.0.0.1B23790")]
        {
            let first = headers(5, &[b"\x83\x86\x44\x02/x", literal].concat());
            let mut second = headers(5, b"\x83\x86\xbf\xbe");
            second[8] = 3;
            let (mut near, far) = tokio::io::duplex(4096);
            near.write_all(&[PREFACE, SETTINGS, &first, &second].concat()).await.unwrap();
            let mut server: h2::server::Connection<_, Bytes> =
                h2::server::handshake(Mended::new(far)).await.unwrap();
            for _ in 0..2 {
                let (request, _) = server.accept().await.unwrap().unwrap();
                assert_eq!(request.uri().authority().unwrap(), authority);
            }
        }
    }
}
