//! The fields of Services, EndpointSlices and Pods that the proxy keeps.
//!
//! Invariant: what does not parse is empty, never an error: one odd object must not stop a node.

use client::{HasMeta, Meta, Resource, null_default};
use ipnetwork::IpNetwork;
use serde::Deserialize;
use std::net::IpAddr;

pub const SERVICES: Resource = Resource::namespaced("", "v1", "services", "Service");
pub const SLICES: Resource =
    Resource::namespaced("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice");
pub const PODS: Resource = Resource::namespaced("", "v1", "pods", "Pod");

pub const NODES: Resource = Resource::cluster("", "v1", "nodes", "Node");

/// The zone of a node.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// Services with this label belong to another proxy.
pub const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// The Service that a slice belongs to.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum Policy {
    #[default]
    Cluster,
    Local,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum Affinity {
    #[default]
    None,
    #[serde(rename = "ClientIP")]
    ClientIp,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    pub metadata: Meta,
    pub spec: ServiceSpec,
    pub status: ServiceStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceSpec {
    #[serde(rename = "type", deserialize_with = "null_default")]
    pub kind: String,
    #[serde(rename = "clusterIP", deserialize_with = "null_default")]
    pub cluster_ip: String,
    #[serde(rename = "clusterIPs", deserialize_with = "null_default")]
    pub cluster_ips: Vec<String>,
    #[serde(rename = "externalIPs", deserialize_with = "null_default")]
    pub external_ips: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<ServicePort>,
    #[serde(deserialize_with = "null_default")]
    pub session_affinity: Affinity,
    #[serde(deserialize_with = "null_default")]
    pub session_affinity_config: AffinityConfig,
    #[serde(deserialize_with = "null_default")]
    pub external_traffic_policy: Policy,
    #[serde(deserialize_with = "null_default")]
    pub internal_traffic_policy: Policy,
    #[serde(deserialize_with = "null_default")]
    pub health_check_node_port: u16,
    #[serde(deserialize_with = "null_default")]
    pub load_balancer_source_ranges: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct AffinityConfig {
    #[serde(rename = "clientIP", deserialize_with = "null_default")]
    pub client_ip: ClientIpConfig,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClientIpConfig {
    pub timeout_seconds: Option<u32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServicePort {
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    #[serde(deserialize_with = "null_default")]
    pub protocol: Protocol,
    pub port: u16,
    #[serde(deserialize_with = "null_default")]
    pub node_port: u16,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceStatus {
    #[serde(deserialize_with = "null_default")]
    pub load_balancer: LoadBalancer,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct LoadBalancer {
    #[serde(deserialize_with = "null_default")]
    pub ingress: Vec<Ingress>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Ingress {
    #[serde(deserialize_with = "null_default")]
    pub ip: String,
    /// `Proxy` means that the balancer sends to node ports and we keep off its address.
    #[serde(deserialize_with = "null_default")]
    pub ip_mode: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointSlice {
    pub metadata: Meta,
    #[serde(deserialize_with = "null_default")]
    pub endpoints: Vec<Endpoint>,
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<EndpointPort>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Endpoint {
    #[serde(deserialize_with = "null_default")]
    pub addresses: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub conditions: Conditions,
    #[serde(deserialize_with = "null_default")]
    pub node_name: String,
    #[serde(deserialize_with = "null_default")]
    pub hints: Hints,
}

/// Whom an endpoint is for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Hints {
    #[serde(deserialize_with = "null_default")]
    pub for_zones: Vec<Hint>,
    #[serde(deserialize_with = "null_default")]
    pub for_nodes: Vec<Hint>,
}

/// A zone or a node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Hint {
    pub name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Conditions {
    pub ready: Option<bool>,
    pub serving: Option<bool>,
    pub terminating: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct EndpointPort {
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    #[serde(deserialize_with = "null_default")]
    pub protocol: Protocol,
    pub port: Option<u16>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    pub metadata: Meta,
    pub spec: PodSpec,
    pub status: PodStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodSpec {
    #[serde(deserialize_with = "null_default")]
    pub host_network: bool,
    #[serde(deserialize_with = "null_default")]
    pub containers: Vec<Container>,
    #[serde(deserialize_with = "null_default")]
    pub init_containers: Vec<Container>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Container {
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<ContainerPort>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerPort {
    #[serde(deserialize_with = "null_default")]
    pub protocol: Protocol,
    pub container_port: u16,
    #[serde(deserialize_with = "null_default")]
    pub host_port: u16,
    #[serde(rename = "hostIP", deserialize_with = "null_default")]
    pub host_ip: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodStatus {
    #[serde(deserialize_with = "null_default")]
    pub phase: String,
    #[serde(rename = "podIPs", deserialize_with = "null_default")]
    pub pod_ips: Vec<PodIp>,
    #[serde(rename = "podIP", deserialize_with = "null_default")]
    pub pod_ip: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct PodIp {
    pub ip: String,
}

macro_rules! has_meta {
    ($($kind:ty),*) => {$(
        impl HasMeta for $kind {
            fn meta(&self) -> &Meta {
                &self.metadata
            }
        }
    )*};
}
has_meta!(Service, EndpointSlice, Pod);

impl Service {
    /// Whether this proxy has anything to do for the Service.
    pub fn is_ours(&self) -> bool {
        let spec = &self.spec;
        !self.metadata.labels.contains_key(PROXY_NAME)
            && spec.kind != "ExternalName"
            && spec.cluster_ip != "None"
            && !spec.cluster_ip.is_empty()
    }

    pub fn cluster_ips(&self) -> Vec<IpAddr> {
        let mut ips = parse_all(&self.spec.cluster_ips);
        if ips.is_empty() {
            ips.extend(self.spec.cluster_ip.parse::<IpAddr>());
        }
        ips
    }

    /// External addresses and those of load balancers that do not insist on node ports.
    pub fn external_ips(&self) -> Vec<IpAddr> {
        let mut ips = parse_all(&self.spec.external_ips);
        ips.extend(self.load_balancer_ips());
        ips.sort();
        ips.dedup();
        ips
    }

    /// Addresses of load balancers that do not insist on node ports.
    pub fn load_balancer_ips(&self) -> Vec<IpAddr> {
        let ingress = self.status.load_balancer.ingress.iter();
        let ours = ingress.filter(|ingress| ingress.ip_mode != "Proxy");
        ours.filter_map(|ingress| ingress.ip.parse().ok()).collect()
    }

    /// Who may use a load balancer; nothing for everybody.
    pub fn source_ranges(&self) -> Vec<IpNetwork> {
        let ranges = self.spec.load_balancer_source_ranges.iter();
        ranges.filter_map(|range| range.trim().parse().ok()).collect()
    }

    /// How long a client stays with its endpoint.
    pub fn affinity_secs(&self) -> Option<u32> {
        let timeout = self.spec.session_affinity_config.client_ip.timeout_seconds;
        (self.spec.session_affinity == Affinity::ClientIp).then(|| timeout.unwrap_or(10_800))
    }
}

fn parse_all(texts: &[String]) -> Vec<IpAddr> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}
