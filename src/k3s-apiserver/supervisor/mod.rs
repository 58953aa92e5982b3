//! k3s' own API beside Kubernetes': how agents join, get certificates and are reached.
//!
//! Paths, headers and answers are k3s'. Everything it hands out lies below `--supervisor-dir`, the
//! `server` folder of k3s' layout. Invariant: besides `/ping` and `/cacerts`, which tell nothing
//! secret, a path answers only to the groups that are listed with it.

pub mod agents;
mod certificates;
mod node_password;
mod token;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use apimachinery::status::Status;
use http::request::Parts;
use http::{Method, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::api_server::ApiServer;
use crate::auth;
use crate::body::{Body, JSON, TEXT, answer, full, text};
use crate::filter::read_all;
use crate::request::RequestInfo;
use crate::server::Peer;
use crate::user::UserInfo;

const PREFIX: &str = "/v1-k3s/";
const SERVER: &str = "k3s:server";
/// Who may join: holders of the agent token, of the server token, or of a bootstrap token; and
/// nodes that have joined.
const JOINERS: &[&str] = &["k3s:agent", SERVER, "system:bootstrappers", "system:nodes"];

/// A request to this API, and who sends it.
struct Call<'a> {
    server: &'a Arc<ApiServer>,
    peer: &'a Peer,
    parts: &'a Parts,
    user: UserInfo,
    dir: &'a Path,
}

impl Call<'_> {
    fn header(&self, name: &str) -> &str {
        self.parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// Whether a path is answered here.
pub fn owns(path: &str) -> bool {
    path == "/ping" || path == "/cacerts" || path.starts_with(PREFIX)
}

/// Answers a request for one of our paths.
pub async fn serve(
    server: &Arc<ApiServer>,
    peer: &Peer,
    info: &RequestInfo,
    parts: &Parts,
    body: Incoming,
) -> Result<Response<Body>, Status> {
    if info.path == "/ping" {
        return Ok(text(StatusCode::OK, "pong"));
    }
    let dir = server.args.supervisor_dir.as_deref().ok_or_else(Status::no_resource)?;
    if info.path == "/cacerts" {
        return file(&dir.join("tls/server-ca.crt")).await;
    }
    let user = auth::authenticate(server, peer, parts, info).await?;
    let call = Call { server, peer, parts, user, dir };
    let what = info.path.strip_prefix(PREFIX).unwrap_or_default();
    match what {
        "connect" => {
            call.allow(&["system:nodes"])?;
            agents::connect(&call)
        }
        "token" => {
            call.allow(&[SERVER])?;
            token::rotate(&call, read_all(body).await?).await
        }
        "server-bootstrap" => {
            call.allow(&[SERVER])?;
            Err(Status::new(501, "NotImplemented", "this server does not take in further servers"))
        }
        _ => {
            call.allow(JOINERS)?;
            for_agents(&call, what, body).await
        }
    }
}

async fn for_agents(call: &Call<'_>, what: &str, body: Incoming) -> Result<Response<Body>, Status> {
    if let Some(wanted) = certificates::wanted(what) {
        return certificates::issue(call, wanted, body).await;
    }
    match what {
        "client-ca.crt" => file(&call.dir.join("tls/client-ca.crt")).await,
        "server-ca.crt" => file(&call.dir.join("tls/server-ca.crt")).await,
        "config" => {
            let mut answer = file(&call.dir.join("etc/control.json")).await?;
            answer.headers_mut().insert(http::header::CONTENT_TYPE, JSON);
            Ok(answer)
        }
        "apiservers" => {
            call.server.storage.settled().await?;
            let slices = call.server.cluster.list("endpointslices.discovery.k8s.io", "default");
            let slices = slices
                .iter()
                .filter(|slice| slice.label("kubernetes.io/service-name") == Some("kubernetes"))
                .map(|slice| slice.object());
            Ok(crate::body::json(StatusCode::OK, &json!(addresses(slices))))
        }
        "readyz" => call.ready().map(|()| text(StatusCode::OK, "ok")),
        _ => Err(Status::no_resource()),
    }
}

impl Call<'_> {
    fn allow(&self, groups: &[&str]) -> Result<(), Status> {
        if groups.iter().any(|group| self.user.in_group(group)) {
            return Ok(());
        }
        let why = format!("forbidden: {} is not in {}", self.user.name, groups.join(", "));
        Err(Status::new(403, "Forbidden", why))
    }

    fn method(&self, wanted: &Method) -> Result<(), Status> {
        if self.parts.method == wanted { Ok(()) } else { Err(Status::method_not_allowed()) }
    }

    /// Refuses until the bootstrap objects are there.
    fn ready(&self) -> Result<(), Status> {
        if self.server.started.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(Status::unavailable("the API server is starting"))
    }
}

async fn file(path: &Path) -> Result<Response<Body>, Status> {
    let bytes = tokio::fs::read(path)
        .await
        .map_err(|err| Status::internal(format!("reading {}: {err}", path.display())))?;
    Ok(answer(StatusCode::OK, TEXT, full(bytes)))
}

/// `address:port` of every endpoint, sorted.
fn addresses(slices: impl Iterator<Item = Value>) -> Vec<String> {
    let mut found = Vec::new();
    for slice in slices {
        let ports = slice["ports"].as_array().into_iter().flatten();
        let Some(port) = ports.filter_map(|port| port["port"].as_u64()).next() else { continue };
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            for address in endpoint["addresses"].as_array().into_iter().flatten() {
                match address.as_str() {
                    Some(address) if address.contains(':') => {
                        found.push(format!("[{address}]:{port}"));
                    }
                    Some(address) => found.push(format!("{address}:{port}")),
                    None => {}
                }
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_become_addresses() {
        let slices = [
            json!({"ports": [{"port": 6443}], "endpoints": [{"addresses": ["192.0.2.2"]}, {"addresses": ["192.0.2.1"]}]}),
            json!({"ports": [{"port": 6443}], "endpoints": [{"addresses": ["2001:db8::1"]}]}),
            json!({"ports": null, "endpoints": [{"addresses": ["192.0.2.3"]}]}),
        ];
        let expected = ["192.0.2.1:6443", "192.0.2.2:6443", "[2001:db8::1]:6443"];
        assert_eq!(addresses(slices.into_iter()), expected);
    }

    #[test]
    fn only_our_paths_are_ours() {
        for ours in ["/ping", "/cacerts", "/v1-k3s/config"] {
            assert!(owns(ours), "{ours}");
        }
        for other in ["/pingx", "/api", "/v1-k3s", "/"] {
            assert!(!owns(other), "{other}");
        }
    }
}
