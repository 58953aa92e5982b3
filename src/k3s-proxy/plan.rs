//! From one Service with its slices, or one pod, to elements. Pure.
//!
//! Invariant: the plan of an object depends on nothing but the object, its slices and this node's
//! name and zone.

use crate::element::{Family, Found, Key, Slot};
use crate::objects::{Endpoint, EndpointSlice, Hint, Pod, Policy, Protocol, Service, ServicePort};
use crate::shape::{Masquerade, Scope, Sources, Target};
use ipnetwork::IpNetwork;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// The chain of frontends that refuse.
pub const REJECT: &str = "refuse";
/// The chain of frontends that stay silent.
pub const DROP: &str = "ignore";
/// Addresses of load balancers that only some clients may use.
pub const GUARDED: &str = "guarded";
pub const WITHOUT_ENDPOINTS: &str = "no-endpoints";
pub const PORTS_WITHOUT_ENDPOINTS: &str = "no-endpoints-nodeports";
pub const HAIRPIN: &str = "hairpin";
pub const HOST_PORTS: &str = "hostports";
pub const HOST_ADDRESSES: &str = "hostports-by-address";

/// What one object wants in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub elements: BTreeMap<Slot, Found>,
    pub targets: Vec<(Family, Target)>,
    pub sources: Vec<(Family, Sources)>,
    /// UDP frontends with their endpoints, to find flows that are stuck to old ones.
    pub udp: Vec<Udp>,
    /// Port and number of local endpoints for the load balancer's health check.
    pub health_check: Option<(u16, usize)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Udp {
    /// Absent for node ports.
    pub ip: Option<IpAddr>,
    pub port: u16,
    pub endpoints: Vec<(IpAddr, u16)>,
}

/// The endpoints of one port of one family, by who may use them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Backends {
    cluster: Vec<(IpAddr, u16)>,
    local: Vec<(IpAddr, u16)>,
}

/// One address or port that clients use.
struct Frontend {
    scope: Scope,
    key: Key,
    masquerade: Masquerade,
}

/// Where this proxy is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    pub node: String,
    /// Empty when nobody said.
    pub zone: String,
}

pub fn service(service: &Service, slices: &[Arc<EndpointSlice>], here: &Place) -> Plan {
    let mut plan = Plan::default();
    if !service.is_ours() {
        return plan;
    }
    for port in &service.spec.ports {
        for family in [Family::V4, Family::V6] {
            let backends = backends(slices, port, family, here);
            one_port(&mut plan, service, port, family, &backends);
            guard(&mut plan, service, port, family);
        }
    }
    let check = service.spec.health_check_node_port;
    if check != 0 && service.spec.external_traffic_policy == Policy::Local {
        plan.health_check = Some((check, local_ready(slices, &here.node)));
    }
    plan
}

/// Load balancers that say who may use them.
fn guard(plan: &mut Plan, service: &Service, port: &ServicePort, family: Family) {
    let networks = service.source_ranges();
    let mut ours: Vec<IpNetwork> =
        networks.into_iter().filter(|network| Family::of(network.ip()) == family).collect();
    if ours.is_empty() || ours.iter().any(|network| network.prefix() == 0) {
        return;
    }
    ours.sort();
    ours.dedup();
    let sources = Sources(ours);
    for ip in service.load_balancer_ips().into_iter().filter(|ip| Family::of(*ip) == family) {
        let key = Key::Address(ip, port.protocol, port.port);
        let slot = Slot { family, set: GUARDED.into(), key };
        plan.elements.insert(slot, Found::Goto(sources.chain()));
        plan.sources.push((family, sources.clone()));
    }
}

fn one_port(
    plan: &mut Plan,
    service: &Service,
    port: &ServicePort,
    family: Family,
    backends: &Backends,
) {
    let (spec, protocol) = (&service.spec, port.protocol);
    let of_family = |ip: &IpAddr| Family::of(*ip) == family;
    let address = |ip| Key::Address(ip, protocol, port.port);
    let mut add = Adder { plan, family, affinity: service.affinity_secs() };
    let internal = match spec.internal_traffic_policy {
        Policy::Cluster => &backends.cluster,
        Policy::Local => &backends.local,
    };
    // Where another node could have answered, silence; where nobody could, a refusal.
    let refusal = if backends.cluster.is_empty() { REJECT } else { DROP };
    let cluster_ips: Vec<IpAddr> = service.cluster_ips().into_iter().filter(of_family).collect();
    for ip in &cluster_ips {
        let frontend = Frontend {
            scope: Scope::Address,
            key: address(*ip),
            masquerade: Masquerade::Strangers,
        };
        add.frontend(&frontend, internal, refusal);
    }
    let mut external: Vec<(Scope, Scope, Key)> = Vec::new();
    for ip in service.external_ips().into_iter().filter(of_family) {
        external.push((Scope::Address, Scope::OutsideAddress, address(ip)));
    }
    if port.node_port != 0 && !cluster_ips.is_empty() {
        let key = Key::Port(protocol, port.node_port);
        external.push((Scope::Port, Scope::OutsidePort, key));
    }
    for (scope, outside, key) in external {
        let local_only = spec.external_traffic_policy == Policy::Local;
        let masquerade = match local_only {
            // Pods keep their address, the node's own processes have it anyway.
            true => Masquerade::Strangers,
            false => Masquerade::Everybody,
        };
        let frontend = Frontend { scope, key, masquerade };
        add.frontend(&frontend, &backends.cluster, refusal);
        if local_only && !backends.cluster.is_empty() {
            let frontend = Frontend { scope: outside, key, masquerade: Masquerade::Nobody };
            add.outside(&frontend, &backends.local);
        }
    }
}

