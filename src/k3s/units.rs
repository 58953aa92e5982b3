//! The processes of a role: what each is called with, which sockets it gets, when it stops.
//!
//! Invariant: this is the only place that knows a component's command line; under systemd the unit
//! files say the same.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use daemon::supervise::Unit;
use daemon::{Address, Socket};
use tokio::sync::watch;

use crate::bus::{self, Bus};
use crate::containerd;
use crate::runtime::Runtime;
use crate::settings::{Node, RUN_DIR, Server};

/// Stop stages, highest first: users of the API, the API, the store, what everything stands on.
const USERS: u8 = 3;
const API: u8 = 2;
const STORE: u8 = 1;
const GROUND: u8 = 0;

/// `WatchdogSec=` of the unit files.
const WATCHDOG: Duration = Duration::from_secs(30);

/// Builds units that share an executable and an environment.
pub(crate) struct Units {
    env: Vec<(String, String)>,
    /// Never raised here: components follow what changes under them.
    restart: watch::Receiver<u64>,
    open: watch::Receiver<bool>,
}

impl Units {
    pub(crate) fn new(bus: &Bus, debug: bool) -> Self {
        let mut env = Vec::new();
        if let Bus::Private { .. } = bus {
            env.push(("DBUS_SYSTEM_BUS_ADDRESS".to_owned(), bus::private_address()));
        }
        if debug {
            env.push(("K3S_DEBUG".to_owned(), "true".to_owned()));
        }
        // The API server signs the leafs of agents.
        let lifetimes = pki::LIFETIME_VARIABLES.into_iter();
        env.extend(lifetimes.filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?))));
        Self { env, restart: watch::channel(0).1, open: watch::channel(true).1 }
    }

    /// The message bus, when it is ours.
    pub(crate) fn bus(&self, bus: &Bus) -> Result<Option<Unit>> {
        let Bus::Private { program, config } = bus else { return Ok(None) };
        let mut unit = self.foreign("k3s-dbus", program.clone(), "dbus-daemon");
        unit.args = vec![
            format!("--config-file={}", config.display()).into(),
            "--nofork".into(),
            "--nopidfile".into(),
            "--nosyslog".into(),
        ];
        unit.sockets = vec![Socket::new("bus", Address::Unix(bus::private_socket()))];
        Ok(Some(unit))
    }

    /// The node's containerd, when it is ours.
    pub(crate) fn containerd(&self, node: &Node) -> Result<Option<Unit>> {
        if node.args.container_runtime_endpoint.is_some() {
            return Ok(None);
        }
        let (program, config) = containerd::prepare(node)?;
        let mut unit = self.foreign("k3s-containerd", program, "containerd");
        unit.args = vec!["--config".into(), config.into()];
        if !node.args.debug() {
            unit.args.extend(["--log-level".into(), "warn".into()]);
        }
        unit.notifies = true;
        unit.log = Some(containerd::log(&node.paths));
        Ok(Some(unit))
    }

    /// The control plane.
    pub(crate) fn server(&self, server: &Server) -> Result<Vec<Unit>> {
        let mut units = Vec::new();
        let store_socket = Path::new(RUN_DIR).join("store.sock");
        let etcd = match &server.args.datastore_endpoint {
            Some(endpoint) => endpoint.clone(),
            None => {
                let mut store = self.component("k3s-store", STORE);
                store.args = flags([
                    ("db", server.node.paths.server("db/state.db").into_os_string()),
                    ("listen", format!("unix://{}", store_socket.display()).into()),
                ]);
                store.sockets = vec![Socket::new("store", Address::Unix(store_socket.clone()))];
                units.push(store);
                format!("unix://{}", store_socket.display())
            }
        };
        units.push(self.apiserver(server, etcd)?);
        if !server.args.disable_controller_manager {
            units.push(self.controller_manager(server)?);
        }
        if !server.args.disable_scheduler {
            let mut scheduler = self.component("k3s-scheduler", USERS);
            let kubeconfig = server.node.paths.server("cred/scheduler.kubeconfig");
            scheduler.args = flags([("kubeconfig", kubeconfig.into_os_string())]);
            scheduler.args.extend(extra(&server.args.kube_scheduler_arg));
            scheduler.sockets = vec![Socket::new("https", loopback(10259))];
            units.push(scheduler);
        }
        Ok(units)
    }

    fn apiserver(&self, server: &Server, etcd: String) -> Result<Unit> {
        let paths = &server.node.paths;
        let tls = |name: &str| paths.tls(name).into_os_string();
        let issuer = format!("https://kubernetes.default.svc.{}", server.node.cluster_domain);
        let mut unit = self.component("k3s-apiserver", API);
        unit.args = flags([
            ("etcd-servers", etcd.into()),
            ("secure-port", server.port.to_string().into()),
            ("bind-address", server.bind.to_string().into()),
            ("advertise-address", server.advertise.to_string().into()),
            ("client-ca-file", tls("client-ca.crt")),
            ("tls-cert-file", tls("serving-kube-apiserver.crt")),
            ("tls-private-key-file", tls("serving-kube-apiserver.key")),
            ("service-cluster-ip-range", server.service_cidr.to_string().into()),
            ("service-node-port-range", server.args.service_node_port_range.clone().into()),
            ("service-account-key-file", tls("service.key")),
            ("service-account-signing-key-file", tls("service.key")),
            ("api-audiences", format!("{issuer},k3s").into()),
            ("service-account-issuer", issuer.into()),
            ("kubelet-certificate-authority", tls("server-ca.crt")),
            ("kubelet-client-certificate", tls("client-kube-apiserver.crt")),
            ("kubelet-client-key", tls("client-kube-apiserver.key")),
            ("requestheader-client-ca-file", tls("request-header-ca.crt")),
            ("requestheader-allowed-names", "system:auth-proxy".into()),
            ("requestheader-extra-headers-prefix", "X-Remote-Extra-".into()),
            ("requestheader-group-headers", "X-Remote-Group".into()),
            ("requestheader-username-headers", "X-Remote-User".into()),
            ("proxy-client-cert-file", tls("client-auth-proxy.crt")),
            ("proxy-client-key-file", tls("client-auth-proxy.key")),
            ("authorization-mode", "Node,RBAC".into()),
            ("enable-admission-plugins", "NodeRestriction".into()),
            ("enable-bootstrap-token-auth", "true".into()),
            ("anonymous-auth", "false".into()),
            ("basic-auth-file", paths.server("cred/passwd").into_os_string()),
            ("supervisor-dir", paths.server("").into_os_string()),
        ]);
        unit.args.extend(extra(&server.args.kube_apiserver_arg));
        unit.sockets = vec![Socket::new("https", Address::Tcp(server.listen()))];
        Ok(unit)
    }

    fn controller_manager(&self, server: &Server) -> Result<Unit> {
        let paths = &server.node.paths;
        let mut unit = self.component("k3s-controller-manager", USERS);
        unit.args = flags([
            ("kubeconfig", paths.server("cred/controller.kubeconfig").into_os_string()),
            ("service-account-private-key-file", paths.tls("service.key").into_os_string()),
            ("root-ca-file", paths.tls("server-ca.crt").into_os_string()),
            (
                "cluster-signing-kube-apiserver-client-cert-file",
                paths.tls("client-ca.crt").into_os_string(),
            ),
            (
                "cluster-signing-kube-apiserver-client-key-file",
                paths.tls("client-ca.key").into_os_string(),
            ),
            (
                "cluster-signing-kubelet-client-cert-file",
                paths.tls("client-ca.crt").into_os_string(),
            ),
            (
                "cluster-signing-kubelet-client-key-file",
                paths.tls("client-ca.key").into_os_string(),
            ),
            (
                "cluster-signing-kubelet-serving-cert-file",
                paths.tls("server-ca.crt").into_os_string(),
            ),
            (
                "cluster-signing-kubelet-serving-key-file",
                paths.tls("server-ca.key").into_os_string(),
            ),
            (
                "cluster-signing-legacy-unknown-cert-file",
                paths.tls("server-ca.crt").into_os_string(),
            ),
            (
                "cluster-signing-legacy-unknown-key-file",
                paths.tls("server-ca.key").into_os_string(),
            ),
            ("allocate-node-cidrs", "true".into()),
            ("cluster-cidr", server.node.cluster_cidr.to_string().into()),
            ("service-cluster-ip-range", server.service_cidr.to_string().into()),
            ("cluster-domain", server.node.cluster_domain.clone().into()),
            ("manifests-dir", paths.server("manifests").into_os_string()),
            ("manifests-kubeconfig", paths.server("cred/supervisor.kubeconfig").into_os_string()),
        ]);
        if !server.args.disables("coredns") {
            let address = server.node.cluster_dns.to_string();
            unit.args.extend(flags([("cluster-dns", address.into())]));
        }
        if !server.args.disable.is_empty() {
            let names = server.args.disable.join(",");
            unit.args.extend(flags([("disabled-addons", names.into())]));
        }
        unit.args.extend(extra(&server.args.kube_controller_manager_arg));
        unit.sockets = vec![Socket::new("https", loopback(10257))];
        Ok(unit)
    }

    /// The node: kubelet, pod network, proxy and DNS. The kubelet waits for `images`.
    pub(crate) fn node(
        &self,
        node: &Node,
        runtime: &Runtime,
        backend: &str,
        images: watch::Receiver<bool>,
    ) -> Result<Vec<Unit>> {
        let mut units = vec![self.kubelet(node, runtime, images)?];
        let kubeconfig = |name: &str| node.paths.agent(name).into_os_string();
        if backend != "none" {
            let cni_socket = Path::new(RUN_DIR).join("cni.sock");
            let mut flannel = self.component("k3s-flannel", USERS);
            flannel.args = flags([
                ("kubeconfig", kubeconfig("k3scontroller.kubeconfig")),
                ("node-name", node.name.clone().into()),
                ("node-ip", node.ip.to_string().into()),
                ("backend", backend.into()),
                ("cluster-cidr", node.cluster_cidr.to_string().into()),
                ("cni-conf-dir", runtime.cni_conf.clone().into_os_string()),
            ]);
            if let Some(iface) = &node.args.flannel_iface {
                flannel.args.extend(flags([("iface", iface.into())]));
            }
            flannel.sockets = vec![Socket::new("cni", Address::Unix(cni_socket))];
            units.push(flannel);
        }
        if !node.args.disable_kube_proxy {
            let mut proxy = self.component("k3s-proxy", USERS);
            proxy.args = flags([
                ("kubeconfig", kubeconfig("kubeproxy.kubeconfig")),
                ("hostname-override", node.name.clone().into()),
                ("cluster-cidr", node.cluster_cidr.to_string().into()),
            ]);
            proxy.args.extend(extra(&node.args.kube_proxy_arg));
            proxy.sockets = vec![Socket::new("healthz", anywhere(10256))];
            units.push(proxy);
        }
        if !node.serves_dns {
            return Ok(units);
        }
        let mut dns = self.component("k3s-dns", USERS);
        dns.args = flags([
            ("kubeconfig", kubeconfig("dns.kubeconfig")),
            ("cluster-dns", node.cluster_dns.to_string().into()),
            ("cluster-domain", node.cluster_domain.clone().into()),
        ]);
        if let Some(path) = &node.args.resolv_conf {
            dns.args.extend(flags([("resolv-conf", path.clone().into_os_string())]));
        }
        // The address is not there yet: k3s-dns adds it to `lo`.
        let at = SocketAddr::new(node.cluster_dns, 53);
        dns.sockets = vec![
            Socket::new("dns", Address::UdpForeseen(at)),
            Socket::new("dns", Address::TcpForeseen(at)),
        ];
        units.push(dns);
        Ok(units)
    }

    fn kubelet(
        &self,
        node: &Node,
        runtime: &Runtime,
        images: watch::Receiver<bool>,
    ) -> Result<Unit> {
        let agent = |name: &str| node.paths.agent(name).into_os_string();
        let mut folders = agent("");
        // An agent has only the first.
        folders.push(",");
        folders.push(node.paths.tls(""));
        let mut unit = self.component("k3s-kubelet", USERS);
        unit.args = flags([
            ("kubeconfig", agent("kubelet.kubeconfig")),
            ("container-runtime-endpoint", runtime.endpoint().into()),
            ("hostname-override", node.name.clone().into()),
            ("node-ip", node.ip.to_string().into()),
            ("cluster-dns", node.cluster_dns.to_string().into()),
            ("cluster-domain", node.cluster_domain.clone().into()),
            ("client-ca-file", agent("client-ca.crt")),
            ("tls-cert-file", agent("serving-kubelet.crt")),
            ("tls-private-key-file", agent("serving-kubelet.key")),
            ("pod-manifest-path", agent("pod-manifests")),
            ("certificate-dirs", folders),
            ("node-labels", node.args.node_label.join(",").into()),
            ("register-with-taints", node.args.node_taint.join(",").into()),
        ]);
        if let Some(path) = &node.args.resolv_conf {
            unit.args.extend(flags([("resolv-conf", path.clone().into_os_string())]));
        }
        if !node.args.kubelet_arg.iter().any(|arg| arg.starts_with("cgroup-driver=")) {
            unit.args.extend(flags([("cgroup-driver", runtime.cgroup_driver.into())]));
        }
        unit.args.extend(extra(&node.args.kubelet_arg));
        unit.sockets =
            vec![Socket::new("https", anywhere(10250)), Socket::new("healthz", loopback(10248))];
        unit.gate = images;
        Ok(unit)
    }

    fn component(&self, name: &str, stage: u8) -> Unit {
        Unit {
            name: name.to_owned(),
            program: PathBuf::from("/proc/self/exe"),
            argv0: name.to_owned(),
            args: Vec::new(),
            env: self.env.clone(),
            log: None,
            sockets: Vec::new(),
            notifies: true,
            watchdog: Some(WATCHDOG),
            stage,
            gate: self.open.clone(),
            restart: self.restart.clone(),
        }
    }

    fn foreign(&self, name: &str, program: PathBuf, argv0: &str) -> Unit {
        let argv0 = argv0.to_owned();
        Unit { program, argv0, notifies: false, watchdog: None, ..self.component(name, GROUND) }
    }
}

fn flags<const N: usize>(pairs: [(&str, OsString); N]) -> Vec<OsString> {
    pairs
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(flag, value)| {
            let mut text = OsString::from(format!("--{flag}="));
            text.push(value);
            text
        })
        .collect()
}

/// `--kubelet-arg` and friends: `key=value` becomes `--key=value`.
fn extra(args: &[String]) -> impl Iterator<Item = OsString> + '_ {
    args.iter().map(|arg| format!("--{}", arg.trim_start_matches('-')).into())
}

fn loopback(port: u16) -> Address {
    Address::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
}

fn anywhere(port: u16) -> Address {
    Address::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port))
}
