//! What goes on by itself: autoscaling, surges, claims that come and go with their pod, addresses of
//! load balancers, and silence while nothing changes.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Step;
use super::controllers::get;
use crate::cluster::{Cluster, IMAGE, PATIENCE, apply, kubectl, kubectl_fails, run};

pub(super) const STEPS: &[Step] = &[
    ("an autoscaler keeps its limits and says which metrics are missing", autoscaler),
    ("a DaemonSet that surges is never without a ready pod", surge),
    ("an ephemeral volume's claim comes and goes with its pod", ephemeral_volume),
    ("a load balancer gets the node's address and answers there", load_balancer),
    ("nothing but leases is written while nothing changes", quiet),
];

fn autoscaler(cluster: &mut Cluster) -> Result<()> {
    kubectl(&["create", "deployment", "grows", "--image", IMAGE, "--", "sleep", "3600"])?;
    kubectl(&["autoscale", "deployment", "grows", "--min=2", "--max=3", "--cpu-percent=50"])?;
    cluster.wait("two replicas", PATIENCE, || {
        Ok(get("deployment/grows", ".status.readyReplicas")? == "2")
    })?;
    let active = ".status.conditions[?(@.type=='ScalingActive')]";
    let mut reason = String::new();
    // The second look comes after 15 s.
    cluster.wait("the condition ScalingActive", PATIENCE, || {
        reason = get("hpa/grows", &format!("{active}.reason"))?;
        Ok(!reason.is_empty())
    })?;
    ensure!(reason == "FailedGetResourceMetric", "the reason is {reason}");
    let message = get("hpa/grows", &format!("{active}.message"))?;
    ensure!(
        message.contains("unable to fetch metrics from resource metrics API"),
        "the message is {message}"
    );
    let scaled = kubectl(&["get", "events", "--field-selector=reason=SuccessfulRescale"])?;
    ensure!(
        scaled.contains("New size: 2; reason: Current number of replicas below Spec.MinReplicas"),
        "{scaled}"
    );
    kubectl(&["delete", "hpa/grows", "deployment/grows", "--wait=false"])?;
    cluster.wait("its pods to go", PATIENCE, || {
        Ok(kubectl(&["get", "pods", "-l", "app=grows", "-o", "name"])?.is_empty())
    })
}

/// The revision that the whole store is at.
fn revision() -> Result<u64> {
    let list = kubectl(&["get", "--raw", "/api/v1/namespaces?limit=1"])?;
    let list: serde_json::Value = serde_json::from_str(&list)?;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    Ok(version.parse()?)
}

fn quiet(cluster: &mut Cluster) -> Result<()> {
    /// A lease every ten seconds, and once in five minutes the node's status.
    const WRITES_MAX: u64 = 5;
    const WATCHED: Duration = Duration::from_secs(30);
    let mut busy = Vec::new();
    // What ran before may have something left to do.
    for _ in 0..4 {
        let (begun, before) = (Instant::now(), revision()?);
        cluster.wait("half a minute to pass", WATCHED * 2, || Ok(begun.elapsed() >= WATCHED))?;
        if revision()? - before <= WRITES_MAX {
            return Ok(());
        }
        busy = since(before)?;
    }
    anyhow::bail!("more than {WRITES_MAX} writes in half a minute: {busy:?}")
}

/// What was written since a revision and still is there.
fn since(revision: u64) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for resource in kubectl(&["api-resources", "--verbs=list", "-o", "name"])?.lines() {
        let path =
            "jsonpath={range .items[*]}{.metadata.resourceVersion} {.metadata.name}{\"\\n\"}{end}";
        let list = kubectl(&["get", "-A", resource, "-o", path]).unwrap_or_default();
        for line in list.lines() {
            let version = line.split(' ').next().and_then(|it| it.parse().ok());
            if version.is_some_and(|it: u64| it > revision) {
                found.push(format!("{resource} {line}"));
            }
        }
    }
    Ok(found)
}

