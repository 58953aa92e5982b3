//! The pod network across nodes: a second node in its own network namespace, with its own flannel.
//!
//! The second node has no kubelet; a network namespace stands for its pod, attached through the CNI
//! plugin as containerd would do it. Invariant: packets go through VXLAN, nothing else connects
//! the two pod networks.

use std::fs;
use std::io::Write;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::Step;
use super::workload::fetch;
use crate::cluster::{Cluster, PATIENCE, apply, k3s, kubectl, run};

pub(super) const STEPS: &[Step] =
    &[("pods reach a pod of a second node through VXLAN", second_node)];

const SOCKET: &str = "/run/k3s-two/cni.sock";

fn second_node(cluster: &mut Cluster) -> Result<()> {
    let mut flannel = join()?;
    let result = ping(cluster);
    flannel.kill()?;
    flannel.wait()?;
    kubectl(&["delete", "node", "two"])?;
    result
}

/// Cables a network namespace to this node and starts the second node's flannel in it.
fn join() -> Result<Child> {
    ip("netns add two")?;
    ip("link set uplink netns two")?;
    for line in ["link set lo up", "address add 192.0.2.2/24 dev uplink", "link set uplink up"] {
        ip(&format!("-n two {line}"))?;
    }
    apply("apiVersion: v1\nkind: Node\nmetadata: { name: two }\n")?;
    let kubeconfig = fs::read_to_string("/var/lib/rancher/k3s/agent/k3scontroller.kubeconfig")?;
    fs::create_dir_all("/run/k3s-two")?;
    let file = "/run/k3s-two/kubeconfig";
    fs::write(file, kubeconfig.replace("127.0.0.1", "192.0.2.1"))?;
    let log = fs::File::create("/var/log/flannel-two.log")?;
    Command::new("nsenter")
        .arg("--net=/run/netns/two")
        .arg(k3s())
        .arg("flannel")
        .args([&format!("--kubeconfig={file}"), "--node-name=two", "--node-ip=192.0.2.2"])
        .args(["--cni-conf-dir=/run/k3s-two/net.d", "--lease-dir=/run/k3s-two/leases"])
        .args([&format!("--cni-socket={SOCKET}"), "--subnet-file=/run/k3s-two/subnet.env"])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("starting the second flannel")
}

fn ping(cluster: &mut Cluster) -> Result<()> {
    cluster.wait("the second node's network", PATIENCE, || {
        Ok(fs::read_to_string("/run/k3s-two/subnet.env")?.contains("FLANNEL_SUBNET"))
    })?;
    ip("netns add pod-two")?;
    let answer = cni("ADD")?;
    let answer: serde_json::Value = serde_json::from_str(&answer).context("the plugin's answer")?;
    let address = answer["ips"][0]["address"].as_str().context("the pod's address")?;
    let address = address.split('/').next().unwrap_or_default().to_owned();
    ensure!(address.starts_with("10.42."), "{answer}");
    fs::create_dir_all("/run/k3s-two/www")?;
    fs::write("/run/k3s-two/www/index.html", "hello from node two")?;
    run(Command::new("nsenter").args([
        "--net=/run/netns/pod-two",
        "busybox",
        "httpd",
        "-p",
        "8080",
        "-h",
        "/run/k3s-two/www",
    ]))?;
    let url = format!("http://{address}:8080/");
    cluster.wait("an answer across the mesh", PATIENCE, || {
        Ok(fetch(&url)? == "hello from node two")
    })?;
    let statistics = run(Command::new("ip").args(["-s", "-j", "link", "show", "flannel.1"]))?;
    let statistics: serde_json::Value = serde_json::from_str(&statistics)?;
    let sent = statistics[0]["stats64"]["tx"]["packets"].as_u64().unwrap_or(0);
    ensure!(sent > 0, "nothing went through flannel.1: {statistics}");
    cni("DEL").map(drop)
}

/// Runs the CNI plugin for the second node's pod.
fn cni(command: &str) -> Result<String> {
    let conflist = fs::read_to_string("/run/k3s-two/net.d/10-flannel.conflist")?;
    let conflist: serde_json::Value = serde_json::from_str(&conflist)?;
    let mut conf = conflist["plugins"][0].clone();
    conf["name"] = conflist["name"].clone();
    conf["cniVersion"] = conflist["cniVersion"].clone();
    let mut child = Command::new("/var/lib/rancher/k3s/data/cni/k3s-cni")
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", "pod-two")
        .env("CNI_NETNS", "/run/netns/pod-two")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/var/lib/rancher/k3s/data/cni")
        .env("K3S_CNI_SOCKET", SOCKET)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("stdin")?.write_all(conf.to_string().as_bytes())?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{command}: {text}");
    Ok(text)
}

fn ip(line: &str) -> Result<String> {
    run(Command::new("ip").args(line.split(' ')))
}
