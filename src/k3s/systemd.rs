//! The backend of a role that runs as a systemd unit: systemd holds the sockets, starts, watches
//! and restarts the components; the role says with which arguments and where to listen.
//!
//! Knows the unit files by name only. Invariant: what a component runs with is what the role
//! wrote under `/run/k3s/arguments`; a running process that differs is restarted, one that does
//! not is left alone.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use daemon::supervise::{State, Unit};
use daemon::systemd::{JobProxy, ManagerProxy, ServiceProxy, SocketUnitProxy, UnitProxy};
use daemon::{Address, ConfigError, connect_bus};
use futures::StreamExt;
use pki::{Durability, write_with};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::owners;
use crate::settings::RUN_DIR;

/// The data folder that the unit files are about.
const DATA: &str = "/var/lib/rancher/k3s";
/// Where units are changed until the next boot.
const RUNTIME_UNITS: &str = "/run/systemd/system";
/// Exit code of a configuration error, sysexits(3) `EX_CONFIG`.
const EX_CONFIG: i32 = 78;
/// Between two attempts to reach systemd over a bus that is away.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);
/// The units that are roles.
const ROLES: [&str; 2] = ["k3s-server.service", "k3s-agent.service"];

/// The unit of a role that this process is, when systemd runs it as one.
pub(crate) fn own_unit() -> Option<&'static str> {
    if std::env::var_os("INVOCATION_ID").is_none() || !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    role_of(&fs::read_to_string("/proc/self/cgroup").ok()?)
}

/// Reads `/proc/self/cgroup` of either hierarchy, cgroups(7).
fn role_of(cgroups: &str) -> Option<&'static str> {
    let path = cgroups.lines().find_map(|line| {
        line.split_once("name=systemd:").or_else(|| line.split_once("0::")).map(|(_, path)| path)
    })?;
    let name = path.rsplit('/').find(|part| part.ends_with(".service"))?;
    ROLES.into_iter().find(|role| *role == name)
}

/// The units of a role, kept by systemd.
pub(crate) struct Systemd {
    role: &'static str,
    /// The connection to systemd, another one after each loss of the bus.
    connections: watch::Receiver<zbus::Connection>,
    waiting: Vec<Unit>,
    sockets: Vec<String>,
    services: Vec<String>,
    tasks: JoinSet<Result<()>>,
    states: Vec<(String, watch::Receiver<State>)>,
}

impl Systemd {
    /// Checks that systemd knows all units; changes nothing.
    pub(crate) async fn open(role: &'static str, units: Vec<Unit>) -> Result<Self> {
        let connection = reach().await?;
        for unit in &units {
            for name in sockets_of(unit).into_keys().chain([service_of(unit)]) {
                let loaded = unit_proxy(&connection, &name).await?.load_state().await?;
                if loaded != "loaded" {
                    return Err(ConfigError(format!(
                        "systemd has no usable unit {name} ({loaded}); \
                         install the package that k3s came from again, or unmask the unit"
                    ))
                    .into());
                }
            }
        }
        let (sender, connections) = watch::channel(connection);
        let mut tasks = JoinSet::new();
        tasks.spawn(stay_connected(sender));
        Ok(Self {
            role,
            connections,
            sockets: units.iter().flat_map(|unit| sockets_of(unit).into_keys()).collect(),
            services: units.iter().map(service_of).collect(),
            waiting: units,
            tasks,
            states: Vec::new(),
        })
    }

