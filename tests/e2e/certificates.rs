//! Certificates that live for seconds: they are renewed, and nobody notices.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::workload::{available, three_replicas};
use super::{LOG, Step};
use crate::cluster::{Cluster, PATIENCE, components, k3s, kubectl, kubectl_command, run};

pub(super) const STEPS: &[Step] = &[
    ("certificates are shown and replaced while the server runs", rotate),
    ("certificates renew themselves and connections live on", renewal),
    ("certificates of a new authority are put in force while the server runs", authority),
];

const TLS: &str = "/var/lib/rancher/k3s/server/tls";
const LIFETIME: (&str, &str) = ("K3S_CERTIFICATE_LIFETIME_SECONDS", "24");
const AT_ONCE: Duration = Duration::from_secs(10);

fn certificate(args: &[&str]) -> Result<String> {
    run(Command::new(k3s()).arg("certificate").args(args).env(LIFETIME.0, LIFETIME.1))
}

/// What a server shows in a handshake: the certificate's serial number.
fn serial(address: &str) -> Result<String> {
    let script = format!(
        "openssl s_client -connect {address} </dev/null 2>/dev/null | openssl x509 -noout -serial"
    );
    run(Command::new("sh").args(["-c", &script]))
}

/// Waits for another certificate in handshakes.
fn changes(cluster: &mut Cluster, address: &str, from: &str, patience: Duration) -> Result<()> {
    cluster
        .wait("another certificate in handshakes", patience, || Ok(serial(address)? != from))
        .with_context(|| address.to_owned())
}

/// Processes by name, without the starting order.
fn processes() -> Result<BTreeSet<(String, u32)>> {
    Ok(components()?.into_iter().collect())
}

fn rotate(cluster: &mut Cluster) -> Result<()> {
    let shown = certificate(&["check", "--output", "table"])?;
    for part in ["FILENAME", "serving-kube-apiserver.crt", "system:admin", "ClientAuth", "OK"] {
        ensure!(shown.contains(part), "{part} is not in\n{shown}");
    }
    let text = certificate(&["check", "--service", "kubelet"])?;
    ensure!(text.contains("CN=system:node:isolated,O=system:nodes is ok"), "{text}");
    ensure!(!text.contains("system:admin"), "{text}");
    let before = processes()?;
    let (api, kubelet) = (serial("127.0.0.1:6443")?, serial("127.0.0.1:10250")?);
    let said = certificate(&["rotate", "--service", "api-server,kubelet,admin"])?;
    ensure!(said.contains("admin: renewed") && !said.contains("scheduler"), "{said}");
    changes(cluster, "127.0.0.1:6443", &api, AT_ONCE)?;
    changes(cluster, "127.0.0.1:10250", &kubelet, AT_ONCE)?;
    cluster.wait("the administrator's kubeconfig", AT_ONCE, || {
        Ok(kubectl(&["get", "node", "isolated"]).is_ok())
    })?;
    ensure!(processes()? == before, "a component was restarted");
    let unknown = Command::new(k3s()).args(["certificate", "rotate", "--service", "x"]).output()?;
    ensure!(unknown.status.code() == Some(78), "{unknown:?}");
    Ok(())
}

