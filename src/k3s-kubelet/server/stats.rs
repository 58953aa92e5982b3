//! Figures: `/stats/summary`, `/metrics`, `/metrics/resource`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;

use client::rfc3339;
use http::Response;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Body, failure, json as json_body, text};
use crate::cri::image::UInt64Value;
use crate::cri::rpc_error;
use crate::cri::stats::ContainerStats;
use crate::manager::Pods;
use crate::node::facts;
use crate::pod::labels;
use crate::shared::Shared;

/// What the node's own CPU readings are kept under; no container has this id.
const NODE: &str = "";

fn value(figure: Option<&UInt64Value>) -> u64 {
    figure.map_or(0, |figure| figure.value)
}

struct Usage {
    cpu_nanos: u64,
    memory_bytes: u64,
    rss_bytes: u64,
    disk_bytes: u64,
    at: i64,
}

fn usage(stats: &ContainerStats) -> Usage {
    let memory = stats.memory.as_ref();
    Usage {
        cpu_nanos: value(stats.cpu.as_ref().and_then(|cpu| cpu.usage_core_nano_seconds.as_ref())),
        memory_bytes: value(memory.and_then(|memory| memory.working_set_bytes.as_ref())),
        rss_bytes: value(memory.and_then(|memory| memory.rss_bytes.as_ref())),
        disk_bytes: value(
            stats.writable_layer.as_ref().and_then(|layer| layer.used_bytes.as_ref()),
        ),
        at: stats.cpu.as_ref().map_or(0, |cpu| cpu.timestamp),
    }
}

fn label<'a>(stats: &'a ContainerStats, key: &str) -> &'a str {
    let labels = stats.attributes.as_ref().map(|attributes| &attributes.labels);
    labels.and_then(|labels| labels.get(key)).map(String::as_str).unwrap_or_default()
}

fn id(stats: &ContainerStats) -> &str {
    stats.attributes.as_ref().map(|attributes| attributes.id.as_str()).unwrap_or_default()
}

/// CPU use in upstream's shape, the rate only where there is one.
fn cpu(time: &str, used_nanos: u64, rate: Option<u64>) -> Value {
    let mut cpu = json!({"time": time, "usageCoreNanoSeconds": used_nanos});
    if let Some(rate) = rate {
        cpu["usageNanoCores"] = rate.into();
    }
    cpu
}

/// The CPU time of this machine so far.
fn node_cpu_nanos() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<u64> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    // user, nice, system, irq, softirq, steal; in hundredths of a second
    let ticks: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|at| fields.get(*at)).sum();
    ticks * 10_000_000
}

/// Usage of the node and its pods, in upstream's shape.
pub(super) async fn summary(shared: &Shared, pods: &Pods) -> Response<Body> {
    let stats = match shared.runtime.container_stats().await {
        Ok(stats) => stats,
        Err(err) => {
            return failure(http::StatusCode::INTERNAL_SERVER_ERROR, &rpc_error(&err));
        }
    };
    let now = rfc3339(Timestamp::now());
    let mut by_pod: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let ids: BTreeSet<&str> = stats.iter().map(id).collect();
    shared.cpu_rates.keep(|known| known == NODE || ids.contains(known));
    for stats in &stats {
        let used = usage(stats);
        let told = stats.cpu.as_ref().and_then(|cpu| cpu.usage_nano_cores.as_ref());
        let rate = match told {
            Some(told) => Some(told.value),
            None => shared.cpu_rates.note(id(stats), used.cpu_nanos, used.at),
        };
        by_pod.entry(label(stats, labels::POD_UID).to_owned()).or_default().push(json!({
            "name": label(stats, labels::CONTAINER_NAME), "startTime": now,
            "cpu": cpu(&now, used.cpu_nanos, rate),
            "memory": {"time": now, "workingSetBytes": used.memory_bytes, "rssBytes": used.rss_bytes},
            "rootfs": {"time": now, "usedBytes": used.disk_bytes},
        }));
    }
    let list: Vec<Value> = pods
        .list()
        .into_iter()
        .filter_map(|known| {
            let meta = &known.pod.metadata;
            let containers = by_pod.remove(meta.uid.as_deref()?)?;
            let sum = |group: &str, field: &str| -> u64 {
                containers.iter().filter_map(|c| c[group][field].as_u64()).sum()
            };
            let rates: Vec<u64> =
                containers.iter().filter_map(|c| c["cpu"]["usageNanoCores"].as_u64()).collect();
            let rate = (rates.len() == containers.len()).then(|| rates.iter().sum());
            let start = known.view.borrow().status.start_time.clone();
            Some(json!({
                "podRef": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
                "startTime": start,
                "cpu": cpu(&now, sum("cpu", "usageCoreNanoSeconds"), rate),
                "memory": {"time": now, "workingSetBytes": sum("memory", "workingSetBytes")},
                "containers": containers,
            }))
        })
        .collect();
    let (total, available) = facts::memory().unwrap_or_default();
    let (used, capacity) = facts::disk_use(&shared.config.root_dir).unwrap_or_default();
    let disk = json!({
        "time": now, "capacityBytes": capacity, "usedBytes": used,
        "availableBytes": capacity.saturating_sub(used)
    });
    let node_nanos = node_cpu_nanos();
    let at = i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
    let node_rate = shared.cpu_rates.note(NODE, node_nanos, at);
    json_body(&json!({
        "node": {
            "nodeName": shared.config.node_name,
            "startTime": now,
            "cpu": cpu(&now, node_nanos, node_rate),
            "memory": {
                "time": now, "availableBytes": available,
                "workingSetBytes": total.saturating_sub(available)
            },
            "fs": disk, "runtime": {"imageFs": disk},
        },
        "pods": list,
    }))
}

