//! Pods that the API server binds to this node.

use std::sync::Arc;

use client::{Event, Reflector, Selection};
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;

use crate::typed::{PODS, Typed};

/// A change of a pod in the API.
#[derive(Debug)]
pub(crate) enum Change {
    Set(Arc<Pod>),
    Gone(Arc<Pod>),
}

/// The reflector of this node's pods, and the channel that tells there is something to take.
pub(crate) fn reflector(
    client: kube::Client,
    node: &str,
    queue: &'static str,
) -> (Reflector<Typed<Pod>>, Queue, mpsc::Receiver<()>) {
    let selection = Selection { fields: format!("spec.nodeName={node}"), ..Default::default() };
    let reflector: Reflector<Typed<Pod>> = Reflector::selecting(client, PODS.clone(), selection);
    let (wake, woken) = mpsc::channel(1);
    let waiting = Queue { name: queue, changes: Arc::default() };
    let into = waiting.clone();
    reflector.on_event(move |event| {
        let pod = Arc::clone(&event.object().object);
        into.push(match event {
            Event::Deleted(_) => Change::Gone(pod),
            _ => Change::Set(pod),
        });
        // A full channel means that the manager is about to look anyway.
        let _ = wake.try_send(());
    });
    (reflector, waiting, woken)
}

/// Changes that the manager has not taken yet: at most one per pod, the newest.
#[derive(Clone)]
pub(crate) struct Queue {
    name: &'static str,
    changes: Arc<std::sync::Mutex<Vec<(String, Change)>>>,
}

impl Queue {
    fn push(&self, change: Change) {
        let uid = match &change {
            Change::Set(pod) | Change::Gone(pod) => pod.metadata.uid.clone().unwrap_or_default(),
        };
        let mut changes = self.changes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        changes.retain(|(have, _)| *have != uid);
        changes.push((uid, change));
        tracing::trace!(queue = self.name, waiting = changes.len(), "Pod changed");
    }

    pub(crate) fn take(&self) -> Vec<Change> {
        let mut changes = self.changes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        std::mem::take(&mut *changes).into_iter().map(|(_, change)| change).collect()
    }
}
