//! End to end: one cluster, from `k3s server` to a process that answers on a Service address.
//!
//! Invariant: steps run in order on one cluster, each leaves it healthy, and the first failure of
//! a step is shown with the server's last lines.

mod agents;
mod audit;
mod bad_input;
mod bus;
mod certificates;
mod clients;
mod compaction;
mod conformance;
mod control;
mod controllers;
mod custom;
mod faults;
mod kubectl;
mod lifecycle;
mod loops;
mod mesh;
mod protobuf;
mod refusals;
mod restarts;
mod runtime;
mod webhooks;
mod workload;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

use crate::cluster::Cluster;

/// One step: a sentence, and what proves it.
type Step = (&'static str, fn(&mut Cluster) -> Result<()>);

const LOG: &str = "/var/log/k3s-e2e.log";

/// Runs the steps whose name contains the filter; the first two always.
pub(crate) fn run(filter: &str) -> ExitCode {
    let mut passed = 0;
    let mut failed = 0;
    let mut count = |name: &str, begun: Instant, result: Result<()>, tail: &str| match result {
        Ok(()) => {
            passed += 1;
            println!("ok      {name} ({} ms)", begun.elapsed().as_millis());
        }
        Err(err) => {
            failed += 1;
            println!("FAILED  {name}: {err:#}\n--- server log\n{tail}\n---");
        }
    };
    for (name, step) in refusals::STEPS {
        if name.contains(filter) {
            let begun = Instant::now();
            count(name, begun, step(), "");
        }
    }
    let begun = Instant::now();
    match Cluster::start(Path::new(LOG)) {
        Err(err) => count("the server starts", begun, Err(err), ""),
        Ok(mut cluster) => {
            let steps = workload::STEPS
                .iter()
                .chain(lifecycle::STEPS)
                .chain(controllers::STEPS)
                .chain(control::STEPS)
                .chain(loops::STEPS)
                .chain(clients::STEPS)
                .chain(bus::STEPS)
                .chain(restarts::STEPS)
                .chain(custom::STEPS)
                .chain(webhooks::STEPS)
                .chain(conformance::STEPS)
                .chain(protobuf::STEPS)
                .chain(bad_input::STEPS)
                .chain(mesh::STEPS)
                .chain(agents::STEPS)
                .chain(kubectl::STEPS)
                .chain(faults::STEPS)
                .chain(certificates::STEPS);
            for (index, (name, step)) in steps.enumerate() {
                if index < 2 || name.contains(filter) {
                    let begun = Instant::now();
                    let result = step(&mut cluster);
                    let tail = if result.is_err() { cluster.tail() } else { String::new() };
                    let fatal = result.is_err() && index < 2;
                    count(name, begun, result, &tail);
                    if fatal {
                        break;
                    }
                }
            }
        }
    }
    for (name, step) in [runtime::STEP, audit::STEP, compaction::STEP] {
        if name.contains(filter) {
            let begun = Instant::now();
            count(name, begun, step(), "");
        }
    }
    println!("e2e: {passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
