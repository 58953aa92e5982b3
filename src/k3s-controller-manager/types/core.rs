//! The core group.

use std::collections::BTreeMap;

use client::{HasMeta, Labels, Meta, Raw, Time, null_default};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Condition, IntOrString, Selector,
    apps::{ReplicaSet, ReplicaSetSpec, ReplicaSetStatus},
    condition, object,
};
use crate::amounts::{Amounts, Resources};

object!(Pod, Service, Endpoints, Node, Namespace, ConfigMap, ServiceAccount);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Pod {
    pub metadata: Meta,
    pub spec: PodSpec,
    pub status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodSpec {
    pub node_name: String,
    pub hostname: String,
    pub subdomain: String,
    pub affinity: Option<Box<Value>>,
    pub restart_policy: String,
    pub containers: Vec<Container>,
    #[serde(deserialize_with = "null_default")]
    pub init_containers: Vec<Container>,
    #[serde(deserialize_with = "null_default")]
    pub tolerations: Vec<Toleration>,
    pub resources: Resources,
    #[serde(deserialize_with = "null_default")]
    pub overhead: Amounts,
    pub active_deadline_seconds: Option<i64>,
    pub priority_class_name: String,
    #[serde(deserialize_with = "pod_volumes")]
    pub volumes: PodVolumes,
    #[serde(deserialize_with = "null_default")]
    pub resource_claims: Vec<PodClaim>,
}

/// A claim of devices that a pod names, or that is made for it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodClaim {
    pub name: String,
    pub resource_claim_name: Option<String>,
    pub resource_claim_template_name: Option<String>,
}

/// The claim that was made for a pod; none when there need not be one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodClaimStatus {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_claim_name: Option<String>,
}

