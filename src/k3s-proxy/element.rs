//! Elements of the proxy's sets and maps, in the two forms that the kernel is told them: bytes for
//! one change, nft's language for a whole table.
//!
//! Invariant: both forms mean the same key.

use crate::objects::Protocol;
use netlink::nft_elements::{Data, Element, Field, concat};
use std::fmt::Write;
use std::net::IpAddr;

/// Which of the two tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// What a packet is looked up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// `ip daddr . meta l4proto . th dport`
    Address(IpAddr, Protocol, u16),
    /// `meta l4proto . th dport`
    Port(Protocol, u16),
    /// `ip saddr . ip daddr`, both the same
    Self_(IpAddr),
}

/// What is found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Found {
    Member,
    Goto(String),
    Endpoint(IpAddr, u16),
}

/// One element of one set of one table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    pub family: Family,
    pub set: String,
    pub key: Key,
}

impl Key {
    pub fn bytes(&self) -> Vec<u8> {
        match *self {
            Self::Address(ip, protocol, port) => {
                concat(&[Field::Ip(ip), Field::Protocol(protocol.number()), Field::Port(port)])
            }
            Self::Port(protocol, port) => {
                concat(&[Field::Protocol(protocol.number()), Field::Port(port)])
            }
            Self::Self_(ip) => concat(&[Field::Ip(ip), Field::Ip(ip)]),
        }
    }

    pub fn write(&self, text: &mut String) {
        let written = match *self {
            Self::Address(ip, protocol, port) => {
                write!(text, "{ip} . {} . {port}", protocol.name())
            }
            Self::Port(protocol, port) => write!(text, "{} . {port}", protocol.name()),
            Self::Self_(ip) => write!(text, "{ip} . {ip}"),
        };
        written.expect("writing to a string cannot fail");
    }
}

impl Found {
    /// What follows the key.
    pub fn write(&self, text: &mut String) {
        let written = match self {
            Self::Member => Ok(()),
            Self::Goto(chain) => write!(text, " : goto {chain}"),
            Self::Endpoint(ip, port) => write!(text, " : {ip} . {port}"),
        };
        written.expect("writing to a string cannot fail");
    }
}

impl Slot {
    pub fn element(&self, found: &Found) -> Element {
        let data = match found {
            Found::Member => Data::Member,
            Found::Goto(chain) => Data::Goto(chain.clone()),
            Found::Endpoint(ip, port) => Data::Value(concat(&[Field::Ip(*ip), Field::Port(*port)])),
        };
        Element { set: self.set.clone(), key: self.key.bytes(), data }
    }
}
