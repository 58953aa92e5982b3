//! EndpointSlices of Services with a selector: which pods answer on which ports.
//!
//! Invariant: a slice has one set of ports and at most 100 endpoints; an endpoint stays in its
//! slice as long as it lives, so that a change touches one slice.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result};
use client::{Action, Key, Labels, Preconditions, Propagation, WorkQueue, is_not_found};
use serde_json::{Value, json};

use crate::{
    Cx, Running,
    caches::{SERVICES, SLICES},
    ownership::controller_ref,
    types::{
        IntOrString,
        core::{Node, Pod, Service, ServicePort},
        discovery::{
            Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Hint, Hints, TargetRef,
        },
        selects,
    },
    workers,
};

const NAME: &str = "endpointslice-controller";
const WORKERS: usize = 8;
const ENDPOINTS_MAX: usize = 100;
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";

/// A change of one slice.
#[derive(Debug)]
pub(super) enum Step {
    Create { ports: Vec<EndpointPort>, endpoints: Vec<Endpoint> },
    Update { slice: Arc<EndpointSlice>, ports: Vec<EndpointPort>, endpoints: Vec<Endpoint> },
    Delete(Arc<EndpointSlice>),
}

pub(crate) fn start(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    subscribe(cx, &queue);
    let filled = queue.clone();
    cx.caches.slices.on_event(move |event| {
        let slice = event.object();
        let name = slice.metadata.labels.get(SERVICE_NAME);
        if let Some(name) = name.filter(|_| is_ours(slice)) {
            filled.add(Key::new(&slice.metadata.namespace, name));
        }
    });
    let shared = Arc::new(cx.clone());
    workers(cx, NAME, WORKERS, &queue, move |key| {
        let cx = Arc::clone(&shared);
        async move { reconcile(&cx, &key).await }
    })
}

/// Adds Services to the queue when they, or pods that they select, change in a way that endpoints
/// show.
pub(crate) fn subscribe(cx: &Cx, queue: &WorkQueue<Key>) {
    let filled = queue.clone();
    cx.caches.services.on_event(move |event| filled.add(event.object().metadata.key()));
    let (filled, services) = (queue.clone(), cx.caches.services.lister());
    cx.caches.pods.on_event(move |event| {
        let new = event.object();
        let old = event.old();
        if let client::Event::Updated { old, new } = event
            && !shows(old, new)
        {
            return;
        }
        for service in services.namespaced(&new.metadata.namespace) {
            let selector = &service.spec.selector;
            let selected = selects(selector, &new.metadata.labels)
                || old.is_some_and(|old| selects(selector, &old.metadata.labels));
            if selected {
                filled.add(service.metadata.key());
            }
        }
    });
}

/// Whether the difference of two states of a pod can be seen in endpoints.
fn shows(old: &Pod, new: &Pod) -> bool {
    let seen = |pod: &Pod| {
        (
            pod.metadata.is_deleting(),
            pod.is_ready(),
            pod.is_finished(),
            pod.status.pod_ip.clone(),
            pod.spec.node_name.clone(),
        )
    };
    old.metadata.labels != new.metadata.labels || seen(old) != seen(new)
}

async fn reconcile(cx: &Cx, key: &Key) -> Result<Action> {
    let caches = &cx.caches;
    let existing: Vec<Arc<EndpointSlice>> = caches
        .slices
        .lister()
        .by_index(caches.slices_by_service, &key.to_string())
        .into_iter()
        .filter(|slice| is_ours(slice) && !slice.metadata.is_deleting())
        .collect();
    let service = caches.services.lister().get(key).filter(|it| !it.metadata.is_deleting());
    let Some(service) = service else { return Ok(Action::Done) };
    // Without a selector the slices are somebody else's.
    if service.spec.selector.is_empty() || service.spec.kind == "ExternalName" {
        for slice in existing.iter().filter(|_| service.spec.kind == "ExternalName") {
            delete(cx, slice).await?;
        }
        return Ok(Action::Done);
    }
    let pods: Vec<Arc<Pod>> = caches
        .pods
        .lister()
        .namespaced(&key.namespace)
        .into_iter()
        .filter(|pod| selects(&service.spec.selector, &pod.metadata.labels))
        .collect();
    let nodes = caches.nodes.lister();
    let desired = desired(&service, &pods, |name| nodes.get(&Key::cluster(name)));
    let labels = labels(&service);
    let mut touched = Vec::new();
    for step in plan(desired, &existing) {
        if let Step::Update { slice, .. } = &step {
            touched.push(slice.metadata.name.clone());
        }
        perform(cx, &service, &labels, step).await?;
    }
    for slice in caches.slices.lister().by_index(caches.slices_by_service, &key.to_string()) {
        if is_ours(&slice) && slice.metadata.labels != labels {
            relabel(cx, &slice, &labels).await?;
        }
    }
    Ok(Action::Done)
}