/// Of a pod's volumes only those with claims are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodVolumes {
    /// The claims that volumes name.
    pub claims: Vec<String>,
    /// The names of volumes whose claims are made for the pod.
    pub ephemeral: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Container {
    pub name: String,
    pub restart_policy: String,
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<ContainerPort>,
    pub resources: Resources,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContainerPort {
    pub name: String,
    pub container_port: i32,
    pub protocol: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Toleration {
    pub key: String,
    pub operator: String,
    pub value: String,
    pub effect: String,
    pub toleration_seconds: Option<i64>,
}

impl Toleration {
    pub(crate) fn tolerates(&self, taint: &Taint) -> bool {
        (self.effect.is_empty() || self.effect == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && (self.operator == "Exists" || (!self.key.is_empty() && self.value == taint.value))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Taint {
    pub key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    pub effect: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_added: Option<Time>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PodStatus {
    pub phase: String,
    pub reason: String,
    pub start_time: Option<Time>,
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
    #[serde(rename = "podIP")]
    pub pod_ip: String,
    #[serde(rename = "podIPs", deserialize_with = "null_default")]
    pub pod_ips: Vec<PodIp>,
    #[serde(deserialize_with = "null_default")]
    pub container_statuses: Vec<ContainerStatus>,
    #[serde(deserialize_with = "null_default")]
    pub init_container_statuses: Vec<ContainerStatus>,
    #[serde(deserialize_with = "null_default")]
    pub resource_claim_statuses: Vec<PodClaimStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct PodIp {
    pub ip: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContainerStatus {
    pub name: String,
    pub restart_count: i32,
    pub state: ContainerState,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ContainerState {
    pub terminated: Option<Terminated>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Terminated {
    pub exit_code: i32,
    pub finished_at: Option<Time>,
}

fn pod_volumes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<PodVolumes, D::Error> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct PodVolume {
        name: String,
        persistent_volume_claim: Option<ClaimSource>,
        ephemeral: Option<serde::de::IgnoredAny>,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct ClaimSource {
        claim_name: String,
    }
    let all: Vec<PodVolume> = null_default(deserializer)?;
    let mut volumes = PodVolumes::default();
    for volume in all {
        volumes.claims.extend(volume.persistent_volume_claim.map(|it| it.claim_name));
        volumes.ephemeral.extend(volume.ephemeral.map(|_| volume.name));
    }
    Ok(volumes)
}

impl Pod {
    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Neither finished nor on its way out.
    pub(crate) fn is_active(&self) -> bool {
        !self.is_finished() && !self.metadata.is_deleting()
    }

    pub(crate) fn is_ready(&self) -> bool {
        condition(&self.status.conditions, "Ready").is_some_and(Condition::is_true)
    }

    /// Since when the pod is ready.
    pub(crate) fn ready_since(&self) -> Option<jiff::Timestamp> {
        let ready = condition(&self.status.conditions, "Ready").filter(|it| it.is_true())?;
        ready.last_transition_time.as_ref().map(|time| time.0)
    }

    /// Ready for at least `min_ready_seconds`.
    pub(crate) fn is_available(&self, min_ready_seconds: i32, now: jiff::Timestamp) -> bool {
        if !self.is_ready() {
            return false;
        }
        min_ready_seconds == 0
            || self.ready_since().is_some_and(|since| {
                now.duration_since(since).as_secs() >= i64::from(min_ready_seconds)
            })
    }

    /// On its way out, but not finished.
    pub(crate) fn is_terminating(&self) -> bool {
        !self.is_finished() && self.metadata.is_deleting()
    }

    /// How often its containers were restarted, in all.
    pub(crate) fn restarts(&self) -> i32 {
        self.status.container_statuses.iter().map(|status| status.restart_count).sum()
    }

    /// The restarts of the container that was restarted most, and of the sidecar.
    pub(crate) fn most_restarts(&self) -> (i32, i32) {
        let most = |statuses: &[ContainerStatus], counts: &dyn Fn(&str) -> bool| {
            let counted = statuses.iter().filter(|it| counts(&it.name));
            counted.map(|it| it.restart_count).max().unwrap_or(0)
        };
        let init = &self.spec.init_containers;
        let is_sidecar =
            |name: &str| init.iter().any(|it| it.name == name && it.restart_policy == "Always");
        (
            most(&self.status.container_statuses, &|_| true),
            most(&self.status.init_container_statuses, &is_sidecar),
        )
    }
}

/// A ReplicationController, read as the ReplicaSet that it is but for the form of its selector.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "ReplicationControllerWire")]
pub(crate) struct ReplicationController(pub ReplicaSet);

impl HasMeta for ReplicationController {
    fn meta(&self) -> &Meta {
        &self.0.metadata
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ReplicationControllerWire {
    metadata: Meta,
    spec: ReplicationControllerSpec,
    status: ReplicaSetStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ReplicationControllerSpec {
    replicas: Option<i32>,
    min_ready_seconds: i32,
    #[serde(deserialize_with = "null_default")]
    selector: Labels,
    template: Option<Raw>,
}

impl From<ReplicationControllerWire> for ReplicationController {
    fn from(wire: ReplicationControllerWire) -> Self {
        ReplicationController(ReplicaSet {
            metadata: wire.metadata,
            spec: ReplicaSetSpec {
                replicas: wire.spec.replicas,
                min_ready_seconds: wire.spec.min_ready_seconds,
                selector: Selector { match_labels: wire.spec.selector, ..Selector::default() },
                template: wire.spec.template,
            },
            status: wire.status,
        })
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Service {
    pub metadata: Meta,
    pub spec: ServiceSpec,
    pub status: ServiceStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServiceStatus {
    pub load_balancer: LoadBalancer,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct LoadBalancer {
    #[serde(deserialize_with = "null_default")]
    pub ingress: Vec<LoadBalancerIngress>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct LoadBalancerIngress {
    pub ip: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_mode: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServiceSpec {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(deserialize_with = "null_default")]
    pub selector: Labels,
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    #[serde(deserialize_with = "null_default")]
    pub ip_families: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<ServicePort>,
    pub publish_not_ready_addresses: bool,
    pub allocate_load_balancer_node_ports: Option<bool>,
    pub load_balancer_class: Option<String>,
    pub external_traffic_policy: String,
    pub traffic_distribution: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServicePort {
    pub name: String,
    pub protocol: String,
    pub port: i32,
    pub target_port: Option<IntOrString>,
    pub app_protocol: Option<String>,
    pub node_port: i32,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Endpoints {
    pub metadata: Meta,
    #[serde(deserialize_with = "null_default")]
    pub subsets: Vec<Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Node {
    pub metadata: Meta,
    pub spec: NodeSpec,
    pub status: NodeStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pub pod_cidr: String,
    #[serde(rename = "podCIDRs", deserialize_with = "null_default")]
    pub pod_cidrs: Vec<String>,
    pub unschedulable: bool,
    #[serde(deserialize_with = "null_default")]
    pub taints: Vec<Taint>,
    #[serde(rename = "providerID")]
    pub provider_id: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NodeStatus {
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
    #[serde(deserialize_with = "null_default")]
    pub addresses: Vec<NodeAddress>,
    #[serde(deserialize_with = "null_default")]
    pub volumes_in_use: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub volumes_attached: Vec<AttachedVolume>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct AttachedVolume {
    pub name: String,
    pub device_path: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct NodeAddress {
    #[serde(rename = "type")]
    pub kind: String,
    pub address: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Namespace {
    pub metadata: Meta,
    pub spec: NamespaceSpec,
    pub status: NamespaceStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NamespaceSpec {
    #[serde(deserialize_with = "null_default")]
    pub finalizers: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NamespaceStatus {
    pub phase: String,
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ConfigMap {
    pub metadata: Meta,
    #[serde(deserialize_with = "null_default")]
    pub data: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ServiceAccount {
    pub metadata: Meta,
    #[serde(deserialize_with = "null_default")]
    pub secrets: Vec<SecretReference>,
}

/// A Secret that a ServiceAccount names.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SecretReference {
    pub name: String,
}

impl ServiceAccount {
    /// Whether the account names this Secret, as it did when its token was made unasked.
    pub(crate) fn names(&self, secret: &str) -> bool {
        self.secrets.iter().any(|it| it.name == secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tolerations_match_as_the_scheduler_matches() {
        let taint = Taint {
            key: "a".into(),
            value: "b".into(),
            effect: "NoExecute".into(),
            ..Taint::default()
        };
        let check = |key: &str, operator: &str, value: &str, effect: &str, want: bool| {
            let toleration = Toleration {
                key: key.into(),
                operator: operator.into(),
                value: value.into(),
                effect: effect.into(),
                toleration_seconds: None,
            };
            assert_eq!(toleration.tolerates(&taint), want, "{toleration:?}");
        };
        check("a", "Equal", "b", "NoExecute", true);
        check("a", "", "b", "", true);
        check("a", "Equal", "c", "", false);
        check("", "Exists", "", "", true);
        check("a", "Exists", "", "NoSchedule", false);
    }
}
