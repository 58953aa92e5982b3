//! PodTopologySpread: hard constraints filter, soft ones score. The counting is the index's.

use std::{collections::HashSet, sync::Arc};

use client::Labels;

use super::Prepared;
use crate::{
    cache::{Cache, NodeInfo, PodInfo},
    framework::{Rejection, SCORE_MAX},
    index::{ByValue, Domain, SpreadQuestion},
    profile::{Profile, SpreadDefaults},
    types::{LabelSelector, Requirement, SpreadConstraint},
};

pub(crate) const NAME: &str = "PodTopologySpread";
const MISMATCH: &str = "node(s) didn't match pod topology spread constraints";
const MISSING: &str =
    "node(s) didn't match pod topology spread constraints (missing required label)";
const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// The pod's constraints with what they count.
#[derive(Default)]
pub(crate) struct Counts {
    hard: Vec<Constraint>,
    soft: Vec<Constraint>,
    /// Whether nodes without all labels of soft constraints score nothing.
    soft_needs_all: bool,
}

struct Constraint {
    topology_key: String,
    max_skew: i64,
    domains: Arc<ByValue<Domain>>,
    /// What the pod itself adds to its domain.
    own: i64,
    /// Matching pods in the emptiest domain.
    least: i64,
}

impl Counts {
    pub(super) fn new(cache: &mut Cache, profile: &Profile, info: &PodInfo) -> Self {
        let given = &info.pod.spec.topology_spread_constraints;
        let defaults: Vec<SpreadConstraint>;
        let mut soft_needs_all = true;
        let constraints = if given.is_empty() {
            soft_needs_all = matches!(profile.args.spread, SpreadDefaults::List(_));
            defaults = default_constraints(cache, profile, info);
            &defaults
        } else {
            given
        };
        let (hard, soft): (Vec<_>, Vec<_>) =
            constraints.iter().partition(|it| it.when_unsatisfiable != "ScheduleAnyway");
        let keys = |of: &[&SpreadConstraint]| -> Vec<String> {
            of.iter().map(|it| it.topology_key.clone()).collect()
        };
        let (hard_keys, soft_keys) = (keys(&hard), keys(&soft));
        let mut count = |it: &SpreadConstraint, keys: &[String]| {
            let question = question(it, info, keys);
            let (index, nodes, _) = cache.indexed();
            let domains = index.domains(nodes, &question);
            let few =
                i64::try_from(domains.len()).unwrap_or(i64::MAX) < it.min_domains.unwrap_or(1);
            let least = if few { 0 } else { domains.values().map(|it| it.pods).min().unwrap_or(0) };
            let own = question.selector.as_ref();
            let own = own.is_some_and(|it| it.matches(&info.pod.metadata.labels));
            Constraint {
                topology_key: question.topology_key,
                max_skew: it.max_skew,
                domains,
                own: i64::from(own),
                least,
            }
        };
        let soft_keys = if soft_needs_all { soft_keys } else { Vec::new() };
        Counts {
            hard: hard.into_iter().map(|it| count(it, &hard_keys)).collect(),
            soft: soft.into_iter().map(|it| count(it, &soft_keys)).collect(),
            soft_needs_all,
        }
    }
}

/// A constraint as this pod means it.
pub(crate) fn question(
    constraint: &SpreadConstraint,
    info: &PodInfo,
    keys: &[String],
) -> SpreadQuestion {
    let pod = &info.pod;
    let honours = |policy: &Option<String>, default: bool| {
        policy.as_ref().map_or(default, |it| it == "Honor")
    };
    let mut selector = constraint.label_selector.clone();
    if let Some(selector) = &mut selector {
        for key in &constraint.match_label_keys {
            let Some(value) = pod.metadata.labels.get(key) else { continue };
            selector.match_expressions.push(Requirement {
                key: key.clone(),
                operator: "In".into(),
                values: vec![value.clone()],
            });
        }
    }
    let required = || {
        let affinity = pod.spec.affinity.as_ref().and_then(|it| it.node_affinity.as_ref());
        affinity.and_then(|it| it.required.clone())
    };
    SpreadQuestion {
        namespace: pod.metadata.namespace.clone(),
        selector,
        topology_key: constraint.topology_key.clone(),
        keys: keys.to_vec(),
        affinity: honours(&constraint.node_affinity_policy, true)
            .then(|| (pod.spec.node_selector.clone(), required())),
        tolerations: honours(&constraint.node_taints_policy, false)
            .then(|| pod.spec.tolerations.clone()),
    }
}

