//! Binding of a decided pod's claims, before the pod itself is bound.
//!
//! Invariant: what is written is only ever an intent (a claim reference, a selected node, devices
//! reserved for the pod) that a controller completes or takes back, so that a crash in between
//! leaves nothing half done.

use std::time::Duration;

use client::{Key, Patch, Reflector, Resource, Rest, is_conflict};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::{
    CLAIMS, RESOURCE_CLAIMS, VOLUMES,
    devices::ResourceClaim,
    plugins::Binding,
    storage::{Claim, SELECTED_NODE, Volume},
    types::Pod,
};

/// Keeps a claim that has devices.
const CLAIM_FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// A claim that many pods share may change that often while one reserves it.
const CONFLICTS_MAX: usize = 16;
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Binder {
    pub(crate) rest: Rest,
    pub(crate) claims: Reflector<Claim>,
    pub(crate) volumes: Reflector<Volume>,
    pub(crate) resource_claims: Reflector<ResourceClaim>,
}

impl Binder {
    /// Writes the bindings and waits, so long, until all volumes are bound; the error is upstream's
    /// words.
    pub(crate) async fn bind(
        &self,
        pod: &Pod,
        bindings: &[Binding],
        node: &str,
        patience: Duration,
    ) -> Result<(), String> {
        self.bind_volumes(bindings, node, patience).await.map_err(|err| {
            format!("running PreBind plugin \"VolumeBinding\": binding volumes: {err}")
        })?;
        for binding in bindings {
            if let Binding::Devices { claim, allocation } = binding {
                self.reserve(pod, claim, allocation)
                    .await
                    .map_err(|err| format!("running PreBind plugin \"DynamicResources\": {err}"))?;
            }
        }
        Ok(())
    }

    async fn bind_volumes(
        &self,
        bindings: &[Binding],
        node: &str,
        patience: Duration,
    ) -> Result<(), String> {
        let volumes = || bindings.iter().filter(|it| !matches!(it, Binding::Devices { .. }));
        for binding in volumes() {
            self.write(binding, node).await.map_err(|err| client::describe(&err))?;
        }
        let deadline = Instant::now() + patience;
        for binding in volumes() {
            self.bound(binding, node, deadline).await?;
        }
        Ok(())
    }

    /// Gives the claim its devices, if it has none, and the pod as a user.
    async fn reserve(&self, pod: &Pod, key: &Key, allocation: &Value) -> Result<(), String> {
        for _ in 0..CONFLICTS_MAX {
            match self.try_reserve(pod, key, allocation).await {
                Ok(done) => return done,
                Err(err) if is_conflict(&err) => {}
                Err(err) => return Err(format!("claim {key}: {}", client::describe(&err))),
            }
        }
        Err(format!("claim {key}: it changes all the time"))
    }

    async fn try_reserve(
        &self,
        pod: &Pod,
        key: &Key,
        allocation: &Value,
    ) -> Result<Result<(), String>, client::Error> {
        let mut live: Value = self.rest.get(&RESOURCE_CLAIMS, key).await?;
        let step = reservation(&live, pod, allocation);
        let mut status = match step {
            Ok(Some(status)) => status,
            Ok(None) => return Ok(Ok(())),
            Err(why) => return Ok(Err(format!("claim {key}: {why}"))),
        };
        let mut finalizers = live["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        if !finalizers.iter().any(|it| it == CLAIM_FINALIZER) {
            finalizers.push(json!(CLAIM_FINALIZER));
            let version = &live["metadata"]["resourceVersion"];
            let body = json!({"metadata": {"resourceVersion": version, "finalizers": finalizers}});
            live = self.patch(&RESOURCE_CLAIMS, key, &body).await?;
        }
        let meta = &live["metadata"];
        status["metadata"] =
            json!({"resourceVersion": meta["resourceVersion"], "uid": meta["uid"]});
        let patched =
            self.rest.patch(&RESOURCE_CLAIMS, key, "status", Patch::Merge, &status).await?;
        self.resource_claims.observe(patched);
        Ok(Ok(()))
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
            Binding::Devices { .. } => {}
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

/// The status that a claim is to get; nothing when the pod has it reserved already.
fn reservation(claim: &Value, pod: &Pod, allocation: &Value) -> Result<Option<Value>, String> {
    if !claim["metadata"]["deletionTimestamp"].is_null() {
        return Err("it is being deleted".into());
    }
    let mut status = json!({"status": {}});
    let has = &claim["status"]["allocation"];
    if has.is_null() {
        status["status"]["allocation"] = allocation.clone();
    } else if has["devices"]["results"] != allocation["devices"]["results"] {
        return Err("it was allocated differently meanwhile".into());
    }
    let mut users = claim["status"]["reservedFor"].as_array().cloned().unwrap_or_default();
    if users.iter().any(|it| it["uid"] == pod.metadata.uid) {
        return Ok(None);
    }
    let meta = &pod.metadata;
    users.push(json!({"resource": "pods", "name": meta.name, "uid": meta.uid}));
    status["status"]["reservedFor"] = json!(users);
    Ok(Some(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_reserved_once_for_each_pod() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}})).unwrap();
        let of = |device: &str| json!({"devices": {"results": [{"device": device}]}});
        let user = |uid: &str| json!({"resource": "pods", "name": "p", "uid": uid});
        let check = |claim: Value, want: Result<Option<Value>, &str>| {
            let found = reservation(&claim, &pod, &of("d"));
            assert_eq!(found.as_ref().map_err(String::as_str), want.as_ref().map_err(|it| *it));
        };
        let all = json!({"status": {"allocation": of("d"), "reservedFor": [user("u")]}});
        check(json!({}), Ok(Some(all.clone())));
        check(all, Ok(None));
        let shared = json!({"status": {"allocation": of("d"), "reservedFor": [user("other")]}});
        let both = json!({"status": {"reservedFor": [user("other"), user("u")]}});
        check(shared, Ok(Some(both)));
        let other = json!({"status": {"allocation": of("e")}});
        check(other, Err("it was allocated differently meanwhile"));
        let going = json!({"metadata": {"deletionTimestamp": "2030-01-01T00:00:00Z"}});
        check(going, Err("it is being deleted"));
    }
}
