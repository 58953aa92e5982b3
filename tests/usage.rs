//! What a process uses, as proc(5) tells: memory, CPU time, wakeups, bytes written.

use std::fs;

use anyhow::{Context, Result};

/// Kernel clock ticks of `/proc/PID/stat`, the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// One look at a process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Memory, shared pages by the number of their users.
    pub(crate) pss_kib: u64,
    /// The part of it that is nobody else's and no file's: heap and stacks.
    pub(crate) anonymous_kib: u64,
    /// User and system time of all threads.
    pub(crate) cpu_ms: f64,
    /// Bytes sent to the block layer.
    pub(crate) written: u64,
    /// How often one of its threads waited and was woken.
    pub(crate) wakeups: u64,
}

impl Usage {
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let memory = read(pid, "smaps_rollup")?;
        let mut wakeups = 0;
        for task in fs::read_dir(format!("/proc/{pid}/task")).context("reading threads")? {
            // A thread may end in between.
            let status = fs::read_to_string(task?.path().join("status")).unwrap_or_default();
            wakeups += number(&status, "voluntary_ctxt_switches:");
        }
        Ok(Self {
            pss_kib: number(&memory, "Pss:"),
            anonymous_kib: number(&memory, "Pss_Anon:"),
            cpu_ms: cpu_ms(pid)?,
            written: number(&read(pid, "io")?, "write_bytes:"),
            wakeups,
        })
    }
}

/// User and system time of all threads, also of those that have ended.
pub(crate) fn cpu_ms(pid: u32) -> Result<f64> {
    let stat = read(pid, "stat")?;
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = after_name.split_whitespace().skip(11).take(2);
    let ticks: f64 = ticks.filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(ticks * 1000.0 / TICKS_PER_SECOND)
}

pub(crate) fn read(pid: u32, file: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).with_context(|| format!("reading {path}"))
}

/// The number behind a label in one of proc(5)'s files.
pub(crate) fn number(text: &str, label: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(label))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}
