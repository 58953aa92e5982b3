//! DynamicResources: a pod goes where its claims' devices are, or where some can be allocated.

use std::{collections::HashSet, sync::Arc};

use client::Key;

use super::{Binding, Prepared, node_affinity};
use crate::{
    cache::{Cache, NodeInfo, PodInfo},
    devices::{DeviceId, Devices, ResourceClaim, allocate},
    framework::Rejection,
    types::{Node, NodeSelector, Pod},
};

pub(crate) const NAME: &str = "DynamicResources";
const ELSEWHERE: &str = "resourceclaim not available on the node";
const NOTHING: &str = "cannot allocate all claims";
const IN_USE: &str = "resourceclaim in use";
/// Upstream's bound on the pods of one claim.
const CONSUMERS_MAX: usize = 256;

/// The claims of a pod; why it cannot be tried yet when one is not there.
pub(crate) fn claims(devices: &Devices, pod: &Pod) -> Result<Vec<Arc<ResourceClaim>>, String> {
    let mut found = Vec::new();
    for wanted in &pod.spec.resource_claims {
        let generated = wanted.resource_claim_template_name.is_some();
        let name = match (&wanted.resource_claim_name, generated) {
            (Some(name), _) => Some(name.clone()),
            (None, true) => {
                let statuses = &pod.status.resource_claim_statuses;
                let Some(status) = statuses.iter().find(|it| it.name == wanted.name) else {
                    return Err(format!("resourceclaim of {:?} was not created yet", wanted.name));
                };
                status.resource_claim_name.clone()
            }
            (None, false) => None,
        };
        // It was decided that there need not be one.
        let Some(name) = name else { continue };
        let key = Key::new(&pod.metadata.namespace, &name);
        let Some(claim) = devices.claims.get(&key) else {
            return Err(format!("resourceclaim {name:?} not found"));
        };
        if claim.metadata.is_deleting() {
            return Err(format!("resourceclaim {name:?} is being deleted"));
        }
        let owner = claim.metadata.controller().map(|it| it.uid.as_str());
        if generated && owner != Some(pod.metadata.uid.as_str()) {
            return Err(format!("resourceclaim {name:?} was not created for the pod"));
        }
        found.push(claim);
    }
    Ok(found)
}

/// The pod's claims, looked up once per decision.
#[derive(Default)]
pub(crate) struct PodClaims {
    /// Why no node will do.
    pub(crate) refusal: Option<Rejection>,
    /// Where allocated claims can be used.
    places: Vec<NodeSelector>,
    allocated: Vec<Binding>,
    unallocated: Vec<Arc<ResourceClaim>>,
    taken: HashSet<DeviceId>,
}

impl PodClaims {
    pub(crate) fn new(cache: &Cache, info: &PodInfo) -> Self {
        let mut all = PodClaims::default();
        if info.pod.spec.resource_claims.is_empty() {
            return all;
        }
        let claims = match claims(&cache.devices, &info.pod) {
            Ok(claims) => claims,
            Err(why) => {
                all.refusal = Some(Rejection::unresolvable(NAME, &why));
                return all;
            }
        };
        for claim in claims {
            let consumers = &claim.status.reserved_for;
            let own = consumers.iter().any(|it| it.uid == info.pod.metadata.uid);
            if consumers.len() >= CONSUMERS_MAX && !own {
                all.refusal = Some(Rejection::unresolvable(NAME, IN_USE));
                return all;
            }
            let Some(allocation) = cache.devices.allocation(&claim) else {
                all.unallocated.push(claim);
                continue;
            };
            let selector = &allocation["nodeSelector"];
            if !selector.is_null() {
                // What cannot be read selects nothing.
                all.places.push(serde_json::from_value(selector.clone()).unwrap_or_default());
            }
            let claim = claim.metadata.key();
            all.allocated.push(Binding::Devices { claim, allocation });
        }
        if !all.unallocated.is_empty() {
            all.taken = cache.devices.taken();
        }
        all
    }

    /// What has to be written before the pod is bound to the node; the error says why not.
    pub(crate) fn bindings(&self, cache: &Cache, node: &Node) -> Result<Vec<Binding>, String> {
        if !self.places.iter().all(|place| node_affinity::selects(place, node)) {
            return Err(ELSEWHERE.into());
        }
        let mut bindings = self.allocated.clone();
        if self.unallocated.is_empty() {
            return Ok(bindings);
        }
        let found = allocate(&cache.devices, &self.taken, &self.unallocated, node)?;
        let found = found.ok_or(NOTHING)?;
        bindings.extend(self.unallocated.iter().zip(found).map(|(claim, allocation)| {
            Binding::Devices { claim: claim.metadata.key(), allocation: Arc::new(allocation) }
        }));
        Ok(bindings)
    }
}

