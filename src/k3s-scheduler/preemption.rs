//! DefaultPreemption: which pods of lower priority make way for one that fits nowhere. Pure; the
//! cache is changed while nodes are tried out and is as before afterwards.
//!
//! Invariant: a victim is always of lower priority, and without any one victim the pod would not fit.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use client::Key;
use jiff::Timestamp;

use crate::{
    cache::{Cache, PodInfo},
    framework::{Unschedulable, fits, histogram},
    profile::Profile,
    types::{BY_SCHEDULER, DISRUPTION_TARGET, Pod},
};

/// What preemption comes to.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The profile does not preempt.
    Disabled,
    /// The pod must not preempt (now); what it is nominated for stays.
    NotEligible(&'static str),
    /// No node would do; upstream's words.
    NotHelpful(String),
    Preempt(Preemption),
}

/// Pods that make way on a node.
#[derive(Debug)]
pub(crate) struct Preemption {
    pub(crate) node: String,
    pub(crate) victims: Vec<Arc<Pod>>,
    /// Waiting pods of lower priority that were promised the same node.
    pub(crate) demoted: Vec<Key>,
}

struct Candidate {
    node: String,
    /// The most important first.
    victims: Vec<Arc<PodInfo>>,
    violations: usize,
}

/// Decides for a pod that no node was feasible for.
pub(crate) fn preempt(
    cache: &mut Cache,
    profile: &Profile,
    info: &PodInfo,
    failure: &Unschedulable,
    start: usize,
) -> Outcome {
    if info.pod.spec.preemption_policy.as_deref() == Some("Never") {
        return Outcome::NotEligible("not eligible due to preemptionPolicy=Never.");
    }
    if waits_for_victims(cache, &info.pod, failure) {
        return Outcome::NotEligible(
            "not eligible due to a terminating pod on the nominated node.",
        );
    }
    let helpable = &failure.helpable;
    let args = &profile.args;
    let wanted = (failure.nodes * args.candidates_percent / 100).max(args.candidates_min);
    let mut candidates = Vec::new();
    for at in 0..helpable.len() {
        let Some(node) = helpable.get((start + at) % helpable.len()) else { break };
        candidates.extend(try_out(cache, profile, info, node));
        if candidates.len() >= wanted {
            break;
        }
    }
    let Some(best) = candidates.into_iter().min_by_key(rank) else {
        return Outcome::NotHelpful(unhelpful(failure));
    };
    let priority = info.pod.priority();
    let demoted = cache
        .nominated
        .iter()
        .filter(|(_, (node, it))| *node == best.node && it.pod.priority() < priority)
        .map(|(key, _)| key.clone())
        .collect();
    Outcome::Preempt(Preemption {
        node: best.node,
        victims: best.victims.iter().map(|it| Arc::clone(&it.pod)).collect(),
        demoted,
    })
}

/// Whether pods that this one displaced are still on their way out.
fn waits_for_victims(cache: &Cache, pod: &Pod, failure: &Unschedulable) -> bool {
    let nominated = &pod.status.nominated_node_name;
    let Some(node) = cache.nodes.get(nominated).filter(|_| failure.helpable.contains(nominated))
    else {
        return false;
    };
    node.pods.values().any(|it| {
        it.pod.priority() < pod.priority()
            && it.pod.metadata.is_deleting()
            && was_preempted(&it.pod)
    })
}

fn was_preempted(pod: &Pod) -> bool {
    pod.status
        .conditions
        .iter()
        .any(|it| it.kind == DISRUPTION_TARGET && it.status == "True" && it.reason == BY_SCHEDULER)
}

fn unhelpful(failure: &Unschedulable) -> String {
    let helpable = failure.helpable.len();
    let mut counts = BTreeMap::new();
    counts
        .insert("Preemption is not helpful for scheduling", failure.nodes.saturating_sub(helpable));
    counts.insert("No preemption victims found for incoming pod", helpable);
    counts.retain(|_, count| *count > 0);
    format!("0/{} nodes are available: {}.", failure.nodes, histogram(&counts))
}

