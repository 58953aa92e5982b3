//! The container runtime of this node, its own or one that the machine runs already: where it
//! answers, where it looks for the pod network, and which images it is given.
//!
//! Invariant: a runtime that is not ours is asked and given images, never configured; what it has
//! already stays as it is.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use daemon::ConfigError;
use futures::StreamExt;
use inotify::{Inotify, WatchMask};
use k3s_kubelet::RuntimeFacts;
use pki::{Durability, write_with};
use tokio::process::Command;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::containerd::{self, find_program};
use crate::images;
use crate::settings::{Node, Paths};

/// The plugins that containerd calls; both are this executable.
const PLUGINS: [&str; 2] = ["k3s-cni", "loopback"];
/// How long a runtime that the machine starts may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Where runtimes look when they do not tell, by the CNI specification's convention.
const CNI_BIN: &str = "/opt/cni/bin";
const CNI_CONF: &str = "/etc/cni/net.d";

/// A node's container runtime.
#[derive(Clone, Debug)]
pub(crate) struct Runtime {
    socket: PathBuf,
    /// Folder of the CNI plugins.
    pub(crate) cni_bin: PathBuf,
    /// Folder of the CNI configuration.
    pub(crate) cni_conf: PathBuf,
    /// The name under which it must have a sandbox image; `None` when it is fetched elsewhere.
    sandbox_image: Option<String>,
    /// Who makes control groups, by the kubelet's word: the kubelet must be of the same mind.
    pub(crate) cgroup_driver: &'static str,
}

impl Runtime {
    /// The runtime of the settings: ours, or the one at `--container-runtime-endpoint`, which is
    /// waited for.
    ///
    /// # Errors
    /// The endpoint is not a Unix socket, or nothing answers there.
    pub(crate) async fn of(node: &Node) -> Result<Self> {
        match &node.args.container_runtime_endpoint {
            Some(endpoint) => Self::given(endpoint).await,
            None => Ok(Self {
                socket: containerd::socket(),
                cni_bin: containerd::cni_bin(&node.paths),
                cni_conf: containerd::cni_conf(&node.paths),
                sandbox_image: match node.args.pause_image {
                    Some(_) => None,
                    None => Some(images::PAUSE_IMAGE.to_owned()),
                },
                cgroup_driver: containerd::cgroup_driver(node),
            }),
        }
    }

    async fn given(endpoint: &str) -> Result<Self> {
        let socket = PathBuf::from(endpoint.strip_prefix("unix://").unwrap_or(endpoint));
        if !socket.is_absolute() {
            return Err(ConfigError(format!(
                "--container-runtime-endpoint: {endpoint:?} is not the path of a Unix socket"
            ))
            .into());
        }
        let facts = ask(&format!("unix://{}", socket.display())).await?;
        if facts.sandbox_image.is_none() {
            warn!(runtime = endpoint, "Runtime does not tell its sandbox image, it must have it");
        }
        Ok(Self {
            socket,
            cni_bin: facts.cni_bin.unwrap_or_else(|| CNI_BIN.into()),
            cni_conf: facts.cni_conf.unwrap_or_else(|| CNI_CONF.into()),
            sandbox_image: facts.sandbox_image,
            cgroup_driver: if facts.systemd_cgroup { "systemd" } else { "cgroupfs" },
        })
    }

    /// The CRI endpoint that the kubelet is to use.
    pub(crate) fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Tells `crictl` where the runtime answers, in k3s' place.
    pub(crate) fn tell_crictl(&self, paths: &Paths) -> Result<()> {
        let text = format!("runtime-endpoint: {0}\nimage-endpoint: {0}\n", self.endpoint());
        write_with(&paths.agent("etc/crictl.yaml"), text.as_bytes(), 0o644, Durability::Derived)
    }