pub(super) fn filter(
    cache: &Cache,
    prepared: &Prepared<'_>,
    _: &PodInfo,
    node: &NodeInfo,
) -> Option<Rejection> {
    let (claims, node) = (&prepared.claims, node.node.as_ref()?);
    if claims.allocated.is_empty() && claims.unallocated.is_empty() {
        return None;
    }
    let why = claims.bindings(cache, node).err()?;
    // Pods that go free devices, but only once their claims are released.
    Some(Rejection::unresolvable(NAME, &why))
}

#[cfg(test)]
mod tests {
    use client::Lister;
    use serde_json::{Value, json};

    use super::*;
    use crate::framework::{
        Decision, bindings, decide,
        tests::{cluster, node},
    };
    use crate::profile::Profile;

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn claim(name: &str, status: Value) -> ResourceClaim {
        read(json!({
            "metadata": {"namespace": "n", "name": name, "ownerReferences": [
                {"kind": "Pod", "name": "p", "uid": "u", "controller": true},
            ]},
            "spec": {"devices": {"requests": [
                {"name": "r", "exactly": {"deviceClassName": "any"}},
            ]}},
            "status": status,
        }))
    }

    fn devices(claims: Vec<ResourceClaim>) -> Cache {
        let mut cache = cluster(&[node("a", ""), node("b", "")]);
        cache.devices = Devices {
            claims: Lister::of(claims),
            classes: Lister::of(vec![read(json!({"metadata": {"name": "any"}}))]),
            slices: Lister::of(vec![read(json!({
                "metadata": {"name": "s"},
                "spec": {"driver": "x.io", "nodeName": "b", "devices": [{"name": "d"}],
                    "pool": {"name": "b", "generation": 1, "resourceSliceCount": 1}},
            }))]),
            ..Devices::default()
        };
        cache
    }

    fn pod(statuses: Value) -> PodInfo {
        PodInfo::new(Arc::new(read(json!({
            "metadata": {"namespace": "n", "name": "p", "uid": "u"},
            "spec": {"resourceClaims": [{"name": "x", "resourceClaimTemplateName": "t"}]},
            "status": {"resourceClaimStatuses": statuses},
        }))))
    }

    fn check(cache: &mut Cache, statuses: Value, want: Result<&str, &str>) {
        match decide(cache, &Profile::default(), &pod(statuses), 0) {
            Decision::Node(node) => assert_eq!(Ok(node.as_str()), want),
            Decision::Unschedulable(it) => assert_eq!(Err(it.message.as_str()), want),
        }
    }

    #[test]
    fn pods_follow_their_devices() {
        let named = || json!([{"name": "x", "resourceClaimName": "c"}]);
        check(&mut devices(vec![claim("c", json!({}))]), named(), Ok("b"));
        let missing = "0/2 nodes are available: resourceclaim \"c\" not found.";
        check(&mut devices(vec![]), named(), Err(missing));
        let waiting = "0/2 nodes are available: resourceclaim of \"x\" was not created yet.";
        check(&mut devices(vec![]), json!([]), Err(waiting));
        let result = json!({"driver": "x.io", "pool": "b", "device": "d"});
        let allocation = json!({"devices": {"results": [result]}});
        let held = claim("other", json!({"allocation": allocation}));
        let nothing = "0/2 nodes are available: 2 cannot allocate all claims.";
        check(&mut devices(vec![claim("c", json!({})), held]), named(), Err(nothing));
        let field = json!({"key": "metadata.name", "operator": "In", "values": ["a"]});
        let there = json!({"allocation": {
            "devices": {}, "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [field]}]},
        }});
        check(&mut devices(vec![claim("c", there)]), named(), Ok("a"));
    }

    #[test]
    fn what_is_promised_is_kept_from_others() {
        let mut cache = devices(vec![claim("c", json!({})), claim("c2", json!({}))]);
        let first = pod(json!([{"name": "x", "resourceClaimName": "c"}]));
        let found = bindings(&cache, &first, "b");
        let [Binding::Devices { claim, allocation }] = found.as_slice() else {
            panic!("{found:?}")
        };
        cache.devices.promise(claim, allocation);
        let nothing = "0/2 nodes are available: 2 cannot allocate all claims.";
        check(&mut cache, json!([{"name": "x", "resourceClaimName": "c2"}]), Err(nothing));
        // Another pod of the same claim goes along.
        check(&mut cache, json!([{"name": "x", "resourceClaimName": "c"}]), Ok("b"));
        cache.devices.settle(claim);
        check(&mut cache, json!([{"name": "x", "resourceClaimName": "c2"}]), Ok("b"));
    }
}
