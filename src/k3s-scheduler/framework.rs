//! One scheduling decision: which nodes are feasible, which of them is best, and in upstream's
//! words why not. Pure: no clock, no requests.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    cache::{Cache, NodeInfo, PodInfo},
    plugins::{Binding, NODE_AFFINITY, PodClaims, PodVolumes, Prepared, node_affinity},
    profile::Profile,
};

pub(crate) const SCORE_MAX: i64 = 100;
/// With at most this many nodes all are looked at.
const SAMPLE_FROM: usize = 100;
const SAMPLE_PERCENT_MIN: usize = 5;

/// Why a node is out of the question for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) plugin: &'static str,
    pub(crate) reasons: Vec<String>,
    /// Whether removing pods from the node could help.
    pub(crate) resolvable: bool,
}

impl Rejection {
    pub(crate) fn resolvable(plugin: &'static str, reason: &str) -> Self {
        Rejection { plugin, reasons: vec![reason.to_owned()], resolvable: true }
    }

    pub(crate) fn unresolvable(plugin: &'static str, reason: &str) -> Self {
        Rejection { plugin, reasons: vec![reason.to_owned()], resolvable: false }
    }
}

/// What a scheduling attempt comes to.
#[derive(Debug)]
pub(crate) enum Decision {
    Node(String),
    Unschedulable(Unschedulable),
}

/// Why no node is feasible.
#[derive(Debug, Default)]
pub(crate) struct Unschedulable {
    /// Upstream's message, up to preemption.
    pub(crate) message: String,
    /// The plugins that refused nodes.
    pub(crate) plugins: BTreeSet<&'static str>,
    /// How many nodes there are.
    pub(crate) nodes: usize,
    /// Those where removing pods could help.
    pub(crate) helpable: Vec<String>,
}

/// The nodes that will do, and why the others will not.
#[derive(Debug)]
pub(crate) struct Survey {
    /// With their scores, when there are several.
    pub(crate) feasible: Vec<(String, i64)>,
    total: usize,
    left_out: usize,
    rejections: Vec<(String, Rejection)>,
}

impl Survey {
    /// The best node; equals take turns.
    pub(crate) fn best(nodes: &[(String, i64)], seed: usize) -> Option<&str> {
        let top = nodes.iter().map(|(_, score)| *score).max()?;
        let best: Vec<&str> = nodes
            .iter()
            .filter(|(_, score)| *score == top)
            .map(|(name, _)| name.as_str())
            .collect();
        best.get(seed % best.len().max(1)).copied()
    }

    /// Adds what others than the plugins have against nodes.
    pub(crate) fn reject(&mut self, plugin: &'static str, node: &str, why: &str) {
        self.rejections.push((node.to_owned(), Rejection::unresolvable(plugin, why)));
    }

    /// Why there is no node.
    pub(crate) fn unschedulable(self) -> Unschedulable {
        let mut plugins: BTreeSet<_> = self.rejections.iter().map(|(_, it)| it.plugin).collect();
        if self.left_out > 0 {
            plugins.insert(NODE_AFFINITY);
        }
        Unschedulable {
            message: explain(self.total, self.left_out, &self.rejections),
            plugins,
            nodes: self.total,
            helpable: self
                .rejections
                .into_iter()
                .filter(|(_, it)| it.resolvable)
                .map(|(name, _)| name)
                .collect(),
        }
    }
}

/// Decides where a pod goes. `start` rotates which nodes are looked at first. The cache is as before
/// afterwards.
pub(crate) fn decide(
    cache: &mut Cache,
    profile: &Profile,
    info: &PodInfo,
    start: usize,
) -> Decision {
    match survey(cache, profile, info, start) {
        Err(failure) => Decision::Unschedulable(failure),
        Ok(survey) => match Survey::best(&survey.feasible, start) {
            Some(node) => Decision::Node(node.to_owned()),
            None => Decision::Unschedulable(survey.unschedulable()),
        },
    }
}

