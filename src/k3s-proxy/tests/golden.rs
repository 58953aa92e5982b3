//! The text of whole tables. `UPDATE_FIXTURES=1 cargo test -p k3s-proxy` writes them anew.

#![allow(clippy::unwrap_used)]

use k3s_proxy::claims::{Claims, Owner};
use k3s_proxy::element::Family;
use k3s_proxy::objects::{EndpointSlice, Service};
use k3s_proxy::plan::{self, Place};
use k3s_proxy::table::{Script, Settings};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

fn check(name: &str, service: Value, slices: Vec<Value>) {
    let service: Service = serde_json::from_value(service).unwrap();
    let slices: Vec<Arc<EndpointSlice>> =
        slices.into_iter().map(|slice| Arc::new(serde_json::from_value(slice).unwrap())).collect();
    let mut claims = Claims::default();
    let owner = Owner::Service(service.metadata.key());
    claims.set(owner, plan::service(&service, &slices, &here()));
    let settings = Settings {
        cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
        nodeport_addresses: Vec::new(),
    };
    let shape = claims.shape(Family::V4);
    let text = Script::new(Family::V4, &settings).replace(&shape, claims.effective());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nft").join(name);
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, wanted, "{name}");
}

fn here() -> Place {
    Place { node: "n1".into(), zone: "z1".into() }
}

fn slice(ips: &[&str]) -> Value {
    let endpoints: Vec<Value> = ips
        .iter()
        .map(|ip| json!({"addresses": [ip], "nodeName": "n1", "conditions": {"ready": true}}))
        .collect();
    json!({"metadata": {"name": "s"}, "endpoints": endpoints,
        "ports": [{"name": "", "protocol": "TCP", "port": 8080}]})
}

#[test]
fn tables_are_as_they_were() {
    let meta = json!({"namespace": "default", "name": "web"});
    let node_port = json!({"metadata": meta, "spec": {"type": "NodePort", "clusterIP": "10.43.0.10",
        "ports": [{"port": 80, "nodePort": 30080}]}});
    check("nodeport.nft", node_port.clone(), vec![slice(&["10.42.0.2", "10.42.0.3"])]);
    check("without-endpoints.nft", node_port, vec![]);
    let sticky = json!({"metadata": meta, "spec": {"clusterIP": "10.43.0.10", "sessionAffinity": "ClientIP",
        "externalIPs": ["203.0.113.5"], "externalTrafficPolicy": "Local", "ports": [{"port": 80}]}});
    check("affinity-local.nft", sticky, vec![slice(&["10.42.0.2"])]);
}
