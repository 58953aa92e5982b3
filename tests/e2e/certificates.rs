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
use crate::cluster::{
    Cluster, PATIENCE, apply, components, k3s, kubectl, kubectl_command, run, serial,
};

pub(super) const STEPS: &[Step] = &[
    ("certificates are shown and replaced while the server runs", rotate),
    (
        "certificates' neighbour, the key of tokens, is replaced and old tokens stay good",
        token_keys,
    ),
    ("certificates renew themselves and connections live on", renewal),
    ("certificates that cannot be renewed are spoken of, and their lives are a metric", attention),
    ("certificates of a new authority are put in force while the server runs", authority),
];

const TLS: &str = "/var/lib/rancher/k3s/server/tls";
const LIFETIME: (&str, &str) = ("K3S_CERTIFICATE_LIFETIME_SECONDS", "24");
const AT_ONCE: Duration = Duration::from_secs(10);

fn certificate(args: &[&str]) -> Result<String> {
    run(Command::new(k3s()).arg("certificate").args(args).env(LIFETIME.0, LIFETIME.1))
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

/// What a Node's certificates made somebody say.
fn said(reason: &str) -> Result<String> {
    let selector = format!(
        "--field-selector=involvedObject.kind=Node,involvedObject.name=isolated,reason={reason}"
    );
    kubectl(&["get", "events", &selector, "-o", "jsonpath={.items[*].message}"])
}

/// The seconds that are left of a certificate, as a component's metrics have them.
fn left(path: &str, subject: &str) -> Result<i64> {
    let metrics = kubectl(&["get", "--raw", path])?;
    let begin = format!("k3s_certificate_expiration_seconds{{subject=\"{subject}\",");
    let line = metrics.lines().find(|line| line.starts_with(&begin)).context(begin)?;
    Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
}

fn attention(cluster: &mut Cluster) -> Result<()> {
    let kubelet = "/api/v1/nodes/isolated/proxy/metrics";
    for (path, subject) in [
        (kubelet, "CN=system:node:isolated,O=system:nodes"),
        (kubelet, "CN=system:kube-scheduler"),
        ("/metrics", "CN=system:admin,O=system:masters"),
    ] {
        let left = left(path, subject)?;
        ensure!((1..=24).contains(&left), "{path}: {subject} has {left} s left");
    }
    ensure!(said("CertificateExpirationOK")?.contains("are OK"), "nothing at the start");
    ensure!(said("CertificateExpirationWarning")?.is_empty(), "a warning without a reason");
    // Nothing can be written any more, so nothing is renewed.
    run(Command::new("mount").args(["--bind", TLS, TLS]))?;
    run(Command::new("mount").args(["-o", "remount,bind,ro", TLS]))?;
    let warned = cluster.wait("a warning on the node", PATIENCE, || {
        let said = said("CertificateExpirationWarning")?;
        Ok(said.contains("k3s certificate rotate")
            && said.contains("/client-admin.crt: certificate"))
    });
    run(Command::new("umount").arg(TLS))?;
    warned?;
    cluster.wait("renewal to go on", PATIENCE, || {
        kubectl(&["get", "nodes"])?;
        Ok(!certificate(&["check", "--output", "table"])?.contains("EXPIRED"))
    })?;
    cluster.node_ready().map(drop)
}

/// What a token's first part says about its key.
fn head(token: &str) -> Result<&str> {
    Ok(token.split_once('.').context("no token")?.0)
}

/// Whom the API takes the holder of a token for.
fn who(token: &str) -> Result<String> {
    let token = format!("--token={token}");
    kubectl(&[
        "--kubeconfig=/dev/null",
        "--server=https://127.0.0.1:6443",
        "--insecure-skip-tls-verify",
        &token,
        "auth",
        "whoami",
        "-o",
        "jsonpath={.status.userInfo.username}",
    ])
}

/// A token that a Secret holds for ever, and that the controller manager signs.
fn kept_token(cluster: &mut Cluster, name: &str) -> Result<String> {
    apply(&format!(
        "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/service-account-token\n\
         metadata: {{name: {name}, annotations: {{kubernetes.io/service-account.name: default}}}}\n"
    ))?;
    let read = || {
        let template = "go-template={{.data.token | base64decode}}";
        kubectl(&["get", "secret", name, "-o", template])
    };
    cluster.wait("the Secret's token", PATIENCE, || Ok(read()?.contains('.')))?;
    read()
}

fn token_keys(cluster: &mut Cluster) -> Result<()> {
    let user = "system:serviceaccount:default:default";
    let fresh = || kubectl(&["create", "token", "default"]);
    let old = [fresh()?, kept_token(cluster, "kept-before")?];
    let folder = "/run/token-keys/tls";
    fs::create_dir_all(folder)?;
    let script = format!("openssl genrsa -traditional -out {folder}/service.key 2048");
    run(Command::new("sh").args(["-c", &script]))?;
    let before = processes()?;
    let said = certificate(&["rotate-ca", "--path=/run/token-keys"])?;
    ensure!(said.contains("service.key: in force"), "{said}");
    cluster.wait("tokens by the new key", AT_ONCE, || Ok(head(&fresh()?)? != head(&old[0])?))?;
    let new = [fresh()?, kept_token(cluster, "kept-after")?];
    ensure!(head(&old[0])? == head(&old[1])?, "two keys sign before");
    ensure!(head(&new[0])? == head(&new[1])?, "two keys sign afterwards");
    for token in old.iter().chain(&new) {
        ensure!(who(token)? == user, "a token is not taken any more");
    }
    let keys = kubectl(&["get", "--raw", "/openid/v1/jwks"])?;
    ensure!(keys.matches(r#""kid""#).count() == 2, "{keys}");
    kubectl(&["delete", "secret", "kept-before", "kept-after"])?;
    ensure!(processes()? == before, "a component was restarted");
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
    // The new ones live for a hundred days, which is little for an authority.
    let metric = left("/metrics", "CN=another-server-ca")?;
    ensure!((99 * 86400..=100 * 86400).contains(&metric), "{metric} s left");
    ensure!(processes()? == before, "a component was restarted");
    cluster.node_ready().map(drop)
}
