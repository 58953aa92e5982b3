//! Endpoints, the older form of EndpointSlices: one object per Service, ready and unready addresses
//! apart, addresses with the same ports together.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use anyhow::{Context, Result};
use client::{
    Action, Key, Preconditions, Propagation, WorkQueue, is_already_exists,
    is_namespace_terminating, is_not_found,
};
use serde_json::{Value, json};

use super::endpointslice::{address, resolve, subscribe};
use crate::{
    Cx, Running,
    caches::ENDPOINTS,
    types::{
        core::{Endpoints, Pod, Service},
        selects,
    },
    workers,
};

const NAME: &str = "endpoints-controller";
const WORKERS: usize = 8;
const ADDRESSES_MAX: usize = 1000;
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const HEADLESS: &str = "service.kubernetes.io/headless";

pub(crate) fn start(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    subscribe(cx, &queue);
    let filled = queue.clone();
    cx.caches.endpoints.on_event(move |event| {
        if matches!(event, client::Event::Deleted(_) | client::Event::Added(_)) {
            filled.add(event.object().metadata.key());
        }
    });
    let shared = Arc::new(cx.clone());
    workers(cx, NAME, WORKERS, &queue, move |key| {
        let cx = Arc::clone(&shared);
        async move { reconcile(&cx, &key).await }
    })
}

async fn reconcile(cx: &Cx, key: &Key) -> Result<Action> {
    let caches = &cx.caches;
    let known = caches.endpoints.lister().get(key);
    let Some(service) = caches.services.lister().get(key) else {
        // Only what this controller made goes with the Service.
        if let Some(known) = known.filter(|it| it.metadata.labels.contains_key(MANAGED_BY)) {
            delete(cx, &known).await?;
        }
        return Ok(Action::Done);
    };
    if service.spec.selector.is_empty() || service.metadata.is_deleting() {
        return Ok(Action::Done);
    }
    let pods: Vec<Arc<Pod>> = caches
        .pods
        .lister()
        .namespaced(&key.namespace)
        .into_iter()
        .filter(|pod| selects(&service.spec.selector, &pod.metadata.labels))
        .collect();
    let subsets = subsets(&service, &pods);
    let mut labels = service.metadata.labels.clone();
    labels.insert(MANAGED_BY.into(), "endpoint-controller".into());
    if service.spec.cluster_ip == "None" {
        labels.insert(HEADLESS.into(), String::new());
    }
    let mut body = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": key.name, "namespace": key.namespace, "labels": labels},
        "subsets": subsets,
    });
    let answer = match known {
        Some(known) if known.subsets == subsets && known.metadata.labels == labels => {
            return Ok(Action::Done);
        }
        Some(known) => {
            body["metadata"]["resourceVersion"] = json!(known.metadata.resource_version);
            cx.rest.update::<Endpoints>(&ENDPOINTS, key, "", &body).await
        }
        None => cx.rest.create::<Endpoints>(&ENDPOINTS, &key.namespace, &body).await,
    };
    match answer {
        Ok(endpoints) => caches.endpoints.observe(endpoints),
        Err(err) if is_not_found(&err) || is_already_exists(&err) => {}
        Err(err) if is_namespace_terminating(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("writing endpoints {key}")),
    }
    Ok(Action::Done)
}

async fn delete(cx: &Cx, known: &Endpoints) -> Result<()> {
    let key = known.metadata.key();
    let when = Preconditions { uid: &known.metadata.uid, ..Preconditions::default() };
    match cx.rest.delete(&ENDPOINTS, &key, Propagation::Background, when).await {
        Ok(()) => cx.caches.endpoints.observe_deleted(&key, &known.metadata.uid),
        Err(err) if is_not_found(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("deleting endpoints {key}")),
    }
    Ok(())
}

/// One address and whether it is ready, ordered as upstream orders addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Address {
    ip: String,
    uid: String,
    ready: bool,
    name: String,
    namespace: String,
    node: String,
    hostname: String,
}

type Port = (String, i32, String, Option<String>);

