//! The servers that an agent knows: told by the cluster, kept on disk, tried in a sensible order.
//!
//! The file is k3s' `k3s-agent-load-balancer.json`. Invariant: the server that was given on the
//! command line is never forgotten; it is the last resort when all others fail.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use client::{HasMeta, Meta, Reflector, Resource, Selection};
use pki::{Durability, write_with};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::https::Endpoint;

const SLICES: Resource =
    Resource::namespaced("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice");

/// The servers, `host:port` each.
#[derive(Debug)]
pub(crate) struct Servers {
    file: PathBuf,
    /// The one that was given.
    given: Endpoint,
    told: watch::Sender<Vec<String>>,
    /// Those that the last attempt failed with, the oldest failure first.
    failed: Mutex<Vec<String>>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct File {
    #[serde(rename = "ServerURL")]
    server_url: String,
    server_addresses: Vec<String>,
}

impl Servers {
    /// What the file remembers, unless it is about another cluster's server.
    pub(crate) fn load(file: PathBuf, given: Endpoint) -> Self {
        let kept: File = fs::read(&file)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        let same = kept.server_url == given.to_string();
        let told = watch::Sender::new(if same { kept.server_addresses } else { Vec::new() });
        Self { file, given, told, failed: Mutex::default() }
    }

    /// What the cluster says now. An empty list is no news: some server must have said it.
    pub(crate) fn set(&self, mut addresses: Vec<String>) {
        addresses.sort();
        addresses.dedup();
        if addresses.is_empty() || *self.told.borrow() == addresses {
            return;
        }
        info!(servers = addresses.join(" "), "Servers of the cluster");
        let file = File { server_url: self.given.to_string(), server_addresses: addresses.clone() };
        let written = serde_json::to_vec(&file).map_err(anyhow::Error::from);
        let written =
            written.and_then(|text| write_with(&self.file, &text, 0o600, Durability::Durable));
        if let Err(err) = written {
            let err = format!("{err:#}");
            warn!(
                err,
                "Could not keep the list of servers, a restart will know the given one only"
            );
        }
        self.told.send_replace(addresses);
    }

    /// What the cluster said last.
    pub(crate) fn told(&self) -> Vec<String> {
        self.told.borrow().clone()
    }

    /// Every server to hold a connection to; changes wake the receiver.
    pub(crate) fn watch(&self) -> watch::Receiver<Vec<String>> {
        self.told.subscribe()
    }

    pub(crate) fn given(&self) -> &Endpoint {
        &self.given
    }

    /// All servers in the order to try them.
    pub(crate) fn order(&self) -> Vec<String> {
        order(&self.told.borrow(), &self.given.authority(), &self.failed())
    }

    /// Remembers how an attempt at a server went; returns whether that is news.
    pub(crate) fn tried(&self, server: &str, worked: bool) -> bool {
        let mut failed = self.failed();
        let before = failed.len();
        failed.retain(|have| have != server);
        let had_failed = failed.len() < before;
        if !worked {
            failed.push(server.to_owned());
        }
        had_failed == worked
    }

    fn failed(&self) -> MutexGuard<'_, Vec<String>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Those that work first; then those whose failure is longest ago. The given one comes last among
/// its equals.
fn order(told: &[String], given: &str, failed: &[String]) -> Vec<String> {
    let mut all: Vec<&str> = told.iter().map(String::as_str).collect();
    if !all.contains(&given) {
        all.push(given);
    }
    all.sort_by_key(|server| failed.iter().position(|have| have == server).map_or(0, |at| at + 1));
    all.into_iter().map(str::to_owned).collect()
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Slice {
    metadata: Meta,
    #[serde(deserialize_with = "client::null_default")]
    endpoints: Vec<SliceEndpoint>,
    #[serde(deserialize_with = "client::null_default")]
    ports: Vec<SlicePort>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SliceEndpoint {
    addresses: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SlicePort {
    port: Option<u16>,
}

impl HasMeta for Slice {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// Follows the endpoints of the Service `default/kubernetes`, until stopped.
pub(crate) async fn follow(
    stop: CancellationToken,
    kubeconfig: &Path,
    servers: &Servers,
) -> Result<()> {
    let client = client::connect(kubeconfig).await?;
    let selection = Selection {
        namespace: "default".to_owned(),
        labels: "kubernetes.io/service-name=kubernetes".to_owned(),
        ..Selection::default()
    };
    let reflector: Reflector<Slice> = Reflector::selecting(client, SLICES, selection);
    let lister = reflector.lister();
    let mut changes = reflector.changes();
    let mut watching = std::pin::pin!(reflector.run(stop.clone()));
    loop {
        tokio::select! {
            () = &mut watching => return Ok(()),
            changed = changes.changed() => changed?,
        }
        servers.set(lister.list().iter().flat_map(|slice| addresses(slice)).collect());
    }
}

fn addresses(slice: &Slice) -> Vec<String> {
    let Some(port) = slice.ports.iter().find_map(|port| port.port) else { return Vec::new() };
    let all = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
    all.map(|address| match address.contains(':') {
        true => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(told: &[&str], failed: &[&str], expected: &[&str]) {
        let own = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        assert_eq!(order(&own(told), "url:6443", &own(failed)), expected);
    }

    #[test]
    fn working_servers_come_first_and_the_given_one_last() {
        check(&[], &[], &["url:6443"]);
        check(&["a:1", "b:1"], &[], &["a:1", "b:1", "url:6443"]);
        check(&["a:1", "b:1"], &["a:1"], &["b:1", "url:6443", "a:1"]);
        check(&["a:1", "b:1"], &["b:1", "url:6443", "a:1"], &["b:1", "url:6443", "a:1"]);
        check(&["a:1", "url:6443"], &[], &["a:1", "url:6443"]);
    }

    #[test]
    fn the_list_survives_a_restart_but_not_another_cluster() {
        let file = std::env::temp_dir().join(format!("k3s-servers-{}.json", std::process::id()));
        let _ = fs::remove_file(&file);
        let endpoint = |text: &str| text.parse::<Endpoint>().unwrap();
        let servers = Servers::load(file.clone(), endpoint("https://a:6443"));
        servers.set(vec!["c:6443".into(), "b:6443".into()]);
        servers.set(Vec::new());
        let again = Servers::load(file.clone(), endpoint("https://a:6443"));
        assert_eq!(again.told(), ["b:6443", "c:6443"]);
        assert!(Servers::load(file.clone(), endpoint("https://z:6443")).told().is_empty());
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(r#""ServerURL":"https://a:6443","ServerAddresses":["#), "{text}");
        fs::remove_file(file).unwrap();
    }
}
