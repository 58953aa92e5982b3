//! Load on an API server while something happens to it: nobody who talks to a cluster may notice.
//!
//! Knows an address and a kubeconfig, not who runs the server. Invariant: every request and every
//! connection is accounted for; what was acknowledged is read back.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kube::Client;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::cluster::{PATIENCE, wait};

/// Clients that keep their connection. Together they ask for 500 requests a second, half of them
/// writes; a build without optimisation, or a slow machine, answers fewer.
const KEEPERS: u64 = 50;
const KEEPER_PAUSE: Duration = Duration::from_millis(100);
/// Clients that connect anew each time: 500 connections a second on any machine.
const CALLERS: u64 = 10;
const CALLER_PAUSE: Duration = Duration::from_millis(20);
/// Of so many connections one carries a whole request; handshakes are dear.
const CALLS_PER_REQUEST: u64 = 20;
/// What 500 a second may shrink to while the machine is busy with restarts.
const CONNECTIONS_MIN: f64 = 400.0;
const OBJECTS: &str = "/api/v1/namespaces/default/configmaps";
/// What hyper and rustls say when the other end closed the connection under a request.
const CLOSED: [&str; 3] = [
    "connection closed before message completed",
    "Connection reset by peer",
    "peer closed connection without sending TLS close_notify",
];
/// What [`OBJECTS`] of the load are labelled with.
pub(crate) const LABEL: &str = "load=restarts";

/// What a kind of client saw.
#[derive(Default)]
struct Seen {
    done: u64,
    /// Sent again, since the server closed a kept connection while the request was on its way:
    /// HTTP/1.1 knows no better, RFC 9112 section 9.5.
    repeated: u64,
    slowest: Duration,
    failures: Vec<String>,
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.done += other.done;
        self.repeated += other.repeated;
        self.slowest = self.slowest.max(other.slowest);
        self.failures.extend(other.failures);
    }

    /// Takes down one outcome.
    fn record(&mut self, begun: Instant, outcome: Result<()>) {
        self.done += 1;
        self.slowest = self.slowest.max(begun.elapsed());
        if let Err(err) = outcome {
            self.failures.push(format!("{err:#}"));
        }
    }
}

/// How many requests were answered so far.
#[derive(Clone, Default)]
pub(crate) struct Progress(Arc<AtomicU64>);

impl Progress {
    /// Waits until clients are served again after an interruption: as many answers as there are
    /// clients on kept connections.
    pub(crate) fn settle(&self) -> Result<()> {
        let wanted = self.0.load(Ordering::Relaxed) + KEEPERS;
        wait("clients to be served", PATIENCE, &mut || Ok(self.0.load(Ordering::Relaxed) >= wanted))
    }
}

