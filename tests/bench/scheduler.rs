//! How many pods a second the scheduling cycle places onto 1 000 nodes.

use std::time::Instant;

use anyhow::{Result, anyhow};
use k3s_scheduler::Simulator;
use serde_json::{Value, json};

use crate::figure::{self, Goal};

const NODES: usize = 1_000;
const ZONES: usize = 10;

/// Runs all cases.
pub(crate) fn run() -> Result<()> {
    let spread = |app: &str| {
        let selector = json!({"matchLabels": {"app": app}});
        json!({"topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector},
            {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": selector},
        ]})
    };
    let apart = |app: &str| {
        json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname",
                "labelSelector": {"matchLabels": {"app": app}}}]}}})
    };
    case("resources", 50, 10_000, 2_000.0, &|_| json!({}))?;
    case("resources and spread constraints", 50, 10_000, 2_000.0, &spread)?;
    case("required inter-pod anti-affinity by host", 10, 5_000, 500.0, &apart)
}

/// Fills a cluster with pods of so many applications.
fn case(
    what: &str,
    apps: usize,
    pods: usize,
    target: f64,
    spec: &dyn Fn(&str) -> Value,
) -> Result<()> {
    let mut cluster = Simulator::new("").map_err(|err| anyhow!(err))?;
    for at in 0..NODES {
        let (name, zone) = (format!("node-{at:04}"), format!("zone-{}", at % ZONES));
        let labels = json!({"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone});
        let node = json!({
            "metadata": {"name": name, "labels": labels},
            "status": {"allocatable": {"cpu": "16", "memory": "64Gi", "pods": "110"}},
        });
        cluster.set_node(&node.to_string()).map_err(|err| anyhow!(err))?;
    }
    let queue: Vec<String> = (0..pods)
        .map(|at| {
            let app = format!("app-{}", at % apps);
            let mut spec = spec(&app);
            spec["containers"] =
                json!([{"image": "app", "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}}]);
            let name = format!("pod-{at}");
            let metadata =
                json!({"namespace": "bench", "name": name, "uid": name, "labels": {"app": app}});
            json!({"metadata": metadata, "spec": spec}).to_string()
        })
        .collect();
    let begun = Instant::now();
    for pod in &queue {
        cluster.schedule(pod).map_err(|err| anyhow!("{what}: {err}"))?;
    }
    let rate = pods as f64 / begun.elapsed().as_secs_f64();
    let what = format!("scheduling, {what}, {NODES} nodes");
    figure::print(&what, rate, "pods/s", Goal::AtLeast(target));
    Ok(())
}
