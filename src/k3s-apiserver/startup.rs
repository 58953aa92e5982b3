//! What the server writes before it is ready: the bootstrap objects.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Context;
use jiff::Timestamp;

use crate::api_server::ApiServer;
use crate::args::Args;
use crate::bootstrap::{RequestHeader, Settings, Step, plan};
use crate::custom;
use crate::storage::entry::encode;
use crate::storage::keys::object_key;
use crate::storage::write::{Change, Outcome};

/// Rounds until nothing is missing: others may write at the same time.
const ROUNDS: usize = 5;

/// Brings the cluster to what a fresh one has.
pub async fn run(server: &ApiServer) -> anyhow::Result<()> {
    let settings = settings(&server.args)?;
    server.storage.settled().await?;
    custom::controller::load(server);
    for _ in 0..ROUNDS {
        server.storage.settled().await?;
        let have = |resource: &str, namespace: &str, name: &str| {
            server.cluster.get(resource, namespace, name).map(|entry| entry.object())
        };
        let steps = plan(&have, &settings, Timestamp::now());
        if steps.is_empty() {
            return Ok(());
        }
        for step in steps {
            perform(server, step).await?;
        }
    }
    Ok(())
}

async fn perform(server: &ApiServer, step: Step) -> anyhow::Result<()> {
    let (resource, object) = match step {
        Step::Create { resource, object } | Step::Replace { resource, object } => {
            (resource, object)
        }
    };
    let Some(store) = server.cluster.store(resource) else { return Ok(()) };
    let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    let key = object_key(text("namespace"), text("name"));
    let expected = store.get(&key).map_or(0, |entry| entry.revision);
    let change = Change::Put { value: encode(&object).into(), lease: 0 };
    let path = format!("{}{key}", store.prefix);
    let written = server.storage.write(&path, expected, change).await;
    match written.with_context(|| format!("write {path}"))? {
        Outcome::Done(_) | Outcome::Conflict(_) => Ok(()),
    }
}

fn settings(args: &Args) -> anyhow::Result<Settings> {
    let read = |path: &std::path::PathBuf| {
        std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
    };
    let advertise = match (args.advertise_address, args.bind_address) {
        (Some(address), _) => address,
        (None, bound) if !bound.is_unspecified() => bound,
        _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let request_header = match &args.requestheader_client_ca_file {
        None => None,
        Some(path) => Some(RequestHeader {
            ca: read(path)?,
            allowed_names: args.requestheader_allowed_names.clone(),
            username_headers: args.requestheader_username_headers.clone(),
            group_headers: args.requestheader_group_headers.clone(),
            extra_prefixes: args.requestheader_extra_headers_prefix.clone(),
        }),
    };
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let digest = ring::digest::digest(&ring::digest::SHA256, hostname.as_bytes());
    let hash: String = digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    Ok(Settings {
        advertise,
        port: args.secure_port,
        service_ranges: args.service_cluster_ip_range.clone(),
        client_ca: args.client_ca_file.as_ref().map(read).transpose()?,
        request_header,
        lease_name: format!("apiserver-{}", hash.chars().take(26).collect::<String>()),
        lease_holder: format!("apiserver-{hash}_{}", uuid::Uuid::new_v4()),
        hostname,
    })
}
