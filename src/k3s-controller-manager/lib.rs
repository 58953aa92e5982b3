//! The controller manager: every controller is one file in `controllers/`, listed once in
//! [`CONTROLLERS`]. All of them share one set of caches, one client and one event recorder.
//!
//! A controller decides in a pure function over cached objects and performs the result; what a
//! write answers is taken into the cache at once, so that no decision is made twice.
//! Invariant: with nothing changing, nothing is written.

mod amounts;
mod caches;
mod controllers;
mod discovery;
mod hash;
mod ownership;
mod pod_control;
mod revisions;
#[cfg(test)]
mod simulation;
mod types;

use std::{future::Future, path::PathBuf, pin::Pin, sync::Arc};

use anyhow::{Context as _, Result};
use client::{Action, Key, Recorder, Rest, WorkQueue};
use ipnetwork::IpNetwork;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::caches::Caches;
use crate::controllers::CONTROLLERS;

/// This component's names.
pub const COMPONENT: daemon::Component =
    daemon::Component { name: "k3s-controller-manager", bus: "io.k3s.ControllerManager1" };

/// Flags, named as upstream's kube-controller-manager.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// Kubeconfig with the identity to use
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// Private key that signs service account tokens
    #[arg(long)]
    pub service_account_private_key_file: Option<PathBuf>,
    /// How long a token that was made unasked may be unused before it is marked, and then deleted
    #[arg(long, default_value = "8760h", value_parser = client::parse_duration)]
    pub legacy_service_account_token_clean_up_period: std::time::Duration,
    /// CA certificate published in every namespace
    #[arg(long)]
    pub root_ca_file: Option<PathBuf>,
    /// Address range of pods
    #[arg(long, default_value = "10.42.0.0/16")]
    pub cluster_cidr: IpNetwork,
    /// Address range of services
    #[arg(long, default_value = "10.43.0.0/16")]
    pub service_cluster_ip_range: IpNetwork,
    /// Whether to give nodes their pod range
    #[arg(long, default_value = "true", num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub allocate_node_cidrs: bool,
    /// Prefix length of a node's pod range; 24 for IPv4 and 64 for IPv6 when not given
    #[arg(long)]
    pub node_cidr_mask_size: Option<u8>,
    /// Prefix length of a node's IPv4 range, instead of the common one
    #[arg(long)]
    pub node_cidr_mask_size_ipv4: Option<u8>,
    /// Prefix length of a node's IPv6 range, instead of the common one
    #[arg(long)]
    pub node_cidr_mask_size_ipv6: Option<u8>,
    /// CA certificate that signs certificates for certificate signing requests
    #[arg(long)]
    pub cluster_signing_cert_file: Option<PathBuf>,
    /// Private key of that CA
    #[arg(long)]
    pub cluster_signing_key_file: Option<PathBuf>,
    /// CA certificate of the signer kubernetes.io/kube-apiserver-client, instead of the common one
    #[arg(long)]
    pub cluster_signing_kube_apiserver_client_cert_file: Option<PathBuf>,
    /// Private key of that CA
    #[arg(long)]
    pub cluster_signing_kube_apiserver_client_key_file: Option<PathBuf>,
    /// CA certificate of the signer kubernetes.io/kube-apiserver-client-kubelet, instead of the common one
    #[arg(long)]
    pub cluster_signing_kubelet_client_cert_file: Option<PathBuf>,
    /// Private key of that CA
    #[arg(long)]
    pub cluster_signing_kubelet_client_key_file: Option<PathBuf>,
    /// CA certificate of the signer kubernetes.io/kubelet-serving, instead of the common one
    #[arg(long)]
    pub cluster_signing_kubelet_serving_cert_file: Option<PathBuf>,
    /// Private key of that CA
    #[arg(long)]
    pub cluster_signing_kubelet_serving_key_file: Option<PathBuf>,
    /// CA certificate of the signer kubernetes.io/legacy-unknown, instead of the common one
    #[arg(long)]
    pub cluster_signing_legacy_unknown_cert_file: Option<PathBuf>,
    /// Private key of that CA
    #[arg(long)]
    pub cluster_signing_legacy_unknown_key_file: Option<PathBuf>,
    /// How long signed certificates are valid at most
    #[arg(long, default_value = "8760h", value_parser = client::parse_duration)]
    pub cluster_signing_duration: std::time::Duration,
    /// Controllers to run: '*' all, 'foo' that one, '-foo' not that one
    #[arg(long, default_value = "*", value_delimiter = ',')]
    pub controllers: Vec<String>,
    /// Cluster DNS address; empty for no cluster DNS Service
    #[arg(long, default_value = "")]
    pub cluster_dns: String,
    /// Cluster domain
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Folder of manifests to apply; none without
    #[arg(long)]
    pub manifests_dir: Option<PathBuf>,
    /// Kubeconfig to apply manifests with, instead of the common one
    #[arg(long)]
    pub manifests_kubeconfig: Option<PathBuf>,
    /// Manifests that are deleted, with their objects, instead of applied
    #[arg(long, value_delimiter = ',')]
    pub disabled_addons: Vec<String>,
    /// How long a node may be silent before it is called unhealthy
    #[arg(long, default_value = "50s", value_parser = client::parse_duration)]
    pub node_monitor_grace_period: std::time::Duration,
    /// Terminated pods to keep before the oldest are deleted
    #[arg(long, default_value_t = 12500)]
    pub terminated_pod_gc_threshold: i32,
    /// Address to serve health and metrics on
    #[arg(long, default_value = "127.0.0.1")]
    pub bind_address: std::net::IpAddr,
    /// Port to serve health and metrics on
    #[arg(long, default_value_t = 10257)]
    pub secure_port: u16,
    /// Certificate for the health and metrics port; plain HTTP without
    #[arg(long)]
    pub tls_cert_file: Option<PathBuf>,
    /// Private key for the health and metrics port
    #[arg(long)]
    pub tls_private_key_file: Option<PathBuf>,
}

