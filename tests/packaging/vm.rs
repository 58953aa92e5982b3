//! The packages on a real kernel with control groups of version 2 and systemd's cgroup driver:
//! what containers on CI's kernel cannot show.
//!
//! Invariant: the machine has no way out and is told by a shell only, so each step is what an
//! administrator would do.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::emulated::Emulated;
use super::guest::Guest;
use super::init::Init;
use super::inventory::{difference, take};
use super::{Report, base};
use crate::cluster::{IMAGE, run as run_command, wait};

/// Emulation makes a minute of a few seconds.
const PATIENCE: Duration = Duration::from_secs(600);
const PACKAGES: &[&str] = &["k3s", "k3s-server"];
/// A pod with requests and limits, and one that asks for more memory than it may have.
const LIMITED: &str = "apiVersion: v1
kind: Pod
metadata: { name: limited }
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: sh
    image: docker.io/library/busybox:1.35
    command: [sleep, '1000000']
    resources:
      requests: { cpu: 100m, memory: 16Mi }
      limits: { cpu: 500m, memory: 32Mi }
---
apiVersion: v1
kind: Pod
metadata: { name: greedy }
spec:
  restartPolicy: Never
  containers:
  - name: sh
    image: docker.io/library/busybox:1.35
    command: [sh, -c, 'tail /dev/zero']
    resources: { limits: { memory: 16Mi } }
";

pub(crate) fn run(report: &mut Report) -> Result<()> {
    ensure!(base::root(Init::Systemd).exists(), "the base is missing: run `tests prepare` first");
    let mut machine = report.step("a Debian 12 boots with a kernel of its own", || {
        Emulated::new(|root| {
            let mnt = root.join("mnt");
            fs::copy("target/tools/kubectl", mnt.join("kubectl")).context("kubectl")?;
            fs::copy("packaging/sample.yaml", mnt.join("sample.yaml"))?;
            fs::write(mnt.join("limited.yaml"), LIMITED)?;
            for package in PACKAGES {
                let deb = base::deb(package, base::REVISIONS[1])?;
                fs::copy(deb, mnt.join(format!("{package}.deb")))?;
            }
            let image = mnt.join("busybox.tar");
            run_command(Command::new("packaging/busybox-image").arg(IMAGE).arg(image)).map(drop)
        })
    })?;
    live(report, &mut machine).map_err(|err| err.context(journal(&machine)))
}

