//! Binding of a decided pod's claims, before the pod itself is bound.
//!
//! Invariant: what is written is only ever an intent (a claim reference, a selected node) that the
//! volume controller completes, so that a crash in between leaves nothing half done.

use std::time::Duration;

use client::{Key, Patch, Reflector, Resource, Rest};
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use crate::{
    CLAIMS, VOLUMES,
    plugins::Binding,
    storage::{Claim, SELECTED_NODE, Volume},
};

const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Binder {
    pub(crate) rest: Rest,
    pub(crate) claims: Reflector<Claim>,
    pub(crate) volumes: Reflector<Volume>,
}

impl Binder {
    /// Writes the bindings and waits, so long, until all claims are bound; the error is upstream's
    /// words.
    pub(crate) async fn bind(
        &self,
        bindings: &[Binding],
        node: &str,
        patience: Duration,
    ) -> Result<(), String> {
        for binding in bindings {
            self.write(binding, node).await.map_err(|err| client::describe(&err))?;
        }
        let deadline = Instant::now() + patience;
        for binding in bindings {
            self.bound(binding, node, deadline).await?;
        }
        Ok(())
    }

    async fn write(&self, binding: &Binding, node: &str) -> Result<(), client::Error> {
        let Some(claim) = self.claims.lister().get(binding.claim()) else { return Ok(()) };
        let meta = &claim.metadata;
        match binding {
            Binding::Volume { volume, .. } => {
                let key = Key::cluster(volume);
                let Some(known) = self.volumes.lister().get(&key) else { return Ok(()) };
                if known.spec.claim_ref.as_ref().is_some_and(|it| it.uid == meta.uid) {
                    return Ok(());
                }
                let body = json!({
                    "metadata": {
                        "resourceVersion": known.metadata.resource_version,
                        "annotations": {BOUND_BY_CONTROLLER: "yes"},
                    },
                    "spec": {"claimRef": {
                        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                        "namespace": meta.namespace, "name": meta.name, "uid": meta.uid,
                        "resourceVersion": meta.resource_version,
                    }},
                });
                self.volumes.observe(self.patch(&VOLUMES, &key, &body).await?);
            }
            Binding::Provision { claim: key } => {
                if meta.annotation(SELECTED_NODE) == Some(node) {
                    return Ok(());
                }
                let body = json!({"metadata": {
                    "resourceVersion": meta.resource_version,
                    "annotations": {SELECTED_NODE: node},
                }});
                self.claims.observe(self.patch(&CLAIMS, key, &body).await?);
            }
        }
        Ok(())
    }

    async fn patch<T: serde::de::DeserializeOwned>(
        &self,
        resource: &Resource,
        key: &Key,
        body: &serde_json::Value,
    ) -> Result<T, client::Error> {
        self.rest.patch(resource, key, "", Patch::Merge, body).await
    }

    async fn bound(&self, binding: &Binding, node: &str, deadline: Instant) -> Result<(), String> {
        let mut changes = self.claims.changes();
        let key = binding.claim();
        loop {
            changes.borrow_and_update();
            let Some(claim) = self.claims.lister().get(key) else {
                return Err(format!("pvc {key} was deleted while it was being bound"));
            };
            if claim.is_bound() {
                return Ok(());
            }
            // A provisioner that cannot serve the node takes the selection back.
            if matches!(binding, Binding::Provision { .. })
                && claim.metadata.annotation(SELECTED_NODE) != Some(node)
            {
                return Err(format!("selectedNode annotation reset for PVC {:?}", key.name));
            }
            match timeout_at(deadline, changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err("context deadline exceeded".into()),
            }
        }
    }
}
