//! Devices and who has them: `resource.k8s.io` as the scheduler reads it, and what it has decided
//! about claims while the API server does not say so yet.
//!
//! Invariant: a device is allocated to one claim at most, unless that has access as administrator.

mod allocate;
mod selectors;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use client::{HasMeta, Key, Lister, Meta, null_default};
use serde::Deserialize;
use serde_json::Value;

pub(crate) use self::{allocate::allocate, selectors::Selectors};
use crate::types::{NodeSelector, Taint, Toleration, object};

/// Identity of a device: driver, pool, name.
pub(crate) type DeviceId = (String, String, String);

/// `resource.k8s.io/v1 ResourceClaim`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ResourceClaim {
    pub(crate) metadata: Meta,
    pub(crate) spec: ClaimSpec,
    pub(crate) status: ClaimStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ClaimSpec {
    #[serde(deserialize_with = "null_default")]
    pub(crate) devices: DeviceClaim,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct DeviceClaim {
    #[serde(deserialize_with = "null_default")]
    pub(crate) requests: Vec<Request>,
    #[serde(deserialize_with = "null_default")]
    pub(crate) constraints: Vec<Constraint>,
    #[serde(deserialize_with = "null_default")]
    pub(crate) config: Vec<Value>,
}

/// One request: exactly one form, or the first of several that can be had.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Request {
    pub(crate) name: String,
    pub(crate) exactly: Option<Ask>,
    #[serde(deserialize_with = "null_default")]
    pub(crate) first_available: Vec<Ask>,
}

/// What is asked for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Ask {
    /// Only of one of several.
    pub(crate) name: String,
    pub(crate) device_class_name: String,
    #[serde(deserialize_with = "null_default")]
    pub(crate) selectors: Vec<Selector>,
    pub(crate) allocation_mode: String,
    pub(crate) count: Option<usize>,
    pub(crate) admin_access: Option<bool>,
    #[serde(deserialize_with = "null_default")]
    pub(crate) tolerations: Vec<Toleration>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Selector {
    pub(crate) cel: Option<Cel>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Cel {
    pub(crate) expression: String,
}

/// What devices of some requests, of all if none is named, must have in common, or must not.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Constraint {
    #[serde(deserialize_with = "null_default")]
    pub(crate) requests: Vec<String>,
    pub(crate) match_attribute: Option<String>,
    pub(crate) distinct_attribute: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ClaimStatus {
    pub(crate) allocation: Option<Value>,
    #[serde(deserialize_with = "null_default")]
    pub(crate) reserved_for: Vec<Consumer>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Consumer {
    pub(crate) uid: String,
}

/// `resource.k8s.io/v1 DeviceClass`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct DeviceClass {
    pub(crate) metadata: Meta,
    pub(crate) spec: DeviceClassSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct DeviceClassSpec {
    #[serde(deserialize_with = "null_default")]
    pub(crate) selectors: Vec<Selector>,
    #[serde(deserialize_with = "null_default")]
    pub(crate) config: Vec<Value>,
}

/// `resource.k8s.io/v1 ResourceSlice`: devices of a driver's pool.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ResourceSlice {
    pub(crate) metadata: Meta,
    pub(crate) spec: SliceSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SliceSpec {
    pub(crate) driver: String,
    pub(crate) pool: Pool,
    #[serde(flatten)]
    pub(crate) place: Place,
    pub(crate) per_device_node_selection: Option<bool>,
    #[serde(deserialize_with = "null_default")]
    pub(crate) devices: Vec<Device>,
    #[serde(deserialize_with = "null_default")]
    pub(crate) shared_counters: Vec<Counters>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Pool {
    pub(crate) name: String,
    pub(crate) generation: i64,
    pub(crate) resource_slice_count: usize,
}

/// The nodes that can reach devices.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Place {
    pub(crate) node_name: Option<String>,
    pub(crate) node_selector: Option<NodeSelector>,
    pub(crate) all_nodes: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Device {
    pub(crate) name: String,
    #[serde(deserialize_with = "null_default")]
    pub(crate) attributes: BTreeMap<String, Value>,
    #[serde(deserialize_with = "null_default")]
    pub(crate) capacity: BTreeMap<String, Value>,
    #[serde(deserialize_with = "null_default")]
    pub(crate) taints: Vec<Taint>,
    #[serde(deserialize_with = "null_default")]
    pub(crate) consumes_counters: Vec<Counters>,
    #[serde(flatten)]
    pub(crate) place: Place,
}

/// A pool's counters, or what a device takes of them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Counters {
    pub(crate) name: String,
    pub(crate) counter_set: String,
    #[serde(deserialize_with = "null_default")]
    pub(crate) counters: BTreeMap<String, Counter>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Counter {
    pub(crate) value: Value,
}

object!(ResourceClaim, DeviceClass, ResourceSlice);

/// The devices that an allocation takes from others.
fn taken(allocation: &Value) -> impl Iterator<Item = DeviceId> {
    let results = allocation["devices"]["results"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    results
        .filter(|it| it["adminAccess"] != true)
        .map(move |it| (text(&it["driver"]), text(&it["pool"]), text(&it["device"])))
}

/// What is known about devices. The listers are those of the running reflectors.
#[derive(Default)]
pub(crate) struct Devices {
    pub(crate) claims: Lister<ResourceClaim>,
    pub(crate) classes: Lister<DeviceClass>,
    pub(crate) slices: Lister<ResourceSlice>,
    pub(crate) selectors: Selectors,
    /// Allocations that are being written, with the number of pods that wait for them.
    pub(crate) promised: HashMap<Key, (Arc<Value>, usize)>,
}

impl std::fmt::Debug for Devices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Devices").field("promised", &self.promised).finish_non_exhaustive()
    }
}

impl Devices {
    /// What a claim has, or is about to get.
    pub(crate) fn allocation(&self, claim: &ResourceClaim) -> Option<Arc<Value>> {
        let promised = self.promised.get(&claim.metadata.key()).map(|it| Arc::clone(&it.0));
        claim.status.allocation.clone().map(Arc::new).or(promised)
    }

    /// Every device that somebody has.
    pub(crate) fn taken(&self) -> HashSet<DeviceId> {
        let mut all: HashSet<DeviceId> =
            self.promised.values().flat_map(|(allocation, _)| taken(allocation)).collect();
        self.claims.for_each(|claim| {
            if let Some(allocation) = &claim.status.allocation {
                all.extend(taken(allocation));
            }
        });
        all
    }

    /// A pod waits for the claim to have this allocation.
    pub(crate) fn promise(&mut self, claim: &Key, allocation: &Arc<Value>) {
        let entry = self.promised.entry(claim.clone());
        entry.or_insert_with(|| (Arc::clone(allocation), 0)).1 += 1;
    }

    /// It waits no longer.
    pub(crate) fn settle(&mut self, claim: &Key) {
        if let Some((_, pods)) = self.promised.get_mut(claim) {
            *pods -= 1;
            if *pods == 0 {
                self.promised.remove(claim);
            }
        }
    }
}
