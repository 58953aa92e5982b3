//! Start and stop: from flags to a serving API server.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::bail;
use api::resources::Resource;
use daemon::{ConfigError, Listener};
use pki::tls::Pair;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::admission::Webhooks;
use crate::aggregation::Delegates;
use crate::api_server::ApiServer;
use crate::args::Args;
use crate::audit::Audit;
use crate::auth::{Auth, legacy_token};
use crate::cluster::{Cluster, ClusterOptions};
use crate::custom::convert::Converted;
use crate::flowcontrol::FlowControl;
use crate::kinds::Kinds;
use crate::metrics::Metrics;
use crate::remote::Remote;
use crate::storage::{Storage, Writers, compact, feed};
use crate::supervisor::agents::Agents;
use crate::tls::{Files, Tls};
use crate::{aggregation, companions, custom, flowcontrol, server, startup};

/// How long connections wait for the bootstrap objects before they are served regardless.
const HOLD: Duration = Duration::from_secs(5);
/// How long the store may be away before that is said.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the API server until `cx.stop`.
pub async fn run(cx: daemon::Context, args: Args) -> anyhow::Result<()> {
    let tls = Arc::new(Tls::load(tls_files(&args)?)?);
    let listener = match cx.listener("https") {
        Some(listener) => listener,
        None => daemon::bind_tcp(SocketAddr::new(args.bind_address, args.secure_port))?,
    };
    let Listener::Tcp(listener) = listener else { bail!("the https socket is no TCP socket") };
    let compaction = duration("--etcd-compaction-interval", &args.etcd_compaction_interval)?;
    let server = Arc::new(make(args, &cx)?);
    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    // The caches follow the store until the last request is answered: reads wait for them.
    let drained = CancellationToken::new();
    let (storage, stop) = (server.storage.clone(), drained.clone());
    tasks.spawn(async move {
        feed::run(storage, stop).await;
        Ok(())
    });
    if !compaction.is_zero() {
        let (storage, stop) = (server.storage.clone(), cx.stop.clone());
        tasks.spawn(async move {
            compact::run(storage, compaction, stop).await;
            Ok(())
        });
    }
    // Connections wait in the socket until roles and caches are there: no client is told at start
    // that it may not do what it may. A store that stays away must not keep health checks waiting.
    let mut filling = std::pin::pin!(fill(&server));
    let early = tokio::select! {
        filled = tokio::time::timeout(HOLD, &mut filling) => filled.ok(),
        () = cx.stop.cancelled() => Some(Ok(())),
    };
    let (served, stop) = (server.clone(), cx.stop.clone());
    tasks.spawn(async move {
        custom::controller::run(served, stop).await;
        Ok(())
    });
    let (repaired, stop) = (server.clone(), cx.stop.clone());
    tasks.spawn(async move {
        companions::run(repaired, stop).await;
        Ok(())
    });
    let (tracked, stop) = (server.clone(), cx.stop.clone());
    tasks.spawn(async move {
        legacy_token::track(tracked, stop).await;
        Ok(())
    });
    let (served, stop) = (server.clone(), cx.stop.clone());
    tasks.spawn(async move {
        aggregation::controller::run(served, stop).await;
        Ok(())
    });
    let (served, stop) = (server.clone(), cx.stop.clone());
    tasks.spawn(async move {
        flowcontrol::controller::run(served, stop).await;
        Ok(())
    });
    let serving = server::serve(server.clone(), listener, tls, cx.stop.clone());
    tasks.spawn(async move {
        let _drained = drained.drop_guard();
        serving.await
    });
    let filled = match early {
        Some(filled) => filled,
        None => tokio::select! {
            filled = filling => filled,
            () = cx.stop.cancelled() => Ok(()),
        },
    };
    if let Err(err) = filled {
        warn!(err = %format_args!("{err:#}"), "Could not write all bootstrap objects, going on");
    }
    server.started.store(true, Ordering::Release);
    cx.ready();
    cx.status("Serving");
    let mut result = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let ended = ended.map_err(anyhow::Error::from).flatten();
        if ended.is_err() && result.is_ok() {
            result = ended;
            cx.stop.cancel();
        }
    }
    server.end_tunnels().await;
    result
}

/// Waits for the caches, then writes what a fresh cluster has.
async fn fill(server: &ApiServer) -> anyhow::Result<()> {
    while server.storage.reached(1, PATIENCE).await.is_none() {
        info!("Waiting for the store");
    }
    startup::run(server).await
}

