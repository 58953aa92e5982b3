//! How many pods each ReplicaSet of a Deployment should have next. Pure.
//!
//! Invariant: the sum never exceeds replicas + maxSurge by what is decided here, and no available
//! pod is taken below replicas − maxUnavailable.

use std::{cmp::Reverse, sync::Arc};

use super::{DESIRED, MAX, Sets, revision};
use crate::types::apps::{Deployment, ReplicaSet};

/// One ReplicaSet and the size it should have; the size may be the one it has, when only its
/// annotations are stale.
#[derive(Clone, Debug)]
pub(super) struct Scale {
    pub(super) set: Arc<ReplicaSet>,
    pub(super) to: i32,
}

pub(super) fn replicas(d: &Deployment) -> i32 {
    d.spec.replicas.unwrap_or(1)
}

fn is_rolling(d: &Deployment) -> bool {
    d.spec.strategy.kind != "Recreate"
}

/// maxSurge and maxUnavailable; both zero means one may be unavailable.
fn fenceposts(d: &Deployment) -> (i32, i32) {
    let total = replicas(d);
    let rolling = d.spec.strategy.rolling_update.as_ref();
    let surge = rolling.and_then(|it| it.max_surge.as_ref()).map_or(0, |it| it.scaled(total, true));
    let unavailable =
        rolling.and_then(|it| it.max_unavailable.as_ref()).map_or(0, |it| it.scaled(total, false));
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

pub(super) fn max_surge(d: &Deployment) -> i32 {
    if is_rolling(d) { fenceposts(d).0 } else { 0 }
}

pub(super) fn max_unavailable(d: &Deployment) -> i32 {
    if !is_rolling(d) || replicas(d) == 0 {
        return 0;
    }
    fenceposts(d).1.min(replicas(d))
}

fn sum<'a>(sets: impl IntoIterator<Item = &'a Arc<ReplicaSet>>, of: fn(&ReplicaSet) -> i32) -> i32 {
    sets.into_iter().map(|set| of(set)).sum()
}

fn size_annotation(set: &ReplicaSet, name: &str) -> Option<i32> {
    set.metadata.annotation(name)?.parse().ok()
}

/// Whether the Deployment was scaled since its ReplicaSets were last sized.
pub(super) fn is_scaling(d: &Deployment, sets: &Sets) -> bool {
    sets.all()
        .filter(|set| set.replicas() > 0)
        .any(|set| size_annotation(set, DESIRED).is_some_and(|it| it != replicas(d)))
}

/// The size of the new ReplicaSet as far as surge allows.
pub(super) fn new_replicas(d: &Deployment, sets: &Sets) -> i32 {
    let own = sets.new.as_ref().map_or(0, |set| set.replicas());
    if !is_rolling(d) {
        return replicas(d);
    }
    let max_total = replicas(d) + max_surge(d);
    let current = sum(sets.all(), ReplicaSet::replicas);
    if current >= max_total {
        return own;
    }
    own + (max_total - current).min(replicas(d) - own)
}

/// One step of a rolling update.
pub(super) fn rolling(d: &Deployment, sets: &Sets) -> Vec<Scale> {
    let Some(new) = &sets.new else { return Vec::new() };
    if new.replicas() != replicas(d) {
        let to = if new.replicas() > replicas(d) { replicas(d) } else { new_replicas(d, sets) };
        if to != new.replicas() {
            return vec![Scale { set: Arc::clone(new), to }];
        }
    }
    old_down(d, sets, new)
}

/// Old ReplicaSets shrink: unhealthy pods first, then as many as availability allows.
fn old_down(d: &Deployment, sets: &Sets, new: &ReplicaSet) -> Vec<Scale> {
    let min_available = replicas(d) - max_unavailable(d);
    let total = sum(sets.all(), ReplicaSet::replicas);
    let new_unavailable = new.replicas() - available(new);
    let mut budget = total - min_available - new_unavailable;
    if sum(&sets.old, ReplicaSet::replicas) == 0 || budget <= 0 {
        return Vec::new();
    }
    let mut sizes: Vec<(Arc<ReplicaSet>, i32)> =
        sets.old.iter().map(|set| (Arc::clone(set), set.replicas())).collect();
    for (set, size) in &mut sizes {
        let unhealthy = (*size - set.status.available_replicas).max(0);
        let down = unhealthy.min(budget).min(*size);
        *size -= down;
        budget -= down;
    }
    let mut healthy = sum(sets.all(), available) - min_available;
    for (_, size) in &mut sizes {
        let down = (*size).min(healthy.max(0));
        *size -= down;
        healthy -= down;
    }
    changed(sizes)
}

