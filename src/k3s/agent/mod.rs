//! `k3s agent`: joins a cluster, then runs the node as a server does, with a load balancer in front
//! of the servers and a tunnel for them to come back through.
//!
//! Invariant: once joined, no server's absence ends the role; everything that talks to servers goes
//! on trying.

mod backoff;
pub(crate) mod https;
mod join;
mod load_balancer;
mod servers;
mod tunnel;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use daemon::{Component, ConfigError, Context, Listener, bind_tcp};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::servers::Servers;
use crate::backend::Backend;
use crate::bus;
use crate::runtime::{self, Runtime};
use crate::server::{failed, lock};
use crate::settings::{Agent, Node};
use crate::units::Units;
use crate::{renewal, replace, role, trust};

/// The role takes its bus name late: it may start the bus itself.
pub(crate) static COMPONENT: Component = Component { name: "k3s-agent", bus: "" };
pub(crate) const BUS_NAME: &str = "io.k3s.Agent1";
const KUBELET_PORT: u16 = 10250;

/// Runs the role until it is told to stop.
pub(crate) async fn run(cx: Context, agent: Agent) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(ConfigError("must be run as root".to_owned()).into());
    }
    let _lock = lock(&agent.paths.data)?;
    let file = agent.paths.agent("etc/k3s-agent-load-balancer.json");
    let servers = Arc::new(Servers::load(file, agent.server.clone()));
    let door = door(&agent)?;
    cx.status(format!("Joining {}", agent.server));
    let Some(joined) = join::join(&cx.stop, &agent, &servers.told()).await? else { return Ok(()) };
    servers.set(joined.servers);
    let node = agent.node(&joined.control)?;
    trust::kubeconfigs(&node)?;
    let runtime = Runtime::of(&node).await?;
    let bus = bus::choose()?;
    let units = Units::new(&bus, node.args.debug());
    let (imported, images) = watch::channel(false);
    let mut all = Vec::new();
    all.extend(units.bus(&bus)?);
    all.extend(units.node(&node, &runtime, &joined.control.flannel_backend, images)?);
    all.extend(units.containerd(&node)?);
    let mut backend = Backend::open(all).await?;
    let mut tasks = towards_servers(&cx, &node, door, servers.clone());
    tasks.spawn(replace::follow(cx.clone()));
    backend.start(&node.paths).await?;
    tasks.spawn(bus::own_name(cx.clone(), BUS_NAME, bus, backend.states().to_vec()));
    runtime.link_cni()?;
    runtime.tell_crictl(&node.paths)?;
    let containerd = backend.state("k3s-containerd");
    let answers = async move {
        if let Some(mut containerd) = containerd {
            let _ = containerd.wait_for(|state| state.ready).await;
        }
    };
    let (stop, paths) = (cx.stop.clone(), node.paths.clone());
    tasks.spawn(runtime::keep_images(stop, paths, runtime, answers, imported));
    tasks.spawn(renew(cx.stop.clone(), agent, servers));
    tasks.spawn(announce(cx.clone(), node));
    let ended = tokio::select! {
        err = backend.refused() => Err(err),
        err = failed(&mut tasks) => Err(err),
        () = cx.stop.cancelled() => Ok(()),
    };
    info!("Stopping, pods keep running");
    backend.stop(ended.is_err()).await?;
    tasks.shutdown().await;
    ended
}

/// What connects the node with its servers, in both directions.
fn towards_servers(
    cx: &Context,
    node: &Node,
    door: Option<TcpListener>,
    servers: Arc<Servers>,
) -> JoinSet<Result<()>> {
    let mut tasks = JoinSet::new();
    if let Some(door) = door {
        let (stop, servers) = (cx.stop.clone(), servers.clone());
        tasks.spawn(async move {
            load_balancer::serve(stop, door, servers).await;
            Ok(())
        });
    }
    let (stop, paths, all) = (cx.stop.clone(), node.paths.clone(), servers.clone());
    tasks.spawn(async move {
        tunnel::keep(stop, paths, all, KUBELET_PORT).await;
        Ok(())
    });
    let (stop, kubeconfig) = (cx.stop.clone(), node.paths.agent("k3scontroller.kubeconfig"));
    tasks.spawn(async move { servers::follow(stop, &kubeconfig, &servers).await });
    tasks
}

/// The load balancer's socket; none when the node is to go straight to its server.
fn door(agent: &Agent) -> Result<Option<TcpListener>> {
    let Some(port) = agent.door else { return Ok(None) };
    let listener = bind_tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .map_err(|err| ConfigError(format!("{err:#}; or give another --lb-server-port")))?;
    let Listener::Tcp(listener) = listener else { unreachable!("a TCP address was bound") };
    Ok(Some(TcpListener::from_std(listener).context("using the load balancer's socket")?))
}

/// Fetches new certificates when the present ones are due, or an administrator removed them.
async fn renew(stop: CancellationToken, agent: Agent, servers: Arc<Servers>) -> Result<()> {
    let leafs = join::leafs(&agent.paths);
    let folders = vec![agent.paths.agent("")];
    let again = || async {
        match renewal::is_due(&leafs) {
            true => join::renew(&agent, &servers.told()).await,
            false => Ok(()),
        }
    };
    renewal::keep(stop, folders, leafs.clone(), again).await
}

/// Says when the Node is Ready, and leaves k3s' annotations on it.
async fn announce(cx: Context, node: Node) -> Result<()> {
    let kubeconfig = node.paths.agent("kubelet.kubeconfig");
    cx.status("Waiting for the node to be Ready");
    role::until_ready(cx.stop.clone(), &kubeconfig, &node.name, || {
        info!(node = node.name, "Node is Ready");
        cx.ready();
        cx.status("Node is Ready");
    })
    .await?;
    role::keep_annotations(cx.stop, &kubeconfig, &node).await
}
