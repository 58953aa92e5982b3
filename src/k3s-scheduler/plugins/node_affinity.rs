//! NodeAffinity: `nodeSelector` and node affinity, required and preferred.

use super::Prepared;
use crate::{
    cache::{Cache, NodeInfo, PodInfo},
    framework::{Rejection, normalise},
    types::{Node, NodeTerm, Pod},
};

pub(crate) const NAME: &str = "NodeAffinity";

pub(super) fn filter(
    _: &Cache,
    _: &Prepared<'_>,
    info: &PodInfo,
    node: &NodeInfo,
) -> Option<Rejection> {
    let refused = !matches(&info.pod, node.node.as_ref()?);
    let reason = "node(s) didn't match Pod's node affinity/selector";
    refused.then(|| Rejection::unresolvable(NAME, reason))
}

/// Whether the node satisfies what the pod requires of nodes.
pub(super) fn matches(pod: &Pod, node: &Node) -> bool {
    let labels = &node.metadata.labels;
    let selected = pod.spec.node_selector.iter().all(|(key, value)| labels.get(key) == Some(value));
    let affinity = pod.spec.affinity.as_ref().and_then(|it| it.node_affinity.as_ref());
    let required = affinity.and_then(|it| it.required.as_ref());
    selected
        && required
            .is_none_or(|it| it.node_selector_terms.iter().any(|term| term_matches(term, node)))
}

/// Every expression holds; a term without any matches nothing.
pub(super) fn term_matches(term: &NodeTerm, node: &Node) -> bool {
    if term.match_expressions.is_empty() && term.match_fields.is_empty() {
        return false;
    }
    let labels = &node.metadata.labels;
    let name = Some(node.metadata.name.as_str());
    term.match_expressions.iter().all(|it| it.matches(labels.get(&it.key).map(String::as_str)))
        && term.match_fields.iter().all(|it| it.key == "metadata.name" && it.matches(name))
}

pub(super) fn score(_: &Cache, _: &Prepared<'_>, info: &PodInfo, nodes: &[&NodeInfo]) -> Vec<i64> {
    let affinity = info.affinity().and_then(|it| it.node_affinity.as_ref());
    let Some(affinity) = affinity.filter(|it| !it.preferred.is_empty()) else {
        return vec![0; nodes.len()];
    };
    let sum = |node: &&NodeInfo| {
        let Some(node) = &node.node else { return 0 };
        let held = affinity.preferred.iter().filter(|it| term_matches(&it.preference, node));
        held.map(|it| it.weight).sum()
    };
    normalise(nodes.iter().map(sum).collect(), false)
}