fn make(args: Args, cx: &daemon::Context) -> anyhow::Result<ApiServer> {
    if args.etcd_prefix != "/registry" {
        bail!(ConfigError(format!(
            "--etcd-prefix {}: only /registry is supported",
            args.etcd_prefix
        )));
    }
    let [endpoint] = args.etcd_servers.as_slice() else {
        bail!(ConfigError(
            "--etcd-servers: several servers are not supported yet, give one".into()
        ));
    };
    let auth = Auth::load(&args).map_err(|err| ConfigError(format!("{err:#}")))?;
    let client = etcd::Client::connect(endpoint)?;
    let writers = if endpoint.starts_with("unix:") { Writers::Us } else { Writers::Many };
    let kinds = Kinds::builtin(|resource| is_served(resource, &args.runtime_config));
    let storage = Arc::new(Storage::new(client, writers, kinds.stores()));
    let options = ClusterOptions {
        service_cidrs: args.service_cluster_ip_range.clone(),
        node_ports: args.service_node_port_range.clone(),
    };
    let proxy = match (&args.proxy_client_cert_file, &args.proxy_client_key_file) {
        (Some(cert), Some(key)) => Some(Pair { cert: cert.clone(), key: key.clone() }),
        _ => None,
    };
    Ok(ApiServer {
        event_ttl: duration("--event-ttl", &args.event_ttl)?,
        kinds,
        cluster: Cluster::new(options, storage.clone()),
        storage,
        metrics: Metrics::default(),
        auth,
        stop: cx.stop.clone(),
        configuration: cx.configuration().clone(),
        begun: jiff::Timestamp::now(),
        started: AtomicBool::new(false),
        agents: Agents::default(),
        remote: Remote::new(proxy),
        webhooks: Webhooks::default(),
        converted: Converted::default(),
        delegates: Delegates::default(),
        flow_control: FlowControl::default(),
        audit: Audit::load(&args)?,
        tunnels: Mutex::new(JoinSet::new()),
        args,
    })
}

fn duration(flag: &str, text: &str) -> anyhow::Result<Duration> {
    // Go writes zero without a unit.
    let text = if text == "0" { "0s" } else { text };
    let span: jiff::Span =
        text.parse().map_err(|err| ConfigError(format!("{flag} {text}: {err}")))?;
    let duration = span.to_duration(jiff::civil::date(2000, 1, 1))?;
    Ok(Duration::try_from(duration)?)
}

fn tls_files(args: &Args) -> anyhow::Result<Files> {
    let missing =
        |flag: &str| ConfigError(format!("{flag} is required: HTTPS needs a certificate"));
    let cert = args.tls_cert_file.clone().ok_or_else(|| missing("--tls-cert-file"))?;
    let key = args.tls_private_key_file.clone().ok_or_else(|| missing("--tls-private-key-file"))?;
    let client_ca = args.client_ca_file.clone();
    let proxy_ca = args.requestheader_client_ca_file.clone();
    Ok(Files { cert, key, client_ca, proxy_ca })
}

/// What `--runtime-config` says about a resource; the most particular setting wins.
fn is_served(resource: &Resource, config: &[String]) -> bool {
    let version = resource.api_version();
    let particular = format!("{version}/{}", resource.plural);
    let level = if resource.version.contains("alpha") {
        "api/alpha"
    } else if resource.version.contains("beta") {
        "api/beta"
    } else {
        "api/ga"
    };
    let setting = |name: &str| {
        config.iter().rev().find_map(|entry| {
            let (key, value) = entry.split_once('=').unwrap_or((entry, "true"));
            (key == name).then(|| value != "false")
        })
    };
    [particular.as_str(), &version, level, "api/all"]
        .iter()
        .find_map(|name| setting(name))
        .unwrap_or(resource.served_by_default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtime_config_switches_versions() {
        let served = |config: &[&str], version: &str| {
            let config: Vec<String> = config.iter().map(|&entry| entry.to_owned()).collect();
            let resource =
                api::resources::by_plural("resource.k8s.io", version, "resourceclaims").unwrap();
            is_served(resource, &config)
        };
        assert!(served(&[], "v1"));
        assert!(!served(&[], "v1beta1"));
        assert!(served(&["resource.k8s.io/v1beta1=true"], "v1beta1"));
        assert!(served(&["api/all"], "v1beta1"));
        assert!(!served(&["api/all", "resource.k8s.io/v1beta1=false"], "v1beta1"));
    }

    #[test]
    fn durations_are_read_in_gos_notation() {
        assert_eq!(duration("--event-ttl", "1h0m0s").unwrap(), Duration::from_secs(3600));
        assert!(duration("--event-ttl", "soon").is_err());
        assert!(duration("--event-ttl", "0").unwrap().is_zero());
    }
}
