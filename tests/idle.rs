//! The idle benchmark: time to ready, memory, CPU and disk writes of an empty cluster.
//!
//! It prints figures and judges nothing; `src/ARCHITECTURE.md` says where they must go.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cluster::{Cluster, components, wait};

/// How long the idle cluster is watched.
const WATCHED: Duration = Duration::from_secs(20);

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
    let mut last = 0;
    wait("the start-up work to end", Duration::from_secs(60), &mut || {
        let now: u64 = usage()?.iter().map(|process| process.ticks).sum();
        Ok(now - std::mem::replace(&mut last, now) == 0)
    })
    .ok();
    let before = usage()?;
    let begun = Instant::now();
    wait("time to pass", WATCHED * 2, &mut || Ok(begun.elapsed() >= WATCHED))?;
    let after = usage()?;
    let mut total = (0, 0, 0);
    for (process, was) in after.iter().zip(&before) {
        let ticks = process.ticks.saturating_sub(was.ticks);
        let written = process.written.saturating_sub(was.written);
        println!("idle: {:<24} {:>8} KiB PSS", process.name, process.pss_kib);
        total = (total.0 + process.pss_kib, total.1 + ticks, total.2 + written);
    }
    println!("idle: memory, all components   {:>8} KiB PSS", total.0);
    let percent = total.1 as f64 / WATCHED.as_secs_f64();
    println!("idle: CPU, all components      {percent:>8.2} % of a core");
    println!("idle: disk writes              {:>8} B/s", total.2 / WATCHED.as_secs());
    cluster.stop()?;
    Ok(())
}

struct Usage {
    name: String,
    pss_kib: u64,
    /// User and system time, hundredths of a second.
    ticks: u64,
    /// Bytes sent to the block layer.
    written: u64,
}

fn usage() -> Result<Vec<Usage>> {
    components()?
        .into_iter()
        .filter(|(_, pid)| *pid != 0)
        .map(|(name, pid)| {
            let read = |file: &str| {
                fs::read_to_string(format!("/proc/{pid}/{file}")).with_context(|| name.clone())
            };
            let stat = read("stat")?;
            let ticks = stat
                .rsplit_once(')')
                .map_or("", |(_, rest)| rest)
                .split_whitespace()
                .skip(11)
                .take(2)
                .filter_map(|field| field.parse::<u64>().ok())
                .sum();
            let pss_kib = number(&read("smaps_rollup")?, "Pss:");
            let written = number(&read("io")?, "write_bytes:");
            Ok(Usage { name, pss_kib, ticks, written })
        })
        .collect()
}

/// The number behind a label in one of proc(5)'s files.
fn number(text: &str, label: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(label))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}
