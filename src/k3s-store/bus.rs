//! `io.k3s.Store1`: what an administrator can see of the store and do to it over D-Bus.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use zbus::message::Header;
use zbus::{Connection, fdo};

use crate::failure::Failure;
use crate::service::Store;
use crate::shared::read;
use crate::writer::Command;

pub(crate) struct Store1 {
    store: Arc<Store>,
}

/// Adds the interface to the component's object, when there is a bus.
pub(crate) async fn serve(cx: &daemon::Context, store: Arc<Store>) -> Result<()> {
    let Some(bus) = cx.bus() else { return Ok(()) };
    bus.object_server()
        .at(daemon::BUS_PATH, Store1 { store })
        .await
        .context("cannot serve io.k3s.Store1 on the bus")?;
    Ok(())
}

/// Takes the interface back, and with it the hold on the store.
pub(crate) async fn withdraw(cx: &daemon::Context) {
    if let Some(bus) = cx.bus() {
        // Fails only when it was never there.
        let _ = bus.object_server().remove::<Store1, _>(daemon::BUS_PATH).await;
    }
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
