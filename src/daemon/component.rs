//! The life of one component process: logging, sockets, bus, runtime, signals, exit code.
//!
//! Invariant: a panic anywhere aborts the process; the supervisor restarts it and the sockets,
//! which are the supervisor's, stay open meanwhile.

use std::collections::BTreeMap;
use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::bus::{self, Bus};
use crate::context::{Context, Report};
use crate::interface::Identity;
use crate::{listen, log, watchdog};

/// A component's names: the process and unit, and the bus.
#[derive(Debug)]
pub struct Component {
    /// Crate, unit, process and journal identifier: `k3s-store`.
    pub name: &'static str,
    /// Well-known D-Bus name: `io.k3s.Store1`; empty for a process that stays off the bus.
    pub bus: &'static str,
}

/// How a component's runtime schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    CurrentThread,
    /// For components where a second thread was measured to pay.
    MultiThread,
}

/// A mistake of the administrator: exit code 78 (`EX_CONFIG`), so that nobody restarts in vain.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// After `stop`, a component that does not return within this time is ended.
const DRAIN_MAX: Duration = Duration::from_secs(8);

/// Runs one component to its end. Returns the exit code: 0, 1, or 78 for configuration errors.
/// `configuration` is what is in effect, by flag: D-Bus shows it.
pub fn main<F, R>(
    component: &'static Component,
    flavour: Flavour,
    configuration: BTreeMap<String, String>,
    run: F,
) -> ExitCode
where
    F: FnOnce(Context) -> R,
    R: Future<Output = Result<()>>,
{
    // Where the kernel gives huge pages to whoever does not refuse them, they would be most of an
    // idle process.
    let _may_cost_memory = rustix::thread::disable_transparent_huge_pages(true);
    log::init(component.name);
    abort_on_panic();
    match live(component, flavour, configuration, run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            error!(err = %format_args!("{err:#}"), "Stopped with an error");
            ExitCode::from(if err.is::<ConfigError>() { 78 } else { 1 })
        }
    }
}

fn live<F, R>(
    component: &'static Component,
    flavour: Flavour,
    configuration: BTreeMap<String, String>,
    run: F,
) -> Result<()>
where
    F: FnOnce(Context) -> R,
    R: Future<Output = Result<()>>,
{
    let listeners = listen::passed()?;
    runtime(flavour)?.block_on(async {
        let stop = CancellationToken::new();
        let identity = Identity::new(component.name, configuration);
        let reload = identity.reload.clone();
        let bus = Bus::absent();
        // A role, which has no name here, may start the bus itself and looks after it.
        let connection = match component.bus {
            "" => None,
            name => match bus.open(&identity, name, None).await {
                Ok(connection) => Some(connection),
                Err(err) => {
                    warn!(err = %format_args!("{err:#}"), "No D-Bus, going on without");
                    None
                }
            },
        };
        let (report, reports) = watch::channel(Report::starting());
        let cx = Context::new(identity.clone(), stop.clone(), listeners, report, bus.clone());
        let mut signals = Signals::new()?;
        let on_bus = async {
            match component.bus {
                "" => std::future::pending().await,
                name => bus.keep(connection, &identity, reports.clone(), name, None).await,
            }
        };
        let telling = async { tokio::join!(bus::notify_all(reports.clone()), on_bus) };
        let mut telling = std::pin::pin!(telling);
        let mut running = std::pin::pin!(run(cx));
        let mut feeding = std::pin::pin!(watchdog::feed());
        info!(version = env!("CARGO_PKG_VERSION"), "Started");
        loop {
            tokio::select! {
                done = &mut running => return done,
                _ = &mut telling => (),
                () = &mut feeding => (),
                end = signals.next() => match end {
                    Signalled::End => break,
                    Signalled::Reload if reload.receiver_count() == 0 => {
                        info!("Nothing to read again, ignoring SIGHUP");
                    }
                    Signalled::Reload => reload.send_modify(|count| *count += 1),
                }
            }
        }
        stop.cancel();
        tokio::select! {
            done = drain(running) => done,
            _ = &mut telling => Ok(()),
            () = &mut feeding => Ok(()),
        }
    })
}

async fn drain(running: impl Future<Output = Result<()>>) -> Result<()> {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    let done = tokio::time::timeout(DRAIN_MAX, running).await;
    info!("Stopped");
    done.context("did not stop in time")?
}

fn runtime(flavour: Flavour) -> Result<Runtime> {
    let mut builder = match flavour {
        Flavour::CurrentThread => Builder::new_current_thread(),
        Flavour::MultiThread => Builder::new_multi_thread(),
    };
    builder.enable_all().build().context("starting the runtime")
}

/// Prints the panic as one line and aborts, in every build profile.
fn abort_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        error!(err = %info, "Panicked, aborting");
        std::process::abort();
    }));
}

struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
    hup: tokio::signal::unix::Signal,
}

enum Signalled {
    End,
    Reload,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Signalled {
        tokio::select! {
            _ = self.term.recv() => Signalled::End,
            _ = self.int.recv() => Signalled::End,
            _ = self.hup.recv() => Signalled::Reload,
        }
    }
}
