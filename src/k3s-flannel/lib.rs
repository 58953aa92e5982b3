//! k3s-flannel: the pod network of the node and the mesh to the other nodes.
//!
//! Watches Nodes, writes links, routes and one nftables table, answers the CNI plugin. Knows no
//! container runtime and no Service. Invariant: stopping it changes nothing for running pods.

mod bus;
mod cleanup;
pub mod cni;
pub mod firewall;
pub mod mesh;
pub mod network;
pub mod node;
mod service;
pub mod underlay;

use crate::cni::attach::Attacher;
use crate::cni::ipam::Ipam;
use crate::cni::server::{self, Shared};
use anyhow::{Context as _, Result, anyhow};
use client::{Reflector, Rest};
use daemon::{Component, ConfigError, Context, Listener, bind_unix};
use ipnetwork::Ipv4Network;
use netlink::Netlink;
use node::{Backend, NODES, Node};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

pub const COMPONENT: Component = Component { name: "k3s-flannel", bus: "io.k3s.Flannel1" };

/// Flags of `k3s-flannel`.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// Identity for the API server.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/var/lib/rancher/k3s/agent/k3scontroller.kubeconfig"
    )]
    pub kubeconfig: PathBuf,
    /// Name of this Node; the host name if not given.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub node_name: String,
    /// How packets reach other nodes.
    #[arg(long, value_enum, default_value = "vxlan")]
    pub backend: Backend,
    /// Link that carries traffic between nodes; that of the default route if not given.
    #[arg(long, value_name = "LINK")]
    pub iface: Option<String>,
    /// Address of this node that other nodes reach.
    #[arg(long, value_name = "IP")]
    pub node_ip: Option<Ipv4Addr>,
    /// Addresses of all pods.
    #[arg(long, value_name = "CIDR", default_value = "10.42.0.0/16")]
    pub cluster_cidr: Ipv4Network,
    /// Where the list of CNI plugins is written.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/rancher/k3s/agent/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,
    /// Socket for the CNI plugin, if none is passed.
    #[arg(long, value_name = "PATH", default_value = "/run/k3s/cni.sock")]
    pub cni_socket: PathBuf,
    /// Where the leases of pod addresses are kept.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cni/networks/cbr0")]
    pub lease_dir: PathBuf,
    /// Environment file with the node's network.
    #[arg(long, value_name = "FILE", default_value = "/run/flannel/subnet.env")]
    pub subnet_file: PathBuf,
    /// Remove links, routes, rules and files, and exit.
    #[arg(long)]
    pub cleanup: bool,
}

pub async fn run(cx: Context, mut args: Args) -> Result<()> {
    let (netlink, driver) = Netlink::connect().context("netlink socket")?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        driver.await;
        Err(anyhow!("the netlink connection was closed"))
    });
    if args.cleanup {
        return cleanup::cleanup(&netlink, &args).await;
    }
    if args.node_name.is_empty() {
        let name = rustix::system::uname();
        args.node_name = name.nodename().to_string_lossy().to_lowercase();
    }
    let client = client::connect(&args.kubeconfig)
        .await
        .map_err(|err| ConfigError(format!("{}: {err:#}", args.kubeconfig.display())))?;
    let network = watch::Sender::new(None);
    serve_cni(&cx, &args, &netlink, &network, &mut tasks)?;
    let bus = cx.bus().clone();
    let published = network.subscribe();
    let nodes: Reflector<Node> = Reflector::new(client.clone(), NODES);
    let node_changes = nodes.changes();
    let (link_changed, link_changes) = mpsc::channel(1);
    tasks.spawn(async move {
        netlink::monitor::watch(link_changed).await?;
        Ok(())
    });
    let service = service::Service {
        cx: cx.clone(),
        args,
        netlink,
        rest: Rest::new(client),
        nodes: nodes.lister(),
        network,
        firewall: None,
    };
    let watching = nodes.run(cx.stop.clone());
    tasks.spawn(async move {
        watching.await;
        Ok(())
    });
    tasks.spawn(service.run(node_changes, link_changes));
    let publishing = async {
        if let Err(err) = bus::publish(&bus, published).await {
            tracing::warn!(%err, "Publishing on D-Bus failed, going on without");
        }
        std::future::pending().await
    };
    tokio::select! {
        result = until_stopped(&cx, tasks) => result,
        () = publishing => Ok(()),
    }
}

fn serve_cni(
    cx: &Context,
    args: &Args,
    netlink: &Netlink,
    network: &watch::Sender<Option<network::Network>>,
    tasks: &mut JoinSet<Result<()>>,
) -> Result<()> {
    let listener = match cx.listener("cni") {
        Some(listener) => listener,
        None => bind_unix(&args.cni_socket, 0o600)?,
    };
    let Listener::Unix(listener) = listener else {
        return Err(ConfigError("the socket cni must be a Unix socket".into()).into());
    };
    let listener = UnixListener::from_std(listener)?;
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let ipam = Ipam::open(&args.lease_dir, &boot_id)
        .with_context(|| format!("reading leases in {}", args.lease_dir.display()))?;
    let shared = Shared {
        attacher: Arc::new(Attacher::new(netlink.clone(), ipam)),
        network: network.subscribe(),
    };
    let stop = cx.stop.clone();
    tasks.spawn(async move {
        server::serve(listener, shared, stop).await;
        Ok(())
    });
    Ok(())
}

/// Waits for `stop` or the first failure; the CNI calls in flight may finish.
async fn until_stopped(cx: &Context, mut tasks: JoinSet<Result<()>>) -> Result<()> {
    loop {
        tokio::select! {
            () = cx.stop.cancelled() => break,
            Some(ended) = tasks.join_next() => ended.context("a task ended badly")??,
        }
    }
    let drain = async {
        // The netlink connection and the monitor have no end of their own.
        while tasks.len() > 2 && tasks.join_next().await.is_some() {}
    };
    let _ = tokio::time::timeout(std::time::Duration::from_secs(3), drain).await;
    tasks.shutdown().await;
    Ok(())
}
