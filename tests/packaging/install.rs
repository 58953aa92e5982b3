//! `install.sh`: a server under systemd and an agent under OpenRC, from the download to the uninstallation.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::init::Init;
use super::inventory::{difference, take};
use super::machine::Machine;
use super::node::{equip, image, kept, processes, ready, replaced, same, start_pod, stopped};
use super::{Report, agent, base};
use crate::cluster::run as run_command;

const URL: &str = "https://10.88.0.254:8443";
/// Has signs that mean something to a shell, to systemd, or to both.
const TOKEN: &str = "K3S_TOKEN=se$HOME`cret%n";
/// What install.sh installs for k3s and leaves to its owner.
const DEPENDS: &str =
    "apt-get -qy purge containerd runc nftables procps && apt-get -qy autoremove --purge";

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let _download = Download::new()?;
    let (server, agent) = report.step("machines with systemd and OpenRC boot", || {
        let server = Machine::new("server", 1, Init::Systemd)?;
        let agent = Machine::new("agent", 2, Init::OpenRc)?;
        Ok((server, agent))
    })?;
    equip(&server)?;
    for machine in [&server, &agent] {
        fs::copy(folder().join("ca.pem"), machine.root.join("mnt/ca.pem"))?;
    }
    let lived = live(report, &server, &agent);
    lived.map_err(|err| err.context(server.journal()).context(agent.journal()))
}

fn live(report: &mut Report, server: &Machine, agent: &Machine) -> Result<()> {
    let server_before = take(server)?;
    let agent_before = take(agent)?;
    report.step(
        "a damaged archive and wrong settings are refused, nothing is installed",
        || {
            refusals(server, agent)?;
            unchanged(server, &server_before)?;
            unchanged(agent, &agent_before)
        },
    )?;
    image(server)?;
    let container = report.step("curl | sh installs a server with what it needs", || {
        let exec = "INSTALL_K3S_EXEC=server --node-label color=blue";
        install(server, URL, &[TOKEN, "K3S_NODE_NAME=first", exec])?;
        let file = "etc/systemd/system/k3s-server.service.env";
        let mode = fs::metadata(server.root.join(file))?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "{file} has mode {mode:o}");
        ensure!(server.shell("systemctl is-enabled k3s-server")?.trim() == "enabled");
        ready(server)?;
        // There was no other kubectl.
        server.run(&["kubectl", "get", "node", "first"])?;
        server.run(&["busctl", "status", "io.k3s.Store1"])?;
        ensure!(color(server)? == "blue");
        start_pod(server)
    })?;
    report.step("the same again changes nothing", || {
        let before = (processes(server)?, take(server)?);
        let exec = "INSTALL_K3S_EXEC=--node-label color=blue";
        install(server, URL, &[TOKEN, "K3S_NODE_NAME=first", exec])?;
        ensure!(processes(server)? == before.0, "components restarted");
        unchanged(server, &before.1)
    })?;
    report.step("a new release replaces every component, the role and no pod", || {
        let before = processes(server)?;
        let role = server.shell("systemctl show -P MainPID k3s-server")?;
        let release = next_release(server)?;
        let exec = "INSTALL_K3S_EXEC=--node-label color=blue";
        install(server, &release, &[TOKEN, "K3S_NODE_NAME=first", exec])?;
        replaced(server, &before)?;
        // It became the new executable in place.
        ensure!(server.shell("systemctl show -P MainPID k3s-server")? == role);
        same(server, &container)
    })?;
    report.step("new flags wait for a start when they are told to", || {
        let before = processes(server)?;
        let given = [TOKEN, "K3S_NODE_NAME=first", "INSTALL_K3S_EXEC=--node-label color=red"];
        let skip = [&given[..], &["INSTALL_K3S_SKIP_DOWNLOAD=true"]].concat();
        install(server, URL, &[&skip[..], &["INSTALL_K3S_SKIP_START=true"]].concat())?;
        ensure!(processes(server)? == before && color(server)? == "blue", "it restarted");
        install(server, URL, &[&skip[..], &["INSTALL_K3S_FORCE_RESTART=true"]].concat())?;
        server.wait("the new label", 60, &mut || Ok(color(server)? == "red"))?;
        same(server, &container)
    })?;
    report.step("an agent is installed, neither enabled nor started", || {
        install(
            agent,
            URL,
            &[TOKEN, "K3S_URL=https://10.88.0.1:6443", "INSTALL_K3S_SKIP_ENABLE=true"],
        )?;
        let state = agent.shell("rc-update show; rc-status --all")?;
        ensure!(!state.contains("k3s"), "{state}");
        let file = "etc/rancher/k3s/k3s-agent.env";
        let mode = fs::metadata(agent.root.join(file))?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "{file} has mode {mode:o}");
        Ok(())
    })?;
    image(agent)?;
    report.step("K3S_URL and K3S_TOKEN make an agent under OpenRC join", || {
        let exec = "INSTALL_K3S_EXEC=--node-label 'color=green' --kubelet-arg=max-pods=42";
        install(agent, URL, &[TOKEN, "K3S_URL=https://10.88.0.1:6443", exec])?;
        ensure!(agent.shell("rc-update show default")?.contains("k3s-agent"));
        server.wait("the agent", 60, &mut || {
            let path = "jsonpath={.metadata.labels.color} {.status.capacity.pods}";
            Ok(server.kubectl(&["get", "node", "agent", "-o", path])? == "green 42")
        })?;
        ready(server)?;
        agent::far(server)
    })?;
    report.step("k3s-killall.sh stops all of the agent, and it starts again", || {
        agent.run(&["k3s-killall.sh"])?;
        stopped(&agent_before, &take(agent)?)?;
        agent.run(&["rc-service", "k3s-agent", "start"])?;
        agent::far(server)
    })?;
    report.step("k3s-agent-uninstall.sh leaves nothing", || {
        agent.run(&["k3s-agent-uninstall.sh"])?;
        agent.shell(DEPENDS)?;
        unchanged(agent, &agent_before)
    })?;
    report.step("k3s-killall.sh stops all of the server and keeps data", || {
        server.run(&["k3s-killall.sh"])?;
        stopped(&server_before, &take(server)?)?;
        kept(server)
    })?;
    report.step("k3s-uninstall.sh leaves nothing", || {
        server.run(&["k3s-uninstall.sh"])?;
        server.shell(DEPENDS)?;
        unchanged(server, &server_before)
    })
}

