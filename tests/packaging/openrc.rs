//! The life of a server under OpenRC: from `apt install` to a purge that leaves nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Result, ensure};

use super::init::Init;
use super::inventory::{difference, take};
use super::machine::Machine;
use super::node::{
    equip, image, install, kept, processes, ready, replaced, running, same, start_pod, stopped,
    upgrade, verified,
};
use super::{Report, base};

const SERVER: &[&str] = &["k3s", "k3s-openrc"];
const LOG: &str = "var/log/k3s.log";

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let mut machine =
        report.step("a bare Debian 12 boots OpenRC", || Machine::new("server", 1, Init::OpenRc))?;
    equip(&machine)?;
    live(report, &mut machine).map_err(|err| err.context(machine.journal()))
}

fn live(report: &mut Report, machine: &mut Machine) -> Result<()> {
    let [old, new] = base::REVISIONS;
    let before = take(machine)?;
    report.step("the packages install, nothing starts by itself", || {
        install(machine, SERVER, old)?;
        let state = machine.shell("rc-status --all; rc-service k3s-server status || true")?;
        ensure!(!state.contains("k3s"), "{state}");
        verified(machine, SERVER)
    })?;
    image(machine)?;
    let container = report.step("rc-service starts a server, and a pod runs", || {
        machine.run(&["rc-update", "add", "k3s-server", "default"])?;
        machine.run(&["rc-service", "k3s-server", "start"])?;
        ready(machine)?;
        start_pod(machine)
    })?;
    report.step("a machine has one role", || {
        ensure!(machine.run(&["rc-service", "k3s-agent", "start"]).is_err(), "a second one starts");
        Ok(())
    })?;
    report.step("a component restarts alone, the pod does not notice", || {
        let before = processes(machine)?;
        machine.run(&["kill", &before["k3s-kubelet"].to_string()])?;
        machine.wait("another kubelet", 30, &mut || {
            Ok(processes(machine)?["k3s-kubelet"] != before["k3s-kubelet"])
        })?;
        let now = processes(machine)?;
        for (component, pid) in before.iter().filter(|(name, _)| *name != "k3s-kubelet") {
            ensure!(now[component] == *pid, "{component} restarted as well");
        }
        same(machine, &container)
    })?;
    report.step("the role restarts, and comes back when it is killed", || {
        let first = processes(machine)?;
        machine.run(&["rc-service", "k3s-server", "restart"])?;
        replaced(machine, &first)?;
        same(machine, &container)?;
        let second = processes(machine)?;
        machine.shell("kill -9 $(cat /proc/$(cat /run/k3s-server.pid)/task/*/children)")?;
        replaced(machine, &second)?;
        same(machine, &container)
    })?;
    report.step("the log is rotated while it is written", || logs(machine))?;
    report.step("an upgrade restarts every component and no pod", || {
        upgrade(machine, SERVER, new, &container)
    })?;
    report.step("a reboot ends pods in order and brings everything back", || {
        machine.reboot()?;
        ready(machine)?;
        running(machine)
    })?;
    report.step("k3s-killall.sh stops all of it, and it starts again", || {
        machine.run(&["k3s-killall.sh"])?;
        stopped(&before, &take(machine)?)?;
        kept(machine)?;
        machine.run(&["rc-service", "k3s-server", "start"])?;
        ready(machine)?;
        running(machine)
    })?;
    report.step("remove stops all of it and keeps configuration and data", || {
        machine.shell("apt-get -qy remove 'k3s*'")?;
        stopped(&before, &take(machine)?)?;
        kept(machine)
    })?;
    report.step("purge leaves nothing", || {
        machine.shell("apt-get -qy purge 'k3s*'")?;
        machine.run(&["apt-get", "-qy", "autoremove", "--purge"])?;
        let difference = difference(&before, &take(machine)?);
        ensure!(difference.is_empty(), "the machine is not as it was:\n{difference}");
        Ok(())
    })
}

/// The components' lines are in one file that only root may read, and go on after a rotation.
fn logs(machine: &Machine) -> Result<()> {
    let log = machine.root.join(LOG);
    let mode = fs::metadata(&log)?.permissions().mode() & 0o777;
    ensure!(mode == 0o640, "{LOG} has mode {mode:o}");
    let text = fs::read_to_string(&log)?;
    for component in ["k3s-apiserver", "k3s-kubelet", "k3s-store"] {
        ensure!(text.contains(component), "{component} has logged nothing");
    }
    machine.run(&["logrotate", "--force", "/etc/logrotate.d/k3s"])?;
    let rotated = machine.run(&["zcat", "/var/log/k3s.log.1.gz"])?;
    ensure!(rotated.starts_with(&text), "the rotated log is another one");
    let before = processes(machine)?;
    machine.run(&["kill", &before["k3s-scheduler"].to_string()])?;
    machine.wait("new lines in the log", 30, &mut || {
        let text = fs::read(&log)?;
        // Who writes at an offset of its own leaves a hole.
        ensure!(!text.contains(&0), "the log has a hole");
        Ok(String::from_utf8_lossy(&text).contains("k3s-scheduler"))
    })
}
