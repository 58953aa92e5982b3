//! How long kubelets may cache Secrets and ConfigMaps: an annotation on nodes that grows with the
//! cluster.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use client::{Action, Event, Key, Patch, WorkQueue, is_not_found};
use serde_json::json;

use crate::{Cx, Running, caches::NODES, types::core::Node, workers};

const NAME: &str = "ttl-controller";
const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// Fewest and most nodes of a step, and its seconds; the steps overlap, so that a cluster at an
/// edge does not go back and forth.
const STEPS: [(usize, usize, u32); 6] = [
    (0, 100, 0),
    (90, 500, 15),
    (450, 1000, 30),
    (900, 2000, 60),
    (1800, 10000, 300),
    (9000, usize::MAX, 300),
];

pub(crate) fn start(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    let filled = queue.clone();
    let nodes = cx.caches.nodes.lister();
    let at = Arc::new(Mutex::new(0));
    let known = Arc::clone(&at);
    cx.caches.nodes.on_event(move |event| {
        let mut at = known.lock().unwrap_or_else(PoisonError::into_inner);
        let next = step(*at, nodes.len());
        if next != *at {
            *at = next;
            nodes.for_each(|node| filled.add(node.metadata.key()));
        }
        if !matches!(event, Event::Deleted(_)) {
            filled.add(event.object().metadata.key());
        }
    });
    let shared = Arc::new(cx.clone());
    workers(cx, NAME, 4, &queue, move |key| {
        let cx = Arc::clone(&shared);
        let at = *at.lock().unwrap_or_else(PoisonError::into_inner);
        async move { reconcile(&cx, &key, at).await }
    })
}

/// The step for so many nodes, coming from another.
fn step(mut at: usize, nodes: usize) -> usize {
    while STEPS.get(at).is_some_and(|(_, most, _)| nodes > *most) {
        at += 1;
    }
    while at > 0 && STEPS.get(at).is_some_and(|(fewest, _, _)| nodes < *fewest) {
        at -= 1;
    }
    at
}

async fn reconcile(cx: &Cx, key: &Key, at: usize) -> Result<Action> {
    let Some(node) = cx.caches.nodes.lister().get(key) else { return Ok(Action::Done) };
    let seconds = STEPS.get(at).map_or(0, |(_, _, seconds)| *seconds).to_string();
    if node.metadata.annotation(ANNOTATION) == Some(&seconds) {
        return Ok(Action::Done);
    }
    let body = json!({"metadata": {"annotations": {ANNOTATION: seconds}}});
    match cx.rest.patch::<Node>(&NODES, key, "", Patch::Merge, &body).await {
        Ok(node) => cx.caches.nodes.observe(node),
        Err(err) if is_not_found(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("annotating node {key}")),
    }
    Ok(Action::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_overlap() {
        let check = |from, nodes, want| assert_eq!(step(from, nodes), want, "{from} {nodes}");
        check(0, 100, 0);
        check(0, 101, 1);
        check(1, 95, 1);
        check(1, 89, 0);
        check(0, 1500, 3);
        check(5, 10, 0);
    }
}
