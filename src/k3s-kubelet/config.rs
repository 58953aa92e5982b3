//! Flags and `KubeletConfiguration` to one validated [`Config`].
//!
//! Invariant: a flag wins over the file, the file over the default; a key or value that we do not
//! support is refused, never ignored.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

use crate::pod::resources::CgroupDriver;

/// Flags of `k3s-kubelet`, named and defaulted as upstream's.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct Args {
    /// Kubeconfig for the API server; without it only static pods run
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// KubeletConfiguration file
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// CRI socket
    #[arg(long, default_value = "unix:///run/k3s/containerd/containerd.sock")]
    pub container_runtime_endpoint: String,
    /// Name of the Node instead of the host's name
    #[arg(long)]
    pub hostname_override: Option<String>,
    /// Addresses of the node
    #[arg(long, value_delimiter = ',')]
    pub node_ip: Vec<IpAddr>,
    /// Labels to register the Node with, key=value
    #[arg(long, value_delimiter = ',')]
    pub node_labels: Vec<String>,
    /// Taints to register the Node with, key=value:effect
    #[arg(long, value_delimiter = ',')]
    pub register_with_taints: Vec<String>,
    /// Register the Node with the API server
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub register_node: Option<bool>,
    /// DNS servers of pods
    #[arg(long, value_delimiter = ',')]
    pub cluster_dns: Vec<String>,
    /// DNS domain of the cluster
    #[arg(long)]
    pub cluster_domain: Option<String>,
    /// State directory
    #[arg(long, default_value = "/var/lib/kubelet")]
    pub root_dir: PathBuf,
    /// Directory of container logs
    #[arg(long)]
    pub pod_log_dir: Option<PathBuf>,
    /// Directory of the log links that log shippers read
    #[arg(long, default_value = "/var/log/containers")]
    pub container_log_dir: PathBuf,
    /// cgroupfs or systemd
    #[arg(long)]
    pub cgroup_driver: Option<String>,
    /// Parent cgroup of all pods
    #[arg(long)]
    pub cgroup_root: Option<String>,
    /// CA whose client certificates may call this kubelet
    #[arg(long)]
    pub client_ca_file: Option<PathBuf>,
    /// Serving certificate
    #[arg(long)]
    pub tls_cert_file: Option<PathBuf>,
    /// Key of the serving certificate
    #[arg(long)]
    pub tls_private_key_file: Option<PathBuf>,
    /// Directory of static pods
    #[arg(long)]
    pub pod_manifest_path: Option<PathBuf>,
    /// Resolver configuration that pods inherit
    #[arg(long)]
    pub resolv_conf: Option<PathBuf>,
    /// Thresholds such as memory.available<100Mi
    #[arg(long, value_delimiter = ',')]
    pub eviction_hard: Vec<String>,
    /// Reclaims such as imagefs.available=10%
    #[arg(long, value_delimiter = ',')]
    pub eviction_minimum_reclaim: Vec<String>,
    /// Pods that this node takes
    #[arg(long)]
    pub max_pods: Option<u32>,
    /// Address to serve on
    #[arg(long)]
    pub address: Option<IpAddr>,
    /// Port to serve on
    #[arg(long)]
    pub port: Option<u16>,
    /// Address of the health endpoint
    #[arg(long)]
    pub healthz_bind_address: Option<IpAddr>,
    /// Port of the health endpoint, 0 for none
    #[arg(long)]
    pub healthz_port: Option<u16>,
    /// Directory of CNI configuration; when it holds one, the runtime alone tells network readiness
    #[arg(long)]
    pub cni_conf_dir: Option<PathBuf>,
    /// Cloud provider of the node; only "external" and none are known
    #[arg(long)]
    pub cloud_provider: Option<String>,
    /// Identifier of the node at its provider
    #[arg(long)]
    pub provider_id: Option<String>,
    /// Refuse to start on a node with swap
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub fail_swap_on: Option<bool>,
    /// Largest size of a container log before it is rotated
    #[arg(long)]
    pub container_log_max_size: Option<String>,
    /// Log files kept per container
    #[arg(long)]
    pub container_log_max_files: Option<u32>,
    /// Disk use in percent above which unused images are removed
    #[arg(long)]
    pub image_gc_high_threshold: Option<u8>,
    /// Disk use in percent down to which unused images are removed
    #[arg(long)]
    pub image_gc_low_threshold: Option<u8>,
    /// Pull images one after the other
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub serialize_image_pulls: Option<bool>,
    /// Directories of certificates whose remaining life is a metric
    #[arg(long, value_delimiter = ',')]
    pub certificate_dirs: Vec<PathBuf>,
    /// Seconds between status reports when nothing changes
    #[arg(long, hide = true)]
    pub node_status_report_frequency_secs: Option<u64>,
}

