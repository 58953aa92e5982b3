//! The scheduler: every pod without a node gets one, or the reason why not.
//!
//! `framework.rs` decides, purely, over `cache.rs`; `queue.rs` says whose turn it is; this file
//! connects them to the API server. Decisions are made one after the other, bindings go out side by
//! side: a decided pod is assumed on its node until the API server confirms or refuses.

mod binder;
mod cache;
mod config;
mod devices;
mod extender;
mod framework;
mod hints;
mod index;
mod plugins;
mod preemption;
mod profile;
mod queue;
mod resources;
mod scheduler;
mod simulator;
mod storage;
mod types;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use client::{PartialObject, Reflector, Resource, Selection};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use crate::simulator::Simulator;
use crate::{
    config::Configuration,
    devices::{DeviceClass, ResourceClaim, ResourceSlice},
    queue::Waits,
    scheduler::Scheduler,
    storage::{Claim, Class, CsiNode, Volume},
    types::{Budget, MapSelecting, Node, Pod, Selecting},
};

/// This component's names.
pub const COMPONENT: daemon::Component =
    daemon::Component { name: "k3s-scheduler", bus: "io.k3s.Scheduler1" };

pub(crate) static PODS: Resource = Resource::namespaced("", "v1", "pods", "Pod");
pub(crate) static NODES: Resource = Resource::cluster("", "v1", "nodes", "Node");
pub(crate) static BUDGETS: Resource =
    Resource::namespaced("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget");
pub(crate) static CLAIMS: Resource =
    Resource::namespaced("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim");
pub(crate) static VOLUMES: Resource =
    Resource::cluster("", "v1", "persistentvolumes", "PersistentVolume");
pub(crate) static STORAGE_CLASSES: Resource =
    Resource::cluster("storage.k8s.io", "v1", "storageclasses", "StorageClass");
pub(crate) static CSI_NODES: Resource =
    Resource::cluster("storage.k8s.io", "v1", "csinodes", "CSINode");
pub(crate) static NAMESPACES: Resource = Resource::cluster("", "v1", "namespaces", "Namespace");
pub(crate) static SERVICES: Resource = Resource::namespaced("", "v1", "services", "Service");
pub(crate) static REPLICATION_CONTROLLERS: Resource =
    Resource::namespaced("", "v1", "replicationcontrollers", "ReplicationController");
pub(crate) static REPLICA_SETS: Resource =
    Resource::namespaced("apps", "v1", "replicasets", "ReplicaSet");
pub(crate) static STATEFUL_SETS: Resource =
    Resource::namespaced("apps", "v1", "statefulsets", "StatefulSet");
pub(crate) static RESOURCE_CLAIMS: Resource =
    Resource::namespaced("resource.k8s.io", "v1", "resourceclaims", "ResourceClaim");
pub(crate) static DEVICE_CLASSES: Resource =
    Resource::cluster("resource.k8s.io", "v1", "deviceclasses", "DeviceClass");
pub(crate) static RESOURCE_SLICES: Resource =
    Resource::cluster("resource.k8s.io", "v1", "resourceslices", "ResourceSlice");

