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
use daemon::supervise::Unit;
use daemon::{Component, ConfigError, Context, Listener, bind_tcp};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::servers::Servers;
use crate::backend::{self, Backend};
use crate::bus::{self, Bus};
use crate::certificate::monitor;
use crate::control::Control;
use crate::runtime::{self, Runtime};
use crate::server::lock;
use crate::settings::{Agent, Node};
use crate::units::Units;
use crate::{renewal, replace, role, trust};

/// The role takes its bus name late: it may start the bus itself.
pub(crate) static COMPONENT: Component = Component { name: "k3s-agent", bus: "" };
pub(crate) const BUS_NAME: &str = "io.k3s.Agent1";
const KUBELET_PORT: u16 = 10250;

/// The name under which systemd keeps the load balancer's socket while the role starts again.
const DOOR: &str = "load-balancer";

/// Reads flags and files once more, as at the start.
pub(crate) type Again = fn() -> Result<Agent>;

/// Runs the role until it is told to stop.
pub(crate) async fn run(cx: Context, agent: Agent, again: Again) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(ConfigError("must be run as root".to_owned()).into());
    }
    let _lock = lock(&agent.paths.data)?;
    let file = agent.paths.agent("etc/k3s-agent-load-balancer.json");
    let servers = Arc::new(Servers::load(file, agent.server.clone()));
    let door = door(&cx, &agent)?;
    cx.status(format!("Joining {}", agent.server));
    let Some(joined) = join::join(&cx.stop, &agent, &servers.told()).await? else { return Ok(()) };
    servers.set(joined.servers);
    let node = agent.node(&joined.control)?;
    trust::kubeconfigs(&node)?;
    let runtime = Runtime::of(&node).await?;
    let bus = bus::choose()?;
    let (imported, images) = watch::channel(false);
    let units = plan(&node, &runtime, &bus, &joined.control, images.clone())?;
    let mut backend = Backend::open(units).await?;
    let kept: Vec<_> =
        door.iter().map(|door| Ok((DOOR, door.try_clone()?))).collect::<Result<_>>()?;
    let mut tasks = towards_servers(&cx, &node, door, servers.clone())?;
    tasks.spawn(replace::follow(cx.clone(), kept));
    backend.start(&node.paths).await?;
    tasks.spawn(bus::own_name(cx.clone(), BUS_NAME, bus.clone(), backend.states().to_vec()));
    runtime.link_cni()?;
    runtime.tell_crictl(&node.paths)?;
    let containerd = backend.state("k3s-containerd");
    let answers = async move {
        if let Some(mut containerd) = containerd {
            let _ = containerd.wait_for(|state| state.ready).await;
        }
    };
    let (stop, paths) = (cx.stop.clone(), node.paths.clone());
    tasks.spawn(runtime::keep_images(stop, paths, runtime.clone(), answers, imported));
    tasks.spawn(renew(cx.stop.clone(), agent.clone(), servers));
    tasks.spawn(monitor::watch(cx.stop.clone(), node.clone()));
    tasks.spawn(announce(cx.clone(), node));
    backend
        .serve(&cx, tasks, || {
            let new = again()?;
            warn_of_rest(&agent, &new);
            plan(&new.node(&joined.control)?, &runtime, &bus, &joined.control, images.clone())
        })
        .await
}

/// The units of the role.
fn plan(
    node: &Node,
    runtime: &Runtime,
    bus: &Bus,
    control: &Control,
    images: watch::Receiver<bool>,
) -> Result<Vec<Unit>> {
    let units = Units::new(bus, node.args.debug());
    let mut all = Vec::new();
    all.extend(units.bus(bus)?);
    all.extend(units.node(node, runtime, &control.flannel_backend, images)?);
    all.extend(units.containerd(node)?);
    Ok(all)
}

fn warn_of_rest(old: &Agent, new: &Agent) {
    let rest = [
        ("data-dir", old.paths.data != new.paths.data),
        ("server", old.server != new.server),
        ("lb-server-port", old.door != new.door),
        ("node-name, node-ip", (&old.name, old.ip) != (&new.name, new.ip)),
    ];
    backend::warn_of_rest(COMPONENT.name, &rest);
}

/// What connects the node with its servers, in both directions.
fn towards_servers(
    cx: &Context,
    node: &Node,
    door: Option<Listener>,
    servers: Arc<Servers>,
) -> Result<JoinSet<Result<()>>> {
    let mut tasks = JoinSet::new();
    if let Some(Listener::Tcp(door)) = door {
        let door = TcpListener::from_std(door).context("using the load balancer's socket")?;
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
    Ok(tasks)
}

/// The load balancer's socket; none when the node is to go straight to its server. The one that the
/// role had before it was started again, if there is such: its clients are still waiting.
fn door(cx: &Context, agent: &Agent) -> Result<Option<Listener>> {
    let wanted = agent.door.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    if let Some(Listener::Tcp(kept)) = cx.listener(DOOR) {
        if kept.local_addr().ok() == wanted {
            return Ok(Some(Listener::Tcp(kept)));
        }
        daemon::reclaim(DOOR);
    }
    let Some(address) = wanted else { return Ok(None) };
    let listener = bind_tcp(address)
        .map_err(|err| ConfigError(format!("{err:#}; or give another --lb-server-port")))?;
    daemon::entrust(DOOR, &listener);
    Ok(Some(listener))
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
