//! Flags of a node: those that `k3s server` and `k3s agent` share, and the agent's own.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

use super::{CONFIG_FILE, DATA_DIR};

/// Flags of `k3s agent`.
#[derive(Args, Clone, Debug)]
pub(crate) struct AgentArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// Flags of a node, common to `k3s server` and `k3s agent`.
#[derive(Args, Clone, Debug)]
pub(crate) struct NodeArgs {
    /// Configuration file; `FILE.d/*.yaml` is read after it.
    #[arg(long, short = 'c', env = "K3S_CONFIG_FILE", default_value = CONFIG_FILE)]
    pub(crate) config: PathBuf,
    /// Log more.
    #[arg(long, env = "K3S_DEBUG")]
    pub(crate) debug: bool,
    /// Upstream's number for how much is logged; from 4 on as `--debug`.
    #[arg(short = 'v', id = "v", value_name = "N", default_value_t = 0)]
    pub(crate) verbosity: u8,
    /// Folder of all state.
    #[arg(long, short = 'd', env = "K3S_DATA_DIR", default_value = DATA_DIR)]
    pub(crate) data_dir: PathBuf,
    /// Address that the API server, or the kubelet of an agent, listens on.
    #[arg(long)]
    pub(crate) bind_address: Option<IpAddr>,
    /// Server to join: `https://host:6443`.
    #[arg(long, short = 's', env = "K3S_URL")]
    pub(crate) server: Option<String>,
    /// Shared secret to join the cluster.
    #[arg(long, short = 't', env = "K3S_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// File with the shared secret.
    #[arg(long, env = "K3S_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The former name of `--token`.
    #[arg(long, env = "K3S_CLUSTER_SECRET", hide_env_values = true, hide = true)]
    pub(crate) cluster_secret: Option<String>,
    /// Name of the node; the lower-case host name by default.
    #[arg(long, env = "K3S_NODE_NAME")]
    pub(crate) node_name: Option<String>,
    /// Add the machine's id, eight digits kept in /etc/rancher/node/id, to the node's name.
    #[arg(long)]
    pub(crate) with_node_id: bool,
    /// Labels that the node registers with, `key=value`.
    #[arg(long, value_delimiter = ',')]
    pub(crate) node_label: Vec<String>,
    /// Taints that the node registers with, `key=value:effect`.
    #[arg(long, value_delimiter = ',')]
    pub(crate) node_taint: Vec<String>,
    /// Address of the node; that of the default route by default.
    #[arg(long, short = 'i', value_delimiter = ',')]
    pub(crate) node_ip: Vec<String>,
    /// Interface of the pod network; that of the node's address by default.
    #[arg(long)]
    pub(crate) flannel_iface: Option<String>,
    /// Port of the agent's load balancer in front of the servers.
    #[arg(long, env = "K3S_LB_SERVER_PORT", default_value_t = 6444)]
    pub(crate) lb_server_port: u16,
    /// Go straight to the server that was given, without a load balancer.
    #[arg(long)]
    pub(crate) disable_apiserver_lb: bool,
    /// Socket of a container runtime that already runs; none is started then.
    #[arg(long)]
    pub(crate) container_runtime_endpoint: Option<String>,
    /// Image that holds the namespaces of a pod; a built-in one by default.
    #[arg(long)]
    pub(crate) pause_image: Option<String>,
    /// containerd's snapshotter.
    #[arg(long, default_value = "overlayfs")]
    pub(crate) snapshotter: String,
    /// Give devices in pods to the user that the pod runs as.
    #[arg(long)]
    pub(crate) nonroot_devices: bool,
    /// resolv.conf for pods that use the node's DNS.
    #[arg(long, env = "K3S_RESOLV_CONF")]
    pub(crate) resolv_conf: Option<PathBuf>,
    /// Flags for the kubelet, `key=value`.
    #[arg(long)]
    pub(crate) kubelet_arg: Vec<String>,
    /// Flags for the proxy, `key=value`.
    #[arg(long)]
    pub(crate) kube_proxy_arg: Vec<String>,
    /// Do not run the proxy.
    #[arg(long)]
    pub(crate) disable_kube_proxy: bool,
}

impl NodeArgs {
    /// Whether to log more.
    pub(crate) fn debug(&self) -> bool {
        self.debug || self.verbosity >= 4
    }

    /// The shared secret given directly, under its present or its former name.
    pub(crate) fn token(&self) -> Option<&str> {
        self.token.as_deref().or(self.cluster_secret.as_deref())
    }
}