/// Looks at the nodes; an error when there is no use in that.
pub(crate) fn survey(
    cache: &mut Cache,
    profile: &Profile,
    info: &PodInfo,
    start: usize,
) -> Result<Survey, Unschedulable> {
    let taken = promised(cache, profile, info);
    let prepared = Prepared::new(cache, profile, info);
    let cache = &*cache;
    let total = cache.nodes.values().filter(|node| node.node.is_some()).count();
    if total == 0 {
        let message = "no nodes available to schedule pods".to_owned();
        return Err(Unschedulable { message, ..Unschedulable::default() });
    }
    let refusals = prepared.volumes.refusal.iter().chain(&prepared.claims.refusal);
    if let Some(refusal) = refusals.into_iter().find(|it| profile.filters_by(it.plugin)) {
        return Err(Unschedulable {
            message: format!("0/{total} nodes are available: {}.", refusal.reasons.join(", ")),
            plugins: [refusal.plugin].into(),
            nodes: total,
            helpable: Vec::new(),
        });
    }
    let mut survey = Survey { feasible: Vec::new(), total, left_out: 0, rejections: Vec::new() };
    let verdict = |name: &str, node: &NodeInfo| {
        taken.get(name).cloned().or_else(|| reject(cache, &prepared, info, node))
    };
    let promise = info.pod.status.nominated_node_name.as_str();
    if let Some(node) = cache.nodes.get(promise).filter(|it| it.node.is_some())
        && verdict(promise, node).is_none()
    {
        survey.feasible.push((promise.to_owned(), 0));
        return Ok(survey);
    }
    let nodes = candidates(cache, profile, info);
    survey.left_out = total - nodes.len();
    let enough = sample_size(nodes.len(), profile.percentage);
    let mut feasible = Vec::new();
    for at in 0..nodes.len() {
        let Some((name, node)) = nodes.get((start + at) % nodes.len()).copied() else { break };
        match verdict(name, node) {
            None => feasible.push((name, node)),
            Some(rejection) => survey.rejections.push((name.to_owned(), rejection)),
        }
        if feasible.len() >= enough {
            break;
        }
    }
    let scores = scores(cache, &prepared, info, &feasible);
    let names = feasible.iter().map(|(name, _)| (*name).to_owned());
    survey.feasible = names.zip(scores).collect();
    Ok(survey)
}

/// The nodes to look at: all, or those that the pod names.
fn candidates<'a>(
    cache: &'a Cache,
    profile: &Profile,
    info: &PodInfo,
) -> Vec<(&'a str, &'a NodeInfo)> {
    let names = match profile.filters_by(NODE_AFFINITY) {
        true => node_affinity::named(&info.pod),
        false => None,
    };
    let all = |(name, node): (&'a String, &'a NodeInfo)| {
        node.node.is_some().then_some((name.as_str(), node))
    };
    match names {
        Some(names) => {
            names.into_iter().filter_map(|it| all(cache.nodes.get_key_value(it)?)).collect()
        }
        None => cache.nodes.iter().filter_map(all).collect(),
    }
}

/// What has to be bound before the pod may go to the node that was decided for it.
pub(crate) fn bindings(cache: &Cache, info: &PodInfo, node: &str) -> Vec<Binding> {
    let Some(node) = cache.nodes.get(node).and_then(|it| it.node.as_ref()) else {
        return Vec::new();
    };
    let mut all = PodVolumes::new(cache, info).bindings(cache, node).unwrap_or_default();
    all.extend(PodClaims::new(cache, info).bindings(cache, node).unwrap_or_default());
    all
}

/// Why the pod does not fit on a node, also with the pods on it that were promised the node.
pub(crate) fn fits(
    cache: &mut Cache,
    profile: &Profile,
    info: &PodInfo,
    node: &str,
) -> Option<Rejection> {
    if let Some(rejection) = promised(cache, profile, info).remove(node) {
        return Some(rejection);
    }
    let prepared = Prepared::new(cache, profile, info);
    reject(cache, &prepared, info, cache.nodes.get(node)?)
}

/// The nodes that do not fit because they are promised to pods that are at least as important.
fn promised(cache: &mut Cache, profile: &Profile, info: &PodInfo) -> BTreeMap<String, Rejection> {
    let own = &info.pod.metadata;
    let others: Vec<(String, Arc<PodInfo>)> = cache
        .nominated
        .values()
        .filter(|(_, it)| it.pod.priority() >= info.pod.priority())
        .filter(|(node, it)| it.pod.metadata.uid != own.uid && cache.nodes.contains_key(node))
        .filter(|(_, it)| cache.node_of(&it.pod.metadata.key()).is_none())
        .cloned()
        .collect();
    if others.is_empty() {
        return BTreeMap::new();
    }
    others.iter().for_each(|(node, it)| cache.put(Arc::clone(it), node));
    let prepared = Prepared::new(cache, profile, info);
    let rejected = others
        .iter()
        .filter_map(|(name, _)| {
            let node = cache.nodes.get(name).filter(|it| it.node.is_some())?;
            Some((name.clone(), reject(cache, &prepared, info, node)?))
        })
        .collect();
    // The tables that it holds on to would be copied by the next change.
    drop(prepared);
    others.iter().for_each(|(_, it)| cache.remove_pod(&it.pod.metadata.key()));
    rejected
}