fn daemon_set(version: &str) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {{ name: surging }}
spec:
  selector: {{ matchLabels: {{ app: surging }} }}
  updateStrategy: {{ rollingUpdate: {{ maxSurge: 1, maxUnavailable: 0 }} }}
  template:
    metadata: {{ labels: {{ app: surging, version: {version} }} }}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: c
        image: {IMAGE}
        command: [sh, -c, 'sleep 1; touch /tmp/ready; sleep 100000']
        readinessProbe: {{ exec: {{ command: [test, -e, /tmp/ready] }}, periodSeconds: 1 }}
"#
    )
}

fn surge(cluster: &mut Cluster) -> Result<()> {
    apply(&daemon_set("one"))?;
    let ready = || get("daemonset/surging", ".status.numberReady");
    cluster.wait("the first pod", PATIENCE, || Ok(ready()? == "1"))?;
    apply(&daemon_set("two"))?;
    let of = |version: &str| {
        let labels = format!("app=surging,version={version}");
        kubectl(&["get", "pods", "-l", &labels, "-o", "name"])
    };
    let conditions = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}";
    let mut without = 0;
    cluster.wait("the new pod alone", PATIENCE, || {
        let states = kubectl(&["get", "pods", "-l", "app=surging", "-o", conditions])?;
        without += u32::from(!states.contains("True"));
        Ok(of("one")?.is_empty() && of("two")?.lines().count() == 1 && ready()? == "1")
    })?;
    ensure!(without == 0, "{without} times no pod was ready");
    kubectl(&["delete", "daemonset/surging"]).map(drop)
}

fn ephemeral_volume(cluster: &mut Cluster) -> Result<()> {
    apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{ name: passing }}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: {IMAGE}
    command: [sh, -c, 'echo here > /data/file; sleep 100000']
    volumeMounts: [{{ name: scratch, mountPath: /data }}]
  volumes:
  - name: scratch
    ephemeral:
      volumeClaimTemplate:
        spec:
          accessModes: [ReadWriteOnce]
          storageClassName: local-path
          resources: {{ requests: {{ storage: 1Mi }} }}
"#
    ))?;
    kubectl(&["wait", "pod/passing", "--for=condition=Ready", "--timeout=60s"])?;
    let owner = get("pvc/passing-scratch", ".metadata.ownerReferences[0].name")?;
    ensure!(owner == "passing", "the claim belongs to {owner}");
    kubectl(&["delete", "pod/passing"])?;
    cluster.wait("the claim to go", PATIENCE, || {
        Ok(kubectl_fails(&["get", "pvc/passing-scratch"]).is_ok())
    })
}

fn load_balancer(cluster: &mut Cluster) -> Result<()> {
    apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{ name: balanced, labels: {{ app: balanced }} }}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: {IMAGE}
    command: [sh, -c, 'echo balanced > /www/index.html; exec httpd -f -p 8080 -h /www']
---
apiVersion: v1
kind: Service
metadata: {{ name: balanced }}
spec:
  type: LoadBalancer
  selector: {{ app: balanced }}
  ports: [{{ port: 8088, targetPort: 8080 }}]
"#
    ))?;
    kubectl(&["wait", "pod/balanced", "--for=condition=Ready", "--timeout=60s"])?;
    let mut address = String::new();
    cluster.wait("an address", PATIENCE, || {
        address = get("service/balanced", ".status.loadBalancer.ingress[0].ip")?;
        Ok(!address.is_empty())
    })?;
    let node = get("nodes", ".items[0].status.addresses[?(@.type=='InternalIP')].address")?;
    ensure!(address == node, "{address} is not the node's {node}");
    cluster.wait("an answer", PATIENCE, || {
        let url = format!("http://{address}:8088/");
        let answer = run(Command::new("timeout").args(["5", "busybox", "wget", "-q", "-O-", &url]));
        Ok(answer? == "balanced\n")
    })?;
    kubectl(&["delete", "pod/balanced", "service/balanced"]).map(drop)
}
