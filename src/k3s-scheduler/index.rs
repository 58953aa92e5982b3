//! Pods counted by topology domain, kept while pods and nodes come and go, so that no decision has
//! to look at every pod.
//!
//! Two kinds of tables: what placed pods say about others (always kept), and what pods to be placed
//! ask about placed ones (made when first asked, since the pods of one workload ask the same).
//! Invariant: every table holds what a scan of all nodes would count.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use client::Labels;

use crate::{
    cache::{Nodes, PodInfo},
    plugins::node_affinity,
    types::{LabelSelector, Node, NodeSelector, Pod, PodTerm, Toleration},
};

/// So many questions of each kind are remembered.
const QUESTIONS_MAX: usize = 512;

/// Namespaces by name.
pub(crate) type Namespaces = HashMap<String, Labels>;

/// Something by the value of a topology label.
pub(crate) type ByValue<T> = HashMap<String, T>;

/// A pod affinity term with the namespaces it is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Term {
    namespaces: Vec<String>,
    namespace_selector: Option<LabelSelector>,
    selector: LabelSelector,
    pub(crate) topology_key: String,
}

/// Terms that a pod must meet all of.
pub(crate) type Terms = Arc<[Term]>;

impl Term {
    /// A term of a pod in this namespace; `None` when it selects nothing.
    pub(crate) fn new(term: &PodTerm, namespace: &str) -> Option<Self> {
        let own = term.namespaces.is_empty() && term.namespace_selector.is_none();
        Some(Term {
            namespaces: if own { vec![namespace.to_owned()] } else { term.namespaces.clone() },
            namespace_selector: term.namespace_selector.clone(),
            selector: term.label_selector.clone()?,
            topology_key: term.topology_key.clone(),
        })
    }

    /// Whether it is about this pod.
    pub(crate) fn matches(&self, namespaces: &Namespaces, pod: &Pod) -> bool {
        let namespace = &pod.metadata.namespace;
        let selected = || {
            let selector = self.namespace_selector.as_ref();
            selector.is_some_and(|it| namespaces.get(namespace).is_some_and(|has| it.matches(has)))
        };
        (self.namespaces.contains(namespace) || selected())
            && self.selector.matches(&pod.metadata.labels)
    }
}

/// How a placed pod's term is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stance {
    KeepsAway,
    Requires,
    /// Counted with its weight, which is negative where the pod would rather keep away.
    Prefers,
}

/// A spread constraint as a pod with certain requirements of nodes means it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SpreadQuestion {
    pub(crate) namespace: String,
    pub(crate) selector: Option<LabelSelector>,
    pub(crate) topology_key: String,
    /// Labels without which a node does not count.
    pub(crate) keys: Vec<String>,
    /// What the pod requires of nodes, where the constraint honours that.
    pub(crate) affinity: Option<(Labels, Option<NodeSelector>)>,
    /// What the pod tolerates, where the constraint honours taints.
    pub(crate) tolerations: Option<Vec<Toleration>>,
}

impl SpreadQuestion {
    /// The node's domain, if the node counts.
    fn domain<'a>(&self, node: &'a Node) -> Option<&'a String> {
        let labels = &node.metadata.labels;
        let value = labels.get(&self.topology_key)?;
        let labelled = self.keys.iter().all(|key| labels.contains_key(key));
        let wanted = self.affinity.as_ref().is_none_or(|(selector, required)| {
            node_affinity::required(selector, required.as_ref(), node)
        });
        let tolerated = self.tolerations.as_ref().is_none_or(|tolerations| {
            let hard = node.spec.taints.iter().filter(|it| it.effect != "PreferNoSchedule");
            hard.into_iter().all(|taint| tolerations.iter().any(|it| it.tolerates(taint)))
        });
        (labelled && wanted && tolerated).then_some(value)
    }

    pub(crate) fn counts(&self, pod: &Pod) -> bool {
        pod.metadata.namespace == self.namespace
            && !pod.metadata.is_deleting()
            && self.selector.as_ref().is_some_and(|it| it.matches(&pod.metadata.labels))
    }
}

/// A domain of a spread constraint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Domain {
    pub(crate) nodes: i64,
    pub(crate) pods: i64,
}

/// Tables by question, the least recently asked ones forgotten.
#[derive(Debug)]
struct Asked<Q, T> {
    tables: HashMap<Q, (Arc<T>, u64)>,
    clock: u64,
}

impl<Q, T> Default for Asked<Q, T> {
    fn default() -> Self {
        Asked { tables: HashMap::new(), clock: 0 }
    }
}

