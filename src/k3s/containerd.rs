//! The node's own containerd: its configuration, its unit, and the images that are imported.
//!
//! Invariant: everything it owns lies under the data folder and `/run/k3s`; a containerd that the
//! machine already runs is never touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use daemon::ConfigError;
use futures::StreamExt;
use inotify::{Inotify, WatchMask};
use pki::{Durability, write_with};
use tokio::process::Command;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::images;
use crate::settings::{Node, Paths, RUN_DIR};

/// The CRI socket of the containerd that this role starts.
pub(crate) fn socket() -> PathBuf {
    Path::new(RUN_DIR).join("containerd/containerd.sock")
}

/// The CRI endpoint that the kubelet is to use.
pub(crate) fn endpoint(node: &Node) -> String {
    match &node.args.container_runtime_endpoint {
        Some(given) if given.contains("://") => given.clone(),
        Some(path) => format!("unix://{path}"),
        None => format!("unix://{}", socket().display()),
    }
}

/// Finds a program in `PATH` and the usual administrator's folders.
///
/// # Errors
/// Names the Debian package that brings it.
pub(crate) fn find_program(name: &str, package: &str) -> Result<PathBuf, ConfigError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into(), "/usr/bin".into()])
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| {
            ConfigError(format!("{name} is not installed (apt install {package}, or equivalent)"))
        })
}

/// Writes containerd's configuration and returns its program and the configuration's path.
pub(crate) fn prepare(node: &Node) -> Result<(PathBuf, PathBuf)> {
    let program = find_program("containerd", "containerd")?;
    find_program("runc", "runc")?;
    let config = node.paths.agent("etc/containerd/config.toml");
    write_with(&config, render(node).as_bytes(), 0o600, Durability::Derived)?;
    fs::create_dir_all(Path::new(RUN_DIR).join("containerd")).context("creating /run/k3s")?;
    fs::create_dir_all(node.paths.agent("images")).context("creating agent/images")?;
    fs::create_dir_all(node.paths.agent("containerd")).context("creating agent/containerd")?;
    Ok((program, config))
}

/// containerd's configuration, version 2 (which 1.6 reads and 2.x migrates).
fn render(node: &Node) -> String {
    let sandbox = node.args.pause_image.as_deref().unwrap_or(images::PAUSE_IMAGE);
    format!(
        r#"# Written by k3s at every start; changes are lost.
version = 2
root = {root:?}
state = {state:?}
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]

[grpc]
  address = {socket:?}

[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
  stream_server_port = "10010"
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  restrict_oom_score_adj = {restrict}
  sandbox_image = {sandbox:?}

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = {cni_bin:?}
  conf_dir = {cni_conf:?}

[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = {snapshotter:?}
  disable_snapshot_annotations = true

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = false
"#,
        root = node.paths.agent("containerd"),
        state = Path::new(RUN_DIR).join("containerd"),
        socket = socket(),
        restrict = !may_lower_oom_score(),
        cni_bin = node.paths.cni_bin(),
        cni_conf = cni_conf_dir(&node.paths),
        snapshotter = node.args.snapshotter,
    )
}

/// containerd's log, as k3s names it.
pub(crate) fn log(paths: &Paths) -> PathBuf {
    paths.agent("containerd/containerd.log")
}

/// Where flannel writes the CNI configuration and containerd reads it.
pub(crate) fn cni_conf_dir(paths: &Paths) -> PathBuf {
    paths.agent("etc/cni/net.d")
}

/// Whether this process may give others a negative `oom_score_adj` (`CAP_SYS_RESOURCE`); in
/// containers and sandboxes it often may not, and runc then fails unless containerd is told.
fn may_lower_oom_score() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 << CAP_SYS_RESOURCE != 0)
}

/// Imports the pause image, opens `imported`, then imports archives in `agent/images` as they are
/// and as they appear, until stopped.
pub(crate) async fn keep_images(
    stop: CancellationToken,
    node: Node,
    mut containerd: watch::Receiver<daemon::supervise::State>,
    imported: watch::Sender<bool>,
) -> Result<()> {
    let folder = node.paths.agent("images");
    let inotify = Inotify::init().context("starting inotify")?;
    let mask = WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO;
    inotify
        .watches()
        .add(&folder, mask)
        .with_context(|| format!("watching {}", folder.display()))?;
    tokio::select! {
        _ = containerd.wait_for(|state| state.ready) => (),
        () = stop.cancelled() => return Ok(()),
    }
    if node.args.pause_image.is_none()
        && let Err(err) = import_pause(&node.paths).await
    {
        warn!(err = %format_args!("{err:#}"), "Could not import the pause image, pods will not start");
    }
    imported.send_replace(true);
    let mut names: Vec<PathBuf> = fs::read_dir(&folder)
        .with_context(|| format!("reading {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    names.sort();
    for path in names {
        import_logged(&path).await;
    }
    let mut events = inotify.into_event_stream([0; 4096]).context("watching agent/images")?;
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = stop.cancelled() => return Ok(()),
        };
        match event {
            Some(Ok(event)) => {
                if let Some(name) = event.name {
                    import_logged(&folder.join(name)).await;
                }
            }
            Some(Err(err)) => return Err(err).context("watching agent/images"),
            None => return Ok(()),
        }
    }
}

async fn import_pause(paths: &Paths) -> Result<()> {
    let listed = ctr(&["images", "list", "-q"]).await?;
    if listed.lines().any(|name| name == images::PAUSE_IMAGE) {
        return Ok(());
    }
    let path = paths.agent("pause.tar");
    write_with(&path, &images::pause()?, 0o600, Durability::Derived)?;
    import(&path).await
}

async fn import_logged(path: &Path) {
    if path.extension().is_none_or(|ext| ext != "tar") {
        return;
    }
    match import(path).await {
        Ok(()) => info!(image = %path.display(), "Imported images"),
        Err(err) => {
            warn!(image = %path.display(), err = %format_args!("{err:#}"), "Could not import images, ignoring");
        }
    }
}

async fn import(path: &Path) -> Result<()> {
    let path = path.to_str().context("the path is not UTF-8")?;
    ctr(&["images", "import", path]).await.map(drop)
}

/// Runs `ctr` in Kubernetes' containerd namespace and returns what it printed.
async fn ctr(args: &[&str]) -> Result<String> {
    let output = Command::new(find_program("ctr", "containerd")?)
        .arg("--address")
        .arg(socket())
        .args(["--namespace", "k8s.io"])
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("running ctr")?;
    if !output.status.success() {
        bail!("ctr {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
