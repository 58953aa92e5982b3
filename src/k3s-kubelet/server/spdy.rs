//! SPDY/3.1 as a client: what container runtimes speak on their streaming port.
//!
//! Knows frames and streams, nothing of exec. Windows are not enforced, as the peers of this
//! protocol (Go's spdystream) do not either; back-pressure is TCP's. Invariant: a frame that
//! declares more than [`FRAME_MAX`] or headers that inflate beyond [`HEADERS_MAX`] end the session.

use std::collections::HashMap;

use anyhow::{Context as _, bail, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

const FRAME_MAX: usize = 1 << 20;
const HEADERS_MAX: usize = 64 << 10;
const CHUNK_MAX: usize = 32 << 10;
const QUEUE: usize = 32;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const FIN: u8 = 1;
const CANCEL: u32 = 5;

/// The words of the header dictionary that precede its text.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding \
    accept-language accept-ranges age allow authorization cache-control connection content-base \
    content-encoding content-language content-length content-location content-md5 content-range \
    content-type date etag expect expires from host if-match if-modified-since if-none-match \
    if-range if-unmodified-since last-modified location max-forwards pragma proxy-authenticate \
    proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status";
const MORE_WORDS: &[&str] =
    &["200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin"];
const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416\
    417502504505203 Non-Authoritative Information204 No Content301 Moved Permanently\
    400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error\
    501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec \
    00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,\
    deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut out = Vec::with_capacity(1423);
    for word in WORDS.split_whitespace().chain(MORE_WORDS.iter().copied()) {
        out.put_u32(u32::try_from(word.len()).unwrap_or(0));
        out.put_slice(word.as_bytes());
    }
    out.put_slice(TEXT.as_bytes());
    out
}

/// Compresses header blocks; one stream for the whole session.
struct Deflater(Compress);

impl Deflater {
    fn new() -> anyhow::Result<Deflater> {
        let mut compress = Compress::new(Compression::default(), true);
        compress.set_dictionary(&dictionary()).context("setting the dictionary")?;
        Ok(Deflater(compress))
    }

    fn block(&mut self, headers: &[(&str, &str)]) -> anyhow::Result<Vec<u8>> {
        let mut plain = Vec::new();
        let length = |text: &str| u32::try_from(text.len()).context("header is too long");
        plain.put_u32(u32::try_from(headers.len()).context("too many headers")?);
        for (name, value) in headers {
            plain.put_u32(length(name)?);
            plain.put_slice(name.as_bytes());
            plain.put_u32(length(value)?);
            plain.put_slice(value.as_bytes());
        }
        let mut out = Vec::with_capacity(plain.len() + 256);
        self.0
            .compress_vec(&plain, &mut out, FlushCompress::Sync)
            .context("compressing headers")?;
        Ok(out)
    }
}

/// Follows the peer's header compression; the content does not matter to a client.
struct Inflater(Decompress);

impl Inflater {
    fn skip(&mut self, mut block: &[u8]) -> anyhow::Result<usize> {
        let mut total = 0;
        let mut out = [0; 4096];
        loop {
            let (before_in, before_out) = (self.0.total_in(), self.0.total_out());
            let result = self.0.decompress(block, &mut out, FlushDecompress::Sync);
            if let Err(err) = &result {
                ensure!(err.needs_dictionary().is_some(), "headers do not inflate: {err}");
                self.0.set_dictionary(&dictionary()).context("setting the dictionary")?;
            }
            let read = usize::try_from(self.0.total_in() - before_in)?;
            let made = usize::try_from(self.0.total_out() - before_out)?;
            block = &block[read..];
            total += made;
            ensure!(total <= HEADERS_MAX, "headers are too large");
            if result.is_ok() && block.is_empty() && made < out.len() {
                return Ok(total);
            }
            ensure!(result.is_err() || read + made > 0, "headers do not inflate");
        }
    }
}

/// What goes out, in order.
enum Out {
    Open { id: u32, headers: Vec<(String, String)> },
    Data { id: u32, data: Bytes, fin: bool },
    Pong(u32),
    Reset(u32),
}

/// One stream of a session.
pub(crate) struct Stream {
    id: u32,
    out: mpsc::Sender<Out>,
    data: mpsc::Receiver<Bytes>,
}

/// The sending half of a stream.
#[derive(Clone)]
pub(crate) struct Sender {
    id: u32,
    out: mpsc::Sender<Out>,
}

