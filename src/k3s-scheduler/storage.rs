//! Claims, volumes and their classes as the scheduler reads them, and what it has decided about
//! them while the API server does not say so yet.
//!
//! Invariant: a volume is promised to one claim at most.

use std::collections::{BTreeMap, HashMap};

use apimachinery::quantity::Quantity;
use client::{HasMeta, Key, Lister, Meta, null_default};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::types::{Amounts, LabelSelector, NodeSelector, Requirement, object, quantity};

/// Set on a claim whose binding is complete.
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// Set on a claim for which a volume is to be made on this node.
pub(crate) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const CLASS_BETA: &str = "volume.beta.kubernetes.io/storage-class";
/// The provisioner that makes nothing.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// `v1 PersistentVolumeClaim`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Claim {
    pub(crate) metadata: Meta,
    pub(crate) spec: ClaimSpec,
    pub(crate) status: Phase,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ClaimSpec {
    #[serde(deserialize_with = "null_default")]
    pub(crate) access_modes: Vec<String>,
    pub(crate) resources: crate::types::Requirements,
    pub(crate) selector: Option<LabelSelector>,
    pub(crate) storage_class_name: Option<String>,
    pub(crate) volume_name: String,
    pub(crate) volume_mode: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Phase {
    pub(crate) phase: String,
}

impl Claim {
    pub(crate) fn class(&self) -> &str {
        let field = self.spec.storage_class_name.as_deref();
        self.metadata.annotation(CLASS_BETA).or(field).unwrap_or_default()
    }

    /// Whether it is bound, and its controller is done with it.
    pub(crate) fn is_bound(&self) -> bool {
        !self.spec.volume_name.is_empty() && self.metadata.annotation(BIND_COMPLETED).is_some()
    }

    /// Whether only one pod may use it.
    pub(crate) fn is_for_one_pod(&self) -> bool {
        self.spec.access_modes.iter().any(|it| it == "ReadWriteOncePod")
    }
}

/// `v1 PersistentVolume`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Volume {
    pub(crate) metadata: Meta,
    pub(crate) spec: VolumeSpec,
    pub(crate) status: Phase,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct VolumeSpec {
    #[serde(deserialize_with = "null_default")]
    pub(crate) capacity: Amounts,
    #[serde(deserialize_with = "null_default")]
    pub(crate) access_modes: Vec<String>,
    pub(crate) claim_ref: Option<ClaimRef>,
    pub(crate) storage_class_name: String,
    pub(crate) volume_mode: Option<String>,
    pub(crate) node_affinity: Option<VolumeAffinity>,
    pub(crate) csi: Option<Csi>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ClaimRef {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct VolumeAffinity {
    pub(crate) required: Option<NodeSelector>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Csi {
    pub(crate) driver: String,
    pub(crate) volume_handle: String,
}

impl Volume {
    fn class(&self) -> &str {
        self.metadata.annotation(CLASS_BETA).unwrap_or(&self.spec.storage_class_name)
    }

    fn capacity(&self) -> Quantity {
        self.spec.capacity.get("storage").map_or(Quantity::ZERO, quantity)
    }

    fn is_for(&self, claim: &Claim) -> bool {
        self.spec.claim_ref.as_ref().is_some_and(|it| {
            it.name == claim.metadata.name
                && it.namespace == claim.metadata.namespace
                && (it.uid.is_empty() || it.uid == claim.metadata.uid)
        })
    }

    /// Whether the claim may have it.
    fn suits(&self, claim: &Claim) -> bool {
        let mode = |it: &Option<String>| it.clone().unwrap_or_else(|| "Filesystem".into());
        let wanted = claim.spec.resources.requests.get("storage").map_or(Quantity::ZERO, quantity);
        !self.metadata.is_deleting()
            && (self.is_for(claim)
                || (self.spec.claim_ref.is_none() && self.status.phase == "Available"))
            && self.class() == claim.class()
            && mode(&self.spec.volume_mode) == mode(&claim.spec.volume_mode)
            && claim.spec.access_modes.iter().all(|it| self.spec.access_modes.contains(it))
            && self.capacity() >= wanted
            && claim.spec.selector.as_ref().is_none_or(|it| it.matches(&self.metadata.labels))
    }
}

/// `storage.k8s.io/v1 StorageClass`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Class {
    pub(crate) metadata: Meta,
    pub(crate) provisioner: String,
    pub(crate) volume_binding_mode: String,
    #[serde(deserialize_with = "null_default")]
    pub(crate) allowed_topologies: Vec<Topology>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Topology {
    #[serde(deserialize_with = "topology_terms")]
    pub(crate) match_label_expressions: Vec<Requirement>,
}

/// Terms of a topology have no operator: it is `In`.
fn topology_terms<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Requirement>, D::Error> {
    let mut terms: Vec<Requirement> = null_default(from)?;
    terms.iter_mut().for_each(|it| it.operator = "In".into());
    Ok(terms)
}

impl Class {
    pub(crate) fn waits_for_consumer(&self) -> bool {
        self.volume_binding_mode == "WaitForFirstConsumer"
    }

    /// Whether a volume can be made on a node with these labels.
    pub(crate) fn provisions_on(&self, labels: &client::Labels) -> bool {
        let somebody = !self.provisioner.is_empty() && self.provisioner != NO_PROVISIONER;
        let value = |key: &str| labels.get(key).map(String::as_str);
        somebody
            && (self.allowed_topologies.is_empty()
                || self.allowed_topologies.iter().any(|it| {
                    it.match_label_expressions.iter().all(|term| term.matches(value(&term.key)))
                }))
    }
}

/// `storage.k8s.io/v1 CSINode`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct CsiNode {
    pub(crate) metadata: Meta,
    pub(crate) spec: CsiNodeSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct CsiNodeSpec {
    #[serde(deserialize_with = "null_default")]
    pub(crate) drivers: Vec<CsiNodeDriver>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct CsiNodeDriver {
    pub(crate) name: String,
    pub(crate) allocatable: BTreeMap<String, Value>,
}

object!(Claim, Volume, Class, CsiNode);

/// What is known about storage. The listers are those of the running reflectors.
#[derive(Default)]
pub(crate) struct Storage {
    pub(crate) claims: Lister<Claim>,
    pub(crate) volumes: Lister<Volume>,
    pub(crate) classes: Lister<Class>,
    pub(crate) csi_nodes: Lister<CsiNode>,
    /// Volumes whose binding is in flight, with the claim that gets them.
    pub(crate) promised: HashMap<String, Key>,
    /// Claims for which a volume is being made, with the node.
    pub(crate) selected: HashMap<Key, String>,
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Storage").field("promised", &self.promised).finish_non_exhaustive()
    }
}

impl Storage {
    /// The smallest volume that the claim may have, is not promised and passes the test.
    pub(crate) fn volume_for(
        &self,
        claim: &Claim,
        test: impl Fn(&Volume) -> bool,
    ) -> Option<String> {
        let key = claim.metadata.key();
        let mut best: Option<(bool, Quantity, String)> = None;
        self.volumes.for_each(|volume| {
            let name = &volume.metadata.name;
            if self.promised.get(name).is_some_and(|it| *it != key)
                || !volume.suits(claim)
                || !test(volume)
            {
                return;
            }
            // One that was kept for the claim comes before any other.
            let rank = (!volume.is_for(claim), volume.capacity(), name.clone());
            if best.as_ref().is_none_or(|it| rank < *it) {
                best = Some(rank);
            }
        });
        best.map(|(_, _, name)| name)
    }
}
