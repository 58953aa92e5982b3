//! HTTPS to servers outside this one: webhooks of admission and conversion, aggregated API servers.
//!
//! Knows what a `clientConfig` says and not what is asked. Connections are kept and used again.
//! Invariant: what a server sends is bounded in size and time, and every failure reads as client-go
//! would say it.

mod dial;
mod failure;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use pki::tls::Pair;
use pki::trust::{self, Trust};
use rustls::ClientConfig;
use serde_json::Value;
use tokio::task::JoinSet;
use tracing::debug;

use crate::cluster::Cluster;
use crate::registry::value::{has, int, text};

pub use dial::dial;

/// The longest answer that is read.
const ANSWER_MAX: usize = 64 << 20;
/// Connections kept for one server.
const IDLE_MAX: usize = 8;
/// Servers whose connections are kept.
const SERVERS_MAX: usize = 256;

/// Where a server is and how it proves itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    pub place: Place,
    pub port: u16,
    /// With a leading slash, or empty.
    pub path: String,
    pub trust: Trust,
    /// Whether we show our certificate as a front proxy.
    pub as_proxy: bool,
}

/// How a server is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    Service {
        namespace: String,
        name: String,
    },
    /// A name or an address; the URL's authority as it was written.
    Host {
        host: String,
        authority: String,
    },
}

impl Server {
    /// Reads the `clientConfig` of a webhook.
    pub fn read(config: &Value) -> Result<Self, String> {
        let trust = match text(config, "caBundle") {
            "" => Trust::System,
            bundle => Trust::Bundle(STANDARD.decode(bundle).map_err(|err| err.to_string())?),
        };
        if has(config, "service") {
            let path = text(config, "service.path");
            let slash = if path.is_empty() || path.starts_with('/') { "" } else { "/" };
            return Ok(Self {
                place: Place::Service {
                    namespace: text(config, "service.namespace").to_owned(),
                    name: text(config, "service.name").to_owned(),
                },
                port: int(config, "service.port")
                    .and_then(|port| u16::try_from(port).ok())
                    .unwrap_or(443),
                path: format!("{slash}{path}"),
                trust,
                as_proxy: false,
            });
        }
        let url = text(config, "url");
        let uri: http::Uri = url.parse().map_err(|err| format!("Unparsable URL: {err}"))?;
        let authority = uri.authority().ok_or("missing host in URL")?;
        Ok(Self {
            place: Place::Host {
                host: authority.host().trim_matches(['[', ']']).to_owned(),
                authority: authority.to_string(),
            },
            port: authority.port_u16().unwrap_or(443),
            path: uri.path().trim_end_matches('/').to_owned(),
            trust,
            as_proxy: false,
        })
    }

    /// `name.namespace.svc`, or the host of the URL.
    pub fn name(&self) -> String {
        match &self.place {
            Place::Service { namespace, name } => format!("{name}.{namespace}.svc"),
            Place::Host { host, .. } => host.clone(),
        }
    }

    /// What stands between `https://` and the path.
    pub fn authority(&self) -> String {
        match &self.place {
            Place::Service { .. } => format!("{}:{}", self.name(), self.port),
            Place::Host { authority, .. } => authority.clone(),
        }
    }
}

/// What is kept for one server.
struct Link {
    config: Arc<ClientConfig>,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

/// Kept connections, and the tasks that drive them.
#[derive(Default)]
pub struct Remote {
    links: Mutex<HashMap<Server, Arc<Link>>>,
    /// Our certificate as a front proxy.
    proxy: Option<Pair>,
    tasks: Mutex<JoinSet<()>>,
}

impl Remote {
    /// With this certificate towards aggregated API servers.
    pub fn new(proxy: Option<Pair>) -> Self {
        Self { proxy, ..Self::default() }
    }

    /// GETs JSON, as ourselves; the caller limits the time.
    pub async fn get(
        &self,
        cluster: &Cluster,
        server: &Server,
        path: &str,
    ) -> Result<Value, String> {
        let link = self.link(server).map_err(|err| err.to_string())?;
        let make = || {
            let request = Request::get(path)
                .header(HOST, server.authority())
                .header(ACCEPT, "application/json")
                .header("x-remote-user", "system:kube-aggregator")
                .header("x-remote-group", "system:masters");
            request.body(Full::default()).map_err(|err| err.to_string())
        };
        let answered = self.exchange(cluster, server, &link, make).await;
        let (status, bytes) = answered
            .map_err(|why| format!("Get \"https://{}{path}\": {why}", server.authority()))?;
        failure::judge(status, &bytes)
    }

