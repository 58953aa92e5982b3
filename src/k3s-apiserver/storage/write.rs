//! Writes: one transaction each, on the condition that the object is at the revision we read.
//!
//! Invariant: a write whose answer was lost is never sent again before the store has been asked
//! what became of it.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use apimachinery::status::Status;
use bytes::Bytes;
use etcd::Code;
use etcd::etcdserverpb::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, Request, Response,
    TxnRequest,
};
use etcd::mvccpb::KeyValue;

use super::{Storage, unavailable};

/// What a transaction does to its key.
#[derive(Clone, Debug)]
pub enum Change {
    Put { value: Bytes, lease: i64 },
    Delete,
}

/// How a write ended, when the store decided.
#[derive(Debug)]
pub enum Outcome {
    /// Done, at this revision.
    Done(i64),
    /// The key was not at the expected revision; this is what is there.
    Conflict(Option<KeyValue>),
}

/// The lease that new Events share for a while.
#[derive(Debug, Default)]
pub struct EventLease {
    id: i64,
    until: Option<Instant>,
}

/// Events that come within this time share a lease, as upstream has it.
const LEASE_SHARED: Duration = Duration::from_secs(60);

impl Storage {
    /// Changes `key` if its revision is `expected` (0: it must not exist).
    pub async fn write(&self, key: &str, expected: i64, change: Change) -> Result<Outcome, Status> {
        let key = Bytes::copy_from_slice(key.as_bytes());
        let mut again = true;
        loop {
            let request = transaction(&key, expected, &change);
            match self.client.txn(request).await {
                Ok(answer) => {
                    let revision = answer.header.map_or(0, |header| header.revision);
                    if answer.succeeded {
                        self.written.fetch_max(revision, Ordering::AcqRel);
                        return Ok(Outcome::Done(revision));
                    }
                    let found = answer.responses.into_iter().next().and_then(|op| op.response);
                    let kv = match found {
                        Some(Response::Range(range)) => range.kvs.into_iter().next(),
                        _ => None,
                    };
                    return Ok(Outcome::Conflict(kv));
                }
                Err(err) if err.code == Code::Unavailable => {
                    match self.became(&key, expected, &change).await? {
                        Some(outcome) => return Ok(outcome),
                        None if again => again = false,
                        None => return Err(unavailable(err)),
                    }
                }
                Err(err) => return Err(Status::internal(err)),
            }
        }
    }

    /// What became of a write whose answer was lost; none when it was not carried out.
    async fn became(
        &self,
        key: &Bytes,
        expected: i64,
        change: &Change,
    ) -> Result<Option<Outcome>, Status> {
        let request = RangeRequest { key: key.clone(), ..RangeRequest::default() };
        let answer = self.client.range(request).await.map_err(unavailable)?;
        let header = answer.header.map_or(0, |header| header.revision);
        let found = answer.kvs.into_iter().next();
        if found.as_ref().map_or(0, |kv| kv.mod_revision) == expected {
            return Ok(None);
        }
        let done = match (change, &found) {
            (Change::Put { value, .. }, Some(kv)) if kv.value == *value => Some(kv.mod_revision),
            (Change::Delete, None) => Some(header),
            _ => None,
        };
        Ok(Some(match done {
            Some(revision) => {
                self.written.fetch_max(revision, Ordering::AcqRel);
                Outcome::Done(revision)
            }
            None => Outcome::Conflict(found),
        }))
    }

    /// A lease for objects that vanish after `ttl`, shared between those that come together.
    pub async fn event_lease(&self, ttl: Duration) -> Result<i64, Status> {
        let mut lease = self.leases.lock().await;
        let now = Instant::now();
        if lease.until.is_none_or(|until| until < now) {
            let seconds = (ttl + LEASE_SHARED).as_secs();
            let request = LeaseGrantRequest { ttl: seconds.cast_signed(), id: 0 };
            lease.id = self.client.lease_grant(request).await.map_err(unavailable)?.id;
            lease.until = Some(now + LEASE_SHARED);
        }
        Ok(lease.id)
    }
}

fn transaction(key: &Bytes, expected: i64, change: &Change) -> TxnRequest {
    let request = match change {
        Change::Put { value, lease } => Request::Put(PutRequest {
            key: key.clone(),
            value: value.clone(),
            lease: *lease,
            ..PutRequest::default()
        }),
        Change::Delete => Request::DeleteRange(DeleteRangeRequest {
            key: key.clone(),
            ..DeleteRangeRequest::default()
        }),
    };
    let read = Request::Range(RangeRequest { key: key.clone(), ..RangeRequest::default() });
    TxnRequest {
        compare: vec![Compare::mod_revision(key.clone(), expected)],
        success: vec![request.into()],
        failure: vec![read.into()],
    }
}
