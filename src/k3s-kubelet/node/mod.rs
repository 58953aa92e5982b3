//! The Node object of this machine: registration, lease, status, pressure.
//!
//! One loop with one timer: the lease is renewed every ten seconds, the status is written when it
//! changes or every five minutes. Invariant: labels and taints of an existing Node that the flags
//! do not name are left alone.

pub(crate) mod facts;
pub(crate) mod network;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Key, Patch, Rest};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeStatus};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::eviction::{self, Pressure};
use crate::manager::Pods;
use crate::pod::labels::PodNames as _;
use crate::pod::resources::Qos;
use crate::pod::worker::Message;
use crate::shared::Shared;
use crate::typed::{LEASES, NODES};

/// How long the first status waits for the network.
const SETTLE_MAX: Duration = Duration::from_secs(3);
const HEARTBEAT: Duration = Duration::from_secs(10);
const LEASE_SECS: i32 = 40;
const STATUS_AGE_MAX: Duration = Duration::from_secs(300);
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// A pressure is reported until this long after it ended, so that it does not flap.
const PRESSURE_HOLD: Duration = Duration::from_secs(300);

struct NodeLoop {
    shared: Arc<Shared>,
    rest: Rest,
    pods: Pods,
    uid: String,
    runtime_version: String,
    written: Option<(NodeStatus, Timestamp)>,
    pressures: BTreeMap<Pressure, Timestamp>,
}

/// Keeps the Node registered and its status true, until `stop`.
pub(crate) async fn run(
    shared: Arc<Shared>,
    rest: Rest,
    pods: Pods,
    runtime_version: String,
    ready: impl Fn(&str) + Send,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut network = shared.network.clone();
    let mut node = NodeLoop {
        shared,
        rest,
        pods,
        uid: String::new(),
        runtime_version,
        written: None,
        pressures: BTreeMap::new(),
    };
    let mut ticks = tokio::time::interval(HEARTBEAT);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut pause = Duration::from_millis(50);
    while node.shared.config.register_node {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            done = node.register() => match done {
                Ok(()) => break,
                Err(err) => tracing::warn!(node = %node.shared.config.node_name, %err, ?pause,
                    "Node was not registered, retrying"),
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
    // After a restart the pod network is still there, only flannel has not said so yet: a node
    // that is Ready must not be reported otherwise for that moment.
    tokio::select! {
        _ = tokio::time::timeout(SETTLE_MAX, network.wait_for(Option::is_none)) => (),
        () = stop.cancelled() => return Ok(()),
    }
    loop {
        let changed = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = ticks.tick() => false,
            changed = network.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                true
            }
        };
        if !changed {
            node.renew_lease().await;
            node.measure().await;
        }
        if let Err(err) = node.write_status().await {
            let lost = client::is_not_found(&err);
            tracing::warn!(node = %node.shared.config.node_name, %err, "Node status was not written, retrying");
            if lost && node.shared.config.register_node {
                node.written = None;
                if let Err(err) = node.register().await {
                    tracing::warn!(node = %node.shared.config.node_name, %err, "Node was not registered, retrying");
                }
            }
        } else {
            ready(&format!("Running {} pods", node.pods.list().len()));
        }
    }
}

impl NodeLoop {
    fn key(&self) -> Key {
        Key::cluster(self.shared.config.node_name.clone())
    }

    /// Creates the Node, or brings the labels of an existing one up to date.
    async fn register(&mut self) -> Result<(), client::Error> {
        let wanted = status::node(&self.shared);
        match self.rest.create::<Node>(&NODES, "", &wanted).await {
            Ok(made) => {
                self.uid = made.metadata.uid.unwrap_or_default();
                tracing::info!(node = %self.shared.config.node_name, "Node was registered");
                return Ok(());
            }
            Err(err) if client::is_already_exists(&err) => {}
            Err(err) => return Err(err),
        }
        let have: Node = self.rest.get(&NODES, &self.key()).await?;
        self.uid = have.metadata.uid.clone().unwrap_or_default();
        let labels = wanted.metadata.labels.unwrap_or_default();
        let old = have.metadata.labels.unwrap_or_default();
        let missing: BTreeMap<_, _> =
            labels.iter().filter(|(key, value)| old.get(*key) != Some(value)).collect();
        if !missing.is_empty() {
            let patch = json!({"metadata": {"labels": missing}});
            let _: Value =
                self.rest.patch(&NODES, &self.key(), "", Patch::Strategic, &patch).await?;
        }
        Ok(())
    }

