//! IPv4 routes in the main table, told apart by their protocol number.
//!
//! Invariant: only routes that carry the caller's [`Owner`] are listed or deleted.

use crate::{Ipv4Network, Netlink, Result, ctx, or_gone};
use futures::TryStreamExt;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope,
};
use std::net::Ipv4Addr;

/// The protocol number that marks routes as ours (`ip route show proto N`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner(pub u8);

/// Protocol number of ordinary routes that nobody reconciles.
pub const STATIC: Owner = Owner(4);

/// One route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    pub destination: Ipv4Network,
    /// Index of the link the packets leave by.
    pub link: u32,
    pub via: Via,
}

/// How the destination is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Via {
    /// On the link itself.
    Link,
    Gateway(Ipv4Addr),
    /// A gateway that need not be in a subnet of the link.
    Onlink(Ipv4Addr),
}

impl Netlink {
    pub async fn ensure_route(&self, route: &Route, owner: Owner) -> Result<()> {
        let what = route.destination.to_string();
        let request = self.handle.route().add(message(route, owner)).replace();
        request.execute().await.map_err(ctx("set route", &what))
    }

    pub async fn delete_route(&self, route: &Route, owner: Owner) -> Result<()> {
        let what = route.destination.to_string();
        let request = self.handle.route().del(message(route, owner));
        or_gone(request.execute().await.map_err(ctx("delete route", &what)))
    }

    /// The IPv4 routes marked with `owner`.
    pub async fn routes(&self, owner: Owner) -> Result<Vec<Route>> {
        let all = self.all_routes().await?;
        let ours =
            |message: &&RouteMessage| message.header.protocol == RouteProtocol::from(owner.0);
        Ok(all.iter().filter(ours).filter_map(parse).collect())
    }

    /// Index of the link with the default IPv4 route, the one with the lowest metric.
    pub async fn default_link(&self) -> Result<Option<u32>> {
        let all = self.all_routes().await?;
        let defaults = all.iter().filter(|message| {
            message.header.destination_prefix_length == 0 && parse(message).is_some()
        });
        let metric = |message: &&RouteMessage| {
            let found = message.attributes.iter().find_map(|a| match a {
                RouteAttribute::Priority(metric) => Some(*metric),
                _ => None,
            });
            found.unwrap_or(0)
        };
        Ok(defaults.min_by_key(metric).and_then(parse).map(|route| route.link))
    }

    async fn all_routes(&self) -> Result<Vec<RouteMessage>> {
        let filter = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let found = self.handle.route().get(filter).execute();
        found.try_collect().await.map_err(ctx("list", "routes"))
    }
}

fn message(route: &Route, owner: Owner) -> RouteMessage {
    let builder = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(route.destination.network(), route.destination.prefix())
        .output_interface(route.link)
        .protocol(RouteProtocol::from(owner.0));
    let builder = match route.via {
        Via::Link => builder.scope(RouteScope::Link),
        Via::Gateway(gateway) => builder.gateway(gateway),
        Via::Onlink(gateway) => builder.gateway(gateway).onlink(),
    };
    builder.build()
}

fn parse(message: &RouteMessage) -> Option<Route> {
    use rtnetlink::packet_route::route::RouteFlags;
    let (mut ip, mut link, mut gateway) = (Ipv4Addr::UNSPECIFIED, None, None);
    let mut main_table = message.header.table == 254;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(to)) => ip = *to,
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(via)) => gateway = Some(*via),
            RouteAttribute::Table(table) => main_table = *table == 254,
            _ => {}
        }
    }
    let via = match gateway {
        None => Via::Link,
        Some(via) if message.header.flags.contains(RouteFlags::Onlink) => Via::Onlink(via),
        Some(via) => Via::Gateway(via),
    };
    let prefix = message.header.destination_prefix_length;
    let destination = Ipv4Network::new(ip, prefix).ok()?;
    main_table.then_some(Route { destination, link: link?, via })
}
