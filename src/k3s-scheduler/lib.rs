//! The scheduler: every pod without a node gets one, or the reason why not.
//!
//! `framework.rs` decides, purely, over `cache.rs`; `queue.rs` says whose turn it is; this file
//! connects them to the API server. Decisions are made one after the other, bindings go out side by
//! side: a decided pod is assumed on its node until the API server confirms or refuses.

mod cache;
mod framework;
mod plugins;
mod preemption;
mod queue;
mod resources;
mod scheduler;
mod types;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use client::{Reflector, Resource, Selection};
use tokio::task::JoinSet;

use crate::{
    scheduler::Scheduler,
    types::{Budget, Node, Pod},
};

/// This component's names.
pub const COMPONENT: daemon::Component =
    daemon::Component { name: "k3s-scheduler", bus: "io.k3s.Scheduler1" };

pub(crate) static PODS: Resource = Resource::namespaced("", "v1", "pods", "Pod");
pub(crate) static NODES: Resource = Resource::cluster("", "v1", "nodes", "Node");
pub(crate) static BUDGETS: Resource =
    Resource::namespaced("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget");
pub(crate) static NAMESPACES: Resource = Resource::cluster("", "v1", "namespaces", "Namespace");

/// Flags, named as upstream's kube-scheduler.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// Kubeconfig with the identity to use
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// Configuration file (KubeSchedulerConfiguration); not read yet, so it is refused
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Address to serve health and metrics on
    #[arg(long, default_value = "127.0.0.1")]
    pub bind_address: std::net::IpAddr,
    /// Port to serve health and metrics on
    #[arg(long, default_value_t = 10259)]
    pub secure_port: u16,
    /// Certificate for the health and metrics port; plain HTTP without
    #[arg(long)]
    pub tls_cert_file: Option<PathBuf>,
    /// Private key for the health and metrics port
    #[arg(long)]
    pub tls_private_key_file: Option<PathBuf>,
}

/// Runs the scheduler until `cx.stop`.
pub async fn run(cx: daemon::Context, args: Args) -> Result<()> {
    if args.config.is_some() {
        let text = "--config: scheduler configuration files are not supported by this version";
        return Err(daemon::ConfigError(text.to_owned()).into());
    }
    let client = client::connect(&args.kubeconfig)
        .await
        .map_err(|err| daemon::ConfigError(format!("{err:#}")))?;
    let mut tasks = JoinSet::new();
    let listener = daemon::health::listener(&cx, args.bind_address, args.secure_port)?;
    let tls = pki::tls::given(args.tls_cert_file.as_deref(), args.tls_private_key_file.as_deref())
        .map_err(|err| daemon::ConfigError(format!("{err:#}")))?;
    tasks.spawn(daemon::health::serve(listener, tls, cx.stop.clone()));
    client::wait_until_ready(&client, &cx.stop).await?;

    let (recorder, sink) = client::recorder(client.clone(), "default-scheduler", "");
    tasks.spawn(sink.run(cx.stop.clone()));
    let living = Selection {
        fields: "status.phase!=Succeeded,status.phase!=Failed".into(),
        ..Selection::default()
    };
    let pods: Reflector<Pod> = Reflector::selecting(client.clone(), PODS.clone(), living);
    let nodes: Reflector<Node> = Reflector::new(client.clone(), NODES.clone());
    let namespaces = Reflector::metadata(client.clone(), NAMESPACES.clone(), Selection::default());
    let budgets: Reflector<Budget> = Reflector::new(client.clone(), BUDGETS.clone());
    let scheduler = Scheduler::new(&client, recorder);
    scheduler.subscribe(&pods, &nodes, &namespaces, &budgets);
    tasks.spawn(pods.clone().run(cx.stop.clone()));
    tasks.spawn(nodes.clone().run(cx.stop.clone()));
    tasks.spawn(namespaces.clone().run(cx.stop.clone()));
    tasks.spawn(budgets.clone().run(cx.stop.clone()));
    tokio::select! {
        () = async { tokio::join!(
            nodes.synced(), pods.synced(), namespaces.synced(), budgets.synced()
        ); } => {}
        () = cx.stop.cancelled() => return Ok(()),
    }
    tasks.spawn(scheduler.run(cx.stop.clone()));
    cx.status("Scheduling");
    cx.ready();
    while let Some(ended) = tasks.join_next().await {
        ended.context("a part of the scheduler failed")?;
    }
    Ok(())
}
