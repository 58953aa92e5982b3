//! What flannel reads from Nodes and writes on its own: the annotations of the original flannel,
//! so that both can serve in one cluster.
//!
//! Invariant: a Node without complete annotations is no peer yet; it is never half used.

use client::{HasMeta, Meta, Resource};
use ipnetwork::Ipv4Network;
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::Ipv4Addr;

pub const NODES: Resource = Resource::cluster("", "v1", "nodes", "Node");

const BACKEND_TYPE: &str = "flannel.alpha.coreos.com/backend-type";
const BACKEND_DATA: &str = "flannel.alpha.coreos.com/backend-data";
const MANAGER: &str = "flannel.alpha.coreos.com/kube-subnet-manager";
const PUBLIC_IP: &str = "flannel.alpha.coreos.com/public-ip";
const PUBLIC_IP_OVERWRITE: &str = "flannel.alpha.coreos.com/public-ip-overwrite";

/// How packets get to other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Backend {
    Vxlan,
    HostGw,
    /// Somebody else connects the nodes.
    None,
}

impl Backend {
    fn annotation(self) -> &'static str {
        match self {
            Self::Vxlan => "vxlan",
            Self::HostGw => "host-gw",
            Self::None => "none",
        }
    }
}

/// The fields of a Node that are kept.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    pub metadata: Meta,
    pub spec: NodeSpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeSpec {
    #[serde(rename = "podCIDR", deserialize_with = "client::null_default")]
    pub pod_cidr: String,
    #[serde(rename = "podCIDRs", deserialize_with = "client::null_default")]
    pub pod_cidrs: Vec<String>,
}

impl HasMeta for Node {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct VxlanData {
    #[serde(rename = "VNI")]
    vni: u32,
    #[serde(rename = "VtepMAC")]
    vtep_mac: String,
}

/// Another node that packets can be sent to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    pub pod_cidr: Ipv4Network,
    pub public_ip: Ipv4Addr,
    pub reach: Reach,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    Vxlan { vtep_mac: [u8; 6] },
    HostGw,
}

impl Node {
    /// The first IPv4 pod range.
    pub fn pod_cidr(&self) -> Option<Ipv4Network> {
        let all = self.spec.pod_cidrs.iter().chain([&self.spec.pod_cidr]);
        let mut ranges = all.filter_map(|cidr| cidr.parse::<Ipv4Network>().ok());
        ranges.find(|range| range.prefix() <= 30)
    }

    /// The node as a peer, if its annotations are complete and of this backend.
    pub fn peer(&self, vni: u32) -> Option<Peer> {
        let reach = match self.metadata.annotation(BACKEND_TYPE)? {
            "vxlan" => {
                let data = self.metadata.annotation(BACKEND_DATA)?;
                let data: VxlanData = serde_json::from_str(data).ok()?;
                let vtep_mac = netlink::link::parse_mac(&data.vtep_mac)?;
                (data.vni == vni).then_some(Reach::Vxlan { vtep_mac })?
            }
            "host-gw" => Reach::HostGw,
            _ => return None,
        };
        let overwrite = self.metadata.annotation(PUBLIC_IP_OVERWRITE);
        let public_ip = overwrite.or_else(|| self.metadata.annotation(PUBLIC_IP))?;
        Some(Peer { pod_cidr: self.pod_cidr()?, public_ip: public_ip.parse().ok()?, reach })
    }

    /// The merge patch that makes the annotations right; `None` when they are.
    pub fn annotation_patch(&self, us: &Announcement) -> Option<Value> {
        let want = us.annotations();
        let right =
            want.iter().all(|(name, value)| self.metadata.annotation(name) == Some(value.as_str()));
        let body = || {
            let pairs = want.iter().map(|(k, v)| (k.to_string(), json!(v)));
            let annotations: serde_json::Map<String, Value> = pairs.collect();
            json!({"metadata": {"annotations": annotations}})
        };
        (!right).then(body)
    }
}

/// What this node tells the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    pub backend: Backend,
    pub public_ip: Ipv4Addr,
    pub vni: u32,
    pub vtep_mac: Option<String>,
}

impl Announcement {
    fn annotations(&self) -> [(&'static str, String); 4] {
        let data = match &self.vtep_mac {
            Some(mac) => json!({"VNI": self.vni, "VtepMAC": mac}).to_string(),
            None => "null".into(),
        };
        [
            (BACKEND_TYPE, self.backend.annotation().into()),
            (BACKEND_DATA, data),
            (MANAGER, "true".into()),
            (PUBLIC_IP, self.public_ip.to_string()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(annotations: &[(&str, &str)]) -> Node {
        let mut node = Node::default();
        node.spec.pod_cidr = "10.42.1.0/24".into();
        let pairs = annotations.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        node.metadata.annotations = pairs.collect();
        node
    }

    #[test]
    fn only_complete_nodes_are_peers() {
        let data = r#"{"VNI":1,"VtepMAC":"5e:1f:00:00:00:01"}"#;
        let full = [(BACKEND_TYPE, "vxlan"), (BACKEND_DATA, data), (PUBLIC_IP, "192.0.2.7")];
        let peer = node(&full).peer(1).unwrap();
        let vtep_mac = [0x5e, 0x1f, 0, 0, 0, 1];
        assert_eq!(peer.reach, Reach::Vxlan { vtep_mac });
        assert_eq!(node(&full).peer(2), None);
        assert_eq!(node(&full[..2]).peer(1), None);
        assert_eq!(node(&[]).peer(1), None);
        let bad = [full[0], (BACKEND_DATA, "{"), full[2]];
        assert_eq!(node(&bad).peer(1), None);
    }

    #[test]
    fn our_own_annotations_read_back_as_a_peer() {
        let us = Announcement {
            backend: Backend::Vxlan,
            public_ip: Ipv4Addr::new(192, 0, 2, 7),
            vni: 1,
            vtep_mac: Some("5e:1f:00:00:00:01".into()),
        };
        let patch = node(&[]).annotation_patch(&us).unwrap();
        let pairs = patch["metadata"]["annotations"].as_object().unwrap();
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| (k.as_str(), v.as_str().unwrap())).collect();
        let announced = node(&pairs);
        assert!(announced.peer(1).is_some());
        assert_eq!(announced.annotation_patch(&us), None);
    }
}