impl Stream {
    /// The next data; `None` when the peer has finished.
    pub(crate) async fn recv(&mut self) -> Option<Bytes> {
        self.data.recv().await
    }

    pub(crate) fn sender(&self) -> Sender {
        Sender { id: self.id, out: self.out.clone() }
    }
}

impl Sender {
    /// Sends data; false when the session is over.
    pub(crate) async fn send(&self, data: Bytes) -> bool {
        self.out.send(Out::Data { id: self.id, data, fin: false }).await.is_ok()
    }

    /// Ends this direction: the peer reads end of file.
    pub(crate) async fn finish(&self) {
        let fin = Out::Data { id: self.id, data: Bytes::new(), fin: true };
        // A session that is over needs no end of stream.
        let _ = self.out.send(fin).await;
    }

    pub(crate) async fn reset(&self) {
        let _ = self.out.send(Out::Reset(self.id)).await;
    }
}

/// The streams of one connection.
pub(crate) struct Session {
    next_id: u32,
    out: mpsc::Sender<Out>,
    register: mpsc::Sender<(u32, mpsc::Sender<Bytes>)>,
}

/// Moves the session's bytes; must be polled beside its use.
pub(crate) struct Driver<T> {
    io: T,
    outgoing: mpsc::Receiver<Out>,
    registered: mpsc::Receiver<(u32, mpsc::Sender<Bytes>)>,
    out: mpsc::WeakSender<Out>,
}

pub(crate) fn session<T>(io: T) -> (Session, Driver<T>) {
    let (out, outgoing) = mpsc::channel(QUEUE);
    let (register, registered) = mpsc::channel(QUEUE);
    let weak = out.downgrade();
    (Session { next_id: 1, out, register }, Driver { io, outgoing, registered, out: weak })
}

impl Session {
    /// Opens a stream with these headers.
    pub(crate) async fn open(&mut self, headers: &[(&str, &str)]) -> anyhow::Result<Stream> {
        let id = self.next_id;
        self.next_id += 2;
        let (sender, data) = mpsc::channel(QUEUE);
        self.register.send((id, sender)).await.ok().context("the session is over")?;
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let open = Out::Open { id, headers };
        self.out.send(open).await.ok().context("the session is over")?;
        Ok(Stream { id, out: self.out.clone(), data })
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    /// Runs until the connection ends or nobody uses the session any more.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let Driver { io, outgoing, registered, out } = self;
        let (read, write) = tokio::io::split(io);
        tokio::select! {
            done = read_frames(read, registered, out) => done,
            done = write_frames(write, outgoing) => done,
        }
    }
}

async fn write_frames<W: AsyncWrite + Unpin>(
    mut io: W,
    mut outgoing: mpsc::Receiver<Out>,
) -> anyhow::Result<()> {
    let mut deflater = Deflater::new()?;
    while let Some(out) = outgoing.recv().await {
        let mut frame = BytesMut::new();
        match out {
            Out::Open { id, headers } => {
                let headers: Vec<(&str, &str)> =
                    headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
                let block = deflater.block(&headers)?;
                control(&mut frame, SYN_STREAM, 0, 10 + block.len())?;
                frame.put_u32(id);
                frame.put_u32(0);
                frame.put_u16(0);
                frame.put_slice(&block);
            }
            Out::Data { id, data, fin } => {
                let mut rest = data;
                while rest.len() > CHUNK_MAX {
                    let chunk = rest.split_to(CHUNK_MAX);
                    data_frame(&mut frame, id, 0, &chunk)?;
                }
                data_frame(&mut frame, id, if fin { FIN } else { 0 }, &rest)?;
            }
            Out::Pong(id) => {
                control(&mut frame, PING, 0, 4)?;
                frame.put_u32(id);
            }
            Out::Reset(id) => {
                control(&mut frame, RST_STREAM, 0, 8)?;
                frame.put_u32(id);
                frame.put_u32(CANCEL);
            }
        }
        io.write_all(&frame).await?;
        io.flush().await?;
    }
    Ok(())
}

fn control(frame: &mut BytesMut, kind: u16, flags: u8, length: usize) -> anyhow::Result<()> {
    frame.put_u16(0x8003);
    frame.put_u16(kind);
    frame.put_u32(flagged_length(flags, length)?);
    Ok(())
}

fn data_frame(frame: &mut BytesMut, id: u32, flags: u8, data: &[u8]) -> anyhow::Result<()> {
    frame.put_u32(id);
    frame.put_u32(flagged_length(flags, data.len())?);
    frame.put_slice(data);
    Ok(())
}

