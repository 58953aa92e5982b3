//! The node agent: runs the pods that are bound to this node through a CRI runtime.
//!
//! Pods come from the API server and from a manifest directory, one worker each; the runtime's
//! event stream wakes them. It knows nothing of how pods get a network, of volumes beyond this
//! node's disks, or of other nodes. Invariant: stopping or killing this process never touches a
//! running container, and starting it again takes over what runs.

mod admission;
mod bus;
mod cgroup;
mod config;
mod cri;
mod eviction;
mod image;
mod log_rotation;
mod manager;
mod node;
mod objects;
mod pod;
mod server;
mod shared;
mod slice;
mod source;
mod tasks;
mod typed;
mod volume;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use client::{Recorder, Reflector, Rest};
use k8s_openapi::api::core::v1::Service;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

pub use config::Args;
pub use cri::facts::RuntimeFacts;

use config::Config;
use cri::Runtime;
use manager::{Pods, Sources};
use objects::ObjectCache;
use shared::Shared;
use typed::{SERVICES, Typed};

/// Names of this component.
pub const COMPONENT: daemon::Component =
    daemon::Component { name: "k3s-kubelet", bus: "io.k3s.Kubelet1" };

const RUNTIME_PATIENCE: Duration = Duration::from_secs(60);
const EVENTS_MAX: usize = 1024;
const WATCHES_WAITING_MAX: usize = 1024;

/// Runs the kubelet until the context stops it.
pub async fn run(cx: daemon::Context, args: Args) -> anyhow::Result<()> {
    let config = Config::load(&args).map_err(|err| daemon::ConfigError(format!("{err:#}")))?;
    // A second installation by another part of the process is fine: it is the same provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    std::fs::create_dir_all(config.pods_dir())
        .with_context(|| format!("creating {}", config.pods_dir().display()))?;
    let runtime = Runtime::new(&config.runtime_endpoint)?;
    cx.status("Waiting for the container runtime");
    let version = tokio::select! {
        () = cx.stop.cancelled() => return Ok(()),
        version = runtime.wait_ready(RUNTIME_PATIENCE) => version?,
    };
    tracing::info!(runtime = %version.runtime_name, version = %version.runtime_version,
        "Container runtime answered");
    let client = match &args.kubeconfig {
        Some(path) => Some(client::connect(path).await?),
        None => None,
    };
    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let stop = &cx.stop;

    let recorder = match &client {
        Some(client) => {
            let (recorder, sink) = client::recorder(client.clone(), "kubelet", &config.node_name);
            let stop = stop.clone();
            tasks.spawn(async move {
                sink.run(stop).await;
                Ok(())
            });
            recorder
        }
        None => Recorder::discarding(),
    };
    let (spawner, watches) = tasks::nursery(WATCHES_WAITING_MAX);
    let objects = ObjectCache::new(client.clone(), spawner);
    tasks.spawn({
        let stop = stop.clone();
        async move {
            watches.run(stop).await;
            Ok(())
        }
    });
    let services = client.clone().map(|client| {
        let reflector: Reflector<Typed<Service>> = Reflector::new(client, SERVICES.clone());
        let lister = reflector.lister();
        let stop = stop.clone();
        tasks.spawn(async move {
            reflector.run(stop).await;
            Ok(())
        });
        lister
    });
    let (network, network_state) = node::network_channel();
    tasks.spawn({
        let (runtime, bus, stop) = (runtime.clone(), cx.bus().clone(), stop.clone());
        let bus = (!has_cni_conf(&config)).then_some(bus);
        async move {
            node::network::follow(runtime, bus, network, stop).await;
            Ok(())
        }
    });
    let host_ips = node::facts::addresses(&config).iter().map(ToString::to_string).collect();
    let (_, allocatable) = node::facts::resources(&config);
    let rest = client.clone().map(Rest::new);
    let shared = Arc::new(Shared::new(
        config,
        runtime.clone(),
        rest.clone(),
        recorder,
        objects,
        services,
        host_ips,
        allocatable,
        network_state,
    ));
    let pods = Pods::default();
    let sources = sources(&shared, client, &runtime, &mut tasks, stop);
    tasks.spawn(manager::run(Arc::clone(&shared), pods.clone(), sources, stop.clone()));
    let drain = bus::serve(cx.bus().clone(), shared.clone(), pods.clone(), stop.clone());
    tasks.spawn(drain);
    server::spawn(&cx, &shared, &pods, &mut tasks)?;
    tasks.spawn(log_rotation::run(Arc::clone(&shared), pods.clone(), stop.clone()));
    match rest {
        Some(rest) => {
            let (shared, pods, stop, cx) = (Arc::clone(&shared), pods, stop.clone(), cx.clone());
            let version = version.runtime_version.trim_start_matches('v').to_owned();
            let version = version.split_once('~').map_or(version.clone(), |(v, _)| v.to_owned());
            tasks.spawn(async move {
                let told = cx.clone();
                let ready = move |text: &str| {
                    told.ready();
                    told.status(text);
                };
                node::run(shared, rest, pods, version, ready, stop).await
            });
        }
        None => {
            cx.ready();
            cx.status("Running static pods only");
        }
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

fn has_cni_conf(config: &Config) -> bool {
    let dir = config.cni_conf_dir.as_ref().and_then(|dir| std::fs::read_dir(dir).ok());
    dir.into_iter().flatten().flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.ends_with(".conf") || name.ends_with(".conflist")
    })
}

fn sources(
    shared: &Arc<Shared>,
    client: Option<kube::Client>,
    runtime: &Runtime,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    stop: &tokio_util::sync::CancellationToken,
) -> Sources {
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    tasks.spawn(cri::events::subscribe(runtime.clone(), sender, stop.clone()));
    let api = client.map(|client| {
        let (reflector, queue, woken) =
            source::watch::reflector(client, &shared.config.node_name, "pods");
        let (synced, is_synced) = watch::channel(false);
        let (run, stopped) = (reflector.clone(), stop.clone());
        tasks.spawn(async move {
            run.run(stopped).await;
            Ok(())
        });
        let stop = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = reflector.synced() => {
                    synced.send_replace(true);
                    stop.cancelled().await;
                }
            }
            Ok(())
        });
        (queue, woken, is_synced)
    });
    let manifests = shared.config.pod_manifest_path.clone().map(|dir| {
        let (sender, manifests) = mpsc::channel(1);
        let (node, stop) = (shared.config.node_name.clone(), stop.clone());
        tasks.spawn(async move { source::manifests::watch(&dir, &node, sender, stop).await });
        manifests
    });
    Sources { api, manifests, events }
}
