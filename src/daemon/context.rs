//! What a component is given: its sockets, its stop signal, and where to report readiness.
//!
//! Invariant: reporting never blocks and never fails; a watcher task passes it on to the
//! supervisor (`NOTIFY_SOCKET`) and to D-Bus.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::listen::Listener;

/// What a component says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) ready: bool,
    /// "ok", or why not.
    pub(crate) health: String,
    pub(crate) status: String,
}

/// Everything that comes to a component from outside. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Context {
    /// Cancelled on SIGTERM and SIGINT: drain, then return.
    pub stop: CancellationToken,
    listeners: Arc<Mutex<Vec<(String, Listener)>>>,
    report: watch::Sender<Report>,
    bus: Option<zbus::Connection>,
}

impl Context {
    pub(crate) fn new(
        stop: CancellationToken,
        listeners: Vec<(String, Listener)>,
        report: watch::Sender<Report>,
        bus: Option<zbus::Connection>,
    ) -> Self {
        Self { stop, listeners: Arc::new(Mutex::new(listeners)), report, bus }
    }

    /// A context without supervisor and bus, for tests.
    pub fn detached(stop: CancellationToken) -> Self {
        Self::new(stop, Vec::new(), watch::Sender::new(Report::starting()), None)
    }

    /// Takes the passed socket with this name; `None` when none was passed (then bind it).
    /// A name may be passed several times; each call takes one.
    pub fn listener(&self, name: &str) -> Option<Listener> {
        let mut all = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        let at = all.iter().position(|(have, _)| have == name)?;
        Some(all.remove(at).1)
    }

    /// Able to answer from now on.
    pub fn ready(&self) {
        self.report.send_if_modified(|report| {
            let changed = !report.ready;
            report.ready = true;
            changed
        });
    }

    /// One line for people: what the component is doing.
    pub fn status(&self, text: impl Into<String>) {
        let text = text.into();
        self.report.send_if_modified(|report| {
            let changed = report.status != text;
            report.status = text;
            changed
        });
    }

    /// Healthy, or why not.
    pub fn health(&self, health: Result<(), String>) {
        let text = health.err().unwrap_or_else(|| "ok".to_owned());
        self.report.send_if_modified(|report| {
            let changed = report.health != text;
            report.health = text;
            changed
        });
    }

    pub(crate) fn reports(&self) -> watch::Receiver<Report> {
        self.report.subscribe()
    }

    /// The connection that owns the component's bus name; `None` where no bus runs.
    pub fn bus(&self) -> Option<&zbus::Connection> {
        self.bus.as_ref()
    }
}

impl Report {
    pub(crate) fn starting() -> Self {
        Self { ready: false, health: "ok".to_owned(), status: "Starting".to_owned() }
    }
}
