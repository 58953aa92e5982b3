//! The node's own containerd: its configuration and its programs.
//!
//! Invariant: everything it owns lies under the data folder and `/run/k3s`; a containerd that the
//! machine already runs is not known here.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use daemon::ConfigError;
use pki::{Durability, write_with};

use crate::images;
use crate::settings::{Node, Paths, RUN_DIR};
use crate::systemd;

/// The CRI socket of the containerd that this role starts.
pub(crate) fn socket() -> PathBuf {
    Path::new(RUN_DIR).join("containerd/containerd.sock")
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
    fs::create_dir_all(node.paths.agent("containerd")).context("creating agent/containerd")?;
    Ok((program, config))
}

/// Who makes the control groups of pods: what the kubelet is told, else systemd where it runs this
/// role and the kernel has them in one hierarchy.
pub(crate) fn cgroup_driver(node: &Node) -> &'static str {
    let told = node.args.kubelet_arg.iter().find_map(|arg| arg.strip_prefix("cgroup-driver="));
    let unified = || Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    match told {
        Some("systemd") => "systemd",
        None if systemd::own_unit().is_some() && unified() => "systemd",
        _ => "cgroupfs",
    }
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
  device_ownership_from_security_context = {devices}
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
  SystemdCgroup = {systemd}
"#,
        root = node.paths.agent("containerd"),
        state = Path::new(RUN_DIR).join("containerd"),
        socket = socket(),
        devices = node.args.nonroot_devices,
        restrict = !may_lower_oom_score(),
        cni_bin = cni_bin(&node.paths),
        cni_conf = cni_conf(&node.paths),
        snapshotter = node.args.snapshotter,
        systemd = cgroup_driver(node) == "systemd",
    )
}

/// containerd's log, as k3s names it.
pub(crate) fn log(paths: &Paths) -> PathBuf {
    paths.agent("containerd/containerd.log")
}

/// The folder in which it finds the CNI plugins.
pub(crate) fn cni_bin(paths: &Paths) -> PathBuf {
    paths.data.join("data/cni")
}

/// The folder in which it reads the CNI configuration, which flannel writes.
pub(crate) fn cni_conf(paths: &Paths) -> PathBuf {
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
