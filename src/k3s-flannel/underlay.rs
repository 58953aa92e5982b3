//! Which link and address carry the traffic between nodes.
//!
//! A pure choice from what the kernel says. Invariant: our own links are never chosen.

use crate::mesh::VXLAN;
use crate::network::BRIDGE;
use netlink::Netlink;
use netlink::link::{Address, Link};
use std::net::{IpAddr, Ipv4Addr};

/// The choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underlay {
    pub link: u32,
    pub name: String,
    pub ip: Ipv4Addr,
    pub mtu: u32,
}

/// What the administrator said about it.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    pub node_ip: Option<Ipv4Addr>,
    pub iface: Option<String>,
}

pub async fn find(netlink: &Netlink, wish: &Wish) -> netlink::Result<Option<Underlay>> {
    let links = netlink.links().await?;
    let addresses = netlink.addresses().await?;
    let default = netlink.default_link().await?;
    Ok(choose(&links, &addresses, default, wish))
}

/// The wished address or link, else the link of the default route, else the first that has a global
/// address.
pub fn choose(
    links: &[Link],
    addresses: &[Address],
    default: Option<u32>,
    wish: &Wish,
) -> Option<Underlay> {
    let usable =
        |name: &str| name != "lo" && name != BRIDGE && name != VXLAN && !name.starts_with("veth");
    let wished_link = wish.iface.as_deref();
    let candidates = addresses.iter().filter_map(|address| {
        let IpAddr::V4(ip) = address.ip else {
            return None;
        };
        let link = links.iter().find(|link| link.index == address.link)?;
        let wished = wish.node_ip == Some(ip) && wished_link.is_none_or(|name| name == link.name);
        let named = wished_link == Some(link.name.as_str());
        let rank = match (wished, named, usable(&link.name) && address.global) {
            (true, ..) => 0,
            (_, true, _) => 1,
            (.., true) if wished_link.is_some() => return None,
            (.., true) if Some(link.index) == default => 2,
            (.., true) if link.up => 3,
            _ => return None,
        };
        Some((rank, link, ip))
    });
    let (_, link, ip) = candidates.min_by_key(|(rank, link, _)| (*rank, link.index))?;
    Some(Underlay { link: link.index, name: link.name.clone(), ip, mtu: link.mtu })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> (Vec<Link>, Vec<Address>) {
        let names = [(1, "lo"), (2, "eth0"), (3, "eth1"), (4, BRIDGE)];
        let link = |(index, name): (u32, &str)| Link {
            index,
            name: name.into(),
            mtu: 1500,
            up: true,
            ..Link::default()
        };
        let address = |link, last| Address {
            link,
            ip: IpAddr::from([192, 0, 2, last]),
            prefix: 24,
            global: true,
        };
        let addresses = vec![address(4, 9), address(2, 2), address(3, 3), address(3, 4)];
        (names.map(link).to_vec(), addresses)
    }

    fn check(
        default: Option<u32>,
        node_ip: Option<u8>,
        iface: Option<&str>,
        want: Option<(&str, u8)>,
    ) {
        let (links, addresses) = world();
        let wish = Wish {
            node_ip: node_ip.map(|last| Ipv4Addr::new(192, 0, 2, last)),
            iface: iface.map(str::to_string),
        };
        let got = choose(&links, &addresses, default, &wish);
        let got = got.map(|underlay| (underlay.name, underlay.ip.octets()[3]));
        assert_eq!(got, want.map(|(name, last)| (name.to_string(), last)));
    }

    #[test]
    fn wishes_come_before_the_default_route() {
        check(None, None, None, Some(("eth0", 2)));
        check(Some(3), None, None, Some(("eth1", 3)));
        check(Some(2), Some(4), None, Some(("eth1", 4)));
        check(Some(2), None, Some("eth1"), Some(("eth1", 3)));
        check(Some(2), None, Some("nosuch"), None);
        check(Some(2), Some(77), None, Some(("eth0", 2)));
    }
}