fn sample_size(nodes: usize, percentage: Option<usize>) -> usize {
    if nodes <= SAMPLE_FROM {
        return nodes;
    }
    let adaptive = || 50_usize.saturating_sub(nodes / 125).max(SAMPLE_PERCENT_MIN);
    (nodes * percentage.unwrap_or_else(adaptive) / 100).max(SAMPLE_FROM)
}

fn reject(
    cache: &Cache,
    prepared: &Prepared<'_>,
    info: &PodInfo,
    node: &NodeInfo,
) -> Option<Rejection> {
    prepared.profile.filters.iter().find_map(|it| (it.filter)(cache, prepared, info, node))
}

fn scores(
    cache: &Cache,
    prepared: &Prepared<'_>,
    info: &PodInfo,
    feasible: &[(&str, &NodeInfo)],
) -> Vec<i64> {
    let nodes: Vec<&NodeInfo> = feasible.iter().map(|(_, node)| *node).collect();
    let mut totals = vec![0_i64; nodes.len()];
    // One node needs no comparison.
    if nodes.len() > 1 {
        for scoring in &prepared.profile.scores {
            let scores = (scoring.score)(cache, prepared, info, &nodes);
            for (total, score) in totals.iter_mut().zip(scores) {
                *total += score * scoring.weight;
            }
        }
    }
    totals
}

/// Upstream's message: how many nodes fail for which reason.
fn explain(nodes: usize, left_out: usize, rejections: &[(String, Rejection)]) -> String {
    let mut counts = BTreeMap::<&str, usize>::new();
    if left_out > 0 {
        counts.insert("node(s) didn't satisfy plugin(s) [NodeAffinity]", left_out);
    }
    for reason in rejections.iter().flat_map(|(_, it)| &it.reasons) {
        *counts.entry(reason).or_default() += 1;
    }
    format!("0/{nodes} nodes are available: {}.", histogram(&counts))
}

/// Reasons with their numbers, as upstream sorts them.
pub(crate) fn histogram(counts: &BTreeMap<&str, usize>) -> String {
    let mut parts: Vec<String> =
        counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    parts.join(", ")
}

