//! `k3s kubectl`, `crictl` and `ctr`: the system's tools, pointed at this node.
//!
//! Invariant: arguments are handed on unread, and an explicit environment variable wins.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::containerd::{find_program, socket};
use crate::settings::default_kubeconfig;

/// Replaces this process by `kubectl`; returns only when that fails.
pub(crate) fn kubectl(args: &[OsString]) -> Result<()> {
    let program = find_program("kubectl", "kubernetes-client")
        .context("k3s kubectl needs a kubectl on this machine")?;
    let mut command = Command::new(program);
    let kubeconfig = default_kubeconfig();
    if std::env::var_os("KUBECONFIG").is_none() && kubeconfig.exists() {
        command.env("KUBECONFIG", kubeconfig);
    }
    exec(command.args(args))
}

/// Replaces this process by `crictl`; returns only when that fails.
pub(crate) fn crictl(args: &[OsString]) -> Result<()> {
    let mut command = Command::new(find_program("crictl", "cri-tools")?);
    let endpoint = format!("unix://{}", socket().display());
    default(&mut command, "CONTAINER_RUNTIME_ENDPOINT", &endpoint);
    default(&mut command, "IMAGE_SERVICE_ENDPOINT", &endpoint);
    exec(command.args(args))
}

/// Replaces this process by `ctr`; returns only when that fails.
pub(crate) fn ctr(args: &[OsString]) -> Result<()> {
    let mut command = Command::new(find_program("ctr", "containerd")?);
    default(&mut command, "CONTAINERD_ADDRESS", &path_text(&socket()));
    default(&mut command, "CONTAINERD_NAMESPACE", "k8s.io");
    exec(command.args(args))
}

fn default(command: &mut Command, name: &str, value: &str) {
    if std::env::var_os(name).is_none() {
        command.env(name, value);
    }
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}

fn exec(command: &mut Command) -> Result<()> {
    let err = command.exec();
    Err(err).with_context(|| format!("running {}", command.get_program().display()))
}
