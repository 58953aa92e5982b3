//! What was acknowledged is there after `kill -9`, and a full disk loses nothing.

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use etcd::etcdserverpb::*;
use etcd::mvccpb::EventType;
use etcd::{Client, Code, prefix_end};
use support::{Folder, Server};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const ROUNDS: u64 = 6;
const WRITERS: u64 = 16;

fn put(key: String, value: String) -> PutRequest {
    PutRequest { key: key.into(), value: value.into(), ..Default::default() }
}

fn all(prefix: &'static str) -> RangeRequest {
    let (key, range_end) = (prefix.into(), prefix_end(prefix.as_bytes()));
    RangeRequest { key, range_end, ..Default::default() }
}

/// Puts `<writer>` = 1, 2, 3 … until the server is gone; `acknowledged` is the last that was
/// answered, and each one is counted in `progress`.
async fn write(
    client: Client,
    writer: u64,
    from: u64,
    acknowledged: &AtomicU64,
    progress: &Semaphore,
) {
    for count in from.. {
        let request = put(format!("w/{writer:02}"), format!("{count} {:1000}", ""));
        if client.put(request).await.is_err() {
            return;
        }
        acknowledged.store(count, Ordering::SeqCst);
        progress.add_permits(1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_under_load_loses_nothing_acknowledged() {
    let folder = Folder::new();
    let acknowledged: &'static [AtomicU64] =
        Box::leak((0..WRITERS).map(|_| AtomicU64::new(0)).collect());
    let mut revision = 0;
    for round in 0..=ROUNDS {
        let server = Server::store(folder.path());
        let client = server.client();
        let answer = client.range(all("w/")).await.unwrap();
        let header = answer.header.unwrap();
        assert!(header.revision >= revision, "revision {} after {revision}", header.revision);
        revision = header.revision;
        for (writer, kv) in answer.kvs.iter().enumerate() {
            let text = std::str::from_utf8(&kv.value).unwrap();
            let count: u64 = text.split(' ').next().unwrap().parse().unwrap();
            let known = acknowledged[writer].load(Ordering::SeqCst);
            // One more may have been committed without its answer getting through.
            assert!((known..=known + 1).contains(&count), "writer {writer}: {count}, not {known}");
            assert_eq!(kv.version, i64::try_from(count).unwrap(), "no version is skipped");
            acknowledged[writer].store(count, Ordering::SeqCst);
        }
        if round == ROUNDS {
            break;
        }
        let mut writers = JoinSet::new();
        let progress = Arc::new(Semaphore::new(0));
        for writer in 0..WRITERS {
            let known = &acknowledged[usize::try_from(writer).unwrap()];
            let client = server.client();
            let from = known.load(Ordering::SeqCst) + 1;
            let progress = Arc::clone(&progress);
            writers.spawn(async move { write(client, writer, from, known, &progress).await });
        }
        if round % 2 == 1 {
            // Compaction at work while the process dies.
            let _ = client.compact(CompactionRequest { revision, physical: false }).await;
        }
        // Every round dies at another point of its load.
        let enough = u32::try_from(300 + 37 * round).unwrap();
        tokio::select! {
            permits = progress.acquire_many(enough) => permits.unwrap().forget(),
            ended = writers.join_next() => panic!("a writer ended before the kill: {ended:?}"),
        }
        server.kill();
        writers.shutdown().await;
    }
    assert!(acknowledged.iter().all(|a| a.load(Ordering::SeqCst) > 1), "the load was real");
}

#[tokio::test]
async fn a_watch_resumes_over_a_restart_without_gap() {
    let folder = Folder::new();
    let server = Server::store(folder.path());
    let client = server.client();
    let request = WatchCreateRequest {
        key: "k/".into(),
        range_end: prefix_end(b"k/"),
        prev_kv: true,
        ..Default::default()
    };
    let mut watch = client.watch(request).await.unwrap();
    client.put(put("k/1".into(), "a".into())).await.unwrap();
    assert_eq!(watch.next().await.unwrap().events.len(), 1);
    client.put(put("k/1".into(), "b".into())).await.unwrap();
    server.kill();
    let _server = Server::store(folder.path());
    // The other client writes while the watch has not noticed yet.
    client.range(all("k/")).await.unwrap();
    client.put(put("k/1".into(), "c".into())).await.unwrap();
    let (mut values, mut before) = (Vec::new(), Vec::new());
    while values.len() < 2 {
        for event in watch.next().await.unwrap().events {
            assert_eq!(event.r#type, EventType::Put as i32);
            values.push(event.kv.unwrap().value);
            before.push(event.prev_kv.unwrap().value);
        }
    }
    assert_eq!((values, before), (vec!["b".into(), "c".into()], vec!["a".into(), "b".into()]));
    watch.progress().request().unwrap();
    let progress = watch.next().await.unwrap();
    assert!(progress.is_progress_notify());
    assert_eq!(progress.header.unwrap().revision, 4);
}

/// A small file system of its own; `None` where the test may not mount.
struct SmallDisk(Folder);

impl SmallDisk {
    fn new() -> Option<Self> {
        let folder = Folder::new();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
            .arg(folder.path())
            .status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_recovers() {
    let Some(disk) = SmallDisk::new() else {
        eprintln!("cannot mount a small file system, nothing was tested");
        return;
    };
    let server = Server::store(disk.path());
    let client = server.client();
    client.put(put("first".into(), "1".into())).await.unwrap();
    let filler = disk.path().join("filler");
    let mut written = 0;
    let err = loop {
        match client.put(put(format!("fill/{written}"), "x".repeat(50_000))).await {
            Ok(_) => written += 1,
            Err(err) => break err,
        }
        assert!(written < 100, "the disk never got full");
        if written == 5 {
            // The rest of the disk goes to somebody else.
            let _ = std::fs::write(&filler, vec![0; 2 << 20]);
        }
    };
    assert_eq!(err, etcd::status::NO_SPACE);
    assert_eq!(err.code, Code::ResourceExhausted);
    let answer = client.range(all("fill/")).await.unwrap();
    assert_eq!(answer.count, written);
    assert_eq!(answer.header.unwrap().revision, 2 + written);
    let alarms = client.alarm(AlarmRequest::default()).await.unwrap().alarms;
    assert_eq!(alarms.len(), 1);
    std::fs::remove_file(filler).unwrap();
    client.put(put("after".into(), "2".into())).await.unwrap();
    assert!(client.alarm(AlarmRequest::default()).await.unwrap().alarms.is_empty());
    server.kill();
    let server = Server::store(disk.path());
    let answer = server.client().range(RangeRequest { count_only: true, ..all("") }).await;
    assert_eq!(answer.unwrap_err(), etcd::status::EMPTY_KEY);
    let answer = server.client().range(all("fill/")).await.unwrap();
    assert_eq!((answer.count, answer.header.unwrap().revision), (written, 3 + written));
}

#[tokio::test]
async fn leases_expire_and_survive_a_restart() {
    let folder = Folder::new();
    let server = Server::store(folder.path());
    let client = server.client();
    let grant = |ttl| client.lease_grant(LeaseGrantRequest { ttl, id: 0 });
    let lease = grant(3).await.unwrap().id;
    // So long that a busy machine keeps it alive in time.
    let kept = grant(20).await.unwrap().id;
    for (key, lease) in [("l/short", lease), ("l/kept", kept)] {
        let request = PutRequest { lease, ..put(key.into(), "v".into()) };
        client.put(request).await.unwrap();
    }
    server.kill();
    let server = Server::store(folder.path());
    let client = server.client();
    assert_eq!(client.range(all("l/")).await.unwrap().count, 2);
    let request =
        WatchCreateRequest { key: "l/".into(), range_end: prefix_end(b"l/"), ..Default::default() };
    let mut watch = client.watch(request).await.unwrap();
    let event = loop {
        let keep = client.lease_keep_alive_once(kept).await.unwrap();
        assert_eq!(keep.ttl, 20);
        match tokio::time::timeout(Duration::from_millis(300), watch.next()).await {
            Ok(response) => break response.unwrap().events.remove(0),
            Err(_) => continue,
        }
    };
    assert_eq!(event.r#type, EventType::Delete as i32);
    assert_eq!(event.kv.unwrap().key, "l/short");
    assert_eq!(client.range(all("l/")).await.unwrap().count, 1);
    assert_eq!(client.lease_keep_alive_once(lease).await.unwrap().ttl, 0);
}
