//! The table `ip k3s-flannel`: masquerading of what leaves the pod network, and no redirects.
//!
//! Invariant: the table is a pure function of two address ranges and is replaced whole.

use crate::network::BRIDGE;
use ipnetwork::Ipv4Network;
use netlink::nft::{TableName, replacement};
use nftables::batch::Batch;
use nftables::expr::{Expression, NamedExpression, Payload, PayloadField, Prefix};
use nftables::schema::{Chain, NfListObject, Nftables, Rule};
use nftables::stmt::{Match, NAT, NATFlag, Operator, Statement};
use nftables::types::{NfChainType, NfHook};
use std::borrow::Cow;
use std::collections::HashSet;

pub const TABLE: TableName = TableName::ip("k3s-flannel");

/// ```text
/// chain postrouting { type nat hook postrouting priority srcnat;
///     ip saddr CLUSTER ip daddr CLUSTER return
///     ip saddr CLUSTER ip daddr != 224.0.0.0/4 masquerade fully-random
///     ip saddr != CLUSTER ip daddr NODE return
///     ip saddr != CLUSTER ip daddr CLUSTER masquerade fully-random
/// }
/// chain forward { type filter hook forward priority filter;
///     ip saddr CLUSTER accept
///     ip daddr CLUSTER accept
/// }
/// chain output { type filter hook output priority filter;
///     oifname "cni0" icmp type redirect drop
/// }
/// ```
/// Pods hold a /32, so the node routes between pods of one bridge; a redirect would teach them a
/// way around service translation.
pub fn table(cluster: Ipv4Network, node: Ipv4Network) -> Nftables<'static> {
    let mut batch = replacement(TABLE);
    chain(&mut batch, "postrouting", NfChainType::NAT, NfHook::Postrouting, 100);
    chain(&mut batch, "forward", NfChainType::Filter, NfHook::Forward, 0);
    chain(&mut batch, "output", NfChainType::Filter, NfHook::Output, 0);
    let multicast = Ipv4Network::new([224, 0, 0, 0].into(), 4).expect("4 is a valid prefix length");
    let from = |op| address("saddr", op, cluster);
    let (is, is_not) = (Operator::EQ, Operator::NEQ);
    let rules = [
        ("postrouting", vec![from(is), address("daddr", is, cluster), ret()]),
        ("postrouting", vec![from(is), address("daddr", is_not, multicast), masquerade()]),
        ("postrouting", vec![from(is_not), address("daddr", is, node), ret()]),
        ("postrouting", vec![from(is_not), address("daddr", is, cluster), masquerade()]),
        ("forward", vec![from(is), Statement::Accept(None)]),
        ("forward", vec![address("daddr", is, cluster), Statement::Accept(None)]),
        ("output", no_redirects()),
    ];
    for (chain, statements) in rules {
        let rule = Rule {
            family: TABLE.family,
            table: TABLE.name.into(),
            chain: chain.into(),
            expr: statements.into(),
            ..Rule::default()
        };
        batch.add(NfListObject::Rule(rule));
    }
    batch.to_nftables()
}

fn chain(
    batch: &mut Batch<'static>,
    name: &'static str,
    kind: NfChainType,
    hook: NfHook,
    prio: i32,
) {
    batch.add(NfListObject::Chain(Chain {
        family: TABLE.family,
        table: TABLE.name.into(),
        name: name.into(),
        _type: Some(kind),
        hook: Some(hook),
        prio: Some(prio),
        ..Chain::default()
    }));
}

fn field(protocol: &'static str, field: &'static str) -> Expression<'static> {
    let payload = PayloadField { protocol: Cow::Borrowed(protocol), field: Cow::Borrowed(field) };
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(payload)))
}

fn address(name: &'static str, op: Operator, network: Ipv4Network) -> Statement<'static> {
    let addr = Expression::String(network.network().to_string().into());
    let right = Expression::Named(NamedExpression::Prefix(Prefix {
        addr: Box::new(addr),
        len: network.prefix().into(),
    }));
    let left = field("ip", name);
    Statement::Match(Match { left, right, op })
}

fn ret() -> Statement<'static> {
    Statement::Return(None)
}

fn masquerade() -> Statement<'static> {
    let flags = HashSet::from([NATFlag::FullyRandom]);
    Statement::Masquerade(Some(NAT { addr: None, family: None, port: None, flags: Some(flags) }))
}

fn no_redirects() -> Vec<Statement<'static>> {
    use nftables::expr::{Meta, MetaKey};
    let key = MetaKey::Oifname;
    let out = Match {
        left: Expression::Named(NamedExpression::Meta(Meta { key })),
        right: Expression::String(BRIDGE.into()),
        op: Operator::EQ,
    };
    let redirect = Match {
        left: field("icmp", "type"),
        right: Expression::String("redirect".into()),
        op: Operator::EQ,
    };
    vec![Statement::Match(out), Statement::Match(redirect), Statement::Drop(None)]
}
