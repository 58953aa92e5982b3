//! One stream of a session, read and written like a socket.
//!
//! Invariant: what is buffered for a stream is bounded, since its peer is told to pause; writing
//! waits while the peer says so, or while the session's queue is full.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::PollSemaphore;

use crate::frame::Frame;
use crate::session::Session;

/// The peer is told to pause above this, and to resume below an eighth of it.
const HELD_PAUSE: usize = 512 << 10;
/// A peer that does not pause loses the stream.
const HELD_MAX: usize = 32 << 20;
/// The largest piece that is sent at once.
const PIECE_MAX: usize = 32 << 10;
/// What a piece takes of the queue, however small it is.
const PIECE_COST: usize = 1 << 10;

/// What the session and a stream's holder share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    inbox: VecDeque<Bytes>,
    held: usize,
    /// We asked the peer to pause.
    asked: bool,
    /// The peer asked us to pause.
    paused: bool,
    /// How the peer ended it, with a text when it failed.
    ended: Option<Option<String>>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl State {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

/// What to send after data has come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Fine,
    Pause,
    TooMuch,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Data from the peer.
    pub(crate) fn push(&self, bytes: Bytes) -> Verdict {
        let mut state = self.lock();
        state.held += bytes.len();
        state.inbox.push_back(bytes);
        if let Some(waker) = state.reader.take() {
            waker.wake();
        }
        if state.held > HELD_MAX {
            return Verdict::TooMuch;
        }
        if state.held > HELD_PAUSE && !state.asked {
            state.asked = true;
            return Verdict::Pause;
        }
        Verdict::Fine
    }

    /// The peer wants a pause, or no longer.
    pub(crate) fn pause(&self, paused: bool) {
        let mut state = self.lock();
        state.paused = paused;
        if let Some(waker) = state.writer.take() {
            waker.wake();
        }
    }

    /// The peer, or the session, ended the stream.
    pub(crate) fn end(&self, why: Option<String>) {
        let mut state = self.lock();
        state.ended.get_or_insert(why);
        state.wake();
    }
}

/// One stream. Dropping it ends it at the peer, too.
#[derive(Debug)]
pub struct Stream {
    id: i64,
    shared: Arc<Shared>,
    session: Session,
    budget: PollSemaphore,
    shut: bool,
}

impl Stream {
    pub(crate) fn new(id: i64, shared: Arc<Shared>, session: Session) -> Self {
        let budget = PollSemaphore::new(session.budget());
        Self { id, shared, session, budget, shut: false }
    }

    /// Ends the stream and says why.
    pub(crate) fn fail(mut self, why: String) {
        self.finish(Some(why));
    }

    fn finish(&mut self, why: Option<String>) {
        let ended = self.shared.lock().ended.is_some();
        if !self.shut && !ended {
            self.session.send(self.id, Frame::End(why), None);
        }
        self.shut = true;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.finish(None);
        self.session.forget(self.id);
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.shared.lock();
        let Some(first) = state.inbox.front_mut() else {
            return match &state.ended {
                Some(Some(why)) => {
                    Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, why.clone())))
                }
                Some(None) => Poll::Ready(Ok(())),
                None if self.shut => Poll::Ready(Ok(())),
                None => {
                    state.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        };
        let count = first.len().min(buffer.remaining());
        buffer.put_slice(&first.split_to(count));
        if !first.has_remaining() {
            state.inbox.pop_front();
        }
        state.held -= count;
        if state.asked && state.held < HELD_PAUSE / 8 {
            state.asked = false;
            self.session.send(self.id, Frame::Resume, None);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let broken = || io::Error::new(io::ErrorKind::BrokenPipe, "the stream has ended");
        {
            let mut state = self.shared.lock();
            if self.shut || state.ended.is_some() {
                return Poll::Ready(Err(broken()));
            }
            // Also while waiting for the queue: an end wakes every waiting writer.
            state.writer = Some(cx.waker().clone());
            if state.paused {
                return Poll::Pending;
            }
        }
        let count = bytes.len().min(PIECE_MAX);
        let Ok(wanted) = u32::try_from(count.max(PIECE_COST)) else {
            return Poll::Ready(Err(broken()));
        };
        let Some(permit) = ready!(self.budget.poll_acquire_many(cx, wanted)) else {
            return Poll::Ready(Err(broken()));
        };
        let piece = Bytes::copy_from_slice(bytes.get(..count).unwrap_or_default());
        self.session.send(self.id, Frame::Data(piece), Some(permit));
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The protocol knows no half-closed streams: this ends both directions.
    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish(None);
        Poll::Ready(Ok(()))
    }
}