    async fn renew_lease(&self) {
        let name = &self.shared.config.node_name;
        let key = Key::new(LEASE_NAMESPACE, name.as_str());
        let renew = client::rfc3339_micros(Timestamp::now());
        let spec = json!({
            "holderIdentity": name, "leaseDurationSeconds": LEASE_SECS, "renewTime": renew
        });
        let patch = json!({"spec": spec});
        let sent: Result<Value, _> = self.rest.patch(&LEASES, &key, "", Patch::Merge, &patch).await;
        let Err(err) = sent else { return };
        if !client::is_not_found(&err) {
            tracing::warn!(node = %name, %err, "Lease was not renewed, retrying");
            return;
        }
        let owners = json!([{
            "apiVersion": "v1", "kind": "Node", "name": name, "uid": self.uid
        }]);
        let metadata = if self.uid.is_empty() {
            json!({"name": name})
        } else {
            json!({"name": name, "ownerReferences": owners})
        };
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": metadata, "spec": spec
        });
        let made: Result<Value, _> = self.rest.create(&LEASES, LEASE_NAMESPACE, &lease).await;
        if let Err(err) = made {
            tracing::warn!(node = %name, %err, "Lease was not created, retrying");
        }
    }

    async fn write_status(&mut self) -> Result<(), client::Error> {
        let now = Timestamp::now();
        let images = self.shared.runtime.list_images().await.unwrap_or_default();
        let runtime = self.shared.runtime.status().await;
        let network = self.shared.network.borrow().clone();
        let old = self.written.as_ref().map(|(status, _)| status);
        let view = status::View {
            runtime_version: &self.runtime_version,
            images,
            not_ready: status::not_ready(&runtime, network.as_deref()),
            pressures: self.pressures.keys().copied().collect(),
            old,
            now,
        };
        let mut want = status::status(&self.shared, view);
        let have: Node = self.rest.get(&NODES, &self.key()).await?;
        let have = have.status.unwrap_or_default();
        status::adopt(&mut want, &have);
        let withdrawn = status::withdrawn(&have);
        let fresh = self
            .written
            .as_ref()
            .is_some_and(|(old, at)| status::same(old, &want) && *at + STATUS_AGE_MAX > now);
        if fresh && withdrawn.is_empty() {
            return Ok(());
        }
        let mut patch = json!({"status": want});
        for name in withdrawn {
            patch["status"]["allocatable"][name] = Value::Null;
        }
        let _: Value =
            self.rest.patch(&NODES, &self.key(), "status", Patch::Strategic, &patch).await?;
        self.written = Some((want, now));
        Ok(())
    }

    /// Measures what is left of the node's resources and acts when too little is.
    async fn measure(&mut self) {
        let config = &self.shared.config;
        let signals = facts::signals(config);
        let now = Timestamp::now();
        let crossed = eviction::crossed(&config.eviction_hard, &signals);
        for crossed in &crossed {
            self.pressures.insert(crossed.pressure, now);
        }
        self.pressures.retain(|_, since| *since + PRESSURE_HOLD > now);
        if let Some((used, capacity)) = facts::disk_use(&config.root_dir) {
            let high = capacity / 100 * u64::from(config.image_gc_high_percent);
            let low = capacity / 100 * u64::from(config.image_gc_low_percent);
            let disk = crossed.iter().any(|crossed| crossed.pressure == Pressure::Disk);
            if used > high || disk {
                let wanted = used.saturating_sub(low);
                match self.shared.images.collect(wanted).await {
                    Ok(freed) => tracing::info!(freed, "Unused images were removed"),
                    Err(err) => tracing::warn!(%err, "Images were not collected, retrying"),
                }
            }
        }
        if let Some(crossed) = crossed.first() {
            self.evict(crossed);
        }
    }

    /// One pod goes at a time: the one of the lowest class and priority.
    fn evict(&self, crossed: &eviction::Crossed) {
        let mut candidates = self.pods.list();
        candidates.retain(|known| {
            let phase = known.view.borrow().status.phase.clone().unwrap_or_default();
            let critical = known.pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
            matches!(phase.as_str(), "Running" | "Pending") && critical < 2_000_000_000
        });
        let rank = |known: &crate::manager::Known| {
            let class = match crate::pod::resources::qos(&known.pod) {
                Qos::BestEffort => 0,
                Qos::Burstable => 1,
                Qos::Guaranteed => 2,
            };
            (class, known.pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0))
        };
        candidates.sort_by_key(rank);
        let Some(victim) = candidates.first() else { return };
        let resource = match crossed.pressure {
            Pressure::Memory => "memory",
            Pressure::Disk => "ephemeral-storage",
            Pressure::Pid => "pids",
        };
        tracing::warn!(pod = %victim.pod.key(), signal = crossed.signal,
            available = crossed.available, threshold = crossed.threshold, "Node is short, evicting");
        victim.tell(Message::Evict {
            reason: "Evicted".to_owned(),
            message: format!(
                "The node was low on resource: {resource}. Threshold quantity: {}, available: {}.",
                crossed.threshold, crossed.available
            ),
            grace_secs: 1,
        });
    }
}

/// The network's state as a channel: `Some(reason)` until it is ready.
pub(crate) fn network_channel() -> (watch::Sender<Option<String>>, watch::Receiver<Option<String>>)
{
    watch::channel(Some("container runtime is down".to_owned()))
}
