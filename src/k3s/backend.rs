//! Who runs a role's units: systemd, where the role is one of its units, else the role itself.
//!
//! Invariant: a role typed in a terminal always supervises by itself.

use std::path::Path;

use anyhow::Result;
use daemon::supervise::{State, Supervisor, Unit};
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::settings::{Paths, RUN_DIR};
use crate::systemd::{Systemd, own_unit};

/// Says what of a configuration that was read again is more than arguments of units, and waits for
/// a restart: flags, and whether they changed.
pub(crate) fn warn_of_rest(role: &str, rest: &[(&str, bool)]) {
    for (flag, _) in rest.iter().filter(|(_, changed)| *changed) {
        warn!(flag, "A changed flag takes effect when {role} is restarted");
    }
}

/// A role's units, in the hands of one or the other.
pub(crate) enum Backend {
    Own(Supervisor),
    Systemd(Box<Systemd>),
}

impl Backend {
    /// Takes the units, refuses what cannot be, and starts nothing yet.
    pub(crate) async fn open(units: Vec<Unit>) -> Result<Self> {
        Ok(match own_unit() {
            Some(role) => Self::Systemd(Box::new(Systemd::open(role, units).await?)),
            None => Self::Own(Supervisor::open(units, &Path::new(RUN_DIR).join("notify"))?),
        })
    }

    pub(crate) async fn start(&mut self, paths: &Paths) -> Result<()> {
        match self {
            Self::Own(supervisor) => supervisor.start(),
            Self::Systemd(systemd) => systemd.start(&paths.data).await,
        }
    }

    /// The state of every unit.
    pub(crate) fn states(&self) -> &[(String, watch::Receiver<State>)] {
        match self {
            Self::Own(supervisor) => supervisor.states(),
            Self::Systemd(systemd) => systemd.states(),
        }
    }

    /// The state of a unit.
    pub(crate) fn state(&self, name: &str) -> Option<watch::Receiver<State>> {
        self.states().iter().find(|(have, _)| have == name).map(|(_, state)| state.clone())
    }

    /// Has units run as the configuration says that was read again. Units and sockets that were
    /// not there at the start are left to the next one; a configuration that cannot be used changes
    /// nothing.
    pub(crate) async fn reload(&self, units: Result<Vec<Unit>>) {
        let applied = async {
            let units = units?;
            match self {
                Self::Own(supervisor) => Ok(supervisor.apply(&units)),
                Self::Systemd(systemd) => systemd.apply(&units).await,
            }
        };
        match applied.await {
            Ok(units) => info!(units = units.join(","), "Read the configuration again"),
            Err(err) => {
                let err = format!("{err:#}");
                error!(err, "The new configuration cannot be used, going on with the old");
            }
        }
    }

    /// Waits until a unit refuses its configuration.
    pub(crate) async fn refused(&mut self) -> anyhow::Error {
        match self {
            Self::Own(supervisor) => supervisor.refused().await,
            Self::Systemd(systemd) => systemd.refused().await,
        }
    }

    /// Ends the units; `refused` when that is because one of them cannot run.
    pub(crate) async fn stop(self, refused: bool) -> Result<()> {
        match self {
            Self::Own(supervisor) => {
                supervisor.stop().await;
                Ok(())
            }
            Self::Systemd(systemd) => systemd.stop(refused).await,
        }
    }
}
