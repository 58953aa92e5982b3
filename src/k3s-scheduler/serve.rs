//! The health port: `/healthz`, `/livez`, `/readyz` and `/metrics`, over TLS when a certificate is
//! given.

use std::{convert::Infallible, fs, net::IpAddr, path::Path, sync::Arc};

use anyhow::{Context, Result};
use bytes::Bytes;
use daemon::Listener;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{rt::TokioExecutor, rt::TokioIo, server::conn::auto};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};
use tokio_util::sync::CancellationToken;

const CONNECTIONS_MAX: usize = 32;

/// The passed socket, or a new one.
pub(crate) fn listener(cx: &daemon::Context, address: IpAddr, port: u16) -> Result<Listener> {
    match cx.listener("https") {
        Some(listener) => Ok(listener),
        None => daemon::bind_tcp((address, port).into()),
    }
}

/// An acceptor when both files are given.
pub(crate) fn tls(cert: Option<&Path>, key: Option<&Path>) -> Result<Option<TlsAcceptor>> {
    let (Some(cert), Some(key)) = (cert, key) else { return Ok(None) };
    let read = |path: &Path| {
        fs::read(path).map_err(|err| daemon::ConfigError(format!("{}: {err}", path.display())))
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&read(cert)?)
        .collect::<Result<_, _>>()
        .with_context(|| format!("{} holds no certificate", cert.display()))?;
    let key = PrivateKeyDer::from_pem_slice(&read(key)?)
        .with_context(|| format!("{} holds no private key", key.display()))?;
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

/// Answers until `stop`.
pub(crate) async fn health(listener: Listener, tls: Option<TlsAcceptor>, stop: CancellationToken) {
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
                        None => serve(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream).await;
                            }
                        }
                    }
                });
            }
        }
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let builder = auto::Builder::new(TokioExecutor::new());
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