/// The fields of `KubeletConfiguration` that have an effect here.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct File {
    api_version: Option<String>,
    kind: Option<String>,
    address: Option<IpAddr>,
    port: Option<u16>,
    healthz_bind_address: Option<IpAddr>,
    healthz_port: Option<u16>,
    tls_cert_file: Option<PathBuf>,
    tls_private_key_file: Option<PathBuf>,
    authentication: Option<Authentication>,
    authorization: Option<Authorization>,
    static_pod_path: Option<PathBuf>,
    cluster_domain: Option<String>,
    #[serde(rename = "clusterDNS")]
    cluster_dns: Option<Vec<String>>,
    cgroup_driver: Option<String>,
    cgroup_root: Option<String>,
    max_pods: Option<u32>,
    resolv_conf: Option<PathBuf>,
    eviction_hard: Option<BTreeMap<String, String>>,
    eviction_minimum_reclaim: Option<BTreeMap<String, String>>,
    container_log_max_size: Option<String>,
    container_log_max_files: Option<u32>,
    #[serde(rename = "imageGCHighThresholdPercent")]
    image_gc_high_threshold_percent: Option<u8>,
    #[serde(rename = "imageGCLowThresholdPercent")]
    image_gc_low_threshold_percent: Option<u8>,
    serialize_image_pulls: Option<bool>,
    fail_swap_on: Option<bool>,
    register_node: Option<bool>,
    pod_log_dir: Option<PathBuf>,
    #[serde(rename = "providerID")]
    provider_id: Option<String>,
    container_runtime_endpoint: Option<String>,
    #[serde(rename = "singleProcessOOMKill")]
    single_process_oom_kill: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Authentication {
    x509: Option<X509>,
    webhook: Option<Webhook>,
    anonymous: Option<Enabled>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct X509 {
    #[serde(rename = "clientCAFile")]
    client_ca_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Webhook {
    enabled: Option<bool>,
    #[serde(rename = "cacheTTL")]
    cache_ttl: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Enabled {
    enabled: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Authorization {
    mode: Option<String>,
}

/// What is in effect.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) node_name: String,
    pub(crate) node_ips: Vec<IpAddr>,
    pub(crate) node_labels: BTreeMap<String, String>,
    pub(crate) taints: Vec<Taint>,
    pub(crate) register_node: bool,
    pub(crate) external_cloud: bool,
    pub(crate) provider_id: Option<String>,
    pub(crate) cluster_dns: Vec<String>,
    pub(crate) cluster_domain: String,
    pub(crate) root_dir: PathBuf,
    pub(crate) pod_log_dir: PathBuf,
    pub(crate) container_log_dir: PathBuf,
    pub(crate) cgroup_driver: CgroupDriver,
    pub(crate) cgroup_root: String,
    pub(crate) cgroup_v2: bool,
    /// The kernel ends all of a container when one of its processes runs out of memory.
    pub(crate) oom_group: bool,
    pub(crate) client_ca_file: Option<PathBuf>,
    pub(crate) tls_cert_file: Option<PathBuf>,
    pub(crate) tls_private_key_file: Option<PathBuf>,
    pub(crate) certificate_dirs: Vec<PathBuf>,
    pub(crate) pod_manifest_path: Option<PathBuf>,
    pub(crate) resolv_conf: PathBuf,
    pub(crate) eviction_hard: BTreeMap<String, String>,
    pub(crate) max_pods: u32,
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) healthz_address: IpAddr,
    pub(crate) healthz_port: u16,
    pub(crate) cni_conf_dir: Option<PathBuf>,
    pub(crate) log_bytes_max: u64,
    pub(crate) log_files_max: u32,
    pub(crate) image_gc_high_percent: u8,
    pub(crate) image_gc_low_percent: u8,
    pub(crate) serialize_image_pulls: bool,
    pub(crate) memory_capacity_bytes: i64,
    pub(crate) cpu_count: u32,
    pub(crate) runtime_endpoint: String,
}

/// A taint to register with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Taint {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) effect: String,
}

impl Config {
    pub(crate) fn seccomp_root(&self) -> String {
        self.root_dir.join("seccomp").to_string_lossy().into_owned()
    }

    pub(crate) fn pods_dir(&self) -> PathBuf {
        self.root_dir.join("pods")
    }

    /// Reads the file that `args` name and the facts of this host, and checks all of it.
    pub(crate) fn load(args: &Args) -> anyhow::Result<Config> {
        let file = match &args.config {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("reading {}", path.display()))?;
                parse_file(&text).with_context(|| format!("in {}", path.display()))?
            }
            None => File::default(),
        };
        merge(args, file)
    }
}