/// Takes everything of lower priority off a node and puts back what the pod leaves room for,
/// those first that a budget protects, then by importance.
fn try_out(cache: &mut Cache, profile: &Profile, info: &PodInfo, node: &str) -> Option<Candidate> {
    let priority = info.pod.priority();
    let mut lower: Vec<Arc<PodInfo>> = cache
        .nodes
        .get(node)?
        .pods
        .values()
        .filter(|it| it.pod.priority() < priority)
        .cloned()
        .collect();
    if lower.is_empty() {
        return None;
    }
    lower.sort_by_key(|it| importance(&it.pod));
    lower.iter().for_each(|it| cache.remove_pod(&it.pod.metadata.key()));
    let mut victims = Vec::new();
    let mut violations = 0;
    let possible = fits(cache, profile, info, node).is_none();
    if possible {
        let (protected, free) = by_budget(cache, &lower);
        let protected_count = protected.len();
        for (at, it) in protected.into_iter().chain(free).enumerate() {
            cache.put(Arc::clone(&it), node);
            if fits(cache, profile, info, node).is_some() {
                cache.remove_pod(&it.pod.metadata.key());
                violations += usize::from(at < protected_count);
                victims.push(it);
            }
        }
    }
    lower.into_iter().for_each(|it| cache.put(it, node));
    victims.sort_by_key(|it| importance(&it.pod));
    (possible && !victims.is_empty()).then(|| Candidate {
        node: node.to_owned(),
        victims,
        violations,
    })
}

/// Smaller is more important: higher priority, then running for longer.
fn importance(pod: &Pod) -> (Reverse<i32>, Timestamp, Key) {
    (Reverse(pod.priority()), started(pod), pod.metadata.key())
}

fn started(pod: &Pod) -> Timestamp {
    pod.status.start_time.as_ref().map_or(Timestamp::MAX, |time| time.0)
}

/// Splits pods into those whose removal a disruption budget forbids and the others.
fn by_budget(cache: &Cache, pods: &[Arc<PodInfo>]) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    let mut left: BTreeMap<&Key, i32> =
        cache.budgets.iter().map(|(key, it)| (key, it.status.disruptions_allowed)).collect();
    pods.iter().cloned().partition(|it| {
        let meta = &it.pod.metadata;
        let mut violates = false;
        for (key, budget) in &cache.budgets {
            let concerns = key.namespace == meta.namespace
                && budget.selects(&meta.labels)
                && !budget.status.disrupted_pods.contains_key(&meta.name);
            if concerns && let Some(left) = left.get_mut(key) {
                *left -= 1;
                violates |= *left < 0;
            }
        }
        violates
    })
}

type Rank = (usize, i32, i64, usize, Reverse<Timestamp>);