fn flagged_length(flags: u8, length: usize) -> anyhow::Result<u32> {
    ensure!(length < 1 << 24, "frame is too long");
    Ok(u32::from(flags) << 24 | u32::try_from(length)?)
}

async fn read_frames<R: AsyncRead + Unpin>(
    mut io: R,
    mut registered: mpsc::Receiver<(u32, mpsc::Sender<Bytes>)>,
    out: mpsc::WeakSender<Out>,
) -> anyhow::Result<()> {
    let mut inflater = Inflater(Decompress::new(true));
    let mut streams: HashMap<u32, mpsc::Sender<Bytes>> = HashMap::new();
    let mut head = [0; 8];
    loop {
        match io.read_exact(&mut head).await {
            Ok(_) => {}
            Err(err) if err.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(err) => return Err(err).context("reading a frame"),
        }
        let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let flags = head[4];
        let length = usize::try_from(u32::from_be_bytes([0, head[5], head[6], head[7]]))?;
        ensure!(length <= FRAME_MAX, "frame of {length} bytes is too long");
        let mut body = vec![0; length];
        io.read_exact(&mut body).await.context("reading a frame")?;
        while let Ok((id, sender)) = registered.try_recv() {
            streams.insert(id, sender);
        }
        if word & 0x8000_0000 == 0 {
            if length > 0
                && let Some(stream) = streams.get(&word)
            {
                // A reader that is gone does not want the data.
                let _ = stream.send(Bytes::from(body)).await;
            }
            if flags & FIN != 0 {
                streams.remove(&word);
            }
            continue;
        }
        ensure!(word >> 16 == 0x8003, "peer speaks another version");
        let id = || -> anyhow::Result<u32> {
            let bytes = body.get(..4).context("frame is too short")?;
            Ok(u32::from_be_bytes(bytes.try_into()?) & 0x7fff_ffff)
        };
        match (word & 0xffff) as u16 {
            SYN_REPLY => {
                let id = id()?;
                inflater.skip(&body[4..])?;
                if flags & FIN != 0 {
                    streams.remove(&id);
                }
            }
            SYN_STREAM => bail!("peer opened a stream of its own"),
            RST_STREAM => {
                streams.remove(&id()?);
            }
            PING => {
                if let Some(out) = out.upgrade() {
                    let _ = out.send(Out::Pong(id()?)).await;
                }
            }
            GOAWAY => return Ok(()),
            // SETTINGS, WINDOW_UPDATE and whatever else changes nothing here.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_the_protocols() {
        let bytes = dictionary();
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in &bytes {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!((bytes.len(), b << 16 | a), (1423, 0xe3c6_a7c2));
    }

    #[test]
    fn headers_survive_both_directions_of_the_codec() {
        let mut deflater = Deflater::new().unwrap();
        let mut inflater = Inflater(Decompress::new(true));
        for _ in 0..3 {
            let block = deflater.block(&[("streamtype", "stdin")]).unwrap();
            assert_eq!(inflater.skip(&block).unwrap(), 4 + 4 + 10 + 4 + 5);
        }
        assert!(inflater.skip(&[0xff; 16]).is_err());
    }

    #[tokio::test]
    async fn a_long_frame_ends_the_session() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let (_session, driver) = session(ours);
        theirs.write_all(&[0, 0, 0, 1, 0, 0xff, 0xff, 0xff]).await.unwrap();
        assert!(driver.run().await.is_err());
    }

    #[tokio::test]
    async fn data_reaches_its_stream() {
        let (ours, mut theirs) = tokio::io::duplex(4096);
        let (mut session, driver) = session(ours);
        let talk = async {
            let mut stream = session.open(&[("streamtype", "stdout")]).await.unwrap();
            assert!(stream.sender().send(Bytes::from_static(b"in")).await);
            assert_eq!(stream.recv().await.unwrap(), "hi");
            assert_eq!(stream.recv().await, None);
        };
        let peer = async {
            let mut head = [0; 8];
            theirs.read_exact(&mut head).await.unwrap();
            assert_eq!(&head[..4], &[0x80, 3, 0, 1]);
            theirs.write_all(&[0, 0, 0, 1, 1, 0, 0, 2, b'h', b'i']).await.unwrap();
        };
        tokio::select! {
            _ = driver.run() => panic!("ended early"),
            _ = futures::future::join(talk, peer) => {}
        }
    }
}
