//! Which message bus the components meet on: the system's where it knows us, else one of our own.
//!
//! Invariant: a component never has to ask; it finds the address in `DBUS_SYSTEM_BUS_ADDRESS`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use pki::{Durability, write_with};

use crate::containerd::find_program;
use crate::settings::RUN_DIR;
use crate::systemd;

/// The system bus, and the places where the policy that lets us own names is installed.
const SYSTEM_SOCKET: &str = "/run/dbus/system_bus_socket";
const POLICIES: [&str; 2] =
    ["/usr/share/dbus-1/system.d/io.k3s.conf", "/etc/dbus-1/system.d/io.k3s.conf"];

/// The bus that this machine's components use.
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
