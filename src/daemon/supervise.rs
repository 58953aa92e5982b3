//! The supervisor for machines without systemd: starts processes with their sockets, listens to
//! their readiness, restarts what dies, stops all in order.
//!
//! It speaks systemd's own protocols (`LISTEN_FDS`, `NOTIFY_SOCKET`), so that components have one
//! code path. Invariant: the sockets live as long as the supervisor; a restarted process gets the
//! same ones, and no client sees a refused connection.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixDatagram;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::component::ConfigError;
use crate::listen::{self, Listener, Socket};
use crate::sys;

/// First and longest pause before a restart.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A process that lived this long starts over with the first pause.
const BACKOFF_RESET: Duration = Duration::from_secs(10);
/// How long a stage may take to stop before it is killed. Two slow stages stay within 10 s.
const STOP_MAX: Duration = Duration::from_secs(4);
/// Exit code of a configuration error, sysexits(3) `EX_CONFIG`.
const EX_CONFIG: i32 = 78;

/// One supervised process: what a systemd service and its socket unit say.
#[derive(Debug)]
pub struct Unit {
    pub name: String,
    pub program: PathBuf,
    /// `argv[0]`, what `ps` shows.
    pub argv0: String,
    pub args: Vec<OsString>,
    pub env: Vec<(String, String)>,
    /// File that standard output and error are appended to; the supervisor's own when `None`.
    pub log: Option<PathBuf>,
    /// Sockets to pass.
    pub sockets: Vec<Socket>,
    /// Whether it sends `READY=1`; otherwise it counts as ready once started.
    pub notifies: bool,
    /// A process that does not ping (`WATCHDOG=1`) within this time is ended and started again.
    pub watchdog: Option<Duration>,
    /// Stages stop in descending order, each whole before the next.
    pub stage: u8,
    /// The first start waits until this is true.
    pub gate: watch::Receiver<bool>,
    /// Raise to start the process again, as after a certificate renewal.
    pub restart: watch::Receiver<u64>,
}

/// What the supervisor knows of one unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub ready: bool,
    pub status: String,
    pub pid: Option<u32>,
    pub restarts: u32,
}

/// The supervised units. Dropping it kills what still runs.
pub struct Supervisor {
    waiting: Vec<Process>,
    notify_dir: PathBuf,
    tasks: JoinSet<Result<()>>,
    stages: Vec<(u8, CancellationToken, watch::Receiver<State>)>,
    orders: Vec<(String, watch::Sender<Order>)>,
    states: Vec<(String, watch::Receiver<State>)>,
}

impl Supervisor {
    /// Opens all sockets and starts nothing yet.
    pub fn open(units: Vec<Unit>, notify_dir: &Path) -> Result<Self> {
        let waiting = units.into_iter().map(Process::open).collect::<Result<_>>()?;
        Ok(Self {
            waiting,
            notify_dir: notify_dir.to_owned(),
            tasks: JoinSet::new(),
            stages: Vec::new(),
            orders: Vec::new(),
            states: Vec::new(),
        })
    }

    /// Starts all units at once; ordering is the sockets' business.
    pub fn start(&mut self) -> Result<()> {
        std::fs::create_dir_all(&self.notify_dir)
            .with_context(|| format!("creating {}", self.notify_dir.display()))?;
        for process in std::mem::take(&mut self.waiting) {
            let unit = &process.unit;
            let (state, watch) = watch::channel(State::default());
            let stop = CancellationToken::new();
            self.stages.push((unit.stage, stop.clone(), watch.clone()));
            self.states.push((unit.name.clone(), watch));
            let notify = unit.notifies.then(|| self.notify_dir.join(&unit.name));
            let (order, orders) = watch::channel((unit.args.clone(), unit.env.clone()));
            self.orders.push((unit.name.clone(), order));
            self.tasks.spawn(keep(process, notify, state, orders, stop));
        }
        Ok(())
    }

    /// Has units run with these arguments and this environment from now on: those for which that is
    /// a change are started again, and named in the answer.
    pub fn apply(&self, units: &[Unit]) -> Vec<String> {
        let changed = units.iter().filter(|unit| {
            let order = self.orders.iter().find(|(name, _)| *name == unit.name);
            order.is_some_and(|(_, order)| {
                let wanted = (unit.args.clone(), unit.env.clone());
                order.send_if_modified(|have| {
                    let changed = *have != wanted;
                    *have = wanted;
                    changed
                })
            })
        });
        changed.map(|unit| unit.name.clone()).collect()
    }

