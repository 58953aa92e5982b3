//! The flags of the API server: upstream's names and defaults.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use ipnetwork::IpNetwork;

/// What `k3s apiserver --help` shows.
#[derive(clap::Args, Debug, Clone)]
pub struct Args {
    /// Servers of the store (`unix:///path`, `http://host:port`, `https://host:port`)
    #[arg(long, value_delimiter = ',', default_value = "unix:///run/k3s/store.sock")]
    pub etcd_servers: Vec<String>,
    /// CA for the store's certificate
    #[arg(long)]
    pub etcd_cafile: Option<PathBuf>,
    /// Client certificate towards the store
    #[arg(long, requires = "etcd_keyfile")]
    pub etcd_certfile: Option<PathBuf>,
    /// Client key towards the store
    #[arg(long, requires = "etcd_certfile")]
    pub etcd_keyfile: Option<PathBuf>,
    /// Prefix of all keys in the store (only the default is supported)
    #[arg(long, default_value = "/registry")]
    pub etcd_prefix: String,
    /// How often old revisions of the store are given up, in Go's notation (0 for never)
    #[arg(long, default_value = "5m0s")]
    pub etcd_compaction_interval: String,
    /// Port of HTTPS
    #[arg(long, default_value_t = 6443)]
    pub secure_port: u16,
    /// Address of HTTPS
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Address that members of the cluster reach this server at
    #[arg(long)]
    pub advertise_address: Option<IpAddr>,
    /// CA bundle for client certificates
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    /// Server certificate, with its chain
    #[arg(long)]
    pub tls_cert_file: Option<PathBuf>,
    /// Key of the server certificate
    #[arg(long)]
    pub tls_private_key_file: Option<PathBuf>,
    /// Cluster IPs of Services, one range per address family
    #[arg(long, value_delimiter = ',', default_value = "10.43.0.0/16")]
    pub service_cluster_ip_range: Vec<IpNetwork>,
    /// Node ports of Services, `from-to`
    #[arg(long, default_value = "30000-32767", value_parser = port_range)]
    pub service_node_port_range: RangeInclusive<u16>,
    /// Issuers of service account tokens, the first one signs
    #[arg(long, default_value = "https://kubernetes.default.svc.cluster.local")]
    pub service_account_issuer: Vec<String>,
    /// Public (or private) keys that verify service account tokens
    #[arg(long)]
    pub service_account_key_file: Vec<PathBuf>,
    /// Private key that signs service account tokens
    #[arg(long)]
    pub service_account_signing_key_file: Option<PathBuf>,
    /// Longest lifetime of a requested token, in Go's notation (0 for no limit)
    #[arg(long, default_value = "0")]
    pub service_account_max_token_expiration: String,
    /// Stretch the lifetime of the tokens that pods mount
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub service_account_extend_token_expiration: bool,
    /// Audiences of this API, the first issuer when empty
    #[arg(long, value_delimiter = ',')]
    pub api_audiences: Vec<String>,
    /// Client certificate towards kubelets
    #[arg(long)]
    pub kubelet_client_certificate: Option<PathBuf>,
    /// Client key towards kubelets
    #[arg(long)]
    pub kubelet_client_key: Option<PathBuf>,
    /// CA for kubelets' certificates
    #[arg(long)]
    pub kubelet_certificate_authority: Option<PathBuf>,
    /// Node address types for reaching kubelets, in order
    #[arg(long, value_delimiter = ',', default_value = "InternalIP,ExternalIP,Hostname")]
    pub kubelet_preferred_address_types: Vec<String>,
    /// Authorizers in order: AlwaysAllow, AlwaysDeny, Node, RBAC
    #[arg(long, value_delimiter = ',', default_value = "Node,RBAC")]
    pub authorization_mode: Vec<String>,
    /// Admission plugins besides the default ones
    #[arg(long, value_delimiter = ',')]
    pub enable_admission_plugins: Vec<String>,
    /// Admission plugins to leave out
    #[arg(long, value_delimiter = ',')]
    pub disable_admission_plugins: Vec<String>,
    /// Accept bootstrap tokens (secrets of kube-system)
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub enable_bootstrap_token_auth: bool,
    /// Serve requests without credentials as system:anonymous
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub anonymous_auth: bool,
    /// Allow privileged containers
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub allow_privileged: bool,
    /// CA for the front proxy's client certificate
    #[arg(long)]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Common names that the front proxy may have, any when empty
    #[arg(long, value_delimiter = ',')]
    pub requestheader_allowed_names: Vec<String>,
    /// Headers with the user's name
    #[arg(long, value_delimiter = ',')]
    pub requestheader_username_headers: Vec<String>,
    /// Headers with the user's groups
    #[arg(long, value_delimiter = ',')]
    pub requestheader_group_headers: Vec<String>,
    /// Prefixes of headers with extra information
    #[arg(long, value_delimiter = ',')]
    pub requestheader_extra_headers_prefix: Vec<String>,
    /// Client certificate towards aggregated API servers
    #[arg(long)]
    pub proxy_client_cert_file: Option<PathBuf>,
    /// Client key towards aggregated API servers
    #[arg(long)]
    pub proxy_client_key_file: Option<PathBuf>,
    /// Audit policy: what is logged about which requests
    #[arg(long)]
    pub audit_policy_file: Option<PathBuf>,
    /// File of the audit log, `-` for standard output
    #[arg(long)]
    pub audit_log_path: Option<String>,
    /// Days that audit logs set aside are kept, 0 for ever
    #[arg(long, default_value_t = 0)]
    pub audit_log_maxage: u64,
    /// Audit logs set aside that are kept, 0 for all
    #[arg(long, default_value_t = 0)]
    pub audit_log_maxbackup: usize,
    /// Size in MiB at which the audit log is set aside
    #[arg(long, default_value_t = 100)]
    pub audit_log_maxsize: u64,
    /// Format of the audit log: json or legacy
    #[arg(long, default_value = "json")]
    pub audit_log_format: String,
    /// API versions to switch on or off: `api/all=true`, `resource.k8s.io/v1beta1=true`
    #[arg(long, value_delimiter = ',')]
    pub runtime_config: Vec<String>,
    /// Lifetime of Events, in Go's notation
    #[arg(long, default_value = "1h0m0s")]
    pub event_ttl: String,
    /// Static tokens: `token,user,uid,"group,group"` a line
    #[arg(long)]
    pub token_auth_file: Option<PathBuf>,
    /// k3s' node passwords and tokens: `password,user,uid,"group,group"` a line
    #[arg(long)]
    pub basic_auth_file: Option<PathBuf>,
    /// k3s' folder of the server (`tls`, `cred`, `etc`): agents may join with what is in it
    #[arg(long)]
    pub supervisor_dir: Option<PathBuf>,
}

fn port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let wrong = || format!("{text:?} is no port range like 30000-32767");
    let (from, to) = text.split_once('-').ok_or_else(wrong)?;
    let from: u16 = from.trim().parse().map_err(|_| wrong())?;
    let to: u16 = to.trim().parse().map_err(|_| wrong())?;
    if from == 0 || to < from { Err(wrong()) } else { Ok(from..=to) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_ranges_are_checked() {
        assert_eq!(port_range("1-2"), Ok(1..=2));
        for bad in ["", "1", "2-1", "0-5", "a-b", "1-70000"] {
            assert!(port_range(bad).is_err(), "{bad}");
        }
    }
}
