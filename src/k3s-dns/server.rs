//! The sockets.
//!
//! Invariant: a client, however slow or many, holds up nobody else: local answers are sent at once,
//! everything that waits is a bounded task.

use crate::upstream::Upstream;
use crate::wire::{Step, Transport, finish, handle};
use crate::zone::Zone;
use hickory_proto::rr::Name;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tracing::warn;

const WAITING_MAX: usize = 2000;
const CONNECTIONS_MAX: usize = 200;
const IDLE_MAX: Duration = Duration::from_secs(10);

/// What every query needs.
pub struct Shared {
    pub domain: Name,
    /// Set once the caches are complete.
    pub zone: OnceLock<Zone>,
    pub upstream: Upstream,
}

impl Shared {
    fn step(&self, bytes: &[u8], transport: Transport) -> Step {
        handle(bytes, self.zone.get(), &self.domain, transport)
    }

    async fn answer(&self, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
        match self.step(bytes, transport) {
            Step::Respond(bytes) => Some(bytes),
            Step::Ignore => None,
            Step::Ask(pending) => {
                let answer = self.upstream.ask(&pending.question).await;
                Some(finish(*pending, answer))
            }
        }
    }
}

pub async fn serve_udp(socket: UdpSocket, shared: Arc<Shared>) {
    let socket = Arc::new(socket);
    let mut waiting = JoinSet::new();
    let mut buffer = vec![0; 4096];
    loop {
        let received = tokio::select! {
            Some(_) = waiting.join_next(), if !waiting.is_empty() => continue,
            received = socket.recv_from(&mut buffer) => received,
        };
        let (length, client) = match received {
            Ok(received) => received,
            Err(err) => {
                // An earlier answer was refused by its client.
                warn!(%err, "Receiving failed, going on");
                continue;
            }
        };
        match shared.step(&buffer[..length], Transport::Udp) {
            Step::Ignore => {}
            Step::Respond(bytes) => send(&socket, &bytes, client).await,
            Step::Ask(pending) if waiting.len() < WAITING_MAX => {
                let (socket, shared) = (socket.clone(), shared.clone());
                waiting.spawn(async move {
                    let answer = shared.upstream.ask(&pending.question).await;
                    send(&socket, &finish(*pending, answer), client).await;
                });
            }
            Step::Ask(pending) => send(&socket, &finish(*pending, None), client).await,
        }
    }
}

async fn send(socket: &UdpSocket, bytes: &[u8], client: SocketAddr) {
    // The client may be gone; it asks again if it is not.
    let _ = socket.send_to(bytes, client).await;
}

pub async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, shared.clone()));
                }
                Err(err) => warn!(%err, "Accepting failed, going on"),
            },
        }
    }
}

/// Queries of one connection, one after the other, until it is idle for long.
async fn converse(mut stream: TcpStream, shared: Arc<Shared>) {
    loop {
        let read = async {
            let length = stream.read_u16().await?;
            let mut bytes = vec![0; length.into()];
            stream.read_exact(&mut bytes).await?;
            Ok::<_, std::io::Error>(bytes)
        };
        let Ok(Ok(bytes)) = tokio::time::timeout(IDLE_MAX, read).await else {
            return;
        };
        let Some(answer) = shared.answer(&bytes, Transport::Tcp).await else {
            return;
        };
        let length = answer.len() as u16;
        let framed = [&length.to_be_bytes(), answer.as_slice()].concat();
        let write = stream.write_all(&framed);
        if !matches!(tokio::time::timeout(IDLE_MAX, write).await, Ok(Ok(()))) {
            return;
        }
    }
}