/// Scales raw scores to 0..=100; reversed when less is better.
pub(crate) fn normalise(mut scores: Vec<i64>, reverse: bool) -> Vec<i64> {
    let top = scores.iter().max().copied().unwrap_or(0);
    for score in &mut scores {
        if top == 0 {
            *score = if reverse { SCORE_MAX } else { 0 };
            continue;
        }
        *score = *score * SCORE_MAX / top;
        if reverse {
            *score = SCORE_MAX - *score;
        }
    }
    scores
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        preemption::{Outcome, preempt},
        types::{Node, Pod},
    };

    pub(crate) fn node(name: &str, extra: &str) -> Arc<Node> {
        let text = format!(
            r#"{{"metadata":{{"name":"{name}","labels":{{"zone":"{name}","kubernetes.io/hostname":"{name}"}}}},
               "status":{{"allocatable":{{"cpu":"2","memory":"4Gi","pods":"3"}}}}{extra}}}"#
        );
        Arc::new(serde_json::from_str(&text).unwrap())
    }

    pub(crate) fn pod(name: &str, spec: &str) -> Arc<Pod> {
        let text = format!(
            r#"{{"metadata":{{"name":"{name}","namespace":"default","labels":{{"app":"a"}}}},"spec":{{{spec}}}}}"#
        );
        Arc::new(serde_json::from_str(&text).unwrap())
    }

    fn place(cache: &mut Cache, name: &str, spec: &str) -> Result<String, String> {
        let pod = pod(name, spec);
        let info = PodInfo::new(Arc::clone(&pod));
        match decide(cache, &Profile::default(), &info, 0) {
            Decision::Node(node) => {
                cache.place(&pod, &node);
                Ok(node)
            }
            Decision::Unschedulable(failure) if failure.nodes == 0 => Err(failure.message),
            Decision::Unschedulable(failure) => {
                match preempt(cache, &Profile::default(), &info, &failure, 0) {
                    Outcome::NotHelpful(why) => {
                        Err(format!("{} preemption: {why}", failure.message))
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    pub(crate) fn cluster(nodes: &[Arc<Node>]) -> Cache {
        let mut cache = Cache::default();
        nodes.iter().for_each(|node| cache.set_node(node));
        cache
    }

    #[test]
    fn without_nodes_it_says_so() {
        let found = place(&mut Cache::default(), "a", "");
        assert_eq!(found.unwrap_err(), "no nodes available to schedule pods");
    }

    #[test]
    fn resources_are_counted_and_the_emptier_node_wins() {
        let mut cache = cluster(&[node("a", ""), node("b", "")]);
        let one = r#""containers":[{"resources":{"requests":{"cpu":"1500m"}}}]"#;
        let first = place(&mut cache, "1", one).unwrap();
        assert_ne!(place(&mut cache, "2", one).unwrap(), first);
        assert_eq!(
            place(&mut cache, "3", one).unwrap_err(),
            "0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."
        );
    }

    #[test]
    fn taints_and_cordons_keep_pods_away() {
        let tainted = r#","spec":{"taints":[{"key":"k","value":"v","effect":"NoSchedule"}]}"#;
        let cordoned = r#","spec":{"unschedulable":true}"#;
        let mut cache = cluster(&[node("a", tainted), node("b", cordoned)]);
        assert_eq!(
            place(&mut cache, "1", "").unwrap_err(),
            "0/2 nodes are available: 1 node(s) had untolerated taint {k: v}, 1 node(s) were unschedulable. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
        );
        let tolerant = r#""tolerations":[{"key":"k","operator":"Exists"}]"#;
        assert_eq!(place(&mut cache, "2", tolerant).unwrap(), "a");
    }

    #[test]
    fn selectors_affinity_ports_and_pod_limits_filter() {
        let mut cache = cluster(&[node("a", ""), node("b", "")]);
        assert_eq!(place(&mut cache, "1", r#""nodeSelector":{"zone":"b"}"#).unwrap(), "b");
        let nowhere = place(&mut cache, "2", r#""nodeSelector":{"zone":"c"}"#).unwrap_err();
        assert!(
            nowhere.contains("2 node(s) didn't match Pod's node affinity/selector"),
            "{nowhere}"
        );
        let field = r#""affinity":{"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchFields":[{"key":"metadata.name","operator":"In","values":["a"]}]}]}}}"#;
        assert_eq!(place(&mut cache, "3", field).unwrap(), "a");
        let port = r#""containers":[{"ports":[{"hostPort":80,"protocol":"TCP"}]}]"#;
        let one = place(&mut cache, "4", port).unwrap();
        let two = place(&mut cache, "5", port).unwrap();
        assert_ne!(one, two);
        let full = place(&mut cache, "6", port).unwrap_err();
        assert!(
            full.contains("2 node(s) didn't have free ports for the requested pod ports"),
            "{full}"
        );
        place(&mut cache, "7", "").unwrap();
        place(&mut cache, "8", "").unwrap();
        assert!(place(&mut cache, "9", "").unwrap_err().contains("2 Too many pods"));
    }

    #[test]
    fn pods_spread_and_keep_apart() {
        let mut cache = cluster(&[node("a", ""), node("b", "")]);
        let spread = r#""topologySpreadConstraints":[{"maxSkew":1,"topologyKey":"zone","whenUnsatisfiable":"DoNotSchedule","labelSelector":{"matchLabels":{"app":"a"}}}]"#;
        let first = place(&mut cache, "1", spread).unwrap();
        assert_ne!(place(&mut cache, "2", spread).unwrap(), first);
        let apart = r#""affinity":{"podAntiAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[{"topologyKey":"zone","labelSelector":{"matchLabels":{"app":"a"}}}]}}"#;
        let no = place(&mut cache, "3", apart).unwrap_err();
        assert!(no.contains("2 node(s) didn't match pod anti-affinity rules"), "{no}");
    }

    #[test]
    fn pod_affinity_follows_and_the_first_of_its_kind_may_start() {
        let mut cache = cluster(&[node("a", ""), node("b", "")]);
        let near = r#""affinity":{"podAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[{"topologyKey":"zone","labelSelector":{"matchLabels":{"app":"a"}}}]}}"#;
        let first = place(&mut cache, "1", near).unwrap();
        assert_eq!(place(&mut cache, "2", near).unwrap(), first);
        let other = r#""affinity":{"podAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[{"topologyKey":"zone","labelSelector":{"matchLabels":{"app":"z"}}}]}}"#;
        let no = place(&mut cache, "3", other).unwrap_err();
        assert!(no.contains("2 node(s) didn't match pod affinity rules"), "{no}");
    }

    #[test]
    fn large_clusters_are_sampled() {
        assert_eq!(sample_size(50, None), 50);
        assert_eq!(sample_size(1000, None), 420);
        assert_eq!(sample_size(10_000, None), 500);
        assert_eq!(sample_size(10_000, Some(2)), 200);
    }
}
