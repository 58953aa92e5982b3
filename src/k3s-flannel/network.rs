//! The node's own part of the pod network: the bridge, the files that other programs read.
//!
//! Invariant: everything here can be repeated at any time and changes only what is wrong.

use crate::cni::attach::mac_of;
use crate::cni::protocol::conflist;
use anyhow::{Context, Result};
use ipnetwork::{IpNetwork, Ipv4Network};
use netlink::Netlink;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;

pub const BRIDGE: &str = "cni0";

/// The pod network of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    pub pod_cidr: Ipv4Network,
    pub mtu: u32,
}

impl Network {
    /// The bridge's address: the first of the node's range.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.pod_cidr.network()) + 1)
    }

    fn gateway_address(&self) -> Ipv4Network {
        Ipv4Network::new(self.gateway(), self.pod_cidr.prefix())
            .expect("the prefix comes from a network")
    }

    /// The bridge with its address, up.
    pub async fn ensure_bridge(&self, netlink: &Netlink) -> netlink::Result<()> {
        netlink.ensure_bridge(BRIDGE, self.mtu).await?;
        // A fixed address: else the bridge takes that of its lowest port, a different one after
        // each change, and pods go on sending to the old one.
        netlink.ensure_mac(BRIDGE, mac_of(self.gateway())).await?;
        let address = IpNetwork::V4(self.gateway_address());
        netlink.ensure_only_address(BRIDGE, address).await
    }

    /// The environment file that flannel leaves for others.
    pub fn subnet_env(&self, cluster_cidr: Ipv4Network) -> String {
        format!(
            "FLANNEL_NETWORK={cluster_cidr}\nFLANNEL_SUBNET={}\nFLANNEL_MTU={}\nFLANNEL_IPMASQ=true\n",
            self.gateway_address(),
            self.mtu
        )
    }
}

/// Writes the plugin list where containerd looks for it.
pub fn write_conflist(dir: &Path, socket: &str) -> Result<()> {
    write_if_changed(&dir.join("10-flannel.conflist"), &conflist(socket))
}

/// Replaces the file in one step, unless it holds the text already.
pub fn write_if_changed(path: &Path, text: &str) -> Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|now| now == text) {
        return Ok(());
    }
    let write = || {
        let dir = path.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(dir)?;
        let new = path.with_extension("new");
        let mut file = std::fs::File::create(&new)?;
        file.write_all(text.as_bytes())?;
        std::fs::rename(new, path)
    };
    write().with_context(|| format!("writing {}", path.display()))
}
