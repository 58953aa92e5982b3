//! Probes, hooks and sidecars: what the kubelet does in the life of a container.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::Step;
use crate::cluster::{Cluster, IMAGE, PATIENCE, apply, kubectl};

pub(super) const STEPS: &[Step] = &[
    ("an exec probe makes a pod ready, and unready again", exec_probe),
    ("TCP probes: one finds its port, one restarts its container", tcp_probes),
    ("a gRPC probe follows a health service", grpc_probe),
    ("a startup probe holds the others back", startup_probe),
    ("hooks run after the start and before the end", hooks),
    ("a sidecar starts first, ends last, and lets its Job complete", sidecar),
];

/// A pod of one container; `more` are further lines of the container.
fn pod(name: &str, script: &str, more: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{ name: {name} }}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: {IMAGE}
    command: [sh, -c, '{script}']
{more}"#
    )
}

fn wait_for(pod: &str, condition: &str) -> Result<()> {
    kubectl(&["wait", &format!("pod/{pod}"), &format!("--for={condition}"), "--timeout=60s"])
        .map(drop)
}

fn delete(pod: &str) -> Result<()> {
    kubectl(&["delete", "pod", pod, "--timeout=60s"]).map(drop)
}

/// The messages of a pod's events with this reason.
fn events(pod: &str, reason: &str) -> Result<String> {
    let selector = format!("involvedObject.name={pod},reason={reason}");
    let jsonpath = "jsonpath={.items[*].message}";
    kubectl(&["get", "events", "--field-selector", &selector, "-o", jsonpath])
}

fn status(pod: &str, field: &str) -> Result<String> {
    kubectl(&["get", "pod", pod, "-o", &format!("jsonpath={{.status.{field}}}")])
}

fn exec_probe(cluster: &mut Cluster) -> Result<()> {
    let probe = "    readinessProbe: { exec: { command: [test, -f, /tmp/ready] }, periodSeconds: 1, failureThreshold: 1 }\n";
    apply(&pod("execprobe", "exec sleep 100000", probe))?;
    wait_for("execprobe", "jsonpath={.status.phase}=Running")?;
    cluster.wait("the first failure's event", PATIENCE, || {
        Ok(events("execprobe", "Unhealthy")?.starts_with("Readiness probe failed: "))
    })?;
    let ready = status("execprobe", "containerStatuses[0].ready")?;
    ensure!(ready == "false", "ready is {ready} before the file is there");
    kubectl(&["exec", "execprobe", "--", "touch", "/tmp/ready"])?;
    wait_for("execprobe", "condition=Ready")?;
    kubectl(&["exec", "execprobe", "--", "rm", "/tmp/ready"])?;
    wait_for("execprobe", "condition=Ready=False")?;
    delete("execprobe")
}

fn tcp_probes(cluster: &mut Cluster) -> Result<()> {
    let probe = "    readinessProbe: { tcpSocket: { port: 8080 }, periodSeconds: 1 }\n    \
                 livenessProbe: { tcpSocket: { port: 9 }, periodSeconds: 1, failureThreshold: 1, initialDelaySeconds: 3 }\n";
    apply(&pod("tcpprobe", "exec httpd -f -p 8080", probe))?;
    wait_for("tcpprobe", "condition=Ready")?;
    cluster.wait("a restart", PATIENCE, || {
        let count = status("tcpprobe", "containerStatuses[0].restartCount")?;
        Ok(count.parse::<u32>().is_ok_and(|count| count > 0))
    })?;
    let told = events("tcpprobe", "Unhealthy")?;
    ensure!(told.contains("Liveness probe failed: dial tcp "), "{told}");
    ensure!(told.contains(":9: connect: connection refused"), "{told}");
    let killed = events("tcpprobe", "Killing")?;
    ensure!(killed.contains("Container main failed liveness probe, will be restarted"), "{killed}");
    delete("tcpprobe")
}

