//! ImageLocality: nodes that have the pod's images already, weighed by size and how common they
//! are.

use super::Prepared;
use crate::{
    cache::{Cache, NodeInfo, PodInfo, normalised},
    framework::SCORE_MAX,
};

const MIB: i64 = 1 << 20;
const MIN: i64 = 23 * MIB;
const MAX_PER_CONTAINER: i64 = 1000 * MIB;

pub(super) fn score(
    cache: &Cache,
    _: &Prepared<'_>,
    info: &PodInfo,
    nodes: &[&NodeInfo],
) -> Vec<i64> {
    let spec = &info.pod.spec;
    let images: Vec<String> = spec
        .containers
        .iter()
        .chain(&spec.init_containers)
        .map(|container| normalised(&container.image))
        .collect();
    let count = i64::try_from(images.len()).unwrap_or(1).max(1);
    let total = i64::try_from(cache.nodes.len()).unwrap_or(1).max(1);
    let top = MAX_PER_CONTAINER * count;
    nodes
        .iter()
        .map(|node| {
            let sum: i64 = images
                .iter()
                .filter_map(|image| {
                    let size = node.images.get(image)?;
                    let spread = cache.image_nodes.get(image).copied().unwrap_or(0);
                    Some(size / total * i64::try_from(spread).unwrap_or(0))
                })
                .sum();
            SCORE_MAX * (sum.clamp(MIN, top) - MIN) / (top - MIN)
        })
        .collect()
}
