//! Carries out writes and transactions on the in-memory state. No disk, no clock.
//!
//! Invariant: a request either changes the state and leaves its undo, or it changes nothing;
//! all changes of one request have one revision.

use std::sync::Arc;

use bytes::Bytes;
use etcd::Status;
use etcd::etcdserverpb::{
    Compare, CompareResult, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, Request, RequestOp, Response, ResponseHeader, TargetUnion,
    TxnRequest, TxnResponse,
};
use etcd::mvccpb::{Event, EventType, KeyValue};
use etcd::status::{
    COMPACTED, FUTURE_REVISION, KEY_NOT_FOUND, LEASE_EXISTS, LEASE_NOT_FOUND, TOO_MANY_OPS,
};

use crate::failure::Failure;
use crate::index::{Id, Index, Version};
use crate::keys::KeyRange;
use crate::lessor::{Lease, Lessor};
use crate::select::{Selection, pair};

/// Everything but the values.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) index: Index,
    pub(crate) lessor: Lessor,
    /// The last committed revision; reads look no further.
    pub(crate) revision: i64,
    /// Older revisions are gone; -1 before the first compaction.
    pub(crate) compacted: i64,
}

/// One change as the history and the watchers get it.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) id: Id,
    /// `prev_kv` is there when it existed and `prev_known`.
    pub(crate) event: Event,
    pub(crate) prev_known: bool,
}

impl Change {
    pub(crate) fn kv(&self) -> &KeyValue {
        self.event.kv.as_ref().expect("every change has its key")
    }
}

/// Where values come from.
pub(crate) trait Values {
    fn value(&self, id: Id) -> Result<Bytes, Failure>;
}

/// The writes that will be committed together.
pub(crate) struct Batch {
    pub(crate) changes: Vec<Arc<Change>>,
    undo: Vec<Undo>,
    /// The last revision given out.
    pub(crate) revision: i64,
}

enum Undo {
    Changed { key: Bytes, lease_before: i64, lease_after: i64 },
    Granted(i64),
    Revoked(Lease),
}

impl Batch {
    pub(crate) fn new(revision: i64) -> Self {
        Self { changes: Vec::new(), undo: Vec::new(), revision }
    }

    /// Takes everything back: nothing of this batch has happened.
    pub(crate) fn roll_back(mut self, state: &mut State) {
        self.undo_to(0, state);
    }

    fn undo_to(&mut self, mark: usize, state: &mut State) {
        while self.undo.len() > mark {
            match self.undo.pop() {
                Some(Undo::Changed { key, lease_before, lease_after }) => {
                    state.index.pop(&key);
                    state.lessor.attach(&key, lease_after, lease_before);
                }
                Some(Undo::Granted(id)) => {
                    state.lessor.remove(id);
                }
                Some(Undo::Revoked(lease)) => state.lessor.insert(lease),
                None => return,
            }
        }
    }

    fn value(&self, id: Id) -> Option<Bytes> {
        let at = self.changes.binary_search_by_key(&id, |change| change.id).ok()?;
        Some(self.changes[at].kv().value.clone())
    }
}

/// One request being carried out.
pub(crate) struct Apply<'a> {
    state: &'a mut State,
    values: &'a dyn Values,
    batch: &'a mut Batch,
    base: i64,
    sub: i64,
    /// Whether changes should carry the pair before, for the watchers.
    with_prev: bool,
}

impl<'a> Apply<'a> {
    /// Runs `request`, and undoes what it did when it fails midway.
    pub(crate) fn run<T>(
        state: &'a mut State,
        values: &'a dyn Values,
        batch: &'a mut Batch,
        with_prev: bool,
        request: impl FnOnce(&mut Self) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let base = batch.revision;
        let (changes, undo) = (batch.changes.len(), batch.undo.len());
        let mut apply = Self { state, values, batch, base, sub: 0, with_prev };
        let result = request(&mut apply);
        if result.is_ok() {
            apply.batch.revision = apply.revision();
        } else {
            apply.batch.undo_to(undo, apply.state);
            apply.batch.changes.truncate(changes);
        }
        result
    }

    /// A request that is well formed, as a transaction of its own.
    pub(crate) fn request(&mut self, request: &Request) -> Result<Response, Failure> {
        Ok(match request {
            Request::Range(r) => Response::Range(self.range(r)?),
            Request::Put(r) => {
                self.check_put(r)?;
                Response::Put(self.put(r)?)
            }
            Request::DeleteRange(r) => Response::DeleteRange(self.delete_range(r)?),
            Request::Txn(r) => {
                let mut path = Vec::new();
                self.decide(r, &mut path)?;
                self.check(r, &mut path.iter())?;
                let answer = self.txn(r, &mut path.iter())?;
                Response::Txn(TxnResponse { header: self.header(), ..answer })
            }
        })
    }

    pub(crate) fn grant(&mut self, lease: Lease) -> Result<(), Failure> {
        if self.state.lessor.get(lease.id).is_some() {
            return Err(LEASE_EXISTS.into());
        }
        self.batch.undo.push(Undo::Granted(lease.id));
        self.state.lessor.insert(lease);
        Ok(())
    }