impl<Q: Hash + Eq + Clone, T: Clone> Asked<Q, T> {
    fn get(&mut self, question: &Q, make: impl FnOnce() -> T) -> Arc<T> {
        self.clock += 1;
        if let Some((table, used)) = self.tables.get_mut(question) {
            *used = self.clock;
            return Arc::clone(table);
        }
        if self.tables.len() >= QUESTIONS_MAX {
            let oldest = self.tables.iter().min_by_key(|(_, (_, used))| *used);
            let oldest = oldest.map(|(question, _)| question.clone());
            oldest.map(|question| self.tables.remove(&question));
        }
        let table = Arc::new(make());
        self.tables.insert(question.clone(), (Arc::clone(&table), self.clock));
        table
    }

    fn each(&mut self, mut change: impl FnMut(&Q, &mut Arc<T>)) {
        self.tables.iter_mut().for_each(|(question, (table, _))| change(question, table));
    }
}

/// All tables.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// What placed pods say.
    said: HashMap<(Stance, Term), Arc<ByValue<i64>>>,
    /// Placed pods that match all terms, counted for each term's topology.
    asked: Asked<Terms, Vec<ByValue<i64>>>,
    spread: Asked<SpreadQuestion, ByValue<Domain>>,
}

impl Index {
    /// Counts a pod on a node once more (`by` is 1) or once less (-1).
    pub(crate) fn pod(&mut self, namespaces: &Namespaces, info: &PodInfo, node: &Node, by: i64) {
        let labels = &node.metadata.labels;
        for (stance, term, weight) in info.terms.says() {
            let Some(value) = labels.get(&term.topology_key) else { continue };
            let key = (stance, term.clone());
            let table = Arc::make_mut(self.said.entry(key.clone()).or_default());
            add(table, value, by * weight);
            if table.is_empty() {
                self.said.remove(&key);
            }
        }
        let pod = &info.pod;
        self.asked.each(|terms, table| {
            if terms.iter().all(|term| term.matches(namespaces, pod)) {
                let table = Arc::make_mut(table);
                for (term, counts) in terms.iter().zip(table) {
                    if let Some(value) = labels.get(&term.topology_key) {
                        add(counts, value, by);
                    }
                }
            }
        });
        self.spread.each(|question, table| {
            if question.counts(pod)
                && let Some(value) = question.domain(node)
                && let Some(domain) = Arc::make_mut(table).get_mut(value)
            {
                domain.pods += by;
            }
        });
    }

    /// Counts a node without its pods once more or once less.
    pub(crate) fn node(&mut self, node: &Node, by: i64) {
        self.spread.each(|question, table| {
            let Some(value) = question.domain(node) else { return };
            let table = Arc::make_mut(table);
            let domain = table.entry(value.clone()).or_default();
            domain.nodes += by;
            if domain.nodes <= 0 {
                table.remove(value);
            }
        });
    }

    /// A namespace's labels changed: what was selected by them is counted anew when it is asked.
    pub(crate) fn namespace_changed(&mut self) {
        let selects = |terms: &Terms| terms.iter().any(|it| it.namespace_selector.is_some());
        self.asked.tables.retain(|terms, _| !selects(terms));
    }

    /// The terms of placed pods that are about this one, with where those pods are.
    pub(crate) fn about<'a>(
        &'a self,
        namespaces: &'a Namespaces,
        pod: &'a Pod,
    ) -> impl Iterator<Item = (Stance, &'a str, Arc<ByValue<i64>>)> {
        self.said
            .iter()
            .filter(|((_, term), _)| term.matches(namespaces, pod))
            .map(|((stance, term), table)| (*stance, &*term.topology_key, Arc::clone(table)))
    }

    /// Placed pods that match all terms, by domain, for each term's topology.
    pub(crate) fn matching(
        &mut self,
        namespaces: &Namespaces,
        nodes: &Nodes,
        terms: &Terms,
    ) -> Arc<Vec<ByValue<i64>>> {
        self.asked.get(terms, || {
            let mut table = vec![ByValue::new(); terms.len()];
            for info in nodes.values() {
                let Some(labels) = info.labels() else { continue };
                let all = |pod: &Pod| i64::from(terms.iter().all(|it| it.matches(namespaces, pod)));
                let count: i64 = info.pods.values().map(|it| all(&it.pod)).sum();
                for (term, counts) in terms.iter().zip(&mut table) {
                    if let Some(value) = labels.get(&term.topology_key) {
                        add(counts, value, count);
                    }
                }
            }
            table
        })
    }

    /// The domains of a spread constraint.
    pub(crate) fn domains(
        &mut self,
        nodes: &Nodes,
        question: &SpreadQuestion,
    ) -> Arc<ByValue<Domain>> {
        self.spread.get(question, || {
            let mut table: ByValue<Domain> = ByValue::new();
            for info in nodes.values() {
                let Some(value) = info.node.as_ref().and_then(|it| question.domain(it)) else {
                    continue;
                };
                let domain = table.entry(value.clone()).or_default();
                domain.nodes += 1;
                domain.pods +=
                    info.pods.values().map(|it| i64::from(question.counts(&it.pod))).sum::<i64>();
            }
            table
        })
    }
}

