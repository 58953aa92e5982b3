//! Connects containers to the bridge and takes them off again.
//!
//! A pod gets its address as /32 with a route through the bridge's own address, so that all its
//! traffic is routed by the node: service translation needs no bridge netfilter, and the node's
//! rules see every packet. MAC addresses follow from IP addresses, so no cache is ever stale.

use super::ipam::Ipam;
use super::protocol::{Attached, Attachment, CniError};
use crate::network::{BRIDGE, Network};
use ipnetwork::{IpNetwork, Ipv4Network};
use netlink::link::{Veth, format_mac};
use netlink::netns::Netns;
use netlink::route::{Route, STATIC, Via};
use netlink::{Netlink, drive};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Does the work of the CNI commands.
#[derive(Debug)]
pub struct Attacher {
    netlink: Netlink,
    ipam: Mutex<Ipam>,
}

impl Attacher {
    pub fn new(netlink: Netlink, ipam: Ipam) -> Self {
        let ipam = Mutex::new(ipam);
        Self { netlink, ipam }
    }

    fn ipam(&self) -> MutexGuard<'_, Ipam> {
        self.ipam.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Repeating it replaces what an interrupted run left.
    pub async fn add(
        &self,
        to: &Attachment,
        netns_path: &str,
        network: &Network,
    ) -> Result<Attached, CniError> {
        let netns = Netns::open(Path::new(netns_path)).map_err(CniError::failed)?;
        self.del(to).await?;
        let ip = self.ipam().allocate(network.pod_cidr, to);
        let ip = ip.map_err(CniError::failed)?;
        let wired = self.wire(to, &netns, ip, network).await;
        match wired {
            Ok((host_mac, bridge_mac)) => Ok(Attached {
                bridge: (BRIDGE.into(), bridge_mac),
                host: (host_name(to), host_mac),
                container: (to.interface.clone(), format_mac(&mac_of(ip))),
                netns: netns_path.into(),
                address: host_route(ip),
                gateway: network.gateway(),
            }),
            Err(err) => {
                // The first error is the one to report.
                let _ = self.del(to).await;
                Err(CniError::failed(err))
            }
        }
    }

    async fn wire(
        &self,
        to: &Attachment,
        netns: &Netns,
        ip: Ipv4Addr,
        network: &Network,
    ) -> netlink::Result<(String, String)> {
        let host = host_name(to);
        let veth = Veth {
            host: &host,
            container: &to.interface,
            mac: mac_of(ip),
            netns,
            mtu: network.mtu,
        };
        self.netlink.add_veth(&veth).await?;
        self.netlink.attach_to_bridge(&host, BRIDGE).await?;
        let (inside, driver) = netns.connect().await?;
        drive(driver, configure(&inside, &to.interface, ip, network)).await?;
        let mac = self.netlink.must_link(&host).await?.mac;
        let bridge = self.netlink.must_link(BRIDGE).await?.mac;
        Ok((format_mac(&mac), format_mac(&bridge)))
    }

    /// Fine when link, namespace or lease are gone already.
    pub async fn del(&self, from: &Attachment) -> Result<(), CniError> {
        let deleted = self.netlink.delete_link(&host_name(from)).await;
        deleted.map_err(CniError::failed)?;
        self.ipam().release(from).map_err(CniError::failed)?;
        Ok(())
    }

    pub async fn check(&self, of: &Attachment, netns: &str) -> Result<(), CniError> {
        let leased = self.ipam().address_of(of);
        let ip = leased.ok_or_else(|| CniError::failed("the container has no address"))?;
        let checked = async {
            let host = self.netlink.must_link(&host_name(of)).await?;
            let bridge = self.netlink.must_link(BRIDGE).await?;
            let (inside, driver) = Netns::open(Path::new(netns))?.connect().await?;
            let has_address = drive(driver, async {
                let link = inside.must_link(&of.interface).await?;
                let all = inside.addresses().await?;
                Ok(all.iter().any(|a| a.link == link.index && a.ip == ip))
            });
            Ok::<bool, netlink::Error>(
                has_address.await? && host.up && host.controller == Some(bridge.index),
            )
        };
        match checked.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(CniError::failed(format!("{ip} is not attached as it was"))),
            Err(err) => Err(CniError::failed(err)),
        }
    }

    /// Takes off everything that the runtime no longer knows.
    pub async fn gc(&self, valid: &BTreeSet<Attachment>) -> Result<(), CniError> {
        let stale = self.ipam().stale(valid);
        for attachment in stale {
            self.del(&attachment).await?;
        }
        Ok(())
    }
}

async fn configure(
    inside: &Netlink,
    interface: &str,
    ip: Ipv4Addr,
    network: &Network,
) -> netlink::Result<()> {
    inside.ensure_up("lo", None).await?;
    inside.ensure_up(interface, None).await?;
    let address = IpNetwork::V4(host_route(ip));
    inside.ensure_address(interface, address).await?;
    let link = inside.must_link(interface).await?.index;
    let gateway = Route { destination: host_route(network.gateway()), link, via: Via::Link };
    inside.ensure_route(&gateway, STATIC).await?;
    let default =
        Route { destination: default_destination(), link, via: Via::Gateway(network.gateway()) };
    inside.ensure_route(&default, STATIC).await
}

fn default_destination() -> Ipv4Network {
    Ipv4Network::new(Ipv4Addr::UNSPECIFIED, 0).expect("0 is a valid prefix length")
}

fn host_route(ip: Ipv4Addr) -> Ipv4Network {
    Ipv4Network::from(ip)
}

/// A locally administered MAC address made of the IP address.
pub fn mac_of(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [0x0a, 0x58, a, b, c, d]
}

/// The name of the host's end: the same for the same attachment, so DEL finds it.
pub fn host_name(of: &Attachment) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in of.container.bytes().chain([0]).chain(of.interface.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("veth{:011x}", hash & 0xfff_ffff_ffff)
}
