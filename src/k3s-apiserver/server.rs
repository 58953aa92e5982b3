//! Connections: accept, TLS, HTTP/1.1 and HTTP/2, and the end of it all.
//!
//! Knows nothing of Kubernetes; every request goes to `filter::handle`. Invariant: every task is in
//! the set that `serve` awaits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use http::StatusCode;
use http::header::{CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::api_server::ApiServer;
use crate::filter;
use crate::tls::{Identities, Tls};
use crate::user::UserInfo;

const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
const HEADERS_MAX: Duration = Duration::from_secs(10);
/// How long running requests may go on after `stop`.
const DRAIN: Duration = Duration::from_secs(3);
/// How long a kept HTTP/1.1 connection stays open after `stop`, so that a request that is on its
/// way is answered, with `Connection: close`, instead of being lost with the connection. One that
/// has carried no request yet gets nearly the whole [`DRAIN`]: nobody connects to say nothing.
const LAST_REQUEST: Duration = Duration::from_millis(700);
const CONNECTIONS_MAX: usize = 32_768;
/// A watch is a stream: clients with many reflectors need many.
const STREAMS_MAX: u32 = 1000;
const WINDOW: u32 = 1 << 20;

/// What is known of a connection before its first request.
#[derive(Clone, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    /// Who the client certificate is, if the CA of users vouches for it.
    pub certificate: Option<Arc<UserInfo>>,
    /// The common name of the client certificate, if the CA of front proxies vouches for it.
    pub proxy: Option<Arc<str>>,
}

/// Serves until `stop`, then drains.
pub async fn serve(
    server: Arc<ApiServer>,
    listener: std::net::TcpListener,
    tls: Arc<Tls>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let listener = TcpListener::from_std(listener).context("use the https socket")?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                match accepted {
                    Ok((stream, address)) => {
                        let (server, tls, stop) = (server.clone(), tls.clone(), stop.clone());
                        connections.spawn(connection(server, tls, stream, address, stop));
                    }
                    Err(err) => {
                        debug!(%err, "Could not accept, retrying");
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            }
        }
    }
    let drained = timeout(DRAIN, async { while connections.join_next().await.is_some() {} });
    if drained.await.is_err() {
        warn!(connections = connections.len(), "Requests did not end in time, dropping them");
        connections.shutdown().await;
    }
    Ok(())
}

async fn connection(
    server: Arc<ApiServer>,
    tls: Arc<Tls>,
    stream: TcpStream,
    address: SocketAddr,
    stop: CancellationToken,
) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    // On the heap: a connection lives longer than its handshake and is thousands.
    let handshake =
        Box::pin(timeout(HANDSHAKE_MAX, TlsAcceptor::from(tls.config()).accept(stream)));
    let stream = match handshake.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(err)) => return debug!(%address, %err, "Refused a TLS handshake"),
        Err(_) => return debug!(%address, "Gave up a slow TLS handshake"),
    };
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let Identities { user, proxy } = tls.identify(chain);
    let http1 = stream.get_ref().1.alpn_protocol() != Some(b"h2");
    let peer = Peer { address, certificate: user.map(Arc::new), proxy: proxy.map(Arc::from) };
    let asked = Arc::new(AtomicBool::new(false));
    let was_asked = asked.clone();
    let service = service_fn(move |request| {
        let (server, peer) = (server.clone(), peer.clone());
        asked.store(true, Ordering::Relaxed);
        // On the heap, so that what answering takes is given back when an endless answer begins:
        // a stream of HTTP/2 keeps the room of this future as long as it lives.
        Box::pin(async move {
            let mut response = filter::handle(&server, &peer, request).await;
            if http1
                && server.stop.is_cancelled()
                && response.status() != StatusCode::SWITCHING_PROTOCOLS
            {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, std::convert::Infallible>(response)
        })
    });
    let end = async {
        stop.cancelled().await;
        if http1 {
            tokio::time::sleep(LAST_REQUEST).await;
            if !was_asked.load(Ordering::Relaxed) {
                tokio::time::sleep(DRAIN.saturating_sub(LAST_REQUEST * 2)).await;
            }
        }
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW * 4)
        .max_header_list_size(64 << 10)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(15));
    let io = TokioIo::new(stream);
    let mut connection = Box::pin(builder.serve_connection_with_upgrades(io, service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = end => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(err) = ended {
        debug!(%address, %err, "Lost a connection");
    }
}