    /// Deletes the lease and all keys that hang on it.
    pub(crate) fn revoke(&mut self, id: i64) -> Result<(), Failure> {
        let Some(lease) = self.state.lessor.get(id) else { return Err(LEASE_NOT_FOUND.into()) };
        let mut keys: Vec<Bytes> = lease.keys.iter().cloned().collect();
        keys.sort_unstable();
        for key in keys {
            self.delete(&key)?;
        }
        if let Some(lease) = self.state.lessor.remove(id) {
            self.batch.undo.push(Undo::Revoked(lease));
        }
        Ok(())
    }

    /// The revision that a read within this request sees.
    fn revision(&self) -> i64 {
        if self.sub > 0 { self.base + 1 } else { self.base }
    }

    fn header(&self) -> Option<ResponseHeader> {
        Some(ResponseHeader { revision: self.revision(), ..Default::default() })
    }

    fn value(&self, id: Id) -> Result<Bytes, Failure> {
        self.batch.value(id).map_or_else(|| self.values.value(id), Ok)
    }

    fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Failure> {
        let revision = self.revision();
        let at = if request.revision > 0 { request.revision } else { revision };
        let selection = Selection::new(&self.state.index, request, at);
        let values = match selection.needs_values {
            true => {
                selection.keys.iter().map(|(_, v)| self.value(v.id)).collect::<Result<_, _>>()?
            }
            false => Vec::new(),
        };
        let answer = selection.answer(values, request.keys_only);
        Ok(RangeResponse { header: self.header(), ..answer })
    }

    fn next_id(&mut self) -> Result<Id, Failure> {
        if self.sub > Id::SUB_MAX {
            return Err(TOO_MANY_OPS.into());
        }
        let id = Id::new(self.base + 1, self.sub);
        self.sub += 1;
        Ok(id)
    }

    fn put(&mut self, request: &PutRequest) -> Result<PutResponse, Failure> {
        let old = self.state.index.get(&request.key, i64::MAX).copied();
        let old_value = match old {
            Some(old) if request.prev_kv || request.ignore_value || self.with_prev => {
                self.value(old.id)?
            }
            _ => Bytes::new(),
        };
        let id = self.next_id()?;
        let version = Version {
            id,
            create_revision: old.map_or(id.revision(), |old| old.create_revision),
            version: old.map_or(0, |old| old.version) + 1,
            lease: if request.ignore_lease {
                old.map_or(0, |old| old.lease)
            } else {
                request.lease
            },
        };
        // Copied, for the request's buffer is larger and would live as long as the value.
        let value = match request.ignore_value {
            true => old_value.clone(),
            false => Bytes::copy_from_slice(&request.value),
        };
        let prev = old.map(|old| pair(request.key.clone(), &old, old_value));
        self.change(&request.key, version, value, prev.clone());
        Ok(PutResponse { header: self.header(), prev_kv: prev.filter(|_| request.prev_kv) })
    }

    fn delete_range(
        &mut self,
        request: &DeleteRangeRequest,
    ) -> Result<DeleteRangeResponse, Failure> {
        let range = KeyRange::new(&request.key, &request.range_end);
        let found: Vec<(Bytes, Version)> =
            self.state.index.range(&range, i64::MAX).map(|(k, v)| (k.clone(), *v)).collect();
        let mut prev_kvs = Vec::new();
        for (key, version) in &found {
            if request.prev_kv {
                prev_kvs.push(pair(key.clone(), version, self.value(version.id)?));
            }
            self.delete(key)?;
        }
        let deleted = i64::try_from(found.len()).unwrap_or(i64::MAX);
        Ok(DeleteRangeResponse { header: self.header(), deleted, prev_kvs })
    }

    fn delete(&mut self, key: &Bytes) -> Result<(), Failure> {
        let Some(old) = self.state.index.get(key, i64::MAX).copied() else { return Ok(()) };
        let value = if self.with_prev { self.value(old.id)? } else { Bytes::new() };
        let version = Version::deleted(self.next_id()?);
        let prev = pair(key.clone(), &old, value);
        self.change(key, version, Bytes::new(), Some(prev));
        Ok(())
    }

