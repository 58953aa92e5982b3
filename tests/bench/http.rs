//! The benchmark's client: one TLS connection, HTTP/1.1 kept alive or HTTP/2, as little work per
//! request as can be, since it shares the processors with the server that is measured.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pki::tls::{Pair, client_config};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

const WINDOW: u32 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    pub(crate) const ALL: [Self; 2] = [Self::Http1, Self::Http2];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// Where the server is and who we are to it.
#[derive(Clone)]
pub(crate) struct Target {
    address: SocketAddr,
    http1: TlsConnector,
    http2: TlsConnector,
}

impl Target {
    pub(crate) fn new(address: SocketAddr, ca: &Path, identity: &Pair) -> Result<Self> {
        let config = client_config(ca, Some(identity))?;
        let mut second = config.clone();
        second.alpn_protocols = vec![b"h2".to_vec()];
        let (http1, http2) = (Arc::new(config).into(), Arc::new(second).into());
        Ok(Self { address, http1, http2 })
    }

    pub(crate) async fn connect(&self, protocol: Protocol) -> Result<Connection> {
        let stream = TcpStream::connect(self.address).await.context("connecting")?;
        stream.set_nodelay(true)?;
        let tls = match protocol {
            Protocol::Http1 => &self.http1,
            Protocol::Http2 => &self.http2,
        };
        let name = ServerName::IpAddress(self.address.ip().into());
        let io = TokioIo::new(tls.connect(name, stream).await.context("TLS")?);
        let mut driver = JoinSet::new();
        let sender = match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await?;
                driver.spawn(async move { drop(connection.await) });
                Sender::Http1(sender)
            }
            Protocol::Http2 => {
                let mut builder = http2::Builder::new(TokioExecutor::new());
                builder.initial_stream_window_size(WINDOW);
                builder.initial_connection_window_size(WINDOW * 4);
                let (sender, connection) = builder.handshake(io).await?;
                driver.spawn(async move { drop(connection.await) });
                Sender::Http2(sender)
            }
        };
        Ok(Connection { sender, _driver: driver })
    }
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// An open connection; closed when dropped.
pub(crate) struct Connection {
    sender: Sender,
    _driver: JoinSet<()>,
}

impl Connection {
    /// Sends a request and returns when the answer has begun; an error status is an error.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>> {
        let about = format!("{method} {path}");
        let request = Request::builder()
            .method(method)
            .uri(match &self.sender {
                Sender::Http1(_) => path.to_owned(),
                Sender::Http2(_) => format!("https://localhost{path}"),
            })
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(body))?;
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        };
        let response = response.with_context(|| about.clone())?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.into_body().collect().await?.to_bytes();
        bail!("{about}: {status}: {}", String::from_utf8_lossy(&text))
    }

    /// Sends a request, reads the whole answer and returns its length.
    pub(crate) async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<usize> {
        let mut body = self.send(method, path, body).await?.into_body();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            length += frame?.data_ref().map_or(0, Bytes::len);
        }
        Ok(length)
    }

    /// Another handle on the same connection, which HTTP/2 has and HTTP/1.1 has not.
    pub(crate) fn share(&self) -> Option<Self> {
        match &self.sender {
            Sender::Http1(_) => None,
            Sender::Http2(sender) => {
                Some(Self { sender: Sender::Http2(sender.clone()), _driver: JoinSet::new() })
            }
        }
    }
}