    /// The state of every unit, in the order given.
    pub fn states(&self) -> &[(String, watch::Receiver<State>)] {
        &self.states
    }

    /// Waits until a unit refuses its configuration (the only thing that ends supervision).
    pub async fn refused(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Ok(Err(err))) => err,
            Some(Ok(Ok(()))) => anyhow!("a unit stopped by itself"),
            Some(Err(err)) => anyhow!(err).context("supervising"),
            None => anyhow!("nothing to supervise"),
        }
    }

    /// Stops all units, highest stage first.
    pub async fn stop(mut self) {
        let mut order: Vec<u8> = self.stages.iter().map(|(stage, ..)| *stage).collect();
        order.sort_unstable();
        order.dedup();
        for stage in order.into_iter().rev() {
            let members: Vec<_> = self.stages.iter_mut().filter(|(s, ..)| *s == stage).collect();
            for (_, stop, _) in &members {
                stop.cancel();
            }
            for (_, _, state) in members {
                // The sender is dropped when the unit's task is done; that is the end we wait for.
                while state.changed().await.is_ok() {}
            }
        }
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Arguments and environment.
type Order = (Vec<OsString>, Vec<(String, String)>);

/// A unit with its sockets open.
struct Process {
    unit: Unit,
    sockets: Vec<Listener>,
}

impl Process {
    fn open(unit: Unit) -> Result<Self> {
        let sockets = unit.sockets.iter().map(|socket| socket.address.bind());
        let sockets = sockets.collect::<Result<_>>().with_context(|| unit.name.clone())?;
        Ok(Self { unit, sockets })
    }
}

/// Keeps one unit running until told to stop.
async fn keep(
    Process { mut unit, sockets }: Process,
    notify: Option<PathBuf>,
    state: watch::Sender<State>,
    mut orders: watch::Receiver<Order>,
    stop: CancellationToken,
) -> Result<()> {
    let socket = notify.as_deref().map(notify_socket).transpose()?;
    let mut backoff = BACKOFF_MIN;
    let mut was_ready = false;
    tokio::select! {
        // An opener that is gone will never open: start, and let the process say what is missing.
        _ = unit.gate.wait_for(|open| *open) => (),
        () = stop.cancelled() => (),
    }
    while !stop.is_cancelled() {
        let started = Instant::now();
        (unit.args, unit.env) = orders.borrow_and_update().clone();
        let child = spawn(&unit, &sockets, notify.as_deref());
        let ended = match child {
            Ok(child) => {
                attend(&mut unit, child, socket.as_ref(), &state, &mut orders, &stop).await
            }
            Err(err) => {
                error!(unit = unit.name, err = %format_args!("{err:#}"), "Could not start, retrying");
                Ended::Died
            }
        };
        was_ready |= unit.notifies && state.borrow().ready;
        state.send_modify(|state| {
            state.ready = false;
            state.pid = None;
            state.restarts += 1;
        });
        match ended {
            Ended::Stopped => break,
            Ended::Refused if !was_ready => {
                return Err(
                    ConfigError(format!("{} refused to start, see above", unit.name)).into()
                );
            }
            Ended::Asked => continue,
            Ended::Left | Ended::Died | Ended::Refused => (),
        }
        if matches!(ended, Ended::Left) || started.elapsed() > BACKOFF_RESET {
            backoff = BACKOFF_MIN;
        }
        tokio::select! { () = sleep(backoff) => (), () = stop.cancelled() => () }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
    if let Some(path) = notify {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

enum Ended {
    Stopped,
    /// It ended well, so somebody asked it to: that is no reason to wait.
    Left,
    Died,
    Refused,
    Asked,
}

async fn attend(
    unit: &mut Unit,
    mut child: Child,
    socket: Option<&UnixDatagram>,
    state: &watch::Sender<State>,
    orders: &mut watch::Receiver<Order>,
    stop: &CancellationToken,
) -> Ended {
    state.send_modify(|state| {
        state.pid = child.id();
        state.ready = socket.is_none();
    });
    unit.restart.borrow_and_update();
    let allowed = unit.watchdog.filter(|_| socket.is_some());
    let mut pinged = Instant::now();
    loop {
        // As systemd does, only from readiness on.
        let silent = async {
            match allowed.filter(|_| state.borrow().ready) {
                Some(allowed) => tokio::time::sleep_until(pinged + allowed).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            status = child.wait() => return died(&unit.name, status, state),
            message = receive(socket) => {
                if message.lines().any(|line| matches!(line, "WATCHDOG=1" | "READY=1")) {
                    pinged = Instant::now();
                }
                state.send_modify(|state| apply(state, &message));
            }
            () = silent => {
                warn!(unit = unit.name, "Process stopped answering the watchdog, restarting");
                let _ = child.kill().await;
                return Ended::Died;
            }
            Ok(()) = orders.changed() => {
                end(&unit.name, child).await;
                return Ended::Asked;
            }
            Ok(()) = unit.restart.changed() => {
                end(&unit.name, child).await;
                return Ended::Asked;
            }
            () = stop.cancelled() => {
                end(&unit.name, child).await;
                return Ended::Stopped;
            }
        }
    }
}

fn died(name: &str, status: std::io::Result<ExitStatus>, state: &watch::Sender<State>) -> Ended {
    let status = match status {
        Ok(status) if status.code() == Some(EX_CONFIG) => return Ended::Refused,
        Ok(status) if status.success() => {
            info!(unit = name, "Process ended, starting it again");
            state.send_modify(|state| "Starting again".clone_into(&mut state.status));
            return Ended::Left;
        }
        Ok(status) => status.to_string(),
        Err(err) => err.to_string(),
    };
    warn!(unit = name, status, "Process ended, restarting");
    state.send_modify(|state| state.status = format!("Restarting after {status}"));
    Ended::Died
}

/// SIGTERM, then SIGKILL when that takes too long.
async fn end(name: &str, mut child: Child) {
    if let Some(pid) = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
        let _ = kill_process(pid, Signal::TERM);
    }
    if timeout(STOP_MAX, child.wait()).await.is_err() {
        warn!(unit = name, "Process did not stop in time, killing it");
        let _ = child.kill().await;
    }
    info!(unit = name, "Process stopped");
}

fn spawn(unit: &Unit, sockets: &[Listener], notify: Option<&Path>) -> Result<Child> {
    let mut command = std::process::Command::new("/proc/self/exe");
    if unit.sockets.is_empty() {
        command = std::process::Command::new(&unit.program);
        command.arg0(&unit.argv0);
    } else {
        command.arg0(ACTIVATE).arg(&unit.program).arg(&unit.argv0);
        let names = unit.sockets.iter().map(|socket| socket.name.as_str());
        listen::pass(&mut command, names.zip(sockets))?;
    }
    command.args(&unit.args).envs(unit.env.iter().map(|(key, value)| (key, value)));
    match notify {
        Some(path) => command.env("NOTIFY_SOCKET", path),
        None => command.env_remove("NOTIFY_SOCKET"),
    };
    command.env_remove("WATCHDOG_PID");
    match unit.watchdog {
        Some(allowed) => command.env("WATCHDOG_USEC", allowed.as_micros().to_string()),
        None => command.env_remove("WATCHDOG_USEC"),
    };
    if let Some(path) = &unit.log {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(path);
        let log = log.with_context(|| format!("opening {}", path.display()))?;
        command.stdout(log.try_clone()?).stderr(log);
    }
    // Its own group: a terminal's interrupt reaches the supervisor alone, which stops in order.
    command.stdin(Stdio::null()).process_group(0);
    sys::die_with_parent(&mut command);
    let mut command = Command::from(command);
    command.kill_on_drop(true);
    command.spawn().with_context(|| format!("starting {}", unit.program.display()))
}

/// `argv[0]` of the step between fork and the program: it knows its own process id, which
/// `LISTEN_PID` must carry.
pub const ACTIVATE: &str = "k3s-activate";

/// Runs as [`ACTIVATE`]: arguments are the program, its `argv[0]` and its arguments. Returns only
/// when the program could not be executed.
pub fn activate(mut args: impl Iterator<Item = OsString>) -> std::io::Error {
    let (Some(program), Some(argv0)) = (args.next(), args.next()) else {
        return std::io::Error::other("usage: k3s-activate PROGRAM ARGV0 [ARG ...]");
    };
    let pid = std::process::id().to_string();
    std::process::Command::new(program).arg0(argv0).args(args).env("LISTEN_PID", pid).exec()
}

fn notify_socket(path: &Path) -> Result<UnixDatagram> {
    let _ = std::fs::remove_file(path);
    UnixDatagram::bind(path).with_context(|| format!("listening on {}", path.display()))
}

async fn receive(socket: Option<&UnixDatagram>) -> String {
    let Some(socket) = socket else { return std::future::pending().await };
    let mut buffer = [0_u8; 4096];
    match socket.recv(&mut buffer).await {
        Ok(len) => String::from_utf8_lossy(buffer.get(..len).unwrap_or_default()).into_owned(),
        Err(_) => std::future::pending().await,
    }
}

/// One datagram of sd_notify(3).
fn apply(state: &mut State, message: &str) {
    for line in message.lines() {
        match line.split_once('=') {
            Some(("READY", "1")) => state.ready = true,
            Some(("STOPPING", "1")) => state.ready = false,
            Some(("STATUS", text)) => text.clone_into(&mut state.status),
            _ => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_sets_what_it_names() {
        let mut state = State::default();
        apply(&mut state, "STATUS=Serving\nREADY=1\nWATCHDOG=1\n");
        assert_eq!((state.ready, state.status.as_str()), (true, "Serving"));
        apply(&mut state, "STOPPING=1");
        assert!(!state.ready);
    }

    fn unit(name: &str, script: &str, restart: watch::Receiver<u64>) -> Unit {
        Unit {
            name: name.to_owned(),
            program: "/bin/sh".into(),
            argv0: "sh".to_owned(),
            args: vec!["-c".into(), script.into()],
            env: Vec::new(),
            log: None,
            sockets: Vec::new(),
            notifies: false,
            watchdog: None,
            stage: 0,
            gate: watch::channel(true).1,
            restart,
        }
    }

    #[tokio::test]
    async fn a_process_that_dies_is_started_again_and_all_stop_in_order() {
        let dir = std::env::temp_dir().join(format!("k3s-supervise-{}", std::process::id()));
        let (_keep, restart) = watch::channel(0);
        let units = vec![
            unit("dies", "exit 1", restart.clone()),
            unit("lives", "exec sleep 1000", restart),
        ];
        let mut supervisor = Supervisor::open(units, &dir).unwrap();
        supervisor.start().unwrap();
        let mut dies = supervisor.states()[0].1.clone();
        dies.wait_for(|state| state.restarts >= 2).await.unwrap();
        let mut lives = supervisor.states()[1].1.clone();
        lives.wait_for(|state| state.ready && state.pid.is_some()).await.unwrap();
        timeout(Duration::from_secs(10), supervisor.stop()).await.unwrap();
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn only_units_whose_arguments_changed_are_started_again() {
        let dir = std::env::temp_dir().join(format!("k3s-apply-{}", std::process::id()));
        let (_keep, restart) = watch::channel(0);
        let units = |script| {
            vec![
                unit("same", "exec sleep 1000", restart.clone()),
                unit("other", script, restart.clone()),
            ]
        };
        let mut supervisor = Supervisor::open(units("exec sleep 1001"), &dir).unwrap();
        supervisor.start().unwrap();
        let mut other = supervisor.states()[1].1.clone();
        other.wait_for(|state| state.pid.is_some()).await.unwrap();
        assert_eq!(supervisor.apply(&units("exec sleep 1002")), ["other"]);
        other.wait_for(|state| state.restarts == 1 && state.pid.is_some()).await.unwrap();
        assert!(supervisor.apply(&units("exec sleep 1002")).is_empty());
        assert_eq!(supervisor.states()[0].1.borrow().restarts, 0);
        supervisor.stop().await;
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn a_process_that_stops_answering_is_started_again() {
        let dir = std::env::temp_dir().join(format!("k3s-silent-{}", std::process::id()));
        let (_keep, restart) = watch::channel(0);
        let mut silent = unit("silent", "exec sleep 1000", restart);
        silent.notifies = true;
        silent.watchdog = Some(Duration::from_millis(50));
        let mut supervisor = Supervisor::open(vec![silent], &dir).unwrap();
        supervisor.start().unwrap();
        let mut state = supervisor.states()[0].1.clone();
        state.wait_for(|state| state.pid.is_some()).await.unwrap();
        let notify = UnixDatagram::unbound().unwrap();
        notify.send_to(b"READY=1", dir.join("silent")).await.unwrap();
        let restarted = state.wait_for(|state| state.restarts >= 1);
        timeout(Duration::from_secs(20), restarted).await.unwrap().unwrap();
        supervisor.stop().await;
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn a_configuration_error_ends_supervision() {
        let dir = std::env::temp_dir().join(format!("k3s-refuse-{}", std::process::id()));
        let (_keep, restart) = watch::channel(0);
        let mut supervisor = Supervisor::open(vec![unit("bad", "exit 78", restart)], &dir).unwrap();
        supervisor.start().unwrap();
        let err = timeout(Duration::from_secs(10), supervisor.refused()).await.unwrap();
        assert!(err.is::<ConfigError>(), "{err:#}");
        supervisor.stop().await;
        std::fs::remove_dir_all(dir).unwrap();
    }
}