struct Adder<'a> {
    plan: &'a mut Plan,
    family: Family,
    affinity: Option<u32>,
}

impl Adder<'_> {
    fn frontend(&mut self, frontend: &Frontend, endpoints: &[(IpAddr, u16)], refusal: &str) {
        if endpoints.is_empty() {
            let set = match frontend.scope.has_address() {
                true => WITHOUT_ENDPOINTS,
                false => PORTS_WITHOUT_ENDPOINTS,
            };
            self.element(set.into(), frontend.key, Found::Goto(refusal.into()));
            self.remember_udp(frontend.key, endpoints);
            return;
        }
        self.go(frontend, endpoints);
    }

    /// For clients outside the cluster; nothing here means silence.
    fn outside(&mut self, frontend: &Frontend, endpoints: &[(IpAddr, u16)]) {
        if endpoints.is_empty() {
            let set = frontend.scope.frontends().into();
            self.element(set, frontend.key, Found::Goto(DROP.into()));
            return;
        }
        self.go(frontend, endpoints);
    }

    fn go(&mut self, frontend: &Frontend, endpoints: &[(IpAddr, u16)]) {
        let target = Target {
            scope: frontend.scope,
            masquerade: frontend.masquerade,
            count: endpoints.len() as u32,
            affinity: self.affinity,
        };
        let verdict = Found::Goto(target.chain());
        self.element(frontend.scope.frontends().into(), frontend.key, verdict);
        for (index, (ip, port)) in (0..).zip(endpoints) {
            let map = frontend.scope.endpoints(index);
            self.element(map, frontend.key, Found::Endpoint(*ip, *port));
            self.element(HAIRPIN.into(), Key::Self_(*ip), Found::Member);
        }
        self.plan.targets.push((self.family, target));
        self.remember_udp(frontend.key, endpoints);
    }

    fn element(&mut self, set: String, key: Key, found: Found) {
        let family = self.family;
        self.plan.elements.insert(Slot { family, set, key }, found);
    }

    fn remember_udp(&mut self, key: Key, endpoints: &[(IpAddr, u16)]) {
        let (ip, port) = match key {
            Key::Address(ip, Protocol::Udp, port) => (Some(ip), port),
            Key::Port(Protocol::Udp, port) => (None, port),
            _ => return,
        };
        let endpoints = endpoints.to_vec();
        self.plan.udp.push(Udp { ip, port, endpoints });
    }
}

/// Ready endpoints, those that hints say are for us if they say so for all; while there are none,
/// those that are shutting down but still serve.
fn backends(
    slices: &[Arc<EndpointSlice>],
    port: &ServicePort,
    family: Family,
    here: &Place,
) -> Backends {
    let mut of_port = Vec::new();
    for slice in slices {
        let numbers = slice
            .ports
            .iter()
            .filter(|candidate| candidate.name == port.name && candidate.protocol == port.protocol);
        for number in numbers.filter_map(|candidate| candidate.port) {
            for endpoint in &slice.endpoints {
                if let Some(ip) = first_address(endpoint, family) {
                    of_port.push((endpoint, (ip, number)));
                }
            }
        }
    }
    let nearness = nearness(of_port.iter().map(|(endpoint, _)| *endpoint), here);
    let mut ready = Backends::default();
    let mut leaving = Backends::default();
    for (endpoint, address) in of_port {
        let (into, near) = match usable(endpoint) {
            Usable::Ready => (&mut ready, nearness.admits(endpoint, here)),
            Usable::Leaving => (&mut leaving, true),
            Usable::No => continue,
        };
        if near {
            into.cluster.push(address);
        }
        if !here.node.is_empty() && endpoint.node_name == here.node {
            into.local.push(address);
        }
    }
    let choose = |mut ready: Vec<_>, leaving: Vec<_>| {
        if ready.is_empty() {
            ready = leaving;
        }
        ready.sort();
        ready.dedup();
        ready
    };
    Backends {
        cluster: choose(ready.cluster, leaving.cluster),
        local: choose(ready.local, leaving.local),
    }
}

