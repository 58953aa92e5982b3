//! The agent's end of the tunnel: one WebSocket to every server, so that each can reach the kubelet.
//!
//! Invariant: a server is dialled again for as long as it is one, and may reach the kubelet's port
//! and nothing else of this machine.

use std::collections::HashMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use http::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::backoff::Backoff;
use super::https::{self, Endpoint, Trust};
use super::servers::Servers;
use crate::settings::Paths;

const PING: Duration = Duration::from_secs(15);
const HANDSHAKE_MAX: Duration = Duration::from_secs(15);
/// A tunnel that lived this long was a good one: the pauses start over.
const GOOD_AFTER: Duration = Duration::from_secs(10);

/// Holds tunnels to all servers until stopped.
pub(crate) async fn keep(
    stop: CancellationToken,
    paths: Paths,
    servers: Arc<Servers>,
    kubelet_port: u16,
) {
    let mut list = servers.watch();
    let mut tasks = JoinSet::new();
    let mut held: HashMap<String, AbortHandle> = HashMap::new();
    loop {
        let mut wanted = list.borrow_and_update().clone();
        // The given one may be the only way to a server whose address cannot be reached from here.
        wanted.push(servers.given().authority());
        held.retain(|server, task| {
            let keep = wanted.contains(server);
            if !keep {
                task.abort();
            }
            keep
        });
        for server in wanted {
            if let Ok(endpoint) = format!("https://{server}").parse::<Endpoint>() {
                let paths = paths.clone();
                held.entry(server)
                    .or_insert_with(|| tasks.spawn(hold(paths, endpoint, kubelet_port)));
            }
        }
        tokio::select! {
            changed = list.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}

/// Holds the tunnel to one server.
async fn hold(paths: Paths, endpoint: Endpoint, kubelet_port: u16) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
    let mut said = String::new();
    loop {
        let begun = Instant::now();
        let why = match once(&paths, &endpoint, kubelet_port).await {
            Ok(err) => err.to_string(),
            Err(err) => format!("{err:#}"),
        };
        if begun.elapsed() >= GOOD_AFTER {
            backoff.reset();
            said.clear();
        }
        if why != said {
            warn!(server = %endpoint, err = why, "The tunnel to a server is down, retrying");
            said = why;
        }
        sleep(backoff.next()).await;
    }
}

/// Opens a tunnel and serves it; returns what ended it.
async fn once(paths: &Paths, endpoint: &Endpoint, kubelet_port: u16) -> Result<std::io::Error> {
    let read = |name: &str| {
        let path = paths.agent(name);
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    };
    // Read for each attempt: they may have been renewed.
    let (ca, cert, key) =
        (read("server-ca.crt")?, read("client-kubelet.crt")?, read("client-kubelet.key")?);
    let config = https::tls(Trust::Ca(&ca), Some((&cert, &key)))?;
    let secret = tunnel::new_key();
    let request = Request::get("/v1-k3s/connect")
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, &secret)
        .body(Full::default())
        .context("making a request")?;
    let mut tasks = JoinSet::new();
    let opened = timeout(HANDSHAKE_MAX, https::exchange(endpoint, config, request, &mut tasks));
    let mut response = opened.await.context("it did not answer in time")??;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        bail!("it answered {}", response.status());
    }
    let accept = response.headers().get(SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes);
    if accept != Some(tunnel::accept_key(secret.as_bytes()).as_bytes()) {
        bail!("it answered a WebSocket handshake that is not ours");
    }
    let io = TokioIo::new(hyper::upgrade::on(&mut response).await.context("upgrading")?);
    info!(server = %endpoint, "The tunnel to a server is open");
    let socket = tunnel::client(io).await;
    let target = format!("tcp/127.0.0.1:{kubelet_port}");
    let kubelet = SocketAddr::from((Ipv4Addr::LOCALHOST, kubelet_port));
    let allow = |wanted: &str| (wanted == target).then_some(kubelet);
    Ok(tunnel::session().1.serve(socket, Some(PING), allow).await)
}
