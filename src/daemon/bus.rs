//! D-Bus: the connection that a component's interfaces are served on, and its name.
//!
//! Invariant: the bus is optional at run time, and may come and go. A component without one works,
//! it only can't be seen by `k3s status` and can't learn facts from its neighbours; once the bus is
//! back, everything that was served on it is served again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::future::BoxFuture;
use tokio::sync::watch;
use tracing::{debug, info, warn};
use zbus::names::InterfaceName;
use zbus::object_server::{Interface, InterfaceRef};

use crate::context::{Context, Report};
use crate::interface::{Component1, Identity, LOG_CONTROL_PATH, LogControl1};

/// Where every component serves its interfaces.
pub const PATH: &str = "/io/k3s";

/// How long an attempt to reach the bus may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// First and longest pause between two attempts to reach a bus that is away.
const RECONNECT_MIN: Duration = Duration::from_millis(200);
const RECONNECT_MAX: Duration = Duration::from_secs(5);

/// A connection to the bus the components live on: `DBUS_SYSTEM_BUS_ADDRESS`, else the system bus.
pub async fn connect() -> Result<zbus::Connection> {
    connect_to(None).await
}

async fn connect_to(address: Option<&str>) -> Result<zbus::Connection> {
    let builder = match address {
        Some(address) => zbus::connection::Builder::address(address),
        None => zbus::connection::Builder::system(),
    };
    let connection = tokio::time::timeout(CONNECT_TIMEOUT, builder.build())
        .await
        .context("the message bus did not answer")?
        .context("connecting to the message bus")?;
    Ok(connection)
}

/// The bus as a component sees it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bus {
    current: Arc<watch::Sender<Option<zbus::Connection>>>,
    offers: Arc<Mutex<Vec<Offer>>>,
}

/// An interface of the component's own, to be served on every connection.
#[derive(Clone)]
struct Offer {
    name: InterfaceName<'static>,
    serve: Arc<dyn Fn(zbus::Connection) -> BoxFuture<'static, zbus::Result<()>> + Send + Sync>,
}

impl std::fmt::Debug for Offer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl Bus {
    pub(crate) fn absent() -> Self {
        Self { current: Arc::new(watch::Sender::new(None)), offers: Arc::default() }
    }

    /// The connection that owns the component's name; `None` while there is no bus.
    pub fn connection(&self) -> Option<zbus::Connection> {
        self.current.borrow().clone()
    }

    /// The connection as it comes, goes and comes back.
    pub fn connections(&self) -> watch::Receiver<Option<zbus::Connection>> {
        self.current.subscribe()
    }

    /// Serves an interface at the component's object, now and on every later connection.
    ///
    /// # Errors
    /// When the present connection does not take it.
    pub async fn offer<I: Interface + Clone>(&self, interface: I) -> Result<()> {
        let serve = move |connection: zbus::Connection| -> BoxFuture<'static, zbus::Result<()>> {
            let interface = interface.clone();
            Box::pin(async move {
                // Handed back when it is there already, which is as good.
                connection.object_server().at(PATH, interface).await.map(drop)
            })
        };
        let offer = Offer { name: I::name(), serve: Arc::new(serve) };
        self.offers.lock().unwrap_or_else(PoisonError::into_inner).push(offer.clone());
        match self.connection() {
            Some(connection) => (offer.serve)(connection)
                .await
                .with_context(|| format!("serving {} on the bus", offer.name)),
            None => Ok(()),
        }
    }

    /// Takes an interface back, and with it what it holds.
    pub async fn withdraw<I: Interface>(&self) {
        let mut offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        offers.retain(|offer| offer.name != I::name());
        *self.offers.lock().unwrap_or_else(PoisonError::into_inner) = offers;
        if let Some(connection) = self.connection() {
            // Fails only when it was never there.
            let _ = connection.object_server().remove::<I, _>(PATH).await;
        }
    }

    /// An interface that was offered, to send its signals; `None` while there is no bus.
    pub async fn served<I: Interface>(&self) -> Option<InterfaceRef<I>> {
        self.connection()?.object_server().interface::<_, I>(PATH).await.ok()
    }

    /// Connects, serves the common interfaces and what was offered, and owns `name`.
    pub(crate) async fn open(
        &self,
        identity: &Identity,
        name: &str,
        address: Option<&str>,
    ) -> Result<zbus::Connection> {
        let connection = connect_to(address).await?;
        // Before the offers are looked at, so that one which comes meanwhile is served by its giver.
        self.current.send_replace(Some(connection.clone()));
        let offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for offer in offers {
            (offer.serve)(connection.clone())
                .await
                .with_context(|| format!("serving {}", offer.name))?;
        }
        own(&connection, identity.clone(), name).await?;
        Ok(connection)
    }

    /// Publishes reports on `connection`, and on a new one after each loss of the bus; for ever.
    pub(crate) async fn keep(
        &self,
        mut connection: Option<zbus::Connection>,
        identity: &Identity,
        mut reports: watch::Receiver<Report>,
        name: &str,
        address: Option<&str>,
    ) {
        let mut pause = RECONNECT_MIN;
        loop {
            if let Some(connection) = connection.take() {
                let ended = publish(&connection, &mut reports).await;
                self.current.send_replace(None);
                match ended {
                    Ok(()) => warn!("Lost the message bus, connecting again"),
                    Err(err) => {
                        let err = format!("{err:#}");
                        warn!(err, "Could not publish state on D-Bus, connecting again");
                    }
                }
                pause = RECONNECT_MIN;
            }
            tokio::time::sleep(pause).await;
            match self.open(identity, name, address).await {
                Ok(opened) => {
                    info!("Connected to the message bus");
                    connection = Some(opened);
                }
                Err(err) => {
                    self.current.send_replace(None);
                    debug!(err = %format_args!("{err:#}"), ?pause, "No message bus, retrying");
                    pause = (pause * 2).min(RECONNECT_MAX);
                }
            }
        }
    }
}

/// For a role, which may start the bus itself: owns `name` on the bus at `address` (the system bus
/// when `None`), serves `role` beside the common interfaces, and publishes what `cx` reports, until
/// stopped.
pub async fn attend(
    cx: &Context,
    name: &'static str,
    address: Option<&str>,
    role: impl Interface + Clone,
) -> Result<()> {
    cx.bus().offer(role).await?;
    tokio::select! {
        () = cx.bus().keep(None, cx.identity(), cx.reports(), name, address) => Ok(()),
        () = cx.stop.cancelled() => Ok(()),
    }
}

/// Publishes reports until the connection is lost.
async fn publish(
    connection: &zbus::Connection,
    reports: &mut watch::Receiver<Report>,
) -> Result<()> {
    let mut told = Report::starting();
    let mut open = true;
    loop {
        let report = reports.borrow_and_update().clone();
        emit(connection, &told, &report).await?;
        told = report;
        tokio::select! {
            changed = reports.changed(), if open => open = changed.is_ok(),
            () = connection.closed() => return Ok(()),
        }
    }
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

/// Passes reports on to the supervisor, for ever.
pub(crate) async fn notify_all(mut reports: watch::Receiver<Report>) {
    let mut told = Report::starting();
    while reports.changed().await.is_ok() {
        let report = reports.borrow_and_update().clone();
        notify(&told, &report);
        told = report;
    }
    std::future::pending().await
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
