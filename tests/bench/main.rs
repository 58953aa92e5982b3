//! The benchmarks: `cargo build --release -p k3s -p bench && target/release/bench [FILTER]`. Each
//! prints figures beside their budgets; where a peer exists it is measured in the same run.
//!
//! Invariant: real processes, real TLS, a real disk, and nothing of the load is left out of the
//! figures: what is acknowledged is durable.

mod figure;
mod http;
mod objects;
mod requests;
mod scheduler;
mod server;
mod size;
mod store;
#[path = "../usage.rs"]
mod usage;
mod watches;

use std::process::ExitCode;

use anyhow::Result;

type Bench = fn() -> Result<()>;

/// Every benchmark, by name.
const BENCHES: &[(&str, Bench)] = &[
    ("store", store::run),
    ("requests", requests::run),
    ("watches", watches::run),
    ("size", size::run),
    ("scheduler", scheduler::run),
];

fn main() -> ExitCode {
    let filter = std::env::args().nth(1).unwrap_or_default();
    let mut failed = false;
    for (name, bench) in BENCHES.iter().filter(|(name, _)| name.contains(&filter)) {
        println!("bench: == {name}");
        if let Err(err) = bench() {
            eprintln!("bench: {name}: {err:#}");
            failed = true;
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
