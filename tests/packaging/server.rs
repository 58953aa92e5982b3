//! The life of a server: from `apt install` on a bare machine to a purge that leaves nothing.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::inventory::{difference, take};
use super::machine::Machine;
use super::{Report, base};
use crate::cluster::{IMAGE, run as run_command};

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
const SERVER: &[&str] = &["k3s", "k3s-server"];
/// Components that run on a server.
const UNITS: &[&str] = &[
    "k3s-store",
    "k3s-apiserver",
    "k3s-controller-manager",
    "k3s-scheduler",
    "k3s-kubelet",
    "k3s-proxy",
    "k3s-flannel",
    "k3s-dns",
];

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let mut machine =
        report.step("a bare Debian 12 boots systemd", || Machine::new("server", 1))?;
    // What the test needs inside, before the machine is looked at for the first time.
    fs::copy("target/tools/kubectl", machine.root.join("mnt/kubectl")).context("kubectl")?;
    fs::write(machine.root.join("mnt/pod.yaml"), POD)?;
    live(report, &mut machine).map_err(|err| err.context(machine.journal()))
}

fn live(report: &mut Report, machine: &mut Machine) -> Result<()> {
    let [old, new] = base::REVISIONS;
    let before = take(machine)?;
    report.step("apt installs the packages with what they depend on", || {
        install(machine, SERVER, old)
    })?;
    report.step("nothing starts by itself, nothing is modified", || {
        ensure!(machine.shell("systemctl is-enabled k3s-server || true")?.trim() == "disabled");
        ensure!(machine.shell("systemctl is-active k3s-server || true")?.trim() == "inactive");
        verified(machine)
    })?;
    image(machine)?;
    report.step("enable --now returns when the API answers", || {
        machine.run(&["systemctl", "enable", "--now", "k3s-server"])?;
        ensure!(machine.kubectl(&["get", "--raw", "/readyz"])? == "ok");
        Ok(())
    })?;
    report.step("the node is Ready and runs a pod", || {
        ready(machine)?;
        machine.wait("the service account", 60, &mut || {
            Ok(machine.kubectl(&["get", "serviceaccount", "default"]).is_ok())
        })?;
        machine.kubectl(&["apply", "-f", "/mnt/pod.yaml"])?;
        running(machine)?;
        ensure!(machine.kubectl(&["exec", "web", "--", "cat", "/www/index.html"])? == "hello\n");
        Ok(())
    })?;
    let container = container(machine)?;
    report.step("one unit restarts, the pod does not notice", || {
        machine.run(&["systemctl", "restart", "k3s-kubelet"])?;
        ready(machine)?;
        same(machine, &container)
    })?;
    report.step("an upgrade restarts every component and no pod", || {
        let old_pids = pids(machine)?;
        install(machine, SERVER, new)?;
        let now = pids(machine)?;
        for ((unit, old), (_, new)) in old_pids.iter().zip(&now) {
            ensure!(old != new, "{unit} still runs the old executable");
        }
        let stale = machine.shell("for p in /proc/[0-9]*; do readlink $p/exe; done 2>/dev/null | grep 'k3s (deleted)' || true")?;
        ensure!(stale.is_empty(), "old executables run: {stale}");
        ready(machine)?;
        same(machine, &container)?;
        verified(machine)
    })?;
    report.step("a reboot brings everything back", || {
        machine.reboot()?;
        machine.wait("the API", 120, &mut || {
            Ok(machine.kubectl(&["get", "--raw", "/readyz"])? == "ok")
        })?;
        ready(machine)?;
        running(machine)
    })?;
    fs::create_dir_all(machine.root.join("var/lib/rancher/k3s/storage/pvc-1"))?;
    fs::write(machine.root.join("var/lib/rancher/k3s/storage/pvc-1/precious"), "data")?;
    report.step("remove stops all of it and keeps configuration and data", || {
        machine.run(&["apt-get", "-qy", "remove", "k3s", "k3s-server"])?;
        let now = take(machine)?;
        let left: Vec<&String> = now
            .difference(&before)
            .filter(|line| {
                !line.starts_with("file: ")
                    && !line.starts_with("user: ")
                    && !line.starts_with("group: ")
            })
            .filter(|line| {
                line.contains("k3s")
                    || line.contains("kube")
                    || line.contains("cni")
                    || line.contains("flannel")
                    || line.contains("shim")
            })
            .collect();
        ensure!(left.is_empty(), "left behind: {left:?}");
        for path in [
            "etc/rancher/k3s/config.yaml",
            "var/lib/rancher/k3s/server/db/state.db",
            "var/lib/rancher/k3s/server/tls/server-ca.key",
        ] {
            ensure!(machine.root.join(path).exists(), "{path} is gone");
        }
        Ok(())
    })?;
    report.step("purge keeps the user's volumes and nothing else", || {
        machine.run(&["apt-get", "-qy", "purge", "k3s", "k3s-server"])?;
        let precious = machine.root.join("var/lib/rancher/k3s/storage/pvc-1/precious");
        ensure!(fs::read(precious)? == b"data");
        fs::remove_dir_all(machine.root.join("var/lib/rancher"))?;
        machine.run(&["apt-get", "-qy", "autoremove", "--purge"])?;
        machine.run(&["systemctl", "reset-failed"])?;
        let after = take(machine)?;
        let difference = difference(&before, &after);
        ensure!(difference.is_empty(), "the machine is not as it was:\n{difference}");
        Ok(())
    })
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

/// dpkg finds every file as it was packed.
fn verified(machine: &Machine) -> Result<()> {
    let wrong = machine.shell("dpkg --verify k3s k3s-server; true")?;
    ensure!(wrong.is_empty(), "dpkg --verify: {wrong}");
    Ok(())
}

pub(super) fn image(machine: &Machine) -> Result<()> {
    let path = machine.root.join("var/lib/rancher/k3s/agent/images/busybox.tar");
    run_command(Command::new("packaging/busybox-image").arg(IMAGE).arg(path)).map(drop)
}

pub(super) fn ready(machine: &Machine) -> Result<()> {
    machine.wait("the node to be Ready", 120, &mut || {
        let condition = "{.items[*].status.conditions[?(@.type=='Ready')]}";
        let found = machine.kubectl(&["get", "nodes", "-o", &format!("jsonpath={condition}")])?;
        ensure!(!found.is_empty() && !found.contains(r#""status":"False""#), "{found}");
        ensure!(!found.contains(r#""status":"Unknown""#), "{found}");
        Ok(true)
    })
}

fn running(machine: &Machine) -> Result<()> {
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

fn same(machine: &Machine, container_before: &str) -> Result<()> {
    let now = container(machine)?;
    ensure!(now == container_before, "the pod was touched: {container_before} became {now}");
    ensure!(machine.kubectl(&["exec", "web", "--", "cat", "/www/index.html"])? == "hello\n");
    Ok(())
}

fn pids(machine: &Machine) -> Result<Vec<(&'static str, String)>> {
    UNITS
        .iter()
        .map(|unit| Ok((*unit, machine.run(&["systemctl", "show", "-P", "MainPID", unit])?)))
        .collect()
}
