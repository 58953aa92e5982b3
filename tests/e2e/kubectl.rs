//! `k3s kubectl` without a kubectl on the machine: its own, side by side with the real one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::Step;
use super::workload::{available, three_replicas};
use crate::cluster::{Cluster, IMAGE, k3s, kubectl, kubectl_command};

pub(super) const STEPS: &[Step] = &[
    ("k3s' own kubectl reads as the real one does", reads),
    ("k3s' own kubectl refuses as the real one does", refusals),
    ("k3s' own kubectl applies, scales, rolls out and deletes", writes),
    ("k3s' own kubectl runs commands, reads logs and forwards ports", streams),
];

/// `k3s kubectl` as on a machine that has no kubectl.
fn own() -> Command {
    let mut command = Command::new(k3s());
    command.arg("kubectl").env("PATH", "/nonexistent").env_remove("KUBECONFIG");
    command
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("exit {:?}\n{}{}", output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Both say the same and end the same way. Ages move on, so a difference is looked at again.
fn same(args: &[&str]) -> Result<String> {
    let mut last = (String::new(), String::new());
    for _ in 0..4 {
        let real = said(&kubectl_command().args(args).stdin(Stdio::null()).output()?);
        let ours = said(&own().args(args).stdin(Stdio::null()).output()?);
        if real == ours {
            return Ok(ours);
        }
        last = (real, ours);
    }
    bail!("kubectl {}:\n--- real\n{}\n--- ours\n{}", args.join(" "), last.0, last.1)
}

/// What our own prints; it must succeed.
fn ours(args: &[&str]) -> Result<String> {
    let output = own().args(args).stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "k3s kubectl {}: {}", args.join(" "), said(&output));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn prepare(cluster: &mut Cluster) -> Result<()> {
    if kubectl(&["get", "deployment", "web"]).is_err() {
        three_replicas(cluster)?;
    }
    available(cluster, "web", "3")?;
    kubectl(&["wait", "pod/client", "--for=condition=Ready", "--timeout=60s"]).map(drop)
}

fn reads(cluster: &mut Cluster) -> Result<()> {
    prepare(cluster)?;
    for line in [
        "get nodes",
        "get nodes -o name",
        "get pods",
        "get pods -o wide",
        "get po -A",
        "get pods,services",
        "get deploy,rs,svc -l app=web --show-labels",
        "get deployments.apps web",
        "get deployment/web service/web",
        "get all",
        "get pods --no-headers -l app=web",
        "get pods -L app --field-selector status.phase=Running",
        "get pod client -o jsonpath={.status.phase}",
        "get pods -o jsonpath={range.items[*]}{.metadata.name}{\"\\n\"}{end}",
        "get pods --sort-by=.metadata.name -o name",
        "get pods -l app=nothing",
        "get pods -n nowhere",
        "get pod nosuch --ignore-not-found",
        "get service web -o json",
        "get deployment web -o json",
        "get pods -l app=web -o json",
        "get namespaces default kube-system -o name",
        "get --raw /readyz",
        "rollout status deployment/web",
        "rollout history deployment/web",
    ] {
        let args: Vec<String> =
            line.split(' ').map(|word| word.replace("{range.", "{range .")).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        same(&args)?;
    }
    let yaml: serde_json::Value = {
        let script =
            "import sys, yaml, json; json.dump(yaml.safe_load(sys.stdin), sys.stdout, default=str)";
        let mut child = Command::new("python3")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let text = ours(&["get", "deployment", "web", "-o", "yaml"])?;
        child.stdin.take().context("standard input")?.write_all(text.as_bytes())?;
        serde_json::from_slice(&child.wait_with_output()?.stdout)?
    };
    let json: serde_json::Value =
        serde_json::from_str(&kubectl(&["get", "deployment", "web", "-o", "json"])?)?;
    ensure!(yaml == json, "YAML says {yaml}\nJSON says {json}");
    let described = ours(&["describe", "pod", "client"])?;
    for part in ["Name:", "Node Name:", "Image:", "Events:", "Scheduled"] {
        ensure!(described.contains(part), "{part} is not in\n{described}");
    }
    ensure!(ours(&["api-resources"])?.contains("deployments"), "api-resources");
    ensure!(ours(&["version"])?.contains("Server Version: v1.36"), "version");
    Ok(())
}

fn refusals(cluster: &mut Cluster) -> Result<()> {
    prepare(cluster)?;
    for args in [
        &["get", "nosuchtype"][..],
        &["get", "pod", "nosuch"],
        &["get", "pod/nosuch", "pod/client"],
        &["delete", "pod", "nosuch"],
        &["logs", "nosuch"],
        &["logs", "client", "-c", "nosuch"],
        &["scale", "deployment/nosuch", "--replicas=1"],
        &["top", "nodes"],
    ] {
        same(args)?;
    }
    let unknown = own().args(["apply", "-k", "/run"]).output()?;
    ensure!(said(&unknown).contains("kustomize is not part of"), "{}", said(&unknown));
    Ok(())
}

fn writes(cluster: &mut Cluster) -> Result<()> {
    prepare(cluster)?;
    let file = Path::new("/run/own-kubectl.yaml");
    let manifest = |text: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: own}}\ndata: {{key: {text}}}\n---\n\
             apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: own}}\nspec:\n  replicas: 1\n  \
             selector: {{matchLabels: {{app: own}}}}\n  template:\n    metadata: {{labels: {{app: own}}}}\n    \
             spec:\n      terminationGracePeriodSeconds: 0\n      containers:\n      - name: own\n        \
             image: {IMAGE}\n        command: [sleep, '1000']\n        env: [{{name: X, value: {text}}}]\n"
        )
    };
    let path = file.to_str().context("path")?;
    for text in ["one", "two"] {
        std::fs::write(file, manifest(text))?;
        let applied = ours(&["apply", "-f", path])?;
        let expected = "configmap/own serverside-applied\ndeployment.apps/own serverside-applied\n";
        ensure!(applied == expected, "{applied}");
        let status = ours(&["rollout", "status", "deployment/own", "--timeout=60s"])?;
        ensure!(status.ends_with("deployment \"own\" successfully rolled out\n"), "{status}");
    }
    ensure!(kubectl(&["get", "configmap", "own", "-o", "jsonpath={.data.key}"])? == "two", "data");
    same(&["rollout", "history", "deployment/own"])?;
    let env = ["get", "deployment", "own", "-o", "jsonpath={..env[0].value}"];
    ensure!(
        ours(&["rollout", "undo", "deployment/own"])? == "deployment.apps/own rolled back\n",
        "undo"
    );
    ensure!(ours(&env)? == "one", "undo did not go back");
    ensure!(
        ours(&["rollout", "restart", "deploy/own"])? == "deployment.apps/own restarted\n",
        "restart"
    );
    ours(&["rollout", "status", "deployment/own", "--timeout=60s"])?;
    ensure!(
        ours(&["scale", "deployment", "own", "--replicas=2"])? == "deployment.apps/own scaled\n",
        "scale"
    );
    available(cluster, "own", "2")?;
    let gone = ours(&["delete", "-f", path])?;
    let expected = "configmap \"own\" deleted from default namespace\n\
                    deployment.apps \"own\" deleted from default namespace\n";
    ensure!(gone == expected, "{gone}");
    ensure!(ours(&["get", "deployment", "own", "--ignore-not-found"])?.is_empty(), "still there");
    Ok(())
}

