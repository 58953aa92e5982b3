//! The HTTP request of probes and hooks: one GET, no certificate check, no keep-alive.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls_pki_types::ServerName;

const BODY_MAX: usize = 10 << 10;
const USER_AGENT: &str = "kube-probe/1.36";

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// A port by number, or by the name that the container gives it.
pub(crate) fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => name.parse().ok().or_else(|| {
            let ports = container.ports.iter().flatten();
            ports.into_iter().find(|p| p.name.as_ref() == Some(name)).map(|p| p.container_port)
        }),
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number > 0)
        .ok_or_else(|| format!("couldn't find port: {port:?}"))
}

/// `host:port`, with brackets where the host is an IPv6 address.
pub(crate) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Connects; the error reads as Go's.
pub(crate) async fn dial(host: &str, port: u16) -> Result<tokio::net::TcpStream, String> {
    let authority = authority(host, port);
    tokio::net::TcpStream::connect(&authority).await.map_err(|err| {
        let why = match err.kind() {
            std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
            std::io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
            _ => format!("connect: {}", err.to_string().to_lowercase()),
        };
        format!("dial tcp {authority}: {why}")
    })
}

/// Does the request within `timeout`; `Err` says why there was no answer.
pub(crate) async fn get(
    action: &HTTPGetAction,
    container: &Container,
    pod_ip: &str,
    timeout: Duration,
) -> Result<Answer, String> {
    let port = port(&action.port, container)?;
    let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(pod_ip);
    let https = action.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
    let path = action.path.as_deref().unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let scheme = if https { "https" } else { "http" };
    let url = format!("{scheme}://{}{path}", authority(host, port));
    let exchange = async {
        let stream = dial(host, port).await?;
        if https {
            let name = ServerName::try_from(host.to_owned()).map_err(|err| err.to_string())?;
            let connector = tokio_rustls::TlsConnector::from(Arc::new(trusting()?));
            let stream = connector.connect(name, stream).await.map_err(|err| err.to_string())?;
            request(stream, action, &path, &authority(host, port)).await
        } else {
            request(stream, action, &path, &authority(host, port)).await
        }
    };
    match tokio::time::timeout(timeout, exchange).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(err)) => Err(format!("Get \"{url}\": {err}")),
        Err(_) => Err(format!(
            "Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

async fn request<S>(
    stream: S,
    action: &HTTPGetAction,
    path: &str,
    authority: &str,
) -> Result<Answer, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|err| err.to_string())?;
    let mut headers = BTreeMap::from([
        ("user-agent".to_owned(), USER_AGENT.to_owned()),
        ("accept".to_owned(), "*/*".to_owned()),
        ("connection".to_owned(), "close".to_owned()),
        ("host".to_owned(), authority.to_owned()),
    ]);
    for header in action.http_headers.iter().flatten() {
        headers.insert(header.name.to_lowercase(), header.value.clone());
    }
    let mut builder = http::Request::get(path);
    for (name, value) in &headers {
        builder = builder.header(name, value);
    }
    let request =
        builder.body(Empty::<bytes::Bytes>::new()).map_err(|err| format!("bad request: {err}"))?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|err| err.to_string())?;
        let status = answer.status().as_u16();
        let mut body = answer.into_body();
        let mut text = Vec::new();
        while let Some(Ok(frame)) = body.frame().await {
            if let Some(data) = frame.data_ref() {
                text.extend_from_slice(data);
            }
            if text.len() > BODY_MAX {
                text.truncate(BODY_MAX);
                break;
            }
        }
        Ok(Answer { status, body: String::from_utf8_lossy(&text).into_owned() })
    };
    let connection = std::pin::pin!(connection);
    let exchange = std::pin::pin!(exchange);
    match futures::future::select(exchange, connection).await {
        futures::future::Either::Left((answer, _)) => answer,
        futures::future::Either::Right((_, exchange)) => exchange.await,
    }
}

fn trusting() -> Result<rustls::ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|err| err.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(pki::anyone())
        .with_no_client_auth())
}