/// Smaller is better: fewest violated budgets, least important first victim, smallest sum of
/// priorities, fewest victims, and victims that started last.
fn rank(candidate: &Candidate) -> Rank {
    let priorities = || candidate.victims.iter().map(|it| it.pod.priority());
    let highest = priorities().max().unwrap_or(i32::MIN);
    let earliest = candidate
        .victims
        .iter()
        .filter(|it| it.pod.priority() == highest)
        .map(|it| started(&it.pod))
        .min()
        .unwrap_or(Timestamp::MAX);
    let sum = priorities().map(|it| i64::from(it) + i64::from(i32::MAX) + 1).sum();
    (candidate.violations, highest, sum, candidate.victims.len(), Reverse(earliest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        framework::{
            Decision, decide,
            tests::{cluster, node},
        },
        types::Budget,
    };

    fn pod(name: &str, priority: i32, cpu: &str, extra: &str) -> Arc<Pod> {
        let text = format!(
            r#"{{"metadata":{{"name":"{name}","namespace":"n","uid":"{name}","labels":{{"app":"{name}"}}}},
            "spec":{{"priority":{priority}{extra},"containers":[{{"resources":{{"requests":{{"cpu":"{cpu}"}}}}}}]}}}}"#
        );
        Arc::new(serde_json::from_str(&text).unwrap())
    }

    fn run(cache: &mut Cache, pod: &Arc<Pod>) -> Result<(String, Vec<String>), String> {
        let info = PodInfo::new(Arc::clone(pod));
        let before = format!("{:?}", cache.nodes);
        let Decision::Unschedulable(failure) = decide(cache, &Profile::default(), &info, 0) else {
            panic!("there is room");
        };
        let outcome = preempt(cache, &Profile::default(), &info, &failure, 0);
        assert_eq!(format!("{:?}", cache.nodes), before, "trying out leaves no trace");
        match outcome {
            Outcome::Preempt(it) => {
                let names = it.victims.iter().map(|it| it.metadata.name.clone()).collect();
                Ok((it.node, names))
            }
            Outcome::Disabled => Err("disabled".into()),
            Outcome::NotEligible(text) => Err(text.to_owned()),
            Outcome::NotHelpful(text) => Err(text),
        }
    }

    fn victims(node: &str, names: &[&str]) -> Result<(String, Vec<String>), String> {
        Ok((node.to_owned(), names.iter().map(|it| (*it).to_owned()).collect()))
    }

    #[test]
    fn the_least_important_pods_that_suffice_make_way() {
        let mut cache = cluster(&[node("a", ""), node("b", "")]);
        cache.place(&pod("low", 1, "1", ""), "a");
        cache.place(&pod("mid", 5, "1", ""), "a");
        cache.place(&pod("mid2", 5, "1", ""), "b");
        cache.place(&pod("mid3", 5, "1", ""), "b");
        assert_eq!(run(&mut cache, &pod("new", 9, "1", "")), victims("a", &["low"]));
        assert_eq!(run(&mut cache, &pod("new", 9, "2", "")), victims("a", &["mid", "low"]));
        assert_eq!(run(&mut cache, &pod("new", 5, "1", "")), victims("a", &["low"]));
        assert_eq!(
            run(&mut cache, &pod("new", 1, "1", "")),
            Err("0/2 nodes are available: 2 No preemption victims found for incoming pod.".into())
        );
        assert_eq!(
            run(&mut cache, &pod("new", 9, "1", r#","preemptionPolicy":"Never""#)),
            Err("not eligible due to preemptionPolicy=Never.".into())
        );
        assert_eq!(
            run(&mut cache, &pod("new", 9, "8", "")),
            Err("0/2 nodes are available: 2 Preemption is not helpful for scheduling.".into())
        );
    }

    #[test]
    fn budgets_are_kept_where_another_node_will_do() {
        let mut cache = cluster(&[node("a", ""), node("b", "")]);
        cache.place(&pod("guarded", 1, "2", ""), "a");
        cache.place(&pod("other", 5, "2", ""), "b");
        let budget: Budget = serde_json::from_str(
            r#"{"metadata":{"name":"x","namespace":"n"},"spec":{"selector":{"matchLabels":{"app":"guarded"}}}}"#,
        )
        .unwrap();
        cache.budgets.insert(Key::new("n", "x"), Arc::new(budget));
        assert_eq!(run(&mut cache, &pod("new", 9, "1", "")), victims("b", &["other"]));
        cache.remove_pod(&Key::new("n", "other"));
        cache.place(&pod("other", 9, "2", ""), "b");
        assert_eq!(run(&mut cache, &pod("new", 9, "1", "")), victims("a", &["guarded"]));
    }

    #[test]
    fn a_promised_node_is_kept_for_its_pod() {
        let mut cache = cluster(&[node("a", "")]);
        cache.nominate(&pod("promised", 9, "2", ""), "a");
        let lower = PodInfo::new(pod("later", 5, "1", ""));
        assert!(matches!(
            decide(&mut cache, &Profile::default(), &lower, 0),
            Decision::Unschedulable(_)
        ));
        let higher = PodInfo::new(pod("higher", 10, "1", ""));
        assert!(matches!(decide(&mut cache, &Profile::default(), &higher, 0), Decision::Node(_)));
        let itself = PodInfo::new(pod("promised", 9, "2", ""));
        assert!(matches!(decide(&mut cache, &Profile::default(), &itself, 0), Decision::Node(_)));
    }
}
