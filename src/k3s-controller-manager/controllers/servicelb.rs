//! The service load balancer: Services of type LoadBalancer get the addresses of nodes. There are no
//! pods; every node's proxy takes what comes in at an address of the status.
//!
//! Invariant: a port of a node belongs to one Service, the oldest that asks for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use anyhow::{Context, Result};
use client::{Action, Event, EventType, Key, ObjectReference, Patch, WorkQueue, is_not_found};
use serde_json::json;

use crate::{
    Cx, Running,
    caches::SERVICES,
    types::{
        Condition, condition,
        core::{LoadBalancerIngress, Node, Service},
        discovery::EndpointSlice,
    },
    workers,
};

const NAME: &str = "servicelb-controller";
const ENABLE: &str = "svccontroller.k3s.cattle.io/enablelb";
const POOL: &str = "svccontroller.k3s.cattle.io/lbpool";
/// The one key: a change anywhere may move a port from one Service to another.
const ALL: &str = "services";

pub(crate) fn start(cx: &Cx) -> Running {
    if cx.args.disabled_addons.iter().any(|it| it == "servicelb") {
        return Box::pin(async {});
    }
    let queue = WorkQueue::new();
    let filled = queue.clone();
    cx.caches.services.on_event(move |event| {
        let mut states = event.old().into_iter().chain([event.object()]);
        if states.any(|it| is_balanced(it)) {
            filled.add(Key::cluster(ALL));
        }
    });
    let filled = queue.clone();
    cx.caches.nodes.on_event(move |event| {
        let same = |a: &Node, b: &Node| {
            a.metadata.labels == b.metadata.labels
                && a.status.addresses == b.status.addresses
                && is_ready(a) == is_ready(b)
        };
        match event {
            Event::Updated { old, new } if same(old, new) => {}
            _ => filled.add(Key::cluster(ALL)),
        }
    });
    let (filled, services) = (queue.clone(), cx.caches.services.lister());
    cx.caches.slices.on_event(move |event| {
        let meta = &event.object().metadata;
        let name = meta.labels.get("kubernetes.io/service-name");
        let service = name.and_then(|name| services.get(&Key::new(&meta.namespace, name)));
        if service.is_some_and(|it| is_balanced(&it) && is_local(&it)) {
            filled.add(Key::cluster(ALL));
        }
    });
    let shared = Arc::new(cx.clone());
    workers(cx, NAME, 1, &queue, move |_| {
        let cx = Arc::clone(&shared);
        async move { reconcile(&cx).await }
    })
}

fn is_balanced(service: &Service) -> bool {
    service.spec.kind == "LoadBalancer" && service.spec.load_balancer_class.is_none()
}

fn is_local(service: &Service) -> bool {
    service.spec.external_traffic_policy == "Local"
}

fn is_ready(node: &Node) -> bool {
    condition(&node.status.conditions, "Ready").is_some_and(Condition::is_true)
}

async fn reconcile(cx: &Cx) -> Result<Action> {
    let services = cx.caches.services.lister().list();
    let nodes = cx.caches.nodes.lister().list();
    let slices = cx.caches.slices.lister();
    let by_service = cx.caches.slices_by_service;
    let wanted = plan(&services, &nodes, |key| slices.by_index(by_service, &key.to_string()));
    let recorder = cx.recorder.named("service-lb-controller");
    for (service, addresses) in wanted {
        let key = service.metadata.key();
        let about = ObjectReference::new(&SERVICES, &service.metadata);
        let known: Vec<&str> =
            service.status.load_balancer.ingress.iter().map(|it| it.ip.as_str()).collect();
        if known == addresses {
            continue;
        }
        let ingress: Vec<LoadBalancerIngress> = addresses
            .iter()
            .map(|ip| LoadBalancerIngress { ip: ip.clone(), ip_mode: Some("VIP".into()) })
            .collect();
        let body = json!({
            "metadata": {"uid": service.metadata.uid},
            "status": {"loadBalancer": {"ingress": ingress}},
        });
        match cx.rest.patch::<Service>(&SERVICES, &key, "status", Patch::Merge, &body).await {
            Ok(service) => cx.caches.services.observe(service),
            Err(err) if is_not_found(&err) => continue,
            Err(err) => return Err(err).with_context(|| format!("updating status of {key}")),
        }
        if addresses.is_empty() {
            let message =
                "LoadBalancer has no node: none is ready and allowed, or their ports are taken";
            recorder.event(
                &about,
                EventType::Warning,
                "UnAvailableLoadBalancer",
                message.to_owned(),
            );
        } else {
            let list = addresses.join(", ");
            let message = format!("LoadBalancer Ingress IP addresses updated: {list}");
            recorder.event(&about, EventType::Normal, "UpdatedIngressIP", message);
        }
    }
    Ok(Action::Done)
}

/// The addresses of every balanced Service.
fn plan(
    services: &[Arc<Service>],
    nodes: &[Arc<Node>],
    slices: impl Fn(&Key) -> Vec<Arc<EndpointSlice>>,
) -> Vec<(Arc<Service>, Vec<String>)> {
    let mut balanced: Vec<&Arc<Service>> =
        services.iter().filter(|it| is_balanced(it) && !it.metadata.is_deleting()).collect();
    balanced.sort_by_key(|it| (it.metadata.created(), it.metadata.key()));
    let chosen = nodes.iter().any(|it| it.metadata.labels.get(ENABLE).is_some_and(|v| v == "true"));
    let mut taken: BTreeSet<(&str, &str, i32)> = BTreeSet::new();
    let mut plan = Vec::with_capacity(balanced.len());
    for service in balanced {
        let local: Option<BTreeSet<String>> =
            is_local(service).then(|| with_endpoints(&slices(&service.metadata.key())));
        let mut own: BTreeMap<&str, &Node> = BTreeMap::new();
        for node in nodes.iter().filter(|it| is_ready(it)) {
            let (name, labels) = (node.metadata.name.as_str(), &node.metadata.labels);
            let allowed = (!chosen || labels.get(ENABLE).is_some_and(|it| it == "true"))
                && service.metadata.labels.get(POOL).is_none_or(|it| labels.get(POOL) == Some(it))
                && local.as_ref().is_none_or(|it| it.contains(name));
            let ports = || service.spec.ports.iter().map(|it| (name, protocol(it), it.port));
            if allowed && !ports().any(|port| taken.contains(&port)) {
                taken.extend(ports());
                own.insert(name, node);
            }
        }
        plan.push((Arc::clone(service), addresses(own.values().copied())));
    }
    plan
}