/// Debian's etcd, which serves `grpc.health.v1.Health`, on the node's own address.
fn etcd() -> Result<Child> {
    let _ = std::fs::remove_dir_all("/run/etcd-probe");
    Command::new("etcd")
        .args(["--data-dir", "/run/etcd-probe", "--listen-client-urls", "http://192.0.2.1:12379"])
        .args(["--advertise-client-urls", "http://192.0.2.1:12379"])
        .args(["--listen-peer-urls", "http://127.0.0.1:12380", "--log-level", "error"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting etcd (apt install etcd-server)")
}

fn grpc_probe(cluster: &mut Cluster) -> Result<()> {
    let probe = "    readinessProbe: { grpc: { port: 12379 }, periodSeconds: 1, failureThreshold: 1 }\n  \
                 hostNetwork: true\n";
    apply(&pod("grpcprobe", "exec sleep 100000", probe))?;
    cluster.wait("the first failure's event", PATIENCE, || {
        let told = events("grpcprobe", "Unhealthy")?;
        Ok(told.contains("timeout: failed to connect service \"192.0.2.1:12379\" within 1s"))
    })?;
    let mut etcd = etcd()?;
    let served = wait_for("grpcprobe", "condition=Ready");
    etcd.kill()?;
    etcd.wait()?;
    served?;
    wait_for("grpcprobe", "condition=Ready=False")?;
    delete("grpcprobe")
}

fn startup_probe(_: &mut Cluster) -> Result<()> {
    // The liveness probe alone would kill this container at once, and did before the start.
    let probe = "    startupProbe: { exec: { command: [test, -f, /tmp/up] }, periodSeconds: 1, failureThreshold: 60 }\n    \
                 livenessProbe: { exec: { command: [test, -f, /tmp/up] }, periodSeconds: 1, failureThreshold: 1 }\n";
    apply(&pod("startup", "sleep 4; touch /tmp/up; exec sleep 100000", probe))?;
    wait_for("startup", "condition=Ready")?;
    let started = status("startup", "containerStatuses[0].started")?;
    let restarts = status("startup", "containerStatuses[0].restartCount")?;
    ensure!(started == "true" && restarts == "0", "started {started}, {restarts} restarts");
    delete("startup")
}

fn hooks(cluster: &mut Cluster) -> Result<()> {
    apply(&pod("hooklog", "exec httpd -f -vv -p 8080", ""))?;
    wait_for("hooklog", "condition=Ready")?;
    let ip = status("hooklog", "podIP")?;
    let hooks = format!(
        "    lifecycle:\n      postStart: {{ exec: {{ command: [sh, -c, \"echo started > /tmp/hook\"] }} }}\n      \
         preStop: {{ httpGet: {{ host: {ip}, port: 8080, path: /stopping }} }}\n"
    );
    apply(&pod("hooks", "exec sleep 100000", &hooks))?;
    wait_for("hooks", "condition=Ready")?;
    let text = kubectl(&["exec", "hooks", "--", "cat", "/tmp/hook"])?;
    ensure!(text == "started\n", "{text:?}");
    delete("hooks")?;
    cluster.wait("the request of the preStop hook", PATIENCE, || {
        Ok(kubectl(&["logs", "hooklog"])?.contains("/stopping"))
    })?;
    let failing = "    lifecycle: { postStart: { exec: { command: [sh, -c, \"exit 3\"] } } }\n";
    apply(&pod("hookfails", "exec sleep 100000", failing))?;
    cluster.wait("the failed hook's event", PATIENCE, || {
        Ok(events("hookfails", "FailedPostStartHook")?.contains("PostStartHook failed"))
    })?;
    delete("hookfails")?;
    delete("hooklog")
}

fn sidecar(_: &mut Cluster) -> Result<()> {
    apply(&format!(
        r#"
apiVersion: batch/v1
kind: Job
metadata: {{ name: sidecar }}
spec:
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 5
      initContainers:
      - name: side
        image: {IMAGE}
        restartPolicy: Always
        command: [sh, -c, 'trap "echo side ends; exit 0" TERM; echo up > /shared/side; echo side up; while :; do sleep 0.2; done']
        startupProbe: {{ exec: {{ command: [test, -f, /shared/side] }}, periodSeconds: 1 }}
        volumeMounts: [{{ name: shared, mountPath: /shared }}]
      - name: between
        image: {IMAGE}
        command: [test, -f, /shared/side]
        volumeMounts: [{{ name: shared, mountPath: /shared }}]
      containers:
      - name: main
        image: {IMAGE}
        command: [cat, /shared/side]
        volumeMounts: [{{ name: shared, mountPath: /shared }}]
      volumes: [{{ name: shared, emptyDir: {{}} }}]
"#
    ))?;
    kubectl(&["wait", "job/sidecar", "--for=condition=Complete", "--timeout=60s"])?;
    let main = kubectl(&["logs", "job/sidecar", "-c", "main"])?;
    ensure!(main == "up\n", "main saw {main:?}");
    let side = kubectl(&["logs", "job/sidecar", "-c", "side"])?;
    ensure!(side == "side up\nside ends\n", "the sidecar wrote {side:?}");
    kubectl(&["delete", "job", "sidecar"]).map(drop)
}
