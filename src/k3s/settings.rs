//! From flags to facts: the validated settings of a role, with every address and path decided.
//!
//! Invariant: all problems are reported at once, and nothing here touches the disk beyond reading,
//! but for the machine's id, which is made once.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use daemon::ConfigError;
use ipnetwork::IpNetwork;

use pki::token::Token;

use crate::agent::https::Endpoint;
use crate::cli::{AgentArgs, NodeArgs, ServerArgs};
use crate::components;
use crate::control::Control;

/// Where sockets and other things that a reboot clears are.
pub(crate) const RUN_DIR: &str = "/run/k3s";

/// Where the machine keeps the id that `--with-node-id` adds to its name.
const NODE_ID: &str = "/etc/rancher/node/id";

/// The paths of k3s' layout, from the data folder.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) data: PathBuf,
}

impl Paths {
    pub(crate) fn server(&self, rest: &str) -> PathBuf {
        self.data.join("server").join(rest)
    }

    pub(crate) fn tls(&self, rest: &str) -> PathBuf {
        self.data.join("server/tls").join(rest)
    }

    pub(crate) fn agent(&self, rest: &str) -> PathBuf {
        self.data.join("agent").join(rest)
    }
}

/// What a node needs, on a server or an agent.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) paths: Paths,
    pub(crate) name: String,
    pub(crate) ip: IpAddr,
    pub(crate) cluster_cidr: IpNetwork,
    pub(crate) cluster_dns: IpAddr,
    pub(crate) cluster_domain: String,
    /// Whether k3s-dns runs; somebody else has the address otherwise.
    pub(crate) serves_dns: bool,
    /// Where this node reaches the API.
    pub(crate) server_url: String,
    pub(crate) args: NodeArgs,
}

/// What a server needs beyond its node.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) node: Node,
    pub(crate) bind: IpAddr,
    pub(crate) port: u16,
    pub(crate) advertise: IpAddr,
    pub(crate) service_cidr: IpNetwork,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) kubeconfig_mode: u32,
    /// Backend of the pod network.
    pub(crate) backend: String,
    pub(crate) args: ServerArgs,
}

impl Server {
    /// Decides everything that flags left open.
    ///
    /// # Errors
    /// All bad values, one per line, each with its flag.
    pub(crate) fn new(args: ServerArgs) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let mut note = |problem: String| problems.push(problem);
        let cluster_cidr = first_network("cluster-cidr", &args.cluster_cidr, &mut note);
        let service_cidr = first_network("service-cidr", &args.service_cidr, &mut note);
        let cluster_dns = match args.cluster_dns.first() {
            Some(text) => parse("cluster-dns", text, &mut note),
            None => service_cidr.and_then(|cidr| nth(cidr, 10)),
        };
        if let (Some(dns), Some(cidr)) = (cluster_dns, service_cidr)
            && !cidr.contains(dns)
        {
            note(format!("--cluster-dns: {dns} is not inside --service-cidr {cidr}"));
        }
        let mode = match u32::from_str_radix(&args.write_kubeconfig_mode, 8) {
            Ok(mode) if mode <= 0o7777 => mode,
            _ => {
                note(format!(
                    "--write-kubeconfig-mode: {:?} is not an octal file mode such as 0640",
                    args.write_kubeconfig_mode
                ));
                0o600
            }
        };
        if args.node.server.is_some() {
            note(
                "--server: a server that joins others is not available yet; \
                  run k3s agent, or leave it out"
                    .to_owned(),
            );
        }
        let backend = match args.flannel_backend.as_str() {
            _ if args.no_flannel => "none",
            known @ ("none" | "vxlan" | "host-gw") => known,
            "wireguard-native" => {
                note(
                    "--flannel-backend: wireguard-native is not available yet; \
                      choose vxlan, host-gw or none"
                        .to_owned(),
                );
                "none"
            }
            other => {
                note(format!("--flannel-backend: {other:?} is none of vxlan, host-gw and none"));
                "none"
            }
        };
        let backend = backend.to_owned();
        let node_ip = node_ip(&args.node, &mut note);
        check_node_args(&args.node, &mut note);
        for (flag, component, passed) in [
            ("kube-apiserver-arg", "k3s-apiserver", &args.kube_apiserver_arg),
            (
                "kube-controller-manager-arg",
                "k3s-controller-manager",
                &args.kube_controller_manager_arg,
            ),
            ("kube-scheduler-arg", "k3s-scheduler", &args.kube_scheduler_arg),
        ] {
            check_passed(flag, component, passed, &mut note);
        }
        let name = node_name(&args.node, &mut note);
        for text in &args.node.node_label {
            if !text.contains('=') {
                note(format!("--node-label: {text:?} is not of the form key=value"));
            }
        }
        let bind = args.node.bind_address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let (Some(cluster_cidr), Some(service_cidr), Some(cluster_dns), Some(ip), true) =
            (cluster_cidr, service_cidr, cluster_dns, node_ip, problems.is_empty())
        else {
            return Err(ConfigError(problems.join("\n")));
        };
        let kubeconfig = args.write_kubeconfig.clone().unwrap_or_else(default_kubeconfig);
        Ok(Self {
            bind,
            port: args.https_listen_port,
            advertise: args.advertise_address.unwrap_or(ip),
            service_cidr,
            kubeconfig,
            kubeconfig_mode: mode,
            backend,
            node: Node {
                paths: Paths { data: args.node.data_dir.clone() },
                name,
                ip,
                cluster_cidr,
                cluster_dns,
                cluster_domain: args.cluster_domain.clone(),
                serves_dns: !args.disables("coredns"),
                server_url: format!("https://127.0.0.1:{}", args.https_listen_port),
                args: args.node.clone(),
            },
            args,
        })
    }

    /// The first address of the service network: the Service `default/kubernetes`.
    pub(crate) fn service_ip(&self) -> IpAddr {
        nth(self.service_cidr, 1).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    pub(crate) fn listen(&self) -> SocketAddr {
        SocketAddr::new(self.bind, self.port)
    }
}

