//! The kubelet's HTTP server: logs, exec, attach, port-forward, pods, figures, health.
//!
//! Invariant: every path but the plain health endpoint passes [`auth`] first.

mod auth;
pub(crate) mod cpu_rate;
mod debug;
mod logs;
mod runtime_stream;
mod spdy;
mod stats;
mod streaming;
mod tls;
mod websocket;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::manager::Pods;
use crate::shared::Shared;
use crate::tasks::{Spawner, nursery};
use auth::{Auth, User, attributes, certificate_user};

const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
const CONNECTIONS_MAX: usize = 1024;
const STREAMS_WAITING_MAX: usize = 256;

type Body = BoxBody<Bytes, Infallible>;

/// What every request may use.
pub(crate) struct Server {
    shared: Arc<Shared>,
    pods: Pods,
    auth: Auth,
    /// For streams that outlive their request.
    streams: Spawner,
}

/// Starts the TLS server and the health endpoint.
pub(crate) fn spawn(
    cx: &daemon::Context,
    shared: &Arc<Shared>,
    pods: &Pods,
    tasks: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let config = &shared.config;
    let (streams, running) = nursery(STREAMS_WAITING_MAX);
    let stop = cx.stop.clone();
    tasks.spawn(async move {
        running.run(stop).await;
        Ok(())
    });
    let server = Arc::new(Server {
        shared: Arc::clone(shared),
        pods: pods.clone(),
        auth: Auth::new(shared.rest.clone(), config.node_name.clone()),
        streams,
    });
    let address = SocketAddr::new(config.address, config.port);
    match tls::Acceptor::load(config)? {
        Some(acceptor) => {
            let listener = listener(cx, "https", address)?;
            tasks.spawn(serve_tls(listener, acceptor, server, cx.stop.clone()));
        }
        None => tracing::warn!("No serving certificate was given, not serving logs and exec"),
    }
    if config.healthz_port != 0 {
        let address = SocketAddr::new(config.healthz_address, config.healthz_port);
        let listener = listener(cx, "healthz", address)?;
        tasks.spawn(serve_health(listener, cx.stop.clone()));
    }
    Ok(())
}

fn listener(
    cx: &daemon::Context,
    name: &str,
    address: SocketAddr,
) -> anyhow::Result<tokio::net::TcpListener> {
    let listener = match cx.listener(name) {
        Some(daemon::Listener::Tcp(listener)) => listener,
        Some(_) => anyhow::bail!("socket {name} is not TCP"),
        None => match daemon::bind_tcp(address)? {
            daemon::Listener::Tcp(listener) => listener,
            _ => anyhow::bail!("socket {name} is not TCP"),
        },
    };
    Ok(tokio::net::TcpListener::from_std(listener)?)
}

async fn accept(listener: &tokio::net::TcpListener) -> tokio::net::TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(err) => {
                tracing::warn!(%err, "Connection was not accepted, retrying");
                // Out of descriptors: give the others a moment to return some.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_health(
    listener: tokio::net::TcpListener,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            stream = accept(&listener), if connections.len() < CONNECTIONS_MAX => stream,
            Some(_) = connections.join_next() => continue,
        };
        connections.spawn(async move {
            let service = service_fn(|request: Request<Incoming>| async move {
                let found = request.uri().path() == "/healthz";
                let answer = if found { text("ok") } else { not_found() };
                Ok::<_, Infallible>(answer)
            });
            // A client that breaks off is its own business.
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn serve_tls(
    listener: tokio::net::TcpListener,
    acceptor: tls::Acceptor,
    server: Arc<Server>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let acceptor = Arc::new(acceptor);
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            stream = accept(&listener), if connections.len() < CONNECTIONS_MAX => stream,
            Some(_) = connections.join_next() => continue,
        };
        let (acceptor, server) = (Arc::clone(&acceptor), Arc::clone(&server));
        connections.spawn(async move {
            let _ = stream.set_nodelay(true);
            let handshake = tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await;
            let stream = match handshake {
                Ok(Ok(stream)) => stream,
                Ok(Err(err)) => return tracing::debug!(%err, "TLS handshake failed"),
                Err(_) => return tracing::debug!("TLS handshake took too long"),
            };
            let certificates = stream.get_ref().1.peer_certificates();
            let user = certificates.and_then(|list| certificate_user(list.first()?));
            let service = service_fn(move |request| {
                let (server, user) = (Arc::clone(&server), user.clone());
                async move { Ok::<_, Infallible>(server.answer(request, user).await) }
            });
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder.http2().timer(hyper_util::rt::TokioTimer::new());
            let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
            if let Err(err) = served.await {
                tracing::debug!(%err, "Connection ended");
            }
        });
    }
}

