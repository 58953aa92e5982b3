//! The plugins, under upstream's names and with its default weights, in the order of filtering.
//!
//! A plugin is functions over the cache: `filter` says why a node is impossible, `score` compares
//! feasible nodes. What takes a look at all pods is worked out once per decision, in [`Prepared`].

pub(crate) mod dynamic_resources;
mod image_locality;
pub(crate) mod inter_pod_affinity;
pub(crate) mod node_affinity;
mod node_basics;
pub(crate) mod node_resources;
pub(crate) mod topology_spread;
mod volume_binding;
mod volume_rules;

use crate::{
    cache::{Cache, NodeInfo, PodInfo},
    framework::Rejection,
    profile::Profile,
};

/// Why a node is impossible.
pub(crate) type Filter = fn(&Cache, &Prepared<'_>, &PodInfo, &NodeInfo) -> Option<Rejection>;
/// Compares feasible nodes.
pub(crate) type Score = fn(&Cache, &Prepared<'_>, &PodInfo, &[&NodeInfo]) -> Vec<i64>;

pub(crate) use self::{
    dynamic_resources::NAME as DYNAMIC_RESOURCES, dynamic_resources::PodClaims,
    inter_pod_affinity::NAME as INTER_POD_AFFINITY, node_affinity::NAME as NODE_AFFINITY,
    node_basics::NODE_NAME, node_basics::NODE_PORTS, node_basics::NODE_UNSCHEDULABLE,
    node_basics::TAINT_TOLERATION, node_basics::clash as ports_clash, node_resources::FIT,
    topology_spread::NAME as POD_TOPOLOGY_SPREAD, volume_binding::Binding,
    volume_binding::NAME as VOLUME_BINDING, volume_binding::PodVolumes,
    volume_rules::LIMITS as NODE_VOLUME_LIMITS, volume_rules::RESTRICTIONS as VOLUME_RESTRICTIONS,
    volume_rules::ZONE as VOLUME_ZONE,
};

/// One plugin.
pub(crate) struct Plugin {
    pub(crate) name: &'static str,
    pub(crate) filter: Option<Filter>,
    pub(crate) score: Option<Score>,
    pub(crate) weight: i64,
    /// Where it works when it neither filters nor scores.
    pub(crate) point: Option<Point>,
}

/// Extension points that are part of the loop and not of the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    PreEnqueue,
    QueueSort,
    PostFilter,
    Bind,
}

/// What filters and scores of one decision share.
pub(crate) struct Prepared<'a> {
    pub(crate) profile: &'a Profile,
    pub(crate) spread: topology_spread::Counts,
    pub(crate) affinity: inter_pod_affinity::Counts,
    pub(crate) volumes: PodVolumes,
    pub(crate) claims: PodClaims,
}

impl<'a> Prepared<'a> {
    pub(crate) fn new(cache: &mut Cache, profile: &'a Profile, info: &PodInfo) -> Self {
        Prepared {
            profile,
            spread: topology_spread::Counts::new(cache, profile, info),
            affinity: inter_pod_affinity::Counts::new(cache, profile, info),
            volumes: PodVolumes::new(cache, info),
            claims: PodClaims::new(cache, info),
        }
    }
}

const fn filter(name: &'static str, filter: Filter) -> Plugin {
    Plugin { name, filter: Some(filter), score: None, weight: 0, point: None }
}

const fn score(name: &'static str, score: Score, weight: i64) -> Plugin {
    Plugin { name, filter: None, score: Some(score), weight, point: None }
}

const fn both(name: &'static str, filter: Filter, score: Score, weight: i64) -> Plugin {
    Plugin { name, filter: Some(filter), score: Some(score), weight, point: None }
}

const fn at(name: &'static str, point: Point) -> Plugin {
    Plugin { name, filter: None, score: None, weight: 0, point: Some(point) }
}

/// Every plugin; the cheap filters come first.
pub(crate) static PLUGINS: &[Plugin] = &[
    at("SchedulingGates", Point::PreEnqueue),
    at("PrioritySort", Point::QueueSort),
    filter(NODE_UNSCHEDULABLE, node_basics::unschedulable),
    filter(NODE_NAME, node_basics::name),
    both(TAINT_TOLERATION, node_basics::taints, node_basics::prefer_taints, 3),
    both(NODE_AFFINITY, node_affinity::filter, node_affinity::score, 2),
    filter(NODE_PORTS, node_basics::ports),
    both(FIT, node_resources::fit, node_resources::score, 1),
    score("NodeResourcesBalancedAllocation", node_resources::balanced, 1),
    filter(VOLUME_RESTRICTIONS, volume_rules::restrictions),
    filter(NODE_VOLUME_LIMITS, volume_rules::limits),
    filter(VOLUME_BINDING, volume_binding::filter),
    filter(VOLUME_ZONE, volume_rules::zone),
    both(POD_TOPOLOGY_SPREAD, topology_spread::filter, topology_spread::score, 2),
    both(INTER_POD_AFFINITY, inter_pod_affinity::filter, inter_pod_affinity::score, 2),
    filter(DYNAMIC_RESOURCES, dynamic_resources::filter),
    score("ImageLocality", image_locality::score, 1),
    at("DefaultPreemption", Point::PostFilter),
    at("DefaultBinder", Point::Bind),
];
