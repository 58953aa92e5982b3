//! NodeUnschedulable, NodeName, TaintToleration and NodePorts.

use super::Prepared;
use crate::{
    cache::{Cache, NodeInfo, PodInfo},
    framework::{Rejection, normalise},
    types::{ContainerPort, Taint},
};

pub(crate) const NODE_UNSCHEDULABLE: &str = "NodeUnschedulable";
pub(crate) const NODE_NAME: &str = "NodeName";
pub(crate) const TAINT_TOLERATION: &str = "TaintToleration";
pub(crate) const NODE_PORTS: &str = "NodePorts";

pub(super) fn unschedulable(
    _: &Cache,
    _: &Prepared<'_>,
    info: &PodInfo,
    node: &NodeInfo,
) -> Option<Rejection> {
    let spec = &node.node.as_ref()?.spec;
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    };
    let refused = spec.unschedulable && !tolerated(info, &taint);
    refused.then(|| Rejection::unresolvable(NODE_UNSCHEDULABLE, "node(s) were unschedulable"))
}

/// A pod that names its node is never queued; this is for nominated and hand-made cases.
pub(super) fn name(
    _: &Cache,
    _: &Prepared<'_>,
    info: &PodInfo,
    node: &NodeInfo,
) -> Option<Rejection> {
    let wanted = &info.pod.spec.node_name;
    let refused = !wanted.is_empty() && *wanted != node.node.as_ref()?.metadata.name;
    let reason = "node(s) didn't match the requested node name";
    refused.then(|| Rejection::unresolvable(NODE_NAME, reason))
}

pub(super) fn taints(
    _: &Cache,
    _: &Prepared<'_>,
    info: &PodInfo,
    node: &NodeInfo,
) -> Option<Rejection> {
    let taint = node
        .node
        .as_ref()?
        .spec
        .taints
        .iter()
        .find(|taint| taint.effect != "PreferNoSchedule" && !tolerated(info, taint))?;
    let reason = format!("node(s) had untolerated taint {{{}: {}}}", taint.key, taint.value);
    Some(Rejection::unresolvable(TAINT_TOLERATION, &reason))
}

/// Fewer untolerated `PreferNoSchedule` taints are better.
pub(super) fn prefer_taints(
    _: &Cache,
    _: &Prepared<'_>,
    info: &PodInfo,
    nodes: &[&NodeInfo],
) -> Vec<i64> {
    let count = |node: &&NodeInfo| {
        let taints = node.node.iter().flat_map(|node| &node.spec.taints);
        let bad = taints.filter(|it| it.effect == "PreferNoSchedule" && !tolerated(info, it));
        i64::try_from(bad.count()).unwrap_or(i64::MAX)
    };
    normalise(nodes.iter().map(count).collect(), true)
}

pub(super) fn ports(
    _: &Cache,
    _: &Prepared<'_>,
    info: &PodInfo,
    node: &NodeInfo,
) -> Option<Rejection> {
    let taken = info.pod.host_ports().any(|wanted| {
        node.pods.values().flat_map(|it| it.pod.host_ports()).any(|used| clash(wanted, used))
    });
    let reason = "node(s) didn't have free ports for the requested pod ports";
    taken.then(|| Rejection::resolvable(NODE_PORTS, reason))
}

/// Same port and protocol, and the same address or one of them all addresses.
pub(crate) fn clash(a: &ContainerPort, b: &ContainerPort) -> bool {
    let every = |port: &ContainerPort| matches!(port.host_ip.as_str(), "" | "0.0.0.0" | "::");
    let protocol = |port: &ContainerPort| {
        if port.protocol.is_empty() { "TCP".to_owned() } else { port.protocol.clone() }
    };
    a.host_port == b.host_port
        && protocol(a) == protocol(b)
        && (every(a) || every(b) || a.host_ip == b.host_ip)
}

fn tolerated(info: &PodInfo, taint: &Taint) -> bool {
    info.pod.spec.tolerations.iter().any(|it| it.tolerates(taint))
}
