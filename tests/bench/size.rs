//! Memory and start: an API server with nothing to do, and one that holds many objects.

use std::time::Duration;

use anyhow::Result;

use crate::figure::{Goal, print};
use crate::objects::{CONFIGMAPS, PODS, configmap, make, make_service_account, pod};
use crate::server::{ApiServer, Process};
use crate::usage::Usage;

const CONFIGMAPS_HELD: usize = 10_000;
const PODS_HELD: usize = 5_000;
const STARTS: usize = 5;
/// How long an idle server is watched.
const WATCHED: Duration = Duration::from_secs(10);

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn run() -> Result<()> {
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        let api = ApiServer::start().await?;
        starts.push(api.ready_after.as_secs_f64() * 1000.0);
    }
    let start = crate::figure::quantile(&mut starts, 0.5);
    print("API server, empty store: exec to ready, p50", start, "ms", Goal::AtMost(300.0));
    let api = ApiServer::start().await?;
    print("API server, empty: PSS", pss_mib(&api.server)?, "MiB", Goal::AtMost(20.0));
    print("store, empty: PSS", pss_mib(&api.store)?, "MiB", Goal::None);
    idle("API server", &api.server).await?;
    idle("store", &api.store).await?;
    make_service_account(&api.target).await?;
    make(&api.target, CONFIGMAPS, CONFIGMAPS_HELD, configmap).await?;
    make(&api.target, PODS, PODS_HELD, pod).await?;
    let what = format!("{CONFIGMAPS_HELD} ConfigMaps and {PODS_HELD} pods");
    let (server, store) = (pss_mib(&api.server)?, pss_mib(&api.store)?);
    print(&format!("API server, {what}: PSS"), server, "MiB", Goal::AtMost(100.0));
    print(&format!("store, {what}: PSS"), store, "MiB", Goal::None);
    Ok(())
}

/// What a process does that nobody asks anything.
async fn idle(name: &str, process: &Process) -> Result<()> {
    let was = Usage::of(process.pid())?;
    tokio::time::sleep(WATCHED).await;
    let now = Usage::of(process.pid())?;
    let seconds = WATCHED.as_secs_f64();
    let cpu = (now.cpu_ms - was.cpu_ms) / seconds / 10.0;
    let wakeups = now.wakeups.saturating_sub(was.wakeups) as f64 / seconds;
    let written = now.written.saturating_sub(was.written) as f64 / seconds;
    let private = now.anonymous_kib as f64 / 1024.0;
    print(&format!("{name}, idle: memory that no file backs"), private, "MiB", Goal::None);
    print(&format!("{name}, idle: CPU"), cpu, "%", Goal::None);
    print(&format!("{name}, idle: wakeups"), wakeups, "/s", Goal::None);
    print(&format!("{name}, idle: disk writes"), written, "B/s", Goal::None);
    Ok(())
}

fn pss_mib(process: &Process) -> Result<f64> {
    Ok(Usage::of(process.pid())?.pss_kib as f64 / 1024.0)
}
