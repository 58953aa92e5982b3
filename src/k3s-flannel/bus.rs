//! `io.k3s.Flannel1`: the pod network, for the kubelet and for people.
//!
//! Invariant: all properties are of one moment; whoever finds `Ready` true finds the others set.

use anyhow::Result;
use daemon::Bus;
use tokio::sync::watch;

use crate::network::Network;

#[derive(Clone)]
struct Flannel1 {
    network: watch::Receiver<Option<Network>>,
}

#[zbus::interface(name = "io.k3s.Flannel1")]
impl Flannel1 {
    #[zbus(property, name = "PodCIDR")]
    fn pod_cidr(&self) -> String {
        let network = self.network.borrow();
        network.as_ref().map_or_else(String::new, |network| network.pod_cidr.to_string())
    }

    #[zbus(property)]
    fn mtu(&self) -> u32 {
        self.network.borrow().as_ref().map_or(0, |network| network.mtu)
    }

    #[zbus(property)]
    fn ready(&self) -> bool {
        self.network.borrow().is_some()
    }
}

/// Publishes the network until its sender goes away.
pub(crate) async fn publish(
    bus: &Bus,
    mut network: watch::Receiver<Option<Network>>,
) -> Result<()> {
    network.mark_unchanged();
    bus.offer(Flannel1 { network: network.clone() }).await?;
    while network.changed().await.is_ok() {
        let Some(served) = bus.served::<Flannel1>().await else { continue };
        let (flannel, emitter) = (served.get().await, served.signal_emitter());
        flannel.pod_c_i_d_r_changed(emitter).await?;
        flannel.mtu_changed(emitter).await?;
        flannel.ready_changed(emitter).await?;
    }
    Ok(())
}
