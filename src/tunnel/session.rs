//! One WebSocket and its streams: opens streams, and dials for the peer what the holder allows.
//!
//! Reading and writing are two loops, so that neither end waits for the other to read first. The
//! queue to the writer is bounded by permits for data; all else on it is small and an answer to
//! what came in. Invariant: when [`Runner::serve`] returns, every stream has ended.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::frame::Frame;
use crate::stream::{Shared, Stream, Verdict};

/// Data that may wait for the WebSocket, over all streams.
const QUEUED_MAX: usize = 1 << 20;
/// Streams that a peer may open.
const STREAMS_MAX: usize = 1000;
/// A peer that says nothing for so long is gone; k3s' time.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const DIAL_MAX: Duration = Duration::from_secs(10);

/// A handle to a session. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Session(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    queue: mpsc::UnboundedSender<Outgoing>,
    budget: Arc<Semaphore>,
    streams: Mutex<HashMap<i64, Arc<Shared>>>,
    next: AtomicI64,
    ended: CancellationToken,
}

#[derive(Debug)]
struct Outgoing {
    message: Message,
    _permit: Option<OwnedSemaphorePermit>,
}

/// What moves a session's bytes.
#[derive(Debug)]
pub struct Runner {
    session: Session,
    queue: mpsc::UnboundedReceiver<Outgoing>,
}

/// A session that has no WebSocket yet: streams may be opened at once.
#[allow(clippy::disallowed_methods, reason = "permits bound the queue, see QUEUED_MAX")]
pub fn session() -> (Session, Runner) {
    let (sender, queue) = mpsc::unbounded_channel();
    let session = Session(Arc::new(Inner {
        queue: sender,
        budget: Arc::new(Semaphore::new(QUEUED_MAX)),
        streams: Mutex::default(),
        next: AtomicI64::new(1),
        ended: CancellationToken::new(),
    }));
    (session.clone(), Runner { session, queue })
}

impl Session {
    /// Opens a stream to `tcp/address:port` as the peer sees it. Whether the peer could connect
    /// shows when the stream is read.
    ///
    /// # Errors
    /// When the session has ended.
    pub fn open(&self, target: &str) -> io::Result<Stream> {
        if self.is_ended() {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the tunnel has ended"));
        }
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let stream = self.add(id);
        self.send(id, Frame::Connect(target.to_owned()), None);
        Ok(stream)
    }

    /// Whether the session has ended.
    pub fn is_ended(&self) -> bool {
        self.0.ended.is_cancelled()
    }

    pub(crate) fn budget(&self) -> Arc<Semaphore> {
        self.0.budget.clone()
    }

    pub(crate) fn send(&self, stream: i64, frame: Frame, permit: Option<OwnedSemaphorePermit>) {
        let message = self.0.next.fetch_add(1, Ordering::Relaxed);
        let message = Message::Binary(frame.encode(message, stream));
        // A queue without a runner belongs to a session that has ended, and so have its streams.
        let _ = self.0.queue.send(Outgoing { message, _permit: permit });
    }

    pub(crate) fn forget(&self, id: i64) {
        self.streams().remove(&id);
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<i64, Arc<Shared>>> {
        self.0.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, id: i64) -> Stream {
        let shared = Arc::new(Shared::default());
        self.streams().insert(id, shared.clone());
        Stream::new(id, shared, self.clone())
    }

    fn end(&self) {
        self.0.ended.cancel();
        self.0.budget.close();
        let streams = std::mem::take(&mut *self.streams());
        for shared in streams.values() {
            shared.end(Some("the tunnel has ended".to_owned()));
        }
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.session.end();
    }
}

impl Runner {
    /// Serves until the WebSocket ends. `pings` makes this the end that asks for signs of life;
    /// `allow` says where a target (`tcp/127.0.0.1:10250`) is, for those that the peer may reach.
    pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
        mut self,
        socket: WebSocketStream<S>,
        pings: Option<Duration>,
        allow: impl Fn(&str) -> Option<SocketAddr>,
    ) -> io::Error {
        let (sink, stream) = socket.split();
        let session = self.session.clone();
        tokio::select! {
            err = write(sink, &mut self.queue, pings) => err,
            err = read(stream, &session, allow) => err,
        }
    }
}

type Sink<S> = SplitSink<WebSocketStream<S>, Message>;

async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    mut sink: Sink<S>,
    queue: &mut mpsc::UnboundedReceiver<Outgoing>,
    pings: Option<Duration>,
) -> io::Error {
    let mut ticks = interval(pings.unwrap_or(SILENCE_MAX));
    loop {
        let first = tokio::select! {
            Some(outgoing) = queue.recv() => outgoing.message,
            _ = ticks.tick(), if pings.is_some() => Message::Ping(Bytes::new()),
        };
        let sent = async {
            sink.feed(first).await?;
            while let Ok(outgoing) = queue.try_recv() {
                sink.feed(outgoing.message).await?;
            }
            sink.flush().await
        };
        if let Err(err) = sent.await {
            return broken(err);
        }
    }
}