/// The subsets for these pods.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> Vec<Value> {
    let mut by_port: BTreeMap<Option<Port>, BTreeSet<Address>> = BTreeMap::new();
    let mut total = 0;
    for pod in pods {
        if pod.is_finished()
            || (pod.metadata.is_deleting() && !service.spec.publish_not_ready_addresses)
        {
            continue;
        }
        let Some(ip) = address(service, pod) else { continue };
        total += 1;
        if total > ADDRESSES_MAX {
            break;
        }
        let named = !pod.spec.hostname.is_empty() && pod.spec.subdomain == service.metadata.name;
        let address = Address {
            ip,
            uid: pod.metadata.uid.clone(),
            ready: service.spec.publish_not_ready_addresses || pod.is_ready(),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            node: pod.spec.node_name.clone(),
            hostname: if named { pod.spec.hostname.clone() } else { String::new() },
        };
        if service.spec.ports.is_empty() {
            by_port.entry(None).or_default().insert(address.clone());
        }
        for port in &service.spec.ports {
            let Some(number) = resolve(port, pod) else { continue };
            let (name, protocol) = (port.name.clone(), port.protocol.clone());
            let key = (name, number, protocol, port.app_protocol.clone());
            by_port.entry(Some(key)).or_default().insert(address.clone());
        }
    }
    let mut by_addresses: BTreeMap<BTreeSet<Address>, Vec<Port>> = BTreeMap::new();
    for (port, addresses) in by_port {
        by_addresses.entry(addresses).or_default().extend(port);
    }
    by_addresses.into_iter().map(|(addresses, ports)| subset(&addresses, &ports)).collect()
}

fn subset(addresses: &BTreeSet<Address>, ports: &[Port]) -> Value {
    let pick = |ready: bool| -> Vec<Value> {
        addresses.iter().filter(|it| it.ready == ready).map(address_json).collect()
    };
    let mut subset = json!({});
    for (field, list) in [("addresses", pick(true)), ("notReadyAddresses", pick(false))] {
        if !list.is_empty() {
            subset[field] = json!(list);
        }
    }
    let ports: Vec<Value> = ports.iter().map(port_json).collect();
    if !ports.is_empty() {
        subset["ports"] = json!(ports);
    }
    subset
}

fn port_json((name, number, protocol, app_protocol): &Port) -> Value {
    let mut port = json!({"port": number, "protocol": protocol});
    if !name.is_empty() {
        port["name"] = json!(name);
    }
    if let Some(app_protocol) = app_protocol {
        port["appProtocol"] = json!(app_protocol);
    }
    port
}

fn address_json(address: &Address) -> Value {
    let mut value = json!({
        "ip": address.ip,
        "targetRef": {
            "kind": "Pod", "namespace": address.namespace,
            "name": address.name, "uid": address.uid,
        },
    });
    if !address.node.is_empty() {
        value["nodeName"] = json!(address.node);
    }
    if !address.hostname.is_empty() {
        value["hostname"] = json!(address.hostname);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{
        Condition, IntOrString,
        core::{Container, ContainerPort, ServicePort},
    };

    fn pod(name: &str, ip: &str, port: i32, ready: bool) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.name = name.into();
        pod.status.pod_ip = ip.into();
        let port =
            ContainerPort { name: "web".into(), container_port: port, protocol: "TCP".into() };
        pod.spec.containers = vec![Container { ports: vec![port], ..Container::default() }];
        let status = if ready { "True" } else { "False" };
        pod.status.conditions.push(Condition::new("Ready", status, "", ""));
        Arc::new(pod)
    }

    #[test]
    fn addresses_with_the_same_ports_share_a_subset() {
        let mut service = Service::default();
        let port = |target| ServicePort {
            protocol: "TCP".into(),
            port: 80,
            target_port: Some(target),
            ..ServicePort::default()
        };
        let pods = [pod("a", "10.0.0.1", 3000, true), pod("b", "10.0.0.2", 3001, false)];
        service.spec.ports = vec![port(IntOrString::Int(3000))];
        let found = subsets(&service, &pods);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0]["addresses"][0]["ip"], "10.0.0.1");
        assert_eq!(found[0]["notReadyAddresses"][0]["ip"], "10.0.0.2");
        service.spec.ports = vec![port(IntOrString::String("web".into()))];
        assert_eq!(subsets(&service, &pods).len(), 2, "the name leads to two numbers");
    }
}
