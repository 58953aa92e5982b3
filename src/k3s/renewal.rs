//! Keeps a role's leaf certificates young: renews them when two thirds of their life are over, and
//! at once when an administrator replaced or removed one.
//!
//! Invariant: it only decides when. What is written is `renew`'s business, and components follow
//! the files by themselves.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use daemon::Changes;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Clocks jump and machines sleep: never wait longer before looking again.
const LOOK_SECS: i64 = 3600;
const RETRY: Duration = Duration::from_secs(10);

/// Calls `renew` whenever one of `leafs` is due or something in `folders` changes, until stopped.
pub(crate) async fn keep<F: Future<Output = Result<()>>>(
    stop: CancellationToken,
    folders: Vec<PathBuf>,
    leafs: Vec<PathBuf>,
    mut renew: impl FnMut() -> F,
) -> Result<()> {
    let mut changes = Changes::of(&folders)?;
    loop {
        let wait = wait_secs(&leafs, Timestamp::now().as_second());
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = changes.next() => changed?,
            () = tokio::time::sleep(Duration::from_secs(wait)) => {}
        }
        let before = due(&leafs);
        match renew().await {
            Ok(()) if due(&leafs) > before => info!("Renewed certificates"),
            Ok(()) => {}
            Err(err) => {
                warn!(err = %format_args!("{err:#}"), "Could not renew certificates, retrying");
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(RETRY) => {}
                }
            }
        }
    }
}

/// Whether one of these has to be renewed now.
pub(crate) fn is_due(leafs: &[PathBuf]) -> bool {
    due(leafs) <= Timestamp::now().as_second()
}

/// How long until the first leaf is due.
fn wait_secs(leafs: &[PathBuf], now: i64) -> u64 {
    let wait = due(leafs).saturating_sub(now).clamp(1, LOOK_SECS);
    wait.unsigned_abs()
}

/// When the first leaf is due; one that can't be read is due now.
fn due(leafs: &[PathBuf]) -> i64 {
    let of = |path: &PathBuf| {
        pki::inspect_file(path).ok().and_then(|found| Some(found.first()?.renew_at))
    };
    leafs.iter().map(|path| of(path).unwrap_or(0)).min().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_leaf_is_due_and_nobody_waits_for_ever() {
        assert_eq!(wait_secs(&["/nonexistent".into()], 100), 1);
        assert_eq!(wait_secs(&[], 100), LOOK_SECS.unsigned_abs());
    }
}