/// What an agent knows before it has joined.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    pub(crate) paths: Paths,
    pub(crate) name: String,
    pub(crate) ip: IpAddr,
    /// The server to join.
    pub(crate) server: Endpoint,
    pub(crate) token: Token,
    /// The load balancer's port, unless the node goes straight to its server.
    pub(crate) door: Option<u16>,
    args: NodeArgs,
}

impl Agent {
    /// Decides everything that flags left open; reads the token.
    ///
    /// # Errors
    /// All bad values, one per line, each with its flag and what to do.
    pub(crate) fn new(args: AgentArgs) -> Result<Self, ConfigError> {
        let args = args.node;
        let mut problems = Vec::new();
        let mut note = |problem: String| problems.push(problem);
        let server = match &args.server {
            Some(text) => text.parse().map_err(|err| note(format!("--server: {err}"))).ok(),
            None => {
                note("--server: which one to join? Give its URL, https://host:6443".to_owned());
                None
            }
        };
        let token = agent_token(&args).map_err(&mut note).ok();
        let name = node_name(&args, &mut note);
        let ip = node_ip(&args, &mut note);
        check_node_args(&args, &mut note);
        for text in &args.node_label {
            if !text.contains('=') {
                note(format!("--node-label: {text:?} is not of the form key=value"));
            }
        }
        let (Some(server), Some(token), Some(ip), true) = (server, token, ip, problems.is_empty())
        else {
            return Err(ConfigError(problems.join("\n")));
        };
        Ok(Self {
            paths: Paths { data: args.data_dir.clone() },
            name,
            ip,
            server,
            token,
            door: (!args.disable_apiserver_lb).then_some(args.lb_server_port),
            args,
        })
    }

    /// The node, with what the server says of the cluster.
    pub(crate) fn node(&self, control: &Control) -> Result<Node, ConfigError> {
        let odd =
            || ConfigError(format!("{} says an odd network of pods, is it a k3s?", self.server));
        let mut args = self.args.clone();
        args.disable_kube_proxy |= control.disable_kube_proxy;
        Ok(Node {
            paths: self.paths.clone(),
            name: self.name.clone(),
            ip: self.ip,
            cluster_cidr: control.cluster_cidr.network().ok_or_else(odd)?,
            cluster_dns: control.cluster_dns,
            cluster_domain: control.cluster_domain.clone(),
            serves_dns: !control.disables.get("coredns").is_some_and(|disabled| *disabled),
            server_url: match self.door {
                Some(port) => format!("https://127.0.0.1:{port}"),
                None => self.server.to_string(),
            },
            args,
        })
    }
}