/// What must not install anything.
fn refusals(server: &Machine, agent: &Machine) -> Result<()> {
    let archive = archive(&folder())?;
    let name = archive.file_name().context("an archive")?;
    let damaged = server.root.join("mnt/damaged");
    fs::create_dir_all(&damaged)?;
    let mut bytes = fs::read(&archive)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(damaged.join(name), bytes)?;
    fs::copy(folder().join("SHA256SUMS"), damaged.join("SHA256SUMS"))?;
    refused(server, "/mnt/damaged", &[], "is not what SHA256SUMS says")?;
    refused(server, URL, &["INSTALL_K3S_VERSION=9.9.9"], "no release 9.9.9")?;
    refused(server, URL, &["INSTALL_K3S_NAME=other"], "INSTALL_K3S_NAME cannot be other")?;
    refused(server, URL, &["INSTALL_K3S_SKIP_DOWNLOAD=true"], "there is no /usr/local/bin/k3s")?;
    refused(agent, URL, &["INSTALL_K3S_TYPE=agent"], "an agent needs K3S_URL")?;
    refused(agent, URL, &["K3S_URL=https://10.88.0.1:6443"], "an agent needs K3S_TOKEN")
}

fn refused(machine: &Machine, from: &str, variables: &[&str], reason: &str) -> Result<()> {
    let err = install(machine, from, variables).err().context("it was installed")?;
    ensure!(format!("{err:#}").contains(reason), "{err:#}");
    Ok(())
}

/// Runs install.sh as its first lines say.
fn install(machine: &Machine, from: &str, variables: &[&str]) -> Result<String> {
    let source = format!("INSTALL_K3S_URL={from}");
    let mut command = vec!["env", "CURL_CA_BUNDLE=/mnt/ca.pem", &source];
    command.extend(variables);
    let line = format!("curl -sfL {URL}/install.sh | sh -");
    command.extend(["sh", "-c", &line]);
    machine.run(&command)
}

fn color(machine: &Machine) -> Result<String> {
    machine.kubectl(&["get", "node", "first", "-o", "jsonpath={.metadata.labels.color}"])
}

fn unchanged(machine: &Machine, before: &std::collections::BTreeSet<String>) -> Result<()> {
    let difference = difference(before, &take(machine)?);
    ensure!(difference.is_empty(), "{} is not as it was:\n{difference}", machine.name);
    Ok(())
}

fn folder() -> PathBuf {
    base::target().join("packages")
}

/// The newest archive of a folder, as install.sh chooses it.
fn archive(folder: &Path) -> Result<PathBuf> {
    let [_, newest] = base::REVISIONS;
    let mut found = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    found
        .find(|path| path.to_string_lossy().ends_with(&format!("-{newest}-amd64.tar.gz")))
        .with_context(|| format!("no archive in {}", folder.display()))
}

/// A release with another executable, in a folder of the machine.
fn next_release(machine: &Machine) -> Result<String> {
    let line = "set -e; mkdir -p mnt/next tree; tar -xzf \"$0\" -C tree; echo >>tree/usr/bin/k3s
                tar -C tree -cf - . | gzip -1 >mnt/next/${0##*/}
                cd mnt/next; sha256sum *.tar.gz >SHA256SUMS; rm -r ../../tree";
    let archive = fs::canonicalize(archive(&folder())?)?;
    run_command(Command::new("sh").current_dir(&machine.root).args(["-c", line]).arg(archive))?;
    Ok("/mnt/next".into())
}

/// A server of the packages over TLS, with a certificate of its own.
struct Download(Child);

impl Download {
    fn new() -> Result<Self> {
        let folder = folder();
        run_command(Command::new("openssl").current_dir(&folder).args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/CN=download",
            "-addext",
            "subjectAltName=IP:10.88.0.254",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
        ]))?;
        let server = Command::new("openssl")
            .current_dir(&folder)
            .args(["s_server", "-WWW", "-quiet", "-accept", "8443", "-cert", "ca.pem"])
            .args(["-key", "ca.key"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("openssl s_server")?;
        Ok(Self(server))
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        for name in ["ca.key", "ca.pem"] {
            let _ = fs::remove_file(folder().join(name));
        }
    }
}