/// Does `work` while clients load the API server at `address`; nothing they ask for may be lost,
/// and no connection refused.
pub(crate) fn during(
    kubeconfig: &Path,
    address: SocketAddr,
    work: impl FnOnce(&Progress) -> Result<()>,
) -> Result<()> {
    let progress = Progress::default();
    let counted = progress.clone();
    let (stop, stopped) = watch::channel(false);
    let (file, end) = (kubeconfig.to_owned(), stopped.clone());
    // Two threads: the pace of connections is not to suffer from slow answers.
    let keepers = std::thread::spawn(move || keep_asking(&file, end, counted));
    let file = kubeconfig.to_owned();
    let callers = std::thread::spawn(move || keep_calling(&file, address, stopped));
    let begun = Instant::now();
    let worked = progress.settle().and_then(|()| work(&progress));
    let took = begun.elapsed();
    stop.send_replace(true);
    let kept = keepers.join().map_err(|_| anyhow::anyhow!("the clients panicked"))??;
    let called = callers.join().map_err(|_| anyhow::anyhow!("the callers panicked"))??;
    worked?;
    let rate = called.done as f64 / took.as_secs_f64();
    for (what, seen) in [("requests", &kept), ("connections", &called)] {
        println!(
            "        {} {what} in {took:.1?}, the slowest took {:.1?}, {} repeated, {} failed",
            seen.done,
            seen.slowest,
            seen.repeated,
            seen.failures.len(),
        );
    }
    for (what, seen) in [("requests", kept), ("connections", called)] {
        let first: Vec<&str> = seen.failures.iter().take(5).map(String::as_str).collect();
        ensure!(first.is_empty(), "{} {what} failed: {first:#?}", seen.failures.len());
    }
    ensure!(rate >= CONNECTIONS_MIN, "only {rate:.0} connections a second, this proves little");
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn keep_asking(
    kubeconfig: &Path,
    stop: watch::Receiver<bool>,
    progress: Progress,
) -> Result<Seen> {
    let client = client::connect(kubeconfig).await?;
    for number in 0..KEEPERS {
        create(&client, number).await?;
    }
    let mut clients = JoinSet::new();
    for number in 0..KEEPERS {
        clients.spawn(keeper(client.clone(), number, stop.clone(), progress.clone()));
    }
    together(clients).await
}

#[tokio::main(flavor = "current_thread")]
async fn keep_calling(
    kubeconfig: &Path,
    address: SocketAddr,
    stop: watch::Receiver<bool>,
) -> Result<Seen> {
    let mut clients = JoinSet::new();
    for _ in 0..CALLERS {
        clients.spawn(caller(kubeconfig.to_owned(), address, stop.clone()));
    }
    together(clients).await
}

async fn together(mut clients: JoinSet<Result<Seen>>) -> Result<Seen> {
    let mut all = Seen::default();
    while let Some(seen) = clients.join_next().await {
        all.add(seen??);
    }
    Ok(all)
}

/// Makes the object that a client writes to.
async fn create(client: &Client, number: u64) -> Result<()> {
    let (key, value) = LABEL.split_once('=').context("a label")?;
    let body = json!({
        "metadata": { "name": format!("load-{number}"), "labels": { key: value } },
        "data": { "at": "0" },
    });
    send(client, "POST", OBJECTS, Some(&body)).await.map(drop)
}

/// Writes a number to an object of its own and reads it back, until stopped.
async fn keeper(
    client: Client,
    number: u64,
    stop: watch::Receiver<bool>,
    progress: Progress,
) -> Result<Seen> {
    let mut seen = Seen::default();
    let name = format!("load-{number}");
    let object = format!("{OBJECTS}/{name}");
    let mut ticks = interval(KEEPER_PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut written = 0_u64;
    while !*stop.borrow() {
        ticks.tick().await;
        let begun = Instant::now();
        let outcome = if seen.done.is_multiple_of(2) {
            let next = json!({ "data": { "at": (written + 1).to_string() } });
            let answer = repeat(&client, "PATCH", &object, Some(&next), &mut seen.repeated).await;
            answer.map(|_| written += 1)
        } else {
            let answer = repeat(&client, "GET", &object, None, &mut seen.repeated).await;
            answer.and_then(|have| {
                let at = have.pointer("/data/at").and_then(Value::as_str).unwrap_or_default();
                match at == written.to_string() {
                    true => Ok(()),
                    false => bail!("{name} holds {at}, {written} was acknowledged"),
                }
            })
        };
        seen.record(begun, outcome);
        progress.0.fetch_add(1, Ordering::Relaxed);
    }
    Ok(seen)
}

/// Connects anew, again and again, now and then with a request; a new connection has no excuse.
async fn caller(
    kubeconfig: std::path::PathBuf,
    address: SocketAddr,
    stop: watch::Receiver<bool>,
) -> Result<Seen> {
    let mut seen = Seen::default();
    let mut ticks = interval(CALLER_PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut requests = JoinSet::new();
    while !*stop.borrow() {
        ticks.tick().await;
        let begun = Instant::now();
        if seen.done.is_multiple_of(CALLS_PER_REQUEST) {
            let file = kubeconfig.clone();
            // Beside the pace: an answer may have to wait for the end of a restart.
            requests.spawn(async move {
                let client = client::connect(&file).await?;
                send(&client, "GET", "/version", None).await.map(drop)
            });
        }
        let connected = TcpStream::connect(address).await;
        seen.record(begun, connected.map(drop).with_context(|| format!("connecting to {address}")));
    }
    while let Some(outcome) = requests.join_next().await {
        if let Err(err) = outcome? {
            seen.failures.push(format!("on a new connection: {err:#}"));
        }
    }
    Ok(seen)
}

/// [`send`], once more when a kept connection was closed under the request.
async fn repeat(
    client: &Client,
    method: &str,
    path: &str,
    body: Option<&Value>,
    repeated: &mut u64,
) -> Result<Value> {
    match send(client, method, path, body).await {
        Err(err) if CLOSED.iter().any(|text| format!("{err:#}").contains(text)) => {
            *repeated += 1;
            send(client, method, path, body).await
        }
        answer => answer,
    }
}

async fn send(client: &Client, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(
            "content-type",
            match method {
                "PATCH" => "application/merge-patch+json",
                _ => "application/json",
            },
        )
        .body(body.map(Value::to_string).unwrap_or_default().into_bytes())?;
    client.request(request).await.with_context(|| format!("{method} {path}"))
}
