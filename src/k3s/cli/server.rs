//! Flags of `k3s server`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

use super::NodeArgs;

/// Flags of `k3s server`; those of its node are included.
#[derive(Args, Clone, Debug)]
pub(crate) struct ServerArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,

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
    /// Backend of the pod network: none, vxlan or host-gw.
    #[arg(long, default_value = "vxlan")]
    pub(crate) flannel_backend: String,
    /// The former way to say `--flannel-backend=none`.
    #[arg(long, hide = true)]
    pub(crate) no_flannel: bool,
    /// Write the administrator's kubeconfig to this file.
    #[arg(long, short = 'o', env = "K3S_KUBECONFIG_OUTPUT")]
    pub(crate) write_kubeconfig: Option<PathBuf>,
    /// Mode of the administrator's kubeconfig.
    #[arg(long, env = "K3S_KUBECONFIG_MODE", default_value = "0600")]
    pub(crate) write_kubeconfig_mode: String,
    /// Group of the administrator's kubeconfig.
    #[arg(long, env = "K3S_KUBECONFIG_GROUP")]
    pub(crate) write_kubeconfig_group: Option<String>,
    /// Token that agents join with in place of the server's.
    #[arg(long, env = "K3S_AGENT_TOKEN", hide_env_values = true)]
    pub(crate) agent_token: Option<String>,
    /// File with the token that agents join with.
    #[arg(long, env = "K3S_AGENT_TOKEN_FILE")]
    pub(crate) agent_token_file: Option<PathBuf>,
    /// Flags for the API server, `key=value`.
    #[arg(long)]
    pub(crate) kube_apiserver_arg: Vec<String>,
    /// Flags for the controller manager, `key=value`.
    #[arg(long, alias = "kube-controller-arg")]
    pub(crate) kube_controller_manager_arg: Vec<String>,
    /// Flags for the scheduler, `key=value`.
    #[arg(long)]
    pub(crate) kube_scheduler_arg: Vec<String>,
    /// An etcd to use in place of the built-in store: `http://host:2379` or `unix:///path`.
    #[arg(long, env = "K3S_DATASTORE_ENDPOINT")]
    pub(crate) datastore_endpoint: Option<String>,
    /// Folder for local volumes on every node; `storage` in the data folder by default.
    #[arg(long)]
    pub(crate) default_local_storage_path: Option<PathBuf>,
    /// Parts not to run: coredns, local-storage or the name of a manifest; traefik and the like are
    /// not there in any case.
    #[arg(long, alias = "no-deploy", value_delimiter = ',')]
    pub(crate) disable: Vec<String>,
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

impl ServerArgs {
    /// Whether a part is named by `--disable`.
    pub(crate) fn disables(&self, part: &str) -> bool {
        self.disable.iter().any(|name| name == part)
    }
}
