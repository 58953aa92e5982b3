//! What a server tells its agents about the cluster: k3s' `/v1-k3s/config`, under k3s' names.
//!
//! The server role writes it to a file that the API server hands out as it is; the agent role reads
//! it. Invariant: nothing in it is secret.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnetwork::IpNetwork;
use pki::{Durability, write_with};
use serde::{Deserialize, Serialize};

use crate::settings::Server;

/// The part of k3s' `Control` that agents act upon; a server of k3s says much more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Control {
    #[serde(rename = "ClusterIPRange")]
    pub(crate) cluster_cidr: Network,
    #[serde(rename = "ClusterIPRanges")]
    cluster_cidrs: Vec<Network>,
    #[serde(rename = "ServiceIPRange")]
    service_cidr: Network,
    #[serde(rename = "ServiceIPRanges")]
    service_cidrs: Vec<Network>,
    #[serde(rename = "ClusterDNS")]
    pub(crate) cluster_dns: IpAddr,
    #[serde(rename = "ClusterDNSs")]
    cluster_dnss: Vec<IpAddr>,
    #[serde(rename = "ClusterDomain")]
    pub(crate) cluster_domain: String,
    #[serde(rename = "FlannelBackend")]
    pub(crate) flannel_backend: String,
    #[serde(rename = "EgressSelectorMode", default)]
    egress_selector_mode: String,
    #[serde(rename = "HTTPSPort")]
    https_port: u16,
    #[serde(rename = "SupervisorPort")]
    supervisor_port: u16,
    #[serde(rename = "DisableKubeProxy", default)]
    pub(crate) disable_kube_proxy: bool,
    /// We have no network policies of k3s' kind and no cloud controller.
    #[serde(rename = "DisableNPC", default)]
    disable_npc: bool,
    #[serde(rename = "DisableCCM", default)]
    disable_ccm: bool,
    #[serde(rename = "Disables", default, deserialize_with = "null_default")]
    pub(crate) disables: BTreeMap<String, bool>,
}

/// Go's `net.IPNet` in JSON: the address as text, the mask as bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Network {
    #[serde(rename = "IP")]
    ip: IpAddr,
    #[serde(rename = "Mask")]
    mask: String,
}

impl From<IpNetwork> for Network {
    fn from(network: IpNetwork) -> Self {
        let mask = match network.mask() {
            IpAddr::V4(mask) => STANDARD.encode(mask.octets()),
            IpAddr::V6(mask) => STANDARD.encode(mask.octets()),
        };
        Self { ip: network.network(), mask }
    }
}

impl Network {
    /// The network, unless address and mask don't go together.
    pub(crate) fn network(&self) -> Option<IpNetwork> {
        let mask = STANDARD.decode(&self.mask).ok()?;
        let prefix: u32 = mask.iter().map(|byte| byte.leading_ones()).sum();
        IpNetwork::new(self.ip, u8::try_from(prefix).ok()?).ok()
    }
}

fn null_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Control {
    fn of(server: &Server) -> Self {
        let node = &server.node;
        let (cluster, service) = (node.cluster_cidr.into(), Network::from(server.service_cidr));
        Self {
            cluster_cidrs: vec![Network::clone(&cluster)],
            cluster_cidr: cluster,
            service_cidrs: vec![service.clone()],
            service_cidr: service,
            cluster_dns: node.cluster_dns,
            cluster_dnss: vec![node.cluster_dns],
            cluster_domain: node.cluster_domain.clone(),
            flannel_backend: server.backend.clone(),
            egress_selector_mode: "agent".to_owned(),
            https_port: server.port,
            supervisor_port: server.port,
            disable_kube_proxy: node.args.disable_kube_proxy,
            disable_npc: true,
            disable_ccm: true,
            disables: BTreeMap::from([("coredns".to_owned(), !node.serves_dns)]),
        }
    }

    /// Reads what a server said.
    pub(crate) fn parse(json: &[u8]) -> Result<Self> {
        serde_json::from_slice(json).context("reading the server's configuration for agents")
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec(self).context("writing the configuration for agents")?;
        write_with(path, &text, 0o600, Durability::Derived)
    }
}

/// Leaves what the API server hands out to agents.
pub(crate) fn publish(server: &Server) -> Result<()> {
    Control::of(server).write(&server.node.paths.server("etc/control.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_written_as_go_writes_them() {
        let check = |text: &str, ip: &str, mask: &str| {
            let network: IpNetwork = text.parse().unwrap();
            let wire = Network::from(network);
            assert_eq!((wire.ip.to_string().as_str(), wire.mask.as_str()), (ip, mask));
            assert_eq!(wire.network(), Some(network));
        };
        check("10.42.0.0/16", "10.42.0.0", "//8AAA==");
        check("fd00:42::/56", "fd00:42::", "/////////wAAAAAAAAAAAA==");
    }

    #[test]
    fn what_k3s_says_is_understood() {
        let json = br#"{"ClusterDNSs":["10.43.0.10"],"ClusterIPRanges":[{"IP":"10.42.0.0","Mask":"//8AAA=="}],
            "ClusterDNS":"10.43.0.10","ClusterDomain":"cluster.local","ClusterIPRange":{"IP":"10.42.0.0","Mask":"//8AAA=="},
            "DisableCCM":false,"DisableNPC":false,"FlannelBackend":"vxlan","EgressSelectorMode":"agent",
            "ServiceIPRange":{"IP":"10.43.0.0","Mask":"//8AAA=="},"ServiceIPRanges":[{"IP":"10.43.0.0","Mask":"//8AAA=="}],
            "HTTPSPort":6443,"SupervisorPort":6443,"APIServerPort":6444,"Disables":null,"DisableKubeProxy":false,"Skips":null}"#;
        let control = Control::parse(json).unwrap();
        assert_eq!(control.cluster_cidr.network(), Some("10.42.0.0/16".parse().unwrap()));
        assert_eq!(control.cluster_domain, "cluster.local");
    }
}
