//! The NETLINK_NETFILTER socket: transactions, requests and dumps.
//!
//! Invariant: the kernel works inside `send`, so every answer is queued when it returns; reading
//! never blocks the thread.

use crate::{Error, Result};
use netlink_packet_netfilter::NetfilterMessage;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use std::io;

/// Whether the request wants one answer or a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    Ack,
    Dump,
}

pub(crate) struct NfSocket {
    socket: Socket,
}

impl NfSocket {
    pub(crate) fn open() -> Result<Self> {
        let open = || {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_non_blocking(true)?;
            Ok(Self { socket })
        };
        open().map_err(failed("netfilter socket"))
    }

    /// Sends the messages in one datagram, which for nf_tables is one transaction, and reports the
    /// first error among the answers.
    pub(crate) fn transact(&self, messages: Vec<(NetfilterMessage, u16)>) -> Result<()> {
        let mut bytes = Vec::new();
        for (sequence, (message, flags)) in (1..).zip(messages) {
            append(&mut bytes, message, flags, sequence);
        }
        let what = "netfilter transaction";
        self.socket.send(&bytes, 0).map_err(failed(what))?;
        let mut acks = 0;
        while let Some(datagram) = self.receive()? {
            for message in split(&datagram) {
                if let Some(source) = error_of(&message) {
                    return Err(failed(what)(source));
                }
                acks += 1;
            }
        }
        match acks {
            0 => Err(failed(what)(io::Error::other("the kernel did not answer"))),
            _ => Ok(()),
        }
    }

    /// Sends one request and hands each answer to `each`.
    pub(crate) fn request(
        &self,
        message: NetfilterMessage,
        want: Want,
        mut each: impl FnMut(NetfilterMessage),
    ) -> Result<()> {
        let what = "netfilter request";
        let flags = match want {
            Want::Ack => NLM_F_ACK,
            Want::Dump => NLM_F_DUMP,
        };
        let mut bytes = Vec::new();
        append(&mut bytes, message, flags, 1);
        self.socket.send(&bytes, 0).map_err(failed(what))?;
        while let Some(datagram) = self.receive()? {
            for message in split(&datagram) {
                if let Some(source) = error_of(&message) {
                    return Err(failed(what)(source));
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => each(inner),
                    NetlinkPayload::Done(_) => return Ok(()),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn receive(&self) -> Result<Option<Vec<u8>>> {
        match self.socket.recv_from_full() {
            Ok((datagram, _)) => Ok(Some(datagram)),
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(err) => Err(failed("netfilter answer")(err)),
        }
    }
}

fn append(bytes: &mut Vec<u8>, message: NetfilterMessage, flags: u16, sequence: u32) {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | flags;
    message.header.sequence_number = sequence;
    message.finalize();
    let start = bytes.len();
    bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut bytes[start..]);
}

/// The messages of a datagram; what does not parse is left out.
fn split(datagram: &[u8]) -> Vec<NetlinkMessage<NetfilterMessage>> {
    let mut messages = Vec::new();
    let mut rest = datagram;
    while rest.len() >= 16 {
        let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        if length < 16 || length > rest.len() {
            break;
        }
        if let Ok(message) = NetlinkMessage::deserialize(&rest[..length]) {
            messages.push(message);
        }
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
    }
    messages
}

fn error_of(message: &NetlinkMessage<NetfilterMessage>) -> Option<io::Error> {
    match &message.payload {
        NetlinkPayload::Error(error) if error.raw_code() != 0 => Some(error.to_io()),
        _ => None,
    }
}

fn failed(what: &str) -> impl FnOnce(io::Error) -> Error {
    let what = what.to_string();
    move |source| Error::Kernel { what, source }
}
