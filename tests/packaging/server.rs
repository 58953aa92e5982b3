//! The life of a server: from `apt install` on a bare machine to a purge that leaves nothing.

use std::fs;

use anyhow::{Result, ensure};

use super::init::Init;
use super::inventory::{difference, take};
use super::machine::Machine;
use super::node::{
    equip, image, install, kept, ready, running, same, start_pod, stopped, upgrade, verified,
};
use super::{Report, base, operation};

const SERVER: &[&str] = &["k3s", "k3s-server"];

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let mut machine = report
        .step("a bare Debian 12 boots systemd", || Machine::new("server", 1, Init::Systemd))?;
    equip(&machine)?;
    live(report, &mut machine).map_err(|err| err.context(machine.journal()))
}

fn live(report: &mut Report, machine: &mut Machine) -> Result<()> {
    let [old, new] = base::REVISIONS;
    operation::prepare(machine)?;
    let before = take(machine)?;
    report.step("apt installs the packages with what they depend on", || {
        install(machine, SERVER, old)
    })?;
    report.step("nothing starts by itself, nothing is modified", || {
        ensure!(machine.shell("systemctl is-enabled k3s-server || true")?.trim() == "disabled");
        ensure!(machine.shell("systemctl is-active k3s-server || true")?.trim() == "inactive");
        verified(machine, SERVER)
    })?;
    image(machine)?;
    report.step("enable --now returns when the API answers", || {
        machine.run(&["systemctl", "enable", "--now", "k3s-server"])?;
        ensure!(machine.kubectl(&["get", "--raw", "/readyz"])? == "ok");
        Ok(())
    })?;
    let container = report.step("the node is Ready and runs a pod", || {
        ready(machine)?;
        start_pod(machine)
    })?;
    report.step("one unit restarts, the pod does not notice", || {
        machine.run(&["systemctl", "restart", "k3s-kubelet"])?;
        same(machine, &container)
    })?;
    operation::run(report, machine)?;
    report.step("an upgrade restarts every component and no pod", || {
        upgrade(machine, SERVER, new, &container)
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
        stopped(&before, &take(machine)?)?;
        kept(machine)
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