/// Flags, named as upstream's kube-scheduler.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// Kubeconfig with the identity to use
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// Configuration file (KubeSchedulerConfiguration)
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Longest that an unschedulable pod waits for an event before it is tried again
    #[arg(long, default_value = "5m", value_parser = client::parse_duration)]
    pub pod_max_in_unschedulable_pods_duration: Duration,
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
    let configuration = match &args.config {
        None => Configuration::default(),
        Some(path) => read(path).map_err(daemon::ConfigError)?,
    };
    let waits = Waits {
        backoff_initial: configuration.backoff_initial,
        backoff_max: configuration.backoff_max,
        unschedulable_max: args.pod_max_in_unschedulable_pods_duration,
    };
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
    let sources = Sources::new(&client);
    let scheduler = Scheduler::new(&client, recorder, &sources, configuration, waits);
    sources.start(&mut tasks, &cx.stop);
    tokio::select! {
        () = sources.synced() => {}
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

fn read(path: &std::path::Path) -> Result<Configuration, String> {
    let file = path.display();
    let text = std::fs::read(path).map_err(|err| format!("--config: reading {file}: {err}"))?;
    Configuration::parse(&text).map_err(|err| format!("--config: {file}: {err}"))
}

/// Everything that is watched.
pub(crate) struct Sources {
    pub(crate) pods: Reflector<Pod>,
    pub(crate) nodes: Reflector<Node>,
    pub(crate) namespaces: Reflector<PartialObject>,
    pub(crate) budgets: Reflector<Budget>,
    pub(crate) claims: Reflector<Claim>,
    pub(crate) volumes: Reflector<Volume>,
    pub(crate) classes: Reflector<Class>,
    pub(crate) csi_nodes: Reflector<CsiNode>,
    pub(crate) services: Reflector<MapSelecting>,
    pub(crate) replication_controllers: Reflector<MapSelecting>,
    pub(crate) replica_sets: Reflector<Selecting>,
    pub(crate) stateful_sets: Reflector<Selecting>,
    pub(crate) resource_claims: Reflector<ResourceClaim>,
    pub(crate) device_classes: Reflector<DeviceClass>,
    pub(crate) resource_slices: Reflector<ResourceSlice>,
}

impl Sources {
    fn new(client: &kube::Client) -> Self {
        let living = Selection {
            fields: "status.phase!=Succeeded,status.phase!=Failed".into(),
            ..Selection::default()
        };
        let namespaces = NAMESPACES.clone();
        Sources {
            pods: Reflector::selecting(client.clone(), PODS.clone(), living),
            nodes: Reflector::new(client.clone(), NODES.clone()),
            namespaces: Reflector::metadata(client.clone(), namespaces, Selection::default()),
            budgets: Reflector::new(client.clone(), BUDGETS.clone()),
            claims: Reflector::new(client.clone(), CLAIMS.clone()),
            volumes: Reflector::new(client.clone(), VOLUMES.clone()),
            classes: Reflector::new(client.clone(), STORAGE_CLASSES.clone()),
            csi_nodes: Reflector::new(client.clone(), CSI_NODES.clone()),
            services: Reflector::new(client.clone(), SERVICES.clone()),
            replication_controllers: Reflector::new(
                client.clone(),
                REPLICATION_CONTROLLERS.clone(),
            ),
            replica_sets: Reflector::new(client.clone(), REPLICA_SETS.clone()),
            stateful_sets: Reflector::new(client.clone(), STATEFUL_SETS.clone()),
            resource_claims: Reflector::new(client.clone(), RESOURCE_CLAIMS.clone()),
            device_classes: Reflector::new(client.clone(), DEVICE_CLASSES.clone()),
            resource_slices: Reflector::new(client.clone(), RESOURCE_SLICES.clone()),
        }
    }

    fn start(&self, tasks: &mut JoinSet<()>, stop: &CancellationToken) {
        tasks.spawn(self.pods.clone().run(stop.clone()));
        tasks.spawn(self.nodes.clone().run(stop.clone()));
        tasks.spawn(self.namespaces.clone().run(stop.clone()));
        tasks.spawn(self.budgets.clone().run(stop.clone()));
        tasks.spawn(self.claims.clone().run(stop.clone()));
        tasks.spawn(self.volumes.clone().run(stop.clone()));
        tasks.spawn(self.classes.clone().run(stop.clone()));
        tasks.spawn(self.csi_nodes.clone().run(stop.clone()));
        tasks.spawn(self.services.clone().run(stop.clone()));
        tasks.spawn(self.replication_controllers.clone().run(stop.clone()));
        tasks.spawn(self.replica_sets.clone().run(stop.clone()));
        tasks.spawn(self.stateful_sets.clone().run(stop.clone()));
        tasks.spawn(self.resource_claims.clone().run(stop.clone()));
        tasks.spawn(self.device_classes.clone().run(stop.clone()));
        tasks.spawn(self.resource_slices.clone().run(stop.clone()));
    }

    async fn synced(&self) {
        tokio::join!(
            self.pods.synced(),
            self.nodes.synced(),
            self.namespaces.synced(),
            self.budgets.synced(),
            self.claims.synced(),
            self.volumes.synced(),
            self.classes.synced(),
            self.csi_nodes.synced(),
            self.services.synced(),
            self.replication_controllers.synced(),
            self.replica_sets.synced(),
            self.stateful_sets.synced(),
            self.resource_claims.synced(),
            self.device_classes.synced(),
            self.resource_slices.synced(),
        );
    }
}
