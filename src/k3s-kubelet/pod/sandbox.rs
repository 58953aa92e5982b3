//! A pod to its sandbox: names, DNS, `/etc/hosts`, cgroup parent.
//!
//! Pure, except that the node's resolv.conf text is passed in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

use super::env::ConfigError;
use super::labels::{self, PodNames};
use super::{resources, security};
use crate::config::Config;
use crate::cri::config::*;

const HOSTNAME_MAX: usize = 63;
const SEARCH_MAX: usize = 32;

/// Names of a pod on the network.
#[derive(Debug, PartialEq)]
pub(crate) struct Hostname {
    pub(crate) short: String,
    /// `<hostname>.<subdomain>.<namespace>.svc.<cluster domain>`, when there is a subdomain.
    pub(crate) domain: Option<String>,
    /// What the UTS namespace gets.
    pub(crate) kernel: String,
}

pub(crate) fn hostname(pod: &Pod, cluster_domain: &str) -> Hostname {
    let spec = pod.spec.as_ref();
    if let Some(name) = spec.and_then(|spec| spec.hostname_override.clone()) {
        return Hostname { short: name.clone(), domain: None, kernel: name };
    }
    let mut short = match spec.and_then(|spec| spec.hostname.as_deref()) {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => pod.name().to_owned(),
    };
    if short.len() > HOSTNAME_MAX {
        short.truncate(HOSTNAME_MAX);
        short = short.trim_end_matches(['-', '.']).to_owned();
    }
    let subdomain = spec.and_then(|spec| spec.subdomain.as_deref()).filter(|s| !s.is_empty());
    let domain = subdomain
        .map(|subdomain| format!("{short}.{subdomain}.{}.svc.{cluster_domain}", pod.namespace()));
    let fqdn = spec.and_then(|spec| spec.set_hostname_as_fqdn).unwrap_or(false);
    let kernel = match (&domain, fqdn) {
        (Some(domain), true) => domain.clone(),
        _ => short.clone(),
    };
    Hostname { short, domain, kernel }
}

/// The file that every container of a pod sees as `/etc/hosts`.
pub(crate) fn hosts_file(
    pod: &Pod,
    pod_ips: &[String],
    config: &Config,
    node_file: &str,
) -> String {
    let mut out = String::new();
    if pod.host_network() {
        out.push_str("# Kubernetes-managed hosts file (host network).\n");
        out.push_str(node_file);
    } else {
        out.push_str("# Kubernetes-managed hosts file.\n");
        out.push_str("127.0.0.1\tlocalhost\n");
        out.push_str("::1\tlocalhost ip6-localhost ip6-loopback\n");
        out.push_str("fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\n");
        out.push_str("fe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n");
        let names = hostname(pod, &config.cluster_domain);
        for ip in pod_ips {
            match &names.domain {
                Some(domain) => out.push_str(&format!("{ip}\t{domain}\t{}\n", names.short)),
                None => out.push_str(&format!("{ip}\t{}\n", names.short)),
            }
        }
    }
    let aliases = pod.spec.as_ref().and_then(|spec| spec.host_aliases.as_deref());
    if let Some(aliases) = aliases.filter(|aliases| !aliases.is_empty()) {
        out.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
            out.push_str(&format!("{}\t{names}\n", alias.ip));
        }
    }
    out
}

/// The resolver of a pod by its `dnsPolicy` and `dnsConfig`.
pub(crate) fn dns(pod: &Pod, config: &Config, node_resolv: &str) -> DNSConfig {
    let spec = pod.spec.as_ref();
    let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !pod.host_network(),
        _ => false,
    } && !config.cluster_dns.is_empty();
    let node = parse_resolv(node_resolv);
    let mut out = if policy == "None" {
        DNSConfig::default()
    } else if cluster {
        let domain = &config.cluster_domain;
        let mut searches = vec![
            format!("{}.svc.{domain}", pod.namespace()),
            format!("svc.{domain}"),
            domain.clone(),
        ];
        searches.extend(node.searches);
        DNSConfig {
            servers: config.cluster_dns.clone(),
            searches,
            options: vec!["ndots:5".to_owned()],
        }
    } else {
        node
    };
    if let Some(own) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        out.servers.extend(own.nameservers.clone().unwrap_or_default());
        out.searches.extend(own.searches.clone().unwrap_or_default());
        for option in own.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            out.options.retain(|old| old.split(':').next() != Some(name.as_str()));
            out.options.push(match &option.value {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.clone(),
            });
        }
    }
    dedup(&mut out.servers);
    dedup(&mut out.searches);
    out.servers.truncate(3);
    out.searches.truncate(SEARCH_MAX);
    out
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

fn parse_resolv(text: &str) -> DNSConfig {
    let mut out = DNSConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let own = |words: std::str::SplitWhitespace<'_>| words.map(str::to_owned).collect();
        match words.next() {
            Some("nameserver") => out.servers.extend(words.next().map(str::to_owned)),
            Some("search") => out.searches = own(words),
            Some("options") => out.options = own(words),
            _ => {}
        }
    }
    out
}

