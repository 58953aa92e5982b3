//! Waiting for files to change: one inotify watch over a few folders.
//!
//! Invariant: a change that happens after [`Changes::of`] returned is never missed, and a burst of
//! changes is reported once, when it is over.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use inotify::{EventStream, Inotify, WatchMask};

/// A burst of changes is over when nothing happened for so long.
const QUIET: Duration = Duration::from_millis(100);

/// Changes in some folders: files written, moved in, or removed.
pub struct Changes {
    events: EventStream<[u8; 1024]>,
}

impl Changes {
    /// Watches these folders, not what is below them.
    pub fn of<P: AsRef<Path>>(folders: impl IntoIterator<Item = P>) -> Result<Self> {
        let inotify = Inotify::init().context("starting inotify")?;
        let mask =
            WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | WatchMask::DELETE | WatchMask::ONLYDIR;
        for folder in folders {
            let folder = folder.as_ref();
            inotify
                .watches()
                .add(folder, mask)
                .with_context(|| format!("watching {}", folder.display()))?;
        }
        let events = inotify.into_event_stream([0; 1024]).context("watching folders")?;
        Ok(Self { events })
    }

    /// Waits for the end of the next burst of changes. Cancelling it loses nothing but the burst
    /// that is under way.
    pub async fn next(&mut self) -> Result<()> {
        self.events.next().await.context("inotify has ended")?.context("watching folders")?;
        while let Ok(event) = tokio::time::timeout(QUIET, self.events.next()).await {
            event.context("inotify has ended")?.context("watching folders")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_burst_of_changes_is_reported_once() {
        let folder = std::env::temp_dir().join(format!("k3s-changes-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut changes = Changes::of([&folder]).unwrap();
        std::fs::write(folder.join("a"), "1").unwrap();
        std::fs::rename(folder.join("a"), folder.join("b")).unwrap();
        changes.next().await.unwrap();
        let more = tokio::time::timeout(Duration::from_millis(200), changes.next()).await;
        assert!(more.is_err(), "the burst is over");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
