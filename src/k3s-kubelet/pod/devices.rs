//! Devices of a pod: its claims, as the scheduler allocated them, prepared by their drivers.
//!
//! No driver can register here yet, so a pod whose claims have devices is refused, in upstream's
//! words. Invariant: a container never starts without a device that it was promised.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail, ensure};
use client::{Key, Rest};
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::labels::PodNames;
use crate::typed::RESOURCE_CLAIMS;

/// Why a pod's sandbox is not made.
pub(crate) const FAILED: &str = "FailedPrepareDynamicResources";

/// Prepares the devices of the pod's claims.
pub(crate) async fn prepare(rest: Option<&Rest>, pod: &Pod) -> Result<()> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    for wanted in spec.resource_claims.iter().flatten() {
        let generated = || {
            let statuses = pod.status.as_ref()?.resource_claim_statuses.as_ref()?;
            statuses.iter().find(|it| it.name == wanted.name)
        };
        let name = match &wanted.resource_claim_name {
            Some(name) => name.clone(),
            None => match generated() {
                Some(status) => match &status.resource_claim_name {
                    Some(name) => name.clone(),
                    None => continue,
                },
                None => bail!("resource claim of {:?} was not created yet", wanted.name),
            },
        };
        let rest = rest.context("a resource claim cannot be read without an API server")?;
        let key = Key::new(pod.namespace(), &name);
        let claim: Value = rest
            .get(&RESOURCE_CLAIMS, &key)
            .await
            .with_context(|| format!("fetch ResourceClaim {key}"))?;
        let drivers = drivers(&claim, &key, pod.uid())?;
        if let Some(driver) = drivers.first() {
            bail!("prepare dynamic resources: DRA driver {driver} is not registered");
        }
    }
    Ok(())
}

/// The drivers whose devices a claim has, if it may be used by the pod.
fn drivers(claim: &Value, key: &Key, uid: &str) -> Result<BTreeSet<String>> {
    let status = &claim["status"];
    let mut users = status["reservedFor"].as_array().into_iter().flatten();
    ensure!(users.any(|it| it["uid"] == uid), "pod is not allowed to use resource claim {key}");
    let results = status["allocation"]["devices"]["results"].as_array().into_iter().flatten();
    Ok(results.filter_map(|it| it["driver"].as_str().map(str::to_owned)).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_is_for_the_pods_that_it_is_reserved_for() {
        let results = json!([{"driver": "b"}, {"driver": "a"}, {"driver": "b"}]);
        let claim = json!({"status": {
            "allocation": {"devices": {"results": results}}, "reservedFor": [{"uid": "u"}],
        }});
        let check =
            |uid: &str| drivers(&claim, &Key::new("n", "c"), uid).map_err(|it| it.to_string());
        assert_eq!(check("u"), Ok(BTreeSet::from(["a".to_owned(), "b".to_owned()])));
        assert_eq!(check("v"), Err("pod is not allowed to use resource claim n/c".to_owned()));
    }
}