fn parse_file(text: &str) -> anyhow::Result<File> {
    let file: File = serde_saphyr::from_str(text).context("not a KubeletConfiguration")?;
    if let Some(version) = file.api_version.as_deref() {
        ensure!(version == "kubelet.config.k8s.io/v1beta1", "apiVersion {version:?} is not known");
    }
    if let Some(kind) = file.kind.as_deref() {
        ensure!(kind == "KubeletConfiguration", "kind {kind:?} is not KubeletConfiguration");
    }
    if let Some(mode) = file.authorization.as_ref().and_then(|a| a.mode.as_deref()) {
        ensure!(mode == "Webhook", "authorization.mode {mode:?} is not supported, only Webhook");
    }
    let authentication = file.authentication.as_ref();
    if authentication.and_then(|a| a.anonymous.as_ref()?.enabled) == Some(true) {
        bail!("authentication.anonymous.enabled is not supported");
    }
    if let Some(webhook) = authentication.and_then(|a| a.webhook.as_ref()) {
        ensure!(webhook.enabled != Some(false), "authentication.webhook cannot be disabled");
        ensure!(webhook.cache_ttl.is_none(), "authentication.webhook.cacheTTL is not supported");
    }
    Ok(file)
}

fn merge(args: &Args, file: File) -> anyhow::Result<Config> {
    let cgroup_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let driver = args.cgroup_driver.clone().or(file.cgroup_driver);
    let cgroup_driver = match driver.as_deref() {
        None | Some("cgroupfs") => CgroupDriver::Cgroupfs,
        Some("systemd") => CgroupDriver::Systemd,
        Some(other) => bail!("cgroup driver {other:?} is neither cgroupfs nor systemd"),
    };
    let node_name = match &args.hostname_override {
        Some(name) => name.clone(),
        None => host_name(),
    };
    ensure!(!node_name.is_empty(), "the host has no name, give --hostname-override");
    if let Some(cloud) = args.cloud_provider.as_deref() {
        ensure!(matches!(cloud, "" | "external"), "cloud provider {cloud:?} is not supported");
    }
    if args.fail_swap_on.or(file.fail_swap_on) == Some(true) {
        let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
        ensure!(swaps.lines().count() <= 1, "running with swap on is not supported, disable swap");
    }
    let high = args.image_gc_high_threshold.or(file.image_gc_high_threshold_percent).unwrap_or(85);
    let low = args.image_gc_low_threshold.or(file.image_gc_low_threshold_percent).unwrap_or(80);
    ensure!(low < high && high <= 100, "image GC thresholds {low} and {high} are not low < high");
    let log_size = args.container_log_max_size.clone().or(file.container_log_max_size);
    let log_files = args.container_log_max_files.or(file.container_log_max_files).unwrap_or(5);
    ensure!(log_files > 1, "container log files must be more than 1");
    let eviction_hard = match (&args.eviction_hard[..], file.eviction_hard) {
        ([], Some(map)) => map,
        ([], None) => default_eviction(),
        (list, _) => pairs(list, '<').context("--eviction-hard")?,
    };
    crate::eviction::check_thresholds(&eviction_hard)?;
    if !args.eviction_minimum_reclaim.is_empty() || file.eviction_minimum_reclaim.is_some() {
        tracing::warn!("Minimum reclaim is not implemented, evicting to the threshold only");
    }
    let unspecified = IpAddr::from([0, 0, 0, 0]);
    let x509 = file.authentication.and_then(|authentication| authentication.x509);
    let endpoint = file.container_runtime_endpoint;
    Ok(Config {
        node_name,
        node_ips: args.node_ip.clone(),
        node_labels: pairs(&args.node_labels, '=').context("--node-labels")?,
        taints: args
            .register_with_taints
            .iter()
            .filter(|t| !t.is_empty())
            .map(|t| taint(t))
            .collect::<Result<_, _>>()?,
        register_node: args.register_node.or(file.register_node).unwrap_or(true),
        external_cloud: args.cloud_provider.as_deref() == Some("external"),
        provider_id: args.provider_id.clone().or(file.provider_id),
        cluster_dns: pick_list(&args.cluster_dns, file.cluster_dns),
        cluster_domain: args
            .cluster_domain
            .clone()
            .or(file.cluster_domain)
            .unwrap_or_else(|| "cluster.local".to_owned()),
        root_dir: args.root_dir.clone(),
        pod_log_dir: args
            .pod_log_dir
            .clone()
            .or(file.pod_log_dir)
            .unwrap_or_else(|| "/var/log/pods".into()),
        container_log_dir: args.container_log_dir.clone(),
        cgroup_driver,
        cgroup_root: args.cgroup_root.clone().or(file.cgroup_root).unwrap_or_default(),
        cgroup_v2,
        oom_group: oom_group(cgroup_v2, file.single_process_oom_kill)?,
        client_ca_file: args.client_ca_file.clone().or(x509.and_then(|x509| x509.client_ca_file)),
        tls_cert_file: args.tls_cert_file.clone().or(file.tls_cert_file),
        tls_private_key_file: args.tls_private_key_file.clone().or(file.tls_private_key_file),
        certificate_dirs: args.certificate_dirs.clone(),
        pod_manifest_path: args.pod_manifest_path.clone().or(file.static_pod_path),
        resolv_conf: args
            .resolv_conf
            .clone()
            .or(file.resolv_conf)
            .unwrap_or_else(|| "/etc/resolv.conf".into()),
        eviction_hard,
        max_pods: args.max_pods.or(file.max_pods).unwrap_or(110),
        address: args.address.or(file.address).unwrap_or(unspecified),
        port: args.port.or(file.port).unwrap_or(10250),
        healthz_address: args
            .healthz_bind_address
            .or(file.healthz_bind_address)
            .unwrap_or_else(|| IpAddr::from([127, 0, 0, 1])),
        healthz_port: args.healthz_port.or(file.healthz_port).unwrap_or(10248),
        cni_conf_dir: args.cni_conf_dir.clone(),
        log_bytes_max: match log_size {
            None => 10 << 20,
            Some(text) => bytes(&text).with_context(|| format!("container log size {text:?}"))?,
        },
        log_files_max: log_files,
        image_gc_high_percent: high,
        image_gc_low_percent: low,
        serialize_image_pulls: args
            .serialize_image_pulls
            .or(file.serialize_image_pulls)
            .unwrap_or(false),
        memory_capacity_bytes: memory_capacity_bytes(),
        cpu_count: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
        runtime_endpoint: endpoint.unwrap_or_else(|| args.container_runtime_endpoint.clone()),
    })
}

