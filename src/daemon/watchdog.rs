//! The service manager's watchdog: a process that stops answering it is restarted.
//!
//! Invariant: a ping says that the runtime makes progress, nothing else. What ails a component from
//! outside (a full disk, an API server that is away) is its health: a restart would not mend it.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

/// Pings three times per interval that the service manager asked for, for ever; never returns.
pub(crate) async fn feed() {
    let Some(allowed) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    let mut ticks = interval((allowed / 3).max(Duration::from_millis(10)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut probes = JoinSet::new();
    loop {
        ticks.tick().await;
        // By way of a task, so that the workers of a runtime with several threads answer too.
        probes.spawn(async {});
        if probes.join_next().await.is_some() {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        }
    }
}
