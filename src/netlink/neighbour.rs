//! Permanent neighbours and forwarding entries of a tunnel device.
//!
//! Invariant: only permanent entries are listed, so what the kernel learned by itself is left alone.

use crate::{Netlink, Result, ctx, or_gone};
use futures::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use std::net::{IpAddr, Ipv4Addr};

/// `ip` is reached at `mac`: an ARP entry, or with a tunnel endpoint as `ip` a forwarding entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    pub ip: Ipv4Addr,
    pub mac: [u8; 6],
}

/// Which of the kernel's two tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// IPv4 to MAC (`ip neigh`).
    Arp,
    /// MAC to the address of a tunnel's end (`bridge fdb`).
    Fdb,
}

impl Netlink {
    pub async fn ensure_neighbour(&self, link: u32, table: Table, entry: Neighbour) -> Result<()> {
        let neighbours = self.handle.neighbours();
        let request = match table {
            Table::Arp => neighbours
                .add(link, IpAddr::V4(entry.ip))
                .link_layer_address(&entry.mac)
                .state(NeighbourState::Permanent),
            // Without NTF_SELF the kernel looks for a bridge above the device: EOPNOTSUPP.
            Table::Fdb => neighbours
                .add_bridge(link, &entry.mac)
                .destination(IpAddr::V4(entry.ip))
                .flags(NeighbourFlags::Own),
        };
        let what = entry.ip.to_string();
        request.replace().execute().await.map_err(ctx("set neighbour", &what))
    }

    pub async fn delete_neighbour(&self, link: u32, table: Table, entry: Neighbour) -> Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = link;
        message.header.state = NeighbourState::Permanent;
        let destination = NeighbourAttribute::Destination(NeighbourAddress::Inet(entry.ip));
        message.attributes.push(destination);
        match table {
            Table::Arp => message.header.family = AddressFamily::Inet,
            Table::Fdb => {
                message.header.family = AddressFamily::Bridge;
                message.header.flags = NeighbourFlags::Own;
                let mac = NeighbourAttribute::LinkLayerAddress(entry.mac.to_vec());
                message.attributes.push(mac);
            }
        }
        let what = entry.ip.to_string();
        let request = self.handle.neighbours().del(message);
        or_gone(request.execute().await.map_err(ctx("delete neighbour", &what)))
    }

    /// The permanent entries of the link.
    pub async fn neighbours(&self, link: u32, table: Table) -> Result<Vec<Neighbour>> {
        let family = match table {
            Table::Arp => AddressFamily::Inet,
            Table::Fdb => AddressFamily::Bridge,
        };
        let request = self.handle.neighbours().get().set_address_family(family);
        let all: Vec<NeighbourMessage> =
            request.execute().try_collect().await.map_err(ctx("list", "neighbours"))?;
        let ours = |message: &&NeighbourMessage| {
            message.header.ifindex == link
                && message.header.state == NeighbourState::Permanent
                && message.header.family == family
        };
        Ok(all.iter().filter(ours).filter_map(parse).collect())
    }
}

fn parse(message: &NeighbourMessage) -> Option<Neighbour> {
    let (mut ip, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(to)) => ip = Some(*to),
            // Forwarding entries are of the bridge family, so nobody decoded their address.
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
                ip = <[u8; 4]>::try_from(bytes.as_slice()).ok().map(Ipv4Addr::from);
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    Some(Neighbour { ip: ip?, mac: mac? })
}