fn protocol(port: &crate::types::core::ServicePort) -> &str {
    if port.protocol.is_empty() { "TCP" } else { &port.protocol }
}

/// The nodes that have a ready endpoint.
fn with_endpoints(slices: &[Arc<EndpointSlice>]) -> BTreeSet<String> {
    slices
        .iter()
        .flat_map(|slice| &slice.endpoints)
        .filter(|it| it.conditions.ready != Some(false))
        .filter_map(|it| it.node_name.clone())
        .collect()
}

/// External addresses where any node has one, else internal ones.
fn addresses<'a>(nodes: impl Iterator<Item = &'a Node>) -> Vec<String> {
    let (mut external, mut internal) = (BTreeSet::new(), BTreeSet::new());
    for address in nodes.flat_map(|it| &it.status.addresses) {
        match address.kind.as_str() {
            "ExternalIP" => external.insert(address.address.clone()),
            "InternalIP" => internal.insert(address.address.clone()),
            _ => false,
        };
    }
    let chosen = if external.is_empty() { internal } else { external };
    chosen.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, labels: &str, addresses: &str) -> Arc<Node> {
        let text = format!(
            r#"{{"metadata":{{"name":"{name}","labels":{{{labels}}}}},"status":{{"addresses":[{addresses}],
            "conditions":[{{"type":"Ready","status":"True"}}]}}}}"#
        );
        Arc::new(serde_json::from_str(&text).unwrap())
    }

    fn service(name: &str, age: u8, extra: &str, port: i32) -> Arc<Service> {
        let text = format!(
            r#"{{"metadata":{{"namespace":"n","name":"{name}","creationTimestamp":"2030-01-01T00:00:0{age}Z"{extra}}},
            "spec":{{"type":"LoadBalancer","ports":[{{"port":{port}}}]}}}}"#
        );
        Arc::new(serde_json::from_str(&text).unwrap())
    }

    fn check(services: &[Arc<Service>], nodes: &[Arc<Node>], want: &[(&str, &[&str])]) {
        let found = plan(services, nodes, |_| vec![]);
        let found: Vec<(&str, Vec<&str>)> = found
            .iter()
            .map(|(it, ips)| (it.metadata.name.as_str(), ips.iter().map(String::as_str).collect()))
            .collect();
        let want: Vec<(&str, Vec<&str>)> =
            want.iter().map(|(name, ips)| (*name, ips.to_vec())).collect();
        assert_eq!(found, want);
    }

    const ONE: &str = r#"{"type":"InternalIP","address":"10.0.0.1"}"#;
    const TWO: &str = r#"{"type":"InternalIP","address":"10.0.0.2"}"#;
    const OUTER: &str = r#"{"type":"ExternalIP","address":"192.0.2.9"}"#;

    #[test]
    fn services_get_the_addresses_of_nodes() {
        let plain = [node("a", "", ONE), node("b", "", TWO)];
        check(&[service("s", 0, "", 80)], &plain, &[("s", &["10.0.0.1", "10.0.0.2"])]);
        let outer = [node("a", "", ONE), node("b", "", &format!("{TWO},{OUTER}"))];
        check(&[service("s", 0, "", 80)], &outer, &[("s", &["192.0.2.9"])]);
        let chosen = [
            node("a", "", ONE),
            node("b", r#""svccontroller.k3s.cattle.io/enablelb":"true""#, TWO),
        ];
        check(&[service("s", 0, "", 80)], &chosen, &[("s", &["10.0.0.2"])]);
        let pool = r#""svccontroller.k3s.cattle.io/lbpool":"x""#;
        let pooled = service("s", 0, &format!(r#","labels":{{{pool}}}"#), 80);
        check(&[pooled], &[node("a", pool, ONE), node("b", "", TWO)], &[("s", &["10.0.0.1"])]);
    }

    #[test]
    fn a_port_belongs_to_the_oldest_service() {
        let nodes = [node("a", "", ONE)];
        let services =
            [service("new", 2, "", 80), service("old", 1, "", 80), service("tls", 3, "", 443)];
        check(&services, &nodes, &[("old", &["10.0.0.1"]), ("new", &[]), ("tls", &["10.0.0.1"])]);
    }

    #[test]
    fn local_traffic_goes_where_endpoints_are() {
        let mut local = (*service("s", 0, "", 80)).clone();
        local.spec.external_traffic_policy = "Local".into();
        let slice: EndpointSlice = serde_json::from_str(
            r#"{"endpoints":[{"addresses":[],"nodeName":"b","conditions":{"ready":true}}]}"#,
        )
        .unwrap();
        let nodes = [node("a", "", ONE), node("b", "", TWO)];
        let found = plan(&[Arc::new(local)], &nodes, |_| vec![Arc::new(slice.clone())]);
        assert_eq!(found.first().unwrap().1, ["10.0.0.2"]);
    }
}