/// A long-lived client: `kubectl get --watch`, line by line.
struct Watcher {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Watcher {
    fn start(what: &[&str]) -> Result<Self> {
        let mut child = kubectl_command()
            .args(["get", "--watch", "--output=name"])
            .args(what)
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()?;
        let out = BufReader::new(child.stdout.take().context("standard output")?);
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// Waits for a line with this text.
    fn sees(&mut self, text: &str) -> Result<()> {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(text) => return Ok(()),
                Ok(_) => {}
                Err(_) => bail!("the watch did not see {text}: {:?}", self.child.try_wait()?),
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn renewal(cluster: &mut Cluster) -> Result<()> {
    cluster.stop()?;
    *cluster = Cluster::start_in(Path::new(LOG), &[LIFETIME])?;
    cluster.api_ready()?;
    cluster.node_ready()?;
    if kubectl(&["get", "deployment", "web"]).is_err() {
        three_replicas(cluster)?;
    }
    certificate(&["rotate"])?;
    let before = processes()?;
    cluster.wait("the new kubeconfig", AT_ONCE, || Ok(kubectl(&["get", "nodes"]).is_ok()))?;
    let mut watcher = Watcher::start(&["configmaps"])?;
    watcher.sees("kube-root-ca.crt")?;
    // Two whole lives, so every certificate of the beginning is long dead.
    for round in 0..4 {
        let (api, kubelet) = (serial("127.0.0.1:6443")?, serial("127.0.0.1:10250")?);
        changes(cluster, "127.0.0.1:6443", &api, PATIENCE)?;
        changes(cluster, "127.0.0.1:10250", &kubelet, PATIENCE)?;
        let name = format!("renewal-{round}");
        cluster.wait(
            "a write",
            AT_ONCE,
            || Ok(kubectl(&["create", "configmap", &name]).is_ok()),
        )?;
        watcher.sees(&name)?;
        kubectl(&["logs", "deployment/web", "--tail=1"]).context("API server to kubelet")?;
    }
    ensure!(processes()? == before, "a component was restarted: {before:?} {:?}", processes()?);
    // Every controller, the scheduler and the kubelet still reach the API.
    kubectl(&["scale", "deployment/web", "--replicas=4"])?;
    available(cluster, "web", "4")?;
    kubectl(&["scale", "deployment/web", "--replicas=3"])?;
    cluster.node_ready()?;
    let shown = certificate(&["check", "--output", "table"])?;
    ensure!(!shown.contains("EXPIRED"), "{shown}");
    Ok(())
}

/// An authority that the present one has signed, as k3s' own script makes it.
fn cross_signed(folder: &Path, name: &str) -> Result<()> {
    fs::create_dir_all(folder)?;
    let script = format!(
        "set -e; cd {folder}
         openssl ecparam -name prime256v1 -genkey -noout -out {name}.ec
         openssl pkcs8 -topk8 -nocrypt -in {name}.ec -out {name}.key
         openssl req -new -key {name}.key -subj /CN=another-{name} -out {name}.csr
         printf 'basicConstraints=critical,CA:TRUE\\nkeyUsage=critical,keyCertSign,digitalSignature\\n\
                 subjectKeyIdentifier=hash\\n' > {name}.ext
         openssl x509 -req -in {name}.csr -CA {TLS}/{name}.crt -CAkey {TLS}/{name}.key \
                 -CAcreateserial -CAserial {name}.srl -days 100 -extfile {name}.ext -out {name}.crt
         rm {name}.ec {name}.csr {name}.ext {name}.srl",
        folder = folder.display(),
    );
    run(Command::new("sh").args(["-c", &script])).map(drop)
}

fn authority(cluster: &mut Cluster) -> Result<()> {
    let stranger = PathBuf::from("/run/stranger");
    fs::create_dir_all(&stranger)?;
    let script = "cd /run/stranger && openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=stranger \
                  -addext keyUsage=keyCertSign -keyout server-ca.key -out server-ca.crt";
    run(Command::new("sh").args(["-c", script]))?;
    let path = format!("--path={}", stranger.display());
    let refused = Command::new(k3s()).args(["certificate", "rotate-ca", &path]).output()?;
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && text.contains("does not lead to an authority"), "{text}");

    let folder = PathBuf::from("/run/authority/tls");
    for name in ["server-ca", "client-ca"] {
        cross_signed(&folder, name)?;
    }
    let before = processes()?;
    let api = serial("127.0.0.1:6443")?;
    let mut watcher = Watcher::start(&["configmaps"])?;
    watcher.sees("kube-root-ca.crt")?;
    let said = certificate(&["rotate-ca", "--path=/run/authority"])?;
    ensure!(said.contains("server-ca: in force") && said.contains("client-ca: in force"), "{said}");
    changes(cluster, "127.0.0.1:6443", &api, AT_ONCE)?;
    cluster.wait("a write", AT_ONCE, || {
        Ok(kubectl(&["create", "configmap", "after-authority"]).is_ok())
    })?;
    watcher.sees("after-authority")?;
    cluster.wait("pods to be told", AT_ONCE, || {
        let map = kubectl(&["get", "configmap", "kube-root-ca.crt", "-o", "jsonpath={.data}"])?;
        Ok(map.matches("BEGIN CERTIFICATE").count() == 2)
    })?;
    cluster
        .wait("logs", AT_ONCE, || Ok(kubectl(&["logs", "deployment/web", "--tail=1"]).is_ok()))?;
    let shown = certificate(&["check", "--output", "table"])?;
    ensure!(shown.contains("another-client-ca"), "{shown}");
    ensure!(processes()? == before, "a component was restarted");
    cluster.node_ready().map(drop)
}
