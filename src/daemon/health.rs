//! The health port of a component: `/healthz`, `/livez`, `/readyz` and `/metrics`, over TLS when a
//! certificate is given.
//!
//! Invariant: connections are bounded, and one that stays silent is closed, so nobody can keep a
//! probe out.

use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tokio_util::sync::CancellationToken;

use crate::{Context as Component, Listener, bind_tcp};

const CONNECTIONS_MAX: usize = 32;
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// The passed socket, or a new one.
pub fn listener(cx: &Component, address: IpAddr, port: u16) -> Result<Listener> {
    match cx.listener("https") {
        Some(listener) => Ok(listener),
        None => bind_tcp((address, port).into()),
    }
}

/// Answers until `stop`, over TLS when told how.
pub async fn serve(listener: Listener, tls: Option<Arc<ServerConfig>>, stop: CancellationToken) {
    let tls = tls.map(TlsAcceptor::from);
    let Listener::Tcp(listener) = listener else { return };
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                let Ok((stream, _)) = accepted else { continue };
                let tls = tls.clone();
                connections.spawn(async move {
                    match tls {
                        None => connection(stream).await,
                        Some(tls) => {
                            let shaken = tokio::time::timeout(SILENCE_MAX, tls.accept(stream));
                            if let Ok(Ok(stream)) = shaken.await {
                                connection(stream).await;
                            }
                        }
                    }
                });
            }
        }
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(SILENCE_MAX);
    // A client that goes away in the middle is its own affair.
    let _ = builder.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (status, text) = match request.uri().path() {
        "/healthz" | "/livez" | "/readyz" => (StatusCode::OK, "ok"),
        "/metrics" => (StatusCode::OK, ""),
        _ => (StatusCode::NOT_FOUND, "404 page not found\n"),
    };
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn probes_are_answered_until_stop() {
        let listener = bind_tcp(([127, 0, 0, 1], 0).into()).unwrap();
        let Listener::Tcp(tcp) = &listener else { panic!("a TCP socket") };
        let address = tcp.local_addr().unwrap();
        let stop = CancellationToken::new();
        let mut server = JoinSet::new();
        server.spawn(serve(listener, None, stop.clone()));
        let check = async |path: &str, want: &str| {
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with(want), "{path}: {answer}");
        };
        check("/readyz", "HTTP/1.1 200").await;
        check("/metrics", "HTTP/1.1 200").await;
        check("/pods", "HTTP/1.1 404").await;
        stop.cancel();
        server.join_next().await.unwrap().unwrap();
    }
}
