//! The same requests to a real etcd and to the store: the answers must be the same, to the texts
//! of the errors. Skipped with a message where no `etcd` is installed.

mod support;

use std::time::Duration;

use etcd::etcdserverpb::*;
use etcd::mvccpb::Event;
use etcd::{Client, Status};
use support::{Folder, Server};

#[derive(Clone, Debug)]
enum Step {
    Op(Request),
    Compact(i64),
    Grant(i64, i64),
    Revoke(i64),
    TimeToLive(i64),
    /// Watch from here and compare the first events; 0 events: only how it ends.
    Watch(WatchCreateRequest, usize),
}

fn range(key: &'static str, end: &'static str) -> RangeRequest {
    RangeRequest { key: key.into(), range_end: end.into(), ..Default::default() }
}

fn put(key: &'static str, value: &'static str) -> PutRequest {
    PutRequest { key: key.into(), value: value.into(), ..Default::default() }
}

fn delete(key: &'static str, end: &'static str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key.into(), range_end: end.into(), prev_kv: true }
}

fn compare(
    key: &'static str,
    end: &'static str,
    result: CompareResult,
    target: TargetUnion,
) -> Compare {
    let kind = match target {
        TargetUnion::Version(_) => CompareTarget::Version,
        TargetUnion::CreateRevision(_) => CompareTarget::Create,
        TargetUnion::ModRevision(_) => CompareTarget::Mod,
        TargetUnion::Value(_) => CompareTarget::Value,
        TargetUnion::Lease(_) => CompareTarget::Lease,
    };
    Compare {
        result: result as i32,
        target: kind as i32,
        key: key.into(),
        target_union: Some(target),
        range_end: end.into(),
    }
}

fn txn(compare: Vec<Compare>, success: Vec<Request>, failure: Vec<Request>) -> Request {
    let ops = |requests: Vec<Request>| requests.into_iter().map(RequestOp::from).collect();
    Request::Txn(TxnRequest { compare, success: ops(success), failure: ops(failure) })
}

fn watch(key: &'static str, end: &'static str, start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        key: key.into(),
        range_end: end.into(),
        start_revision,
        prev_kv: true,
        ..Default::default()
    }
}

fn writes_and_reads() -> Vec<Step> {
    let mut ops = vec![
        Request::Range(range("a", "")),
        Request::Range(range("", "")),
        Request::Put(put("", "x")),
        Request::Put(put("a", "1")),
        Request::Put(PutRequest { prev_kv: true, ..put("a", "2") }),
        Request::Put(put("b", "3")),
        Request::Put(put("ab", "")),
        Request::Put(PutRequest { ignore_value: true, prev_kv: true, ..put("b", "") }),
        Request::Put(PutRequest { ignore_value: true, ..put("b", "y") }),
        Request::Put(PutRequest { ignore_value: true, ..put("none", "") }),
        Request::Put(PutRequest { ignore_lease: true, ..put("none", "z") }),
        Request::Put(PutRequest { ignore_lease: true, lease: 5, ..put("a", "z") }),
        Request::Put(PutRequest { lease: 99, ..put("a", "z") }),
        Request::Put(put("c/1", "9")),
        Request::Put(put("c/2", "8")),
        Request::Put(put("c/3", "7")),
        Request::Put(put("c/2", "88")),
        Request::DeleteRange(delete("none", "")),
        Request::DeleteRange(delete("", "")),
        Request::DeleteRange(delete("c", "b")),
        Request::DeleteRange(delete("c/1", "")),
        Request::Put(put("c/1", "again")),
        Request::Range(RangeRequest { revision: 3, ..range("\0", "\0") }),
        Request::Range(RangeRequest { revision: 1000, ..range("a", "") }),
        Request::Range(RangeRequest { revision: -1, ..range("a", "") }),
        Request::Range(range("c", "a")),
    ];
    for end in ["", "d", "\0"] {
        for limit in [-1, 0, 1, 3] {
            ops.push(Request::Range(RangeRequest { limit, ..range("a", end) }));
            ops.push(Request::Range(RangeRequest { limit, count_only: true, ..range("a", end) }));
            ops.push(Request::Range(RangeRequest { limit, keys_only: true, ..range("a", end) }));
            for sort_order in 0..3 {
                for sort_target in 0..5 {
                    let request =
                        RangeRequest { limit, sort_order, sort_target, ..range("a", end) };
                    ops.push(Request::Range(request));
                }
            }
            for revision in [2, 5, 9] {
                let ask = || RangeRequest { limit, ..range("a", end) };
                ops.push(Request::Range(RangeRequest { revision, ..ask() }));
                ops.push(Request::Range(RangeRequest { min_mod_revision: revision, ..ask() }));
                ops.push(Request::Range(RangeRequest { max_mod_revision: revision, ..ask() }));
                ops.push(Request::Range(RangeRequest { min_create_revision: revision, ..ask() }));
                ops.push(Request::Range(RangeRequest { max_create_revision: revision, ..ask() }));
            }
        }
    }
    ops.push(Request::DeleteRange(delete("a", "b")));
    ops.push(Request::DeleteRange(delete("c", "\0")));
    ops.push(Request::Range(range("\0", "\0")));
    ops.into_iter().map(Step::Op).collect()
}

