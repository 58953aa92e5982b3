//! What the cluster's own names stand for: the Kubernetes DNS schema 1.1.0. Pure.
//!
//! Answers come straight from the caches of Services and EndpointSlices. Invariant: a name below the
//! cluster domain is answered here and never asked of anybody else.

use crate::objects::{EndpointSlice, Service, dashed, undashed};
use client::{Index, Key, Lister};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Seconds that clients may remember an answer.
pub const TTL: u32 = 5;
const SCHEMA: &str = "1.1.0";

/// The caches, with the indexes that lookups need.
pub struct Zone {
    pub domain: Name,
    pub services: Lister<Service>,
    pub slices: Lister<EndpointSlice>,
    pub services_by_ip: Index,
    pub slices_by_ip: Index,
    pub slices_by_service: Index,
    /// The address that this server is reached at.
    pub own: Vec<IpAddr>,
}

/// What is known of a name.
#[derive(Debug, Default, PartialEq)]
pub enum Found {
    Records {
        answers: Vec<Record>,
        additionals: Vec<Record>,
    },
    /// The name exists, not with this type.
    #[default]
    Nothing,
    NoSuchName,
    /// Another name, perhaps of somebody else, answers.
    Alias(Name),
    /// Not ours to answer.
    Elsewhere,
}

impl Found {
    fn records(answers: Vec<Record>) -> Self {
        Self::with_additionals(answers, Vec::new())
    }

    fn with_additionals(answers: Vec<Record>, additionals: Vec<Record>) -> Self {
        match answers.is_empty() {
            true => Self::Nothing,
            false => Self::Records { answers, additionals },
        }
    }
}

pub fn service_term(key: &Key) -> String {
    format!("{}/{}", key.namespace, key.name)
}

impl Zone {
    pub fn is_ours(&self, name: &Name) -> bool {
        self.domain.zone_of(name)
    }

    pub fn lookup(&self, name: &Name, kind: RecordType) -> Found {
        if !self.is_ours(name) {
            return self.reverse(name, kind);
        }
        let count = usize::from(name.num_labels()) - usize::from(self.domain.num_labels());
        let labels: Option<Vec<String>> = name
            .iter()
            .take(count)
            .map(|label| std::str::from_utf8(label).ok().map(str::to_ascii_lowercase))
            .collect();
        let Some(labels) = labels else {
            return Found::NoSuchName;
        };
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        match labels.as_slice() {
            [] => self.apex(name, kind),
            ["dns-version"] => match kind {
                RecordType::TXT => one(name, RData::TXT(TXT::new(vec![SCHEMA.into()]))),
                _ => Found::Nothing,
            },
            ["dns"] | ["svc"] | ["pod"] => Found::Nothing,
            ["ns", "dns"] => addresses(name, kind, self.own.iter().copied()),
            [ns, "svc"] => self.namespace(ns),
            [service, ns, "svc"] => self.service(name, kind, ns, service),
            [port, protocol, service, ns, "svc"] => {
                self.ports(name, kind, ns, service, port, protocol)
            }
            [host, service, ns, "svc"] => self.host(name, kind, ns, service, host),
            [_, "pod"] => Found::Nothing,
            [ip, _, "pod"] => match undashed(ip) {
                Some(ip) => addresses(name, kind, [ip]),
                None => Found::NoSuchName,
            },
            _ => Found::NoSuchName,
        }
    }

    /// The record that goes with "no".
    pub fn soa(&self) -> Record {
        let below = |labels: &str| {
            let name = Name::from_ascii(labels).and_then(|name| name.append_domain(&self.domain));
            name.unwrap_or_else(|_| self.domain.clone())
        };
        let (ns, hostmaster) = (below("ns.dns"), below("hostmaster"));
        let soa = SOA::new(ns, hostmaster, 1, 7200, 1800, 86_400, TTL);
        Record::from_rdata(self.domain.clone(), TTL, RData::SOA(soa))
    }

