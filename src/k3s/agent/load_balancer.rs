//! The agent's own door to the API: 127.0.0.1:6444, bytes in and out, to whichever server answers.
//!
//! Knows nothing of TLS. Invariant: a client that connects is held until a server takes it or the
//! patience ends; it is never refused because one server is away.

use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::backoff::Backoff;
use super::servers::Servers;

/// How long one server is given; longer than a lost SYN takes to be sent again.
const DIAL_MAX: Duration = Duration::from_secs(3);
/// How long a client waits for any server.
const PATIENCE: Duration = Duration::from_secs(30);
const CONNECTIONS_MAX: usize = 4096;
/// A server whose machine is gone is noticed after this time of silence.
const DEAD_AFTER: Duration = Duration::from_secs(15);

/// Serves until stopped.
pub(crate) async fn serve(stop: CancellationToken, listener: TcpListener, servers: Arc<Servers>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => match accepted {
                Ok((client, _)) => {
                    connections.spawn(carry(client, servers.clone()));
                }
                Err(err) => {
                    debug!(%err, "Could not accept, retrying");
                    sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }
}

async fn carry(mut client: TcpStream, servers: Arc<Servers>) {
    let Some(mut server) = reach(&mut client, &servers).await else { return };
    if let Err(err) = client.set_nodelay(true) {
        return debug!(%err, "Lost a client");
    }
    if let Err(err) = copy_bidirectional(&mut client, &mut server).await {
        debug!(%err, "A connection to a server broke");
    }
}

/// A connection to the first server that answers; none when all are away for too long, or the
/// client is gone.
async fn reach(client: &mut TcpStream, servers: &Servers) -> Option<TcpStream> {
    let begun = Instant::now();
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    loop {
        for server in servers.order() {
            match timeout(DIAL_MAX, TcpStream::connect(&server)).await {
                Ok(Ok(stream)) => {
                    watch_over(&stream);
                    if servers.tried(&server, true) {
                        info!(server, "A server answers again");
                    }
                    return Some(stream);
                }
                failed => {
                    let err = match failed {
                        Ok(Err(err)) => err.to_string(),
                        _ => "it did not answer in time".to_owned(),
                    };
                    if servers.tried(&server, false) {
                        warn!(server, err, "A server cannot be reached, trying the others");
                    }
                }
            }
        }
        if begun.elapsed() >= PATIENCE {
            return None;
        }
        let gone = async {
            // Whatever a client sends waits in the socket; only its end is of interest here.
            loop {
                match client.peek(&mut [0]).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            () = sleep(backoff.next()) => {}
            () = gone => return None,
        }
    }
}

/// Has the kernel end a connection whose other end is gone without a word.
fn watch_over(stream: &TcpStream) {
    let millis = u32::try_from(DEAD_AFTER.as_millis()).unwrap_or(u32::MAX);
    let set = stream.set_nodelay(true).is_ok()
        && sockopt::set_socket_keepalive(stream, true).is_ok()
        && sockopt::set_tcp_keepidle(stream, DEAD_AFTER / 3).is_ok()
        && sockopt::set_tcp_keepintvl(stream, DEAD_AFTER / 3).is_ok()
        && sockopt::set_tcp_keepcnt(stream, 2).is_ok()
        && sockopt::set_tcp_user_timeout(stream, millis).is_ok();
    if !set {
        debug!("Could not set the time-outs of a connection");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A server that sends one byte to whoever connects.
    async fn server(listener: TcpListener, byte: u8) {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(&[byte]).await;
        }
    }

    async fn ask(address: std::net::SocketAddr) -> u8 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.read_u8().await.unwrap()
    }

    #[tokio::test]
    async fn clients_are_held_until_a_server_answers_and_moved_when_one_dies() {
        let bind = || TcpListener::bind("127.0.0.1:0");
        let (one, two) = (bind().await.unwrap(), bind().await.unwrap());
        let (first, second) = (one.local_addr().unwrap(), two.local_addr().unwrap());
        drop((one, two));
        let file = std::env::temp_dir().join(format!("k3s-lb-{}.json", std::process::id()));
        let given = format!("https://{first}").parse().unwrap();
        let servers = Arc::new(Servers::load(file.clone(), given));
        servers.set(vec![second.to_string()]);
        let door = bind().await.unwrap();
        let address = door.local_addr().unwrap();
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(stop.clone(), door, servers.clone()));
        // Nobody is there yet: the client waits.
        let mut waiting = JoinSet::new();
        waiting.spawn(ask(address));
        tokio::task::yield_now().await;
        let mut lives = JoinSet::new();
        lives.spawn(server(TcpListener::bind(second).await.unwrap(), 2));
        assert_eq!(waiting.join_next().await.unwrap().unwrap(), 2);
        // That one dies; the given one takes over.
        lives.shutdown().await;
        lives.spawn(server(TcpListener::bind(first).await.unwrap(), 1));
        assert_eq!(ask(address).await, 1);
        stop.cancel();
        while tasks.join_next().await.is_some() {}
        std::fs::remove_file(file).unwrap();
    }
}