fn transactions() -> Vec<Step> {
    use CompareResult::{Equal, Greater, Less, NotEqual};
    let get = |key| Request::Range(range(key, ""));
    let set = |key, value| Request::Put(PutRequest { prev_kv: true, ..put(key, value) });
    let clear = |key, end| Request::DeleteRange(delete(key, end));
    let mut ops = vec![
        txn(vec![], vec![], vec![]),
        txn(vec![Compare::mod_revision("p".into(), 0)], vec![set("p", "1")], vec![get("p")]),
        txn(vec![Compare::mod_revision("p".into(), 0)], vec![set("p", "1")], vec![get("p")]),
        txn(vec![Compare::mod_revision("p".into(), 2)], vec![set("p", "2")], vec![get("p")]),
        txn(vec![], vec![set("q", "1"), get("q"), clear("p", ""), get("p"), set("r", "1")], vec![]),
        txn(vec![], vec![set("q", "1"), set("q", "2")], vec![]),
        txn(vec![], vec![], vec![set("q", "1"), clear("p", "r")]),
        txn(vec![], vec![clear("q", ""), clear("q", "z")], vec![]),
        txn(vec![Compare::mod_revision("".into(), 0)], vec![], vec![]),
        txn(vec![], vec![set("", "1")], vec![]),
        txn(vec![], vec![Request::Range(RangeRequest { revision: 99, ..range("q", "") })], vec![]),
        txn(vec![], vec![Request::Range(RangeRequest { revision: 2, ..range("p", "") })], vec![]),
        txn(
            vec![],
            vec![set("n", "1"), Request::Put(PutRequest { lease: 7, ..put("m", "") })],
            vec![],
        ),
        txn(
            vec![],
            vec![set("n", "1"), Request::Put(PutRequest { ignore_value: true, ..put("m", "") })],
            vec![],
        ),
        get("n"),
        txn(
            vec![],
            vec![
                set("x", "1"),
                txn(
                    vec![Compare::mod_revision("x".into(), 0)],
                    vec![set("y", "then")],
                    vec![set("y", "else")],
                ),
                get("y"),
            ],
            vec![],
        ),
        txn(vec![], vec![set("x", "1"), txn(vec![], vec![set("x", "2")], vec![])], vec![]),
        txn(vec![], vec![clear("x", "y"), txn(vec![], vec![set("x", "2")], vec![])], vec![]),
        txn(vec![], (0..129).map(|_| get("q")).collect(), vec![]),
        set("w", "5"),
    ];
    for result in [Equal, Greater, Less, NotEqual] {
        for (key, end) in [("w", ""), ("nothing", ""), ("w", "z"), ("nothing", "o")] {
            for target in [
                TargetUnion::Version(1),
                TargetUnion::CreateRevision(0),
                TargetUnion::ModRevision(5),
                TargetUnion::Value("5".into()),
                TargetUnion::Value("".into()),
                TargetUnion::Lease(0),
            ] {
                ops.push(txn(vec![compare(key, end, result, target)], vec![get("w")], vec![]));
            }
        }
    }
    ops.into_iter().map(Step::Op).collect()
}

fn compaction_leases_and_watches() -> Vec<Step> {
    let op = Step::Op;
    vec![
        Step::Compact(5),
        op(Request::Put(put("a", "1"))),
        op(Request::Put(put("a", "2"))),
        op(Request::Put(put("b", "1"))),
        op(Request::DeleteRange(delete("a", ""))),
        op(txn(vec![], vec![Request::Put(put("a", "3")), Request::Put(put("c", "1"))], vec![])),
        op(Request::Put(put("a", "4"))),
        Step::Watch(watch("\0", "\0", 2), 7),
        Step::Watch(watch("a", "", 2), 5),
        Step::Watch(watch("a", "c", 4), 4),
        Step::Watch(WatchCreateRequest { prev_kv: false, ..watch("a", "b", 3) }, 4),
        Step::Watch(WatchCreateRequest { filters: vec![0], ..watch("\0", "\0", 2) }, 1),
        Step::Watch(WatchCreateRequest { filters: vec![1], ..watch("a", "", 2) }, 4),
        Step::Watch(watch("c", "b", 2), 0),
        Step::Compact(4),
        Step::Compact(4),
        Step::Compact(3),
        Step::Compact(100),
        op(Request::Range(RangeRequest { revision: 3, ..range("\0", "\0") })),
        op(Request::Range(RangeRequest { revision: 4, ..range("\0", "\0") })),
        op(txn(
            vec![],
            vec![Request::Range(RangeRequest { revision: 2, ..range("a", "") })],
            vec![],
        )),
        Step::Watch(watch("\0", "\0", 3), 0),
        Step::Watch(watch("\0", "\0", 5), 4),
        Step::Compact(7),
        op(Request::Range(range("\0", "\0"))),
        op(Request::Range(RangeRequest { revision: 7, ..range("\0", "\0") })),
        Step::Watch(watch("\0", "\0", 7), 1),
        Step::Grant(100, 77),
        Step::Grant(100, 77),
        Step::Grant(9_000_000_001, 78),
        Step::Revoke(79),
        Step::TimeToLive(79),
        Step::TimeToLive(77),
        op(Request::Put(PutRequest { lease: 77, ..put("l1", "x") })),
        op(Request::Put(PutRequest { lease: 77, ..put("l2", "x") })),
        op(Request::Put(PutRequest { ignore_lease: true, ..put("l2", "y") })),
        op(Request::Range(range("l", "m"))),
        op(Request::Put(PutRequest { lease: 77, ..put("l3", "x") })),
        op(Request::Put(put("l3", "x"))),
        Step::TimeToLive(77),
        Step::Revoke(77),
        op(Request::Range(range("l", "m"))),
        Step::Watch(watch("l", "m", 11), 6),
        Step::Watch(watch("l", "m", 0), 0),
    ]
}