fn is_ours(slice: &EndpointSlice) -> bool {
    slice.metadata.labels.get(MANAGED_BY).is_some_and(|it| it == MANAGER)
}

fn labels(service: &Service) -> Labels {
    let mut labels = service.metadata.labels.clone();
    labels.remove(HEADLESS);
    if service.spec.cluster_ip == "None" {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(SERVICE_NAME.into(), service.metadata.name.clone());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

/// The container port that a Service port leads to in this pod.
pub(crate) fn resolve(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let sidecars =
                pod.spec.init_containers.iter().filter(|it| it.restart_policy == "Always");
            pod.spec
                .containers
                .iter()
                .chain(sidecars)
                .flat_map(|container| &container.ports)
                .find(|it| {
                    it.name == *name
                        && (it.protocol == port.protocol
                            || (it.protocol.is_empty() && port.protocol == "TCP"))
                })
                .map(|it| it.container_port)
        }
    }
}

/// The addresses of a pod in the Service's first family.
pub(crate) fn address(service: &Service, pod: &Pod) -> Option<String> {
    let v6 = service.spec.ip_families.first().is_some_and(|it| it == "IPv6");
    let all = pod.status.pod_ips.iter().map(|it| it.ip.as_str());
    all.chain([pod.status.pod_ip.as_str()])
        .find(|ip| !ip.is_empty() && ip.contains(':') == v6)
        .map(str::to_owned)
}

/// Endpoints by the ports that they have.
pub(super) type Desired = BTreeMap<Vec<EndpointPort>, Vec<Endpoint>>;

fn desired(
    service: &Service,
    pods: &[Arc<Pod>],
    node: impl Fn(&str) -> Option<Arc<Node>>,
) -> Desired {
    let mut desired = Desired::new();
    for pod in pods.iter().filter(|pod| !pod.is_finished()) {
        let Some(address) = address(service, pod) else { continue };
        let mut ports: Vec<EndpointPort> = service
            .spec
            .ports
            .iter()
            .filter_map(|port| {
                Some(EndpointPort {
                    name: port.name.clone(),
                    port: Some(resolve(port, pod)?),
                    protocol: port.protocol.clone(),
                    app_protocol: port.app_protocol.clone(),
                })
            })
            .collect();
        if ports.is_empty() && !service.spec.ports.is_empty() {
            continue;
        }
        ports.sort();
        desired.entry(ports).or_default().push(endpoint(service, pod, address, &node));
    }
    desired
}

fn endpoint(
    service: &Service,
    pod: &Pod,
    address: String,
    node: &impl Fn(&str) -> Option<Arc<Node>>,
) -> Endpoint {
    let terminating = pod.metadata.is_deleting();
    let serving = pod.is_ready();
    let ready = service.spec.publish_not_ready_addresses || (serving && !terminating);
    let node_name = Some(pod.spec.node_name.clone()).filter(|it| !it.is_empty());
    let zone = node_name
        .as_deref()
        .and_then(node)
        .and_then(|node| node.metadata.labels.get("topology.kubernetes.io/zone").cloned());
    let hints = hints(service, ready, node_name.as_deref(), zone.as_deref());
    let named = !pod.spec.hostname.is_empty() && pod.spec.subdomain == service.metadata.name;
    Endpoint {
        addresses: vec![address],
        conditions: EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        },
        hostname: named.then(|| pod.spec.hostname.clone()),
        target_ref: Some(TargetRef {
            kind: "Pod".into(),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
        }),
        node_name,
        zone,
        hints,
    }
}

/// For whom an endpoint is, as the Service's `trafficDistribution` has it.
fn hints(service: &Service, ready: bool, node: Option<&str>, zone: Option<&str>) -> Option<Hints> {
    let distribution = service.spec.traffic_distribution.as_deref()?;
    let same = |name: Option<&str>| -> Vec<Hint> {
        name.map(|name| Hint { name: name.to_owned() }).into_iter().collect()
    };
    let hints = match distribution {
        "PreferClose" | "PreferSameZone" => Hints { for_nodes: Vec::new(), for_zones: same(zone) },
        "PreferSameNode" => Hints { for_nodes: same(node), for_zones: same(zone) },
        _ => return None,
    };
    (ready && hints != Hints::default()).then_some(hints)
}

