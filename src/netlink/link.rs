//! Links and their addresses.
//!
//! Invariant: a link is looked up by name on every call; an index is never kept across an await of
//! somebody else's event, because the kernel reuses them.

use crate::netns::Netns;
use crate::{Error, IpNetwork, Netlink, Result, ctx, or_exists, or_gone};
use futures::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::{LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVxlan};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

/// What is known of a link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mtu: u32,
    pub mac: Vec<u8>,
    pub up: bool,
    pub kind: String,
    /// Index of the bridge that the link is a port of.
    pub controller: Option<u32>,
    pub vxlan: Option<Vxlan>,
}

/// The parts of a VXLAN device that cannot be changed without making it anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vxlan {
    pub vni: u32,
    pub port: u16,
    pub local: Option<Ipv4Addr>,
    /// Index of the link that carries the tunnel.
    pub underlay: u32,
}

/// A veth pair with one end in another namespace.
#[derive(Debug)]
pub struct Veth<'a> {
    pub host: &'a str,
    pub container: &'a str,
    /// The MAC address of the container's end.
    pub mac: [u8; 6],
    pub netns: &'a Netns,
    pub mtu: u32,
}

/// One address of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub link: u32,
    pub ip: IpAddr,
    pub prefix: u8,
    pub global: bool,
}

impl Netlink {
    pub async fn link(&self, name: &str) -> Result<Option<Link>> {
        let mut found = self.handle.link().get().match_name(name.to_string()).execute();
        match found.try_next().await.map_err(ctx("get link", name)) {
            Ok(message) => Ok(message.map(parse_link)),
            Err(err) if err.is_gone() => Ok(None),
            Err(err) => Err(err),
        }
    }

    pub async fn must_link(&self, name: &str) -> Result<Link> {
        self.link(name).await?.ok_or_else(|| Error::NoLink(name.into()))
    }

    pub async fn links(&self) -> Result<Vec<Link>> {
        let found = self.handle.link().get().execute();
        found.map_ok(parse_link).try_collect().await.map_err(ctx("list", "links"))
    }

    /// A bridge that is up, with this MTU.
    pub async fn ensure_bridge(&self, name: &str, mtu: u32) -> Result<Link> {
        if self.link(name).await?.is_none() {
            let message = LinkBridge::new(name).mtu(mtu).up().build();
            or_exists(self.add_link(message, name).await)?;
        }
        self.ensure_up(name, Some(mtu)).await?;
        self.must_link(name).await
    }

    /// A VXLAN device without learning; made anew when a fixed property differs.
    pub async fn ensure_vxlan(&self, name: &str, want: &Vxlan, mtu: u32) -> Result<Link> {
        match self.link(name).await? {
            Some(link) if link.vxlan.as_ref() == Some(want) => {}
            Some(_) => {
                self.delete_link(name).await?;
                self.add_vxlan(name, want, mtu).await?;
            }
            None => self.add_vxlan(name, want, mtu).await?,
        }
        self.ensure_up(name, Some(mtu)).await?;
        self.must_link(name).await
    }

    async fn add_vxlan(&self, name: &str, want: &Vxlan, mtu: u32) -> Result<()> {
        let mut builder = LinkVxlan::new(name, want.vni)
            .dev(want.underlay)
            .port(want.port)
            .learning(false)
            .mtu(mtu);
        if let Some(local) = want.local {
            builder = builder.local(local);
        }
        self.add_link(builder.build(), name).await
    }

    /// Makes the pair; the container's end starts its life inside the namespace.
    pub async fn add_veth(&self, veth: &Veth<'_>) -> Result<()> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(veth.container)
            .mtu(veth.mtu)
            .address(veth.mac.to_vec())
            .setns_by_fd(veth.netns.file.as_raw_fd())
            .build();
        let message = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Veth)
            .name(veth.host)
            .mtu(veth.mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .up()
            .build();
        self.add_link(message, veth.host).await
    }

    async fn add_link(&self, message: LinkMessage, name: &str) -> Result<()> {
        let request = self.handle.link().add(message);
        request.execute().await.map_err(ctx("add link", name))
    }

    pub async fn delete_link(&self, name: &str) -> Result<()> {
        let Some(link) = self.link(name).await? else {
            return Ok(());
        };
        let request = self.handle.link().del(link.index);
        or_gone(request.execute().await.map_err(ctx("delete link", name)))
    }

