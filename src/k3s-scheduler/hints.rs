//! Queueing hints: whether a change in the cluster may overturn what a plugin said about a pod, so
//! that a pod that waits is tried again for a reason only.
//!
//! Invariant: a wrong "no" would leave a pod waiting, so whatever is not understood is a "maybe".

use std::sync::Arc;

use client::Key;

use crate::{
    extender,
    index::{Namespaces, PodStatements},
    plugins::{
        self, DYNAMIC_RESOURCES, FIT, INTER_POD_AFFINITY, NODE_AFFINITY, NODE_NAME, NODE_PORTS,
        NODE_UNSCHEDULABLE, NODE_VOLUME_LIMITS, POD_TOPOLOGY_SPREAD, TAINT_TOLERATION,
        VOLUME_BINDING, VOLUME_RESTRICTIONS, VOLUME_ZONE, node_affinity,
    },
    resources::Resources,
    types::{Node, Pod, Taint},
};

/// A change in the cluster.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    NodeAdded(Arc<Node>),
    NodeUpdated {
        old: Arc<Node>,
        new: Arc<Node>,
    },
    NodeGone,
    /// A pod got a node, or other labels.
    PodPlaced(Arc<Pod>),
    PodGone(Arc<Pod>),
    Claim(Key),
    /// A claim of devices, classes, or the devices that there are.
    Devices,
    /// Volumes, classes, or what nodes can attach.
    Storage,
}

/// Whether the change may make a plugin say something else about a waiting pod.
pub(crate) fn helps(plugin: &str, change: &Change, pod: &Pod, namespaces: &Namespaces) -> bool {
    if plugin == extender::NAME {
        // What moves an extender, only it knows.
        return true;
    }
    match change {
        Change::NodeAdded(node) => node_helps(plugin, None, node, pod),
        Change::NodeUpdated { old, new } => node_helps(plugin, Some(old), new, pod),
        // A domain less may even out the others.
        Change::NodeGone => plugin == POD_TOPOLOGY_SPREAD,
        Change::PodPlaced(other) => match plugin {
            INTER_POD_AFFINITY => {
                let terms = PodStatements::of(pod);
                terms.required.iter().any(|it| it.matches(namespaces, other))
            }
            POD_TOPOLOGY_SPREAD => spreads_over(pod, other),
            _ => false,
        },
        Change::PodGone(other) => pod_gone(plugin, pod, other, namespaces),
        Change::Claim(key) => match plugin {
            VOLUME_BINDING | VOLUME_ZONE | VOLUME_RESTRICTIONS => claims(pod).any(|it| it == *key),
            NODE_VOLUME_LIMITS => true,
            _ => false,
        },
        Change::Devices => plugin == DYNAMIC_RESOURCES,
        Change::Storage => matches!(
            plugin,
            VOLUME_BINDING | VOLUME_ZONE | VOLUME_RESTRICTIONS | NODE_VOLUME_LIMITS
        ),
    }
}

fn node_helps(plugin: &str, old: Option<&Arc<Node>>, new: &Node, pod: &Pod) -> bool {
    // It did not hold of the node before, and does now.
    let now_only = |holds: &dyn Fn(&Node) -> bool| holds(new) && !old.is_some_and(|it| holds(it));
    let relabelled = old.is_none_or(|old| old.metadata.labels != new.metadata.labels);
    match plugin {
        FIT => more_room(old, new, pod),
        NODE_AFFINITY => now_only(&|node| node_affinity::matches(pod, node)),
        NODE_NAME => old.is_none() && new.metadata.name == pod.spec.node_name,
        NODE_UNSCHEDULABLE => now_only(&|node| !node.spec.unschedulable),
        TAINT_TOLERATION => now_only(&|node| tolerates(pod, node)),
        POD_TOPOLOGY_SPREAD => {
            relabelled || old.is_none_or(|old| old.spec.taints != new.spec.taints)
        }
        INTER_POD_AFFINITY | VOLUME_BINDING | VOLUME_ZONE | DYNAMIC_RESOURCES => relabelled,
        NODE_PORTS | VOLUME_RESTRICTIONS | NODE_VOLUME_LIMITS => old.is_none(),
        _ => true,
    }
}

/// Whether the node has more of what the pod asks for, and enough of it if it were empty.
fn more_room(old: Option<&Arc<Node>>, new: &Node, pod: &Pod) -> bool {
    let want = pod.requests(Resources::parse);
    let have = Resources::parse(&new.status.allocatable);
    let names = want.names();
    if have.pods < 1 || names.iter().any(|it| have.get(it) < want.get(it)) {
        return false;
    }
    let Some(old) = old else { return true };
    let had = Resources::parse(&old.status.allocatable);
    have.pods > had.pods || names.iter().any(|it| have.get(it) > had.get(it))
}

fn tolerates(pod: &Pod, node: &Node) -> bool {
    let hard = |it: &&Taint| it.effect != "PreferNoSchedule";
    let mut taints = node.spec.taints.iter().filter(hard);
    taints.all(|taint| pod.spec.tolerations.iter().any(|it| it.tolerates(taint)))
}