    fn apex(&self, name: &Name, kind: RecordType) -> Found {
        match kind {
            RecordType::SOA => Found::records(vec![self.soa()]),
            RecordType::NS => {
                let server =
                    Name::from_ascii("ns.dns").and_then(|ns| ns.append_domain(&self.domain));
                server.map_or(Found::Nothing, |server| one(name, RData::NS(NS(server))))
            }
            _ => Found::Nothing,
        }
    }

    fn namespace(&self, ns: &str) -> Found {
        match self.services.namespaced(ns).is_empty() {
            true => Found::NoSuchName,
            false => Found::Nothing,
        }
    }

    fn get(&self, ns: &str, service: &str) -> Option<(Arc<Service>, Key)> {
        let key = Key::new(ns, service);
        self.services.get(&key).map(|service| (service, key))
    }

    fn service(&self, name: &Name, kind: RecordType, ns: &str, service: &str) -> Found {
        let Some((service, key)) = self.get(ns, service) else {
            return Found::NoSuchName;
        };
        if service.is_external() {
            let target = Name::from_ascii(&service.spec.external_name);
            let fqdn = |mut target: Name| {
                target.set_fqdn(true);
                Found::Alias(target)
            };
            return target.map_or(Found::Nothing, fqdn);
        }
        if !service.is_headless() {
            return addresses(name, kind, service.cluster_ips());
        }
        let hosts = self.hosts(&service, &key);
        if hosts.is_empty() {
            return Found::NoSuchName;
        }
        addresses(name, kind, hosts.into_iter().map(|host| host.ip))
    }

    fn ports(
        &self,
        name: &Name,
        kind: RecordType,
        ns: &str,
        service_name: &str,
        port: &str,
        protocol: &str,
    ) -> Found {
        let Some((service, key)) = self.get(ns, service_name) else {
            return Found::NoSuchName;
        };
        let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_'))
        else {
            return Found::NoSuchName;
        };
        let Ok(service_name) = name_below(&[service_name, ns, "svc"], &self.domain) else {
            return Found::NoSuchName;
        };
        let mut targets: BTreeMap<(Name, u16), Vec<IpAddr>> = BTreeMap::new();
        if service.is_headless() {
            for host in self.hosts(&service, &key) {
                let numbers = host.slice.ports.iter().filter(|p| p.matches(port, protocol));
                for number in numbers.filter_map(|p| p.port) {
                    if let Ok(target) = service_name.prepend_label(host.name.as_str()) {
                        targets.entry((target, number)).or_default().push(host.ip);
                    }
                }
            }
        } else if !service.is_external() {
            let numbers = service.spec.ports.iter().filter(|p| p.matches(port, protocol));
            for number in numbers.filter_map(|p| p.port) {
                targets.insert((service_name.clone(), number), service.cluster_ips());
            }
        }
        if targets.is_empty() {
            return Found::NoSuchName;
        }
        if kind != RecordType::SRV {
            return Found::Nothing;
        }
        let weight = (100 / targets.len()).max(1) as u16;
        let mut answers = Vec::new();
        let mut additionals = Vec::new();
        for ((target, number), ips) in targets {
            additionals.extend(ips.into_iter().map(|ip| address(&target, ip)));
            let srv = SRV::new(0, weight, number, target);
            answers.push(Record::from_rdata(name.clone(), TTL, RData::SRV(srv)));
        }
        Found::with_additionals(answers, additionals)
    }

    fn host(&self, name: &Name, kind: RecordType, ns: &str, service: &str, host: &str) -> Found {
        let Some((service, key)) = self.get(ns, service) else {
            return Found::NoSuchName;
        };
        if let Some(protocol) = host.strip_prefix('_') {
            let mut ports = service.spec.ports.iter();
            return match ports.any(|port| port.matches(&port.name, protocol)) {
                true => Found::Nothing,
                false => Found::NoSuchName,
            };
        }
        let hosts = self.hosts(&service, &key);
        let mut ips = hosts.into_iter().filter(|h| h.name == host).map(|h| h.ip).peekable();
        match ips.peek() {
            None => Found::NoSuchName,
            Some(_) => addresses(name, kind, ips),
        }
    }

