//! `kubectl get services`.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::table::{age, column, labels, name, or, wide};
use crate::registry::value::{int, key, list, map, text, texts};
use crate::registry::{AGE, Column, NAME, Object};

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    column("Type"),
    column("Cluster-IP"),
    column("External-IP"),
    column("Port(s)"),
    AGE,
    wide("Selector"),
];

pub(super) fn row(obj: &Object, now: Timestamp) -> Vec<Value> {
    let cluster_ip =
        list(obj, "spec.clusterIPs").first().and_then(Value::as_str).unwrap_or("<none>");
    vec![
        name(obj),
        json!(text(obj, "spec.type")),
        json!(cluster_ip),
        json!(external(obj)),
        json!(ports(obj)),
        age(obj, now),
        json!(labels(map(obj, "spec.selector"))),
    ]
}

fn external(obj: &Object) -> String {
    let ips = texts(obj, "spec.externalIPs").collect::<Vec<_>>().join(",");
    match text(obj, "spec.type") {
        "LoadBalancer" => {
            let found: Vec<&str> = list(obj, "status.loadBalancer.ingress")
                .iter()
                .map(|i| or(i, "ip", text(i, "hostname")))
                .filter(|text| !text.is_empty())
                .collect();
            match (found.is_empty(), ips.is_empty()) {
                (true, true) => "<pending>".to_owned(),
                (true, false) => ips,
                (false, true) => found.join(","),
                (false, false) => format!("{},{ips}", found.join(",")),
            }
        }
        "ExternalName" => text(obj, "spec.externalName").to_owned(),
        _ if ips.is_empty() => "<none>".to_owned(),
        _ => ips,
    }
}

fn ports(obj: &Object) -> String {
    let all: Vec<String> = list(obj, "spec.ports")
        .iter()
        .map(|port| {
            let (number, protocol) = (key(port, "port"), text(port, "protocol"));
            match int(port, "nodePort").unwrap_or_default() {
                0 => format!("{number}/{protocol}"),
                node => format!("{number}:{node}/{protocol}"),
            }
        })
        .collect();
    if all.is_empty() { "<none>".to_owned() } else { all.join(",") }
}
