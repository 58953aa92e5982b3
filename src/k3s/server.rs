//! `k3s server`: prepares trust and configuration, opens every socket, supervises the components.
//!
//! Invariant: whatever can be refused is refused before the first process starts, and by then
//! nothing is half written.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context as _, Result};
use daemon::supervise::{State, Unit};
use daemon::{Component, ConfigError, Context};
use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::backend::{self, Backend};
use crate::bus::{self, Bus};
use crate::certificate::monitor;
use crate::runtime::{self, Runtime};
use crate::settings::Server;
use crate::units::Units;
use crate::{control, manifests, renewal, replace, role, trust};

/// The role takes its bus name late: it may start the bus itself.
pub(crate) static COMPONENT: Component = Component { name: "k3s-server", bus: "" };
pub(crate) const BUS_NAME: &str = "io.k3s.Server1";

/// Reads flags and files once more, as at the start.
pub(crate) type Again = fn() -> Result<Server>;

/// Runs the role until it is told to stop.
pub(crate) async fn run(cx: Context, server: Server, again: Again) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(ConfigError("must be run as root".to_owned()).into());
    }
    let _lock = lock(&server.node.paths.data)?;
    let runtime = Runtime::of(&server.node).await?;
    let bus = bus::choose()?;
    let (imported, images) = watch::channel(server.args.disable_agent);
    // Programs and sockets first: what is missing or in use shows before trust is written.
    let mut backend = Backend::open(plan(&server, &runtime, &bus, images.clone())?).await?;
    trust::prepare(&server, Timestamp::now().as_second())?;
    control::publish(&server)?;
    manifests::stage(&server)?;
    backend.start(&server.node.paths).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(replace::follow(cx.clone(), Vec::new()));
    tasks.spawn(renew(cx.stop.clone(), server.clone()));
    let states = backend.states().to_vec();
    tasks.spawn(bus::own_name(cx.clone(), BUS_NAME, bus.clone(), states));
    if !server.args.disable_agent {
        runtime.link_cni()?;
        runtime.tell_crictl(&server.node.paths)?;
        let containerd = backend.state("k3s-containerd");
        let answers = async move {
            if let Some(mut containerd) = containerd {
                let _ = containerd.wait_for(|state| state.ready).await;
            }
        };
        let paths = server.node.paths.clone();
        tasks.spawn(runtime::keep_images(
            cx.stop.clone(),
            paths,
            runtime.clone(),
            answers,
            imported,
        ));
        let (stop, name) = (cx.stop.clone(), server.node.name.clone());
        let kubeconfig = server.node.paths.server("cred/supervisor.kubeconfig");
        tasks.spawn(async move { role::keep_label(stop, &kubeconfig, &name).await });
        let (stop, node) = (cx.stop.clone(), server.node.clone());
        let kubeconfig = node.paths.agent("kubelet.kubeconfig");
        tasks.spawn(async move { role::keep_annotations(stop, &kubeconfig, &node).await });
        let (stop, node) = (cx.stop.clone(), server.node.clone());
        let api = backend.state("k3s-apiserver");
        tasks.spawn(async move {
            if let Some(mut api) = api {
                let _ = api.wait_for(|state| state.ready).await;
            }
            monitor::watch(stop, node).await
        });
    }
    let (stop, paths) = (cx.stop.clone(), server.node.paths.clone());
    tasks.spawn(async move {
        role::forget_passwords(stop, &paths.server("cred/supervisor.kubeconfig")).await
    });
    let (api, kubelet) = (backend.state("k3s-apiserver"), backend.state("k3s-kubelet"));
    tasks.spawn(announce(cx.clone(), api, kubelet, server.clone()));
    backend
        .serve(&cx, tasks, || {
            let new = again()?;
            warn_of_rest(&server, &new);
            plan(&new, &runtime, &bus, images.clone())
        })
        .await
}

/// The units of the role.
fn plan(
    server: &Server,
    runtime: &Runtime,
    bus: &Bus,
    images: watch::Receiver<bool>,
) -> Result<Vec<Unit>> {
    let units = Units::new(bus, server.node.args.debug());
    let mut all = Vec::new();
    all.extend(units.bus(bus)?);
    all.extend(units.server(server)?);
    if !server.args.disable_agent {
        all.extend(units.node(&server.node, runtime, &server.backend, images)?);
        all.extend(units.containerd(&server.node)?);
    }
    Ok(all)
}

fn warn_of_rest(old: &Server, new: &Server) {
    let rest = [
        ("data-dir", old.node.paths.data != new.node.paths.data),
        ("https-listen-port, bind-address", old.listen() != new.listen()),
        ("tls-san", old.args.tls_san != new.args.tls_san),
        ("node-name, node-ip", (&old.node.name, old.node.ip) != (&new.node.name, new.node.ip)),
        ("disable-agent", old.args.disable_agent != new.args.disable_agent),
    ];
    backend::warn_of_rest(COMPONENT.name, &rest);
}

/// Renews certificates, and completes what an administrator replaces.
async fn renew(stop: CancellationToken, server: Server) -> Result<()> {
    let folders = vec![server.node.paths.tls(""), server.node.paths.agent("")];
    let leafs = trust::leafs(&server);
    let again = || async { trust::renew(&server, Timestamp::now().as_second()) };
    renewal::keep(stop, folders, leafs, again).await
}

/// Says when the API answers and when the node is up.
async fn announce(
    cx: Context,
    api: Option<watch::Receiver<State>>,
    kubelet: Option<watch::Receiver<State>>,
    server: Server,
) -> Result<()> {
    if let Some(mut api) = api
        && api.wait_for(|state| state.ready).await.is_ok()
    {
        let kubeconfig = server.kubeconfig.display();
        info!(listen = %server.listen(), %kubeconfig, "Kubernetes API is ready");
        cx.ready();
        cx.status("Kubernetes API is ready");
    }
    if let Some(mut kubelet) = kubelet
        && kubelet.wait_for(|state| state.ready).await.is_ok()
    {
        info!(node = server.node.name, "Node is up");
        cx.status("Kubernetes API is ready, node is up");
    }
    Ok(())
}

/// One role per data folder.
pub(crate) fn lock(data: &Path) -> Result<OwnedFd> {
    let unusable = |err: std::io::Error| {
        ConfigError(format!("{}: cannot be used as --data-dir: {err}", data.display()))
    };
    fs::create_dir_all(data).map_err(unusable)?;
    let path = data.join("k3s.lock");
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(unusable)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        ConfigError(format!(
            "another k3s runs on {}; stop it, or give another --data-dir",
            data.display()
        ))
    })?;
    // A read-only or full disk shows here, before anything that matters is written.
    pki::write_atomic(&data.join("k3s.probe"), &[0; 4096], 0o600)
        .and_then(|()| fs::remove_file(data.join("k3s.probe")).context("removing the probe"))
        .map_err(|err| {
            ConfigError(format!(
                "{}: cannot be written to ({err:#}); make room or give another --data-dir",
                data.display()
            ))
        })?;
    Ok(file.into())
}
