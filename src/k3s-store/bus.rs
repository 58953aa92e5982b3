//! `io.k3s.Store1`: what an administrator can see of the store and do to it over D-Bus.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use zbus::message::Header;
use zbus::{Connection, fdo};

use crate::failure::Failure;
use crate::service::Store;
use crate::shared::read;
use crate::writer::Command;

#[derive(Clone)]
pub(crate) struct Store1 {
    pub(crate) store: Arc<Store>,
}

#[zbus::interface(name = "io.k3s.Store1")]
impl Store1 {
    /// The newest revision. Changes with every write, so without a signal.
    #[zbus(property(emits_changed_signal = "false"))]
    fn revision(&self) -> i64 {
        self.store.shared.revision()
    }

    /// Older revisions than this are gone.
    #[zbus(property(emits_changed_signal = "false"))]
    fn compact_revision(&self) -> i64 {
        read(&self.store.shared.state).compacted.max(0)
    }

    /// Bytes of the database file.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn database_bytes(&self) -> fdo::Result<i64> {
        let size = self.store.shared.blocking(|reader| reader.size()).await;
        size.map(|(bytes, _)| bytes).map_err(|err: Failure| fdo::Error::Failed(err.to_string()))
    }

    /// Forgets all history up to now, and answers when its space is free for new data.
    async fn compact(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &Connection,
    ) -> fdo::Result<()> {
        daemon::authorize(bus, &header, daemon::MANAGE).await?;
        let revision = self.store.shared.revision();
        let done = self.store.submit(Command::Compact { revision, physical: true }).await;
        match done {
            Ok(_) => Ok(()),
            Err(status) if status == etcd::status::COMPACTED => Ok(()),
            Err(status) => Err(fdo::Error::Failed(status.to_string())),
        }
    }

    /// Writes a consistent copy of the database to a new file.
    async fn snapshot(
        &self,
        path: PathBuf,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &Connection,
    ) -> fdo::Result<()> {
        daemon::authorize(bus, &header, daemon::MANAGE).await?;
        if !path.is_absolute() {
            let text = format!("snapshot {}: give an absolute path", path.display());
            return Err(fdo::Error::InvalidArgs(text));
        }
        let done: Result<()> =
            self.store.shared.blocking(move |reader| reader.snapshot(&path)).await;
        done.map_err(|err| fdo::Error::Failed(format!("{err:#}")))
    }
}
