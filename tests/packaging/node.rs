//! What the stories ask of a machine that is a node: packages, a pod, its components.
//!
//! Invariant: knows nothing of the init system, so that every story may use it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::base;
use super::machine::Machine;
use crate::cluster::{IMAGE, components_of, run as run_command};

const POD: &str = "apiVersion: v1
kind: Pod
metadata: { name: web }
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: httpd
    image: docker.io/library/busybox:1.35
    command: [sh, -c, 'echo hello > /www/index.html; exec httpd -f -p 8080 -h /www']
    resources: { limits: { memory: 32Mi } }
";
/// Components of a server.
const COMPONENTS: usize = 8;

/// Gives a machine what the test needs inside, before it is looked at for the first time.
pub(super) fn equip(machine: &Machine) -> Result<()> {
    fs::copy("target/tools/kubectl", machine.root.join("mnt/kubectl")).context("kubectl")?;
    Ok(fs::write(machine.root.join("mnt/pod.yaml"), POD)?)
}

/// Installs or upgrades from files, as `apt install ./k3s*.deb` does.
pub(super) fn install(machine: &Machine, packages: &[&str], revision: &str) -> Result<()> {
    let mut args = vec!["apt-get".to_owned(), "-qy".into(), "install".into()];
    for package in packages {
        let from = base::deb(package, revision)?;
        let name = format!("{package}.deb");
        fs::copy(from, machine.root.join("mnt").join(&name))?;
        args.push(format!("/mnt/{name}"));
    }
    machine.run(&args.iter().map(String::as_str).collect::<Vec<_>>()).map(drop)
}

/// Upgrades from files: every component is another process afterwards, the pod is not.
pub(super) fn upgrade(
    machine: &Machine,
    packages: &[&str],
    revision: &str,
    container: &str,
) -> Result<()> {
    let old_processes = processes(machine)?;
    install(machine, packages, revision)?;
    replaced(machine, &old_processes)?;
    same(machine, container)?;
    verified(machine, packages)
}

/// dpkg finds every file as it was packed.
pub(super) fn verified(machine: &Machine, packages: &[&str]) -> Result<()> {
    let wrong = machine.shell(&format!("dpkg --verify {}; true", packages.join(" ")))?;
    ensure!(wrong.is_empty(), "dpkg --verify: {wrong}");
    Ok(())
}

/// Puts the image of the pods where it is imported from.
pub(super) fn image(machine: &Machine) -> Result<()> {
    let path = machine.root.join("var/lib/rancher/k3s/agent/images/busybox.tar");
    run_command(Command::new("packaging/busybox-image").arg(IMAGE).arg(path)).map(drop)
}

/// Waits until the API answers and every node is Ready.
pub(super) fn ready(machine: &Machine) -> Result<()> {
    machine.wait("the node to be Ready", 120, &mut || {
        let condition = "{.items[*].status.conditions[?(@.type=='Ready')]}";
        let found = machine.kubectl(&["get", "nodes", "-o", &format!("jsonpath={condition}")])?;
        ensure!(!found.is_empty() && !found.contains(r#""status":"False""#), "{found}");
        ensure!(!found.contains(r#""status":"Unknown""#), "{found}");
        Ok(true)
    })
}

/// Waits until pods may be made in the default namespace.
pub(super) fn service_account(machine: &Machine) -> Result<()> {
    machine.wait("the service account", 60, &mut || {
        Ok(machine.kubectl(&["get", "serviceaccount", "default"]).is_ok())
    })
}

/// Makes the pod; returns its container, for [`same`].
pub(super) fn start_pod(machine: &Machine) -> Result<String> {
    service_account(machine)?;
    machine.kubectl(&["apply", "-f", "/mnt/pod.yaml"])?;
    running(machine)?;
    let container = container(machine)?;
    same(machine, &container)?;
    Ok(container)
}

/// Waits until the pod runs.
pub(super) fn running(machine: &Machine) -> Result<()> {
    machine.wait("the pod to run", 120, &mut || {
        Ok(machine.kubectl(&[
            "get",
            "pod",
            "web",
            "-o",
            "jsonpath={.status.phase} {.status.containerStatuses[0].ready}",
        ])? == "Running true")
    })
}

fn container(machine: &Machine) -> Result<String> {
    machine.kubectl(&["get", "pod", "web", "-o", "jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}"])
}

/// The node is Ready, and the pod's container is the one it was.
pub(super) fn same(machine: &Machine, container_before: &str) -> Result<()> {
    ready(machine)?;
    let now = container(machine)?;
    ensure!(now == container_before, "the pod was touched: {container_before} became {now}");
    ensure!(machine.kubectl(&["exec", "web", "--", "cat", "/www/index.html"])? == "hello\n");
    Ok(())
}

/// The process ids of a server's components, once all run.
pub(super) fn processes(machine: &Machine) -> Result<BTreeMap<String, u32>> {
    let mut found = BTreeMap::new();
    machine.wait("the components", 60, &mut || {
        let json = machine.shell("k3s status --json || true")?;
        found = components_of(json.as_bytes())?.into_iter().collect();
        ensure!(found.len() == COMPONENTS, "{found:?}");
        Ok(true)
    })?;
    Ok(found)
}

/// Waits until every component is another process than before, and no old executable runs.
pub(super) fn replaced(machine: &Machine, before: &BTreeMap<String, u32>) -> Result<()> {
    machine.wait("new processes", 60, &mut || {
        for (component, pid) in &processes(machine)? {
            ensure!(before[component] != *pid, "{component} is still the same process");
        }
        Ok(true)
    })?;
    let stale = "for p in /proc/[0-9]*; do readlink $p/exe; done 2>/dev/null | grep 'k3s (deleted)' || true";
    let stale = machine.shell(stale)?;
    ensure!(stale.is_empty(), "old executables run: {stale}");
    Ok(())
}

/// Nothing of k3s is there any more that runs, or lies in the kernel or below /run.
pub(super) fn stopped(before: &BTreeSet<String>, now: &BTreeSet<String>) -> Result<()> {
    let left: Vec<&String> = now
        .difference(before)
        .filter(|line| {
            !["file: ", "user: ", "group: ", "unit: "].iter().any(|kind| line.starts_with(kind))
        })
        .filter(|line| {
            ["k3s", "kube", "cni", "flannel", "shim"].iter().any(|name| line.contains(name))
        })
        .collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

/// Configuration and data of a server are there.
pub(super) fn kept(machine: &Machine) -> Result<()> {
    for path in [
        "etc/rancher/k3s/config.yaml",
        "var/lib/rancher/k3s/server/db/state.db",
        "var/lib/rancher/k3s/server/tls/server-ca.key",
    ] {
        ensure!(machine.root.join(path).exists(), "{path} is gone");
    }
    Ok(())
}
