//! Container logs kept within bounds: a log over its size is renamed and the runtime opens it anew.
//!
//! Looked at every ten seconds, as upstream does: the size of a file that somebody else writes has
//! no event that is cheaper. Invariant: at most `log_files_max` files of a container exist.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::manager::Pods;
use crate::pod::state::Life;
use crate::shared::Shared;

const EVERY: Duration = Duration::from_secs(10);

pub(crate) async fn run(
    shared: Arc<Shared>,
    pods: Pods,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = ticks.tick() => {}
        }
        for known in pods.list() {
            let running: Vec<(String, PathBuf)> = known
                .view
                .borrow()
                .observed
                .all()
                .filter(|view| view.life == Life::Running && !view.log_path.is_empty())
                .map(|view| (view.id.clone(), PathBuf::from(&view.log_path)))
                .collect();
            for (id, path) in running {
                if let Err(err) = rotate(&shared, &id, &path).await {
                    let err = format!("{err:#}");
                    tracing::warn!(container = %id, %err, "Log was not rotated, retrying");
                }
            }
        }
    }
}

async fn rotate(shared: &Shared, id: &str, path: &Path) -> anyhow::Result<()> {
    let config = &shared.config;
    match std::fs::metadata(path) {
        Ok(meta) if meta.len() >= config.log_bytes_max => {}
        _ => return Ok(()),
    }
    let old = rotated(path)?;
    // The one being written and the one about to be renamed also count.
    let keep = usize::try_from(config.log_files_max)?.saturating_sub(2);
    for file in surplus(&old, keep) {
        std::fs::remove_file(file).with_context(|| format!("removing {}", file.display()))?;
    }
    let stamp = Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{stamp}"));
    std::fs::rename(path, &name).with_context(|| format!("renaming {}", path.display()))?;
    if let Err(err) = shared.runtime.reopen_log(id).await {
        // Otherwise the container would go on writing to a file that nobody reads.
        std::fs::rename(&name, path)?;
        return Err(err).context("reopening the log");
    }
    Ok(())
}

fn rotated(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Ok(Vec::new()) };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut out = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            out.push(entry.path());
        }
    }
    out.sort();
    Ok(out)
}

/// The oldest files beyond those to keep.
fn surplus(sorted: &[PathBuf], keep: usize) -> &[PathBuf] {
    &sorted[..sorted.len().saturating_sub(keep)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_files_go_first() {
        let files: Vec<PathBuf> = ["a.1", "a.2", "a.3"].iter().map(PathBuf::from).collect();
        assert_eq!(surplus(&files, 2), &files[..1]);
        assert_eq!(surplus(&files, 5), &files[..0]);
    }
}