    /// Writes arguments and addresses, and starts what is not running so already.
    pub(crate) async fn start(&mut self, data: &Path) -> Result<()> {
        let connection = self.connection();
        let manager = ManagerProxy::new(&connection).await?;
        if data == Path::new(DATA) {
            owners::hand_over(data)?;
        }
        let units = std::mem::take(&mut self.waiting);
        for unit in &units {
            write_with(
                &arguments_file(unit),
                arguments(unit).as_bytes(),
                0o600,
                Durability::Derived,
            )?;
        }
        let mut moved = Vec::new();
        let mut changed = false;
        for unit in &units {
            changed |= write_drop_in(&service_of(unit), "data", &data_drop_in(data))?;
            for (name, wanted) in sockets_of(unit) {
                let unit = manager.load_unit(&name).await?;
                let socket = SocketUnitProxy::builder(&connection).path(unit).build().await?;
                let have = socket.listen().await?;
                if wanted.iter().any(|address| !have.contains(&listen_pair(address))) {
                    write_drop_in(&name, "address", &socket_drop_in(&wanted))?;
                    moved.push(name);
                }
            }
        }
        if changed || !moved.is_empty() {
            manager.reload().await.context("having systemd read its units again")?;
        }
        for unit in units {
            let (state, watch) = watch::channel(State::default());
            self.states.push((unit.name.clone(), watch));
            let moved = sockets_of(&unit).keys().any(|name| moved.contains(name));
            self.tasks.spawn(keep(self.connections.clone(), unit, moved, state));
        }
        Ok(())
    }

    /// Has units run with these arguments from now on; names those that are started again for it.
    pub(crate) async fn apply(&self, units: &[Unit]) -> Result<Vec<String>> {
        let connection = self.connection();
        let manager = ManagerProxy::new(&connection).await?;
        let mut changed = Vec::new();
        for unit in units {
            let service = service_of(unit);
            if !self.services.contains(&service) {
                continue;
            }
            let text = arguments(unit);
            write_with(&arguments_file(unit), text.as_bytes(), 0o600, Durability::Derived)?;
            let path = manager.load_unit(&service).await?;
            let details = ServiceProxy::builder(&connection).path(path).build().await?;
            let pid = details.main_pid().await?;
            if !runs_as_wanted(unit, pid) {
                manager.restart_unit(&service, "replace").await.with_context(|| service.clone())?;
                changed.push(unit.name.clone());
            }
        }
        Ok(changed)
    }

    fn connection(&self) -> zbus::Connection {
        self.connections.borrow().clone()
    }

    pub(crate) fn states(&self) -> &[(String, watch::Receiver<State>)] {
        &self.states
    }

    /// Waits until a unit refuses its configuration.
    pub(crate) async fn refused(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Ok(Err(err))) => err,
            Some(Ok(Ok(()))) => anyhow!("systemd stopped reporting on a unit"),
            Some(Err(err)) => anyhow!(err).context("following a unit"),
            None => anyhow!("no units"),
        }
    }

    /// Ends the sockets when the role stops for good; when it starts again they stay open, so
    /// that clients wait instead of being refused. The services are systemd's (`PartOf=`), except
    /// after a refusal, which is no stop of the role's that systemd would pass on.
    pub(crate) async fn stop(mut self, refused: bool) -> Result<()> {
        self.tasks.shutdown().await;
        let connection = self.connection();
        let manager = ManagerProxy::new(&connection).await?;
        if !refused && !self.stops_for_good().await? {
            return Ok(());
        }
        let services = if refused { self.services.as_slice() } else { &[] };
        // Without arguments nothing is to run: no client of the bus can start a unit by its name.
        let _ = fs::remove_dir_all(Path::new(RUN_DIR).join("arguments"));
        for name in self.sockets.iter().chain(services) {
            manager.stop_unit(name, "replace").await.with_context(|| format!("stopping {name}"))?;
        }
        Ok(())
    }

    /// Whether the job on the role's own unit is a stop and not one half of a restart.
    async fn stops_for_good(&self) -> Result<bool> {
        let connection = self.connection();
        let (id, path) = unit_proxy(&connection, self.role).await?.job().await?;
        if id == 0 {
            return Ok(false);
        }
        let job = JobProxy::builder(&connection).path(path).build().await?;
        Ok(job.job_type().await? == "stop")
    }
}

