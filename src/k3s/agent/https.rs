//! HTTPS to a server's supervisor API, before there is a kubeconfig and for the tunnel.
//!
//! Knows nothing of tokens or nodes. Invariant: a failure says whether the server could not be
//! reached, could not be trusted, or did not speak the protocol, since each has its own remedy.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::header::{DATE, HOST, HeaderValue};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const CONNECT_MAX: Duration = Duration::from_secs(5);
/// A whole request; hashing a node's password takes a while on a small server.
const ANSWER_MAX: Duration = Duration::from_secs(30);
const BODY_MAX: usize = 4 << 20;

/// Where a server is: `https://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    host: String,
    port: u16,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix("https://") else {
            let host = text.split_once("://").map_or(text, |(_, rest)| rest);
            return Err(format!("{text:?} must begin with https://, as in https://{host}"));
        };
        let wrong = || format!("{text:?} is not of the form https://host:6443");
        let rest = rest.trim_end_matches('/');
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| wrong())?)
            }
            _ => (rest, 443),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if ServerName::try_from(bare).is_err() || (bare == host && host.contains(':')) {
            return Err(wrong());
        }
        Ok(Self { host: bare.to_owned(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.authority())
    }
}

impl Endpoint {
    /// `host:port`, as it is dialled and listed.
    pub(crate) fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }
}

/// What went wrong.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Unreachable(String),
    #[error("{0}")]
    Tls(rustls::Error),
    #[error("{0}")]
    Protocol(String),
}

/// Whom to believe that it is the server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trust<'a> {
    /// Anyone: for what is then checked in another way.
    Anyone,
    /// Who has a certificate of this CA bundle (PEM).
    Ca(&'a str),
}

/// Who we are: certificate and key (PEM).
pub(crate) type Identity<'a> = Option<(&'a str, &'a str)>;

/// The TLS configuration for both.
pub(crate) fn tls(trust: Trust<'_>, identity: Identity<'_>) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("choosing TLS versions")?;
    let builder = match trust {
        Trust::Anyone => builder.dangerous().with_custom_certificate_verifier(pki::anyone()),
        Trust::Ca(pem) => {
            let mut roots = RootCertStore::empty();
            for cert in certificates(pem)? {
                roots.add(cert).context("using the CA of the cluster")?;
            }
            builder.with_root_certificates(roots)
        }
    };
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
                .map_err(|err| anyhow::anyhow!("reading the node's key: {err}"))?;
            builder
                .with_client_auth_cert(certificates(cert)?, key)
                .context("using the node's certificate")?
        }
    };
    // WebSockets need it, and nothing here gains from HTTP/2.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|err| anyhow::anyhow!("reading certificates: {err}"))
}

/// A connection to the server.
pub(crate) async fn dial(
    endpoint: &Endpoint,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, Failure> {
    let unreachable = |err: std::io::Error| Failure::Unreachable(err.to_string());
    let connected = timeout(CONNECT_MAX, TcpStream::connect(endpoint.authority())).await;
    let stream = connected
        .map_err(|_| Failure::Unreachable("it did not answer in time".to_owned()))?
        .map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    let name = ServerName::try_from(endpoint.host().to_owned())
        .map_err(|err| Failure::Protocol(err.to_string()))?;
    let shaken = timeout(CONNECT_MAX, TlsConnector::from(config).connect(name, stream)).await;
    shaken
        .map_err(|_| Failure::Unreachable("its TLS handshake took too long".to_owned()))?
        .map_err(failure)
}

fn failure(err: std::io::Error) -> Failure {
    match err.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) => Failure::Tls(tls.clone()),
        None => Failure::Unreachable(err.to_string()),
    }
}

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The server's clock, in seconds since 1970.
    pub(crate) date: Option<i64>,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One request on a connection of its own.
pub(crate) async fn send(
    endpoint: &Endpoint,
    config: Arc<ClientConfig>,
    request: Request<Full<Bytes>>,
) -> Result<Answer, Failure> {
    let work = async {
        let mut tasks = JoinSet::new();
        let response = exchange(endpoint, config, request, &mut tasks).await?;
        let status = response.status().as_u16();
        let date = response.headers().get(DATE).and_then(|value| http_date(value.to_str().ok()?));
        let body = Limited::new(response.into_body(), BODY_MAX).collect().await;
        let body = body.map_err(|err| Failure::Unreachable(err.to_string()))?.to_bytes();
        Ok(Answer { status, date, body })
    };
    let given_up = || Failure::Unreachable("it did not answer in time".to_owned());
    timeout(ANSWER_MAX, work).await.unwrap_or_else(|_| Err(given_up()))
}

/// Sends a request and returns the head of its answer; the connection lives in `tasks`.
pub(crate) async fn exchange(
    endpoint: &Endpoint,
    config: Arc<ClientConfig>,
    mut request: Request<Full<Bytes>>,
    tasks: &mut JoinSet<()>,
) -> Result<Response<Incoming>, Failure> {
    let stream = dial(endpoint, config).await?;
    // What a server thinks of our certificate shows with the first bytes that it sends.
    let broken = |err: hyper::Error| {
        let source = std::error::Error::source(&err);
        let tls = source
            .and_then(|err| err.downcast_ref::<std::io::Error>())
            .and_then(|err| err.get_ref())
            .and_then(|err| err.downcast_ref::<rustls::Error>());
        match tls {
            Some(tls) => Failure::Tls(tls.clone()),
            None => Failure::Unreachable(err.to_string()),
        }
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    tasks.spawn(async move {
        // What ends the connection also ends the request, which tells.
        let _ = connection.with_upgrades().await;
    });
    let host = HeaderValue::from_str(&endpoint.authority());
    request.headers_mut().insert(HOST, host.map_err(|err| Failure::Protocol(err.to_string()))?);
    sender.send_request(request).await.map_err(broken)
}

fn http_date(text: &str) -> Option<i64> {
    Some(jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, &str>) {
        match (text.parse::<Endpoint>(), expected) {
            (Ok(endpoint), Ok(authority)) => assert_eq!(endpoint.authority(), authority),
            (Err(err), Err(part)) => assert!(err.contains(part), "{err}"),
            (got, expected) => panic!("{text}: {got:?} is not {expected:?}"),
        }
    }

    #[test]
    fn servers_are_named_by_https_urls() {
        check("https://192.0.2.1:6443", Ok("192.0.2.1:6443"));
        check("https://server.example:6443/", Ok("server.example:6443"));
        check("https://server.example", Ok("server.example:443"));
        check("https://[2001:db8::1]:6443", Ok("[2001:db8::1]:6443"));
        check("http://server:6443", Err("must begin with https://, as in https://server:6443"));
        check("server:6443", Err("must begin with https://"));
        check("https://server:port", Err("not of the form"));
        check("https://", Err("not of the form"));
        check("https://2001:db8::1:6443", Err("not of the form"));
    }

    #[test]
    fn dates_of_http_are_read() {
        assert_eq!(http_date("Thu, 01 Jan 1970 00:01:00 GMT"), Some(60));
        assert_eq!(http_date("soon"), None);
    }
}
