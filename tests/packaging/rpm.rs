//! The rpm packages, installed by rpm on a machine that boots systemd: upgraded, erased, gone.
//!
//! Invariant: the machine is a Debian, which has rpm but installs nothing with it, so what the
//! packages require comes from apt and rpm is told not to look; all else is rpm's own work.

use std::fs;

use anyhow::{Result, ensure};

use super::init::Init;
use super::inventory::{difference, take};
use super::machine::Machine;
use super::node::{equip, image, ready};
use super::{Report, base};

const PACKAGES: [&str; 2] = ["k3s", "k3s-server"];

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let machine = report.step("a machine with rpm boots", || {
        let machine = Machine::new("server", 1, Init::Systemd)?;
        equip(&machine)?;
        machine.shell("apt-get -qy install rpm containerd runc nftables dbus iproute2 procps")?;
        // Debian starts its own containerd; its folders are not what this is about.
        machine.shell("systemctl disable --now containerd; mkdir -p /var/lib/rpm; rpm --initdb")?;
        Ok(machine)
    })?;
    live(report, &machine).map_err(|err| err.context(machine.journal()))
}

fn live(report: &mut Report, machine: &Machine) -> Result<()> {
    let [old, new] = base::REVISIONS;
    let before = take(machine)?;
    report.step("rpm installs, nothing starts, --verify finds nothing", || {
        rpm(machine, "--install", old)?;
        ensure!(machine.shell("systemctl is-enabled k3s-server || true")?.trim() == "disabled");
        ensure!(machine.shell("getent passwd k3s-store || true")?.contains("k3s-store"));
        verified(machine)
    })?;
    image(machine)?;
    report.step("the server starts, its node is Ready", || {
        machine.run(&["systemctl", "enable", "--now", "k3s-server"])?;
        ready(machine)
    })?;
    report.step("an upgrade restarts every component", || {
        let units = "k3s-server k3s-store k3s-apiserver k3s-kubelet k3s-proxy k3s-dns";
        let pids = format!("systemctl show -P MainPID {units}");
        let old_pids = machine.shell(&pids)?;
        rpm(machine, "--upgrade", new)?;
        let stale = "for p in /proc/[0-9]*; do readlink $p/exe; done 2>/dev/null | grep 'k3s.*(deleted)' || true";
        machine.wait("old executables to end", 60, &mut || Ok(machine.shell(stale)?.is_empty()))?;
        let old: Vec<&str> = old_pids.split_whitespace().skip(1).collect();
        let now = machine.shell(&pids)?;
        let kept = now.split_whitespace().skip(1).filter(|pid| old.contains(pid)).count();
        ensure!(kept == 0, "{kept} components were not started again");
        ready(machine)?;
        verified(machine)
    })?;
    report.step("erasing ends everything and keeps the data", || {
        machine.shell(&format!("rpm --erase {}", PACKAGES.join(" ")))?;
        let left = "systemctl list-units --all --plain --no-legend 'k3s*'; ip -o link show cni0 2>/dev/null; nft list tables";
        let left = machine.shell(&format!("{left}; true"))?;
        ensure!(left.trim().is_empty(), "left behind: {left}");
        ensure!(machine.root.join("var/lib/rancher/k3s/server/db/state.db").exists());
        Ok(())
    })?;
    report.step("k3s-uninstall.sh of an installation leaves nothing", || {
        rpm(machine, "--install", new)?;
        machine.run(&["systemctl", "start", "k3s-server"])?;
        machine.run(&["k3s-uninstall.sh"])?;
        machine.shell("systemctl reset-failed")?;
        let after = take(machine)?;
        let books = |line: &String| !line.starts_with("file: /var/lib/rpm/");
        let difference = difference(
            &before.into_iter().filter(books).collect(),
            &after.into_iter().filter(books).collect(),
        );
        ensure!(difference.is_empty(), "the machine is not as it was:\n{difference}");
        Ok(())
    })
}

fn rpm(machine: &Machine, mode: &str, revision: &str) -> Result<()> {
    let mut files = Vec::new();
    for package in PACKAGES {
        let from = base::rpm(package, revision)?;
        fs::copy(from, machine.root.join("mnt").join(format!("{package}.rpm")))?;
        files.push(format!("/mnt/{package}.rpm"));
    }
    // A scriptlet that fails is but a warning to rpm.
    let line = format!("rpm --nodeps {mode} {} 2>&1 || echo status $?", files.join(" "));
    let said = machine.shell(&line)?;
    ensure!(!said.contains("scriptlet failed") && !said.contains("status "), "{said}");
    Ok(())
}

/// rpm finds every file as it was packed.
fn verified(machine: &Machine) -> Result<()> {
    let wrong = machine.shell(&format!("rpm --verify --nodeps {}; true", PACKAGES.join(" ")))?;
    ensure!(wrong.is_empty(), "rpm --verify: {wrong}");
    Ok(())
}
