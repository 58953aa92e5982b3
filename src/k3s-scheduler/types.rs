//! Pods and nodes as the scheduler reads them.

use std::collections::BTreeMap;

use apimachinery::quantity::Quantity;
use client::{HasMeta, Labels, Meta, Time, null_default};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::resources::Resources;

/// The condition of a pod that is made to go, and the scheduler's reason for it.
pub(crate) const DISRUPTION_TARGET: &str = "DisruptionTarget";
pub(crate) const BY_SCHEDULER: &str = "PreemptionByScheduler";

/// Resource amounts as written.
pub(crate) type Amounts = BTreeMap<String, Value>;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Pod {
    pub(crate) metadata: Meta,
    pub(crate) spec: PodSpec,
    pub(crate) status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodSpec {
    pub(crate) node_name: String,
    pub(crate) scheduler_name: String,
    pub(crate) priority: Option<i32>,
    pub(crate) preemption_policy: Option<String>,
    #[serde(deserialize_with = "null_default")]
    pub(crate) node_selector: Labels,
    pub(crate) affinity: Option<Box<Affinity>>,
    #[serde(deserialize_with = "null_default")]
    pub(crate) tolerations: Vec<Toleration>,
    #[serde(deserialize_with = "null_default")]
    pub(crate) topology_spread_constraints: Vec<SpreadConstraint>,
    #[serde(deserialize_with = "null_default")]
    pub(crate) scheduling_gates: Vec<Value>,
    #[serde(deserialize_with = "null_default")]
    pub(crate) containers: Vec<Container>,
    #[serde(deserialize_with = "null_default")]
    pub(crate) init_containers: Vec<Container>,
    #[serde(deserialize_with = "null_default")]
    pub(crate) overhead: Amounts,
    pub(crate) host_network: bool,
    #[serde(deserialize_with = "null_default")]
    pub(crate) volumes: Vec<PodVolume>,
    #[serde(deserialize_with = "null_default")]
    pub(crate) resource_claims: Vec<PodClaim>,
}

/// A claim of devices that a pod names, or that is made for it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodClaim {
    pub(crate) name: String,
    pub(crate) resource_claim_name: Option<String>,
    pub(crate) resource_claim_template_name: Option<String>,
}

/// A volume of a pod: only what placement depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "PodVolumeWire")]
pub(crate) struct PodVolume {
    name: String,
    claim: Option<String>,
    /// The claim is made for the pod and goes with it.
    pub(crate) ephemeral: bool,
    pub(crate) disk: Option<Disk>,
}

