//! Watches: how long an event is under way to a hundred watchers, and what idle ones weigh.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::figure::{Goal, print, quantile};
use crate::http::{Connection, Protocol};
use crate::objects::CONFIGMAPS;
use crate::server::ApiServer;

const WATCHERS: usize = 100;
const UPDATES: usize = 2500;
const PER_SECOND: u64 = 500;
/// Connections that take turns with the updates, each with an object of its own.
const WRITERS: usize = 8;
const IDLE: usize = 10_000;
/// The server allows 1000 streams on a connection.
const STREAMS: usize = 1000;
const IDLE_CONNECTIONS: usize = 1000;
const PATIENCE: Duration = Duration::from_secs(20);
/// Comes before the number of the update in every object.
const MARK: &[u8] = br#""update":""#;

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn run() -> Result<()> {
    for protocol in Protocol::ALL {
        fan_out(&ApiServer::start().await?, protocol).await?;
    }
    idle(&ApiServer::start().await?, Protocol::Http2, IDLE, STREAMS).await?;
    idle(&ApiServer::start().await?, Protocol::Http1, IDLE_CONNECTIONS, 1).await
}

/// When each update was sent, and how many watchers have yet to see it.
struct Board {
    begun: Instant,
    missing: Vec<AtomicU32>,
}

async fn fan_out(api: &ApiServer, protocol: Protocol) -> Result<()> {
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let mut connection = api.target.connect(Protocol::Http1).await?;
        connection.exchange(Method::POST, CONFIGMAPS, object(writer, UPDATES)).await?;
        writers.push(connection);
    }
    let missing = (0..UPDATES).map(|_| AtomicU32::new(WATCHERS as u32)).collect();
    let board = Arc::new(Board { begun: Instant::now(), missing });
    let (seen, mut last_seen) = mpsc::channel(UPDATES);
    let shared = api.target.connect(protocol).await?;
    let mut watchers = JoinSet::new();
    for _ in 0..WATCHERS {
        let mut connection = match shared.share() {
            Some(connection) => connection,
            None => api.target.connect(protocol).await?,
        };
        let events = connection.send(Method::GET, &watch_path("0"), Bytes::new()).await?;
        watchers.spawn(count(connection, events.into_body(), board.clone(), seen.clone()));
    }
    let cpu = api.cpu_ms()?;
    let sent = update(writers, &board).await?;
    let mut samples = Vec::with_capacity(UPDATES);
    while samples.len() < UPDATES {
        let (number, at) = timeout(PATIENCE, last_seen.recv())
            .await
            .with_context(|| format!("only {} of {UPDATES} updates came", samples.len()))?
            .context("the watches ended")?;
        samples.push((at - sent[number]).as_secs_f64() * 1000.0);
    }
    let cpu = (api.cpu_ms()? - cpu) / UPDATES as f64;
    let what = format!("{WATCHERS} watchers, {PER_SECOND} PUT/s, {}", protocol.name());
    print(
        &format!("{what}: to the last, p50"),
        quantile(&mut samples, 0.5),
        "ms",
        Goal::AtMost(2.0),
    );
    print(
        &format!("{what}: to the last, p99"),
        quantile(&mut samples, 0.99),
        "ms",
        Goal::AtMost(5.0),
    );
    print(&format!("{what}: CPU of a PUT"), cpu, "ms", Goal::None);
    Ok(())
}

/// Sends the updates at their pace; returns when each was sent.
async fn update(writers: Vec<Connection>, board: &Arc<Board>) -> Result<Vec<Duration>> {
    let (done, mut idle) = mpsc::channel(WRITERS);
    for (writer, connection) in writers.into_iter().enumerate() {
        done.send((writer, connection)).await?;
    }
    let mut pace = interval(Duration::from_micros(1_000_000 / PER_SECOND));
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut sent = Vec::with_capacity(UPDATES);
    let mut tasks = JoinSet::new();
    for number in 0..UPDATES {
        pace.tick().await;
        let (writer, mut connection) = idle.recv().await.context("a writer failed")?;
        sent.push(board.begun.elapsed());
        let done = done.clone();
        tasks.spawn(async move {
            let path = format!("{CONFIGMAPS}/watched-{writer}");
            connection.exchange(Method::PUT, &path, object(writer, number)).await?;
            done.send((writer, connection)).await.context("the load has ended")
        });
        while let Some(ended) = tasks.try_join_next() {
            ended??;
        }
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(sent)
}

/// Marks every update that comes; who is the last one to see it, tells when.
async fn count(
    _connection: Connection,
    mut events: Incoming,
    board: Arc<Board>,
    seen: mpsc::Sender<(usize, Duration)>,
) -> Result<()> {
    let mut rest = Vec::new();
    while let Some(frame) = events.frame().await {
        let frame = frame?;
        let Some(data) = frame.data_ref() else { continue };
        rest.extend_from_slice(data);
        let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for line in rest[..whole].split(|byte| *byte == b'\n') {
            let Some(number) = number(line).filter(|number| *number < UPDATES) else { continue };
            if board.missing[number].fetch_sub(1, Ordering::AcqRel) == 1 {
                seen.send((number, board.begun.elapsed())).await?;
            }
        }
        rest.drain(..whole);
    }
    Ok(())
}

fn number(line: &[u8]) -> Option<usize> {
    let at = line.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
    std::str::from_utf8(line.get(at..at + 6)?).ok()?.parse().ok()
}

fn object(writer: usize, number: usize) -> Bytes {
    let metadata = format!(r#""metadata":{{"name":"watched-{writer}"}}"#);
    let data = format!(r#""data":{{"update":"{number:06}"}}"#);
    format!(r#"{{"apiVersion":"v1","kind":"ConfigMap",{metadata},{data}}}"#).into()
}

fn watch_path(revision: &str) -> String {
    format!("{CONFIGMAPS}?watch=true&allowWatchBookmarks=true&resourceVersion={revision}")
}

async fn idle(api: &ApiServer, protocol: Protocol, count: usize, each: usize) -> Result<()> {
    let before = api.resident_kib()?;
    let (mut connections, mut watches) = (Vec::new(), Vec::with_capacity(count));
    for _ in 0..count / each {
        let mut connection = api.target.connect(protocol).await?;
        for _ in 0..each {
            let path = watch_path("0");
            watches.push(connection.send(Method::GET, &path, Bytes::new()).await?);
        }
        connections.push(connection);
    }
    let grown = api.resident_kib()?.saturating_sub(before) as f64;
    let what = format!("{count} idle watches, {}, {} connections", protocol.name(), count / each);
    let most = 60.0 * count as f64 / IDLE as f64;
    print(&what, grown / 1024.0, "MiB", Goal::AtMost(most));
    print(&format!("{what}: each"), grown / count as f64, "KiB", Goal::None);
    Ok(())
}
