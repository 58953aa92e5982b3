//! What an administrator does to a server that runs, and may expect of it: restarts under load, the
//! journal, log levels, who may command, a bus that restarts, a component that hangs.
//!
//! Invariant: every step leaves the server as it found it.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::Report;
use super::machine::Machine;
use super::node::{processes, ready};
use crate::cluster::serial;
use crate::load;

const RESTARTS: usize = 10;
/// The administrator's kubeconfig as it looks from outside the machine.
const FROM_OUTSIDE: &str = "/run/kubeconfig";
/// Somebody without rights.
const USER: &str = "somebody";
const RULE: &str = "etc/polkit-1/rules.d/50-k3s.rules";
/// How long certificates live while their renewal is watched.
const LIFE: &str = "K3S_CERTIFICATE_LIFETIME_SECONDS=24";
const HANGS: &str = "k3s-scheduler.service";
const ABSENT: &str = "apiVersion: v1
kind: Pod
metadata: { name: absent }
spec:
  terminationGracePeriodSeconds: 0
  containers: [{ name: c, image: 'registry.invalid/absent:1' }]
";

/// Installs what the steps need; it stays in the machine.
pub(super) fn prepare(machine: &Machine) -> Result<()> {
    machine.run(&["apt-get", "-qy", "install", "polkitd"])?;
    machine.run(&["useradd", "--system", USER])?;
    fs::write(machine.root.join("mnt/absent.yaml"), ABSENT)?;
    Ok(())
}

pub(super) fn run(report: &mut Report, machine: &Machine) -> Result<()> {
    report
        .step("no request is lost through ten restarts of the API server and the store", || {
            under_load(machine)
        })?;
    report.step("journalctl tells about one pod, and levels change at run time", || {
        journal(machine)?;
        levels(machine)
    })?;
    report
        .step("who is not root may look, and command what polkit allows", || commands(machine))?;
    report.step("components outlive the message bus and come back to it", || bus(machine))?;
    report.step("a component that hangs is started again", || watchdog(machine))?;
    report
        .step("certificates that live for seconds renew themselves online", || short_lives(machine))
}

fn under_load(machine: &Machine) -> Result<()> {
    let api = SocketAddr::from((machine.address, 6443));
    let kubeconfig = fs::read_to_string(machine.root.join("etc/rancher/k3s/k3s.yaml"))?;
    fs::write(FROM_OUTSIDE, kubeconfig.replace("127.0.0.1:6443", &api.to_string()))?;
    load::during(Path::new(FROM_OUTSIDE), api, |load| {
        for round in 0..RESTARTS {
            for unit in ["k3s-apiserver.service", "k3s-store.service"] {
                machine
                    .run(&["systemctl", "restart", unit])
                    .and_then(|_| load.settle())
                    .with_context(|| format!("{unit}, round {round}"))?;
            }
        }
        Ok(())
    })?;
    machine.kubectl(&["delete", "configmaps", "-l", load::LABEL]).map(drop)
}

fn journal(machine: &Machine) -> Result<()> {
    let about = |pod: &str| {
        let field = format!("POD=default/{pod}");
        machine.run(&["journalctl", "-u", "k3s-kubelet", &field, "-p", "warning", "-o", "cat"])
    };
    machine.kubectl(&["apply", "-f", "/mnt/absent.yaml"])?;
    machine.wait("a warning about the pod", 60, &mut || {
        Ok(about("absent")?.contains("registry.invalid/absent:1"))
    })?;
    let others = about("web")?;
    ensure!(!others.contains("absent"), "not about the pod web: {others}");
    machine.kubectl(&["delete", "pod", "absent"]).map(drop)
}

/// What a component says when it is asked to: connections that are no TLS.
fn levels(machine: &Machine) -> Result<()> {
    let level = |args: &[&str]| {
        let command = ["systemctl", "service-log-level", "k3s-apiserver.service"];
        machine.run(&[&command, args].concat())
    };
    let said = || {
        let command = ["journalctl", "-u", "k3s-apiserver", "-p", "debug..debug", "-o", "cat"];
        machine.run(&command)
    };
    let knock = || TcpStream::connect((machine.address, 6443)).map(drop);
    ensure!(level(&[])?.trim() == "info");
    knock()?;
    let told = "Refused a TLS handshake";
    ensure!(!said()?.contains(told), "debug lines at level info");
    level(&["debug"])?;
    ensure!(level(&[])?.trim() == "debug");
    machine.wait("a line at the new level", 20, &mut || {
        knock()?;
        Ok(said()?.contains(told))
    })?;
    level(&["info"]).map(drop)
}

