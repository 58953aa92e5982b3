//! `k3s status`: the components of this node as D-Bus and the kernel see them.
//!
//! Invariant: it only reads; a component that does not answer is a row, not an error.

use std::fmt::Write as _;
use std::fs;
use std::process::ExitCode;

use anyhow::Result;
use daemon::Component1Proxy;
use jiff::Timestamp;
use serde::Serialize;

use crate::bus;
use crate::components::COMPONENTS;

/// One line of the table.
#[derive(Debug, Serialize)]
struct Row {
    component: &'static str,
    state: String,
    pid: u32,
    since: String,
    memory_kib: u64,
    cpu_secs: f64,
    status: String,
}

/// Prints the table, or JSON. Exit code 3 (as `systemctl status`) when something is not ready.
pub(crate) async fn run(json: bool) -> Result<ExitCode> {
    let connection = connect().await?;
    let mut rows = Vec::new();
    for entry in COMPONENTS {
        let component = entry.component;
        rows.push(match read(&connection, component.bus).await {
            Ok(row) => Row { component: component.name, ..row },
            Err(_) => Row {
                component: component.name,
                state: "inactive".to_owned(),
                pid: 0,
                since: "-".to_owned(),
                memory_kib: 0,
                cpu_secs: 0.0,
                status: String::new(),
            },
        });
    }
    let text = if json { serde_json::to_string_pretty(&rows)? + "\n" } else { table(&rows) };
    print!("{text}");
    let well = rows.iter().all(|row| row.state == "ready");
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

async fn connect() -> Result<zbus::Connection> {
    if std::os::unix::net::UnixStream::connect(bus::private_socket()).is_ok() {
        let address = bus::private_address();
        return Ok(zbus::connection::Builder::address(address.as_str()).build().await?);
    }
    daemon::connect_bus().await
}

async fn read(connection: &zbus::Connection, name: &'static str) -> zbus::Result<Row> {
    let proxy = Component1Proxy::builder(connection).destination(name).build().await?;
    let pid = proxy.pid().await?;
    let health = proxy.health().await?;
    let state = match (proxy.ready().await?, health.as_str()) {
        (true, "ok") => "ready".to_owned(),
        (false, "ok") => "starting".to_owned(),
        (_, reason) => format!("unhealthy: {reason}"),
    };
    let since = i64::try_from(proxy.since().await?).unwrap_or_default();
    Ok(Row {
        component: "",
        state,
        pid,
        since: Timestamp::from_second(since).map_or("-".to_owned(), |time| time.to_string()),
        memory_kib: pss_kib(pid),
        cpu_secs: cpu_secs(pid),
        status: proxy.status().await?,
    })
}

/// Proportional set size from `smaps_rollup`, proc(5).
fn pss_kib(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// User and system time from `stat`, proc(5), fields 14 and 15.
fn cpu_secs(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u32 = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u32>().ok())
        .sum();
    f64::from(ticks) / 100.0
}

fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{:<24}{:<12}{:<22}{:>9}{:>9}  STATUS",
        "COMPONENT", "STATE", "SINCE", "MEMORY", "CPU"
    );
    for row in rows {
        let _ = writeln!(
            text,
            "{:<24}{:<12}{:<22}{:>9}{:>9}  {}",
            row.component,
            row.state,
            row.since,
            format!(
                "{:.1}M",
                f64::from(u32::try_from(row.memory_kib).unwrap_or(u32::MAX)) / 1024.0
            ),
            format!("{:.1}s", row.cpu_secs),
            row.status
        );
    }
    text
}
