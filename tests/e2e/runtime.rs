//! A container runtime that the machine runs already, by `--container-runtime-endpoint`.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::cluster::{Cluster, IMAGE, apply, kubectl, run};

/// One containerd, foreign to the server: a folder for its state, one for its network plugins.
const HOME: &str = "/run/foreign";
const ENDPOINT: &str = "/run/foreign/containerd.sock";

/// The sandbox image that Debian's containerd asks for is not there and cannot be fetched.
const CONFIG: &str = r#"
version = 2
root = "/var/lib/rancher/foreign"
state = "/run/foreign/state"
[grpc]
  address = "/run/foreign/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "registry.k8s.io/pause:3.6"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/run/foreign/cni/bin"
  conf_dir = "/run/foreign/cni/net.d"
"#;

/// Runs after the cluster of the other steps has stopped.
pub(super) const STEP: (&str, fn() -> Result<()>) =
    ("a containerd that runs already is used, and left alone", foreign);

fn foreign() -> Result<()> {
    fs::create_dir_all(HOME)?;
    let config = Path::new(HOME).join("config.toml");
    fs::write(&config, CONFIG)?;
    let mut containerd = Command::new("containerd")
        .arg("--config")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create("/var/log/foreign-containerd.log")?)
        .spawn()
        .context("starting containerd")?;
    let result = serve(&mut containerd);
    containerd.kill()?;
    containerd.wait()?;
    result
}

fn serve(containerd: &mut Child) -> Result<()> {
    let flags = ["--container-runtime-endpoint", ENDPOINT];
    let mut cluster = Cluster::start_with(Path::new(super::LOG), "guest", &flags)?;
    cluster.api_ready()?;
    cluster.node_ready()?;
    cluster.wait("the default service account", crate::cluster::PATIENCE, || {
        Ok(kubectl(&["get", "serviceaccount", "default"]).is_ok())
    })?;
    apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: guest }}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: {IMAGE}\n    \
         command: [sleep, '100000']\n"
    ))?;
    kubectl(&["wait", "pod/guest", "--for=condition=Ready", "--timeout=60s"])?;
    let said = kubectl(&["exec", "guest", "--", "echo", "hello"])?;
    ensure!(said == "hello\n", "{said:?}");
    let mut ctr = Command::new("ctr");
    ctr.args(["--address", ENDPOINT, "--namespace", "k8s.io", "containers", "list"]);
    let listed = run(&mut ctr)?;
    ensure!(listed.contains("registry.k8s.io/pause:3.6") && listed.contains(IMAGE), "{listed}");
    kubectl(&["delete", "pod", "guest", "--timeout=60s"])?;
    cluster.stop()?;
    ensure!(containerd.try_wait()?.is_none(), "containerd ended with the server");
    Ok(())
}
