//! Facts of this machine, read from the kernel.

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::config::Config;
use crate::eviction::Signals;

/// The node's addresses: those given, else the one that the default route uses.
pub(crate) fn addresses(config: &Config) -> Vec<IpAddr> {
    if !config.node_ips.is_empty() {
        return config.node_ips.clone();
    }
    // Connecting a datagram socket sends nothing; it only picks the source address.
    let routed = UdpSocket::bind("0.0.0.0:0")
        .and_then(|socket| {
            socket.connect("192.0.2.1:9")?;
            socket.local_addr()
        })
        .map(|address| address.ip());
    vec![routed.unwrap_or_else(|_| IpAddr::from([127, 0, 0, 1]))]
}

/// Used bytes and what can be used in all of the file system that holds `path`; blocks that are
/// reserved for others count as neither.
pub(crate) fn disk_use(path: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::statvfs(path).ok()?;
    let used = stat.f_blocks.saturating_sub(stat.f_bfree) * stat.f_frsize;
    Some((used, used + stat.f_bavail * stat.f_frsize))
}

pub(crate) fn signals(config: &Config) -> Signals {
    let mut out = Signals::new();
    if let Some((total, available)) = memory() {
        out.insert("memory.available", (available, total));
    }
    if let Ok(stat) = rustix::fs::statvfs(&config.root_dir) {
        let capacity = disk_use(&config.root_dir).map_or(0, |(_, capacity)| capacity);
        let size = (stat.f_bavail * stat.f_frsize, capacity);
        out.insert("nodefs.available", size);
        out.insert("imagefs.available", size);
        if stat.f_files > 0 {
            out.insert("nodefs.inodesFree", (stat.f_favail, stat.f_files));
            out.insert("imagefs.inodesFree", (stat.f_favail, stat.f_files));
        }
    }
    if let (Some(max), Some(running)) = (number("/proc/sys/kernel/pid_max"), processes()) {
        out.insert("pid.available", (max.saturating_sub(running), max));
    }
    out
}

/// Whole memory and what can still be used.
pub(crate) fn memory() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    Some((field("MemTotal:")?, field("MemAvailable:")?))
}

fn number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn processes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

/// What the node has, and what of it pods may use.
pub(crate) fn resources(
    config: &Config,
) -> (BTreeMap<String, Quantity>, BTreeMap<String, Quantity>) {
    let memory = u64::try_from(config.memory_capacity_bytes).unwrap_or(0);
    let disk = disk_use(&config.root_dir).map_or(0, |(_, capacity)| capacity);
    let reserve = |signal: &str, capacity: u64| -> u64 {
        let Some(value) = config.eviction_hard.get(signal) else { return 0 };
        match value.strip_suffix('%').and_then(|percent| percent.parse::<f64>().ok()) {
            Some(percent) => (capacity as f64 * percent / 100.0) as u64,
            None => crate::pod::resources::units(&Quantity(value.clone()))
                .and_then(|units| u64::try_from(units).ok())
                .unwrap_or(0),
        }
    };
    let table = |memory: u64, disk: String| {
        BTreeMap::from(
            [
                ("cpu", config.cpu_count.to_string()),
                ("memory", format!("{}Ki", memory / 1024)),
                ("ephemeral-storage", disk),
                ("pods", config.max_pods.to_string()),
                ("hugepages-1Gi", "0".to_owned()),
                ("hugepages-2Mi", "0".to_owned()),
            ]
            .map(|(name, amount)| (name.to_owned(), Quantity(amount))),
        )
    };
    let free_memory = memory.saturating_sub(reserve("memory.available", memory));
    let free_disk = disk.saturating_sub(reserve("nodefs.available", disk));
    (table(memory, format!("{}Ki", disk / 1024)), table(free_memory, free_disk.to_string()))
}

/// A file's first line, or nothing.
pub(crate) fn line(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// The distribution's name for people.
pub(crate) fn os_image() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or("Linux").trim_matches('"').to_owned()
}

/// The architecture by its Go name.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
