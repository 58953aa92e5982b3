//! The command line: k3s' subcommands, flags and environment variables.
//!
//! One definition; help, man pages and completions are made from it.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Where configuration is read from unless `--config` or `K3S_CONFIG_FILE` says otherwise.
pub(crate) const CONFIG_FILE: &str = "/etc/rancher/k3s/config.yaml";

/// Kubernetes for small machines.
#[derive(Debug, Parser)]
#[command(name = "k3s", version, disable_help_subcommand = true, args_override_self = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a server: control plane and, unless disabled, a node.
    #[command(args_override_self = true)]
    Server(Box<ServerArgs>),
    /// Show the components of this node and their state.
    Status(StatusArgs),
    /// Run the system's kubectl with this cluster's kubeconfig.
    #[command(disable_help_flag = true)]
    Kubectl(Passed),
    /// Run the system's crictl on this node's containerd.
    #[command(disable_help_flag = true)]
    Crictl(Passed),
    /// Run the system's ctr on this node's containerd.
    #[command(disable_help_flag = true)]
    Ctr(Passed),
    /// Print a completion script.
    Completion {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// Arguments handed on unread.
#[derive(Debug, Args)]
pub(crate) struct Passed {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Flags of `k3s server`; those of its node are included.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServerArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,

    /// Address that the API server listens on.
    #[arg(long)]
    pub(crate) bind_address: Option<IpAddr>,
    /// Port that the API server listens on.
    #[arg(long, default_value_t = 6443)]
    pub(crate) https_listen_port: u16,
    /// Address that the API server advertises to the cluster.
    #[arg(long)]
    pub(crate) advertise_address: Option<IpAddr>,
    /// Further host names and addresses for the serving certificate.
    #[arg(long, value_delimiter = ',')]
    pub(crate) tls_san: Vec<String>,
    /// Network of the pods.
    #[arg(long, value_delimiter = ',', default_value = "10.42.0.0/16")]
    pub(crate) cluster_cidr: Vec<String>,
    /// Network of the Services.
    #[arg(long, value_delimiter = ',', default_value = "10.43.0.0/16")]
    pub(crate) service_cidr: Vec<String>,
    /// Ports for Services of type NodePort.
    #[arg(long, default_value = "30000-32767")]
    pub(crate) service_node_port_range: String,
    /// Address of the cluster DNS; the tenth of the service network by default.
    #[arg(long, value_delimiter = ',')]
    pub(crate) cluster_dns: Vec<String>,
    /// Domain of the cluster DNS.
    #[arg(long, default_value = "cluster.local")]
    pub(crate) cluster_domain: String,
    /// Backend of the pod network.
    #[arg(long, default_value = "vxlan", value_parser = ["none", "vxlan", "host-gw"])]
    pub(crate) flannel_backend: String,
    /// Write the administrator's kubeconfig to this file.
    #[arg(long, short = 'o', env = "K3S_KUBECONFIG_OUTPUT")]
    pub(crate) write_kubeconfig: Option<PathBuf>,
    /// Mode of the administrator's kubeconfig.
    #[arg(long, env = "K3S_KUBECONFIG_MODE", default_value = "0600")]
    pub(crate) write_kubeconfig_mode: String,
    /// Token that agents join with in place of the server's.
    #[arg(long, env = "K3S_AGENT_TOKEN", hide_env_values = true)]
    pub(crate) agent_token: Option<String>,
    /// Flags for the API server, `key=value`.
    #[arg(long)]
    pub(crate) kube_apiserver_arg: Vec<String>,
    /// Flags for the controller manager, `key=value`.
    #[arg(long)]
    pub(crate) kube_controller_manager_arg: Vec<String>,
    /// Flags for the scheduler, `key=value`.
    #[arg(long)]
    pub(crate) kube_scheduler_arg: Vec<String>,
    /// An etcd to use in place of the built-in store: `http://host:2379` or `unix:///path`.
    #[arg(long, env = "K3S_DATASTORE_ENDPOINT")]
    pub(crate) datastore_endpoint: Option<String>,
    /// Do not run the scheduler.
    #[arg(long)]
    pub(crate) disable_scheduler: bool,
    /// Do not run the controller manager.
    #[arg(long)]
    pub(crate) disable_controller_manager: bool,
    /// Do not run a node on this server.
    #[arg(long)]
    pub(crate) disable_agent: bool,
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
    /// Folder of all state.
    #[arg(long, short = 'd', env = "K3S_DATA_DIR", default_value = "/var/lib/rancher/k3s")]
    pub(crate) data_dir: PathBuf,
    /// Shared secret to join the cluster.
    #[arg(long, short = 't', env = "K3S_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// File with the shared secret.
    #[arg(long, env = "K3S_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Name of the node; the lower-case host name by default.
    #[arg(long, env = "K3S_NODE_NAME")]
    pub(crate) node_name: Option<String>,
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
    /// Socket of a container runtime that already runs; none is started then.
    #[arg(long)]
    pub(crate) container_runtime_endpoint: Option<String>,
    /// Image that holds the namespaces of a pod; a built-in one by default.
    #[arg(long)]
    pub(crate) pause_image: Option<String>,
    /// containerd's snapshotter.
    #[arg(long, default_value = "overlayfs")]
    pub(crate) snapshotter: String,
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
