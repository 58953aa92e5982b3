//! Restarts under load: nobody who talks to the cluster may notice that a component was restarted.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kube::Client;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::Step;
use crate::cluster::{Cluster, PATIENCE, components, kill, kubectl};

pub(super) const STEPS: &[Step] =
    &[("no request is lost through ten restarts of the API server and of the store", under_load)];

const RESTARTS: usize = 10;
/// Together they ask for 500 requests a second, half of them writes; a slow machine gives fewer.
const CLIENTS: u64 = 50;
const PAUSE: Duration = Duration::from_millis(100);
const OBJECTS: &str = "/api/v1/namespaces/default/configmaps";

/// What a client saw.
#[derive(Default)]
struct Seen {
    answered: u64,
    /// Sent again, since the server closed a kept connection while the request was on its way:
    /// HTTP/1.1 knows no better, RFC 9112 section 9.5.
    repeated: u64,
    slowest: Duration,
    failures: Vec<String>,
}

fn under_load(cluster: &mut Cluster) -> Result<()> {
    let (stop, stopped) = watch::channel(false);
    let load = std::thread::spawn(move || run_clients(stopped));
    let begun = Instant::now();
    let restarted = restart_all(cluster);
    let took = begun.elapsed();
    stop.send_replace(true);
    let seen = load.join().map_err(|_| anyhow::anyhow!("the clients panicked"))??;
    restarted?;
    println!(
        "        {} requests in {took:.1?}, the slowest took {:.1?}, {} repeated, {} failed",
        seen.answered,
        seen.slowest,
        seen.repeated,
        seen.failures.len(),
    );
    let first: Vec<&str> = seen.failures.iter().take(5).map(String::as_str).collect();
    ensure!(first.is_empty(), "{} requests failed: {first:#?}", seen.failures.len());
    kubectl(&["delete", "configmaps", "-l", "load=restarts"]).map(drop)
}

fn restart_all(cluster: &mut Cluster) -> Result<()> {
    for round in 0..RESTARTS {
        for name in ["k3s-apiserver", "k3s-store"] {
            let pid = pid_of(name)?;
            kill(pid, Signal::TERM)?;
            cluster
                .wait("a new process that is ready", PATIENCE, || {
                    Ok(pid_of(name).is_ok_and(|new| new != 0 && new != pid)
                        && kubectl(&["get", "--raw", "/readyz"])?.trim() == "ok")
                })
                .with_context(|| format!("{name}, round {round}"))?;
        }
    }
    Ok(())
}

fn pid_of(name: &str) -> Result<u32> {
    let all = components()?;
    all.into_iter().find(|(have, _)| have == name).map(|(_, pid)| pid).context("no such component")
}

#[tokio::main(flavor = "current_thread")]
async fn run_clients(stop: watch::Receiver<bool>) -> Result<Seen> {
    let client = client::connect(Path::new("/etc/rancher/k3s/k3s.yaml")).await?;
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(run_client(client.clone(), number, stop.clone()));
    }
    let mut all = Seen::default();
    while let Some(seen) = clients.join_next().await {
        let seen = seen??;
        all.answered += seen.answered;
        all.repeated += seen.repeated;
        all.slowest = all.slowest.max(seen.slowest);
        all.failures.extend(seen.failures);
    }
    Ok(all)
}

/// Writes a number to an object of its own and reads it back, until stopped.
async fn run_client(client: Client, number: u64, stop: watch::Receiver<bool>) -> Result<Seen> {
    let mut seen = Seen::default();
    let name = format!("load-{number}");
    let object = format!("{OBJECTS}/{name}");
    let labels = json!({ "load": "restarts" });
    let body = json!({ "metadata": { "name": name, "labels": labels }, "data": { "at": "0" } });
    send(&client, "POST", OBJECTS, Some(&body)).await.context("creating the object")?;
    let mut ticks = interval(PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut written = 0_u64;
    while !*stop.borrow() {
        ticks.tick().await;
        let begun = Instant::now();
        let outcome = if seen.answered.is_multiple_of(2) {
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
        seen.answered += 1;
        seen.slowest = seen.slowest.max(begun.elapsed());
        if let Err(err) = outcome {
            seen.failures.push(format!("{err:#}"));
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
        Err(err) if format!("{err:#}").contains("connection closed before message completed") => {
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
