//! What a component is given: its sockets, its stop signal, and where to report readiness.
//!
//! Invariant: reporting never blocks and never fails; a watcher task passes it on to the
//! supervisor (`NOTIFY_SOCKET`) and to D-Bus.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::bus::Bus;
use crate::interface::Identity;
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
    bus: Bus,
    identity: Arc<Identity>,
}

impl Context {
    pub(crate) fn new(
        identity: Identity,
        stop: CancellationToken,
        listeners: Vec<(String, Listener)>,
        report: watch::Sender<Report>,
        bus: Bus,
    ) -> Self {
        let listeners = Arc::new(Mutex::new(listeners));
        Self { stop, listeners, report, bus, identity: Arc::new(identity) }
    }

    /// A context without supervisor and bus, for tests.
    pub fn detached(stop: CancellationToken) -> Self {
        let report = watch::Sender::new(Report::starting());
        Self::new(Identity::new("test", BTreeMap::new()), stop, Vec::new(), report, Bus::absent())
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

    /// Raised when files are to be read again: SIGHUP, or `Reload` and `RotateCertificates` on
    /// D-Bus. A component that never asks for this refuses those methods.
    pub fn reload(&self) -> watch::Receiver<u64> {
        self.identity.reload.subscribe()
    }

    /// What is in effect, by flag.
    pub fn configuration(&self) -> &BTreeMap<String, String> {
        &self.identity.configuration
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) fn reports(&self) -> watch::Receiver<Report> {
        self.report.subscribe()
    }

    /// The bus that the component's name is on, while there is one.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }
}

impl Report {
    pub(crate) fn starting() -> Self {
        Self { ready: false, health: "ok".to_owned(), status: "Starting".to_owned() }
    }
}