    /// The endpoints that have names: ready ones, or all if the Service says so.
    fn hosts(&self, service: &Service, key: &Key) -> Vec<Host> {
        let mut hosts = Vec::new();
        for slice in self.slices.by_index(self.slices_by_service, &service_term(key)) {
            for endpoint in &slice.endpoints {
                let ready = endpoint.conditions.ready.unwrap_or(true);
                if !ready && !service.spec.publish_not_ready_addresses {
                    continue;
                }
                if let Some((ip, name)) = endpoint.named_address() {
                    let slice = slice.clone();
                    hosts.push(Host { ip, name, slice });
                }
            }
        }
        hosts
    }

    /// Names of addresses that we know; others are somebody else's.
    fn reverse(&self, name: &Name, kind: RecordType) -> Found {
        let Some(ip) = parse_arpa(name) else {
            return Found::Elsewhere;
        };
        let mut names = Vec::new();
        for service in self.services.by_index(self.services_by_ip, &ip.to_string()) {
            let meta = &service.metadata;
            names.extend(name_below(&[&meta.name, &meta.namespace, "svc"], &self.domain));
        }
        for slice in self.slices.by_index(self.slices_by_ip, &ip.to_string()) {
            let Some(key) = slice.service() else { continue };
            let named = slice.endpoints.iter().filter_map(|endpoint| endpoint.named_address());
            for (_, host) in named.filter(|(at, host)| *at == ip && *host != dashed(ip)) {
                let labels = [host.as_str(), &key.name, &key.namespace, "svc"];
                names.extend(name_below(&labels, &self.domain));
            }
        }
        names.sort();
        names.dedup();
        match (names.is_empty(), kind) {
            (true, _) => Found::Elsewhere,
            (false, RecordType::PTR) => {
                let record = |to| Record::from_rdata(name.clone(), TTL, RData::PTR(PTR(to)));
                Found::records(names.into_iter().map(record).collect())
            }
            (false, _) => Found::Nothing,
        }
    }
}

struct Host {
    ip: IpAddr,
    name: String,
    slice: Arc<EndpointSlice>,
}

fn name_below(labels: &[&str], domain: &Name) -> Result<Name, hickory_proto::ProtoError> {
    let name = Name::from_labels(labels.iter().map(|label| label.as_bytes()))?;
    let mut name = name.append_domain(domain)?;
    name.set_fqdn(true);
    Ok(name)
}

fn one(name: &Name, data: RData) -> Found {
    Found::records(vec![Record::from_rdata(name.clone(), TTL, data)])
}

fn address(name: &Name, ip: IpAddr) -> Record {
    let data = match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    };
    Record::from_rdata(name.clone(), TTL, data)
}

fn addresses(name: &Name, kind: RecordType, ips: impl IntoIterator<Item = IpAddr>) -> Found {
    let wanted = |ip: &IpAddr| match kind {
        RecordType::A => ip.is_ipv4(),
        RecordType::AAAA => ip.is_ipv6(),
        RecordType::ANY => true,
        _ => false,
    };
    let mut ips: Vec<IpAddr> = ips.into_iter().filter(wanted).collect();
    ips.sort();
    ips.dedup();
    Found::records(ips.into_iter().map(|ip| address(name, ip)).collect())
}

/// A record for an alias.
pub fn alias(name: &Name, target: &Name) -> Record {
    Record::from_rdata(name.clone(), TTL, RData::CNAME(CNAME(target.clone())))
}

fn parse_arpa(name: &Name) -> Option<IpAddr> {
    let labels = name.num_labels();
    if labels != 6 && labels != 34 {
        return None;
    }
    let network = name.parse_arpa_name().ok()?;
    Some(network.addr())
}
