//! PodTopologySpread: hard constraints filter, soft ones score.

use std::collections::HashMap;

use super::Prepared;
use crate::{
    cache::{Cache, NodeInfo, PodInfo},
    framework::{Rejection, SCORE_MAX},
    types::SpreadConstraint,
};

pub(crate) const NAME: &str = "PodTopologySpread";
const MISMATCH: &str = "node(s) didn't match pod topology spread constraints";
const MISSING: &str =
    "node(s) didn't match pod topology spread constraints (missing required label)";

/// Matching pods by topology value, for each constraint of the pod.
pub(crate) struct Counts<'a> {
    hard: Vec<(&'a SpreadConstraint, HashMap<String, i64>)>,
    soft: Vec<(&'a SpreadConstraint, HashMap<String, i64>)>,
}

impl<'a> Counts<'a> {
    pub(super) fn new(cache: &Cache, info: &'a PodInfo) -> Self {
        let constraints = &info.pod.spec.topology_spread_constraints;
        let (hard, soft): (Vec<_>, Vec<_>) =
            constraints.iter().partition(|it| it.when_unsatisfiable != "ScheduleAnyway");
        let count = |constraints: Vec<&'a SpreadConstraint>| {
            let keys: Vec<&str> = constraints.iter().map(|it| it.topology_key.as_str()).collect();
            constraints.iter().map(|it| (*it, domains(cache, info, it, &keys))).collect()
        };
        Counts { hard: count(hard), soft: count(soft) }
    }
}

/// Every eligible domain with its matching pods.
fn domains(
    cache: &Cache,
    info: &PodInfo,
    constraint: &SpreadConstraint,
    keys: &[&str],
) -> HashMap<String, i64> {
    let mut domains = HashMap::new();
    for node in cache.nodes.values() {
        let Some(labels) = node.labels() else { continue };
        if !keys.iter().all(|key| labels.contains_key(*key)) || !eligible(constraint, info, node) {
            continue;
        }
        let Some(value) = labels.get(&constraint.topology_key) else { continue };
        *domains.entry(value.clone()).or_insert(0) += matching(constraint, info, node);
    }
    domains
}

/// Whether the constraint's policies let this node count.
fn eligible(constraint: &SpreadConstraint, info: &PodInfo, node: &NodeInfo) -> bool {
    let Some(object) = &node.node else { return false };
    let honours = |policy: &Option<String>, default: bool| {
        policy.as_ref().map_or(default, |it| it == "Honor")
    };
    if honours(&constraint.node_affinity_policy, true)
        && !super::node_affinity::matches(&info.pod, object)
    {
        return false;
    }
    if honours(&constraint.node_taints_policy, false) {
        let tolerations = &info.pod.spec.tolerations;
        let hard = object.spec.taints.iter().filter(|it| it.effect != "PreferNoSchedule");
        return hard.into_iter().all(|taint| tolerations.iter().any(|it| it.tolerates(taint)));
    }
    true
}

fn matching(constraint: &SpreadConstraint, info: &PodInfo, node: &NodeInfo) -> i64 {
    let Some(selector) = &constraint.label_selector else { return 0 };
    let own = &info.pod.metadata;
    let count = node.pods.values().filter(|other| {
        let meta = &other.pod.metadata;
        meta.namespace == own.namespace
            && !meta.is_deleting()
            && selector.matches(&meta.labels)
            && constraint
                .match_label_keys
                .iter()
                .all(|key| own.labels.get(key).is_none_or(|it| meta.labels.get(key) == Some(it)))
    });
    i64::try_from(count.count()).unwrap_or(i64::MAX)
}

pub(super) fn filter(
    _: &Cache,
    prepared: &Prepared<'_>,
    info: &PodInfo,
    node: &NodeInfo,
) -> Option<Rejection> {
    let labels = node.labels()?;
    for (constraint, domains) in &prepared.spread.hard {
        let Some(value) = labels.get(&constraint.topology_key) else {
            return Some(Rejection::unresolvable(NAME, MISSING));
        };
        let own = constraint
            .label_selector
            .as_ref()
            .is_some_and(|selector| selector.matches(&info.pod.metadata.labels));
        let few =
            i64::try_from(domains.len()).unwrap_or(i64::MAX) < constraint.min_domains.unwrap_or(1);
        let least = if few { 0 } else { domains.values().min().copied().unwrap_or(0) };
        let here = domains.get(value).copied().unwrap_or(0);
        if here + i64::from(own) - least > constraint.max_skew {
            return Some(Rejection::resolvable(NAME, MISMATCH));
        }
    }
    None
}

/// Fewer matching pods in the node's domains is better; nodes without the label score nothing.
pub(super) fn score(
    _: &Cache,
    prepared: &Prepared<'_>,
    _: &PodInfo,
    nodes: &[&NodeInfo],
) -> Vec<i64> {
    if prepared.spread.soft.is_empty() {
        return vec![0; nodes.len()];
    }
    let raw: Vec<Option<i64>> = nodes
        .iter()
        .map(|node| {
            let labels = node.labels()?;
            let mut sum = 0;
            for (constraint, domains) in &prepared.spread.soft {
                let value = labels.get(&constraint.topology_key)?;
                sum += domains.get(value).copied().unwrap_or(0) + constraint.max_skew - 1;
            }
            Some(sum)
        })
        .collect();
    let known = || raw.iter().flatten().copied();
    let (least, most) = (known().min().unwrap_or(0), known().max().unwrap_or(0));
    let scale = |value: i64| {
        if most == 0 { SCORE_MAX } else { SCORE_MAX * (most + least - value) / most }
    };
    raw.iter().map(|value| value.map_or(0, scale)).collect()
}
