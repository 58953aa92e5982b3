//! Pods that nobody will clean up: of nodes that are gone, deleted before they had a node, and the
//! oldest finished ones beyond the threshold.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use client::{Action, Key, WorkQueue};
use serde_json::json;

use crate::{
    Cx, Running,
    caches::{NODES, PODS},
    types::{Partial, core::Pod},
    workers,
};

const NAME: &str = "pod-garbage-collector-controller";
/// A node may be replaced under its name; its pods are left alone this long.
const QUARANTINE: Duration = Duration::from_secs(40);

pub(crate) fn start(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    let threshold = usize::try_from(cx.args.terminated_pod_gc_threshold).unwrap_or(usize::MAX);
    let (filled, nodes, pods) = (queue.clone(), cx.caches.nodes.lister(), cx.caches.pods.lister());
    cx.caches.pods.on_event(move |event| {
        let pod = event.object();
        if matches!(event, client::Event::Deleted(_)) {
            return;
        }
        if pod.spec.node_name.is_empty() {
            if pod.metadata.is_deleting() {
                filled.add(pod.metadata.key());
            }
        } else if nodes.get(&Key::cluster(pod.spec.node_name.clone())).is_none() {
            filled.add_after(pod.metadata.key(), QUARANTINE);
        }
        let ends = pod.is_finished() && event.old().is_none_or(|old| !old.is_finished());
        if ends && threshold > 0 && pods.len() > threshold {
            for pod in surplus(&pods.list(), threshold) {
                filled.add(pod.metadata.key());
            }
        }
    });
    let (filled, pods, by_node) = (queue.clone(), cx.caches.pods.lister(), cx.caches.pods_by_node);
    cx.caches.nodes.on_event(move |event| {
        if let client::Event::Deleted(node) = event {
            for pod in pods.by_index(by_node, &node.metadata.name) {
                filled.add_after(pod.metadata.key(), QUARANTINE);
            }
        }
    });
    let shared = Arc::new(cx.clone());
    workers(cx, NAME, 4, &queue, move |key| {
        let cx = Arc::clone(&shared);
        async move { reconcile(&cx, &key, threshold).await }
    })
}

fn surplus(pods: &[Arc<Pod>], threshold: usize) -> Vec<Arc<Pod>> {
    let mut finished: Vec<Arc<Pod>> =
        pods.iter().filter(|pod| pod.is_finished()).cloned().collect();
    finished.sort_by_key(|pod| (pod.metadata.created(), pod.metadata.name.clone()));
    let count = finished.len().saturating_sub(threshold);
    finished.truncate(count);
    finished
}

async fn reconcile(cx: &Cx, key: &Key, threshold: usize) -> Result<Action> {
    let Some(pod) = cx.caches.pods.lister().get(key) else { return Ok(Action::Done) };
    let node = pod.spec.node_name.as_str();
    if node.is_empty() {
        if pod.metadata.is_deleting() {
            force_delete(cx, &pod).await?;
        }
        return Ok(Action::Done);
    }
    if cx.caches.nodes.lister().get(&Key::cluster(node)).is_none() {
        // Looked up past the cache: a node that was just made must not lose its pods.
        match cx.rest.get::<Partial>(&NODES, &Key::cluster(node)).await {
            Err(err) if client::is_not_found(&err) => force_delete(cx, &pod).await?,
            Err(err) => return Err(err.into()),
            Ok(_) => {}
        }
        return Ok(Action::Done);
    }
    if pod.is_finished()
        && surplus(&cx.caches.pods.lister().list(), threshold)
            .iter()
            .any(|it| it.metadata.uid == pod.metadata.uid)
    {
        force_delete(cx, &pod).await?;
    }
    Ok(Action::Done)
}

async fn force_delete(cx: &Cx, pod: &Pod) -> Result<()> {
    let key = pod.metadata.key();
    let options = json!({
        "kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0,
        "preconditions": {"uid": pod.metadata.uid},
    });
    tracing::info!(pod = %key, "Pod without a node was deleted");
    match cx.rest.delete_with(&PODS, &key, options).await {
        Err(err) if !client::is_not_found(&err) && !client::is_conflict(&err) => Err(err.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_finished_pods_are_surplus() {
        let pod = |name: &str, phase: &str| {
            let mut pod = Pod::default();
            pod.metadata.name = name.into();
            pod.status.phase = phase.into();
            Arc::new(pod)
        };
        let pods = [pod("a", "Failed"), pod("b", "Running"), pod("c", "Succeeded")];
        let found = surplus(&pods, 1);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].metadata.name, "a");
        assert!(surplus(&pods, 2).is_empty());
    }
}