/// Control groups of version 1 know only single processes.
fn oom_group(cgroup_v2: bool, single_process: Option<bool>) -> anyhow::Result<bool> {
    ensure!(
        cgroup_v2 || single_process != Some(false),
        "singleProcessOOMKill must not be explicitly set to false when using cgroup v1"
    );
    Ok(cgroup_v2 && single_process != Some(true))
}

fn pick_list(flag: &[String], file: Option<Vec<String>>) -> Vec<String> {
    if flag.is_empty() { file.unwrap_or_default() } else { flag.to_vec() }
}

fn bytes(text: &str) -> anyhow::Result<u64> {
    let quantity = k8s_openapi::apimachinery::pkg::api::resource::Quantity(text.to_owned());
    let units = crate::pod::resources::units(&quantity).context("is not a quantity")?;
    u64::try_from(units).context("is negative")
}

fn default_eviction() -> BTreeMap<String, String> {
    pairs(&["imagefs.available<5%".to_owned(), "nodefs.available<5%".to_owned()], '<')
        .unwrap_or_default()
}

fn pairs(list: &[String], separator: char) -> anyhow::Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for item in list.iter().filter(|item| !item.is_empty()) {
        match item.split_once(separator) {
            Some((key, value)) if !key.is_empty() => {
                out.insert(key.trim().to_owned(), value.trim().to_owned())
            }
            None if separator == '=' && !item.is_empty() => out.insert(item.clone(), String::new()),
            _ => bail!("{item:?} is not of the form key{separator}value"),
        };
    }
    Ok(out)
}