fn plain(header: &mut Option<ResponseHeader>) {
    if let Some(header) = header {
        *header = ResponseHeader { revision: header.revision, ..Default::default() };
    }
}

/// The answer without what names the server.
async fn run(client: &Client, step: &Step) -> String {
    macro_rules! text {
        ($answer:expr) => {
            match $answer.await {
                Ok(mut answer) => {
                    plain(&mut answer.header);
                    format!("{answer:?}")
                }
                Err(err) => refused(&err),
            }
        };
    }
    match step.clone() {
        Step::Op(Request::Range(request)) => text!(client.range(request)),
        Step::Op(Request::Put(request)) => text!(client.put(request)),
        Step::Op(Request::DeleteRange(request)) => text!(client.delete_range(request)),
        Step::Op(Request::Txn(request)) => text!(client.txn(request)),
        Step::Compact(revision) => {
            text!(client.compact(CompactionRequest { revision, physical: true }))
        }
        Step::Grant(ttl, id) => text!(client.lease_grant(LeaseGrantRequest { ttl, id })),
        Step::Revoke(id) => text!(client.lease_revoke(LeaseRevokeRequest { id })),
        Step::TimeToLive(id) => {
            let request = LeaseTimeToLiveRequest { id, keys: true };
            match client.lease_time_to_live(request).await {
                Ok(mut answer) => {
                    plain(&mut answer.header);
                    answer.keys.sort();
                    // Time passes between the two servers.
                    answer.ttl -= answer.ttl % 10;
                    format!("{answer:?}")
                }
                Err(err) => refused(&err),
            }
        }
        Step::Watch(request, events) => watched(client, request, events).await,
    }
}

async fn watched(client: &Client, request: WatchCreateRequest, wanted: usize) -> String {
    let mut watch = match client.watch(request).await {
        Ok(watch) => watch,
        Err(err) => return refused(&err),
    };
    let mut got: Vec<Event> = Vec::new();
    while got.len() < wanted || wanted == 0 {
        let patience = Duration::from_secs(if wanted == 0 { 1 } else { 10 });
        match tokio::time::timeout(patience, watch.next()).await {
            Ok(Ok(response)) => got.extend(response.events),
            Ok(Err(err)) => return refused(&err),
            Err(_) => return format!("nothing more after {got:?}"),
        }
    }
    format!("{got:?}")
}

fn refused(err: &Status) -> String {
    format!("{:?} {}", err.code, err.message)
}

async fn same(steps: Vec<Step>) {
    let folder = Folder::new();
    let Some(theirs) = Server::etcd(folder.path()) else {
        eprintln!("no etcd is installed, nothing was compared");
        return;
    };
    let ours = Server::store(folder.path());
    let (our_client, their_client) = (ours.client(), theirs.client());
    let mut different = Vec::new();
    for step in steps {
        let (got, expected) = (run(&our_client, &step).await, run(&their_client, &step).await);
        if got != expected {
            different.push(format!("{step:?}\n   ours {got}\n   etcd {expected}"));
        }
    }
    assert!(different.is_empty(), "{} answers differ:\n{}", different.len(), different.join("\n"));
}

#[tokio::test]
async fn writes_and_reads_answer_as_etcd() {
    same(writes_and_reads()).await;
}

#[tokio::test]
async fn transactions_answer_as_etcd() {
    same(transactions()).await;
}

#[tokio::test]
async fn compaction_leases_and_watches_answer_as_etcd() {
    same(compaction_leases_and_watches()).await;
}
