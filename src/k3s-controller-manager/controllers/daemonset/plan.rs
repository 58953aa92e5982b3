//! On which nodes a DaemonSet has pods, and which pods are replaced next. Pure.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    revisions::HASH,
    types::{
        Requirement,
        apps::{DaemonSet, DaemonSetStatus},
        core::{Node, Pod, Taint, Toleration},
    },
};

/// Taints that daemon pods tolerate whatever their template says.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
const NETWORK_UNAVAILABLE: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// Failed pods, which are deleted with an event of their own.
    pub(super) failed: Vec<Arc<Pod>>,
    pub(super) status: DaemonSetStatus,
}

/// Whether a pod of the template may start, and may stay, on the node.
fn fits(template: &Value, node: &Node) -> (bool, bool) {
    let spec = &template["spec"];
    let labels = &node.metadata.labels;
    let name = &node.metadata.name;
    if spec["nodeName"].as_str().is_some_and(|it| !it.is_empty() && it != name) {
        return (false, false);
    }
    let selected = spec["nodeSelector"].as_object().is_none_or(|selector| {
        selector.iter().all(|(key, value)| labels.get(key).map(String::as_str) == value.as_str())
    });
    let required = spec.pointer(
        "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms",
    );
    let affine = required
        .and_then(Value::as_array)
        .is_none_or(|terms| terms.iter().any(|term| term_matches(term, node)));
    if !selected || !affine {
        return (false, false);
    }
    let tolerations = tolerations(spec);
    let tolerated = |taint: &Taint| tolerations.iter().any(|it| it.tolerates(taint));
    let hard = |effects: &[&str]| {
        node.spec.taints.iter().any(|it| effects.contains(&it.effect.as_str()) && !tolerated(it))
    };
    (!hard(&["NoSchedule", "NoExecute"]), !hard(&["NoExecute"]))
}

fn term_matches(term: &Value, node: &Node) -> bool {
    let parse = |field: &str| -> Vec<Requirement> {
        serde_json::from_value(term[field].clone()).unwrap_or_default()
    };
    let (expressions, fields) = (parse("matchExpressions"), parse("matchFields"));
    let name = [("metadata.name".to_owned(), node.metadata.name.clone())].into();
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|it| it.matches(&node.metadata.labels))
        && fields.iter().all(|it| it.matches(&name))
}

/// The template's tolerations and those of every daemon.
fn tolerations(spec: &Value) -> Vec<Toleration> {
    let mut all: Vec<Toleration> =
        serde_json::from_value(spec["tolerations"].clone()).unwrap_or_default();
    let network = (spec["hostNetwork"] == json!(true)).then_some(NETWORK_UNAVAILABLE);
    for (key, effect) in TOLERATED.into_iter().chain(network) {
        all.push(Toleration {
            key: key.into(),
            operator: "Exists".into(),
            effect: effect.into(),
            ..Toleration::default()
        });
    }
    all
}

