//! `io.k3s.Flannel1`: the pod network, for the kubelet and for people.
//!
//! Invariant: `Ready` turns true only after `PodCIDR` and `Mtu` have their values.

use crate::network::Network;
use anyhow::Result;
use daemon::BUS_PATH;
use tokio::sync::watch;
use zbus::object_server::InterfaceRef;

struct Flannel1 {
    network: Option<Network>,
}

#[zbus::interface(name = "io.k3s.Flannel1")]
impl Flannel1 {
    #[zbus(property, name = "PodCIDR")]
    fn pod_cidr(&self) -> String {
        let network = self.network.as_ref();
        network.map_or_else(String::new, |network| network.pod_cidr.to_string())
    }

    #[zbus(property)]
    fn mtu(&self) -> u32 {
        self.network.as_ref().map_or(0, |network| network.mtu)
    }

    #[zbus(property)]
    fn ready(&self) -> bool {
        self.network.is_some()
    }
}

/// Publishes the network until its sender goes away; returns at once without a bus.
pub(crate) async fn publish(
    bus: Option<zbus::Connection>,
    mut network: watch::Receiver<Option<Network>>,
) -> Result<()> {
    let Some(bus) = bus else { return Ok(()) };
    let server = bus.object_server();
    let initial = network.borrow_and_update().clone();
    server.at(BUS_PATH, Flannel1 { network: initial }).await?;
    let interface: InterfaceRef<Flannel1> = server.interface(BUS_PATH).await?;
    while network.changed().await.is_ok() {
        let now = network.borrow_and_update().clone();
        let emitter = interface.signal_emitter();
        let mut flannel = interface.get_mut().await;
        flannel.network = now;
        flannel.pod_c_i_d_r_changed(emitter).await?;
        flannel.mtu_changed(emitter).await?;
        flannel.ready_changed(emitter).await?;
    }
    Ok(())
}