/// The token of an agent, given directly or in a file.
fn agent_token(args: &NodeArgs) -> Result<Token, String> {
    let (flag, text) = match (args.token(), &args.token_file) {
        (Some(text), _) => ("token", text.to_owned()),
        (None, Some(file)) => {
            let text = std::fs::read_to_string(file);
            ("token-file", text.map_err(|err| format!("--token-file: {}: {err}", file.display()))?)
        }
        (None, None) => {
            return Err("--token: the cluster's secret is needed; see it on the server: \
                        cat /var/lib/rancher/k3s/server/node-token"
                .to_owned());
        }
    };
    Token::parse(&text).map_err(|err| format!("--{flag}: {err}"))
}

/// k3s' kubeconfig path.
pub(crate) fn default_kubeconfig() -> PathBuf {
    Path::new("/etc/rancher/k3s/k3s.yaml").to_owned()
}

fn parse<T: std::str::FromStr>(flag: &str, text: &str, note: &mut dyn FnMut(String)) -> Option<T>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|err| note(format!("--{flag}: {text:?}: {err}"))).ok()
}

fn first_network(flag: &str, values: &[String], note: &mut dyn FnMut(String)) -> Option<IpNetwork> {
    let text = values.first()?;
    if values.len() > 1 {
        note(format!("--{flag}: dual stack is not available yet, give one network"));
    }
    let network: IpNetwork = parse(flag, text, note)?;
    if network.is_ipv6() {
        note(format!("--{flag}: IPv6 is not available yet, give an IPv4 network"));
    }
    Some(network)
}

fn nth(network: IpNetwork, index: u32) -> Option<IpAddr> {
    match network {
        IpNetwork::V4(network) => network.nth(index).map(IpAddr::V4),
        IpNetwork::V6(network) => network.iter().nth(usize::try_from(index).ok()?).map(IpAddr::V6),
    }
}

fn node_name(args: &NodeArgs, note: &mut dyn FnMut(String)) -> String {
    let name = args
        .node_name
        .clone()
        .unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().to_lowercase());
    let name = match args.with_node_id.then(|| node_id(Path::new(NODE_ID))) {
        Some(Ok(id)) => format!("{name}-{id}"),
        Some(Err(err)) => {
            note(format!("--with-node-id: {err:#}"));
            name
        }
        None => name,
    };
    let valid = !name.is_empty()
        && name.len() <= 253
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c))
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric());
    if !valid {
        note(format!("--node-name: {name:?} is not a valid DNS subdomain (RFC 1123)"));
    }
    name
}

/// The machine's id: made once, it outlives the data folder, as in k3s.
fn node_id(file: &Path) -> anyhow::Result<String> {
    match std::fs::read_to_string(file) {
        Ok(id) => Ok(id.trim().to_owned()),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
            let id = pki::token::random_hex(4)?;
            pki::write_atomic(file, format!("{id}\n").as_bytes(), 0o600)?;
            Ok(id)
        }
        Err(err) => Err(err).with_context(|| format!("reading {}", file.display())),
    }
}

/// Refuses what a component would not take, so that it need not fail again and again.
fn check_passed(flag: &str, component: &str, args: &[String], note: &mut dyn FnMut(String)) {
    for arg in args {
        if let Err(reason) = components::accepts(component, arg) {
            note(format!("--{flag}: {arg:?}: {reason}"));
        }
    }
}

/// The same for the components of a node.
fn check_node_args(args: &NodeArgs, note: &mut dyn FnMut(String)) {
    check_passed("kubelet-arg", "k3s-kubelet", &args.kubelet_arg, note);
    check_passed("kube-proxy-arg", "k3s-proxy", &args.kube_proxy_arg, note);
}

