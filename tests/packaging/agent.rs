//! A second machine joins as an agent over a bridge, reboots, and is uninstalled.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::init::Init;
use super::inventory::{difference, take};
use super::machine::Machine;
use super::node::{equip, image, install, ready, service_account};
use super::{Report, base};

const POD: &str = "apiVersion: v1
kind: Pod
metadata: { name: far }
spec:
  nodeName: agent
  terminationGracePeriodSeconds: 0
  containers:
  - name: sh
    image: docker.io/library/busybox:1.35
    command: [sh, -c, 'echo from afar; exec sleep 1000000']
";

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let server = report.step("a server starts", || {
        let machine = Machine::new("server", 1, Init::Systemd)?;
        equip(&machine)?;
        install(&machine, &["k3s", "k3s-server"], base::REVISIONS[0])?;
        machine.run(&["systemctl", "enable", "--now", "k3s-server"])?;
        Ok(machine)
    })?;
    let mut agent =
        report.step("a second machine boots", || Machine::new("agent", 2, Init::Systemd))?;
    let joined = join(report, &server, &mut agent);
    joined.map_err(|err| err.context(server.journal()).context(agent.journal()))
}

/// A flag of the kubelet is changed while the role, and the node's pods, go on.
fn reload(server: &Machine, agent: &Machine) -> Result<()> {
    let pid = || agent.run(&["systemctl", "show", "-P", "MainPID", "k3s-agent"]);
    let before = pid()?;
    let path = agent.root.join("etc/rancher/k3s/config.yaml");
    let config = fs::read_to_string(&path)?;
    fs::write(&path, format!("{config}kubelet-arg: [max-pods=42]\n"))?;
    agent.run(&["systemctl", "reload", "k3s-agent"])?;
    server.wait("the kubelet to run with the new flag", 60, &mut || {
        let capacity = "jsonpath={.status.capacity.pods}";
        Ok(server.kubectl(&["get", "node", "agent", "-o", capacity])? == "42")
    })?;
    ensure!(pid()? == before, "the role was restarted");
    ensure!(server.kubectl(&["exec", "far", "--", "hostname"])? == "far\n");
    Ok(())
}

/// Clients of the load balancer wait while the role is restarted; none is refused.
fn restart(agent: &Machine) -> Result<()> {
    let script = "n=0 refused=0; until [ -e /run/enough ] && [ $n -gt 100 ]; do \
                  { : <>/dev/tcp/127.0.0.1/6444; } 2>/dev/null || refused=$((refused + 1)); \
                  n=$((n + 1)); sleep 0.003; done; rm /run/enough; echo $n $refused";
    let seen = std::thread::scope(|scope| {
        let clients = scope.spawn(|| agent.run(&["bash", "-c", script]));
        let restarted = agent.run(&["systemctl", "restart", "k3s-agent"]);
        agent.run(&["touch", "/run/enough"])?;
        let seen = clients.join().map_err(|_| anyhow::anyhow!("the clients panicked"))?;
        restarted.and(seen)
    })?;
    println!("        connections, refused: {}", seen.trim());
    let (all, refused) = seen.trim().split_once(' ').context("two numbers")?;
    ensure!(refused == "0" && all.parse::<u32>()? > 100, "{seen}");
    Ok(())
}

fn join(report: &mut Report, server: &Machine, agent: &mut Machine) -> Result<()> {
    let before = take(agent)?;
    report.step("enable --now k3s-agent returns when the node is Ready", || {
        install(agent, &["k3s", "k3s-agent"], base::REVISIONS[0])?;
        image(agent)?;
        let token = fs::read_to_string(server.root.join("var/lib/rancher/k3s/server/node-token"))?;
        let config = format!("server: https://10.88.0.1:6443\ntoken: {}\n", token.trim());
        fs::write(agent.root.join("etc/rancher/k3s/config.yaml"), config)?;
        agent.run(&["systemctl", "enable", "--now", "k3s-agent"])?;
        let condition = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        let state = server.kubectl(&["get", "node", "agent", "-o", condition])?;
        ensure!(state == "True", "Ready is {state}");
        Ok(())
    })?;
    report.step("a pod runs there, its logs come through the tunnel", || {
        service_account(server)?;
        far(server)
    })?;
    report.step(
        "reload takes a changed configuration, restart keeps the API's door open",
        || {
            reload(server, agent)?;
            restart(agent)
        },
    )?;
    report.step("the agent comes back after a reboot", || {
        agent.reboot()?;
        // Active means that the node is Ready again.
        agent.wait("the agent", 120, &mut || {
            Ok(agent.shell("systemctl is-active k3s-agent || true")?.trim() == "active")
        })?;
        ready(server)?;
        far(server)
    })?;
    report.step("k3s-agent-uninstall.sh leaves nothing", || {
        agent.run(&["k3s-agent-uninstall.sh"])?;
        agent.run(&["apt-get", "-qy", "autoremove", "--purge"])?;
        agent.run(&["systemctl", "reset-failed"])?;
        let difference = difference(&before, &take(agent)?);
        ensure!(difference.is_empty(), "the machine is not as it was:\n{difference}");
        Ok(())
    })
}

/// A pod runs on the agent; its logs and exec come through the tunnel.
pub(super) fn far(server: &Machine) -> Result<()> {
    fs::write(server.root.join("mnt/far.yaml"), POD)?;
    server.kubectl(&["apply", "-f", "/mnt/far.yaml"])?;
    server.kubectl(&["wait", "--for=condition=Ready", "pod/far", "--timeout=120s"])?;
    server.wait("the pod's log", 60, &mut || {
        Ok(server.kubectl(&["logs", "far"])? == "from afar\n")
    })?;
    ensure!(server.kubectl(&["exec", "far", "--", "hostname"])? == "far\n");
    Ok(())
}