fn add(counts: &mut ByValue<i64>, value: &String, by: i64) {
    if by == 0 {
        return;
    }
    match counts.get_mut(value) {
        Some(count) => {
            *count += by;
            if *count == 0 {
                counts.remove(value);
            }
        }
        None => {
            counts.insert(value.clone(), by);
        }
    }
}

/// What a pod says about others, worked out once.
#[derive(Debug, Default)]
pub(crate) struct PodStatements {
    /// All of them must be met by one and the same pod.
    pub(crate) required: Terms,
    /// Whether one of the required terms selects nothing, so that they cannot be met.
    pub(crate) unmeetable: bool,
    /// One term each.
    pub(crate) apart: Vec<Terms>,
    pub(crate) preferred: Vec<(Terms, i64)>,
}

impl PodStatements {
    pub(crate) fn of(pod: &Pod) -> Self {
        let Some(affinity) = pod.spec.affinity.as_deref() else { return Self::default() };
        let resolve = |term: &PodTerm| Term::new(term, &pod.metadata.namespace);
        let alone = |term: &PodTerm| resolve(term).map(|it| Terms::from([it]));
        let (near, far) = (&affinity.pod_affinity, &affinity.pod_anti_affinity);
        let required: Vec<Term> = near.required.iter().filter_map(resolve).collect();
        let liked = near.preferred.iter().map(|it| (it, it.weight));
        let disliked = far.preferred.iter().map(|it| (it, -it.weight));
        PodStatements {
            unmeetable: required.len() != near.required.len(),
            required: required.into(),
            apart: far.required.iter().filter_map(alone).collect(),
            preferred: liked
                .chain(disliked)
                .filter_map(|(it, weight)| Some((alone(&it.pod_affinity_term)?, weight)))
                .collect(),
        }
    }

    fn says(&self) -> impl Iterator<Item = (Stance, &Term, i64)> {
        let apart = self.apart.iter().flat_map(|it| it.iter());
        let preferred =
            self.preferred.iter().flat_map(|(it, weight)| it.iter().map(|it| (it, *weight)));
        apart
            .map(|it| (Stance::KeepsAway, it, 1))
            .chain(self.required.iter().map(|it| (Stance::Requires, it, 1)))
            .chain(preferred.map(|(it, weight)| (Stance::Prefers, it, weight)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cache::Cache,
        framework::tests::{node, pod},
        plugins::topology_spread::question,
    };

    const TERM: &str = r#"[{"topologyKey":"zone","labelSelector":{"matchLabels":{"app":"a"}}}]"#;

    /// A small generator, so that a failure can be repeated.
    fn next(seed: &mut u64, below: u64) -> u64 {
        *seed =
            seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 33) % below
    }

    fn check(seed: u64) {
        let mut dice = seed;
        let mut cache = Cache::default();
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        let spec = format!(
            r#""affinity":{{"podAffinity":{{"{required}":{TERM}}},"podAntiAffinity":{{"{required}":{TERM}}}}},
            "topologySpreadConstraints":[{{"maxSkew":1,"topologyKey":"zone","nodeTaintsPolicy":"Honor",
            "labelSelector":{{"matchLabels":{{"app":"a"}}}}}}]"#
        );
        let asks = PodInfo::new(pod("asks", &spec));
        let spread =
            question(&asks.pod.spec.topology_spread_constraints[0], &asks, &["zone".to_owned()]);
        for step in 0..200 {
            let name = format!("n{}", next(&mut dice, 4));
            let which = format!("p{}", next(&mut dice, 12));
            match next(&mut dice, 5) {
                0 => cache.set_node(&node(&name, "")),
                1 => {
                    let taints = r#","spec":{"taints":[{"key":"k","effect":"NoSchedule"}]}"#;
                    cache.set_node(&node(&name, taints));
                }
                2 if next(&mut dice, 4) == 0 => cache.remove_node(&name),
                3 => cache.remove_pod(&client::Key::new("default", &which)),
                _ => cache.place(&pod(&which, if step % 3 == 0 { &spec } else { "" }), &name),
            }
            let (live, nodes, namespaces) = cache.indexed();
            let terms = &asks.terms.required;
            let mut scan = Index::default();
            let found = live.matching(namespaces, nodes, terms);
            assert_eq!(found, scan.matching(namespaces, nodes, terms), "{seed} {step}");
            let found = live.domains(nodes, &spread);
            assert_eq!(found, scan.domains(nodes, &spread), "{seed} {step}");
            for info in nodes.values() {
                let Some(node) = &info.node else { continue };
                info.pods.values().for_each(|pod| scan.pod(namespaces, pod, node, 1));
            }
            assert_eq!(live.said, scan.said, "{seed} {step}");
        }
    }

    #[test]
    fn tables_equal_a_scan_whatever_happens() {
        (0..20).for_each(check);
    }
}
