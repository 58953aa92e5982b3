//! Whether a request is well formed, before anything is looked up: etcd's checks in its words.

use std::collections::HashSet;

use bytes::Bytes;
use etcd::Status;
use etcd::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, Request, RequestOp, SortOrder, SortTarget,
    TxnRequest,
};
use etcd::status::{
    DUPLICATE_KEY, EMPTY_KEY, INVALID_SORT_OPTION, LEASE_PROVIDED, REQUEST_TOO_LARGE, TOO_MANY_OPS,
    VALUE_PROVIDED,
};
use prost::Message;

use crate::keys::KeyRange;

/// etcd's `--max-txn-ops`.
const OPS_MAX: usize = 128;
/// etcd's `--max-request-bytes`.
const BYTES_MAX: usize = 3 << 19;
/// Transactions within transactions.
const DEPTH_MAX: usize = 32;

pub(crate) fn range(request: &RangeRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(EMPTY_KEY);
    }
    SortOrder::try_from(request.sort_order).map_err(|_| INVALID_SORT_OPTION)?;
    SortTarget::try_from(request.sort_target).map_err(|_| INVALID_SORT_OPTION)?;
    Ok(())
}

pub(crate) fn put(request: &PutRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(EMPTY_KEY);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(VALUE_PROVIDED);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(LEASE_PROVIDED);
    }
    Ok(())
}

pub(crate) fn delete_range(request: &DeleteRangeRequest) -> Result<(), Status> {
    if request.key.is_empty() { Err(EMPTY_KEY) } else { Ok(()) }
}

/// The size of a request that changes something.
pub(crate) fn size(request: &impl Message) -> Result<(), Status> {
    if request.encoded_len() > BYTES_MAX { Err(REQUEST_TOO_LARGE) } else { Ok(()) }
}

pub(crate) fn txn(request: &TxnRequest) -> Result<(), Status> {
    shape(request, 0)?;
    written(&request.success)?;
    written(&request.failure)?;
    Ok(())
}

fn shape(request: &TxnRequest, depth: usize) -> Result<(), Status> {
    let most = request.compare.len().max(request.success.len()).max(request.failure.len());
    if most > OPS_MAX || depth > DEPTH_MAX {
        return Err(TOO_MANY_OPS);
    }
    if request.compare.iter().any(|c| c.key.is_empty()) {
        return Err(EMPTY_KEY);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::Range(r)) => range(r)?,
            Some(Request::Put(r)) => put(r)?,
            Some(Request::DeleteRange(r)) => delete_range(r)?,
            Some(Request::Txn(r)) => shape(r, depth + 1)?,
            None => return Err(etcd::status::KEY_NOT_FOUND),
        }
    }
    Ok(())
}

#[derive(Default)]
struct Written {
    puts: HashSet<Bytes>,
    deleted: Vec<KeyRange>,
}

impl Written {
    fn put(&mut self, key: &Bytes) -> Result<(), Status> {
        if self.deleted.iter().any(|range| range.contains(key)) || !self.puts.insert(key.clone()) {
            return Err(DUPLICATE_KEY);
        }
        Ok(())
    }
}

/// What one branch writes; a key may be written once. The two branches of a nested transaction
/// exclude each other and may write the same keys.
fn written(ops: &[RequestOp]) -> Result<Written, Status> {
    let mut all = Written::default();
    for op in ops {
        if let Some(Request::DeleteRange(r)) = &op.request {
            all.deleted.push(KeyRange::new(&r.key, &r.range_end));
        }
    }
    for op in ops {
        let Some(Request::Txn(nested)) = &op.request else { continue };
        let (success, failure) = (written(&nested.success)?, written(&nested.failure)?);
        for key in success.puts.union(&failure.puts) {
            all.put(key)?;
        }
        all.deleted.extend(success.deleted);
        all.deleted.extend(failure.deleted);
    }
    for op in ops {
        if let Some(Request::Put(r)) = &op.request {
            all.put(&r.key)?;
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put_op(key: &'static str) -> RequestOp {
        Request::Put(PutRequest { key: key.into(), ..Default::default() }).into()
    }

    fn delete_op(key: &'static str, end: &'static str) -> RequestOp {
        let (key, range_end) = (key.into(), end.into());
        Request::DeleteRange(DeleteRangeRequest { key, range_end, prev_kv: false }).into()
    }

    fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        Request::Txn(TxnRequest { compare: vec![], success, failure }).into()
    }

    #[test]
    fn a_key_is_written_once_in_a_branch() {
        for (ops, expected) in [
            (vec![put_op("a"), put_op("b")], Ok(())),
            (vec![put_op("a"), put_op("a")], Err(DUPLICATE_KEY)),
            (vec![put_op("b"), delete_op("a", "c")], Err(DUPLICATE_KEY)),
            (vec![put_op("c"), delete_op("a", "c")], Ok(())),
            (vec![delete_op("a", ""), delete_op("a", "b")], Ok(())),
            (vec![nested(vec![put_op("a")], vec![put_op("a")])], Ok(())),
            (vec![nested(vec![put_op("a")], vec![]), put_op("a")], Err(DUPLICATE_KEY)),
            (vec![nested(vec![delete_op("a", "b")], vec![]), put_op("a")], Err(DUPLICATE_KEY)),
            (vec![put_op("")], Err(EMPTY_KEY)),
            ((0..129).map(|_| delete_op("a", "")).collect(), Err(TOO_MANY_OPS)),
        ] {
            let request = TxnRequest { compare: vec![], success: ops, failure: vec![] };
            assert_eq!(txn(&request), expected, "{request:?}");
        }
    }
}
