//! The loop: looks at Nodes and links, makes the kernel right, tells the world.
//!
//! Level-driven: an event only starts another look. Invariant: the network is published after it
//! works, and a failed look is repeated without taking back what was published.

use crate::mesh::{self, VNI};
use crate::network::{self, Network};
use crate::node::{Announcement, NODES, Node, Peer};
use crate::underlay::{self, Underlay, Wish};
use crate::{Args, firewall};
use anyhow::{Context as _, Result};
use client::{Key, Lister, Patch, Rest};
use daemon::Context;
use ipnetwork::Ipv4Network;
use netlink::Netlink;
use netlink::link::format_mac;
use netlink::sysctl::{self, Sysctl};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

const RETRY: Duration = Duration::from_secs(1);

pub(crate) struct Service {
    pub(crate) cx: Context,
    pub(crate) args: Args,
    pub(crate) netlink: Netlink,
    pub(crate) rest: Rest,
    pub(crate) nodes: Lister<Node>,
    pub(crate) network: watch::Sender<Option<Network>>,
    /// The ranges that the firewall table was made for.
    pub(crate) firewall: Option<(Ipv4Network, Ipv4Network)>,
}

/// What a look led to.
enum Looked {
    Working,
    Waiting,
}

impl Service {
    pub(crate) async fn run(
        mut self,
        mut node_changes: watch::Receiver<u64>,
        mut link_changes: mpsc::Receiver<()>,
    ) -> Result<()> {
        prepare_host(&self.args)?;
        let stop = self.cx.stop.clone();
        loop {
            let retry = match self.look().await {
                Ok(Looked::Working) => {
                    self.cx.health(Ok(()));
                    self.cx.ready();
                    false
                }
                Ok(Looked::Waiting) => false,
                Err(err) => {
                    let text = format!("{err:#}");
                    warn!(err = %text, "Setting up the pod network failed, retrying");
                    self.cx.health(Err(text));
                    true
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Ok(()) = node_changes.changed() => {}
                Some(()) = link_changes.recv() => {}
                () = tokio::time::sleep(RETRY), if retry => {}
            }
        }
    }

    async fn look(&mut self) -> Result<Looked> {
        let name = &self.args.node_name;
        let Some(own) = self.nodes.get(&Key::cluster(name)) else {
            self.cx.status(format!("Waiting for Node {name}"));
            return Ok(Looked::Waiting);
        };
        let Some(pod_cidr) = own.pod_cidr() else {
            self.cx.status(format!("Waiting for the pod CIDR of Node {name}"));
            return Ok(Looked::Waiting);
        };
        let wish = Wish { node_ip: self.args.node_ip, iface: self.args.iface.clone() };
        let underlay = underlay::find(&self.netlink, &wish).await?;
        let mtu = mesh::mtu(self.args.backend, underlay.as_ref());
        let network = Network { pod_cidr, mtu };
        network.ensure_bridge(&self.netlink).await?;
        let vtep_mac = self.connect_peers(&network, underlay.as_ref()).await?;
        self.ensure_firewall(&network).await?;
        network::write_if_changed(
            &self.args.subnet_file,
            &network.subnet_env(self.args.cluster_cidr),
        )?;
        let socket = self.args.cni_socket.to_string_lossy();
        network::write_conflist(&self.args.cni_conf_dir, &socket)?;
        self.publish(network);
        self.announce(&own, underlay.as_ref(), vtep_mac).await?;
        Ok(Looked::Working)
    }

    /// Returns the tunnel's MAC address, if there is a tunnel.
    async fn connect_peers(
        &self,
        network: &Network,
        underlay: Option<&Underlay>,
    ) -> Result<Option<Vec<u8>>> {
        let peers = self.peers();
        let backend = self.args.backend;
        let tunnel = mesh::ensure_tunnel(&self.netlink, backend, underlay, network.pod_cidr)
            .await
            .context("setting up the tunnel device")?;
        let index = tunnel.as_ref().map(|(index, _)| *index);
        let link = underlay.map(|underlay| underlay.link);
        let want = mesh::plan(&peers, network.pod_cidr, index, link);
        mesh::apply(&self.netlink, &want, index).await.context("connecting to other nodes")?;
        let ip = underlay.map(|underlay| underlay.ip);
        self.cx.status(mesh::describe(peers.len(), network.pod_cidr, ip));
        Ok(tunnel.map(|(_, mac)| mac))
    }

    fn peers(&self) -> Vec<Peer> {
        let mut peers = Vec::new();
        self.nodes.for_each(|node| {
            if node.metadata.name != self.args.node_name {
                peers.extend(node.peer(VNI));
            }
        });
        peers
    }

    async fn ensure_firewall(&mut self, network: &Network) -> Result<()> {
        let ranges = (self.args.cluster_cidr, network.pod_cidr);
        if self.firewall != Some(ranges) {
            let table = firewall::table(ranges.0, ranges.1);
            netlink::nft::apply(&table).await.context("nftables table k3s-flannel")?;
            self.firewall = Some(ranges);
        }
        Ok(())
    }

    fn publish(&self, network: Network) {
        self.network.send_if_modified(|now| {
            let changed = now.as_ref() != Some(&network);
            if changed {
                info!(pod_cidr = %network.pod_cidr, mtu = network.mtu, "Pod network ready");
                *now = Some(network);
            }
            changed
        });
    }

    async fn announce(
        &self,
        own: &Node,
        underlay: Option<&Underlay>,
        vtep_mac: Option<Vec<u8>>,
    ) -> Result<()> {
        let Some(underlay) = underlay else { return Ok(()) };
        let announcement = Announcement {
            backend: self.args.backend,
            public_ip: underlay.ip,
            vni: VNI,
            vtep_mac: vtep_mac.as_deref().map(format_mac),
        };
        let Some(body) = own.annotation_patch(&announcement) else {
            return Ok(());
        };
        let key = Key::cluster(&self.args.node_name);
        let patched = self.rest.patch(&NODES, &key, "", Patch::Merge, &body).await;
        let _: serde_json::Value = match patched {
            // An identity like the original flannel's may write the status only.
            Err(err) if client::is_forbidden(&err) => {
                self.rest.patch(&NODES, &key, "status", Patch::Merge, &body).await?
            }
            other => other.context("annotating the Node")?,
        };
        Ok(())
    }
}

fn prepare_host(args: &Args) -> Result<()> {
    if sysctl::ensure("net.ipv4.ip_forward", "1")? == Sysctl::Changed {
        info!(key = "net.ipv4.ip_forward", "Turned on forwarding");
    }
    std::fs::create_dir_all(&args.cni_conf_dir)
        .with_context(|| format!("creating {}", args.cni_conf_dir.display()))
}
