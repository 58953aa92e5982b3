//! A role under systemd becomes the new executable when it is reloaded after an upgrade.
//!
//! Invariant: the process stays the same one, its sockets stay open, and its units, which are
//! systemd's, go on; restarting the role would restart all of them at once.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use daemon::{Context, Listener};
use tracing::{info, warn};

use crate::systemd::own_unit;

/// Follows reloads until the task is ended; without systemd the role holds its processes itself
/// and stays what it is. `sockets` are handed on under their names.
pub(crate) async fn follow(cx: Context, sockets: Vec<(&'static str, Listener)>) -> Result<()> {
    if own_unit().is_none() {
        return Ok(());
    }
    let mut reload = cx.reload();
    while reload.changed().await.is_ok() {
        let running = fs::read_link("/proc/self/exe").context("reading /proc/self/exe")?;
        // So the kernel marks a file that was replaced.
        let Some(path) = running.to_str().and_then(|path| path.strip_suffix(" (deleted)")) else {
            continue;
        };
        if !fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o111 != 0) {
            warn!(path, "There is no new executable, going on with the old one");
            continue;
        }
        info!(path, "Becoming the new executable");
        let mut args = std::env::args_os();
        let mut command = Command::new(path);
        command.arg0(args.next().unwrap_or_else(|| Path::new(path).into())).args(args);
        let err = daemon::exec(command, &sockets);
        bail!("could not become the new executable {path}: {err}");
    }
    Ok(())
}