    /// The TLS of a server.
    pub fn config(&self, server: &Server) -> anyhow::Result<Arc<ClientConfig>> {
        Ok(self.link(server)?.config.clone())
    }

    /// POSTs JSON and reads JSON, all within `limit`; the error is client-go's.
    pub async fn post(
        &self,
        cluster: &Cluster,
        server: &Server,
        body: Bytes,
        limit: Duration,
    ) -> Result<Value, String> {
        let link = self.link(server).map_err(|err| err.to_string())?;
        let target = format!("{}?timeout={}s", server.path, limit.as_secs());
        let failed = |why: &str| format!("Post \"https://{}{target}\": {why}", server.authority());
        let answered = async {
            let path = if server.path.is_empty() { format!("/{target}") } else { target.clone() };
            let make = || request(server, &path, body.clone());
            self.exchange(cluster, server, &link, make).await
        };
        let (status, bytes) = match tokio::time::timeout(limit, answered).await {
            Ok(answered) => answered.map_err(|why| failed(&why))?,
            Err(_) => return Err(failed("context deadline exceeded")),
        };
        failure::judge(status, &bytes)
    }

    /// Ends the connections.
    pub async fn end(&self) {
        let mut tasks = {
            let mut held = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *held)
        };
        tasks.shutdown().await;
    }

    /// One request on a kept connection, or on a new one when the kept ones have ended meanwhile.
    async fn exchange(
        &self,
        cluster: &Cluster,
        server: &Server,
        link: &Link,
        make: impl Fn() -> Result<Request<Full<Bytes>>, String>,
    ) -> Result<(u16, Bytes), String> {
        while let Some(mut sender) = link.take() {
            match sender.send_request(make()?).await {
                Ok(response) => return finish(link, sender, response).await,
                Err(err) if err.is_canceled() || err.is_incomplete_message() => {}
                Err(err) => return Err(err.to_string()),
            }
        }
        let stream = dial(cluster, server, link.config.clone()).await?;
        let (mut sender, connection) = http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(|err| err.to_string())?;
        self.run(async move {
            if let Err(err) = connection.await {
                debug!(%err, "Lost a connection to a webhook");
            }
        });
        let response = sender.send_request(make()?).await;
        finish(link, sender, response.map_err(|err| failure::http(&err))?).await
    }

    fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    fn link(&self, server: &Server) -> anyhow::Result<Arc<Link>> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = links.get(server) {
            return Ok(link.clone());
        }
        let identity = self.proxy.as_ref().filter(|_| server.as_proxy);
        let config = Arc::new(trust::client_config(&server.trust, identity)?);
        if links.len() >= SERVERS_MAX {
            links.clear();
        }
        let link = Arc::new(Link { config, idle: Mutex::default() });
        links.insert(server.clone(), link.clone());
        Ok(link)
    }
}

impl Link {
    /// A kept connection that is open still.
    fn take(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(sender) = idle.pop() {
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    fn keep(&self, sender: SendRequest<Full<Bytes>>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|sender| !sender.is_closed());
        if idle.len() < IDLE_MAX {
            idle.push(sender);
        }
    }
}

fn request(server: &Server, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, String> {
    Request::post(path)
        .header(HOST, server.authority())
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, "application/json, */*")
        .header(USER_AGENT, "kube-apiserver-admission")
        .body(Full::new(body))
        .map_err(|err| err.to_string())
}

/// Reads the answer whole and keeps the connection.
async fn finish(
    link: &Link,
    sender: SendRequest<Full<Bytes>>,
    response: Response<Incoming>,
) -> Result<(u16, Bytes), String> {
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|err| failure::http(&err))?;
        if let Some(data) = frame.data_ref() {
            if all.len() + data.len() > ANSWER_MAX {
                return Err(format!("the answer is longer than {ANSWER_MAX} bytes"));
            }
            all.extend_from_slice(data);
        }
    }
    link.keep(sender);
    Ok((status, all.freeze()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn client_configurations_name_services_and_urls() {
        let check = |config: Value, authority: &str, path: &str, port: u16| {
            let server = Server::read(&config).unwrap();
            assert_eq!((&*server.authority(), &*server.path, server.port), (authority, path, port));
        };
        let service = |path: &str| json!({"service": {"namespace": "n", "name": "s", "port": 8443, "path": path}});
        check(service("/a"), "s.n.svc:8443", "/a", 8443);
        check(service("a"), "s.n.svc:8443", "/a", 8443);
        check(json!({"url": "https://h.example/x/"}), "h.example", "/x", 443);
        check(json!({"url": "https://[::1]:9/"}), "[::1]:9", "", 9);
        assert!(Server::read(&json!({"url": "/x"})).is_err());
    }
}