    /// Puts the plugins where the runtime finds them; a plugin of somebody else stays.
    pub(crate) fn link_cni(&self) -> Result<()> {
        let folder = &self.cni_bin;
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        let program = std::env::current_exe().context("finding this executable")?;
        for name in PLUGINS {
            let link = folder.join(name);
            match fs::read_link(&link) {
                Ok(target) if target == program => continue,
                // A link of an earlier executable.
                Ok(_) => fs::remove_file(&link).with_context(|| link.display().to_string())?,
                Err(_) if link.exists() => continue,
                Err(_) => (),
            }
            symlink(&program, &link).with_context(|| format!("linking {}", link.display()))?;
        }
        Ok(())
    }

    async fn import_sandbox(&self, paths: &Paths) -> Result<()> {
        let Some(name) = &self.sandbox_image else { return Ok(()) };
        let listed = self.ctr(&["images", "list", "-q"]).await?;
        if listed.lines().any(|have| have == name) {
            return Ok(());
        }
        let path = paths.agent("pause.tar");
        write_with(&path, &images::pause(name)?, 0o600, Durability::Derived)?;
        self.import(&path).await?;
        info!(image = name, "Imported the sandbox image");
        Ok(())
    }

    async fn import_logged(&self, path: &Path) {
        if path.extension().is_none_or(|ext| ext != "tar") {
            return;
        }
        match self.import(path).await {
            Ok(()) => info!(image = %path.display(), "Imported images"),
            Err(err) => {
                warn!(image = %path.display(), err = %format_args!("{err:#}"), "Could not import images, ignoring");
            }
        }
    }

    async fn import(&self, path: &Path) -> Result<()> {
        let path = path.to_str().context("the path is not UTF-8")?;
        self.ctr(&["images", "import", path]).await.map(drop)
    }

    /// Runs `ctr` in Kubernetes' containerd namespace and returns what it printed.
    async fn ctr(&self, args: &[&str]) -> Result<String> {
        let output = Command::new(find_program("ctr", "containerd")?)
            .arg("--address")
            .arg(&self.socket)
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
}

/// Asks until the runtime answers: on a machine that boots it may come up after us.
async fn ask(endpoint: &str) -> Result<RuntimeFacts> {
    let asking = async {
        let mut told = false;
        loop {
            match RuntimeFacts::ask(endpoint).await {
                Ok(facts) => return facts,
                Err(err) if !told => {
                    told = true;
                    warn!(err = %format_args!("{err:#}"), "Runtime does not answer yet, waiting");
                }
                Err(_) => (),
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.map_err(|_| {
        let wait = PATIENCE.as_secs();
        ConfigError(format!(
            "--container-runtime-endpoint: no CRI runtime answers at {endpoint} after {wait} s; start it, or leave the flag out to run k3s' own containerd"
        ))
        .into()
    })
}

/// Imports the sandbox image once `answers` ends, opens `imported`, then imports archives in
/// `agent/images` as they are and as they appear, until stopped.
pub(crate) async fn keep_images(
    stop: CancellationToken,
    paths: Paths,
    runtime: Runtime,
    answers: impl Future<Output = ()>,
    imported: watch::Sender<bool>,
) -> Result<()> {
    let folder = paths.agent("images");
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let inotify = Inotify::init().context("starting inotify")?;
    let mask = WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO;
    inotify
        .watches()
        .add(&folder, mask)
        .with_context(|| format!("watching {}", folder.display()))?;
    tokio::select! {
        () = answers => (),
        () = stop.cancelled() => return Ok(()),
    }
    if let Err(err) = runtime.import_sandbox(&paths).await {
        warn!(err = %format_args!("{err:#}"), "Could not import the sandbox image, pods may not start");
    }
    imported.send_replace(true);
    let mut names: Vec<PathBuf> = fs::read_dir(&folder)
        .with_context(|| format!("reading {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    names.sort();
    for path in names {
        runtime.import_logged(&path).await;
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
                    runtime.import_logged(&folder.join(name)).await;
                }
            }
            Some(Err(err)) => return Err(err).context("watching agent/images"),
            None => return Ok(()),
        }
    }
}