    /// Brings the link up, with this MTU when one is given.
    pub async fn ensure_up(&self, name: &str, mtu: Option<u32>) -> Result<()> {
        let link = self.must_link(name).await?;
        let mut builder = LinkUnspec::new_with_index(link.index);
        let wrong_mtu = mtu.filter(|mtu| *mtu != link.mtu);
        if link.up && wrong_mtu.is_none() {
            return Ok(());
        }
        if let Some(mtu) = wrong_mtu {
            builder = builder.mtu(mtu);
        }
        let request = self.handle.link().set(builder.up().build());
        request.execute().await.map_err(ctx("bring up link", name))
    }

    pub async fn ensure_mac(&self, name: &str, mac: [u8; 6]) -> Result<()> {
        let link = self.must_link(name).await?;
        if link.mac == mac {
            return Ok(());
        }
        let message = LinkUnspec::new_with_index(link.index).address(mac.to_vec()).build();
        let request = self.handle.link().set(message);
        request.execute().await.map_err(ctx("set MAC of", name))
    }

    /// Makes the link a port of the bridge, with hairpin on.
    pub async fn attach_to_bridge(&self, port: &str, bridge: &str) -> Result<()> {
        let bridge = self.must_link(bridge).await?;
        let link = self.must_link(port).await?;
        let attach = LinkUnspec::new_with_index(link.index).controller(bridge.index).build();
        let request = self.handle.link().set(attach);
        request.execute().await.map_err(ctx("attach bridge port", port))?;
        let hairpin = LinkBridgePort::new(link.index).hairpin(true).build();
        let request = self.handle.link().set_port(hairpin);
        request.execute().await.map_err(ctx("set hairpin of", port))
    }

    pub async fn addresses(&self) -> Result<Vec<Address>> {
        let found = self.handle.address().get().execute();
        found
            .try_filter_map(async |message| Ok(parse_address(&message)))
            .try_collect()
            .await
            .map_err(ctx("list", "addresses"))
    }

    /// Adds the address; other addresses of the link stay.
    pub async fn ensure_address(&self, name: &str, address: IpNetwork) -> Result<()> {
        let link = self.must_link(name).await?;
        let request = self.handle.address().add(link.index, address.ip(), address.prefix());
        or_exists(request.execute().await.map_err(ctx("add address to", name)))
    }

    /// Makes `address` the only global IPv4 address of the link.
    pub async fn ensure_only_address(&self, name: &str, address: IpNetwork) -> Result<()> {
        let link = self.must_link(name).await?;
        for other in self.addresses().await? {
            let same = other.ip == address.ip() && other.prefix == address.prefix();
            if other.link == link.index
                && other.ip.is_ipv4()
                && !same
                && let Ok(network) = IpNetwork::new(other.ip, other.prefix)
            {
                self.delete_address(name, network).await?;
            }
        }
        self.ensure_address(name, address).await
    }

    pub async fn delete_address(&self, name: &str, address: IpNetwork) -> Result<()> {
        let Some(link) = self.link(name).await? else {
            return Ok(());
        };
        let request = self.handle.address().add(link.index, address.ip(), address.prefix());
        let mut request = request;
        let message = request.message_mut().clone();
        let request = self.handle.address().del(message);
        or_gone(request.execute().await.map_err(ctx("delete address of", name)))
    }
}

fn parse_link(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(mac) => link.mac = mac,
            LinkAttribute::Controller(index) => link.controller = Some(index),
            LinkAttribute::LinkInfo(infos) => parse_info(infos, &mut link),
            _ => {}
        }
    }
    link
}

fn parse_info(infos: Vec<LinkInfo>, link: &mut Link) {
    for info in infos {
        match info {
            LinkInfo::Kind(kind) => link.kind = kind.to_string(),
            LinkInfo::Data(InfoData::Vxlan(fields)) => {
                let mut vxlan = Vxlan::default();
                for field in fields {
                    match field {
                        InfoVxlan::Id(vni) => vxlan.vni = vni,
                        InfoVxlan::Port(port) => vxlan.port = port,
                        InfoVxlan::Link(index) => vxlan.underlay = index,
                        InfoVxlan::Local(local) => vxlan.local = Some(local),
                        _ => {}
                    }
                }
                link.vxlan = Some(vxlan);
            }
            _ => {}
        }
    }
}

fn parse_address(message: &AddressMessage) -> Option<Address> {
    let mut ip = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => ip = Some(*local),
            AddressAttribute::Address(address) => ip = ip.or(Some(*address)),
            _ => {}
        }
    }
    Some(Address {
        link: message.header.index,
        ip: ip?,
        prefix: message.header.prefix_len,
        global: message.header.scope == AddressScope::Universe,
    })
}

/// `aa:bb:cc:dd:ee:ff`.
pub fn format_mac(mac: &[u8]) -> String {
    let parts: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    parts.join(":")
}

/// The opposite of [`format_mac`]; `None` unless it is six bytes.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}
