//! The store against a real etcd, on the same disk in the same run, through the same client:
//! durable puts, how long an event is under way, ranges.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use etcd::Client;
use etcd::etcdserverpb::{PutRequest, RangeRequest, StatusRequest, WatchCreateRequest};
use tokio::task::JoinSet;

use crate::figure::{Goal, print, quantile};
use crate::server::{Folder, Process, start_store, store_endpoint, sync_time_us};
use crate::usage::{Usage, cpu_ms};

const CLIENTS: [u64; 3] = [1, 16, 64];
const SPAN: Duration = Duration::from_secs(3);
const EVENTS: usize = 500;
const GETS: usize = 2000;
const RANGES: usize = 50;
const RANGE: i64 = 1000;
const ETCD: &str = "http://127.0.0.1:23799";
const ETCD_PEER: &str = "http://127.0.0.1:23798";
const PREFIX: &str = "/registry/configmaps/default/";

/// A figure: what, how much, of what.
type Measured = (String, f64, &'static str);

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn run() -> Result<()> {
    let folder = Folder::new("store")?;
    let sync = sync_time_us(&folder.join(""), 4096)?;
    print("one write and sync of 4 KiB to this disk: p50", sync, "µs", Goal::None);
    let ours = measure(start_store(&folder)?, &store_endpoint(&folder)).await?;
    let theirs = match start_etcd(folder.join("etcd")) {
        Ok(etcd) => measure(etcd, ETCD).await?,
        Err(err) => {
            println!("bench: no etcd to compare with: {err:#}");
            Vec::new()
        }
    };
    for (at, (what, value, unit)) in ours.into_iter().enumerate() {
        let goal = theirs.get(at).map_or(Goal::None, |(_, value, _)| Goal::Peer(*value));
        print(&what, value, unit, goal);
    }
    Ok(())
}

fn start_etcd(folder: PathBuf) -> Result<Process> {
    let mut command = Command::new("etcd");
    command
        .arg("--data-dir")
        .arg(folder)
        .args(["--listen-client-urls", ETCD, "--advertise-client-urls", ETCD])
        .args(["--listen-peer-urls", ETCD_PEER, "--initial-advertise-peer-urls", ETCD_PEER])
        .args(["--initial-cluster", &format!("default={ETCD_PEER}")])
        .stderr(Stdio::null());
    Process::start(&mut command)
}

async fn measure(server: Process, endpoint: &str) -> Result<Vec<Measured>> {
    let client = Client::connect(endpoint)?;
    client.status(StatusRequest {}).await?;
    let mut measured = Vec::new();
    for clients in CLIENTS {
        let (cpu, begun) = (cpu_ms(server.pid())?, Instant::now());
        let puts = put_together(&client, clients).await? as f64;
        let what = format!("1 KiB puts, {clients} clients");
        measured.push((what.clone(), puts / begun.elapsed().as_secs_f64(), "/s"));
        measured.push((format!("{what}: CPU"), (cpu_ms(server.pid())? - cpu) / puts, "ms"));
    }
    let mut events = events(&client).await?;
    measured.push(("put sent to event seen: p50".into(), quantile(&mut events, 0.5), "µs"));
    measured.push(("put sent to event seen: p99".into(), quantile(&mut events, 0.99), "µs"));
    let mut gets = ranges(&client, GETS, 1).await?;
    measured.push(("range of one key: p50".into(), quantile(&mut gets, 0.5), "µs"));
    let mut many = ranges(&client, RANGES, RANGE).await?;
    measured.push((format!("range of {RANGE} keys: p50"), quantile(&mut many, 0.5) / 1e3, "ms"));
    let memory = Usage::of(server.pid())?.pss_kib as f64 / 1024.0;
    measured.push(("memory after all this: PSS".into(), memory, "MiB"));
    Ok(measured)
}

async fn put_together(client: &Client, clients: u64) -> Result<u64> {
    let end = Instant::now() + SPAN;
    let mut writers = JoinSet::new();
    for writer in 0..clients {
        let client = client.clone();
        writers.spawn(async move {
            let mut count = 0;
            while Instant::now() < end {
                put(&client, format!("{clients}-{writer}-{count}")).await?;
                count += 1;
            }
            anyhow::Ok(count)
        });
    }
    let mut puts = 0;
    while let Some(count) = writers.join_next().await {
        puts += count??;
    }
    Ok(puts)
}

async fn put(client: &Client, name: String) -> Result<()> {
    let (key, value) = (format!("{PREFIX}{name}").into(), Bytes::from(vec![b'x'; 1024]));
    client.put(PutRequest { key, value, ..PutRequest::default() }).await?;
    Ok(())
}

/// From sending a put to seeing its event, in microseconds.
async fn events(client: &Client) -> Result<Vec<f64>> {
    let request = WatchCreateRequest {
        key: PREFIX.into(),
        range_end: etcd::prefix_end(PREFIX.as_bytes()),
        ..WatchCreateRequest::default()
    };
    let mut watch = client.watch(request).await?;
    let mut samples = Vec::with_capacity(EVENTS);
    for number in 0..EVENTS {
        let begun = Instant::now();
        let (sent, seen) = tokio::join!(put(client, format!("event-{number}")), watch.next());
        sent?;
        seen.context("watching")?;
        samples.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(samples)
}

/// Reads from the start of the prefix, in microseconds.
async fn ranges(client: &Client, times: usize, limit: i64) -> Result<Vec<f64>> {
    let mut samples = Vec::with_capacity(times);
    for _ in 0..times {
        let begun = Instant::now();
        let request = RangeRequest {
            key: PREFIX.into(),
            range_end: etcd::prefix_end(PREFIX.as_bytes()),
            limit,
            ..RangeRequest::default()
        };
        let answer = client.range(request).await?;
        anyhow::ensure!(answer.kvs.len() as i64 == limit, "{} keys came", answer.kvs.len());
        samples.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(samples)
}
