//! Connection tracking entries.
//!
//! Invariant: only entries that the caller's test accepts are deleted.

use crate::batch::{NfSocket, Want};
use crate::{Result, or_gone};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol, Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use std::net::IpAddr;

/// The ends of one tracked flow, as far as address translation cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    pub udp: bool,
    /// Where the client sent its packets.
    pub to: (IpAddr, u16),
    /// Who answers: the endpoint behind `to`.
    pub from: (IpAddr, u16),
}

/// The address family to look through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// Deletes the entries that `stale` accepts and says how many there were.
pub fn delete(family: Family, stale: impl Fn(&Flow) -> bool) -> Result<usize> {
    let family = match family {
        Family::V4 => NetfilterProtoFamily::IPv4,
        Family::V6 => NetfilterProtoFamily::IPv6,
    };
    let message = |inner| NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), inner);
    let socket = NfSocket::open()?;
    let mut found = Vec::new();
    let list = message(ConntrackMessage::Get(Vec::new()));
    socket.request(list, Want::Dump, |answer| {
        let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = answer.inner
        else {
            return;
        };
        if let Some((flow, original)) = parse(attributes)
            && stale(&flow)
        {
            found.push(original);
        }
    })?;
    for original in &found {
        let attributes = vec![ConntrackAttribute::CtaTupleOrig(original.clone())];
        let delete = message(ConntrackMessage::Delete(attributes));
        or_gone(socket.request(delete, Want::Ack, |_| {}))?;
    }
    Ok(found.len())
}

fn parse(attributes: Vec<ConntrackAttribute>) -> Option<(Flow, Vec<Tuple>)> {
    let (mut original, mut reply) = (None, None);
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuples) => original = Some(tuples),
            ConntrackAttribute::CtaTupleReply(tuples) => reply = Some(tuples),
            _ => {}
        }
    }
    let original = original?;
    let there = ends(&original);
    let back = ends(&reply?);
    let flow = Flow {
        udp: there.udp,
        to: (there.destination?, there.destination_port?),
        from: (back.source?, back.source_port?),
    };
    Some((flow, original))
}

#[derive(Default)]
struct Ends {
    udp: bool,
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    source_port: Option<u16>,
    destination_port: Option<u16>,
}

fn ends(tuples: &[Tuple]) -> Ends {
    let mut ends = Ends::default();
    for tuple in tuples {
        match tuple {
            Tuple::Ip(addresses) => {
                for address in addresses {
                    match address {
                        IPTuple::SourceAddress(ip) => ends.source = Some(*ip),
                        IPTuple::DestinationAddress(ip) => ends.destination = Some(*ip),
                        _ => {}
                    }
                }
            }
            Tuple::Proto(parts) => {
                for part in parts {
                    match part {
                        ProtoTuple::Protocol(protocol) => ends.udp = *protocol == Protocol::Udp,
                        ProtoTuple::SourcePort(port) => ends.source_port = Some(*port),
                        ProtoTuple::DestinationPort(port) => ends.destination_port = Some(*port),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    ends
}
