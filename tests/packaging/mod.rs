//! Packages on machines that boot: install, run pods, restart, reboot, upgrade, remove, purge.
//!
//! Invariant: each story runs on a fresh Debian 12 with systemd or OpenRC, steps in order, and
//! compares a full inventory from before the installation with one from after the purge.

mod agent;
mod base;
mod emulated;
mod formats;
mod guest;
mod init;
mod install;
mod inventory;
mod machine;
mod node;
mod openrc;
mod operation;
mod publish;
mod rpm;
mod server;
mod vm;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

/// A story: its name, and its steps.
struct Story {
    name: &'static str,
    run: fn(&mut Report) -> Result<()>,
}

const STORIES: &[Story] = &[
    Story { name: "formats", run: formats::run },
    Story { name: "publish", run: publish::run },
    Story { name: "rpm", run: rpm::run },
    Story { name: "server", run: server::run },
    Story { name: "agent", run: agent::run },
    Story { name: "openrc", run: openrc::run },
    Story { name: "install", run: install::run },
];

/// What the steps of the stories came to.
pub(crate) struct Report {
    story: &'static str,
    passed: u32,
}

impl Report {
    /// Runs one step and says how long it took.
    fn step<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let begun = Instant::now();
        let done = work().map_err(|err| err.context(name.to_owned()))?;
        self.passed += 1;
        println!("ok      {}: {name} ({} ms)", self.story, begun.elapsed().as_millis());
        Ok(done)
    }
}

/// Makes what the stories need from the network, outside `tests/isolate`.
pub(crate) fn prepare() -> ExitCode {
    match base::prepare() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("packaging: {err:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the stories whose name contains the filter.
pub(crate) fn run(filter: &str) -> ExitCode {
    tell(STORIES.iter().filter(|story| story.name.contains(filter)))
}

/// Runs the story of an emulated machine, which takes too long to be among the others.
pub(crate) fn run_vm() -> ExitCode {
    tell([Story { name: "vm", run: vm::run }].iter())
}

fn tell<'a>(stories: impl Iterator<Item = &'a Story>) -> ExitCode {
    let (mut passed, mut failed) = (0, 0);
    for story in stories {
        let mut report = Report { story: story.name, passed: 0 };
        let result = (story.run)(&mut report);
        passed += report.passed;
        if let Err(err) = result {
            failed += 1;
            println!("FAILED  {}: {err:#}", story.name);
        }
    }
    println!("packaging: {passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