/// `/var/log/pods/<namespace>_<name>_<uid>`
pub(crate) fn log_directory(pod: &Pod, config: &Config) -> PathBuf {
    config.pod_log_dir.join(format!("{}_{}_{}", pod.namespace(), pod.name(), pod.uid()))
}

pub(crate) fn identity(pod: &Pod) -> BTreeMap<String, String> {
    BTreeMap::from([
        (labels::POD_NAME.to_owned(), pod.name().to_owned()),
        (labels::POD_NAMESPACE.to_owned(), pod.namespace().to_owned()),
        (labels::POD_UID.to_owned(), pod.uid().to_owned()),
    ])
}

/// What the runtime needs to make the sandbox.
pub(crate) fn config(
    pod: &Pod,
    config: &Config,
    node_resolv: &str,
    attempt: u32,
) -> Result<PodSandboxConfig, ConfigError> {
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.extend(identity(pod));
    let mut annotations = pod.metadata.annotations.clone().unwrap_or_default();
    annotations.entry(labels::CONFIG_SOURCE.to_owned()).or_insert_with(|| "api".to_owned());
    let spec = pod.spec.as_ref().ok_or_else(|| ConfigError("pod has no spec".to_owned()))?;
    let mut port_mappings = Vec::new();
    for port in spec.containers.iter().flat_map(|container| container.ports.iter().flatten()) {
        port_mappings.push(PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            }
            .into(),
            container_port: port.container_port,
            host_port: if pod.host_network() { 0 } else { port.host_port.unwrap_or(0) },
            host_ip: port.host_ip.clone().unwrap_or_default(),
        });
    }
    let totals = resources::pod_totals(pod);
    let linux = LinuxPodSandboxConfig {
        cgroup_parent: resources::cgroup_parent(pod, &config.cgroup_root, config.cgroup_driver),
        security_context: Some(security::sandbox(pod, &config.seccomp_root())),
        sysctls: security::sysctls(pod),
        overhead: Some(LinuxContainerResources::default()),
        resources: Some(LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: totals.cpu_limit_milli.map_or(0, resources::quota),
            cpu_shares: resources::shares(totals.cpu_request_milli),
            memory_limit_in_bytes: totals.memory_limit_bytes.unwrap_or(0),
            ..Default::default()
        }),
    };
    // A pod on the node's network shares its UTS namespace too; runc refuses to name that one.
    let hostname = if pod.host_network() {
        String::new()
    } else {
        hostname(pod, &config.cluster_domain).kernel
    };
    Ok(PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: pod.name().to_owned(),
            uid: pod.uid().to_owned(),
            namespace: pod.namespace().to_owned(),
            attempt,
        }),
        hostname,
        log_directory: path_text(&log_directory(pod, config)),
        dns_config: Some(dns(pod, config, node_resolv)),
        port_mappings,
        labels,
        annotations,
        linux: Some(linux),
    })
}

pub(crate) fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web-0", "namespace": "ns", "uid": "u"}, "spec": spec
        }))
        .unwrap()
    }

    fn config_with_dns() -> Config {
        Config { cluster_dns: vec!["10.43.0.10".into()], ..Config::for_tests() }
    }

    #[test]
    fn a_pod_on_the_nodes_network_does_not_name_the_node() {
        for (spec, name) in [
            (json!({"containers": []}), "web-0"),
            (json!({"containers": [], "hostNetwork": true}), ""),
        ] {
            let made = super::config(&pod(spec), &config_with_dns(), "", 0).unwrap();
            assert_eq!(made.hostname, name);
        }
    }

    #[test]
    fn the_cluster_resolver_is_first_unless_the_policy_says_otherwise() {
        let node = "nameserver 1.1.1.1\nsearch lan\n";
        for (spec, servers, searches) in [
            (json!({"containers": []}), vec!["10.43.0.10"], 4),
            (json!({"containers": [], "dnsPolicy": "Default"}), vec!["1.1.1.1"], 1),
            (json!({"containers": [], "hostNetwork": true}), vec!["1.1.1.1"], 1),
            (
                json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["9.9.9.9"]}}),
                vec!["9.9.9.9"],
                0,
            ),
        ] {
            let dns = dns(&pod(spec), &config_with_dns(), node);
            assert_eq!(dns.servers, servers);
            assert_eq!(dns.searches.len(), searches);
        }
    }

    #[test]
    fn a_subdomain_gives_a_full_name_in_hosts() {
        let pod = pod(json!({"containers": [], "subdomain": "web",
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["foo", "bar"]}]}));
        let file = hosts_file(&pod, &["10.42.0.5".into()], &config_with_dns(), "");
        assert!(file.starts_with("# Kubernetes-managed hosts file.\n"));
        assert!(file.contains("10.42.0.5\tweb-0.web.ns.svc.cluster.local\tweb-0\n"));
        assert!(file.contains("1.2.3.4\tfoo\tbar\n"));
    }
}