/// A status that is behind may count pods that are no longer wanted: they do not count here.
fn available(set: &ReplicaSet) -> i32 {
    set.status.available_replicas.min(set.replicas())
}

fn changed(sizes: Vec<(Arc<ReplicaSet>, i32)>) -> Vec<Scale> {
    sizes
        .into_iter()
        .filter(|(set, to)| set.replicas() != *to)
        .map(|(set, to)| Scale { set, to })
        .collect()
}

pub(super) fn recreate_down(sets: &Sets) -> Vec<Scale> {
    changed(sets.old.iter().map(|set| (Arc::clone(set), 0)).collect())
}

pub(super) fn recreate_up(d: &Deployment, sets: &Sets) -> Vec<Scale> {
    changed(sets.new.iter().map(|set| (Arc::clone(set), replicas(d))).collect())
}

/// A Deployment that was scaled in the middle of a rollout, or while paused: every ReplicaSet
/// gets its share.
pub(super) fn proportional(d: &Deployment, sets: &Sets) -> Vec<Scale> {
    let active: Vec<&Arc<ReplicaSet>> = sets.all().filter(|set| set.replicas() > 0).collect();
    let only = match active.as_slice() {
        [] => sets.new.as_ref().or_else(|| sets.old.iter().max_by_key(|set| revision(set))),
        [one] => Some(*one),
        _ => None,
    };
    if let Some(only) = only {
        return sized(d, vec![(Arc::clone(only), replicas(d))]);
    }
    if let Some(new) = &sets.new
        && new.replicas() == replicas(d)
        && size_annotation(new, DESIRED) == Some(replicas(d))
        && new.status.available_replicas == replicas(d)
    {
        return sized(d, sets.old.iter().map(|set| (Arc::clone(set), 0)).collect());
    }
    if is_rolling(d) { shares(d, &active) } else { Vec::new() }
}

fn shares(d: &Deployment, active: &[&Arc<ReplicaSet>]) -> Vec<Scale> {
    let allowed = if replicas(d) > 0 { replicas(d) + max_surge(d) } else { 0 };
    let to_add = allowed - sum(active.iter().copied(), ReplicaSet::replicas);
    let mut sets: Vec<Arc<ReplicaSet>> = active.iter().map(|set| Arc::clone(set)).collect();
    if to_add > 0 {
        sets.sort_by_key(|set| (Reverse(set.replicas()), Reverse(set.metadata.created())));
    } else {
        sets.sort_by_key(|set| (Reverse(set.replicas()), set.metadata.created()));
    }
    let mut added = 0;
    let mut sizes: Vec<(Arc<ReplicaSet>, i32)> = Vec::with_capacity(sets.len());
    for set in sets {
        let mut size = set.replicas();
        if to_add != 0 {
            let share = share(d, &set);
            let left = to_add - added;
            let share = if to_add > 0 { share.min(left) } else { share.max(left) };
            size += share;
            added += share;
        }
        sizes.push((set, size));
    }
    if let Some((_, first)) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    sized(d, sizes)
}

/// How much a ReplicaSet grows or shrinks when the whole goes from its recorded size to the new.
fn share(d: &Deployment, set: &ReplicaSet) -> i32 {
    if replicas(d) == 0 {
        return -set.replicas();
    }
    let whole = replicas(d) + max_surge(d);
    let before = size_annotation(set, MAX).filter(|it| *it > 0).unwrap_or(d.status.replicas.max(1));
    let scaled = f64::from(set.replicas()) * f64::from(whole) / f64::from(before);
    // The sizes are small positive numbers.
    #[expect(clippy::cast_possible_truncation, reason = "rounded sizes fit")]
    let scaled = scaled.round() as i32;
    scaled - set.replicas()
}

/// The scalings that change a size or a stale size annotation.
fn sized(d: &Deployment, sizes: Vec<(Arc<ReplicaSet>, i32)>) -> Vec<Scale> {
    let stale = |set: &ReplicaSet| {
        size_annotation(set, DESIRED) != Some(replicas(d))
            || size_annotation(set, MAX) != Some(replicas(d) + max_surge(d))
    };
    sizes
        .into_iter()
        .filter(|(set, to)| set.replicas() != *to || stale(set))
        .map(|(set, to)| Scale { set, to })
        .collect()
}

