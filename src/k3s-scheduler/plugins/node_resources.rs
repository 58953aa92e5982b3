//! NodeResourcesFit (least allocated) and NodeResourcesBalancedAllocation.

use super::Prepared;
use crate::{
    cache::{Cache, NodeInfo, PodInfo},
    framework::{Rejection, SCORE_MAX},
};

pub(crate) const FIT: &str = "NodeResourcesFit";

pub(super) fn fit(
    _: &Cache,
    _: &Prepared<'_>,
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
        let of = |it: &crate::resources::Resources| it.extended.get(name).copied().unwrap_or(0);
        check(name, of(have), of(used), *want);
    }
    (!reasons.is_empty()).then_some(Rejection { plugin: FIT, reasons, resolvable: !never })
}

/// The emptier the better, over CPU and memory.
pub(super) fn least_allocated(
    _: &Cache,
    _: &Prepared<'_>,
    info: &PodInfo,
    nodes: &[&NodeInfo],
) -> Vec<i64> {
    let free = |have: i64, used: i64| {
        if have == 0 || used > have { 0 } else { (have - used) * SCORE_MAX / have }
    };
    nodes
        .iter()
        .map(|node| {
            let cpu = free(node.allocatable.cpu, node.nonzero.cpu + info.nonzero.cpu);
            let memory = free(node.allocatable.memory, node.nonzero.memory + info.nonzero.memory);
            i64::midpoint(cpu, memory)
        })
        .collect()
}

/// CPU and memory used to a similar degree is better.
pub(super) fn balanced(
    _: &Cache,
    _: &Prepared<'_>,
    info: &PodInfo,
    nodes: &[&NodeInfo],
) -> Vec<i64> {
    if info.requests.cpu == 0 && info.requests.memory == 0 {
        return vec![0; nodes.len()];
    }
    // Thousandths are exact enough to compare, and stay integers.
    let fraction = |have: i64, used: i64| {
        if have == 0 { 1000 } else { (i128::from(used) * 1000 / i128::from(have)).min(1000) }
    };
    nodes
        .iter()
        .map(|node| {
            let (have, used, want) = (&node.allocatable, &node.requested, &info.requests);
            let cpu = fraction(have.cpu, used.cpu + want.cpu);
            let memory = fraction(have.memory, used.memory + want.memory);
            let deviation = (cpu - memory).abs() / 2;
            i64::try_from((1000 - deviation) / 10).unwrap_or(0)
        })
        .collect()
}
