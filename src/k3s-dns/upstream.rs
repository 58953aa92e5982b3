//! The node's resolvers, asked for everything that is not the cluster's.
//!
//! Invariant: never asks one of our own addresses; every question ends, in an answer or in none.

use crate::cache::Cache;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use std::hash::{BuildHasher, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;

const TRY_MAX: Duration = Duration::from_secs(2);
const ROUNDS: usize = 2;
const SERVERS_MAX: usize = 4;
const CONCURRENT_MAX: usize = 1000;

pub struct Upstream {
    resolv_conf: PathBuf,
    own: Vec<IpAddr>,
    servers: Mutex<Servers>,
    cache: Mutex<Cache>,
    permits: Semaphore,
}

#[derive(Default)]
struct Servers {
    modified: Option<SystemTime>,
    list: Vec<SocketAddr>,
}

impl Upstream {
    pub fn new(resolv_conf: PathBuf, own: Vec<IpAddr>) -> Self {
        Self {
            resolv_conf,
            own,
            servers: Mutex::default(),
            cache: Mutex::default(),
            permits: Semaphore::new(CONCURRENT_MAX),
        }
    }

    /// `None` when nobody answers, or too many are asking.
    pub async fn ask(&self, question: &Query) -> Option<Message> {
        if let Some(known) = self.lock_cache().get(question, Instant::now()) {
            return Some(known);
        }
        let _permit = self.permits.try_acquire().ok()?;
        let servers = self.servers();
        for _ in 0..ROUNDS {
            for server in &servers {
                let asked = tokio::time::timeout(TRY_MAX, exchange(*server, question)).await;
                if let Ok(Ok(answer)) = asked {
                    self.lock_cache().put(question, &answer, Instant::now());
                    return Some(answer);
                }
            }
        }
        None
    }

    fn lock_cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The servers of the file, read again when it changed.
    fn servers(&self) -> Vec<SocketAddr> {
        let modified = std::fs::metadata(&self.resolv_conf).and_then(|meta| meta.modified()).ok();
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if servers.modified != modified {
            let text = std::fs::read_to_string(&self.resolv_conf).unwrap_or_default();
            servers.list = parse(&text, &self.own);
            servers.modified = modified;
        }
        servers.list.clone()
    }
}

/// The usable `nameserver` lines of a `resolv.conf`.
pub fn parse(text: &str, own: &[IpAddr]) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let ips = lines.filter_map(|rest| rest.split_whitespace().next()?.parse::<IpAddr>().ok());
    let others = ips.filter(|ip| !own.contains(ip) && !ip.is_unspecified());
    others.take(SERVERS_MAX).map(|ip| SocketAddr::new(ip, 53)).collect()
}

/// One question to one server: UDP, and TCP when the answer did not fit.
async fn exchange(server: SocketAddr, question: &Query) -> std::io::Result<Message> {
    let id = random_id();
    let mut query = Message::new(id, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(question.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    query.set_edns(edns);
    let bytes = query.to_vec().map_err(std::io::Error::other)?;
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A socket of its own, so that the kernel draws a new port for every question.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(&bytes).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Somebody else's answer is waited past.
        let Some(answer) = matching(&buffer[..length], id, question) else {
            continue;
        };
        return match answer.metadata.truncation {
            true => exchange_tcp(server, &bytes, id, question).await,
            false => Ok(answer),
        };
    }
}

async fn exchange_tcp(
    server: SocketAddr,
    bytes: &[u8],
    id: u16,
    question: &Query,
) -> std::io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    let wrong = || std::io::Error::other("the answer does not belong to the question");
    matching(&answer, id, question).ok_or_else(wrong)
}

fn matching(bytes: &[u8], id: u16, question: &Query) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let same = answer.metadata.id == id
        && answer.metadata.message_type == MessageType::Response
        && answer.queries.first().is_some_and(|asked| {
            asked.query_type() == question.query_type() && asked.name() == question.name()
        });
    same.then_some(answer)
}

/// The standard library's hash keys come from the kernel's random numbers.
fn random_id() -> u16 {
    std::hash::RandomState::new().build_hasher().finish() as u16
}