fn commands(machine: &Machine) -> Result<()> {
    let as_user = |args: &[&str]| {
        let mut full = vec!["runuser", "-u", USER, "--", "busctl"];
        full.extend(args);
        machine.run(&full)
    };
    let call = |name: &str, interface: &str, rest: &[&str]| {
        as_user(&[&["call", name, "/io/k3s", interface], rest].concat())
    };
    let component = "io.k3s.Component1";
    let looked =
        |property| as_user(&["get-property", "io.k3s.Scheduler1", "/io/k3s", component, property]);
    ensure!(looked("Health")?.trim() == r#"s "ok""#);
    let denied: [(&str, &str, &[&str]); 4] = [
        ("io.k3s.Server1", component, &["Reload"]),
        ("io.k3s.Scheduler1", component, &["SetLogLevel", "s", "debug"]),
        ("io.k3s.Kubelet1", "io.k3s.Kubelet1", &["Cordon"]),
        ("io.k3s.Kubelet1", "io.k3s.Kubelet1", &["Drain"]),
    ];
    for (name, interface, rest) in denied {
        let err = call(name, interface, rest).err().map(|err| err.to_string()).unwrap_or_default();
        // busctl has words of its own for this error.
        ensure!(err.contains("Access denied"), "{name} {rest:?}: {err}");
    }
    // One of the two actions, then the other as well.
    let allow = |condition: &str| {
        let rule = format!(
            "polkit.addRule(function(action, subject) {{\n  if ({condition} && subject.user == \
             \"{USER}\") return polkit.Result.YES;\n}});\n"
        );
        fs::write(machine.root.join(RULE), rule).context("writing a rule")
    };
    allow(r#"action.id == "io.k3s.manage""#)?;
    machine.wait("polkit to read the rule", 20, &mut || {
        call("io.k3s.Scheduler1", component, &["SetLogLevel", "s", "debug"])?;
        Ok(looked("LogLevel")?.trim() == r#"s "debug""#)
    })?;
    call("io.k3s.Scheduler1", component, &["SetLogLevel", "s", "info"])?;
    call("io.k3s.Server1", component, &["Reload"])?;
    ensure!(call("io.k3s.Kubelet1", "io.k3s.Kubelet1", &["Cordon"]).is_err());
    allow(r#"action.id.indexOf("io.k3s.") == 0"#)?;
    machine.wait("polkit to read the other rule", 20, &mut || {
        call("io.k3s.Kubelet1", "io.k3s.Kubelet1", &["Cordon"]).map(|_| true)
    })?;
    call("io.k3s.Kubelet1", "io.k3s.Kubelet1", &["Uncordon"])?;
    fs::remove_file(machine.root.join(RULE)).context("removing the rule")
}

fn bus(machine: &Machine) -> Result<()> {
    let before = processes(machine)?;
    machine.run(&["systemctl", "restart", "dbus.service"])?;
    machine.wait("every component on the new bus", 30, &mut || {
        let names = machine.run(&["busctl", "list", "--acquired", "--no-legend"])?;
        let ours = names.lines().filter(|line| line.starts_with("io.k3s.") && line.contains("k3s"));
        // The components, and the role.
        let running = ours.filter(|line| !line.contains("(activatable)")).count();
        ensure!(running == before.len() + 1, "{names}");
        Ok(true)
    })?;
    ensure!(processes(machine)? == before, "the bus took a component with it");
    // The role follows its units on the new connection.
    machine.run(&["systemctl", "restart", "k3s-scheduler.service"])?;
    machine.wait("the role to see the restart", 20, &mut || {
        let pid = machine.run(&["systemctl", "show", "-P", "MainPID", "k3s-scheduler"])?;
        Ok(machine
            .run(&["busctl", "get-property", "io.k3s.Server1", "/io/k3s", "io.k3s.Role1", "Units"])?
            .contains(&format!("\"k3s-scheduler\" true {} ", pid.trim())))
    })?;
    ready(machine)
}

fn watchdog(machine: &Machine) -> Result<()> {
    let show = |property: &str| machine.run(&["systemctl", "show", "-P", property, HANGS]);
    ensure!(show("WatchdogUSec")?.trim() == "30s");
    // Half a minute is long for a test.
    let drop_in = machine.root.join("etc/systemd/system").join(format!("{HANGS}.d"));
    fs::create_dir_all(&drop_in)?;
    fs::write(drop_in.join("test.conf"), "[Service]\nWatchdogSec=2s\n")?;
    machine.run(&["systemctl", "daemon-reload"])?;
    machine.run(&["systemctl", "restart", HANGS])?;
    let pid = show("MainPID")?;
    machine.run(&["kill", "-STOP", pid.trim()])?;
    machine.wait("another process", 30, &mut || {
        let now = show("MainPID")?;
        Ok(now != pid && now.trim() != "0" && show("ActiveState")?.trim() == "active")
    })?;
    ensure!(show("NRestarts")?.trim() == "1", "{} restarts", show("NRestarts")?.trim());
    let said = machine.run(&["journalctl", "-u", HANGS, "-o", "cat"])?;
    ensure!(said.contains("Watchdog timeout"), "{said}");
    fs::remove_dir_all(&drop_in)?;
    machine.run(&["systemctl", "daemon-reload"])?;
    machine.run(&["systemctl", "restart", HANGS]).map(drop)
}

/// Two whole lives, so that every certificate of the beginning is long dead.
fn short_lives(machine: &Machine) -> Result<()> {
    let drop_in = machine.root.join("etc/systemd/system/k3s-server.service.d/test.conf");
    fs::create_dir_all(drop_in.parent().context("a folder")?)?;
    fs::write(&drop_in, format!("[Service]\nEnvironment={LIFE}\n"))?;
    machine.run(&["systemctl", "daemon-reload"])?;
    machine.run(&["systemctl", "restart", "k3s-server"])?;
    machine.run(&["env", LIFE, "k3s", "certificate", "rotate"])?;
    ready(machine)?;
    let role = || machine.run(&["systemctl", "show", "-P", "MainPID", "k3s-server"]);
    let before = (role()?, processes(machine)?);
    // One connection for all of the time.
    let watching = "KUBECONFIG=/etc/rancher/k3s/k3s.yaml nohup /mnt/kubectl get configmaps \
                    --watch -o name >/run/watch 2>&1 </dev/null & echo $!";
    let watcher = machine.shell(watching)?;
    let seen = |name: &str| {
        machine.wait(name, 20, &mut || Ok(machine.shell("cat /run/watch")?.contains(name)))
    };
    seen("kube-root-ca.crt")?;
    let at = |port: u16| serial(&format!("{}:{port}", machine.address));
    for round in 0..4 {
        for port in [6443, 10250] {
            let old = at(port)?;
            machine.wait("another certificate", 40, &mut || Ok(at(port)? != old))?;
        }
        let name = format!("renewal-{round}");
        machine.wait("a write", 10, &mut || {
            Ok(machine.kubectl(&["create", "configmap", &name]).is_ok())
        })?;
        seen(&name)?;
        machine.kubectl(&["exec", "web", "--", "true"]).context("API server to kubelet")?;
    }
    machine.run(&["kill", watcher.trim()]).context("the watch ended")?;
    let now = (role()?, processes(machine)?);
    ensure!(now == before, "something was restarted: {before:?} {now:?}");
    let shown = machine.run(&["k3s", "certificate", "check", "--output", "table"])?;
    ensure!(!shown.contains("EXPIRED") && !shown.contains("WARNING"), "{shown}");
    fs::remove_file(&drop_in)?;
    machine.run(&["systemctl", "daemon-reload"])?;
    machine.run(&["systemctl", "restart", "k3s-server"])?;
    machine.run(&["k3s", "certificate", "rotate"])?;
    machine.shell("rm /run/watch")?;
    ready(machine)
}
