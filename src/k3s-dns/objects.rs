//! The fields of Services and EndpointSlices that names are made of.
//!
//! Invariant: what does not parse is empty, never an error.

use client::{HasMeta, Key, Meta, Resource, null_default};
use serde::Deserialize;
use std::net::IpAddr;

pub const SERVICES: Resource = Resource::namespaced("", "v1", "services", "Service");
pub const SLICES: Resource =
    Resource::namespaced("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice");

const SERVICE_NAME: &str = "kubernetes.io/service-name";

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    pub metadata: Meta,
    pub spec: ServiceSpec,
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
    #[serde(deserialize_with = "null_default")]
    pub external_name: String,
    #[serde(deserialize_with = "null_default")]
    pub publish_not_ready_addresses: bool,
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<Port>,
}

/// A port of a Service or of a slice.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Port {
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    #[serde(deserialize_with = "null_default")]
    pub protocol: String,
    pub port: Option<u16>,
}

impl Port {
    /// `_name._proto`, in lower case as queries are.
    pub fn matches(&self, name: &str, protocol: &str) -> bool {
        let ours = if self.protocol.is_empty() { "TCP" } else { &self.protocol };
        self.name.eq_ignore_ascii_case(name) && ours.eq_ignore_ascii_case(protocol)
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointSlice {
    pub metadata: Meta,
    #[serde(deserialize_with = "null_default")]
    pub endpoints: Vec<Endpoint>,
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<Port>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    #[serde(deserialize_with = "null_default")]
    pub addresses: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub conditions: Conditions,
    #[serde(deserialize_with = "null_default")]
    pub hostname: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Conditions {
    pub ready: Option<bool>,
}

impl HasMeta for Service {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl HasMeta for EndpointSlice {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Service {
    pub fn is_external(&self) -> bool {
        self.spec.kind == "ExternalName"
    }

    pub fn is_headless(&self) -> bool {
        self.spec.cluster_ip == "None"
    }

    pub fn cluster_ips(&self) -> Vec<IpAddr> {
        let all = self.spec.cluster_ips.iter().filter_map(|ip| ip.parse().ok());
        let mut ips: Vec<IpAddr> = all.collect();
        if ips.is_empty() {
            ips.extend(self.spec.cluster_ip.parse::<IpAddr>());
        }
        ips
    }
}

impl EndpointSlice {
    pub fn service(&self) -> Option<Key> {
        let name = self.metadata.labels.get(SERVICE_NAME)?;
        Some(Key::new(self.metadata.namespace.clone(), name.clone()))
    }
}

impl Endpoint {
    /// The address that counts, with the name that it has below its Service.
    pub fn named_address(&self) -> Option<(IpAddr, String)> {
        let ip: IpAddr = self.addresses.first()?.parse().ok()?;
        let name = match self.hostname.is_empty() {
            false => self.hostname.to_ascii_lowercase(),
            true => dashed(ip),
        };
        Some((ip, name))
    }
}

/// `10-42-0-7`, `fd00--7`.
pub fn dashed(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}

/// The opposite of [`dashed`].
pub fn undashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<IpAddr>();
    v4.or_else(|_| label.replace('-', ":").parse()).ok()
}
