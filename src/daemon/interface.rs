//! What every process of ours serves on D-Bus: `io.k3s.Component1` at `/io/k3s`, and systemd's
//! `org.freedesktop.LogControl1`, which `systemctl service-log-level` speaks.
//!
//! Invariant: anybody may look; whatever changes something asks [`authorize`] first.

use std::collections::BTreeMap;
use std::time::SystemTime;

use tokio::sync::watch;
use zbus::message::Header;
use zbus::{Connection, fdo};

use crate::authorize::{MANAGE, authorize};
use crate::context::Report;
use crate::log;

/// What does not change while the process runs.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) name: &'static str,
    pub(crate) since_unix_secs: u64,
    pub(crate) configuration: BTreeMap<String, String>,
    pub(crate) reload: watch::Sender<u64>,
}

impl Identity {
    /// Of a process that starts now.
    pub(crate) fn new(name: &'static str, configuration: BTreeMap<String, String>) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let since_unix_secs = since.map_or(0, |since| since.as_secs());
        Self { name, since_unix_secs, configuration, reload: watch::Sender::new(0) }
    }
}

pub(crate) struct Component1 {
    pub(crate) identity: Identity,
    pub(crate) report: Report,
}

#[zbus::interface(name = "io.k3s.Component1")]
impl Component1 {
    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> &str {
        self.identity.name
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    #[zbus(property)]
    fn ready(&self) -> bool {
        self.report.ready
    }

    /// "ok", or what ails it.
    #[zbus(property)]
    fn health(&self) -> &str {
        &self.report.health
    }

    #[zbus(property)]
    fn status(&self) -> &str {
        &self.report.status
    }

    /// Start of this process, seconds since the epoch.
    #[zbus(property(emits_changed_signal = "const"))]
    fn since(&self) -> u64 {
        self.identity.since_unix_secs
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn pid(&self) -> u32 {
        std::process::id()
    }

    /// The command line as given.
    #[zbus(property(emits_changed_signal = "const"))]
    fn arguments(&self) -> Vec<String> {
        std::env::args().collect()
    }

    /// Every flag with the value in effect, defaults included: what an auditor wants to read.
    #[zbus(property(emits_changed_signal = "const"))]
    fn configuration(&self) -> BTreeMap<String, String> {
        self.identity.configuration.clone()
    }

    /// When something last went wrong, seconds since the epoch, and what; 0 when nothing has.
    #[zbus(property(emits_changed_signal = "false"))]
    fn last_error(&self) -> (u64, String) {
        log::last_error()
    }

    #[zbus(property)]
    fn log_level(&self) -> String {
        log::level()
    }

    /// Changes the level until the next start: error, warn, info, debug or trace.
    async fn set_log_level(
        &self,
        level: String,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &Connection,
        #[zbus(signal_emitter)] emitter: zbus::object_server::SignalEmitter<'_>,
    ) -> fdo::Result<()> {
        authorize(bus, &header, MANAGE).await?;
        log::set_level(&level).map_err(fdo::Error::InvalidArgs)?;
        self.log_level_changed(&emitter).await.map_err(fdo::Error::from)
    }

    /// Has the process read its files again, as SIGHUP does.
    async fn reload(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &Connection,
    ) -> fdo::Result<()> {
        authorize(bus, &header, MANAGE).await?;
        self.read_again()
    }

    /// Has the process take up certificates that were replaced on disk. Every handshake looks by
    /// itself; this is for what else a process makes of them.
    async fn rotate_certificates(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &Connection,
    ) -> fdo::Result<()> {
        authorize(bus, &header, MANAGE).await?;
        self.identity.reload.send_modify(|count| *count += 1);
        Ok(())
    }
}

impl Component1 {
    fn read_again(&self) -> fdo::Result<()> {
        if self.identity.reload.receiver_count() == 0 {
            let text = format!("{} reads nothing again; restart it", self.identity.name);
            return Err(fdo::Error::NotSupported(text));
        }
        self.identity.reload.send_modify(|count| *count += 1);
        Ok(())
    }
}

/// Client side of [`Component1`].
#[zbus::proxy(interface = "io.k3s.Component1", default_path = "/io/k3s")]
pub trait Component1 {
    #[zbus(property)]
    fn name(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn version(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn ready(&self) -> zbus::Result<bool>;
    #[zbus(property)]
    fn health(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn status(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn since(&self) -> zbus::Result<u64>;
    #[zbus(property)]
    fn pid(&self) -> zbus::Result<u32>;
    #[zbus(property)]
    fn arguments(&self) -> zbus::Result<Vec<String>>;
    #[zbus(property)]
    fn configuration(&self) -> zbus::Result<BTreeMap<String, String>>;
    #[zbus(property)]
    fn last_error(&self) -> zbus::Result<(u64, String)>;
    #[zbus(property)]
    fn log_level(&self) -> zbus::Result<String>;
    fn set_log_level(&self, level: &str) -> zbus::Result<()>;
    fn reload(&self) -> zbus::Result<()>;
    fn rotate_certificates(&self) -> zbus::Result<()>;
}

/// Where systemd looks for [`LogControl1`].
pub(crate) const LOG_CONTROL_PATH: &str = "/org/freedesktop/LogControl1";

/// systemd's interface for log levels, org.freedesktop.LogControl1(5).
pub(crate) struct LogControl1 {
    pub(crate) name: &'static str,
}

#[zbus::interface(name = "org.freedesktop.LogControl1")]
impl LogControl1 {
    /// In syslog's words, as systemd has them.
    #[zbus(property)]
    fn log_level(&self) -> String {
        match log::level().as_str() {
            "error" => "err".to_owned(),
            "warn" => "warning".to_owned(),
            "trace" => "debug".to_owned(),
            other => other.to_owned(),
        }
    }

    #[zbus(property)]
    async fn set_log_level(
        &self,
        level: String,
        #[zbus(header)] header: Option<Header<'_>>,
        #[zbus(connection)] bus: &Connection,
    ) -> fdo::Result<()> {
        let header = header.ok_or_else(|| fdo::Error::AccessDenied("no sender".to_owned()))?;
        authorize(bus, &header, MANAGE).await?;
        log::set_level(&level).map_err(fdo::Error::InvalidArgs)
    }

    /// Where logs go is decided once, by what standard error is.
    #[zbus(property(emits_changed_signal = "const"))]
    fn log_target(&self) -> &'static str {
        if log::to_journal() { "journal" } else { "console" }
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn syslog_identifier(&self) -> &str {
        self.name
    }
}
