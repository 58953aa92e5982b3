//! InterPodAffinity: affinity and anti-affinity between pods, the incoming one's and those of the
//! pods that are there.

use std::collections::HashMap;

use super::Prepared;
use crate::{
    cache::{Cache, NodeInfo, PodInfo},
    framework::{Rejection, SCORE_MAX},
    types::{Pod, PodTerm},
};

pub(crate) const NAME: &str = "InterPodAffinity";
const HARD_POD_AFFINITY_WEIGHT: i64 = 1;

type Domain = (String, String);

/// Topology domains, counted once per decision.
pub(crate) struct Counts {
    /// Domains that existing pods keep free of the incoming one.
    forbidden: HashMap<Domain, i64>,
    /// Pods that match all of the incoming pod's required affinity terms.
    affinity: HashMap<Domain, i64>,
    /// Pods that match any of its required anti-affinity terms.
    anti_affinity: HashMap<Domain, i64>,
    /// Whether the incoming pod satisfies its own required affinity.
    self_match: bool,
    /// Weights of preferences.
    preferences: HashMap<Domain, i64>,
}

impl Counts {
    pub(super) fn new(cache: &Cache, info: &PodInfo) -> Self {
        let mut counts = Counts {
            forbidden: HashMap::new(),
            affinity: HashMap::new(),
            anti_affinity: HashMap::new(),
            self_match: false,
            preferences: HashMap::new(),
        };
        let affinity = info.affinity();
        let pod = &info.pod;
        if let Some(affinity) = affinity {
            let terms = &affinity.pod_affinity.required;
            counts.self_match = terms.iter().all(|term| matches(cache, term, pod, pod));
        }
        let nothing = affinity.is_none_or(|it| {
            it.pod_affinity.required.is_empty()
                && it.pod_affinity.preferred.is_empty()
                && it.pod_anti_affinity.required.is_empty()
                && it.pod_anti_affinity.preferred.is_empty()
        });
        for node in cache.nodes.values() {
            let Some(labels) = node.labels() else { continue };
            let domain = |term: &PodTerm| {
                labels.get(&term.topology_key).map(|it| (term.topology_key.clone(), it.clone()))
            };
            for other in node.pods.values() {
                if other.affinity().is_some() {
                    counts.existing(cache, pod, other, &domain);
                }
                if !nothing {
                    counts.incoming(cache, pod, &other.pod, &domain);
                }
            }
        }
        counts
    }

    /// What an existing pod's terms say about the incoming one.
    fn existing(
        &mut self,
        cache: &Cache,
        pod: &Pod,
        other: &PodInfo,
        domain: &impl Fn(&PodTerm) -> Option<Domain>,
    ) {
        let Some(terms) = other.affinity() else { return };
        for term in &terms.pod_anti_affinity.required {
            if matches(cache, term, &other.pod, pod)
                && let Some(domain) = domain(term)
            {
                *self.forbidden.entry(domain).or_default() += 1;
            }
        }
        let mut prefer = |term: &PodTerm, weight: i64| {
            if matches(cache, term, &other.pod, pod)
                && let Some(domain) = domain(term)
            {
                *self.preferences.entry(domain).or_default() += weight;
            }
        };
        let hard = terms.pod_affinity.required.iter();
        hard.for_each(|term| prefer(term, HARD_POD_AFFINITY_WEIGHT));
        let soft = terms.pod_affinity.preferred.iter();
        soft.for_each(|it| prefer(&it.pod_affinity_term, it.weight));
        let against = terms.pod_anti_affinity.preferred.iter();
        against.for_each(|it| prefer(&it.pod_affinity_term, -it.weight));
    }