/// Which hints count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nearness {
    Anywhere,
    Zone,
    Node,
}

impl Nearness {
    fn admits(self, endpoint: &Endpoint, here: &Place) -> bool {
        match self {
            Self::Anywhere => true,
            Self::Zone => names(&endpoint.hints.for_zones, &here.zone),
            Self::Node => names(&endpoint.hints.for_nodes, &here.node),
        }
    }
}

fn names(hints: &[Hint], name: &str) -> bool {
    hints.iter().any(|hint| hint.name == name)
}

/// Hints count when every ready endpoint has some and one of them is for us; else somebody would be
/// without endpoints, or all load would be on a few.
fn nearness<'a>(endpoints: impl Iterator<Item = &'a Endpoint>, here: &Place) -> Nearness {
    let ready: Vec<&Endpoint> =
        endpoints.filter(|endpoint| usable(endpoint) == Usable::Ready).collect();
    let counts = |of: fn(&Endpoint) -> &Vec<Hint>, name: &str| {
        !name.is_empty()
            && ready.iter().all(|endpoint| !of(endpoint).is_empty())
            && ready.iter().any(|endpoint| names(of(endpoint), name))
    };
    if counts(|endpoint| &endpoint.hints.for_nodes, &here.node) {
        Nearness::Node
    } else if counts(|endpoint| &endpoint.hints.for_zones, &here.zone) {
        Nearness::Zone
    } else {
        Nearness::Anywhere
    }
}

#[derive(PartialEq, Eq)]
enum Usable {
    Ready,
    Leaving,
    No,
}

fn usable(endpoint: &Endpoint) -> Usable {
    let conditions = &endpoint.conditions;
    let ready = conditions.ready.unwrap_or(true);
    let serving = conditions.serving.unwrap_or(ready);
    match (ready, serving && conditions.terminating == Some(true)) {
        (true, _) => Usable::Ready,
        (false, true) => Usable::Leaving,
        (false, false) => Usable::No,
    }
}

/// Only the first address of an endpoint counts; the others are reserved.
fn first_address(endpoint: &Endpoint, family: Family) -> Option<IpAddr> {
    let ip: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    (Family::of(ip) == family).then_some(ip)
}

fn local_ready(slices: &[Arc<EndpointSlice>], node: &str) -> usize {
    let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
    let mut local: Vec<&String> = endpoints
        .filter(|endpoint| endpoint.node_name == node && usable(endpoint) == Usable::Ready)
        .filter_map(|endpoint| endpoint.addresses.first())
        .collect();
    local.sort();
    local.dedup();
    local.len()
}

/// The host ports of a pod of this node.
pub fn pod(pod: &Pod) -> Plan {
    let mut plan = Plan::default();
    let over = matches!(pod.status.phase.as_str(), "Succeeded" | "Failed");
    if pod.spec.host_network || over {
        return plan;
    }
    let mut ips: Vec<&str> = pod.status.pod_ips.iter().map(|ip| ip.ip.as_str()).collect();
    if ips.is_empty() {
        ips.push(&pod.status.pod_ip);
    }
    let containers = pod.spec.init_containers.iter().chain(&pod.spec.containers);
    let ports: Vec<_> = containers
        .flat_map(|container| &container.ports)
        .filter(|port| port.host_port != 0)
        .collect();
    for ip in ips.into_iter().filter_map(|ip| ip.parse::<IpAddr>().ok()) {
        let family = Family::of(ip);
        for port in &ports {
            let host_ip = port.host_ip.parse::<IpAddr>().ok().filter(|ip| !ip.is_unspecified());
            let (set, key) = match host_ip {
                Some(host) if Family::of(host) != family => continue,
                Some(host) => {
                    let key = Key::Address(host, port.protocol, port.host_port);
                    (HOST_ADDRESSES, key)
                }
                None => (HOST_PORTS, Key::Port(port.protocol, port.host_port)),
            };
            let found = Found::Endpoint(ip, port.container_port);
            let slot = |set: &str, key| Slot { family, set: set.into(), key };
            plan.elements.insert(slot(set, key), found);
            plan.elements.insert(slot(HAIRPIN, Key::Self_(ip)), Found::Member);
            if port.protocol == Protocol::Udp {
                let endpoints = vec![(ip, port.container_port)];
                let port = port.host_port;
                plan.udp.push(Udp { ip: host_ip, port, endpoints });
            }
        }
    }
    plan
}