/// What every controller is given. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Cx {
    pub rest: Rest,
    pub recorder: Recorder,
    pub caches: Arc<Caches>,
    pub args: Arc<Args>,
    pub stop: CancellationToken,
}

/// A running controller.
pub(crate) type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An entry of the table of controllers.
pub(crate) struct Controller {
    /// Upstream's name, as `--controllers` takes it.
    pub name: &'static str,
    /// Subscribes to the caches and returns the loop, which is polled once the caches are synced.
    pub start: fn(&Cx) -> Running,
}

/// Runs the controller manager until `cx.stop`.
pub async fn run(cx: daemon::Context, args: Args) -> Result<()> {
    let enabled = selected(&args.controllers)?;
    let client = client::connect(&args.kubeconfig)
        .await
        .map_err(|err| daemon::ConfigError(format!("{err:#}")))?;
    let mut tasks = JoinSet::new();
    let listener = daemon::health::listener(&cx, args.bind_address, args.secure_port)?;
    let tls = pki::tls::given(args.tls_cert_file.as_deref(), args.tls_private_key_file.as_deref())
        .map_err(|err| daemon::ConfigError(format!("{err:#}")))?;
    tasks.spawn(daemon::health::serve(listener, tls, cx.stop.clone()));
    client::wait_until_ready(&client, &cx.stop).await?;

    let (recorder, sink) = client::recorder(client.clone(), "kube-controller-manager", "");
    tasks.spawn(sink.run(cx.stop.clone()));
    let inner = Cx {
        rest: Rest::new(client.clone()),
        recorder,
        caches: Arc::new(Caches::new(&client)),
        args: Arc::new(args),
        stop: cx.stop.clone(),
    };
    let running: Vec<Running> =
        enabled.iter().map(|controller| (controller.start)(&inner)).collect();
    inner.caches.start(&mut tasks, &cx.stop);
    tokio::select! {
        () = inner.caches.synced() => {}
        () = cx.stop.cancelled() => return Ok(()),
    }
    for controller in running {
        tasks.spawn(controller);
    }
    tracing::info!(controllers = enabled.len(), "Controllers started");
    cx.status(format!("Running {} controllers", enabled.len()));
    cx.ready();
    while let Some(ended) = tasks.join_next().await {
        ended.context("a controller failed")?;
    }
    Ok(())
}

/// The shared shape of a controller: a queue that the subscriptions fill, workers that empty it.
pub(crate) fn workers<F, Fut>(
    cx: &Cx,
    name: &'static str,
    count: usize,
    queue: &WorkQueue<Key>,
    reconcile: F,
) -> Running
where
    F: Fn(Key) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Action>> + Send + 'static,
{
    let (queue, stop) = (queue.clone(), cx.stop.clone());
    Box::pin(client::run_workers(name, queue, count, stop, reconcile))
}

fn selected(wanted: &[String]) -> Result<Vec<&'static Controller>> {
    for name in wanted {
        let plain = name.strip_prefix('-').unwrap_or(name);
        if plain != "*" && !CONTROLLERS.iter().any(|controller| controller.name == plain) {
            let text = format!("--controllers: {plain:?} is not in the list of known controllers");
            return Err(daemon::ConfigError(text).into());
        }
    }
    let star = wanted.iter().any(|name| name == "*");
    let on = |name: &str| {
        let off = wanted.iter().any(|it| it.strip_prefix('-') == Some(name));
        !off && (star || wanted.iter().any(|it| it == name))
    };
    Ok(CONTROLLERS.iter().filter(|controller| on(controller.name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_controllers_flag_selects_by_name() {
        let check = |flag: &[&str]| {
            let flag: Vec<String> = flag.iter().map(|it| (*it).to_owned()).collect();
            selected(&flag).map(|found| found.iter().map(|it| it.name).collect::<Vec<_>>())
        };
        assert_eq!(check(&["*"]).unwrap().len(), CONTROLLERS.len());
        assert_eq!(check(&["*", "-deployment-controller"]).unwrap().len(), CONTROLLERS.len() - 1);
        assert_eq!(check(&["namespace-controller"]).unwrap(), ["namespace-controller"]);
        assert!(check(&["nonsense"]).is_err());
    }
}
