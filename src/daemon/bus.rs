//! D-Bus: the connection that a component's interfaces are served on, and its name.
//!
//! Invariant: the bus is optional at run time; a component without one works, it only can't be
//! seen by `k3s status` and can't learn facts from its neighbours.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::StreamExt;
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::context::{Context, Report};
use crate::interface::{Component1, Identity, LOG_CONTROL_PATH, LogControl1};

/// Where every component serves its interfaces.
pub const PATH: &str = "/io/k3s";

/// How long a component waits for the bus at start before it goes on without.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two attempts of a role to reach a bus that comes up beside it.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);

/// A connection to the bus the components live on: `DBUS_SYSTEM_BUS_ADDRESS`, else the system bus.
pub async fn connect() -> Result<zbus::Connection> {
    let connecting = zbus::connection::Builder::system().build();
    let connection = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
        .await
        .context("the message bus did not answer")?
        .context("connecting to the message bus")?;
    Ok(connection)
}

/// Serves the common interfaces and owns `name`; nothing for a process without one.
pub(crate) async fn serve(identity: Identity, name: &str) -> Result<Option<zbus::Connection>> {
    if name.is_empty() {
        return Ok(None);
    }
    let connection = connect().await?;
    own(&connection, identity, name).await?;
    Ok(Some(connection))
}

/// For a role, which may start the bus itself: owns `name` on the bus at `address` (the system bus
/// when `None`), serves `role` beside the common interfaces, and publishes what `cx` reports, again
/// after each loss of the bus, until stopped.
pub async fn attend(
    cx: &Context,
    name: &'static str,
    address: Option<&str>,
    role: impl zbus::object_server::Interface + Clone,
) {
    while !cx.stop.is_cancelled() {
        let attended = async {
            let connection = match address {
                Some(address) => zbus::connection::Builder::address(address).build().await?,
                None => connect().await?,
            };
            connection.object_server().at(PATH, role.clone()).await?;
            own(&connection, cx.identity().clone(), name).await?;
            let mut reports = cx.reports();
            let mut told = Report::starting();
            loop {
                let report = reports.borrow_and_update().clone();
                emit(&connection, &told, &report).await?;
                told = report;
                tokio::select! {
                    changed = reports.changed() => changed?,
                    () = lost(&connection) => return anyhow::Ok(()),
                }
            }
        };
        tokio::select! {
            attended = attended => if let Err(err) = attended {
                debug!(err = %format_args!("{err:#}"), "Bus is not there yet, retrying");
            },
            () = cx.stop.cancelled() => return,
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

/// Waits until the connection is closed.
async fn lost(connection: &zbus::Connection) {
    let mut messages = zbus::MessageStream::from(connection.clone());
    while messages.next().await.is_some_and(|message| message.is_ok()) {}
}

async fn own(connection: &zbus::Connection, identity: Identity, name: &str) -> Result<()> {
    let server = connection.object_server();
    let log_control = LogControl1 { name: identity.name };
    let component = Component1 { identity, report: Report::starting() };
    server.at(PATH, component).await.context("serving io.k3s.Component1")?;
    server.at(LOG_CONTROL_PATH, log_control).await.context("serving LogControl1")?;
    // A restarted component takes the name from its dying predecessor.
    let flags = zbus::fdo::RequestNameFlags::ALLOW_REPLACEMENT
        | zbus::fdo::RequestNameFlags::REPLACE_EXISTING;
    connection
        .request_name_with_flags(name, flags)
        .await
        .with_context(|| format!("owning the bus name {name}"))?;
    Ok(())
}

/// Passes reports on to the supervisor and the bus until the sender is gone.
pub(crate) async fn publish(bus: Option<zbus::Connection>, mut reports: watch::Receiver<Report>) {
    let mut told = Report::starting();
    while reports.changed().await.is_ok() {
        let report = reports.borrow_and_update().clone();
        notify(&told, &report);
        if let Some(bus) = &bus
            && let Err(err) = emit(bus, &told, &report).await
        {
            warn!(err = %format_args!("{err:#}"), "Could not publish state on D-Bus, ignoring");
        }
        told = report;
    }
}

fn notify(told: &Report, report: &Report) {
    let mut states = vec![sd_notify::NotifyState::Status(&report.status)];
    if report.ready && !told.ready {
        states.push(sd_notify::NotifyState::Ready);
    }
    if let Err(err) = sd_notify::notify(&states) {
        warn!(%err, "Could not notify the service manager, ignoring");
    }
}

async fn emit(bus: &zbus::Connection, told: &Report, report: &Report) -> Result<()> {
    let served = bus.object_server().interface::<_, Component1>(PATH).await?;
    let mut interface = served.get_mut().await;
    interface.report = report.clone();
    let emitter = served.signal_emitter();
    if told.ready != report.ready {
        interface.ready_changed(emitter).await?;
    }
    if told.health != report.health {
        interface.health_changed(emitter).await?;
    }
    if told.status != report.status {
        interface.status_changed(emitter).await?;
    }
    Ok(())
}