/// A connection on which systemd tells what happens.
async fn reach() -> Result<zbus::Connection> {
    let connection = connect_bus().await.context("reaching systemd")?;
    let manager = ManagerProxy::new(&connection).await?;
    manager.subscribe().await.context("subscribing to systemd")?;
    Ok(connection)
}

/// Reaches systemd again whenever the bus was lost. The units go on meanwhile; they are systemd's.
async fn stay_connected(connections: watch::Sender<zbus::Connection>) -> Result<()> {
    loop {
        let connection = connections.borrow().clone();
        connection.closed().await;
        warn!("Lost the message bus and systemd with it, connecting again");
        let again = loop {
            match reach().await {
                Ok(connection) => break connection,
                Err(err) => debug!(err = %format_args!("{err:#}"), "No message bus, retrying"),
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        };
        info!("Reached systemd again");
        drop(connections.send_replace(again));
    }
}

/// Starts one unit as soon as it may, and follows its state.
async fn keep(
    mut connections: watch::Receiver<zbus::Connection>,
    mut unit: Unit,
    moved: bool,
    state: watch::Sender<State>,
) -> Result<()> {
    // An opener that is gone will never open: start, and let the process say what is missing.
    let _ = unit.gate.wait_for(|open| *open).await;
    let service = service_of(&unit);
    let connection = connections.borrow_and_update().clone();
    start(&connection, &unit, moved).await.with_context(|| format!("starting {service}"))?;
    let mut was_ready = false;
    loop {
        let connection = connections.borrow_and_update().clone();
        let following = async {
            let followed = follow(&connection, &mut unit, &state, &mut was_ready).await;
            match followed {
                Err(err) if !connection.is_closed() => err,
                // Whatever failed did so for want of the bus; there will be another connection.
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            err = following => return Err(err),
            changed = connections.changed() => changed.context("systemd is out of reach")?,
        }
    }
}

/// Starts a unit, or starts it again if it runs with other arguments or sockets.
async fn start(connection: &zbus::Connection, unit: &Unit, moved: bool) -> Result<()> {
    let manager = ManagerProxy::new(connection).await?;
    let service = service_of(unit);
    let proxy = unit_proxy(connection, &service).await?;
    let details = ServiceProxy::builder(connection).path(proxy.inner().path()).build().await?;
    let runs = !matches!(proxy.active_state().await?.as_str(), "inactive" | "failed");
    let same = runs && !moved && runs_as_wanted(unit, details.main_pid().await?);
    if runs && !same {
        info!(unit = unit.name, "Arguments changed, restarting");
    }
    for socket in sockets_of(unit).keys() {
        match moved {
            true => manager.restart_unit(socket, "replace").await?,
            false => manager.start_unit(socket, "replace").await?,
        };
    }
    match runs && !same {
        true => manager.restart_unit(&service, "replace").await?,
        false => manager.start_unit(&service, "replace").await?,
    };
    Ok(())
}

/// Follows a unit's state until the connection is lost or the unit refuses its configuration.
async fn follow(
    connection: &zbus::Connection,
    unit: &mut Unit,
    state: &watch::Sender<State>,
    was_ready: &mut bool,
) -> Result<()> {
    let manager = ManagerProxy::new(connection).await?;
    let service = service_of(unit);
    let proxy = unit_proxy(connection, &service).await?;
    let details = ServiceProxy::builder(connection).path(proxy.inner().path()).build().await?;
    let mut changes = proxy.receive_active_state_changed().await;
    loop {
        tokio::select! {
            change = changes.next() => {
                let Some(change) = change else { return Ok(()) };
                let active = change.get().await.with_context(|| format!("reading {service}"))?;
                let failed = active == "failed";
                let ready = active == "active";
                *was_ready |= ready;
                let status = match failed {
                    true => format!("failed ({})", details.result().await?),
                    false => details.status_text().await?,
                };
                let (pid, restarts) = (details.main_pid().await?, details.n_restarts().await?);
                state.send_replace(State { ready, status, pid: Some(pid), restarts });
                if failed && !*was_ready && details.exec_main_status().await? == EX_CONFIG {
                    let text = format!("{service} refused to start, see journalctl -u {service}");
                    return Err(ConfigError(text).into());
                }
            }
            Ok(()) = unit.restart.changed() => {
                manager.restart_unit(&service, "replace").await
                    .with_context(|| format!("restarting {service}"))?;
            }
        }
    }
}

async fn unit_proxy<'a>(connection: &zbus::Connection, name: &str) -> Result<UnitProxy<'a>> {
    let path = ManagerProxy::new(connection).await?.load_unit(name).await;
    let path = path.with_context(|| format!("asking systemd for {name}"))?;
    Ok(UnitProxy::builder(connection).path(path).build().await?)
}

fn service_of(unit: &Unit) -> String {
    format!("{}.service", unit.name)
}

/// The socket units of a unit: a socket unit has one `FileDescriptorName=`, so the first name's
/// sockets are in `<unit>.socket` and every other name's in `<unit>-<name>.socket`.
fn sockets_of(unit: &Unit) -> BTreeMap<String, Vec<&Address>> {
    let first = unit.sockets.first().map(|socket| socket.name.as_str());
    let mut units: BTreeMap<String, Vec<&Address>> = BTreeMap::new();
    for socket in &unit.sockets {
        let name = match Some(socket.name.as_str()) == first {
            true => format!("{}.socket", unit.name),
            false => format!("{}-{}.socket", unit.name, socket.name),
        };
        units.entry(name).or_default().push(&socket.address);
    }
    units
}

/// An address as systemd's property `Listen` shows it.
fn listen_pair(address: &Address) -> (String, String) {
    let (kind, text) = match address {
        Address::Tcp(addr) | Address::TcpForeseen(addr) => ("Stream", addr.to_string()),
        Address::Udp(addr) | Address::UdpForeseen(addr) => ("Datagram", addr.to_string()),
        Address::Unix(path) => ("Stream", path.display().to_string()),
    };
    (kind.to_owned(), text)
}

fn socket_drop_in(addresses: &[&Address]) -> String {
    let mut text = "[Socket]\nListenStream=\n".to_owned();
    for address in addresses {
        let (kind, at) = listen_pair(address);
        text += &format!("Listen{kind}={at}\n");
    }
    text
}

/// What a unit must be told of a data folder that is not the usual one; empty for that.
fn data_drop_in(data: &Path) -> String {
    if data == Path::new(DATA) {
        return String::new();
    }
    // The folder may lie anywhere, in somebody's home as well, where only root gets to it.
    format!("[Service]\nProtectHome=no\nReadWritePaths={}\nUser=root\nGroup=root\n", data.display())
}

/// Writes (or for an empty text removes) one drop-in; true when that changed anything.
fn write_drop_in(unit: &str, name: &str, text: &str) -> Result<bool> {
    let path = PathBuf::from(format!("{RUNTIME_UNITS}/{unit}.d/50-k3s-{name}.conf"));
    let have = fs::read_to_string(&path).unwrap_or_default();
    if text.is_empty() {
        if path.exists() {
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
            return Ok(true);
        }
        return Ok(false);
    }
    let text = format!("# Written by the role at its start; changes are lost.\n{text}");
    if have == text {
        return Ok(false);
    }
    write_with(&path, text.as_bytes(), 0o644, Durability::Derived)?;
    Ok(true)
}

fn arguments_file(unit: &Unit) -> PathBuf {
    Path::new(RUN_DIR).join("arguments").join(&unit.name)
}

/// The variables that a unit's process must have.
fn variables(unit: &Unit) -> Vec<(String, String)> {
    let words: Vec<String> = unit.args.iter().map(|arg| word(&arg.to_string_lossy())).collect();
    let arguments = ("ARGUMENTS".to_owned(), words.join(" "));
    std::iter::once(arguments).chain(unit.env.iter().cloned()).collect()
}

/// The unit's `EnvironmentFile=`.
fn arguments(unit: &Unit) -> String {
    let lines =
        variables(unit).into_iter().map(|(key, value)| format!("{key}={}\n", quote(&value)));
    lines.collect()
}

/// One word of a variable that systemd splits (`$ARGUMENTS`), systemd.service(5).
fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// A value of an `EnvironmentFile=`, systemd.exec(5).
fn quote(value: &str) -> String {
    let mut text = String::from("\"");
    for c in value.chars() {
        if "\\\"$`".contains(c) {
            text.push('\\');
        }
        text.push(c);
    }
    text + "\""
}

/// Whether the process was started with exactly these variables.
fn runs_as_wanted(unit: &Unit, pid: u32) -> bool {
    if pid == 0 {
        // It is about to start, and reads what is written by now.
        return true;
    }
    let Ok(environ) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    let have: Vec<&[u8]> = environ.split(|byte| *byte == 0).collect();
    let wanted = variables(unit);
    let debug = |name: &str| name == "K3S_DEBUG";
    let has_debug = have.iter().any(|pair| pair.starts_with(b"K3S_DEBUG="));
    has_debug == wanted.iter().any(|(key, _)| debug(key))
        && wanted.iter().all(|(key, value)| {
            let pair = format!("{key}={value}");
            have.iter().any(|have| *have == std::ffi::OsStr::new(&pair).as_bytes())
        })
}

#[cfg(test)]
mod tests {
    use daemon::Socket;

    use super::*;

    #[test]
    fn a_role_is_known_by_its_cgroup_on_either_hierarchy() {
        let check = |cgroups: &str, role| assert_eq!(role_of(cgroups), role, "{cgroups}");
        check("0::/k3s.slice/k3s-server.service\n", Some("k3s-server.service"));
        check(
            "3:cpu:/x\n1:name=systemd:/k3s.slice/k3s-agent.service\n0::/\n",
            Some("k3s-agent.service"),
        );
        check("0::/system.slice/my-k3s-server.service\n", None);
        check("0::/user.slice/user-0.slice/session-1.scope\n", None);
    }

    #[test]
    fn arguments_survive_both_quotations_of_systemd() {
        let check = |arg: &str, expected: &str| assert_eq!(quote(&word(arg)), expected, "{arg}");
        check("--db=/var/lib/state.db", "\"--db=/var/lib/state.db\"");
        check("--x=two words", "\"'--x=two words'\"");
        check("--x=it's", r#""'--x=it\\'s'""#);
        check(r"--x=a\b$c", r#""'--x=a\\\\b\$c'""#);
        check("", "\"''\"");
    }

    #[test]
    fn sockets_of_one_name_share_a_socket_unit() {
        let tcp = |text: &str| Address::Tcp(text.parse().unwrap());
        let unit = Unit {
            name: "k3s-kubelet".to_owned(),
            program: "/proc/self/exe".into(),
            argv0: "k3s-kubelet".to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            log: None,
            sockets: vec![
                Socket::new("https", tcp("0.0.0.0:10250")),
                Socket::new("healthz", tcp("127.0.0.1:10248")),
            ],
            notifies: true,
            watchdog: None,
            stage: 0,
            gate: watch::channel(true).1,
            restart: watch::channel(0).1,
        };
        let units = sockets_of(&unit);
        let names: Vec<&str> = units.keys().map(String::as_str).collect();
        assert_eq!(names, ["k3s-kubelet-healthz.socket", "k3s-kubelet.socket"]);
        let text = socket_drop_in(units.get("k3s-kubelet.socket").unwrap());
        assert_eq!(text, "[Socket]\nListenStream=\nListenStream=0.0.0.0:10250\n");
    }
}