fn live(report: &mut Report, machine: &mut Emulated) -> Result<()> {
    report.step("control groups are version 2, systemd is process 1", || {
        ensure!(machine.shell("stat -f -c %T /sys/fs/cgroup")?.trim() == "cgroup2fs");
        ensure!(machine.shell("readlink /proc/1/exe")?.trim().ends_with("/systemd"));
        println!("        kernel {}", machine.shell("uname -r")?.trim());
        Ok(())
    })?;
    let before = take(machine)?;
    report.step("apt installs the packages with what they depend on", || {
        let debs: Vec<String> = PACKAGES.iter().map(|p| format!("/mnt/{p}.deb")).collect();
        machine.shell(&format!("apt-get -qy install {}", debs.join(" ")))?;
        ensure!(machine.shell("dpkg --verify k3s k3s-server; true")?.is_empty());
        machine
            .shell("install -D /mnt/busybox.tar /var/lib/rancher/k3s/agent/images/busybox.tar")
            .map(drop)
    })?;
    report.step("check-config finds nothing that is missing", || {
        machine.shell("k3s check-config").map(drop)
    })?;
    report.step("enable --now returns when the API answers", || {
        machine.shell("systemctl enable --now k3s-server")?;
        until(machine, "get --raw /readyz", "ok")
    })?;
    report.step("the node is Ready, by the systemd cgroup driver", || {
        ready(machine)?;
        let config = kubectl(machine, "get --raw /api/v1/nodes/vm/proxy/configz")?;
        ensure!(config.contains(r#""cgroupDriver":"systemd""#), "{config}");
        Ok(())
    })?;
    report.step("the sample runs, its Service answers", || {
        until(machine, "get serviceaccount default -o name", "serviceaccount/default")?;
        kubectl(machine, "apply -f /mnt/sample.yaml")?;
        kubectl(machine, "rollout status deployment/web --timeout=600s")?;
        answers(machine)
    })?;
    report.step("limits are systemd's slices and the kernel's", || limits(machine))?;
    let containers = containers(machine)?;
    report.step("a restart of the role leaves pods and Service alone", || {
        machine.shell("systemctl restart k3s-server")?;
        ready(machine)?;
        ensure!(self::containers(machine)? == containers, "containers were started again");
        answers(machine)
    })?;
    report.step("deleted pods leave no slice", || {
        kubectl(machine, "delete pod limited greedy --timeout=300s")?;
        let slices =
            "systemctl list-units --all --plain --no-legend 'kubepods-*pod*.slice' | wc -l";
        // The sample's three.
        wait("the slices to go", PATIENCE, &mut || Ok(machine.shell(slices)?.trim() == "3"))
    })?;
    report.step("a reboot brings everything back", || {
        let took = machine.reboot()?;
        println!("        shut down and booted in {} s", took.as_secs());
        until(machine, "get --raw /readyz", "ok")?;
        ready(machine)?;
        kubectl(machine, "rollout status deployment/web --timeout=600s")?;
        answers(machine)
    })?;
    report.step("remove ends all of it, purge leaves nothing", || {
        machine.shell("apt-get -qy remove k3s k3s-server")?;
        let left = machine.shell(
            "systemctl list-units --all --plain --no-legend 'kubepods*' 'cri-containerd*' 'k3s*'; \
             find /sys/fs/cgroup -type d -path '*kubepods*'; ip -o link show type veth; nft list tables",
        )?;
        ensure!(left.trim().is_empty(), "left behind: {left}");
        machine.shell("apt-get -qy purge k3s k3s-server && apt-get -qy autoremove --purge")?;
        machine.shell("systemctl reset-failed")?;
        let difference = difference(&before, &take(machine)?);
        ensure!(difference.is_empty(), "the machine is not as it was:\n{difference}");
        Ok(())
    })
}

/// What the pod asks for is what systemd and the kernel have; what uses more is killed for it.
fn limits(machine: &Emulated) -> Result<()> {
    kubectl(machine, "apply -f /mnt/limited.yaml")?;
    kubectl(machine, "wait --for=condition=Ready pod/limited --timeout=600s")?;
    let uid = kubectl(machine, "get pod limited -o jsonpath={.metadata.uid}")?;
    let slice = format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_"));
    let folder = format!("/sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice/{slice}");
    for (property, expected) in
        [("MemoryMax", "33554432"), ("CPUQuotaPerSecUSec", "500ms"), ("CPUWeight", "4")]
    {
        let found = machine.shell(&format!("systemctl show -P {property} {slice}"))?;
        ensure!(found.trim() == expected, "{slice}: {property} is {found}");
    }
    for (file, expected) in [("memory.max", "33554432"), ("cpu.max", "50000 100000")] {
        for folder in [folder.clone(), format!("{folder}/cri-containerd-*.scope")] {
            let found = machine.shell(&format!("cat {folder}/{file} | sort -u"))?;
            // The sandbox has no limits of its own.
            ensure!(found.lines().any(|line| line == expected), "{folder}/{file}: {found}");
        }
    }
    let reason =
        "get pod greedy -o jsonpath={.status.containerStatuses[0].state.terminated.reason}";
    until(machine, reason, "OOMKilled")?;
    // A rate lies between two readings.
    wait("the node's figures", PATIENCE, &mut || {
        let summary = kubectl(machine, "get --raw /api/v1/nodes/vm/proxy/stats/summary")?;
        let all = summary.contains("workingSetBytes") && summary.contains("usageNanoCores");
        ensure!(all, "{summary}");
        Ok(true)
    })
}

/// kubectl as administrator. It gives a handshake ten seconds, which may be too short here.
fn kubectl(machine: &Emulated, line: &str) -> Result<String> {
    let line = format!("KUBECONFIG=/etc/rancher/k3s/k3s.yaml /mnt/kubectl {line}");
    let mut said = machine.shell(&line);
    for _ in 0..5 {
        match &said {
            Err(err) if err.to_string().contains("timeout") => said = machine.shell(&line),
            _ => break,
        }
    }
    said
}

/// Waits for a kubectl command to answer with a text.
fn until(machine: &Emulated, line: &str, expected: &str) -> Result<()> {
    wait(line, PATIENCE, &mut || {
        let found = kubectl(machine, line)?;
        ensure!(found.trim() == expected, "it says {found}");
        Ok(true)
    })
}

fn ready(machine: &Emulated) -> Result<()> {
    let line = "get node vm -o \"jsonpath={.status.conditions[?(@.type=='Ready')].status}\"";
    until(machine, line, "True")
}

/// The Service gives a page by its address on the node and by its name in a pod.
fn answers(machine: &Emulated) -> Result<()> {
    let address = kubectl(machine, "get service web -o jsonpath={.spec.clusterIP}")?;
    let ask = format!(
        "bash -c 'exec 3<>/dev/tcp/{address}/80; printf \"GET / HTTP/1.0\\r\\n\\r\\n\" >&3; timeout 20 cat <&3'"
    );
    for ask in [ask, "KUBECONFIG=/etc/rancher/k3s/k3s.yaml /mnt/kubectl exec deployment/web -- wget -q -O- http://web/".to_owned()] {
        wait("the Service to answer", PATIENCE, &mut || {
            Ok(machine.shell(&ask)?.contains("hello from web-"))
        })?;
    }
    Ok(())
}

/// The containers of the sample and how often they started.
fn containers(machine: &Emulated) -> Result<String> {
    kubectl(
        machine,
        "get pods -l app=web -o 'jsonpath={range .items[*]}{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{\"\\n\"}{end}'",
    )
}

/// The end of the journal, for a failure.
fn journal(machine: &Emulated) -> String {
    let text = machine.shell("journalctl --no-pager -b -n 150 -o short-monotonic");
    let text = text.unwrap_or_else(|err| err.to_string());
    if std::env::var_os("K3S_HOLD").is_some() {
        let go = base::target().join("machines/vm/go");
        println!(
            "holding the machine until {} is there; ask it by {}",
            go.display(),
            machine.hang_up().display()
        );
        wait("machines/vm/go", Duration::from_secs(3600), &mut || Ok(go.exists())).ok();
    }
    format!("journal:\n{text}---\n")
}