fn taint(text: &str) -> anyhow::Result<Taint> {
    let (name, effect) =
        text.rsplit_once(':').with_context(|| format!("taint {text:?} has no effect"))?;
    ensure!(
        matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute"),
        "taint {text:?} has an unknown effect"
    );
    let (key, value) = name.split_once('=').unwrap_or((name, ""));
    ensure!(!key.is_empty(), "taint {text:?} has no key");
    Ok(Taint { key: key.to_owned(), value: value.to_owned(), effect: effect.to_owned() })
}

fn host_name() -> String {
    let uname = rustix::system::uname();
    uname.nodename().to_string_lossy().to_lowercase()
}

fn memory_capacity_bytes() -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<i64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Config {
        pub(crate) fn for_tests() -> Config {
            let args = Args { hostname_override: Some("node".into()), ..Default::default() };
            merge(&args, File::default()).unwrap()
        }
    }

    #[test]
    fn flags_win_over_the_file() {
        let file =
            parse_file("kind: KubeletConfiguration\nmaxPods: 5\nclusterDomain: x.y\n").unwrap();
        let args = Args {
            hostname_override: Some("n".into()),
            max_pods: Some(7),
            register_with_taints: vec!["k=v:NoSchedule".into()],
            ..Default::default()
        };
        let config = merge(&args, file).unwrap();
        assert_eq!((config.max_pods, config.cluster_domain.as_str()), (7, "x.y"));
        assert_eq!(config.taints[0].value, "v");
    }

    #[test]
    fn all_of_a_container_ends_for_memory_unless_told_otherwise() {
        let check = |v2, single, expected: Option<bool>| {
            assert_eq!(oom_group(v2, single).ok(), expected, "{v2} {single:?}");
        };
        check(true, None, Some(true));
        check(true, Some(true), Some(false));
        check(false, None, Some(false));
        check(false, Some(true), Some(false));
        check(false, Some(false), None);
    }

    #[test]
    fn what_is_not_supported_is_refused() {
        for text in ["bogus: 1", "maxPods: x", "kind: Pod", "authorization: {mode: AlwaysAllow}"] {
            assert!(parse_file(text).is_err(), "{text}");
        }
        for taint_text in ["a", "a=b:Nope", ":NoSchedule"] {
            assert!(taint(taint_text).is_err(), "{taint_text}");
        }
    }
}
