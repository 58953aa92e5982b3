//! What the kernel makes of our requests, in namespaces of our own.

#![allow(clippy::unwrap_used)]

use netlink::conntrack::{self, Family, Flow};
use netlink::link::Vxlan;
use netlink::neighbour::{Neighbour, Table};
use netlink::nft_elements::{self, Change, Data, Element, Field, concat};
use netlink::route::{Owner, Route, Via};
use netlink::scratch::Scratch;
use netlink::{Netlink, drive, nft};
use nftables::schema::{Map, NfListObject, SetType, SetTypeValue};
use std::net::Ipv4Addr;

#[test]
fn a_tunnel_with_its_entries_can_be_made_twice_and_read_back() {
    let Some(ns) = Scratch::new("tunnel") else { return };
    ns.sh("ip link add up0 type veth peer name up1; ip addr add 192.0.2.1/24 dev up0; ip link set up0 up");
    ns.block_on(async || {
        let (netlink, driver) = Netlink::connect().unwrap();
        drive(driver, tunnel(&netlink)).await.unwrap();
    });
}

async fn tunnel(netlink: &Netlink) -> netlink::Result<()> {
    let underlay = netlink.must_link("up0").await?.index;
    let want = Vxlan { vni: 1, port: 8472, local: Some(Ipv4Addr::new(192, 0, 2, 1)), underlay };
    let first = netlink.ensure_vxlan("flannel.1", &want, 1450).await?;
    let second = netlink.ensure_vxlan("flannel.1", &want, 1450).await?;
    assert_eq!(first.mac, second.mac);
    assert_eq!((second.mtu, second.up), (1450, true));
    let link = second.index;
    let entry = Neighbour { ip: Ipv4Addr::new(192, 0, 2, 2), mac: [2, 0, 0, 0, 0, 1] };
    for table in [Table::Arp, Table::Fdb] {
        netlink.ensure_neighbour(link, table, entry).await?;
        netlink.ensure_neighbour(link, table, entry).await?;
        assert_eq!(netlink.neighbours(link, table).await?, [entry]);
        netlink.delete_neighbour(link, table, entry).await?;
        netlink.delete_neighbour(link, table, entry).await?;
        assert_eq!(netlink.neighbours(link, table).await?, []);
    }
    let destination = "10.42.1.0/24".parse().unwrap();
    let via = Via::Onlink(Ipv4Addr::new(10, 42, 1, 0));
    let route = Route { destination, link, via };
    let ours = Owner(107);
    netlink.ensure_route(&route, ours).await?;
    netlink.ensure_route(&route, ours).await?;
    assert_eq!(netlink.routes(ours).await?, std::slice::from_ref(&route));
    assert_eq!(netlink.routes(Owner(99)).await?, []);
    netlink.delete_route(&route, ours).await?;
    netlink.delete_route(&route, ours).await?;
    let moved = Vxlan { port: 8473, ..want };
    let third = netlink.ensure_vxlan("flannel.1", &moved, 1400).await?;
    assert_eq!(third.vxlan, Some(moved));
    netlink.delete_link("flannel.1").await?;
    netlink.delete_link("flannel.1").await
}

const TABLE: nft::TableName = nft::TableName::ip("probe");

#[test]
fn elements_change_in_one_transaction_or_not_at_all() {
    let Some(ns) = Scratch::new("elements") else { return };
    ns.block_on(async || {
        nft::apply(&skeleton()).await.unwrap();
        let element = |last: u8| Element {
            set: "svcs".into(),
            key: concat(&[
                Field::Ip([10, 43, 0, last].into()),
                Field::Protocol(6),
                Field::Port(80),
            ]),
            data: Data::Value(vec![10, 42, 0, last]),
        };
        let many: Vec<Change> = (1..=250).map(|last| Change::Add(element(last))).collect();
        nft_elements::apply(TABLE, &many).unwrap();
        assert_eq!(nft_elements::keys(TABLE, "svcs").unwrap().len(), 250);
        let missing = Element {
            key: concat(&[Field::Ip([10, 43, 9, 9].into()), Field::Protocol(6), Field::Port(1)]),
            ..element(1)
        };
        let half = [Change::Delete(element(1)), Change::Delete(missing)];
        let err = nft_elements::apply(TABLE, &half).unwrap_err();
        assert!(err.is_gone(), "{err}");
        assert_eq!(nft_elements::keys(TABLE, "svcs").unwrap().len(), 250);
        // One key can change its value within a transaction.
        let swap = [Change::Delete(element(1)), Change::Add(element(1))];
        nft_elements::apply(TABLE, &swap).unwrap();
    });
    let listed = ns.sh("nft list table ip probe");
    assert!(listed.contains("10.43.0.1 . tcp . 80 : 10.42.0.1"), "{listed}");
    ns.block_on(async || {
        nft::delete_table(TABLE).await.unwrap();
        nft::delete_table(TABLE).await.unwrap();
    });
    assert_eq!(ns.sh("nft list ruleset"), "");
}

fn skeleton() -> nftables::schema::Nftables<'static> {
    let mut batch = nft::replacement(TABLE);
    let types = vec![SetType::Ipv4Addr, SetType::InetProto, SetType::InetService];
    batch.add(NfListObject::Map(Box::new(Map {
        family: TABLE.family,
        table: TABLE.name.into(),
        name: "svcs".into(),
        set_type: SetTypeValue::Concatenated(types.into()),
        map: SetTypeValue::Single(SetType::Ipv4Addr),
        ..Map::default()
    })));
    batch.to_nftables()
}

#[test]
fn only_the_flows_that_are_meant_are_ended() {
    let Some(ns) = Scratch::new("flows") else { return };
    // Connections are tracked once a rule asks for it.
    let rule =
        "table ip t { chain c { type filter hook output priority 0; ct state new accept; }; }";
    assert_eq!(ns.sh(&format!("ip link set lo up; echo '{rule}' | nft -f -")), "");
    ns.block_on(async || {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for port in [5301, 5302] {
            socket.send_to(b"x", ("127.0.0.1", port)).unwrap();
        }
        let to =
            |port: u16| move |flow: &Flow| flow.udp && flow.to.1 == port && flow.from.1 == port;
        assert_eq!(conntrack::delete(Family::V4, |_| false).unwrap(), 0);
        assert_eq!(conntrack::delete(Family::V4, to(5301)).unwrap(), 1);
        assert_eq!(conntrack::delete(Family::V4, to(5301)).unwrap(), 0);
        assert_eq!(conntrack::delete(Family::V4, to(5302)).unwrap(), 1);
        assert_eq!(conntrack::delete(Family::V6, |_| true).unwrap(), 0);
    });
}