/// The smallest set of changes from the existing slices to the desired endpoints.
pub(super) fn plan(mut desired: Desired, existing: &[Arc<EndpointSlice>]) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut spare = Vec::new();
    let mut room: Vec<(Arc<EndpointSlice>, Vec<EndpointPort>, Vec<Endpoint>, bool)> = Vec::new();
    for slice in existing {
        let mut ports = slice.ports.clone();
        ports.sort();
        let Some(wanted) = desired.get_mut(&ports) else {
            spare.push(Arc::clone(slice));
            continue;
        };
        let mut kept = Vec::with_capacity(slice.endpoints.len());
        let mut changed = false;
        for endpoint in &slice.endpoints {
            let at = wanted.iter().position(|it| {
                it.target_ref == endpoint.target_ref && it.addresses == endpoint.addresses
            });
            match at {
                Some(at) => {
                    let fresh = wanted.swap_remove(at);
                    changed |= fresh != *endpoint;
                    kept.push(fresh);
                }
                None => changed = true,
            }
        }
        room.push((Arc::clone(slice), ports, kept, changed));
    }
    for (slice, ports, mut kept, mut changed) in room {
        if let Some(wanted) = desired.get_mut(&ports) {
            while kept.len() < ENDPOINTS_MAX
                && let Some(endpoint) = wanted.pop()
            {
                kept.push(endpoint);
                changed = true;
            }
        }
        if kept.is_empty() {
            spare.push(slice);
        } else if changed {
            steps.push(Step::Update { slice, ports, endpoints: kept });
        } else {
            // Nothing to do, but it counts as a slice that stays.
            steps.push(Step::Update { slice, ports, endpoints: Vec::new() });
        }
    }
    for (ports, mut endpoints) in desired {
        while !endpoints.is_empty() {
            let rest = endpoints.split_off(endpoints.len().min(ENDPOINTS_MAX));
            let endpoints = std::mem::replace(&mut endpoints, rest);
            let ports = ports.clone();
            match spare.pop() {
                Some(slice) => steps.push(Step::Update { slice, ports, endpoints }),
                None => steps.push(Step::Create { ports, endpoints }),
            }
        }
    }
    if steps.is_empty() {
        // A Service without endpoints keeps one empty slice.
        match spare.pop() {
            None => steps.push(Step::Create { ports: Vec::new(), endpoints: Vec::new() }),
            Some(slice) if slice.endpoints.is_empty() && slice.ports.is_empty() => {}
            Some(slice) => {
                steps.push(Step::Update { slice, ports: Vec::new(), endpoints: Vec::new() });
            }
        }
    } else {
        steps.retain(|step| match step {
            Step::Update { slice, ports, endpoints } => {
                !(endpoints.is_empty() && same_ports(slice, ports))
            }
            _ => true,
        });
    }
    steps.extend(spare.into_iter().map(Step::Delete));
    steps
}

fn same_ports(slice: &EndpointSlice, ports: &[EndpointPort]) -> bool {
    let mut own = slice.ports.clone();
    own.sort();
    own == ports
}

async fn perform(cx: &Cx, service: &Service, labels: &Labels, step: Step) -> Result<()> {
    let namespace = &service.metadata.namespace;
    let family = service.spec.ip_families.first().map_or("IPv4", String::as_str);
    match step {
        Step::Delete(slice) => delete(cx, &slice).await,
        Step::Create { ports, endpoints } => {
            let name = &service.metadata.name;
            let body = json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "generateName": format!("{name}-"), "namespace": namespace,
                    "labels": labels,
                    "ownerReferences": [controller_ref(&SERVICES, &service.metadata)],
                },
                "addressType": family, "endpoints": endpoints, "ports": ports,
            });
            match cx.rest.create::<EndpointSlice>(&SLICES, namespace, &body).await {
                Ok(slice) => cx.caches.slices.observe(slice),
                Err(err) if is_not_found(&err) || client::is_namespace_terminating(&err) => {}
                Err(err) => {
                    return Err(err).with_context(|| format!("creating a slice of {name}"));
                }
            }
            Ok(())
        }
        Step::Update { slice, ports, endpoints } => {
            let key = slice.metadata.key();
            let body = json!({
                "metadata": {"resourceVersion": slice.metadata.resource_version},
                "endpoints": endpoints, "ports": ports,
            });
            write(cx, &key, &body).await
        }
    }
}

async fn relabel(cx: &Cx, slice: &EndpointSlice, labels: &Labels) -> Result<()> {
    let mut wanted: serde_json::Map<String, Value> =
        labels.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    for name in slice.metadata.labels.keys().filter(|name| !labels.contains_key(*name)) {
        wanted.insert(name.clone(), Value::Null);
    }
    write(cx, &slice.metadata.key(), &json!({"metadata": {"labels": wanted}})).await
}

pub(super) async fn write(cx: &Cx, key: &Key, body: &Value) -> Result<()> {
    let patch = client::Patch::Merge;
    match cx.rest.patch::<EndpointSlice>(&SLICES, key, "", patch, body).await {
        Ok(slice) => cx.caches.slices.observe(slice),
        Err(err) if is_not_found(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("updating slice {key}")),
    }
    Ok(())
}