impl Server {
    async fn answer(&self, request: Request<Incoming>, user: Option<User>) -> Response<Body> {
        let user = match user {
            Some(user) => Some(user),
            None => match bearer(&request) {
                Some(token) => self.auth.token_user(token).await,
                None => None,
            },
        };
        let Some(user) = user else {
            return failure(StatusCode::UNAUTHORIZED, "Unauthorized");
        };
        let path = request.uri().path().to_owned();
        let (verb, resource) = attributes(request.method(), &path);
        if !self.auth.allows(&user, verb, resource).await {
            let message = format!(
                "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{resource}])",
                user.name
            );
            return failure(StatusCode::FORBIDDEN, &message);
        }
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let get = request.method() == Method::GET;
        match (parts.as_slice(), get) {
            (["healthz"], true) => text("ok"),
            (["pods"], true) => debug::pods(&self.pods),
            (["runningpods", ""], true) => debug::pods(&self.pods),
            (["configz"], true) => debug::configz(&self.shared.config),
            (["containerLogs", namespace, pod, container], true) => {
                self.container_logs(request, namespace, pod, container).await
            }
            (["stats", "summary"], true) => stats::summary(&self.shared, &self.pods).await,
            (["metrics"], true) => stats::metrics(&self.shared, &self.pods),
            (["metrics", "resource"], true) => {
                stats::resource_metrics(&self.shared, &self.pods).await
            }
            (["run", namespace, pod, container], false) => {
                self.run(&request, namespace, pod, container).await
            }
            (["exec" | "attach", namespace, pod, container], _)
            | (["exec" | "attach", namespace, pod, _, container], _) => {
                let kind = parts[0].to_owned();
                let (namespace, pod) = ((*namespace).to_owned(), (*pod).to_owned());
                let container = (*container).to_owned();
                self.remote_command(request, &kind, &namespace, &pod, &container).await
            }
            (["portForward", namespace, pod], _) | (["portForward", namespace, pod, _], _) => {
                let (namespace, pod) = ((*namespace).to_owned(), (*pod).to_owned());
                self.port_forward(request, &namespace, &pod).await
            }
            _ => not_found(),
        }
    }
}

fn bearer(request: &Request<Incoming>) -> Option<&str> {
    let value = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    value.strip_prefix("Bearer ").map(str::trim).filter(|token| !token.is_empty())
}

/// Decoded query pairs.
fn query(uri: &http::Uri) -> Vec<(String, String)> {
    let pairs = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (unescape(key), unescape(value))
        })
        .collect()
}

fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match (bytes[at], hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
                continue;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}

fn text(content: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(body(content.into()));
    let plain = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

fn json(value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(body(value.to_string()));
    let kind = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn failure(code: StatusCode, message: &str) -> Response<Body> {
    let mut response = text(format!("{message}\n"));
    *response.status_mut() = code;
    response
}

fn not_found() -> Response<Body> {
    failure(StatusCode::NOT_FOUND, "404 page not found")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let uri: http::Uri = "/exec?command=echo&command=a%20b+c&tty=1&x=%zz".parse().unwrap();
        let expected = [("command", "echo"), ("command", "a b c"), ("tty", "1"), ("x", "%zz")];
        let expected: Vec<_> =
            expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(query(&uri), expected);
    }
}
