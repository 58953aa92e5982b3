//! Keeps the role label on a server's own Node: a kubelet may not set it (NodeRestriction).
//!
//! Invariant: level-driven; a Node that is deleted and registers again gets its label again.

use std::path::Path;

use anyhow::Result;
use client::{HasMeta, Key, PartialObject, Patch, Reflector, Resource, Rest, Selection};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Kubernetes' label of a control-plane node.
const LABEL: &str = "node-role.kubernetes.io/control-plane";
const NODES: Resource = Resource::cluster("", "v1", "nodes", "Node");

/// Watches the Node of this name and labels it, until stopped.
pub(crate) async fn keep_label(
    stop: CancellationToken,
    kubeconfig: &Path,
    node: &str,
) -> Result<()> {
    let client = client::connect(kubeconfig).await?;
    let selection = Selection { fields: format!("metadata.name={node}"), ..Selection::default() };
    let reflector: Reflector<PartialObject> = Reflector::metadata(client.clone(), NODES, selection);
    let rest = Rest::new(client);
    let lister = reflector.lister();
    let mut changes = reflector.changes();
    let key = Key::cluster(node);
    let mut watching = std::pin::pin!(reflector.run(stop.clone()));
    loop {
        tokio::select! {
            () = &mut watching => return Ok(()),
            changed = changes.changed() => changed?,
        }
        let unlabelled =
            lister.get(&key).is_some_and(|node| !node.meta().labels.contains_key(LABEL));
        if !unlabelled {
            continue;
        }
        let patch = json!({ "metadata": { "labels": { LABEL: "true" } } });
        let patched: Result<PartialObject, _> =
            rest.patch(&NODES, &key, "", Patch::Merge, &patch).await;
        match patched {
            Ok(_) => info!(node, "Labelled the node as control plane"),
            Err(err) => {
                let err = client::describe(&err);
                warn!(node, err, "Could not label the node, retrying at its next change");
            }
        }
    }
}
