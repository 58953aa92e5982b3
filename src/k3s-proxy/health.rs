//! What load balancers and probes ask: `/healthz` and `/livez` of the proxy, and one port for each
//! Service with `healthCheckNodePort`.
//!
//! Invariant: a port is open exactly while a Service asks for it; answers come from the last state
//! that the kernel was told.

use client::Key;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::warn;

const CONNECTIONS_MAX: usize = 64;
const HEADER_WAIT_MAX: Duration = Duration::from_secs(10);

/// What the answers are made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// The kernel holds what the objects say.
    pub healthy: bool,
    pub updated: Option<SystemTime>,
    /// By port: the Service and its number of endpoints on this node.
    pub checks: BTreeMap<u16, (Key, usize)>,
}

type Answer = Response<Full<Bytes>>;

/// Serves the proxy's own port and those of Services until `stop`.
pub(crate) async fn serve(
    listener: TcpListener,
    state: watch::Receiver<State>,
    stop: CancellationToken,
) {
    let mut tasks = JoinSet::new();
    tasks.spawn(accept(listener, None, state.clone()));
    tasks.spawn(check_ports(state));
    tokio::select! {
        () = stop.cancelled() => {}
        _ = tasks.join_next() => {}
    }
    tasks.shutdown().await;
}

/// Opens and closes ports as Services come and go.
async fn check_ports(mut state: watch::Receiver<State>) {
    let mut servers = JoinSet::new();
    let mut open: BTreeMap<u16, AbortHandle> = BTreeMap::new();
    loop {
        let wanted: Vec<u16> = state.borrow_and_update().checks.keys().copied().collect();
        open.retain(|port, server| {
            let keep = wanted.contains(port) && !server.is_finished();
            if !keep {
                server.abort();
            }
            keep
        });
        for port in wanted {
            let Entry::Vacant(entry) = open.entry(port) else {
                continue;
            };
            match listen(port).await {
                Ok(listener) => {
                    entry.insert(servers.spawn(accept(listener, Some(port), state.clone())));
                }
                Err(err) => {
                    warn!(port, %err, "Opening a health check port failed, going on without")
                }
            }
        }
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return },
            Some(_) = servers.join_next(), if !servers.is_empty() => {}
        }
    }
}

async fn listen(port: u16) -> std::io::Result<TcpListener> {
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    match TcpListener::bind(any).await {
        Ok(listener) => Ok(listener),
        // No IPv6 on this node.
        Err(_) => TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))).await,
    }
}

async fn accept(listener: TcpListener, port: Option<u16>, state: watch::Receiver<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(one(stream, port, state.clone()));
                }
            }
        }
    }
}

async fn one(stream: TcpStream, port: Option<u16>, state: watch::Receiver<State>) {
    let service = service_fn(|request: Request<Incoming>| {
        let answer = match port {
            None => own(request.uri().path(), &state.borrow()),
            Some(port) => of_service(port, &state.borrow()),
        };
        async { Ok::<_, Infallible>(answer) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_WAIT_MAX)
        .serve_connection(TokioIo::new(stream), service);
    // The other side may go away at any time.
    let _ = served.await;
}

fn own(path: &str, state: &State) -> Answer {
    let healthy = match path {
        "/healthz" => state.healthy,
        // A proxy that still holds old rules is alive.
        "/livez" => true,
        _ => return text(StatusCode::NOT_FOUND, "404 page not found\n".into()),
    };
    let updated = state.updated.map(seconds);
    let body = json!({"lastUpdated": updated, "currentTime": seconds(SystemTime::now()), "nodeEligible": true});
    let code = match healthy {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    text(code, body.to_string())
}

fn of_service(port: u16, state: &State) -> Answer {
    let Some((key, local)) = state.checks.get(&port) else {
        return text(StatusCode::NOT_FOUND, "404 page not found\n".into());
    };
    let body = json!({
        "service": {"namespace": key.namespace, "name": key.name},
        "localEndpoints": local,
        "serviceProxyHealthy": state.healthy,
    });
    let code = match state.healthy && *local > 0 {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut answer = text(code, body.to_string());
    let weight = local.to_string().parse().ok();
    let headers = answer.headers_mut();
    weight.map(|weight| headers.insert("x-load-balancing-endpoint-weight", weight));
    answer
}

fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn text(code: StatusCode, body: String) -> Answer {
    let kind = if body.starts_with('{') { "application/json" } else { "text/plain; charset=utf-8" };
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = code;
    let kind = http::HeaderValue::from_static(kind);
    answer.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    answer
}