    fn change(&mut self, key: &[u8], version: Version, value: Bytes, prev: Option<KeyValue>) {
        let key = self.state.index.push(key, version);
        let lease_before = prev.as_ref().map_or(0, |prev| prev.lease);
        self.state.lessor.attach(&key, lease_before, version.lease);
        let undo = Undo::Changed { key: key.clone(), lease_before, lease_after: version.lease };
        self.batch.undo.push(undo);
        let kind = if version.is_deleted() { EventType::Delete } else { EventType::Put };
        let prev_known = self.with_prev || prev.is_none();
        let prev_kv =
            prev.filter(|_| self.with_prev).map(|prev| KeyValue { key: key.clone(), ..prev });
        let event = Event { r#type: kind as i32, kv: Some(pair(key, &version, value)), prev_kv };
        self.batch.changes.push(Arc::new(Change { id: version.id, event, prev_known }));
    }

    /// Which branch every transaction takes, outermost first: all comparisons see the state
    /// before the first write.
    fn decide(&self, request: &TxnRequest, path: &mut Vec<bool>) -> Result<(), Failure> {
        let mut holds = true;
        for compare in &request.compare {
            if !self.compare(compare)? {
                holds = false;
                break;
            }
        }
        path.push(holds);
        for op in branch(request, holds) {
            if let Some(Request::Txn(nested)) = &op.request {
                self.decide(nested, path)?;
            }
        }
        Ok(())
    }

    fn compare(&self, compare: &Compare) -> Result<bool, Failure> {
        let range = KeyRange::new(&compare.key, &compare.range_end);
        let by_value = matches!(compare.target_union, Some(TargetUnion::Value(_)))
            || compare.target == etcd::etcdserverpb::CompareTarget::Value as i32;
        let mut exists = false;
        for (_, version) in self.state.index.range(&range, self.revision()) {
            exists = true;
            let value = if by_value { self.value(version.id)? } else { Bytes::new() };
            if !holds(compare, Some(version), &value) {
                return Ok(false);
            }
        }
        // A key that is not there has no value, and otherwise counts as all zero.
        Ok(exists || (!by_value && holds(compare, None, &[])))
    }

    /// What must hold before the first write of the chosen branches.
    fn check<'p>(
        &self,
        request: &TxnRequest,
        path: &mut impl Iterator<Item = &'p bool>,
    ) -> Result<(), Failure> {
        for op in branch(request, path.next().copied().unwrap_or_default()) {
            match &op.request {
                Some(Request::Range(r)) => self.check_range(r)?,
                Some(Request::Put(r)) => self.check_put(r)?,
                Some(Request::Txn(r)) => self.check(r, path)?,
                Some(Request::DeleteRange(_)) | None => {}
            }
        }
        Ok(())
    }

    fn check_range(&self, request: &RangeRequest) -> Result<(), Status> {
        if request.revision > self.revision() {
            return Err(FUTURE_REVISION);
        }
        if request.revision > 0 && request.revision < self.state.compacted {
            return Err(COMPACTED);
        }
        Ok(())
    }

    fn check_put(&self, request: &PutRequest) -> Result<(), Status> {
        if (request.ignore_value || request.ignore_lease)
            && self.state.index.get(&request.key, i64::MAX).is_none()
        {
            return Err(KEY_NOT_FOUND);
        }
        if request.lease != 0 && self.state.lessor.get(request.lease).is_none() {
            return Err(LEASE_NOT_FOUND);
        }
        Ok(())
    }

    fn txn<'p>(
        &mut self,
        request: &TxnRequest,
        path: &mut impl Iterator<Item = &'p bool>,
    ) -> Result<TxnResponse, Failure> {
        let succeeded = path.next().copied().unwrap_or_default();
        let mut responses = Vec::new();
        for op in branch(request, succeeded) {
            let response = match &op.request {
                Some(Request::Range(r)) => Response::Range(self.range(r)?),
                Some(Request::Put(r)) => Response::Put(self.put(r)?),
                Some(Request::DeleteRange(r)) => Response::DeleteRange(self.delete_range(r)?),
                Some(Request::Txn(r)) => Response::Txn(self.txn(r, path)?),
                None => continue,
            };
            responses.push(response.into());
        }
        // Only the outermost answer names a revision, as etcd's does.
        Ok(TxnResponse { header: Some(ResponseHeader::default()), succeeded, responses })
    }
}

fn branch(request: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded { &request.success } else { &request.failure }
}

fn holds(compare: &Compare, version: Option<&Version>, value: &[u8]) -> bool {
    use std::cmp::Ordering;
    let number = |of: fn(&Version) -> i64, right: i64| version.map_or(0, of).cmp(&right);
    let ordering = match &compare.target_union {
        Some(TargetUnion::Version(right)) => number(|v| v.version, *right),
        Some(TargetUnion::CreateRevision(right)) => number(|v| v.create_revision, *right),
        Some(TargetUnion::ModRevision(right)) => number(|v| v.id.revision(), *right),
        Some(TargetUnion::Lease(right)) => number(|v| v.lease, *right),
        Some(TargetUnion::Value(right)) => value.cmp(&right[..]),
        // A right side of zero is left out on the wire by some clients.
        None => match compare.target {
            0 => number(|v| v.version, 0),
            1 => number(|v| v.create_revision, 0),
            2 => number(|v| v.id.revision(), 0),
            3 => value.cmp(&[]),
            _ => number(|v| v.lease, 0),
        },
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering == Ordering::Equal,
        Ok(CompareResult::NotEqual) => ordering != Ordering::Equal,
        Ok(CompareResult::Greater) => ordering == Ordering::Greater,
        Ok(CompareResult::Less) => ordering == Ordering::Less,
        Err(_) => true,
    }
}
