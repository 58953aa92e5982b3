//! Which message bus the components meet on: the system's where it knows us, else one of our own.
//!
//! Invariant: a component never has to ask; it finds the address in `DBUS_SYSTEM_BUS_ADDRESS`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use daemon::supervise::State;
use daemon::{Context, attend_bus};
use pki::{Durability, write_with};
use tokio::sync::watch;

use crate::containerd::find_program;
use crate::settings::RUN_DIR;
use crate::systemd;

/// The system bus, and the places where the policy that lets us own names is installed.
const SYSTEM_SOCKET: &str = "/run/dbus/system_bus_socket";
const POLICIES: [&str; 2] =
    ["/usr/share/dbus-1/system.d/io.k3s.conf", "/etc/dbus-1/system.d/io.k3s.conf"];

/// The bus that this machine's components use.
#[derive(Clone)]
pub(crate) enum Bus {
    System,
    Private { program: PathBuf, config: PathBuf },
}

impl Bus {
    /// Its address, unless it is the system's.
    pub(crate) fn address(&self) -> Option<String> {
        match self {
            Self::System => None,
            Self::Private { .. } => Some(private_address()),
        }
    }
}

/// The socket of our own bus.
pub(crate) fn private_socket() -> PathBuf {
    Path::new(RUN_DIR).join("bus.sock")
}

/// The address for `DBUS_SYSTEM_BUS_ADDRESS` of our own bus.
pub(crate) fn private_address() -> String {
    format!("unix:path={}", private_socket().display())
}

/// Decides which bus to use, and prepares our own when it has to be.
pub(crate) fn choose() -> Result<Bus> {
    if systemd::own_unit().is_some() {
        return Ok(Bus::System);
    }
    let allowed = POLICIES.iter().any(|path| Path::new(path).exists());
    if allowed && std::os::unix::net::UnixStream::connect(SYSTEM_SOCKET).is_ok() {
        return Ok(Bus::System);
    }
    let program = find_program("dbus-daemon", "dbus-daemon")?;
    fs::create_dir_all(RUN_DIR).context("creating /run/k3s")?;
    let config = Path::new(RUN_DIR).join("bus.conf");
    write_with(&config, CONFIG.as_bytes(), 0o600, Durability::Derived)?;
    Ok(Bus::Private { program, config })
}

/// `io.k3s.Role1`: the units of a role and how they are, also those that have no voice themselves.
#[derive(Clone)]
struct Role1 {
    units: Vec<(String, watch::Receiver<State>)>,
}

#[zbus::interface(name = "io.k3s.Role1")]
impl Role1 {
    /// Name, whether it is ready, process id (0 for none), restarts, and its status of every unit.
    #[zbus(property(emits_changed_signal = "false"))]
    fn units(&self) -> Vec<UnitRow> {
        let row = |(name, state): &(String, watch::Receiver<State>)| {
            let state = state.borrow();
            let (pid, status) = (state.pid.unwrap_or_default(), state.status.clone());
            (name.clone(), state.ready, pid, state.restarts, status)
        };
        self.units.iter().map(row).collect()
    }
}

/// One unit as [`Role1`] tells it.
pub(crate) type UnitRow = (String, bool, u32, u32, String);

/// Client side of [`Role1`].
#[zbus::proxy(interface = "io.k3s.Role1", default_path = "/io/k3s")]
pub(crate) trait Role1 {
    #[zbus(property)]
    fn units(&self) -> zbus::Result<Vec<UnitRow>>;
}

/// Owns the role's name and answers for its units, until stopped.
pub(crate) async fn own_name(
    cx: Context,
    name: &'static str,
    bus: Bus,
    units: Vec<(String, watch::Receiver<State>)>,
) -> Result<()> {
    attend_bus(&cx, name, bus.address().as_deref(), Role1 { units }).await
}

/// Only root talks on our own bus; its socket is handed over by the supervisor.
const CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>systemd:</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <deny user="*"/>
    <allow user="root"/>
    <deny own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
  <policy user="root">
    <allow own_prefix="io.k3s"/>
  </policy>
</busconfig>
"#;
