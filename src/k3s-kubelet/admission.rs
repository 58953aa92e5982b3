//! Whether this node takes a pod: enough of every resource, and its host ports free.
//!
//! Pure. Invariant: a pod that was admitted once is never judged again, so a restart of the
//! kubelet ends nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::pod::labels::PodNames;
use crate::pod::resources::{milli, pod_request};

/// Why a pod is refused, in upstream's words.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// Whether this node has judged the pod before.
pub(crate) fn was_admitted(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    status.is_some_and(|status| status.start_time.is_some())
        || pod.metadata.deletion_timestamp.is_some()
}

/// Judges a new pod beside those that are active on the node.
pub(crate) fn admit(
    pod: &Pod,
    active: &[Arc<Pod>],
    allocatable: &BTreeMap<String, Quantity>,
) -> Result<(), Rejection> {
    let slots = allocatable.get("pods").and_then(milli).map(|slots| slots / 1000);
    let taken = active.len() as i128;
    if let Some(slots) = slots
        && taken >= slots
    {
        return Err(out_of("pods", 1, taken, slots));
    }
    for (name, capacity) in allocatable.iter().filter(|(name, _)| *name != "pods") {
        let wanted = pod_request(pod, name);
        let capacity = milli(capacity).unwrap_or(0);
        if wanted == 0 {
            continue;
        }
        let used: i128 = active.iter().map(|other| pod_request(other, name)).sum();
        if wanted > capacity - used {
            // Processor time is told in thousandths, all else in whole units.
            let unit = if name == "cpu" { 1 } else { 1000 };
            return Err(out_of(name, wanted / unit, used / unit, capacity / unit));
        }
    }
    let conflict = host_ports(pod).any(|port| {
        active.iter().flat_map(|other| host_ports(other)).any(|taken| overlap(port, taken))
    });
    if conflict {
        let message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        return Err(Rejection { reason: "NodePorts".to_owned(), message: message.to_owned() });
    }
    Ok(())
}

fn out_of(resource: &str, requested: i128, used: i128, capacity: i128) -> Rejection {
    Rejection {
        reason: format!("OutOf{resource}"),
        message: format!(
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
        ),
    }
}

type HostPort<'a> = (&'a str, &'a str, i32);

/// Address, protocol and port of everything that the pod listens on in the node's name.
fn host_ports(pod: &Pod) -> impl Iterator<Item = HostPort<'_>> {
    let own = pod.host_network();
    let spec = pod.spec.iter();
    let containers =
        spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    containers.flat_map(|container| container.ports.iter().flatten()).filter_map(move |port| {
        let number = port.host_port.or(own.then_some(port.container_port)).filter(|n| *n > 0)?;
        let address = port.host_ip.as_deref().filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0");
        Some((address, port.protocol.as_deref().unwrap_or("TCP"), number))
    })
}

/// The address of all addresses meets every other.
fn overlap(a: HostPort<'_>, b: HostPort<'_>) -> bool {
    let address = a.0 == b.0 || [a.0, b.0].contains(&"0.0.0.0");
    address && (a.1, a.2) == (b.1, b.2)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(container: Value) -> Arc<Pod> {
        let spec = json!({"spec": {"containers": [container]}});
        Arc::new(serde_json::from_value(spec).unwrap())
    }

    fn check(container: Value, active: &[Value], expected: &str) {
        let active: Vec<Arc<Pod>> = active.iter().cloned().map(pod).collect();
        let allocatable = [("cpu", "2"), ("memory", "1Gi"), ("pods", "2")]
            .map(|(name, text)| (name.to_owned(), Quantity(text.to_owned())))
            .into();
        let got = admit(&pod(container), &active, &allocatable);
        let got = got.err().map_or_else(String::new, |r| format!("{}: {}", r.reason, r.message));
        assert_eq!(got, expected);
    }

    #[test]
    fn resources_must_suffice() {
        let one = json!({"name": "a", "resources": {"requests": {"cpu": "1500m"}}});
        check(one.clone(), &[], "");
        check(
            one.clone(),
            std::slice::from_ref(&one),
            "OutOfcpu: Node didn't have enough resource: cpu, requested: 1500, used: 1500, capacity: 2000",
        );
        check(
            json!({"name": "a", "resources": {"requests": {"memory": "2Gi"}}}),
            &[],
            "OutOfmemory: Node didn't have enough resource: memory, requested: 2147483648, used: 0, capacity: 1073741824",
        );
        let idle = json!({"name": "a"});
        check(
            idle.clone(),
            &[idle.clone(), idle],
            "OutOfpods: Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2",
        );
    }

    #[test]
    fn host_ports_must_be_free() {
        let on = |ip: &str, protocol: &str, port: i32| {
            json!({"name": "a", "ports": [
                {"containerPort": 80, "hostPort": port, "hostIP": ip, "protocol": protocol}
            ]})
        };
        let taken = "NodePorts: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        check(on("", "TCP", 80), &[on("127.0.0.1", "TCP", 80)], taken);
        check(on("127.0.0.2", "TCP", 80), &[on("127.0.0.1", "TCP", 80)], "");
        check(on("", "UDP", 80), &[on("", "TCP", 80)], "");
        check(json!({"name": "a", "ports": [{"containerPort": 80}]}), &[on("", "TCP", 80)], "");
    }
}
