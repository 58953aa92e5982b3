//! `io.k3s.Kubelet1`: takes this node out of service and back, as an administrator of the machine
//! sees it: without credentials of the cluster, and before a reboot.
//!
//! Invariant: pods leave by eviction, so disruption budgets hold; those that the node owes to
//! nobody else (static pods, DaemonSets) stay.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use client::{Key, Patch};
use daemon::Bus;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, fdo};

use crate::manager::Pods;
use crate::pod::labels::CONFIG_MIRROR;
use crate::shared::Shared;
use crate::typed::{NODES, PODS};

/// Between two attempts to evict what a disruption budget holds back, and looks at what is left.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Evicts pods while `draining` is true, and publishes how far that is, until `stop`.
pub(crate) async fn serve(
    bus: Bus,
    shared: Arc<Shared>,
    pods: Pods,
    stop: CancellationToken,
) -> Result<()> {
    let (order, mut draining) = watch::channel(false);
    let left = watch::Sender::new(String::new());
    let interface = Kubelet1 { shared: shared.clone(), pods: pods.clone(), order, left };
    bus.offer(interface.clone()).await?;
    let work = async {
        loop {
            draining.wait_for(|draining| *draining).await?;
            let left = evict_all(&shared, &pods).await;
            let text = if left == 0 { "drained".to_owned() } else { format!("{left} pods left") };
            if *interface.left.borrow() != text {
                tracing::info!(left, "Draining the node");
                interface.left.send_replace(text);
                if let Some(served) = bus.served::<Kubelet1>().await {
                    interface.draining_changed(served.signal_emitter()).await?;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(ASK_AGAIN) => (),
                changed = draining.changed() => changed?,
            }
        }
    };
    tokio::select! {
        ended = work => ended,
        () = stop.cancelled() => Ok(()),
    }
}

#[derive(Clone)]
struct Kubelet1 {
    shared: Arc<Shared>,
    pods: Pods,
    order: watch::Sender<bool>,
    left: watch::Sender<String>,
}

#[zbus::interface(name = "io.k3s.Kubelet1")]
impl Kubelet1 {
    #[zbus(property(emits_changed_signal = "const"))]
    fn node(&self) -> &str {
        &self.shared.config.node_name
    }

    /// Pods that the kubelet looks after.
    #[zbus(property(emits_changed_signal = "false"))]
    fn pods(&self) -> u32 {
        u32::try_from(self.pods.list().len()).unwrap_or(u32::MAX)
    }

    /// Empty, how many pods are left to leave, or "drained".
    #[zbus(property)]
    fn draining(&self) -> String {
        self.left.borrow().clone()
    }

    /// No new pods come to this node.
    async fn cordon(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &Connection,
    ) -> fdo::Result<()> {
        daemon::authorize(bus, &header, daemon::MANAGE_NODE).await?;
        self.mark(true).await
    }

    /// Pods may come again; ends a drain.
    async fn uncordon(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &Connection,
        #[zbus(signal_emitter)] emitter: SignalEmitter<'_>,
    ) -> fdo::Result<()> {
        daemon::authorize(bus, &header, daemon::MANAGE_NODE).await?;
        self.order.send_replace(false);
        self.left.send_replace(String::new());
        self.draining_changed(&emitter).await?;
        self.mark(false).await
    }

    /// Cordons the node and evicts its pods; answers at once, `Draining` tells how far it is.
    async fn drain(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] bus: &Connection,
    ) -> fdo::Result<()> {
        daemon::authorize(bus, &header, daemon::MANAGE_NODE).await?;
        self.mark(true).await?;
        self.order.send_replace(true);
        Ok(())
    }
}

impl Kubelet1 {
    async fn mark(&self, unschedulable: bool) -> fdo::Result<()> {
        let Some(rest) = &self.shared.rest else {
            return Err(fdo::Error::NotSupported("this kubelet has no API server".to_owned()));
        };
        let key = Key::cluster(&self.shared.config.node_name);
        let patch = json!({ "spec": { "unschedulable": unschedulable.then_some(true) } });
        let patched: Result<Node, _> = rest.patch(&NODES, &key, "", Patch::Merge, &patch).await;
        patched.map_err(|err| fdo::Error::Failed(client::describe(&err)))?;
        let node = key.name;
        tracing::info!(%node, unschedulable, "Node was marked over D-Bus");
        Ok(())
    }
}

/// Asks for the eviction of every pod that should leave; returns how many have not left yet.
async fn evict_all(shared: &Shared, pods: &Pods) -> usize {
    let Some(rest) = &shared.rest else { return 0 };
    let mut left = BTreeSet::new();
    for known in pods.list().into_iter().filter(|known| leaves(&known.pod, known.is_static)) {
        let meta = &known.pod.metadata;
        let key = Key::new(
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
        );
        if meta.deletion_timestamp.is_none() {
            let eviction = json!({
                "apiVersion": "policy/v1",
                "kind": "Eviction",
                "metadata": { "namespace": key.namespace, "name": key.name },
            });
            let asked: Result<serde_json::Value, _> =
                rest.create_sub(&PODS, &key, "eviction", &eviction).await;
            if let Err(err) = asked
                && !client::is_not_found(&err)
            {
                let err = client::describe(&err);
                tracing::debug!(pod = %key, err, "Could not evict, asking again");
            }
        }
        left.insert(key.to_string());
    }
    left.len()
}

/// Whether a drain is about this pod.
fn leaves(pod: &Pod, is_static: bool) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    let mirror = annotations.is_some_and(|all| all.contains_key(CONFIG_MIRROR));
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    let daemon = owners.iter().any(|o| o.controller == Some(true) && o.kind == "DaemonSet");
    !is_static && !mirror && !daemon
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

    use super::*;

    #[test]
    fn pods_that_belong_to_the_node_stay() {
        let check = |owner: &str, is_static, expected| {
            let mut pod = Pod::default();
            let kind = owner.to_owned();
            let owner = OwnerReference { kind, controller: Some(true), ..Default::default() };
            pod.metadata.owner_references = Some(vec![owner]);
            assert_eq!(leaves(&pod, is_static), expected);
        };
        check("ReplicaSet", false, true);
        check("DaemonSet", false, false);
        check("Node", true, false);
    }
}
