//! A small HTTPS server that the cluster calls: webhooks, conversion, an aggregated API.
//!
//! It signs its own certificate for the names that it is reached by. Invariant: it ends with its
//! `Outside`.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    /// Null when it is no JSON.
    pub(crate) body: Value,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(own, _)| own == name);
        found.map(|(_, value)| value.as_str())
    }
}

type Handler = dyn Fn(&Asked) -> (u16, Value) + Send + Sync;

/// A running server.
pub(crate) struct Outside {
    pub(crate) port: u16,
    /// The certificate, base64 of PEM, as objects carry a `caBundle`.
    pub(crate) ca_bundle: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    _stop: oneshot::Sender<()>,
}

impl Outside {
    /// Serves `handler` under these names on every address.
    pub(crate) fn start(
        names: &[&str],
        handler: impl Fn(&Asked) -> (u16, Value) + Send + Sync + 'static,
    ) -> Result<Self> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).context("sign a certificate")?;
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())
            .map_err(|why| anyhow::anyhow!("use the key: {why}"))?;
        let provider = tokio_rustls::rustls::crypto::ring::default_provider();
        let config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)?;
        let listener = std::net::TcpListener::bind("0.0.0.0:0")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let (stop, stopped) = oneshot::channel();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let seen = asked.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            let handler: Arc<Handler> = Arc::new(handler);
            runtime.block_on(async move {
                tokio::select! {
                    _ = stopped => {}
                    served = serve(listener, Arc::new(config), handler, seen) => {
                        if let Err(err) = served {
                            eprintln!("the server outside ended: {err:#}");
                        }
                    }
                }
            });
        });
        let ca_bundle =
            base64::Engine::encode(&base64::engine::general_purpose::STANDARD, made.cert.pem());
        Ok(Self { port, ca_bundle, asked, _stop: stop })
    }

    /// Everything that was asked under this path so far.
    pub(crate) fn asked(&self, path: &str) -> Vec<Asked> {
        let all = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|asked| asked.path.starts_with(path)).cloned().collect()
    }
}

async fn serve(
    listener: std::net::TcpListener,
    config: Arc<ServerConfig>,
    handler: Arc<Handler>,
    seen: Arc<Mutex<Vec<Asked>>>,
) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let acceptor = TlsAcceptor::from(config);
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _): (_, SocketAddr) = listener.accept().await?;
        let (acceptor, handler, seen) = (acceptor.clone(), handler.clone(), seen.clone());
        connections.spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = hyper::service::service_fn(move |request| {
                let (handler, seen) = (handler.clone(), seen.clone());
                async move { Ok::<_, hyper::Error>(answer(request, &*handler, &seen).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            if let Err(err) = connection.await {
                eprintln!("a connection to the server outside ended: {err}");
            }
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    handler: &Handler,
    seen: &Mutex<Vec<Asked>>,
) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|all| all.to_bytes()).unwrap_or_default();
    let headers = parts.headers.iter().map(|(name, value)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    let asked = Asked {
        method: parts.method.to_string(),
        path: parts.uri.to_string(),
        headers: headers.collect(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(asked.clone());
    let (code, value) = handler(&asked);
    if let Some(pause) = value.get("sleepSeconds").and_then(Value::as_u64) {
        tokio::time::sleep(std::time::Duration::from_secs(pause)).await;
    }
    let mut response = Response::new(Full::from(value.to_string()));
    *response.status_mut() = hyper::StatusCode::from_u16(code).unwrap_or_default();
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
    response
}
