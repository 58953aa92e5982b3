//! Who runs a role's units: systemd, where the role is one of its units, else the role itself.
//!
//! Invariant: a role typed in a terminal always supervises by itself.

use std::path::Path;

use anyhow::Result;
use daemon::Context;
use daemon::supervise::{State, Supervisor, Unit};
use tokio::sync::watch;
use tokio::task::JoinSet;
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

    /// Keeps the units and the role's tasks going until the stop, or until one of them cannot; a
    /// reload has the units run as `plan` says then. Pods outlive it.
    pub(crate) async fn serve(
        mut self,
        cx: &Context,
        mut tasks: JoinSet<Result<()>>,
        plan: impl Fn() -> Result<Vec<Unit>>,
    ) -> Result<()> {
        let mut reload = cx.reload();
        let ended = loop {
            tokio::select! {
                err = self.refused() => break Err(err),
                err = failed(&mut tasks) => break Err(err),
                () = cx.stop.cancelled() => break Ok(()),
                Ok(()) = reload.changed() => self.reload(plan()).await,
            }
        };
        info!("Stopping, pods keep running");
        self.stop(ended.is_err()).await?;
        tasks.shutdown().await;
        ended
    }

    /// Has units run as the configuration says that was read again. Units and sockets that were
    /// not there at the start are left to the next one; a configuration that cannot be used changes
    /// nothing.
    async fn reload(&self, units: Result<Vec<Unit>>) {
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
    async fn refused(&mut self) -> anyhow::Error {
        match self {
            Self::Own(supervisor) => supervisor.refused().await,
            Self::Systemd(systemd) => systemd.refused().await,
        }
    }

    /// Ends the units; `refused` when that is because one of them cannot run.
    async fn stop(self, refused: bool) -> Result<()> {
        match self {
            Self::Own(supervisor) => {
                supervisor.stop().await;
                Ok(())
            }
            Self::Systemd(systemd) => systemd.stop(refused).await,
        }
    }
}

/// The first background task that fails; a task that ends well is no event.
async fn failed(tasks: &mut JoinSet<Result<()>>) -> anyhow::Error {
    loop {
        match tasks.join_next().await {
            Some(Ok(Ok(()))) => (),
            Some(Ok(Err(err))) => return err,
            Some(Err(err)) => return err.into(),
            None => std::future::pending().await,
        }
    }
}
