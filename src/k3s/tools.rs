//! `k3s kubectl`, `crictl` and `ctr`: the system's tools, pointed at this node.
//!
//! Invariant: arguments are handed on unread, and an explicit environment variable wins.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap_complete::Shell;
use daemon::ConfigError;

use crate::cli::DATA_DIR;
use crate::containerd::socket;
use crate::settings::{Paths, default_kubeconfig};

/// Replaces this process by the system's `kubectl`, or is one when there is none.
pub(crate) fn kubectl(args: &[OsString]) -> ExitCode {
    let kubeconfig = kubeconfig();
    let Some(program) = foreign("kubectl") else {
        return ::kubectl::main(args, &kubeconfig);
    };
    let mut command = Command::new(program);
    if std::env::var_os("KUBECONFIG").is_none_or(|it| it.is_empty()) && kubeconfig.exists() {
        command.env("KUBECONFIG", kubeconfig);
    }
    let err = command.args(args).exec();
    eprintln!("k3s: running {}: {err}", command.get_program().display());
    ExitCode::FAILURE
}

/// The first kubeconfig there is: of `KUBECONFIG`, k3s' own, the user's.
fn kubeconfig() -> PathBuf {
    let given = std::env::var_os("KUBECONFIG").unwrap_or_default();
    let own = default_kubeconfig();
    let given = std::env::split_paths(&given).find(|path| path.exists());
    if given.is_none() && own.exists() && std::fs::File::open(&own).is_err() {
        eprintln!(
            "Unable to read {}, please start server with --write-kubeconfig-mode or \
             --write-kubeconfig-group to modify kube config permissions",
            own.display()
        );
    }
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".kube/config"));
    let users = home.filter(|path| path.exists() && !own.exists());
    given.or(users).unwrap_or(own)
}

/// A program of this name in `PATH` that is not this executable under another name.
fn foreign(name: &str) -> Option<PathBuf> {
    let own = std::env::current_exe().and_then(|path| path.canonicalize()).ok();
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file() && path.canonicalize().ok() != own)
}

/// Replaces this process by `crictl`; returns only when that fails.
pub(crate) fn crictl(args: &[OsString]) -> Result<()> {
    let mut command = Command::new(needed("crictl", "cri-tools")?);
    let data = std::env::var_os("K3S_DATA_DIR").filter(|it| !it.is_empty());
    let data = data.map_or_else(|| PathBuf::from(DATA_DIR), PathBuf::from);
    let config = Paths { data }.agent("etc/crictl.yaml");
    if config.exists() {
        default(&mut command, "CRI_CONFIG_FILE", &path_text(&config));
    } else {
        let endpoint = format!("unix://{}", socket().display());
        default(&mut command, "CONTAINER_RUNTIME_ENDPOINT", &endpoint);
        default(&mut command, "IMAGE_SERVICE_ENDPOINT", &endpoint);
    }
    exec(command.args(args))
}

/// Replaces this process by `ctr`; returns only when that fails.
pub(crate) fn ctr(args: &[OsString]) -> Result<()> {
    let mut command = Command::new(needed("ctr", "containerd")?);
    default(&mut command, "CONTAINERD_ADDRESS", &path_text(&socket()));
    default(&mut command, "CONTAINERD_NAMESPACE", "k8s.io");
    exec(command.args(args))
}

/// The system's program.
fn needed(name: &str, package: &str) -> Result<PathBuf, ConfigError> {
    foreign(name).ok_or_else(|| {
        ConfigError(format!("{name} is not installed (apt install {package}, or equivalent)"))
    })
}

/// Has the shell's start-up file read the completions, once.
pub(crate) fn install_completion(shell: Shell) -> Result<()> {
    let file = match shell {
        Shell::Bash => ".bashrc",
        Shell::Zsh => ".zshrc",
        other => bail!("-i: {other} is not supported; save what `k3s completion {other}` prints"),
    };
    let home = std::env::var_os("HOME").context("HOME is not set")?;
    let path = PathBuf::from(home).join(file);
    let begin = "# >> k3s command completion (start)";
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    if !before.contains(begin) {
        let added =
            format!("{begin}\n. <(k3s completion {shell})\n# >> k3s command completion (end)\n");
        std::fs::File::options()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(added.as_bytes()))
            .with_context(|| format!("writing {}", path.display()))?;
    }
    println!("{} reads the completions; start a new shell", path.display());
    Ok(())
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