/// Constraints of a pod that has none: over what its Services and its owner select.
fn default_constraints(cache: &Cache, profile: &Profile, info: &PodInfo) -> Vec<SpreadConstraint> {
    let soft = |key: &str, max_skew| SpreadConstraint {
        topology_key: key.into(),
        max_skew,
        when_unsatisfiable: "ScheduleAnyway".into(),
        ..SpreadConstraint::default()
    };
    let mut constraints = match &profile.args.spread {
        SpreadDefaults::List(list) => list.clone(),
        SpreadDefaults::System => vec![soft(HOSTNAME, 3), soft(ZONE, 5)],
    };
    if constraints.is_empty() {
        return constraints;
    }
    let Some(selector) = cache.owners.selector(&info.pod) else { return Vec::new() };
    constraints.iter_mut().for_each(|it| it.label_selector = Some(selector.clone()));
    constraints
}

pub(super) fn filter(
    _: &Cache,
    prepared: &Prepared<'_>,
    _: &PodInfo,
    node: &NodeInfo,
) -> Option<Rejection> {
    let labels = node.labels()?;
    for constraint in &prepared.spread.hard {
        let Some(value) = labels.get(&constraint.topology_key) else {
            return Some(Rejection::unresolvable(NAME, MISSING));
        };
        let here = constraint.domains.get(value).map_or(0, |it| it.pods);
        if here + constraint.own - constraint.least > constraint.max_skew {
            return Some(Rejection::resolvable(NAME, MISMATCH));
        }
    }
    None
}

/// Fewer matching pods in the node's domains is better, the more so the more domains there are.
pub(super) fn score(
    _: &Cache,
    prepared: &Prepared<'_>,
    _: &PodInfo,
    nodes: &[&NodeInfo],
) -> Vec<i64> {
    let (soft, all) = (&prepared.spread.soft, prepared.spread.soft_needs_all);
    if soft.is_empty() {
        return vec![0; nodes.len()];
    }
    let counts =
        |labels: &Labels| !all || soft.iter().all(|it| labels.contains_key(&it.topology_key));
    let labels: Vec<Option<&Labels>> =
        nodes.iter().map(|node| node.labels().filter(|it| counts(it))).collect();
    let weights: Vec<f64> = soft
        .iter()
        .map(|it| {
            let known = labels.iter().flatten();
            let size = if it.topology_key == HOSTNAME {
                known.count()
            } else {
                known.filter_map(|it2| it2.get(&it.topology_key)).collect::<HashSet<_>>().len()
            };
            (size as f64 + 2.0).ln()
        })
        .collect();
    let raw: Vec<Option<i64>> = labels
        .iter()
        .map(|labels| {
            let labels = (*labels)?;
            let sum: f64 = soft
                .iter()
                .zip(&weights)
                .filter_map(|(it, weight)| {
                    let pods =
                        it.domains.get(labels.get(&it.topology_key)?).map_or(0, |it| it.pods);
                    Some(pods as f64 * weight + (it.max_skew - 1) as f64)
                })
                .sum();
            Some(sum.round() as i64)
        })
        .collect();
    let known = || raw.iter().flatten().copied();
    let (least, most) = (known().min().unwrap_or(0), known().max().unwrap_or(0));
    let scale = |value: i64| {
        if most == 0 { SCORE_MAX } else { SCORE_MAX * (most + least - value) / most }
    };
    raw.iter().map(|value| value.map_or(0, scale)).collect()
}

/// What selects pods: Services, and the controllers that own pods.
#[derive(Default)]
pub(crate) struct Owners {
    pub(crate) services: client::Lister<crate::types::MapSelecting>,
    pub(crate) replication_controllers: client::Lister<crate::types::MapSelecting>,
    pub(crate) replica_sets: client::Lister<crate::types::Selecting>,
    pub(crate) stateful_sets: client::Lister<crate::types::Selecting>,
}

impl std::fmt::Debug for Owners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Owners").finish_non_exhaustive()
    }
}

impl Owners {
    /// What a pod's Services and its controller select; `None` when that is nothing in particular.
    fn selector(&self, pod: &crate::types::Pod) -> Option<LabelSelector> {
        let meta = &pod.metadata;
        let mut selector = LabelSelector::default();
        for service in self.services.namespaced(&meta.namespace) {
            let wanted = &service.spec.selector;
            if !wanted.is_empty()
                && wanted.iter().all(|(key, value)| meta.labels.get(key) == Some(value))
            {
                selector.match_labels.extend(wanted.clone());
            }
        }
        if let Some(owner) = meta.controller() {
            let key = client::Key::new(&meta.namespace, &owner.name);
            let set = match owner.kind.as_str() {
                "ReplicaSet" => self.replica_sets.get(&key),
                "StatefulSet" => self.stateful_sets.get(&key),
                _ => None,
            };
            if let Some(set) = set.and_then(|it| it.spec.selector.clone()) {
                selector.match_labels.extend(set.match_labels);
                selector.match_expressions.extend(set.match_expressions);
            }
            if owner.kind == "ReplicationController"
                && let Some(it) = self.replication_controllers.get(&key)
            {
                selector.match_labels.extend(it.spec.selector.clone());
            }
        }
        (!selector.is_empty()).then_some(selector)
    }
}
