//! `k3s status`: the units of this node as D-Bus and the kernel see them.
//!
//! Invariant: it only reads, and starts nothing; a unit that does not answer is a row, not an error.

use std::fmt::Write as _;
use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use daemon::{Component, Component1Proxy};
use jiff::Timestamp;
use serde::Serialize;
use zbus::Connection;

use crate::bus::{self, Role1Proxy, UnitRow};
use crate::cli::StatusArgs;
use crate::components::COMPONENTS;
use crate::{agent, server};

/// How often `--watch` looks again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// What a terminal understands as "clear".
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

/// One line of the table.
#[derive(Debug, Serialize)]
struct Row {
    component: String,
    state: String,
    pid: u32,
    since: String,
    memory_kib: u64,
    cpu_secs: f64,
    restarts: u32,
    status: String,
    last_error: String,
}

/// Prints the table, or JSON. Exit code 3 (as `systemctl status`) when something is not ready.
pub(crate) async fn run(args: &StatusArgs) -> Result<ExitCode> {
    let connection = connect().await?;
    loop {
        let rows = rows(&connection).await?;
        let text = match args.json {
            true => serde_json::to_string_pretty(&rows)? + "\n",
            false => table(&rows),
        };
        if args.watch && !args.json {
            print!("{CLEAR}");
        }
        print!("{text}");
        if !args.watch {
            let well = rows.iter().all(|row| row.state == "ready");
            return Ok(if well { ExitCode::SUCCESS } else { ExitCode::from(3) });
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn connect() -> Result<Connection> {
    if std::os::unix::net::UnixStream::connect(bus::private_socket()).is_ok() {
        let address = bus::private_address();
        return Ok(zbus::connection::Builder::address(address.as_str()).build().await?);
    }
    daemon::connect_bus().await
}

/// The role and its units; every component when no role answers.
async fn rows(connection: &Connection) -> Result<Vec<Row>> {
    let names = zbus::fdo::DBusProxy::new(connection).await?.list_names().await?;
    // Asking a name that nobody owns would have systemd start its unit.
    let owned = |bus: &str| names.iter().any(|name| name.as_str() == bus);
    let mut rows = Vec::new();
    let mut units = Vec::new();
    let roles = [(&server::COMPONENT, server::BUS_NAME), (&agent::COMPONENT, agent::BUS_NAME)];
    for (role, name) in roles.into_iter().filter(|(_, name)| owned(name)) {
        rows.push(component(connection, role.name, name, None).await);
        let proxy = Role1Proxy::builder(connection).destination(name).build().await?;
        units.extend(proxy.units().await?);
    }
    if rows.is_empty() {
        units = COMPONENTS.iter().map(|entry| unknown(entry.component)).collect();
    }
    for unit in units {
        let entry = COMPONENTS.iter().find(|entry| entry.component.name == unit.0);
        rows.push(match entry.map(|entry| entry.component.bus).filter(|bus| owned(bus)) {
            Some(bus) => component(connection, &unit.0.clone(), bus, Some(unit)).await,
            None => voiceless(unit, entry.is_some()),
        });
    }
    Ok(rows)
}

fn unknown(component: &Component) -> UnitRow {
    (component.name.to_owned(), false, 0, 0, String::new())
}

/// A unit that answers for itself.
async fn component(
    connection: &Connection,
    component: &str,
    name: &'static str,
    unit: Option<UnitRow>,
) -> Row {
    let restarts = unit.as_ref().map_or(0, |unit| unit.3);
    match read(connection, name).await {
        Ok(row) => Row { component: component.to_owned(), restarts, ..row },
        Err(_) => {
            voiceless(unit.unwrap_or((component.to_owned(), false, 0, 0, String::new())), true)
        }
    }
}

/// A unit that does not answer: foreign, or down.
fn voiceless((component, ready, pid, restarts, status): UnitRow, has_voice: bool) -> Row {
    let state = match (ready, pid) {
        (true, _) if has_voice => "mute",
        (true, _) => "ready",
        (false, 0) => "inactive",
        (false, _) => "starting",
    };
    let last_error = if ready { String::new() } else { status.clone() };
    Row {
        component,
        state: state.to_owned(),
        pid,
        since: time(started(pid)),
        memory_kib: pss_kib(pid),
        cpu_secs: cpu_secs(pid),
        restarts,
        status,
        last_error,
    }
}

async fn read(connection: &Connection, name: &'static str) -> zbus::Result<Row> {
    let proxy = Component1Proxy::builder(connection).destination(name).build().await?;
    let pid = proxy.pid().await?;
    let health = proxy.health().await?;
    let state = match (proxy.ready().await?, health.as_str()) {
        (true, "ok") => "ready".to_owned(),
        (false, "ok") => "starting".to_owned(),
        (_, reason) => format!("unhealthy: {reason}"),
    };
    let (when, what) = proxy.last_error().await?;
    Ok(Row {
        component: String::new(),
        state,
        pid,
        since: time(proxy.since().await?),
        memory_kib: pss_kib(pid),
        cpu_secs: cpu_secs(pid),
        restarts: 0,
        status: proxy.status().await?,
        last_error: if when == 0 { what } else { format!("{} {what}", time(when)) },
    })
}

/// Seconds since the epoch as people and machines read them.
fn time(secs: u64) -> String {
    let stamp = i64::try_from(secs).ok().filter(|secs| *secs > 0);
    let stamp = stamp.and_then(|secs| Timestamp::from_second(secs).ok());
    stamp.map_or_else(|| "-".to_owned(), |stamp| stamp.to_string())
}

/// Proportional set size from `smaps_rollup`, proc(5).
fn pss_kib(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// User and system time from `stat`, proc(5), fields 14 and 15.
fn cpu_secs(pid: u32) -> f64 {
    let ticks = stat(pid, 14).unwrap_or(0) + stat(pid, 15).unwrap_or(0);
    f64::from(u32::try_from(ticks).unwrap_or(u32::MAX)) / 100.0
}

/// When a process started, from its `stat` (field 22) and the machine's boot.
fn started(pid: u32) -> u64 {
    let Some(ticks) = stat(pid, 22) else { return 0 };
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = text.lines().find_map(|line| line.strip_prefix("btime ")?.parse::<u64>().ok());
    boot.map_or(0, |boot| boot + ticks / 100)
}

/// A field of `/proc/PID/stat`, counted from 1 as in proc(5).
fn stat(pid: u32, field: usize) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = text.rsplit_once(')')?;
    after_name.split_whitespace().nth(field.checked_sub(3)?)?.parse().ok()
}

fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{:<24}{:<12}{:<22}{:>9}{:>9}  LAST ERROR",
        "UNIT", "STATE", "SINCE", "MEMORY", "CPU"
    );
    for row in rows {
        let memory = f64::from(u32::try_from(row.memory_kib).unwrap_or(u32::MAX)) / 1024.0;
        let _ = writeln!(
            text,
            "{:<24}{:<12}{:<22}{:>9}{:>9}  {}",
            row.component,
            row.state,
            row.since,
            format!("{memory:.1}M"),
            format!("{:.1}s", row.cpu_secs),
            if row.last_error.is_empty() { "-" } else { &row.last_error },
        );
    }
    text
}