fn streams(cluster: &mut Cluster) -> Result<()> {
    prepare(cluster)?;
    for args in [
        &["exec", "client", "--", "sh", "-c", "echo out; exit 3"][..],
        &["exec", "client", "--", "cat", "/etc/hostname"],
        &["exec", "client", "--", "nosuchprogram"],
        &["logs", "-l", "app=web", "--tail=1"],
    ] {
        let (real, ours) = (kubectl_command().args(args).output()?, own().args(args).output()?);
        ensure!(real.stdout == ours.stdout, "{args:?}: {} {}", said(&real), said(&ours));
        ensure!(
            real.status.code() == ours.status.code(),
            "{args:?}: {} {}",
            said(&real),
            said(&ours)
        );
    }
    ensure!(ours(&["logs", "deployment/web", "--tail=1"])? == "serving\n", "logs");
    terminal()?;
    watches()?;
    // A megabyte through standard input and back.
    let mut child = own()
        .args(["exec", "-i", "client", "--", "sha256sum"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("standard input")?.write_all(&vec![b'x'; 1 << 20])?;
    let sum = String::from_utf8(child.wait_with_output()?.stdout)?;
    let real = {
        let script = "head -c 1048576 /dev/zero | tr '\\0' x | sha256sum";
        Command::new("sh").args(["-c", script]).output()?.stdout
    };
    ensure!(sum == String::from_utf8(real)?, "{sum}");

    let mut forward = own()
        .args(["port-forward", "service/web", ":80"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let mut out = BufReader::new(forward.stdout.take().context("standard output")?);
    out.read_line(&mut line)?;
    let fetched = fetch(&line);
    let _ = forward.kill();
    forward.wait()?;
    let page = fetched.with_context(|| line.clone())?;
    ensure!(page.starts_with("HTTP/1.1 200") && page.contains(" from web-"), "{page}");
    Ok(())
}

/// With a terminal on both sides.
fn terminal() -> Result<()> {
    let line = format!(
        "env PATH=/nonexistent {} kubectl exec -it client -- sh -c 'tty; stty size; exit 5'",
        k3s().display()
    );
    let output = Command::new("script").args(["-qec", &line, "/dev/null"]).output()?;
    ensure!(said(&output).contains("/dev/pts/0"), "{}", said(&output));
    ensure!(output.status.code() == Some(5), "{}", said(&output));
    Ok(())
}

/// A watch shows what is there, then what comes.
fn watches() -> Result<()> {
    let mut child = own()
        .args(["get", "configmaps", "--watch", "--output=name"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("standard output")?).lines();
    let mut sees = |name: &str| {
        let found = lines.by_ref().map_while(Result::ok).any(|line| line == name);
        ensure!(found, "the watch ended without {name}");
        Ok(())
    };
    let seen = sees("configmap/kube-root-ca.crt").and_then(|()| {
        kubectl(&["create", "configmap", "watched"])?;
        sees("configmap/watched")?;
        kubectl(&["delete", "configmap", "watched"]).map(drop)
    });
    child.kill()?;
    child.wait()?;
    seen
}

/// Asks the server behind `Forwarding from 127.0.0.1:PORT -> 8080`.
fn fetch(line: &str) -> Result<String> {
    let address = line.split_whitespace().nth(2).context("an address")?;
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: web\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}
