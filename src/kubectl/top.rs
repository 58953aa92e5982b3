//! `kubectl top`: what the metrics API says of nodes and pods.

use anyhow::{Result, bail};
use apimachinery::quantity::Quantity;
use serde_json::Value;

use crate::cli::{TopCommand, Which};
use crate::discovery::{items, text};
use crate::server::{Server, is_not_found, with_query};
use crate::table;

const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";

/// Thousandths of a processor, and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    cpu: i64,
    memory: i64,
}

impl Usage {
    fn of(usage: &Value) -> Self {
        let read = |name: &str| Quantity::parse(&text(&usage[name])).ok();
        Self {
            cpu: read("cpu").map_or(0, Quantity::milli_value),
            memory: read("memory").map_or(0, Quantity::value),
        }
    }

    fn cells(self) -> [String; 2] {
        [format!("{}m", self.cpu), format!("{}Mi", self.memory / (1 << 20))]
    }
}

pub(crate) async fn run(server: &Server, command: &TopCommand) -> Result<()> {
    if let Err(err) = server.get(METRICS).await {
        if is_not_found(&err) {
            bail!("Metrics API not available");
        }
        return Err(err);
    }
    match command {
        TopCommand::Node { name, which } => nodes(server, name.as_deref(), which).await,
        TopCommand::Pod { name, which } => pods(server, name.as_deref(), which).await,
    }
}

async fn nodes(server: &Server, name: Option<&str>, which: &Which) -> Result<()> {
    let metrics = read(server, &format!("{METRICS}/nodes"), name, which).await?;
    let head = ["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for metric in metrics {
        let name = text(&metric["metadata"]["name"]);
        let node = server.get(&format!("/api/v1/nodes/{name}")).await?;
        let (used, all) = (Usage::of(&metric["usage"]), Usage::of(&node["status"]["allocatable"]));
        let share = |used: i64, all: i64| match all {
            0 => "<unknown>".to_owned(),
            all => format!("{}%", used * 100 / all),
        };
        let [cpu, memory] = used.cells();
        rows.push(vec![
            name,
            cpu,
            share(used.cpu, all.cpu),
            memory,
            share(used.memory, all.memory),
        ]);
    }
    print!("{}", table::align(&rows));
    Ok(())
}

async fn pods(server: &Server, name: Option<&str>, which: &Which) -> Result<()> {
    let path = match which.all_namespaces {
        true => format!("{METRICS}/pods"),
        false => format!("{METRICS}/namespaces/{}/pods", server.namespace),
    };
    let metrics = read(server, &path, name, which).await?;
    if metrics.is_empty() {
        eprintln!("No resources found in {} namespace.", server.namespace);
        return Ok(());
    }
    let mut head = ["NAMESPACE", "NAME", "CPU(cores)", "MEMORY(bytes)"].map(str::to_owned).to_vec();
    let from = usize::from(!which.all_namespaces);
    head.drain(..from);
    let mut rows = vec![head];
    for metric in metrics {
        let used = items(&metric, "containers").iter().map(|it| Usage::of(&it["usage"]));
        let used = used.fold(Usage::default(), |sum, it| Usage {
            cpu: sum.cpu + it.cpu,
            memory: sum.memory + it.memory,
        });
        let [cpu, memory] = used.cells();
        let meta = &metric["metadata"];
        let mut row = vec![text(&meta["namespace"]), text(&meta["name"]), cpu, memory];
        row.drain(..from);
        rows.push(row);
    }
    print!("{}", table::align(&rows));
    Ok(())
}

async fn read(
    server: &Server,
    path: &str,
    name: Option<&str>,
    which: &Which,
) -> Result<Vec<Value>> {
    if let Some(name) = name {
        return Ok(vec![server.get(&format!("{path}/{name}")).await?]);
    }
    let query = [("labelSelector", &*which.selector), ("fieldSelector", &*which.field_selector)];
    let list = server.get(&with_query(path, &query)).await?;
    Ok(items(&list, "items").to_vec())
}
