//! The plugins, under upstream's names and with its default weights, in the order of filtering.
//!
//! A plugin is functions over the cache: `filter` says why a node is impossible, `score` compares
//! feasible nodes. What takes a look at all pods is worked out once per decision, in [`Prepared`].

mod image_locality;
mod inter_pod_affinity;
mod node_affinity;
mod node_basics;
mod node_resources;
mod topology_spread;
mod volume_binding;
mod volume_rules;

use crate::{
    cache::{Cache, NodeInfo, PodInfo},
    framework::Rejection,
};

type Filter = fn(&Cache, &Prepared<'_>, &PodInfo, &NodeInfo) -> Option<Rejection>;
type Score = fn(&Cache, &Prepared<'_>, &PodInfo, &[&NodeInfo]) -> Vec<i64>;

pub(crate) use self::{
    inter_pod_affinity::NAME as INTER_POD_AFFINITY, node_affinity::NAME as NODE_AFFINITY,
    node_basics::NODE_NAME, node_basics::NODE_PORTS, node_basics::NODE_UNSCHEDULABLE,
    node_basics::TAINT_TOLERATION, node_resources::FIT,
    topology_spread::NAME as POD_TOPOLOGY_SPREAD, volume_binding::Binding,
    volume_binding::NAME as VOLUME_BINDING, volume_rules::LIMITS as NODE_VOLUME_LIMITS,
    volume_rules::RESTRICTIONS as VOLUME_RESTRICTIONS, volume_rules::ZONE as VOLUME_ZONE,
};

/// One plugin.
pub(crate) struct Plugin {
    pub(crate) filter: Option<Filter>,
    pub(crate) score: Option<Score>,
    pub(crate) weight: i64,
}

/// What filters and scores of one decision share.
pub(crate) struct Prepared<'a> {
    pub(crate) spread: topology_spread::Counts<'a>,
    pub(crate) affinity: inter_pod_affinity::Counts,
    pub(crate) volumes: volume_binding::PodVolumes,
}

impl<'a> Prepared<'a> {
    pub(crate) fn new(cache: &Cache, info: &'a PodInfo) -> Self {
        Prepared {
            spread: topology_spread::Counts::new(cache, info),
            affinity: inter_pod_affinity::Counts::new(cache, info),
            volumes: volume_binding::PodVolumes::new(cache, info),
        }
    }
}

const fn filter(filter: Filter) -> Plugin {
    Plugin { filter: Some(filter), score: None, weight: 0 }
}

const fn score(score: Score, weight: i64) -> Plugin {
    Plugin { filter: None, score: Some(score), weight }
}

const fn both(filter: Filter, score: Score, weight: i64) -> Plugin {
    Plugin { filter: Some(filter), score: Some(score), weight }
}

/// Every plugin; the cheap filters come first.
pub(crate) static PLUGINS: &[Plugin] = &[
    filter(node_basics::unschedulable),
    filter(node_basics::name),
    both(node_basics::taints, node_basics::prefer_taints, 3),
    both(node_affinity::filter, node_affinity::score, 2),
    filter(node_basics::ports),
    both(node_resources::fit, node_resources::least_allocated, 1),
    score(node_resources::balanced, 1),
    filter(volume_rules::restrictions),
    filter(volume_rules::limits),
    filter(volume_binding::filter),
    filter(volume_rules::zone),
    both(topology_spread::filter, topology_spread::score, 2),
    both(inter_pod_affinity::filter, inter_pod_affinity::score, 2),
    score(image_locality::score, 1),
];