/// The pod for a node: pinned to it by affinity, tolerant as daemons are.
pub(super) fn body(mut pod: Value, node: &str, hash: &str) -> Value {
    pod["metadata"]["labels"][HASH] = json!(hash);
    let network = (pod["spec"]["hostNetwork"] == json!(true)).then_some(NETWORK_UNAVAILABLE);
    let mut tolerations = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
    for (key, effect) in TOLERATED.into_iter().chain(network) {
        let toleration = json!({"key": key, "operator": "Exists", "effect": effect});
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    pod["spec"]["tolerations"] = json!(tolerations);
    pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = json!({
        "nodeSelectorTerms": [{
            "matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}],
        }],
    });
    pod
}

/// Decides about a DaemonSet. `target` says for which node an unscheduled pod is meant.
pub(super) fn plan(
    set: &DaemonSet,
    template: &Value,
    hash: &str,
    nodes: &[Arc<Node>],
    pods: &[Arc<Pod>],
    target: impl Fn(&Pod) -> Option<String>,
    now: Timestamp,
) -> Plan {
    let mut by_node: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
    for pod in pods {
        if let Some(node) = target(pod) {
            by_node.entry(node).or_default().push(Arc::clone(pod));
        }
    }
    let mut plan = Plan::default();
    let mut status = DaemonSetStatus {
        observed_generation: set.metadata.generation,
        collision_count: set.status.collision_count,
        ..DaemonSetStatus::default()
    };
    let mut wanted = 0;
    let mut outdated = Vec::new();
    for node in nodes {
        let name = &node.metadata.name;
        let (start, stay) = fits(template, node);
        let mut here = by_node.remove(name).unwrap_or_default();
        let (failed, rest): (Vec<_>, Vec<_>) = here
            .drain(..)
            .partition(|pod| pod.status.phase == "Failed" && !pod.metadata.is_deleting());
        let mut live: Vec<Arc<Pod>> =
            rest.into_iter().filter(|it| !it.metadata.is_deleting()).collect();
        let leaving =
            pods.iter().any(|pod| pod.metadata.is_deleting() && target(pod).as_ref() == Some(name));
        let surging = surge(set, nodes.len()) > 0;
        live.sort_by_key(|pod| {
            (!surging && !pod.is_ready(), pod.metadata.created(), pod.metadata.name.clone())
        });
        let remains = stay && !live.is_empty();
        if !start && !remains {
            status.number_misscheduled += i32::from(!live.is_empty());
            plan.delete.extend(live);
            plan.failed.extend(failed);
            continue;
        }
        plan.failed.extend(failed.iter().cloned());
        wanted += 1;
        status.desired_number_scheduled += 1;
        let counted = live.first().cloned();
        let new = live.iter().find(|it| is_updated(it, hash)).cloned();
        let old = live.iter().find(|it| !is_updated(it, hash)).cloned();
        // Surging, one of each revision may be here; otherwise one altogether.
        let kept = |pod: &Arc<Pod>| {
            let is = |it: &Option<Arc<Pod>>| it.as_ref().is_some_and(|it| Arc::ptr_eq(it, pod));
            if surging { is(&new) || is(&old) } else { is(&counted) }
        };
        plan.delete.extend(live.iter().filter(|it| !kept(it)).cloned());
        let Some(pod) = counted else {
            // The place of a pod that is still ending is taken when it is gone.
            if start && !leaving && failed.is_empty() {
                plan.create.push(name.clone());
            }
            continue;
        };
        status.current_number_scheduled += 1;
        status.number_ready += i32::from(pod.is_ready());
        status.number_available += i32::from(pod.is_available(set.spec.min_ready_seconds, now));
        status.updated_number_scheduled += i32::from(is_updated(&pod, hash));
        if surging && let Some(old) = old {
            outdated.push(Outdated { node: name.clone(), old, new });
        } else if !surging && !is_updated(&pod, hash) {
            outdated.push(Outdated { node: name.clone(), old: pod, new: None });
        }
    }
    // Pods of nodes that are gone are the pod collector's.
    status.number_unavailable = status.desired_number_scheduled - status.number_available;
    if set.spec.update_strategy.kind != "OnDelete" {
        let surge = surge(set, wanted);
        if surge > 0 {
            roll_surging(set, surge, outdated, &mut plan, now);
        } else {
            roll(set, &status, outdated, &mut plan, now);
        }
    }
    plan.status = status;
    plan
}

/// A node whose pod is of another revision, and the updated pod beside it when surging.
struct Outdated {
    node: String,
    old: Arc<Pod>,
    new: Option<Arc<Pod>>,
}

fn is_updated(pod: &Pod, hash: &str) -> bool {
    pod.metadata.labels.get(HASH).is_some_and(|it| it == hash)
}

/// On how many nodes an updated pod may run beside the old one.
fn surge(set: &DaemonSet, nodes: usize) -> usize {
    let rolling = set.spec.update_strategy.rolling_update.as_ref();
    let most = rolling
        .filter(|_| set.spec.update_strategy.kind != "OnDelete")
        .and_then(|it| it.max_surge.as_ref())
        .map_or(0, |it| it.scaled(i32::try_from(nodes).unwrap_or(i32::MAX), true));
    usize::try_from(most).unwrap_or(0)
}

/// Outdated pods go as far as maxUnavailable allows; those that are unavailable go anyhow.
fn roll(
    set: &DaemonSet,
    status: &DaemonSetStatus,
    outdated: Vec<Outdated>,
    plan: &mut Plan,
    now: Timestamp,
) {
    let rolling = set.spec.update_strategy.rolling_update.as_ref();
    let most = rolling
        .and_then(|it| it.max_unavailable.as_ref())
        .map_or(1, |it| it.scaled(status.desired_number_scheduled, true))
        .max(1);
    let mut room = most - status.number_unavailable;
    for Outdated { old: pod, .. } in outdated {
        if !pod.is_available(set.spec.min_ready_seconds, now) {
            plan.delete.push(pod);
        } else if room > 0 {
            room -= 1;
            plan.delete.push(pod);
        }
    }
}

/// Updated pods come beside outdated ones, on at most `surge` nodes at a time (where the old pod is
/// not available anyhow, always); the old one goes when the new one is available.
fn roll_surging(
    set: &DaemonSet,
    surge: usize,
    outdated: Vec<Outdated>,
    plan: &mut Plan,
    now: Timestamp,
) {
    let available = |pod: &Pod| pod.is_available(set.spec.min_ready_seconds, now);
    let mut surged = 0;
    let mut candidates = Vec::new();
    for Outdated { node, old, new } in outdated {
        match new {
            Some(new) if available(&new) || !old.is_ready() => plan.delete.push(old),
            Some(_) => surged += 1,
            None if available(&old) => candidates.push(node),
            None => plan.create.push(node),
        }
    }
    plan.create.extend(candidates.into_iter().take(surge.saturating_sub(surged)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Condition;

    fn node(name: &str, taint: Option<&str>) -> Arc<Node> {
        let mut node = Node::default();
        node.metadata.name = name.into();
        node.metadata.labels.insert("color".into(), name.into());
        node.spec.taints = taint
            .map(|key| Taint { key: key.into(), effect: "NoSchedule".into(), ..Taint::default() })
            .into_iter()
            .collect();
        Arc::new(node)
    }

    fn pod(name: &str, node: &str, hash: &str, ready: bool) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.name = name.into();
        pod.metadata.labels.insert(HASH.into(), hash.into());
        pod.spec.node_name = node.into();
        let status = if ready { "True" } else { "False" };
        pod.status.conditions.push(Condition::new("Ready", status, "", ""));
        Arc::new(pod)
    }

    fn check(
        template: &Value,
        nodes: &[Arc<Node>],
        pods: &[Arc<Pod>],
        create: &[&str],
        delete: &[&str],
    ) {
        let set = DaemonSet::default();
        let target = |pod: &Pod| Some(pod.spec.node_name.clone());
        let found = plan(&set, template, "h", nodes, pods, target, Timestamp::UNIX_EPOCH);
        assert_eq!(found.create, create);
        let names: Vec<&str> = found.delete.iter().map(|it| it.metadata.name.as_str()).collect();
        assert_eq!(names, delete);
    }

    #[test]
    fn every_fitting_node_gets_one_pod() {
        let any = json!({"spec": {}});
        let nodes = [
            node("a", None),
            node("b", Some("mine")),
            node("c", Some("node.kubernetes.io/unschedulable")),
        ];
        check(&any, &nodes, &[], &["a", "c"], &[]);
        check(&any, &nodes, &[pod("x", "a", "h", true), pod("y", "a", "h", false)], &["c"], &["y"]);
        let picky = json!({"spec": {"nodeSelector": {"color": "a"}}});
        check(&picky, &nodes, &[pod("x", "c", "h", true)], &["a"], &["x"]);
    }

    #[test]
    fn updates_take_one_available_pod_at_a_time() {
        let any = json!({"spec": {}});
        let nodes = [node("a", None), node("b", None)];
        check(&any, &nodes, &[pod("x", "a", "old", true), pod("y", "b", "old", true)], &[], &["x"]);
        check(&any, &nodes, &[pod("x", "a", "h", false), pod("y", "b", "old", true)], &[], &[]);
        check(
            &any,
            &nodes,
            &[pod("x", "a", "old", false), pod("y", "b", "old", true)],
            &[],
            &["x"],
        );
    }

    #[test]
    fn a_surging_update_adds_before_it_takes_away() {
        let any = json!({"spec": {}});
        let nodes = [node("a", None), node("b", None), node("c", None)];
        let check = |pods: &[Arc<Pod>], create: &[&str], delete: &[&str]| {
            let set: DaemonSet = serde_json::from_value(json!({"spec": {"updateStrategy": {
                "type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}}))
            .unwrap();
            let target = |pod: &Pod| Some(pod.spec.node_name.clone());
            let found = plan(&set, &any, "h", &nodes, pods, target, Timestamp::UNIX_EPOCH);
            let gone: Vec<&str> = found.delete.iter().map(|it| it.metadata.name.as_str()).collect();
            assert_eq!(
                (found.create, gone.as_slice()),
                (create.iter().map(|it| (*it).to_owned()).collect(), delete)
            );
        };
        let old = |name: &str, ready| pod(name, name, "old", ready);
        check(&[old("a", true), old("b", true), old("c", true)], &["a"], &[]);
        check(&[old("a", true), old("b", false), old("c", true)], &["b", "a"], &[]);
        let half = pod("n", "a", "h", false);
        check(&[old("a", true), half, old("b", true), old("c", true)], &[], &[]);
        let done = pod("n", "a", "h", true);
        check(&[old("a", true), done, old("b", true), old("c", true)], &["b"], &["a"]);
    }
}