/// The address given, or the one that the default route would use.
fn node_ip(args: &NodeArgs, note: &mut dyn FnMut(String)) -> Option<IpAddr> {
    if let Some(text) = args.node_ip.first() {
        return parse("node-ip", text, note);
    }
    // Connecting a datagram socket sends nothing; it asks the routing table for a source address.
    let outward = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    match outward {
        Ok(addr) => Some(addr.ip()),
        Err(err) => {
            note(format!(
                "--node-ip: no default route to tell this node's address ({err}); give it"
            ));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: ServerArgs,
    }

    fn check(flags: &[&str], expected: Result<&str, &[&str]>) {
        let all = ["server", "--node-ip=192.0.2.7", "--node-name=one"].iter().chain(flags);
        match (Server::new(Command::parse_from(all).args), expected) {
            (Ok(server), Ok(dns)) => assert_eq!(server.node.cluster_dns.to_string(), dns),
            (Err(err), Err(parts)) => {
                for part in parts {
                    assert!(err.0.contains(part), "{part} is not in {}", err.0);
                }
            }
            (got, expected) => panic!("{got:?} is not {expected:?}"),
        }
    }

    #[test]
    fn what_a_component_would_refuse_is_refused_early() {
        check(&["--kubelet-arg=max-pods=5", "--kube-apiserver-arg=event-ttl=2h"], Ok("10.43.0.10"));
        check(&["--kubelet-arg=no-such-flag=1"], Err(&["--kubelet-arg", "no-such-flag"]));
        check(&["--kubelet-arg=max-pods=many"], Err(&["--kubelet-arg", "many"]));
    }

    #[test]
    fn a_machine_keeps_its_id() {
        let file = std::env::temp_dir().join(format!("k3s-id-{}/id", std::process::id()));
        let id = node_id(&file).unwrap();
        assert_eq!(id.len(), 8);
        assert_eq!(node_id(&file).unwrap(), id);
        std::fs::remove_dir_all(file.parent().unwrap()).unwrap();
    }

    #[test]
    fn defaults_follow_from_the_service_network() {
        check(&[], Ok("10.43.0.10"));
        check(&["--service-cidr=10.96.0.0/12"], Ok("10.96.0.10"));
        check(&["--cluster-dns=10.43.1.1"], Ok("10.43.1.1"));
    }

    fn check_agent(flags: &[&str], expected: Result<&str, &[&str]>) {
        #[derive(Parser)]
        struct Command {
            #[command(flatten)]
            args: AgentArgs,
        }
        let all = ["agent", "--node-ip=192.0.2.7", "--node-name=one"].iter().chain(flags);
        match (Agent::new(Command::parse_from(all).args), expected) {
            (Ok(agent), Ok(server)) => assert_eq!(agent.server.to_string(), server),
            (Err(err), Err(parts)) => {
                for part in parts {
                    assert!(err.0.contains(part), "{part} is not in {}", err.0);
                }
            }
            (got, expected) => panic!("{got:?} is not {expected:?}"),
        }
    }

    #[test]
    fn an_agent_needs_a_server_and_a_token() {
        check_agent(&["--server=https://s:6443", "--token=x"], Ok("https://s:6443"));
        check_agent(&[], Err(&["--server: which one", "node-token"]));
        check_agent(&["--server=http://s:6443", "--token=x"], Err(&["as in https://s:6443"]));
        check_agent(&["--server=https://s", "--token=K10x"], Err(&["--token: ", "::"]));
        check_agent(&["--server=https://s", "--token-file=/none"], Err(&["--token-file: /none"]));
    }

    #[test]
    fn every_bad_value_is_named_with_its_flag() {
        check(
            &["--cluster-cidr=nonsense", "--write-kubeconfig-mode=rw", "--node-label=x"],
            Err(&["--cluster-cidr", "--write-kubeconfig-mode", "--node-label"]),
        );
        check(&["--cluster-dns=1.2.3.4"], Err(&["not inside --service-cidr"]));
        check(&["--cluster-cidr=10.0.0.0/8,fd00::/56"], Err(&["dual stack"]));
    }
}