fn pod_gone(plugin: &str, pod: &Pod, other: &Pod, namespaces: &Namespaces) -> bool {
    match plugin {
        FIT => true,
        NODE_PORTS => {
            pod.host_ports().any(|it| other.host_ports().any(|used| plugins::ports_clash(it, used)))
        }
        INTER_POD_AFFINITY => {
            let (own, theirs) = (PodStatements::of(pod), PodStatements::of(other));
            let about = |terms: &PodStatements, pod: &Pod| {
                terms.apart.iter().flat_map(|it| it.iter()).any(|it| it.matches(namespaces, pod))
            };
            about(&own, other) || about(&theirs, pod)
        }
        POD_TOPOLOGY_SPREAD => spreads_over(pod, other),
        VOLUME_RESTRICTIONS | NODE_VOLUME_LIMITS => !other.spec.volumes.is_empty(),
        _ => false,
    }
}

/// Whether one of the pod's spread constraints counts the other. Constraints that a profile adds
/// are not known here, but those are soft unless somebody says otherwise.
fn spreads_over(pod: &Pod, other: &Pod) -> bool {
    let constraints = &pod.spec.topology_spread_constraints;
    pod.metadata.namespace == other.metadata.namespace
        && (constraints.is_empty()
            || constraints.iter().any(|it| {
                let selector = it.label_selector.as_ref();
                selector.is_some_and(|it| it.matches(&other.metadata.labels))
            }))
}

fn claims(pod: &Pod) -> impl Iterator<Item = Key> {
    let meta = &pod.metadata;
    let names = pod.spec.volumes.iter().filter_map(|it| it.claim_name(&meta.name));
    names.map(|name| Key::new(&meta.namespace, &name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framework::tests::{node, pod};

    fn check(plugin: &str, spec: &str, change: Change, want: bool) {
        let found = helps(plugin, &change, &pod("waits", spec), &Namespaces::new());
        assert_eq!(found, want, "{plugin} {spec} {change:?}");
    }

    fn updated(old: &str, new: &str) -> Change {
        Change::NodeUpdated { old: node("a", old), new: node("a", new) }
    }

    #[test]
    fn nodes_help_those_who_asked_for_what_they_have() {
        let wants = |cpu: &str| {
            format!(r#""containers":[{{"resources":{{"requests":{{"cpu":"{cpu}"}}}}}}]"#)
        };
        check(FIT, &wants("1"), Change::NodeAdded(node("a", "")), true);
        check(FIT, &wants("3"), Change::NodeAdded(node("a", "")), false);
        check(FIT, &wants("1"), updated("", ""), false);
        let less = r#","spec":{"unschedulable":true}"#;
        check(NODE_UNSCHEDULABLE, "", updated(less, ""), true);
        check(NODE_UNSCHEDULABLE, "", updated("", less), false);
        let tainted = r#","spec":{"taints":[{"key":"k","effect":"NoSchedule"}]}"#;
        check(TAINT_TOLERATION, "", updated(tainted, ""), true);
        check(TAINT_TOLERATION, "", updated("", tainted), false);
        check(TAINT_TOLERATION, "", Change::NodeAdded(node("a", tainted)), false);
        let there = r#""nodeSelector":{"zone":"a"}"#;
        check(NODE_AFFINITY, there, Change::NodeAdded(node("a", "")), true);
        check(NODE_AFFINITY, there, Change::NodeAdded(node("b", "")), false);
        check(NODE_PORTS, "", updated("", ""), false);
    }

    #[test]
    fn pods_help_those_who_were_about_them() {
        let term = |kind: &str, app: &str| {
            format!(
                r#""affinity":{{"{kind}":{{"requiredDuringSchedulingIgnoredDuringExecution":[
                {{"topologyKey":"zone","labelSelector":{{"matchLabels":{{"app":"{app}"}}}}}}]}}}}"#
            )
        };
        let other = || pod("other", "");
        check(INTER_POD_AFFINITY, &term("podAffinity", "a"), Change::PodPlaced(other()), true);
        check(INTER_POD_AFFINITY, &term("podAffinity", "b"), Change::PodPlaced(other()), false);
        check(INTER_POD_AFFINITY, &term("podAntiAffinity", "a"), Change::PodGone(other()), true);
        check(INTER_POD_AFFINITY, &term("podAntiAffinity", "b"), Change::PodGone(other()), false);
        let shy = pod("shy", &term("podAntiAffinity", "a"));
        check(INTER_POD_AFFINITY, "", Change::PodGone(shy), true);
        let port = |number: u16| {
            format!(r#""containers":[{{"ports":[{{"hostPort":{number},"protocol":"TCP"}}]}}]"#)
        };
        check(NODE_PORTS, &port(80), Change::PodGone(pod("p", &port(80))), true);
        check(NODE_PORTS, &port(80), Change::PodGone(pod("p", &port(81))), false);
        check(FIT, "", Change::PodGone(other()), true);
        check(FIT, "", Change::PodPlaced(other()), false);
        let volume = r#""volumes":[{"name":"v","persistentVolumeClaim":{"claimName":"c"}}]"#;
        check(VOLUME_BINDING, volume, Change::Claim(Key::new("default", "c")), true);
        check(VOLUME_BINDING, volume, Change::Claim(Key::new("default", "d")), false);
        check(FIT, volume, Change::Storage, false);
        check(extender::NAME, "", Change::Storage, true);
    }
}
