//! What every request needs: the kinds, the storage, the rules.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admission::Webhooks;
use crate::aggregation::Delegates;
use crate::args::Args;
use crate::audit::Audit;
use crate::auth::Auth;
use crate::cluster::Cluster;
use crate::custom::convert::Converted;
use crate::flowcontrol::FlowControl;
use crate::kinds::Kinds;
use crate::metrics::Metrics;
use crate::remote::Remote;
use crate::storage::Storage;
use crate::supervisor::agents::Agents;

/// The API server's shared state.
pub struct ApiServer {
    pub args: Args,
    /// What is in effect, by flag.
    pub configuration: BTreeMap<String, String>,
    pub begun: Timestamp,
    pub kinds: Kinds,
    pub storage: Arc<Storage>,
    pub cluster: Cluster,
    pub metrics: Metrics,
    pub auth: Auth,
    pub event_ttl: Duration,
    pub stop: CancellationToken,
    /// The bootstrap objects have been written.
    pub started: AtomicBool,
    /// Agents and the tunnels that they hold.
    pub agents: Agents,
    /// Connections to webhooks.
    pub remote: Remote,
    pub webhooks: Webhooks,
    pub converted: Converted,
    /// Group versions that other servers answer for.
    pub delegates: Delegates,
    pub flow_control: FlowControl,
    /// The audit log, if there is one.
    pub audit: Option<Arc<Audit>>,
    /// Upgraded connections (exec, port-forward), which outlive their request.
    pub tunnels: Mutex<JoinSet<()>>,
}

impl ApiServer {
    /// Ends the upgraded connections.
    pub async fn end_tunnels(&self) {
        let mut tunnels = {
            let mut held = self.tunnels.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *held)
        };
        tunnels.shutdown().await;
        self.remote.end().await;
    }

    /// Now, on the wire clock: whole seconds are the caller's business.
    pub fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
