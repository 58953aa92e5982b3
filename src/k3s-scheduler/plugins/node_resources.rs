//! NodeResourcesFit with its scoring strategies, and NodeResourcesBalancedAllocation.

use super::Prepared;
use crate::{
    cache::{Cache, NodeInfo, PodInfo},
    framework::{Rejection, SCORE_MAX},
    profile::{PluginArgs, Strategy},
    resources::Resources,
};

pub(crate) const FIT: &str = "NodeResourcesFit";

pub(super) fn fit(
    _: &Cache,
    prepared: &Prepared<'_>,
    info: &PodInfo,
    node: &NodeInfo,
) -> Option<Rejection> {
    let mut reasons = Vec::new();
    let mut never = false;
    let (have, used, want) = (&node.allocatable, &node.requested, &info.requests);
    if i64::try_from(node.pods.len()).unwrap_or(i64::MAX) + 1 > have.pods {
        reasons.push("Too many pods".to_owned());
    }
    let mut check = |name: &str, have: i64, used: i64, want: i64| {
        if want > 0 && want > have - used {
            reasons.push(format!("Insufficient {name}"));
            never |= want > have;
        }
    };
    check("cpu", have.cpu, used.cpu, want.cpu);
    check("memory", have.memory, used.memory, want.memory);
    let storage = (have.ephemeral_storage, used.ephemeral_storage, want.ephemeral_storage);
    check("ephemeral-storage", storage.0, storage.1, storage.2);
    for (name, want) in &want.extended {
        if !ignores(&prepared.profile.args, name) {
            check(name, have.get(name), used.get(name), *want);
        }
    }
    (!reasons.is_empty()).then_some(Rejection { plugin: FIT, reasons, resolvable: !never })
}

fn ignores(args: &PluginArgs, name: &str) -> bool {
    args.ignored_resources.contains(name)
        || name.split_once('/').is_some_and(|(group, _)| args.ignored_groups.contains(group))
}

/// By the profile's strategy, over its resources.
pub(super) fn score(
    _: &Cache,
    prepared: &Prepared<'_>,
    info: &PodInfo,
    nodes: &[&NodeInfo],
) -> Vec<i64> {
    let args = &prepared.profile.args;
    nodes
        .iter()
        .map(|node| {
            let (mut sum, mut weights) = (0, 0);
            for (name, weight) in &args.scored {
                let have = node.allocatable.get(name);
                // A resource that the pod does not ask for by itself says nothing.
                if have == 0 || (is_extended(name) && info.requests.get(name) == 0) {
                    continue;
                }
                let used = node.nonzero.get(name) + info.nonzero.get(name);
                let score = rate(&args.strategy, have, used);
                if score > 0 || !matches!(args.strategy, Strategy::Shape(_)) {
                    sum += score * weight;
                    weights += weight;
                }
            }
            match &args.strategy {
                _ if weights == 0 => 0,
                Strategy::Shape(_) => (sum as f64 / weights as f64).round() as i64,
                _ => sum / weights,
            }
        })
        .collect()
}

fn is_extended(name: &str) -> bool {
    !matches!(name, "cpu" | "memory" | "ephemeral-storage")
}

fn rate(strategy: &Strategy, have: i64, used: i64) -> i64 {
    match strategy {
        Strategy::LeastAllocated if used > have => 0,
        Strategy::LeastAllocated => percent(have - used, have),
        Strategy::MostAllocated => percent(used.min(have), have),
        Strategy::Shape(shape) => at(shape, if used > have { 100 } else { percent(used, have) }),
    }
}

fn percent(part: i64, whole: i64) -> i64 {
    i64::try_from(i128::from(part) * i128::from(SCORE_MAX) / i128::from(whole)).unwrap_or(SCORE_MAX)
}

/// The value of a broken line.
fn at(shape: &[(i64, i64)], x: i64) -> i64 {
    let next = shape.iter().position(|(at, _)| x <= *at);
    match next {
        Some(0) => shape[0].1,
        Some(next) => {
            let ((x0, y0), (x1, y1)) = (shape[next - 1], shape[next]);
            y0 + (y1 - y0) * (x - x0) / (x1 - x0)
        }
        None => shape.last().map_or(0, |(_, y)| *y),
    }
}

/// Resources used to a similar degree are better.
pub(super) fn balanced(
    _: &Cache,
    prepared: &Prepared<'_>,
    info: &PodInfo,
    nodes: &[&NodeInfo],
) -> Vec<i64> {
    let names = &prepared.profile.args.balanced;
    if names.iter().all(|name| info.requests.get(name) == 0) {
        return vec![0; nodes.len()];
    }
    nodes
        .iter()
        .map(|node| balance(names, &node.allocatable, &node.requested, &info.requests))
        .collect()
}

fn balance(names: &[String], have: &Resources, used: &Resources, want: &Resources) -> i64 {
    let mut fractions = Vec::with_capacity(names.len());
    for name in names {
        let total = have.get(name);
        if total == 0 || (is_extended(name) && want.get(name) == 0) {
            continue;
        }
        fractions.push(((used.get(name) + want.get(name)) as f64 / total as f64).min(1.0));
    }
    let deviation = match fractions.as_slice() {
        [] | [_] => 0.0,
        [one, two] => (one - two).abs() / 2.0,
        many => {
            let mean = many.iter().sum::<f64>() / many.len() as f64;
            let squares: f64 = many.iter().map(|it| (it - mean).powi(2)).sum();
            (squares / many.len() as f64).sqrt()
        }
    };
    ((1.0 - deviation) * SCORE_MAX as f64) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strategies_rate_as_upstream() {
        let shape = Strategy::Shape(vec![(0, 0), (50, 100), (100, 20)]);
        let check = |strategy: &Strategy, used: i64, want: i64| {
            assert_eq!(rate(strategy, 200, used), want, "{strategy:?} {used}");
        };
        check(&Strategy::LeastAllocated, 50, 75);
        check(&Strategy::LeastAllocated, 300, 0);
        check(&Strategy::MostAllocated, 50, 25);
        check(&Strategy::MostAllocated, 300, 100);
        check(&shape, 0, 0);
        check(&shape, 50, 50);
        check(&shape, 100, 100);
        check(&shape, 150, 60);
        check(&shape, 999, 20);
    }

    #[test]
    fn balance_is_one_minus_the_deviation() {
        let of = |cpu, memory| Resources { cpu, memory, ..Resources::default() };
        let names = ["cpu".to_owned(), "memory".to_owned()];
        let check = |used: (i64, i64), want| {
            assert_eq!(balance(&names, &of(100, 100), &of(0, 0), &of(used.0, used.1)), want);
        };
        check((50, 50), 100);
        check((100, 0), 50);
        check((60, 20), 80);
    }
}
