//! Answers from upstream, remembered for as long as they allow, but not long.
//!
//! Invariant: bounded; a full cache forgets everything rather than growing.

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use std::collections::HashMap;
use std::time::{Duration, Instant};

const ENTRIES_MAX: usize = 4096;
const TTL_MAX: u32 = 30;

#[derive(Debug, Default)]
pub struct Cache {
    entries: HashMap<(Name, RecordType), Entry>,
}

#[derive(Debug)]
struct Entry {
    message: Message,
    from: Instant,
    ttl: u32,
}

impl Cache {
    pub fn get(&mut self, question: &Query, now: Instant) -> Option<Message> {
        let key = key(question);
        let entry = self.entries.get(&key)?;
        let age = now.saturating_duration_since(entry.from);
        if age >= Duration::from_secs(entry.ttl.into()) {
            self.entries.remove(&key);
            return None;
        }
        let mut message = entry.message.clone();
        let age = age.as_secs() as u32;
        for section in [&mut message.answers, &mut message.authorities, &mut message.additionals] {
            for record in section {
                record.decrement_ttl(age);
            }
        }
        Some(message)
    }

    pub fn put(&mut self, question: &Query, message: &Message, now: Instant) {
        let code = message.metadata.response_code;
        let cacheable = matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
        let Some(ttl) = ttl(message).filter(|ttl| cacheable && *ttl > 0) else {
            return;
        };
        if self.entries.len() >= ENTRIES_MAX {
            self.entries.clear();
        }
        let message = message.clone();
        let from = now;
        self.entries.insert(key(question), Entry { message, from, ttl });
    }
}

fn key(question: &Query) -> (Name, RecordType) {
    (question.name().to_lowercase(), question.query_type())
}

/// The shortest of the answers; of a "no", what its SOA allows.
fn ttl(message: &Message) -> Option<u32> {
    let answers = message.answers.iter().map(|record| record.ttl).min();
    let negative = message.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    });
    answers.or(negative).map(|ttl| ttl.min(TTL_MAX))
}