async fn read<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: SplitStream<WebSocketStream<S>>,
    session: &Session,
    allow: impl Fn(&str) -> Option<SocketAddr>,
) -> io::Error {
    let mut dialled = JoinSet::new();
    loop {
        while dialled.try_join_next().is_some() {}
        let message = match timeout(SILENCE_MAX, stream.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(err))) => return broken(err),
            Ok(None) => return io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed it"),
            Err(_) => return io::Error::new(io::ErrorKind::TimedOut, "the peer fell silent"),
        };
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            // The library's own pong waits until something makes the writer flush.
            Message::Ping(payload) => {
                let message = Message::Pong(payload);
                let _ = session.0.queue.send(Outgoing { message, _permit: None });
                continue;
            }
            Message::Close(_) => {
                return io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed it");
            }
            _ => continue,
        };
        let Some((id, frame)) = Frame::decode(bytes) else {
            return io::Error::new(
                io::ErrorKind::InvalidData,
                "the peer does not speak the protocol",
            );
        };
        match frame {
            Frame::Connect(target) => match (accept(session, id), allow(&target)) {
                (Some(stream), Some(address)) => {
                    dialled.spawn(dial(stream, address));
                }
                (Some(stream), None) => {
                    debug!(target, "Refused a connection through the tunnel");
                    stream.fail(format!("connections to {target} are not allowed"));
                }
                (None, _) => {}
            },
            frame => receive(session, id, frame),
        }
    }
}

/// A stream that the peer opens; none when it has too many, or this one already.
fn accept(session: &Session, id: i64) -> Option<Stream> {
    let refused = {
        let streams = session.streams();
        streams.len() >= STREAMS_MAX || streams.contains_key(&id)
    };
    if refused {
        session.send(id, Frame::End(Some("too many streams".to_owned())), None);
        return None;
    }
    Some(session.add(id))
}

fn receive(session: &Session, id: i64, frame: Frame) {
    let shared = session.streams().get(&id).cloned();
    let Some(shared) = shared else {
        if matches!(frame, Frame::Data(_)) {
            session.send(id, Frame::End(Some("no such stream".to_owned())), None);
        }
        return;
    };
    match frame {
        Frame::Data(bytes) => match shared.push(bytes) {
            Verdict::Fine => {}
            Verdict::Pause => session.send(id, Frame::Pause, None),
            Verdict::TooMuch => {
                let why = "the peer did not pause".to_owned();
                session.send(id, Frame::End(Some(why.clone())), None);
                session.forget(id);
                shared.end(Some(why));
            }
        },
        Frame::Pause => shared.pause(true),
        Frame::Resume => shared.pause(false),
        Frame::End(why) => {
            session.forget(id);
            shared.end(why);
        }
        Frame::Connect(_) | Frame::Other => {}
    }
}

/// Connects a stream of the peer with what it wants to reach.
async fn dial(mut stream: Stream, address: SocketAddr) {
    let connected = timeout(DIAL_MAX, TcpStream::connect(address)).await;
    let mut local = match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(local) => local,
        Err(err) => return stream.fail(format!("dial {address}: {err}")),
    };
    if let Err(err) = copy_bidirectional(&mut stream, &mut local).await {
        debug!(%address, %err, "A connection through the tunnel broke");
    }
}

fn broken(err: tungstenite::Error) -> io::Error {
    match err {
        tungstenite::Error::Io(err) => err,
        err => io::Error::other(err),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    const TARGET: &str = "tcp/127.0.0.1:10250";

    /// An echo server behind a tunnel, and the session that reaches it.
    async fn tunnel() -> (Session, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (near, far) = tokio::io::duplex(64 << 10);
        let (session, runner) = session();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut echoes = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                echoes.spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        tasks.spawn(async move {
            runner.serve(crate::server(near).await, None, |_| None).await;
        });
        tasks.spawn(async move {
            let allow = |target: &str| (target == TARGET).then_some(address);
            let pings = Some(Duration::from_millis(10));
            super::session().1.serve(crate::client(far).await, pings, allow).await;
        });
        (session, tasks)
    }

    #[tokio::test]
    async fn streams_carry_bytes_side_by_side() {
        let (session, _tasks) = tunnel().await;
        let mut slow = session.open(TARGET).unwrap();
        // Nobody reads this one's echo: it must stop itself and nothing else.
        let flood = vec![7; 64 << 20];
        let stuck = timeout(Duration::from_secs(2), slow.write_all(&flood)).await;
        assert!(stuck.is_err(), "64 MiB went into a stream that nobody reads");
        let mut quick = session.open(TARGET).unwrap();
        quick.write_all(b"hello").await.unwrap();
        let mut got = [0; 5];
        quick.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello");
        quick.shutdown().await.unwrap();
        let mut rest = Vec::new();
        quick.read_to_end(&mut rest).await.unwrap();
        drop(quick);
        let mut count = 0;
        let mut buffer = vec![0; 64 << 10];
        while count < 1 << 20 {
            count += slow.read(&mut buffer).await.unwrap();
        }
        drop(slow);
        assert!(session.streams().is_empty());
    }

    #[tokio::test]
    async fn what_is_not_allowed_is_refused_with_the_reason() {
        let (session, _tasks) = tunnel().await;
        let mut stream = session.open("tcp/127.0.0.1:22").unwrap();
        let err = stream.read_u8().await.unwrap_err();
        assert!(err.to_string().contains("not allowed"), "{err}");
    }

    #[tokio::test]
    async fn the_end_of_a_session_ends_its_streams() {
        let (session, mut tasks) = tunnel().await;
        let mut stream = session.open(TARGET).unwrap();
        stream.write_all(b"x").await.unwrap();
        stream.read_u8().await.unwrap();
        tasks.shutdown().await;
        assert!(stream.read_u8().await.is_err());
        assert!(session.is_ended());
        assert!(session.open(TARGET).is_err());
    }
}
