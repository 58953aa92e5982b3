//! Each node gets its own part of the cluster CIDR in `spec.podCIDR`.
//!
//! Invariant: a part is given to at most one node; the nodes in the cache are the only record.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use anyhow::{Context, Result};
use client::{Action, EventType, Key, ObjectReference, Patch, WorkQueue, is_not_found};
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use serde_json::json;

use crate::{Cx, Running, caches::NODES, types::core::Node, workers};

const NAME: &str = "node-ipam-controller";

pub(crate) fn start(cx: &Cx) -> Running {
    if !cx.args.allocate_node_cidrs {
        return Box::pin(async {});
    }
    let queue = WorkQueue::new();
    let filled = queue.clone();
    let nodes = cx.caches.nodes.lister();
    cx.caches.nodes.on_event(move |event| match event {
        // A freed part may be what another node waits for.
        client::Event::Deleted(_) => nodes.for_each(|node| {
            if node.spec.pod_cidr.is_empty() {
                filled.add(node.metadata.key());
            }
        }),
        event => {
            if event.object().spec.pod_cidr.is_empty() {
                filled.add(event.object().metadata.key());
            }
        }
    });
    let shared = Arc::new(cx.clone());
    // One worker: allocation is a decision over all nodes.
    workers(cx, NAME, 1, &queue, move |key| {
        let cx = Arc::clone(&shared);
        async move { reconcile(&cx, &key).await }
    })
}

async fn reconcile(cx: &Cx, key: &Key) -> Result<Action> {
    let nodes = cx.caches.nodes.lister();
    let Some(node) = nodes.get(key) else { return Ok(Action::Done) };
    if !node.spec.pod_cidr.is_empty() || node.metadata.is_deleting() {
        return Ok(Action::Done);
    }
    let of_family = match cx.args.cluster_cidr {
        IpNetwork::V4(_) => cx.args.node_cidr_mask_size_ipv4,
        IpNetwork::V6(_) => cx.args.node_cidr_mask_size_ipv6,
    };
    let mask_size = of_family.or(cx.args.node_cidr_mask_size);
    let Some(cidr) = plan(cx.args.cluster_cidr, mask_size, &nodes.list()) else {
        let about = ObjectReference::new(&NODES, &node.metadata);
        let message = format!("Node {} status is now: CIDRNotAvailable", key.name);
        cx.recorder.event(&about, EventType::Normal, "CIDRNotAvailable", message);
        return Ok(Action::Done);
    };
    let body = json!({
        "metadata": {"resourceVersion": node.metadata.resource_version},
        "spec": {"podCIDR": cidr.to_string(), "podCIDRs": [cidr.to_string()]},
    });
    match cx.rest.patch::<Node>(&NODES, key, "", Patch::Strategic, &body).await {
        Ok(node) => {
            tracing::info!(node = key.name, cidr = %cidr, "Pod CIDR was assigned");
            cx.caches.nodes.observe(node);
            Ok(Action::Done)
        }
        Err(err) if is_not_found(&err) => Ok(Action::Done),
        Err(err) => Err(err).with_context(|| format!("assigning a pod CIDR to node {key}")),
    }
}

/// The first free part.
fn plan(cluster: IpNetwork, mask: Option<u8>, nodes: &[Arc<Node>]) -> Option<IpNetwork> {
    let used: HashSet<IpNetwork> =
        nodes.iter().filter_map(|node| node.spec.pod_cidr.parse().ok()).collect();
    let mask = mask.unwrap_or(if cluster.is_ipv4() { 24 } else { 64 });
    let bits = mask.checked_sub(cluster.prefix())?;
    let parts = 1_u128.checked_shl(u32::from(bits)).unwrap_or(u128::MAX).min(1 << 20);
    (0..parts).filter_map(|index| part(cluster, mask, index)).find(|part| !used.contains(part))
}

fn part(cluster: IpNetwork, mask: u8, index: u128) -> Option<IpNetwork> {
    match cluster.network() {
        IpAddr::V4(base) => {
            let offset =
                u32::try_from(index).ok()?.checked_shl(32_u32.checked_sub(mask.into())?)?;
            let base = u32::from(base).checked_add(offset)?;
            Ipv4Network::new(base.into(), mask).ok().map(IpNetwork::V4)
        }
        IpAddr::V6(base) => {
            let offset = index.checked_shl(128_u32.checked_sub(mask.into())?)?;
            let base = u128::from(base).checked_add(offset)?;
            Ipv6Network::new(base.into(), mask).ok().map(IpNetwork::V6)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(cluster: &str, mask: Option<u8>, used: &[&str], want: Option<&str>) {
        let nodes: Vec<Arc<Node>> = used
            .iter()
            .map(|cidr| {
                let mut node = Node::default();
                node.spec.pod_cidr = (*cidr).to_owned();
                Arc::new(node)
            })
            .collect();
        let found = plan(cluster.parse().unwrap(), mask, &nodes).map(|it| it.to_string());
        assert_eq!(found.as_deref(), want);
    }

    #[test]
    fn the_first_free_part_is_taken() {
        check("10.42.0.0/16", None, &[], Some("10.42.0.0/24"));
        check("10.42.0.0/16", None, &["10.42.0.0/24", "10.42.2.0/24"], Some("10.42.1.0/24"));
        check("10.42.0.0/23", None, &["10.42.0.0/24", "10.42.1.0/24"], None);
        check("fd00:42::/56", None, &["fd00:42::/64"], Some("fd00:42:0:1::/64"));
        check("10.42.0.0/24", Some(16), &[], None);
    }
}
