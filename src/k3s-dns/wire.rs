//! From the bytes of a query to the bytes of a response. No sockets, no clock.
//!
//! Invariant: any bytes give a valid response, a question for upstream, or silence; never a panic,
//! and never a response to a response.

use crate::zone::{Found, Zone, alias};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};

/// What we say that we can take over UDP: no fragments on any usual link.
const PAYLOAD_MAX: u16 = 1232;
const PAYLOAD_PLAIN: u16 = 512;
const ALIASES_MAX: usize = 8;

/// How the query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// What to do with a query.
#[derive(Debug)]
pub enum Step {
    Respond(Vec<u8>),
    /// Ask upstream, then [`finish`].
    Ask(Box<Pending>),
    Ignore,
}

/// A query that waits for upstream.
#[derive(Debug)]
pub struct Pending {
    query: Message,
    /// Aliases of ours that led to the question.
    answers: Vec<Record>,
    pub question: Query,
    pub transport: Transport,
}

/// `zone` is absent while the caches are not complete.
pub fn handle(bytes: &[u8], zone: Option<&Zone>, domain: &Name, transport: Transport) -> Step {
    let query = match Message::from_vec(bytes) {
        Ok(query) => query,
        Err(_) => return unreadable(bytes),
    };
    if query.metadata.message_type != MessageType::Query {
        return Step::Ignore;
    }
    if query.metadata.op_code != OpCode::Query {
        return refuse(&query, ResponseCode::NotImp, transport);
    }
    if query.version() > 0 {
        return refuse(&query, ResponseCode::BADVERS, transport);
    }
    let [question] = query.queries.as_slice() else {
        return refuse(&query, ResponseCode::FormErr, transport);
    };
    let question = question.clone();
    let transfer = matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR);
    if question.query_class() != DNSClass::IN || transfer {
        return refuse(&query, ResponseCode::Refused, transport);
    }
    match zone {
        Some(zone) => resolve(query, question, zone, transport),
        None if domain.zone_of(question.name()) => {
            refuse(&query, ResponseCode::ServFail, transport)
        }
        None => ask(query, question, Vec::new(), transport),
    }
}

fn resolve(query: Message, question: Query, zone: &Zone, transport: Transport) -> Step {
    let kind = question.query_type();
    let mut name = question.name().clone();
    let mut answers = Vec::new();
    for _ in 0..ALIASES_MAX {
        let mut response = start(&query);
        response.metadata.authoritative = true;
        match zone.lookup(&name, kind) {
            Found::Records { answers: found, additionals } => {
                answers.extend(found);
                response.add_answers(answers);
                response.add_additionals(additionals);
                return Step::Respond(encode(response, &query, transport));
            }
            Found::Alias(target) => {
                answers.push(alias(&name, &target));
                if kind == RecordType::CNAME {
                    response.add_answers(answers);
                    return Step::Respond(encode(response, &query, transport));
                }
                name = target;
            }
            Found::Elsewhere => {
                let question = Query::query(name, kind);
                return ask(query, question, answers, transport);
            }
            nothing => {
                if nothing == Found::NoSuchName {
                    response.metadata.response_code = ResponseCode::NXDomain;
                }
                response.add_answers(answers);
                response.add_authority(zone.soa());
                return Step::Respond(encode(response, &query, transport));
            }
        }
    }
    refuse(&query, ResponseCode::ServFail, transport)
}

fn ask(query: Message, question: Query, answers: Vec<Record>, transport: Transport) -> Step {
    if !query.metadata.recursion_desired {
        return refuse(&query, ResponseCode::Refused, transport);
    }
    Step::Ask(Box::new(Pending { query, answers, question, transport }))
}

/// The response from what upstream said; `None` if nobody said anything.
pub fn finish(pending: Pending, upstream: Option<Message>) -> Vec<u8> {
    let query = &pending.query;
    let mut response = start(query);
    match upstream {
        None => response.metadata.response_code = ResponseCode::ServFail,
        Some(upstream) => {
            response.metadata.response_code = upstream.metadata.response_code;
            response.metadata.authentic_data = upstream.metadata.authentic_data;
            response.add_answers(pending.answers);
            response.add_answers(upstream.answers);
            response.add_authorities(upstream.authorities);
            response.add_additionals(upstream.additionals);
        }
    }
    encode(response, query, pending.transport)
}

fn refuse(query: &Message, code: ResponseCode, transport: Transport) -> Step {
    let mut response = start(query);
    response.metadata.response_code = code;
    Step::Respond(encode(response, query, transport))
}

/// A message that looks like a query as far as its header goes gets a format error.
fn unreadable(bytes: &[u8]) -> Step {
    let [a, b, flags, ..] = bytes else {
        return Step::Ignore;
    };
    let is_response = flags & 0x80 != 0;
    if bytes.len() < 12 || is_response {
        return Step::Ignore;
    }
    let id = u16::from_be_bytes([*a, *b]);
    let response = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
    match response.to_vec() {
        Ok(bytes) => Step::Respond(bytes),
        Err(_) => Step::Ignore,
    }
}

fn start(query: &Message) -> Message {
    let mut response = Message::response(query.metadata.id, query.metadata.op_code);
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.metadata.checking_disabled = query.metadata.checking_disabled;
    response.add_queries(query.queries.iter().cloned());
    if let Some(asked) = &query.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD_MAX);
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        response.set_edns(edns);
    }
    response
}

/// Leaves out what does not fit: first what is only helpful, then answers, with the mark that tells
/// the client to come back over TCP.
fn encode(mut response: Message, query: &Message, transport: Transport) -> Vec<u8> {
    let room = match (transport, &query.edns) {
        (Transport::Tcp, _) => usize::from(u16::MAX),
        (Transport::Udp, None) => PAYLOAD_PLAIN.into(),
        (Transport::Udp, Some(edns)) => edns.max_payload().clamp(PAYLOAD_PLAIN, PAYLOAD_MAX).into(),
    };
    loop {
        match response.to_vec() {
            Ok(bytes) if bytes.len() <= room => return bytes,
            Ok(_) if !response.additionals.is_empty() => response.additionals.clear(),
            Ok(_) if !response.answers.is_empty() => {
                response.metadata.truncation = true;
                response.authorities.clear();
                let keep = response.answers.len() * 3 / 4;
                response.answers.truncate(keep);
            }
            // Not even the question fits or it cannot be written: the header alone.
            _ => {
                let (id, code) = (response.metadata.id, ResponseCode::ServFail);
                let bare = Message::error_msg(id, OpCode::Query, code);
                return bare.to_vec().unwrap_or_default();
            }
        }
    }
}
