//! k3s-proxy: Services and host ports on this node, as one nftables table per address family.
//!
//! Watches Services, EndpointSlices and the pods of this node; the kernel state is a pure function
//! of them. Invariant: stopping it leaves the rules in place; `--cleanup` leaves nothing.

pub mod claims;
pub mod element;
pub mod flows;
mod health;
pub mod kernel;
pub mod objects;
pub mod plan;
mod service;
pub mod shape;
pub mod table;

use crate::claims::{Claims, Owner};
use crate::kernel::Kernel;
use crate::objects::{EndpointSlice, NODES, PODS, Pod, SERVICES, SLICES, Service};
use crate::plan::Place;
use crate::service::{Dirty, Proxy, index_term, service_of};
use crate::table::Settings;
use anyhow::{Context as _, Result};
use client::{HasMeta, PartialObject, Reflector, Selection};
use daemon::{Component, ConfigError, Context, Listener, bind_tcp};
use ipnetwork::IpNetwork;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub const COMPONENT: Component = Component { name: "k3s-proxy", bus: "io.k3s.Proxy1" };

/// Flags of `k3s-proxy`.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// Identity for the API server.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/var/lib/rancher/k3s/agent/kubeproxy.kubeconfig"
    )]
    pub kubeconfig: PathBuf,
    /// Name of this Node; the host name if not given.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub hostname_override: String,
    /// Addresses of pods; clients from elsewhere are masqueraded.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub cluster_cidr: Vec<IpNetwork>,
    /// Addresses of this node that node ports are served on; all if not given.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub nodeport_addresses: Vec<IpNetwork>,
    /// Where `/healthz` is served, if no socket is passed.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:10256")]
    pub healthz_bind_address: SocketAddr,
    /// Remove the rules and exit.
    #[arg(long)]
    pub cleanup: bool,
}

pub async fn run(cx: Context, args: Args) -> Result<()> {
    if args.cleanup {
        return kernel::cleanup().await.context("removing the table k3s-proxy");
    }
    let mut node = args.hostname_override.clone();
    if node.is_empty() {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
        node = name.trim().to_lowercase();
    }
    let client = client::connect(&args.kubeconfig)
        .await
        .map_err(|err| ConfigError(format!("{}: {err:#}", args.kubeconfig.display())))?;
    let mut tasks = JoinSet::new();
    let health = watch::Sender::new(health::State::default());
    let listener = health_listener(&cx, &args)?;
    tasks.spawn(health::serve(listener, health.subscribe(), cx.stop.clone()));

    let services: Reflector<Service> = Reflector::new(client.clone(), SERVICES);
    let slices: Reflector<EndpointSlice> = Reflector::new(client.clone(), SLICES);
    let fields = format!("spec.nodeName={node}");
    let selection = Selection { fields, ..Selection::default() };
    let pods: Reflector<Pod> = Reflector::selecting(client.clone(), PODS, selection);
    let fields = format!("metadata.name={node}");
    let selection = Selection { fields, ..Selection::default() };
    let nodes: Reflector<PartialObject> = Reflector::metadata(client, NODES, selection);
    let slices_of = slices.add_index(|slice| service_of(slice).iter().map(index_term).collect());
    let dirty = Arc::new(Dirty::default());
    mark_dirty(&dirty, &services, &slices, &pods);
    let to = dirty.clone();
    nodes.on_event(move |_| to.node_changed());
    let proxy = Proxy {
        cx: cx.clone(),
        here: Place { node, zone: String::new() },
        nodes: nodes.lister(),
        services: services.lister(),
        slices: slices.lister(),
        slices_of,
        pods: pods.lister(),
        dirty,
        kernel: Kernel::new(Settings {
            cluster_cidrs: args.cluster_cidr,
            nodeport_addresses: args.nodeport_addresses,
        }),
        claims: Claims::default(),
        health,
    };
    tasks.spawn(services.clone().run(cx.stop.clone()));
    tasks.spawn(slices.clone().run(cx.stop.clone()));
    tasks.spawn(pods.clone().run(cx.stop.clone()));
    tasks.spawn(nodes.clone().run(cx.stop.clone()));
    cx.status("Waiting for the API server");
    let synced =
        async { tokio::join!(services.synced(), slices.synced(), pods.synced(), nodes.synced()) };
    tokio::select! {
        () = cx.stop.cancelled() => {}
        _ = synced => proxy.run().await?,
    }
    tasks.shutdown().await;
    Ok(())
}

fn health_listener(cx: &Context, args: &Args) -> Result<TcpListener> {
    let listener = match cx.listener("healthz") {
        Some(listener) => listener,
        None => bind_tcp(args.healthz_bind_address)?,
    };
    match listener {
        Listener::Tcp(listener) => Ok(TcpListener::from_std(listener)?),
        _ => Err(ConfigError("the socket healthz must be a TCP socket".into()).into()),
    }
}

fn mark_dirty(
    dirty: &Arc<Dirty>,
    services: &Reflector<Service>,
    slices: &Reflector<EndpointSlice>,
    pods: &Reflector<Pod>,
) {
    let to = dirty.clone();
    services.on_event(move |event| {
        to.add(Owner::Service(event.object().meta().key()));
    });
    let to = dirty.clone();
    slices.on_event(move |event| {
        let both = [Some(event.object()), event.old()];
        for key in both.into_iter().flatten().filter_map(|slice| service_of(slice)) {
            to.add(Owner::Service(key));
        }
    });
    let to = dirty.clone();
    pods.on_event(move |event| {
        to.add(Owner::Pod(event.object().meta().key()));
    });
}