    /// What the incoming pod's terms say about an existing one.
    fn incoming(
        &mut self,
        cache: &Cache,
        pod: &Pod,
        other: &Pod,
        domain: &impl Fn(&PodTerm) -> Option<Domain>,
    ) {
        let Some(terms) = pod.spec.affinity.as_deref() else { return };
        let required = &terms.pod_affinity.required;
        if !required.is_empty() && required.iter().all(|it| matches(cache, it, pod, other)) {
            for domain in required.iter().filter_map(domain) {
                *self.affinity.entry(domain).or_default() += 1;
            }
        }
        for term in &terms.pod_anti_affinity.required {
            if matches(cache, term, pod, other)
                && let Some(domain) = domain(term)
            {
                *self.anti_affinity.entry(domain).or_default() += 1;
            }
        }
        let liked = terms.pod_affinity.preferred.iter().map(|it| (it, it.weight));
        let disliked = terms.pod_anti_affinity.preferred.iter().map(|it| (it, -it.weight));
        for (it, weight) in liked.chain(disliked) {
            if matches(cache, &it.pod_affinity_term, pod, other)
                && let Some(domain) = domain(&it.pod_affinity_term)
            {
                *self.preferences.entry(domain).or_default() += weight;
            }
        }
    }
}

/// Whether `other` is meant by a term of `pod`.
fn matches(cache: &Cache, term: &PodTerm, pod: &Pod, other: &Pod) -> bool {
    let namespace = &other.metadata.namespace;
    let by_selector = term.namespace_selector.as_ref().is_some_and(|selector| {
        cache.namespaces.get(namespace).is_some_and(|labels| selector.matches(labels))
    });
    let meant = if term.namespaces.is_empty() && term.namespace_selector.is_none() {
        *namespace == pod.metadata.namespace
    } else {
        by_selector || term.namespaces.contains(namespace)
    };
    meant && term.label_selector.as_ref().is_some_and(|it| it.matches(&other.metadata.labels))
}

pub(super) fn filter(
    _: &Cache,
    prepared: &Prepared<'_>,
    info: &PodInfo,
    node: &NodeInfo,
) -> Option<Rejection> {
    let labels = node.labels()?;
    let counts = &prepared.affinity;
    let at = |map: &HashMap<Domain, i64>, key: &str| {
        let value = labels.get(key);
        value.and_then(|it| map.get(&(key.to_owned(), it.clone()))).copied().unwrap_or(0)
    };
    if let Some(affinity) = info.affinity() {
        let required = &affinity.pod_affinity.required;
        let labelled = required.iter().all(|it| labels.contains_key(&it.topology_key));
        let met = required.iter().all(|it| at(&counts.affinity, &it.topology_key) > 0);
        // The first pod of a group that wants its own kind near may go anywhere.
        let first = counts.affinity.is_empty() && counts.self_match;
        if !labelled || !(met || first) {
            let reason = "node(s) didn't match pod affinity rules";
            return Some(Rejection::unresolvable(NAME, reason));
        }
        let apart = &affinity.pod_anti_affinity.required;
        if apart.iter().any(|it| at(&counts.anti_affinity, &it.topology_key) > 0) {
            let reason = "node(s) didn't match pod anti-affinity rules";
            return Some(Rejection::resolvable(NAME, reason));
        }
    }
    let refused = counts.forbidden.keys().any(|(key, value)| labels.get(key) == Some(value));
    let reason = "node(s) didn't satisfy existing pods anti-affinity rules";
    refused.then(|| Rejection::resolvable(NAME, reason))
}

pub(super) fn score(
    _: &Cache,
    prepared: &Prepared<'_>,
    _: &PodInfo,
    nodes: &[&NodeInfo],
) -> Vec<i64> {
    let preferences = &prepared.affinity.preferences;
    if preferences.is_empty() {
        return vec![0; nodes.len()];
    }
    let sums: Vec<i64> = nodes
        .iter()
        .map(|node| {
            let Some(labels) = node.labels() else { return 0 };
            let held =
                preferences.iter().filter(|((key, value), _)| labels.get(key) == Some(value));
            held.map(|(_, weight)| weight).sum()
        })
        .collect();
    let (least, most) =
        (sums.iter().min().copied().unwrap_or(0), sums.iter().max().copied().unwrap_or(0));
    let scale =
        |sum: i64| if most == least { 0 } else { SCORE_MAX * (sum - least) / (most - least) };
    sums.into_iter().map(scale).collect()
}
