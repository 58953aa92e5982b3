//! NodeAffinity: `nodeSelector` and node affinity, required and preferred, the pod's and what the
//! profile adds.

use client::Labels;

use super::Prepared;
use crate::{
    cache::{Cache, NodeInfo, PodInfo},
    framework::{Rejection, normalise},
    types::{Node, NodeAffinity, NodeSelector, NodeTerm, Pod},
};

pub(crate) const NAME: &str = "NodeAffinity";

pub(super) fn filter(
    _: &Cache,
    prepared: &Prepared<'_>,
    info: &PodInfo,
    node: &NodeInfo,
) -> Option<Rejection> {
    let node = node.node.as_ref()?;
    let added = prepared.profile.args.added_affinity.as_ref().and_then(|it| it.required.as_ref());
    if added.is_some_and(|it| !selects(it, node)) {
        let reason = "node(s) didn't match scheduler-enforced node affinity";
        return Some(Rejection::unresolvable(NAME, reason));
    }
    let reason = "node(s) didn't match Pod's node affinity/selector";
    (!matches(&info.pod, node)).then(|| Rejection::unresolvable(NAME, reason))
}

/// Whether the node satisfies what the pod requires of nodes.
pub(crate) fn matches(pod: &Pod, node: &Node) -> bool {
    let affinity = own(pod).and_then(|it| it.required.as_ref());
    required(&pod.spec.node_selector, affinity, node)
}

/// Whether the node has these labels and one of the terms holds.
pub(crate) fn required(labels: &Labels, terms: Option<&NodeSelector>, node: &Node) -> bool {
    labels.iter().all(|(key, value)| node.metadata.labels.get(key) == Some(value))
        && terms.is_none_or(|it| selects(it, node))
}

/// The only nodes that a pod may go to, when its affinity names them as a DaemonSet's pods' does.
pub(crate) fn named(pod: &Pod) -> Option<Vec<&str>> {
    let terms = &own(pod)?.required.as_ref()?.node_selector_terms;
    let mut names = Vec::new();
    for term in terms {
        let by_name = |it: &&crate::types::Requirement| {
            it.key == "metadata.name" && it.operator == "In" && it.values.len() == 1
        };
        let field = term.match_fields.iter().find(by_name)?;
        names.extend(field.values.iter().map(String::as_str));
    }
    names.sort_unstable();
    names.dedup();
    (!names.is_empty()).then_some(names)
}

fn own(pod: &Pod) -> Option<&NodeAffinity> {
    pod.spec.affinity.as_ref()?.node_affinity.as_ref()
}

pub(crate) fn selects(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| term_matches(term, node))
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

pub(super) fn score(
    _: &Cache,
    prepared: &Prepared<'_>,
    info: &PodInfo,
    nodes: &[&NodeInfo],
) -> Vec<i64> {
    let added = prepared.profile.args.added_affinity.as_ref();
    let terms = || own(&info.pod).into_iter().chain(added).flat_map(|it| &it.preferred);
    if terms().next().is_none() {
        return vec![0; nodes.len()];
    }
    let sum = |node: &&NodeInfo| {
        let Some(node) = &node.node else { return 0 };
        terms().filter(|it| term_matches(&it.preference, node)).map(|it| it.weight).sum()
    };
    normalise(nodes.iter().map(sum).collect(), false)
}
