//! Routes, neighbours and forwarding entries towards the other nodes.
//!
//! [`plan`] says what the kernel should hold; [`apply`] makes the difference, so it can be repeated
//! at any time. Invariant: only entries on our own device and routes with our own protocol number
//! are ever touched.

use crate::node::{Backend, Peer, Reach};
use crate::underlay::Underlay;
use ipnetwork::Ipv4Network;
use netlink::Netlink;
use netlink::link::Vxlan;
use netlink::neighbour::{Neighbour, Table};
use netlink::route::{Owner, Route, Via};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

pub const VXLAN: &str = "flannel.1";
pub const VNI: u32 = 1;
const PORT: u16 = 8472;
/// What VXLAN puts around a packet.
const OVERHEAD: u32 = 50;
/// Marks our routes: `ip route show proto 107`.
pub const ROUTES: Owner = Owner(107);

/// The kernel entries that reach all peers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mesh {
    pub routes: BTreeSet<Route>,
    pub arp: BTreeSet<Neighbour>,
    pub fdb: BTreeSet<Neighbour>,
}

/// `tunnel` is the index of the VXLAN device, if the backend has one.
pub fn plan(peers: &[Peer], own: Ipv4Network, tunnel: Option<u32>, underlay: Option<u32>) -> Mesh {
    let mut mesh = Mesh::default();
    for peer in peers.iter().filter(|peer| peer.pod_cidr != own) {
        let destination = peer.pod_cidr;
        match (&peer.reach, tunnel, underlay) {
            (Reach::Vxlan { vtep_mac }, Some(link), _) => {
                let gateway = destination.network();
                let via = Via::Onlink(gateway);
                mesh.routes.insert(Route { destination, link, via });
                let mac = *vtep_mac;
                mesh.arp.insert(Neighbour { ip: gateway, mac });
                let ip = peer.public_ip;
                mesh.fdb.insert(Neighbour { ip, mac });
            }
            (Reach::HostGw, None, Some(link)) => {
                let via = Via::Gateway(peer.public_ip);
                mesh.routes.insert(Route { destination, link, via });
            }
            _ => {}
        }
    }
    mesh
}

/// The VXLAN device with the address of the node's range, or none of it for other backends.
/// Returns its index and MAC address.
pub async fn ensure_tunnel(
    netlink: &Netlink,
    backend: Backend,
    underlay: Option<&Underlay>,
    own: Ipv4Network,
) -> netlink::Result<Option<(u32, Vec<u8>)>> {
    let (Backend::Vxlan, Some(underlay)) = (backend, underlay) else {
        netlink.delete_link(VXLAN).await?;
        return Ok(None);
    };
    let want = Vxlan { vni: VNI, port: PORT, local: Some(underlay.ip), underlay: underlay.link };
    let mtu = mtu(backend, Some(underlay));
    let link = netlink.ensure_vxlan(VXLAN, &want, mtu).await?;
    let address = Ipv4Network::from(own.network());
    netlink.ensure_only_address(VXLAN, address.into()).await?;
    Ok(Some((link.index, link.mac)))
}

/// The MTU of pods.
pub fn mtu(backend: Backend, underlay: Option<&Underlay>) -> u32 {
    let link = underlay.map_or(1500, |underlay| underlay.mtu);
    match backend {
        // Below the smallest MTU of IPv4 a device refuses its address.
        Backend::Vxlan => link.saturating_sub(OVERHEAD).max(576),
        Backend::HostGw | Backend::None => link,
    }
}

/// Makes the kernel hold `want`; returns the peers that could not be set.
pub async fn apply(netlink: &Netlink, want: &Mesh, tunnel: Option<u32>) -> netlink::Result<()> {
    let now: BTreeSet<Route> = netlink.routes(ROUTES).await?.into_iter().collect();
    for route in now.difference(&want.routes) {
        // A changed route is replaced below; deleting it first would lose packets.
        if !want.routes.iter().any(|r| r.destination == route.destination) {
            netlink.delete_route(route, ROUTES).await?;
        }
    }
    if let Some(tunnel) = tunnel {
        sync_neighbours(netlink, tunnel, Table::Arp, &want.arp).await?;
        sync_neighbours(netlink, tunnel, Table::Fdb, &want.fdb).await?;
    }
    for route in want.routes.difference(&now) {
        netlink.ensure_route(route, ROUTES).await?;
    }
    Ok(())
}

async fn sync_neighbours(
    netlink: &Netlink,
    link: u32,
    table: Table,
    want: &BTreeSet<Neighbour>,
) -> netlink::Result<()> {
    let now: BTreeSet<Neighbour> = netlink.neighbours(link, table).await?.into_iter().collect();
    for entry in now.difference(want) {
        netlink.delete_neighbour(link, table, *entry).await?;
    }
    for entry in want.difference(&now) {
        netlink.ensure_neighbour(link, table, *entry).await?;
    }
    Ok(())
}

/// The address range is a peer's business only; this is for the log.
pub fn describe(peers: usize, network: Ipv4Network, ip: Option<Ipv4Addr>) -> String {
    match ip {
        Some(ip) => format!("Pod network {network} on {ip}, {peers} peers"),
        None => format!("Pod network {network}, no link to other nodes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_of_the_backend_get_entries_and_we_do_not() {
        let vtep_mac = [2, 0, 0, 0, 0, 1];
        let peer = |cidr: &str, reach| Peer {
            pod_cidr: cidr.parse().unwrap(),
            public_ip: Ipv4Addr::new(192, 0, 2, 7),
            reach,
        };
        let peers = [
            peer("10.42.0.0/24", Reach::Vxlan { vtep_mac }),
            peer("10.42.1.0/24", Reach::Vxlan { vtep_mac }),
            peer("10.42.2.0/24", Reach::HostGw),
        ];
        let own = "10.42.0.0/24".parse().unwrap();
        let vxlan = plan(&peers, own, Some(7), Some(2));
        assert_eq!(vxlan.routes.len(), 1);
        let route = vxlan.routes.first().unwrap();
        assert_eq!(route.via, Via::Onlink(Ipv4Addr::new(10, 42, 1, 0)));
        assert_eq!((vxlan.arp.len(), vxlan.fdb.len()), (1, 1));
        let host_gw = plan(&peers, own, None, Some(2));
        assert_eq!(host_gw.routes.len(), 1);
        assert!(host_gw.fdb.is_empty());
        assert_eq!(plan(&peers, own, None, None), Mesh::default());
    }
}
