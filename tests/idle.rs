//! The idle benchmark: time to ready, memory, CPU, wakeups and disk writes of an empty cluster.
//!
//! It prints figures and judges nothing; `README.md` says where they must go.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::cluster::{Cluster, components, wait};
use crate::usage::Usage;

/// How long the idle cluster is watched: several times the longest heartbeat.
const WATCHED: Duration = Duration::from_secs(60);

/// Runs the benchmark and prints its table.
pub(crate) fn run() -> ExitCode {
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("idle: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<()> {
    let mut cluster = Cluster::start(Path::new("/var/log/k3s-idle.log"))?;
    let api = cluster.api_ready()?;
    let node = cluster.node_ready()?;
    println!("idle: time to API ready        {:>8} ms", api.as_millis());
    println!("idle: time to node Ready       {:>8} ms", node.as_millis());
    // Start-up work (caches, bootstrap objects) ends when the processes stop using CPU.
    let mut last = 0.0;
    wait("the start-up work to end", Duration::from_secs(60), &mut || {
        let now: f64 = usage()?.iter().map(|(_, usage)| usage.cpu_ms).sum();
        Ok(now - std::mem::replace(&mut last, now) < 1.0)
    })
    .ok();
    let before = usage()?;
    let begun = Instant::now();
    wait("time to pass", WATCHED * 2, &mut || Ok(begun.elapsed() >= WATCHED))?;
    let seconds = begun.elapsed().as_secs_f64();
    let mut total = Usage::default();
    println!("idle:                              PSS  anonymous    CPU  wakeups   writes");
    for ((name, now), (_, was)) in usage()?.iter().zip(&before) {
        let used = since(now, was);
        row(name, &used, seconds);
        total.pss_kib += used.pss_kib;
        total.anonymous_kib += used.anonymous_kib;
        total.cpu_ms += used.cpu_ms;
        total.written += used.written;
        total.wakeups += used.wakeups;
    }
    row("all components", &total, seconds);
    cluster.stop()?;
    Ok(())
}

fn row(name: &str, used: &Usage, seconds: f64) {
    println!(
        "idle: {name:<24} {:>6} KiB {:>6} KiB {:>4.2} % {:>6.1}/s {:>6.0} B/s",
        used.pss_kib,
        used.anonymous_kib,
        used.cpu_ms / seconds / 10.0,
        used.wakeups as f64 / seconds,
        used.written as f64 / seconds,
    );
}

/// What is now of memory, and what was used meanwhile of the rest.
fn since(now: &Usage, was: &Usage) -> Usage {
    Usage {
        cpu_ms: (now.cpu_ms - was.cpu_ms).max(0.0),
        written: now.written.saturating_sub(was.written),
        wakeups: now.wakeups.saturating_sub(was.wakeups),
        ..*now
    }
}

fn usage() -> Result<Vec<(String, Usage)>> {
    components()?
        .into_iter()
        .filter(|(_, pid)| *pid != 0)
        .map(|(name, pid)| Ok((name, Usage::of(pid)?)))
        .collect()
}
