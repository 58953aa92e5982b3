//! A role under systemd becomes the new executable when it is reloaded after an upgrade.
//!
//! Invariant: the process stays the same one and its units, which are systemd's, go on; restarting
//! the role would restart all of them at once.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context as _, Result};
use daemon::Context;
use tracing::{info, warn};

use crate::systemd::own_unit;

/// Follows reloads until the task is ended; without systemd the role holds its processes itself
/// and stays what it is.
pub(crate) async fn follow(cx: Context) -> Result<()> {
    if own_unit().is_none() {
        return Ok(());
    }
    let mut reload = cx.reload();
    while reload.changed().await.is_ok() {
        let running = fs::read_link("/proc/self/exe").context("reading /proc/self/exe")?;
        // So the kernel marks a file that was replaced.
        let Some(path) = running.to_str().and_then(|path| path.strip_suffix(" (deleted)")) else {
            info!("The executable is the same, nothing to do");
            continue;
        };
        info!(path, "Becoming the new executable");
        let mut args = std::env::args_os();
        let name = args.next().unwrap_or_else(|| path.into());
        let err = Command::new(path).arg0(name).args(args).exec();
        warn!(%err, path, "Could not become the new executable, going on with the old one");
    }
    Ok(())
}