pub(super) async fn delete(cx: &Cx, slice: &EndpointSlice) -> Result<()> {
    let key = slice.metadata.key();
    let when = Preconditions { uid: &slice.metadata.uid, ..Preconditions::default() };
    match cx.rest.delete(&SLICES, &key, Propagation::Background, when).await {
        Ok(()) => cx.caches.slices.observe_deleted(&key, &slice.metadata.uid),
        Err(err) if is_not_found(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("deleting slice {key}")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Condition;

    fn service(target: IntOrString) -> Service {
        let mut service = Service::default();
        service.metadata.name = "web".into();
        service.spec.ports = vec![ServicePort {
            name: "http".into(),
            protocol: "TCP".into(),
            port: 80,
            target_port: Some(target),
            app_protocol: None,
            node_port: 0,
        }];
        service
    }

    fn pod(name: &str, ip: &str, ready: bool) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.name = name.into();
        pod.metadata.uid = name.into();
        pod.status.pod_ip = ip.into();
        let status = if ready { "True" } else { "False" };
        pod.status.conditions.push(Condition::new("Ready", status, "", ""));
        Arc::new(pod)
    }

    fn slice(desired: &Desired) -> Arc<EndpointSlice> {
        let (ports, endpoints) = desired.iter().next().unwrap();
        let mut slice = EndpointSlice::default();
        slice.metadata.name = "web-x".into();
        slice.ports.clone_from(ports);
        slice.endpoints.clone_from(endpoints);
        Arc::new(slice)
    }

    #[test]
    fn readiness_changes_update_one_slice() {
        let service = service(IntOrString::Int(8080));
        let before =
            desired(&service, &[pod("a", "10.0.0.1", true), pod("b", "10.0.0.2", false)], |_| None);
        assert!(matches!(plan(before.clone(), &[])[..], [Step::Create { .. }]));
        let have = slice(&before);
        assert!(plan(before, &[Arc::clone(&have)]).is_empty(), "nothing changed, nothing written");
        let after =
            desired(&service, &[pod("a", "10.0.0.1", true), pod("b", "10.0.0.2", true)], |_| None);
        let steps = plan(after, &[have]);
        let [Step::Update { endpoints, .. }] = &steps[..] else { panic!("{steps:?}") };
        assert!(endpoints.iter().all(|it| it.conditions.ready == Some(true)));
    }

    #[test]
    fn hints_follow_the_traffic_distribution() {
        let check = |distribution: Option<&str>, ready: bool, want: Option<(&[&str], &[&str])>| {
            let mut service = service(IntOrString::Int(8080));
            service.spec.traffic_distribution = distribution.map(str::to_owned);
            let names = |hints: &[Hint]| hints.iter().map(|it| it.name.clone()).collect::<Vec<_>>();
            let found = hints(&service, ready, Some("n"), Some("z"));
            let found = found.map(|it| (names(&it.for_nodes), names(&it.for_zones)));
            let own = |it: &[&str]| it.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
            assert_eq!(found, want.map(|(a, b)| (own(a), own(b))), "{distribution:?}");
        };
        check(None, true, None);
        check(Some("PreferClose"), true, Some((&[], &["z"])));
        check(Some("PreferSameZone"), true, Some((&[], &["z"])));
        check(Some("PreferSameZone"), false, None);
        check(Some("PreferSameNode"), true, Some((&["n"], &["z"])));
    }

    #[test]
    fn a_service_without_pods_keeps_one_empty_slice() {
        assert!(matches!(plan(Desired::new(), &[])[..], [Step::Create { .. }]));
        let empty = Arc::new(EndpointSlice::default());
        assert!(plan(Desired::new(), &[empty]).is_empty());
        let service = service(IntOrString::Int(8080));
        let full = slice(&desired(&service, &[pod("a", "10.0.0.1", true)], |_| None));
        assert!(
            matches!(&plan(Desired::new(), &[full])[..], [Step::Update { endpoints, .. }] if endpoints.is_empty())
        );
    }

    #[test]
    fn slices_hold_at_most_a_hundred() {
        let service = service(IntOrString::Int(8080));
        let pods: Vec<Arc<Pod>> = (0..250)
            .map(|at| pod(&format!("p{at}"), &format!("10.0.{}.{}", at / 200, at % 200 + 1), true))
            .collect();
        let steps = plan(desired(&service, &pods, |_| None), &[]);
        let sizes: Vec<usize> = steps
            .iter()
            .map(|step| match step {
                Step::Create { endpoints, .. } => endpoints.len(),
                _ => panic!("{step:?}"),
            })
            .collect();
        assert_eq!(sizes, [100, 100, 50]);
    }

    #[test]
    fn a_pod_without_the_named_port_is_left_out() {
        let service = service(IntOrString::String("web".into()));
        assert!(desired(&service, &[pod("a", "10.0.0.1", true)], |_| None).is_empty());
    }
}