/// A disk that one pod may write or many may read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Disk {
    identity: String,
    read_only: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodVolumeWire {
    name: String,
    persistent_volume_claim: Option<ClaimSource>,
    ephemeral: Option<serde::de::IgnoredAny>,
    gce_persistent_disk: Option<Value>,
    aws_elastic_block_store: Option<Value>,
    iscsi: Option<Value>,
    rbd: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClaimSource {
    claim_name: String,
}

impl From<PodVolumeWire> for PodVolume {
    fn from(wire: PodVolumeWire) -> Self {
        let disk = |kind: &str, source: &Option<Value>, fields: &[&str]| {
            let source = source.as_ref()?;
            let parts: Vec<String> = fields.iter().map(|it| source[*it].to_string()).collect();
            // A block store of AWS is never shared, not even by readers.
            let read_only = kind != "aws" && source["readOnly"] == true;
            Some(Disk { identity: format!("{kind} {}", parts.join(" ")), read_only })
        };
        PodVolume {
            disk: disk("gce", &wire.gce_persistent_disk, &["pdName"])
                .or_else(|| disk("aws", &wire.aws_elastic_block_store, &["volumeID"]))
                .or_else(|| disk("iscsi", &wire.iscsi, &["iqn"]))
                .or_else(|| disk("rbd", &wire.rbd, &["monitors", "pool", "image"])),
            ephemeral: wire.ephemeral.is_some(),
            claim: wire.persistent_volume_claim.map(|it| it.claim_name),
            name: wire.name,
        }
    }
}

impl PodVolume {
    /// The name of its claim, where it has one.
    pub(crate) fn claim_name(&self, pod: &str) -> Option<String> {
        if self.ephemeral { Some(format!("{pod}-{}", self.name)) } else { self.claim.clone() }
    }
}

impl Disk {
    pub(crate) fn clashes(&self, other: &Disk) -> bool {
        self.identity == other.identity && !(self.read_only && other.read_only)
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Container {
    pub(crate) image: String,
    pub(crate) restart_policy: String,
    pub(crate) resources: Requirements,
    #[serde(deserialize_with = "null_default")]
    pub(crate) ports: Vec<ContainerPort>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Requirements {
    #[serde(deserialize_with = "null_default")]
    pub(crate) requests: Amounts,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContainerPort {
    pub(crate) host_port: i32,
    #[serde(rename = "hostIP")]
    pub(crate) host_ip: String,
    pub(crate) protocol: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodStatus {
    pub(crate) phase: String,
    pub(crate) nominated_node_name: String,
    pub(crate) start_time: Option<Time>,
    #[serde(deserialize_with = "null_default")]
    pub(crate) conditions: Vec<Condition>,
    #[serde(deserialize_with = "null_default")]
    pub(crate) resource_claim_statuses: Vec<PodClaimStatus>,
}

/// The claim that was made for a pod; none when there need not be one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodClaimStatus {
    pub(crate) name: String,
    pub(crate) resource_claim_name: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Condition {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) status: String,
    pub(crate) reason: String,
    pub(crate) message: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Toleration {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) operator: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) value: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) effect: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Taint {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) effect: String,
}

impl Toleration {
    pub(crate) fn tolerates(&self, taint: &Taint) -> bool {
        (self.effect.is_empty() || self.effect == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && (self.operator == "Exists" || (!self.key.is_empty() && self.value == taint.value))
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Affinity {
    pub(crate) node_affinity: Option<NodeAffinity>,
    pub(crate) pod_affinity: PodTerms,
    pub(crate) pod_anti_affinity: PodTerms,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NodeAffinity {
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    pub(crate) required: Option<NodeSelector>,
    #[serde(
        rename = "preferredDuringSchedulingIgnoredDuringExecution",
        deserialize_with = "null_default"
    )]
    pub(crate) preferred: Vec<PreferredNode>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeSelector {
    #[serde(deserialize_with = "null_default")]
    pub(crate) node_selector_terms: Vec<NodeTerm>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PreferredNode {
    pub(crate) weight: i64,
    pub(crate) preference: NodeTerm,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeTerm {
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub(crate) match_expressions: Vec<Requirement>,
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub(crate) match_fields: Vec<Requirement>,
}

/// One expression of a label or node selector.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Requirement {
    pub(crate) key: String,
    pub(crate) operator: String,
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub(crate) values: Vec<String>,
}

impl Requirement {
    pub(crate) fn matches(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|it| it == value);
        let compare = |than: fn(&i64, &i64) -> bool| {
            let have = value.and_then(|it| it.parse().ok());
            let limit = self.values.first().and_then(|it| it.parse().ok());
            have.zip(limit).is_some_and(|(have, limit): (i64, i64)| than(&have, &limit))
        };
        match self.operator.as_str() {
            "In" => value.is_some_and(listed),
            "NotIn" => !value.is_some_and(listed),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            "Gt" => compare(i64::gt),
            "Lt" => compare(i64::lt),
            _ => false,
        }
    }
}

/// `metav1.LabelSelector`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct LabelSelector {
    #[serde(deserialize_with = "null_default")]
    pub(crate) match_labels: Labels,
    #[serde(deserialize_with = "null_default")]
    pub(crate) match_expressions: Vec<Requirement>,
}

impl LabelSelector {
    pub(crate) fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    pub(crate) fn matches(&self, labels: &Labels) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self
                .match_expressions
                .iter()
                .all(|it| it.matches(labels.get(&it.key).map(String::as_str)))
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PodTerms {
    #[serde(
        rename = "requiredDuringSchedulingIgnoredDuringExecution",
        deserialize_with = "null_default"
    )]
    pub(crate) required: Vec<PodTerm>,
    #[serde(
        rename = "preferredDuringSchedulingIgnoredDuringExecution",
        deserialize_with = "null_default"
    )]
    pub(crate) preferred: Vec<PreferredPods>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PreferredPods {
    pub(crate) weight: i64,
    pub(crate) pod_affinity_term: PodTerm,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodTerm {
    pub(crate) label_selector: Option<LabelSelector>,
    #[serde(deserialize_with = "null_default")]
    pub(crate) namespaces: Vec<String>,
    pub(crate) namespace_selector: Option<LabelSelector>,
    pub(crate) topology_key: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SpreadConstraint {
    pub(crate) max_skew: i64,
    pub(crate) topology_key: String,
    pub(crate) when_unsatisfiable: String,
    pub(crate) label_selector: Option<LabelSelector>,
    pub(crate) min_domains: Option<i64>,
    pub(crate) node_affinity_policy: Option<String>,
    pub(crate) node_taints_policy: Option<String>,
    #[serde(deserialize_with = "null_default")]
    pub(crate) match_label_keys: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Node {
    pub(crate) metadata: Meta,
    pub(crate) spec: NodeSpec,
    pub(crate) status: NodeStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NodeSpec {
    pub(crate) unschedulable: bool,
    #[serde(deserialize_with = "null_default")]
    pub(crate) taints: Vec<Taint>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NodeStatus {
    #[serde(deserialize_with = "null_default")]
    pub(crate) allocatable: Amounts,
    #[serde(deserialize_with = "null_default")]
    pub(crate) images: Vec<Image>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Image {
    #[serde(deserialize_with = "null_default")]
    pub(crate) names: Vec<String>,
    pub(crate) size_bytes: i64,
}

/// An object with a label selector, of which nothing else matters: ReplicaSets, StatefulSets.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Selecting {
    pub(crate) metadata: Meta,
    pub(crate) spec: SelectorSpec,
}

/// An object that selects by a map: Services, ReplicationControllers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct MapSelecting {
    pub(crate) metadata: Meta,
    pub(crate) spec: MapSelector,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct MapSelector {
    #[serde(deserialize_with = "null_default")]
    pub(crate) selector: Labels,
}

/// `policy/v1 PodDisruptionBudget`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Budget {
    pub(crate) metadata: Meta,
    pub(crate) spec: SelectorSpec,
    pub(crate) status: BudgetStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SelectorSpec {
    pub(crate) selector: Option<LabelSelector>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct BudgetStatus {
    pub(crate) disruptions_allowed: i32,
    #[serde(deserialize_with = "null_default")]
    pub(crate) disrupted_pods: BTreeMap<String, Value>,
}

impl Budget {
    /// Whether it protects pods with these labels; no selector and an empty one protect nothing
    /// here, as upstream.
    pub(crate) fn selects(&self, labels: &Labels) -> bool {
        self.spec.selector.as_ref().is_some_and(|it| !it.is_empty() && it.matches(labels))
    }
}

macro_rules! object {
    ($($name:ident),*) => {
        $(impl HasMeta for $name {
            fn meta(&self) -> &Meta {
                &self.metadata
            }
        })*
    };
}
pub(crate) use object;
object!(Pod, Node, Budget, Selecting, MapSelecting);

impl Pod {
    pub(crate) fn priority(&self) -> i32 {
        self.spec.priority.unwrap_or(0)
    }

    pub(crate) fn is_assigned(&self) -> bool {
        !self.spec.node_name.is_empty()
    }

    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// The name of the scheduler that it is for.
    pub(crate) fn scheduler(&self) -> &str {
        match self.spec.scheduler_name.as_str() {
            "" => crate::profile::DEFAULT_NAME,
            name => name,
        }
    }

    /// Host ports of all containers.
    pub(crate) fn host_ports(&self) -> impl Iterator<Item = &ContainerPort> {
        let sidecars = self.spec.init_containers.iter().filter(|it| it.restart_policy == "Always");
        self.spec
            .containers
            .iter()
            .chain(sidecars)
            .flat_map(|it| &it.ports)
            .filter(|it| it.host_port > 0)
    }

    /// What the pod asks for: its containers and sidecars together, or its largest init container
    /// with the sidecars started before it, whichever is more; plus overhead.
    pub(crate) fn requests(&self, of: fn(&Amounts) -> Resources) -> Resources {
        let mut running = Resources::default();
        for container in &self.spec.containers {
            running.add(&of(&container.resources.requests));
        }
        let mut sidecars = Resources::default();
        let mut peak = Resources::default();
        for container in &self.spec.init_containers {
            let own = of(&container.resources.requests);
            if container.restart_policy == "Always" {
                running.add(&own);
                sidecars.add(&own);
                peak.max(&sidecars);
            } else {
                let mut during = sidecars.clone();
                during.add(&own);
                peak.max(&during);
            }
        }
        running.max(&peak);
        running.add(&Resources::parse(&self.spec.overhead));
        running
    }
}

/// An amount in whole units, or in thousandths for `cpu`; nonsense counts as nothing.
pub(crate) fn amount(name: &str, value: &Value) -> i64 {
    let quantity = quantity(value);
    if name == "cpu" { quantity.milli_value() } else { quantity.value() }
}

/// A quantity as written; nonsense counts as nothing.
pub(crate) fn quantity(value: &Value) -> Quantity {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Quantity::parse(&text).unwrap_or(Quantity::ZERO)
}
