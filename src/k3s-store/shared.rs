//! What the writer thread and the connections share, and how reads are answered from it.
//!
//! Invariant: locks are held for memory work only, in the order state, hub; never across `.await`
//! and never during a commit.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use etcd::Status;
use etcd::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader};
use etcd::status::{COMPACTED, FUTURE_REVISION};
use tokio::sync::watch;

use crate::apply::State;
use crate::database::{Identity, Reader};
use crate::failure::Failure;
use crate::hub::Hub;
use crate::index::Id;
use crate::select::Selection;

/// Reading connections that are kept open.
const READERS_KEPT: usize = 2;
/// This many values are read in place; more go to a thread that may block.
const IN_PLACE: usize = 4;
/// A read whose rows were compacted meanwhile starts over; the second time nothing newer can
/// have been compacted so soon, unless compaction runs wild.
const ATTEMPTS: usize = 8;

pub(crate) struct Shared {
    pub(crate) state: RwLock<State>,
    pub(crate) hub: Mutex<Hub>,
    pub(crate) identity: Identity,
    pub(crate) path: PathBuf,
    /// Whether the last write failed for want of space.
    full: watch::Sender<bool>,
    readers: Mutex<Vec<Reader>>,
}

impl Shared {
    pub(crate) fn new(path: PathBuf, state: State, identity: Identity) -> Self {
        Self {
            hub: Mutex::new(Hub::new(state.revision)),
            state: RwLock::new(state),
            identity,
            path,
            full: watch::Sender::new(false),
            readers: Mutex::default(),
        }
    }

    /// The last committed revision.
    pub(crate) fn revision(&self) -> i64 {
        read(&self.state).revision
    }

    /// Opens an answer.
    pub(crate) fn header(&self, revision: i64) -> Option<ResponseHeader> {
        let Identity { cluster_id, member_id } = self.identity;
        Some(ResponseHeader { cluster_id, member_id, revision, raft_term: 1 })
    }

    /// Notes whether there is room on the disk; true when that has changed.
    pub(crate) fn set_full(&self, full: bool) -> bool {
        self.full.send_if_modified(|now| std::mem::replace(now, full) != full)
    }

    pub(crate) fn is_full(&self) -> bool {
        *self.full.borrow()
    }

    /// Follows [`Shared::is_full`].
    pub(crate) fn fullness(&self) -> watch::Receiver<bool> {
        self.full.subscribe()
    }

    /// A consistent read of a checked request.
    pub(crate) async fn range(
        self: &std::sync::Arc<Self>,
        request: &RangeRequest,
    ) -> Result<RangeResponse, Status> {
        for _ in 0..ATTEMPTS {
            let (selection, revision) = self.select(request)?;
            let ids = match selection.needs_values {
                true => selection.keys.iter().map(|(_, version)| version.id).collect(),
                false => Vec::new(),
            };
            match self.values(ids).await {
                Ok(values) => {
                    let answer = selection.answer(values, request.keys_only);
                    return Ok(RangeResponse { header: self.header(revision), ..answer });
                }
                // Superseded and compacted since it was selected: select again.
                Err(Failure::Gone) => {}
                Err(failure) => return Err(failure.status()),
            }
        }
        Err(COMPACTED)
    }

    fn select(&self, request: &RangeRequest) -> Result<(Selection, i64), Status> {
        let state = read(&self.state);
        let at = if request.revision > 0 { request.revision } else { state.revision };
        if at > state.revision {
            return Err(FUTURE_REVISION);
        }
        if at < state.compacted {
            return Err(COMPACTED);
        }
        Ok((Selection::new(&state.index, request, at), state.revision))
    }

    /// The values of these changes, in their order. `Gone` when one of them was compacted.
    pub(crate) async fn values(
        self: &std::sync::Arc<Self>,
        ids: Vec<Id>,
    ) -> Result<Vec<Bytes>, Failure> {
        let mut values: Vec<Option<Bytes>> = {
            let hub = lock(&self.hub);
            ids.iter().map(|id| hub.value(*id)).collect()
        };
        let missing: Vec<Id> =
            ids.iter().zip(&values).filter(|(_, v)| v.is_none()).map(|(id, _)| *id).collect();
        let found = match missing.len() {
            0 => Vec::new(),
            1..=IN_PLACE => self.with_reader(|reader| reader.values(&missing))?,
            _ => self.blocking(move |reader| reader.values(&missing)).await?,
        };
        let mut found = found.into_iter();
        for value in values.iter_mut().filter(|v| v.is_none()) {
            *value = found.next();
        }
        Ok(values.into_iter().flatten().collect())
    }

    /// Runs long reads where they hold nobody up.
    pub(crate) async fn blocking<T: Send + 'static, E: From<Failure> + Send + 'static>(
        self: &std::sync::Arc<Self>,
        work: impl FnOnce(&Reader) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let shared = self.clone();
        let done = tokio::task::spawn_blocking(move || shared.with_reader(work)).await;
        // Only a panic, which ends the process, or the end of the runtime get here.
        done.unwrap_or_else(|_| Err(Failure::Refused(etcd::status::STOPPED).into()))
    }

    fn with_reader<T, E: From<Failure>>(
        &self,
        work: impl FnOnce(&Reader) -> Result<T, E>,
    ) -> Result<T, E> {
        let kept = lock(&self.readers).pop();
        let reader = match kept {
            Some(reader) => reader,
            None => Reader::open(&self.path)?,
        };
        let result = work(&reader);
        let mut readers = lock(&self.readers);
        if readers.len() < READERS_KEPT {
            readers.push(reader);
        }
        result
    }

    /// Closes the idle reading connections.
    pub(crate) fn close_readers(&self) {
        lock(&self.readers).clear();
    }
}

// A panic ends the process, so a poisoned lock is never seen.

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
