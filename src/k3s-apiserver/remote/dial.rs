//! From a server's place to a TLS connection: a Service is one of its ready endpoints.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::{Place, Server, failure};
use crate::cluster::Cluster;
use crate::proxy::endpoint;

const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Connects to a server; the error is what Go's dialer says.
pub async fn dial(
    cluster: &Cluster,
    server: &Server,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, String> {
    let address = resolve(cluster, server).await?;
    let stream = match timeout(CONNECT_MAX, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(err)) => return Err(format!("dial tcp {address}: {}", failure::connect(&err))),
        Err(_) => return Err(format!("dial tcp {address}: i/o timeout")),
    };
    stream.set_nodelay(true).map_err(|err| err.to_string())?;
    let name = ServerName::try_from(server.name()).map_err(|err| err.to_string())?;
    match timeout(CONNECT_MAX, tokio_rustls::TlsConnector::from(config).connect(name, stream)).await
    {
        Ok(connected) => connected.map_err(|err| failure::tls(&err, &server.name())),
        Err(_) => Err("net/http: TLS handshake timeout".to_owned()),
    }
}

async fn resolve(cluster: &Cluster, server: &Server) -> Result<SocketAddr, String> {
    match &server.place {
        Place::Host { host, .. } => lookup(host, server.port).await,
        Place::Service { namespace, name } => {
            let service = cluster.get("services", namespace, name);
            let service = service.ok_or_else(|| format!("service {name:?} not found"))?.object();
            if service["spec"]["type"] == "ExternalName" {
                let host = service["spec"]["externalName"].as_str().unwrap_or_default();
                return lookup(host, server.port).await;
            }
            let ports = service["spec"]["ports"].as_array();
            let offers = |port: &serde_json::Value| port["port"] == server.port;
            if !ports.is_some_and(|ports| ports.iter().any(offers)) {
                return Err(format!("no service port {} found for service {name:?}", server.port));
            }
            endpoint(cluster, namespace, name, &service, &server.port.to_string())
                .ok_or_else(|| format!("no endpoints available for service {name:?}"))
        }
    }
}

async fn lookup(host: &str, port: u16) -> Result<SocketAddr, String> {
    let missing = || format!("dial tcp: lookup {host}: no such host");
    let found = timeout(CONNECT_MAX, lookup_host((host, port))).await;
    let Ok(Ok(mut found)) = found else { return Err(missing()) };
    found.next().ok_or_else(missing)
}
