//! InterPodAffinity: affinity and anti-affinity between pods, the incoming one's and those of the
//! pods that are there. The counting is the index's.

use std::sync::Arc;

use super::Prepared;
use crate::{
    cache::{Cache, NodeInfo, PodInfo},
    framework::{Rejection, SCORE_MAX},
    index::{ByValue, Stance},
    profile::Profile,
};

pub(crate) const NAME: &str = "InterPodAffinity";

type Table = Arc<Vec<ByValue<i64>>>;

/// The tables that concern one pod.
pub(crate) struct Counts {
    /// Pods that match all required terms, for each term's topology.
    required: Option<Table>,
    /// Pods that match a required anti-affinity term.
    apart: Vec<Table>,
    /// Pods that match a preference, with its weight.
    preferred: Vec<(Table, i64)>,
    /// Domains that placed pods keep free of this one, by topology.
    forbidden: Vec<(String, Arc<ByValue<i64>>)>,
    /// What placed pods prefer about this one, with a factor.
    liked: Vec<(String, Arc<ByValue<i64>>, i64)>,
    /// Whether the pod satisfies its own required affinity.
    self_match: bool,
}

impl Counts {
    pub(super) fn new(cache: &mut Cache, profile: &Profile, info: &PodInfo) -> Self {
        let (index, nodes, namespaces) = cache.indexed();
        let (pod, terms) = (&info.pod, &info.terms);
        let mut counts = Counts {
            required: None,
            apart: Vec::new(),
            preferred: Vec::new(),
            forbidden: Vec::new(),
            liked: Vec::new(),
            self_match: !terms.unmeetable
                && terms.required.iter().all(|it| it.matches(namespaces, pod)),
        };
        for (stance, key, table) in index.about(namespaces, pod) {
            let factor = match stance {
                Stance::KeepsAway => {
                    counts.forbidden.push((key.to_owned(), table));
                    continue;
                }
                Stance::Requires => profile.args.hard_affinity_weight,
                Stance::Prefers => i64::from(!profile.args.ignores_preferences_of_placed),
            };
            if factor != 0 {
                counts.liked.push((key.to_owned(), table, factor));
            }
        }
        let mut matching = |terms| index.matching(namespaces, nodes, terms);
        if !terms.required.is_empty() && !terms.unmeetable {
            counts.required = Some(matching(&terms.required));
        }
        counts.apart = terms.apart.iter().map(&mut matching).collect();
        let preferred = terms.preferred.iter();
        counts.preferred = preferred.map(|(it, weight)| (matching(it), *weight)).collect();
        counts
    }

    /// Whether the incoming pod's required affinity is met on a node.
    fn near(&self, info: &PodInfo, node: &NodeInfo) -> bool {
        let terms = &info.terms;
        if terms.unmeetable {
            return false;
        }
        let Some(table) = &self.required else { return true };
        let Some(labels) = node.labels() else { return false };
        let values: Option<Vec<&String>> =
            terms.required.iter().map(|it| labels.get(&it.topology_key)).collect();
        let Some(values) = values else { return false };
        // The first pod of a group that wants its own kind near may go anywhere.
        let first = || self.self_match && table.iter().all(ByValue::is_empty);
        values.into_iter().zip(&**table).all(|(value, counts)| counts.contains_key(value))
            || first()
    }
}

pub(super) fn filter(
    _: &Cache,
    prepared: &Prepared<'_>,
    info: &PodInfo,
    node: &NodeInfo,
) -> Option<Rejection> {
    let labels = node.labels()?;
    let counts = &prepared.affinity;
    if !counts.near(info, node) {
        let reason = "node(s) didn't match pod affinity rules";
        return Some(Rejection::unresolvable(NAME, reason));
    }
    let there = |key: &str, counts: &ByValue<i64>| {
        labels.get(key).is_some_and(|value| counts.contains_key(value))
    };
    let mut apart = info.terms.apart.iter().zip(&counts.apart);
    if apart.any(|(terms, table)| {
        terms.iter().zip(&**table).any(|(term, counts)| there(&term.topology_key, counts))
    }) {
        let reason = "node(s) didn't match pod anti-affinity rules";
        return Some(Rejection::resolvable(NAME, reason));
    }
    let refused = counts.forbidden.iter().any(|(key, counts)| there(key, counts));
    let reason = "node(s) didn't satisfy existing pods anti-affinity rules";
    refused.then(|| Rejection::resolvable(NAME, reason))
}

pub(super) fn score(
    _: &Cache,
    prepared: &Prepared<'_>,
    info: &PodInfo,
    nodes: &[&NodeInfo],
) -> Vec<i64> {
    let counts = &prepared.affinity;
    if counts.preferred.is_empty() && counts.liked.is_empty() {
        return vec![0; nodes.len()];
    }
    let own: Vec<(&str, &ByValue<i64>, i64)> = info
        .terms
        .preferred
        .iter()
        .zip(&counts.preferred)
        .flat_map(|((terms, _), (table, weight))| {
            let each = terms.iter().zip(&**table);
            each.map(|(term, counts)| (term.topology_key.as_str(), counts, *weight))
        })
        .chain(counts.liked.iter().map(|(key, counts, weight)| (key.as_str(), &**counts, *weight)))
        .collect();
    let sums: Vec<i64> = nodes
        .iter()
        .map(|node| {
            let Some(labels) = node.labels() else { return 0 };
            let held = own
                .iter()
                .filter_map(|(key, counts, weight)| Some(counts.get(labels.get(*key)?)? * weight));
            held.sum()
        })
        .collect();
    let (least, most) =
        (sums.iter().min().copied().unwrap_or(0), sums.iter().max().copied().unwrap_or(0));
    let scale =
        |sum: i64| if most == least { 0 } else { SCORE_MAX * (sum - least) / (most - least) };
    sums.into_iter().map(scale).collect()
}