fn family(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

/// CPU and memory of node, pods and containers, for metrics-server.
pub(super) async fn resource_metrics(shared: &Shared, _pods: &Pods) -> Response<Body> {
    let (stats, failed) = match shared.runtime.container_stats().await {
        Ok(stats) => (stats, 0),
        Err(err) => {
            tracing::warn!(%err, "Container figures were not readable");
            (Vec::new(), 1)
        }
    };
    let mut out = String::new();
    let mut cpu = BTreeMap::<(String, String), (u64, u64)>::new();
    family(
        &mut out,
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
    );
    let mut memory = String::new();
    for stats in &stats {
        let used = usage(stats);
        let (pod, namespace) =
            (label(stats, labels::POD_NAME), label(stats, labels::POD_NAMESPACE));
        let container = label(stats, labels::CONTAINER_NAME);
        let names =
            format!("{{container=\"{container}\",namespace=\"{namespace}\",pod=\"{pod}\"}}");
        let at = used.at / 1_000_000;
        let _ = writeln!(
            out,
            "container_cpu_usage_seconds_total{names} {} {at}",
            seconds(used.cpu_nanos)
        );
        let _ = writeln!(
            memory,
            "container_memory_working_set_bytes{names} {} {at}",
            used.memory_bytes
        );
        let sum = cpu.entry((namespace.to_owned(), pod.to_owned())).or_default();
        sum.0 += used.cpu_nanos;
        sum.1 += used.memory_bytes;
    }
    family(
        &mut out,
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set of the container in bytes",
    );
    out.push_str(&memory);
    family(
        &mut out,
        "node_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the node in core-seconds",
    );
    let _ = writeln!(out, "node_cpu_usage_seconds_total {}", seconds(node_cpu_nanos()));
    let (total, available) = facts::memory().unwrap_or_default();
    family(
        &mut out,
        "node_memory_working_set_bytes",
        "gauge",
        "Current working set of the node in bytes",
    );
    let _ = writeln!(out, "node_memory_working_set_bytes {}", total.saturating_sub(available));
    family(
        &mut out,
        "pod_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the pod in core-seconds",
    );
    for ((namespace, pod), (nanos, _)) in &cpu {
        let _ = writeln!(
            out,
            "pod_cpu_usage_seconds_total{{namespace=\"{namespace}\",pod=\"{pod}\"}} {}",
            seconds(*nanos)
        );
    }
    family(
        &mut out,
        "pod_memory_working_set_bytes",
        "gauge",
        "Current working set of the pod in bytes",
    );
    for ((namespace, pod), (_, bytes)) in &cpu {
        let _ = writeln!(
            out,
            "pod_memory_working_set_bytes{{namespace=\"{namespace}\",pod=\"{pod}\"}} {bytes}"
        );
    }
    family(
        &mut out,
        "resource_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
    );
    let _ = writeln!(out, "resource_scrape_error {failed}");
    text(out)
}

/// The kubelet's own figures.
pub(super) fn metrics(shared: &Shared, pods: &Pods) -> Response<Body> {
    let known = pods.list();
    let containers: usize = known
        .iter()
        .map(|known| known.view.borrow().observed.all().filter(|view| view.is_alive()).count())
        .sum();
    let mut out = String::new();
    family(
        &mut out,
        "kubelet_running_pods",
        "gauge",
        "Number of pods that have a running pod sandbox",
    );
    let _ = writeln!(out, "kubelet_running_pods {}", known.len());
    family(
        &mut out,
        "kubelet_running_containers",
        "gauge",
        "Number of containers currently running",
    );
    let _ = writeln!(out, "kubelet_running_containers{{container_state=\"running\"}} {containers}");
    family(&mut out, "kubelet_node_name", "gauge", "The node's name. The count is always 1.");
    let _ = writeln!(out, "kubelet_node_name{{node=\"{}\"}} 1", shared.config.node_name);
    let folders = shared.config.certificate_dirs.iter().map(PathBuf::as_path);
    out.push_str(&pki::expiration_metric(folders, Timestamp::now().as_second()));
    text(out)
}
