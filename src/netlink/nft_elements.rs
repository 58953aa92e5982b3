//! Elements of nftables sets and maps, changed one by one without running `nft`.
//!
//! Invariant: one call is one transaction; on an error the kernel holds what it held before.

use crate::batch::{NfSocket, Want};
use crate::nft::TableName;
use crate::{Error, Result};
use netlink_packet_netfilter::nftables::{
    DataAttribute, ListAttribute, NfTablesMessage, SetElementAttribute, SetElementList,
    SetElementMessage, Verdict, VerdictAttribute,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use nftables::types::NfFamily;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE};
use std::net::IpAddr;

/// The nf_tables subsystem in the batch markers.
const SUBSYSTEM: u16 = 10;
/// Elements per message, so that the nested attribute stays far below its 64 KiB.
const CHUNK: usize = 256;

/// What a key is mapped to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    /// A member of a plain set.
    Member,
    Value(Vec<u8>),
    /// `goto CHAIN`.
    Goto(String),
}

/// One element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    pub set: String,
    pub key: Vec<u8>,
    pub data: Data,
}

/// One step of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    Add(Element),
    Delete(Element),
}

/// Glues fields as the kernel does for concatenated types: each padded to four bytes.
pub fn concat(fields: &[Field]) -> Vec<u8> {
    let mut key = Vec::with_capacity(16);
    for field in fields {
        match field {
            Field::Ip(IpAddr::V4(ip)) => key.extend(ip.octets()),
            Field::Ip(IpAddr::V6(ip)) => key.extend(ip.octets()),
            Field::Protocol(number) => key.extend([*number, 0, 0, 0]),
            Field::Port(port) => {
                key.extend(port.to_be_bytes());
                key.extend([0, 0]);
            }
        }
    }
    key
}

/// A part of a concatenated key or value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    Ip(IpAddr),
    Protocol(u8),
    Port(u16),
}

/// The key of a set whose type is one field: no padding.
pub fn single(field: Field) -> Vec<u8> {
    match field {
        Field::Ip(_) => concat(&[field]),
        Field::Protocol(number) => vec![number],
        Field::Port(port) => port.to_be_bytes().to_vec(),
    }
}

/// Applies the changes in order, as one transaction.
pub fn apply(table: TableName, changes: &[Change]) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let mut messages = vec![(marker(ControlMessage::BatchBegin), 0)];
    for run in changes.chunk_by(|a, b| target(a) == target(b)) {
        for chunk in run.chunks(CHUNK) {
            let (_, set) = target(&chunk[0]);
            let elements = chunk.iter().map(|change| encode(element(change)));
            let list = SetElementMessage {
                attributes: vec![
                    SetElementList::Table(table.name.into()),
                    SetElementList::Set(set.into()),
                    SetElementList::Elements(elements.collect()),
                ],
            };
            let (message, flags) = match chunk[0] {
                Change::Add(_) => (NfTablesMessage::NewSetElement(list), NLM_F_CREATE),
                Change::Delete(_) => (NfTablesMessage::DeleteSetElement(list), 0),
            };
            let message = NetfilterMessage::new(header(table), message);
            messages.push((message, flags | NLM_F_ACK));
        }
    }
    messages.push((marker(ControlMessage::BatchEnd), 0));
    NfSocket::open()?.transact(messages)
}

/// The keys that are in the set now.
pub fn keys(table: TableName, set: &str) -> Result<Vec<Vec<u8>>> {
    let list = SetElementMessage {
        attributes: vec![SetElementList::Table(table.name.into()), SetElementList::Set(set.into())],
    };
    let request = NetfilterMessage::new(header(table), NfTablesMessage::GetSetElement(list));
    let mut keys = Vec::new();
    NfSocket::open()?.request(request, Want::Dump, |answer| collect(answer, &mut keys))?;
    Ok(keys)
}

fn collect(answer: NetfilterMessage, keys: &mut Vec<Vec<u8>>) {
    let NetfilterMessageInner::NfTables(NfTablesMessage::NewSetElement(list)) = answer.inner else {
        return;
    };
    for attribute in list.attributes {
        let SetElementList::Elements(elements) = attribute else {
            continue;
        };
        for element in elements {
            let ListAttribute::Element(fields) = element else {
                continue;
            };
            for field in fields {
                if let SetElementAttribute::Key(DataAttribute::Value(key)) = field {
                    keys.push(key);
                }
            }
        }
    }
}

/// The set or table is gone, or the element is not as expected: describe the whole table again.
pub fn needs_resync(err: &Error) -> bool {
    !matches!(err, Error::Nft(_))
}

fn element(change: &Change) -> &Element {
    match change {
        Change::Add(element) | Change::Delete(element) => element,
    }
}

fn target(change: &Change) -> (bool, &str) {
    (matches!(change, Change::Add(_)), &element(change).set)
}

fn encode(element: &Element) -> ListAttribute<SetElementAttribute> {
    let key = DataAttribute::Value(element.key.clone());
    let mut fields = vec![SetElementAttribute::Key(key)];
    match &element.data {
        Data::Member => {}
        Data::Value(value) => {
            fields.push(SetElementAttribute::Data(DataAttribute::Value(value.clone())));
        }
        Data::Goto(chain) => {
            fields.push(SetElementAttribute::Data(DataAttribute::Verdict(vec![
                VerdictAttribute::Code(Verdict::Goto),
                VerdictAttribute::Chain(chain.clone()),
            ])));
        }
    }
    ListAttribute::Element(fields)
}

fn marker(message: ControlMessage) -> NetfilterMessage {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, SUBSYSTEM);
    NetfilterMessage::new(header, message)
}

fn header(table: TableName) -> NetfilterHeader {
    let family = match table.family {
        NfFamily::IP6 => NetfilterProtoFamily::IPv6,
        NfFamily::INet => NetfilterProtoFamily::Inet,
        _ => NetfilterProtoFamily::IPv4,
    };
    NetfilterHeader::new(family, 0, 0)
}