/// Old ReplicaSets beyond `revisionHistoryLimit`, empty and observed, oldest revision first.
pub(super) fn surplus_history(d: &Deployment, sets: &Sets) -> Vec<Arc<ReplicaSet>> {
    let Some(limit) = d.spec.revision_history_limit else { return Vec::new() };
    let mut old: Vec<&Arc<ReplicaSet>> =
        sets.old.iter().filter(|set| !set.metadata.is_deleting()).collect();
    old.sort_by_key(|set| revision(set));
    let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    let unused = |set: &Arc<ReplicaSet>| {
        set.status.replicas == 0
            && set.replicas() == 0
            && set.metadata.generation <= set.status.observed_generation
    };
    old.into_iter().take(surplus).filter(|set| unused(set)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{IntOrString, apps::RollingUpdate};

    fn deployment(replicas: i32, surge: i32, unavailable: i32) -> Deployment {
        let mut d = Deployment::default();
        d.spec.replicas = Some(replicas);
        d.spec.strategy.kind = "RollingUpdate".into();
        d.spec.strategy.rolling_update = Some(RollingUpdate {
            max_surge: Some(IntOrString::Int(surge)),
            max_unavailable: Some(IntOrString::Int(unavailable)),
            partition: None,
        });
        d
    }

    fn set(name: &str, replicas: i32, available: i32, max: i32) -> Arc<ReplicaSet> {
        let mut set = ReplicaSet::default();
        set.metadata.name = name.into();
        set.metadata.annotations.insert(MAX.into(), max.to_string());
        set.spec.replicas = Some(replicas);
        set.status.replicas = replicas;
        set.status.available_replicas = available;
        Arc::new(set)
    }

    fn sets(new: (i32, i32), old: &[(i32, i32)]) -> Sets {
        Sets {
            new: Some(set("new", new.0, new.1, 0)),
            old: old
                .iter()
                .enumerate()
                .map(|(at, (size, available))| set(&format!("old{at}"), *size, *available, 0))
                .collect(),
        }
    }

    fn names(scales: Vec<Scale>) -> Vec<(String, i32)> {
        scales.into_iter().map(|it| (it.set.metadata.name.clone(), it.to)).collect()
    }

    fn check(d: (i32, i32, i32), new: (i32, i32), old: &[(i32, i32)], want: &[(&str, i32)]) {
        let found = names(rolling(&deployment(d.0, d.1, d.2), &sets(new, old)));
        let found: Vec<(&str, i32)> = found.iter().map(|(name, to)| (name.as_str(), *to)).collect();
        assert_eq!(found, want, "{d:?} {new:?} {old:?}");
    }

    #[test]
    fn rolling_updates_stay_between_the_fenceposts() {
        check((10, 3, 2), (0, 0), &[(10, 10)], &[("new", 3)]);
        check((10, 3, 2), (3, 0), &[(10, 10)], &[("old0", 8)]);
        check((10, 3, 2), (3, 0), &[(8, 8)], &[("new", 5)]);
        check((10, 3, 2), (5, 0), &[(8, 8)], &[]);
        check((10, 3, 2), (5, 5), &[(8, 8)], &[("old0", 3)]);
        check((10, 3, 2), (10, 10), &[(3, 3)], &[("old0", 0)]);
        check((1, 0, 0), (0, 0), &[(1, 1)], &[("old0", 0)]);
        check((3, 1, 0), (1, 0), &[(3, 3)], &[]);
        check((3, 1, 0), (1, 1), &[(3, 3)], &[("old0", 2)]);
        check((2, 1, 0), (2, 2), &[(0, 0)], &[]);
        check((2, 1, 0), (3, 2), &[], &[("new", 2)]);
    }

    #[test]
    fn unhealthy_old_pods_go_first() {
        check((4, 1, 1), (1, 0), &[(2, 0), (2, 2)], &[("old0", 1)]);
    }

    #[test]
    fn scaling_in_a_rollout_shares_in_proportion() {
        let d = deployment(30, 3, 2);
        let both = Sets { new: Some(set("new", 5, 0, 13)), old: vec![set("old", 8, 8, 13)] };
        assert_eq!(names(proportional(&d, &both)), [("old".into(), 20), ("new".into(), 13)]);
        let down = deployment(0, 3, 2);
        assert_eq!(names(proportional(&down, &both)), [("old".into(), 0), ("new".into(), 0)]);
    }

    #[test]
    fn history_beyond_the_limit_goes_when_unused() {
        let mut d = deployment(1, 1, 0);
        d.spec.revision_history_limit = Some(1);
        let found = surplus_history(&d, &sets((1, 1), &[(0, 0), (1, 1), (0, 0)]));
        let names: Vec<&str> = found.iter().map(|set| set.metadata.name.as_str()).collect();
        assert_eq!(names, ["old0"]);
    }
}
