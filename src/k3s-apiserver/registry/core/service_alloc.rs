//! Cluster IPs and node ports: which are free, and who is about to take one.
//!
//! What is in use is read from the services themselves. Invariant: an address between the choice and
//! the moment the cache shows the service is in `RESERVED`, and leaves it when its guard is dropped.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use apimachinery::field::FieldErrors;
use ipnetwork::IpNetwork;
use serde_json::json;

use crate::cluster::Cluster;
use crate::registry::validate::spec;
use crate::registry::value::{at, flag, has, int, is_zero, key, list, set, text, texts};
use crate::registry::{Guard, Object};

static RESERVED: Mutex<Option<HashSet<String>>> = Mutex::new(None);

/// Addresses and ports that one write under way has chosen.
#[derive(Debug, Default)]
struct Reservation(Vec<String>);

impl Reservation {
    /// Takes `what` unless another write has it.
    fn take(&mut self, what: String) -> bool {
        let mut all = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
        let free = all.get_or_insert_default().insert(what.clone());
        if free {
            self.0.push(what);
        }
        free
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut all = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
        for what in &self.0 {
            all.get_or_insert_default().remove(what);
        }
    }
}

/// Everything that other services hold.
struct Used {
    ips: HashSet<String>,
    ports: HashSet<(String, i64)>,
}

/// Fills in cluster IPs, families and node ports, or says why that cannot be.
pub(super) fn allocate(
    cluster: &Cluster,
    obj: &mut Object,
    old: Option<&Object>,
    errs: &mut FieldErrors,
    dry_run: bool,
) -> Guard {
    let ranges = &cluster.options.service_cidrs;
    families(obj, ranges, errs);
    if !errs.is_empty() {
        return None;
    }
    let used = used(cluster, obj);
    let mut held = Reservation::default();
    cluster_ips(obj, old, &ready_ranges(cluster), &used, &mut held, errs);
    let range = i64::from(*cluster.options.node_ports.start())
        ..=i64::from(*cluster.options.node_ports.end());
    node_ports(obj, old, &range, &used, &mut held, errs);
    if dry_run || held.0.is_empty() { None } else { Some(Box::new(held)) }
}

/// The ranges that may be allocated from: those of ServiceCIDRs that are ready and stay. Before
/// there are any, those of the flags.
fn ready_ranges(cluster: &Cluster) -> Vec<IpNetwork> {
    let mut ranges = Vec::new();
    for entry in cluster.list("servicecidrs.networking.k8s.io", "") {
        let object = entry.object();
        let mut conditions = list(&object, "status.conditions").iter();
        let ready = conditions.any(|it| it["type"] == "Ready" && it["status"] == "True");
        if ready && !has(&object, "metadata.deletionTimestamp") {
            ranges
                .extend(texts(&object, "spec.cidrs").filter_map(|it| it.parse::<IpNetwork>().ok()));
        }
    }
    if ranges.is_empty() { cluster.options.service_cidrs.clone() } else { ranges }
}

/// Does the service need a port for health checks of its load balancer?
pub(super) fn needs_health_check(obj: &Object) -> bool {
    text(obj, "spec.type") == "LoadBalancer" && text(obj, "spec.externalTrafficPolicy") == "Local"
}

fn used(cluster: &Cluster, of: &Object) -> Used {
    let mut used = Used { ips: HashSet::new(), ports: HashSet::new() };
    let mine = (text(of, "metadata.namespace"), text(of, "metadata.name"));
    for entry in cluster.list("services", "") {
        if (entry.namespace(), entry.name()) == mine {
            continue;
        }
        let service = entry.object();
        used.ips.extend(texts(&service, "spec.clusterIPs").map(str::to_owned));
        for port in list(&service, "spec.ports") {
            if let Some(number) = int(port, "nodePort").filter(|n| *n != 0) {
                used.ports.insert((text(port, "protocol").to_owned(), number));
            }
        }
        if let Some(number) = int(&service, "spec.healthCheckNodePort").filter(|n| *n != 0) {
            used.ports.insert(("TCP".to_owned(), number));
        }
    }
    let parent = format!("{}/{}", mine.0, mine.1);
    for entry in cluster.list("ipaddresses.networking.k8s.io", "") {
        let address = entry.object();
        let of = at(&address, "spec.parentRef");
        if format!("{}/{}", text(of, "namespace"), text(of, "name")) != parent {
            used.ips.insert(entry.name().to_owned());
        }
    }
    used
}

fn family(ip: &IpNetwork) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// `ipFamilies` and `ipFamilyPolicy`, from what is asked and what the cluster has.
fn families(obj: &mut Object, ranges: &[IpNetwork], errs: &mut FieldErrors) {
    let Some(primary) = ranges.first().map(family) else { return };
    if text(obj, "spec.type") == "ExternalName" {
        return;
    }
    let dual = ranges.len() > 1;
    let mut wanted: Vec<String> = texts(obj, "spec.ipFamilies").map(str::to_owned).collect();
    for (n, ip) in texts(obj, "spec.clusterIPs").enumerate() {
        if let Ok(ip) = ip.parse::<IpAddr>()
            && wanted.len() <= n
        {
            wanted.push(if ip.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned());
        }
    }
    let policy = text(obj, "spec.ipFamilyPolicy").to_owned();
    let headless = texts(obj, "spec.clusterIPs").next() == Some("None");
    let other = |family: &str| if family == "IPv4" { "IPv6" } else { "IPv4" }.to_owned();
    if headless && is_zero(at(obj, "spec.selector")) && policy != "SingleStack" {
        if wanted.is_empty() {
            wanted.push(primary.to_owned());
        }
        if wanted.len() < 2 {
            let second = other(&wanted[0]);
            wanted.push(second);
        }
        set(obj, "spec.ipFamilies", json!(wanted));
        if policy.is_empty() {
            set(obj, "spec.ipFamilyPolicy", "RequireDualStack");
        }
        return;
    }
    if policy == "RequireDualStack" && !dual {
        let detail = "this cluster is not configured for dual-stack services";
        errs.invalid(spec().child("ipFamilyPolicy"), policy.as_str(), detail);
    }
    for (n, asked) in wanted.iter().enumerate() {
        if !ranges.iter().any(|range| family(range) == asked) && !has_family_ip(obj, n) {
            errs.invalid(
                spec().child("ipFamilies").index(n),
                asked.as_str(),
                "not configured on this cluster",
            );
        }
    }
    if policy.is_empty() {
        let policy = if wanted.len() == 2 { "RequireDualStack" } else { "SingleStack" };
        set(obj, "spec.ipFamilyPolicy", policy);
    }
    if wanted.is_empty() {
        wanted.push(primary.to_owned());
    }
    if dual && wanted.len() == 1 && policy.ends_with("DualStack") {
        let second = other(&wanted[0]);
        wanted.push(second);
    }
    set(obj, "spec.ipFamilies", json!(wanted));
}

/// A family that only an explicit address implies is judged with that address.
fn has_family_ip(obj: &Object, n: usize) -> bool {
    texts(obj, "spec.ipFamilies").nth(n).is_none()
}

fn cluster_ips(
    obj: &mut Object,
    old: Option<&Object>,
    ranges: &[IpNetwork],
    used: &Used,
    held: &mut Reservation,
    errs: &mut FieldErrors,
) {
    if text(obj, "spec.type") == "ExternalName"
        || texts(obj, "spec.clusterIPs").next() == Some("None")
    {
        return;
    }
    let asked: Vec<String> = texts(obj, "spec.clusterIPs").map(str::to_owned).collect();
    let had: Vec<String> = old
        .map(|old| texts(old, "spec.clusterIPs").map(str::to_owned).collect())
        .unwrap_or_default();
    let families: Vec<String> = texts(obj, "spec.ipFamilies").map(str::to_owned).collect();
    let mut ips = Vec::new();
    for (n, wanted) in families.iter().enumerate() {
        let ranges: Vec<&IpNetwork> =
            ranges.iter().filter(|range| family(range) == wanted).collect();
        if ranges.is_empty() {
            if let Some(ip) = asked.get(n) {
                out_of_range(errs, &asked, ip);
            }
            continue;
        }
        match asked.get(n) {
            Some(ip) if had.contains(ip) => ips.push(ip.clone()),
            Some(ip) => {
                let inside = |ip: IpAddr| ranges.iter().any(|range| range.contains(ip));
                if !ip.parse().is_ok_and(inside) {
                    out_of_range(errs, &asked, ip);
                } else if used.ips.contains(ip) || !held.take(ip.clone()) {
                    let detail =
                        format!("failed to allocate IP {ip}: provided IP is already allocated");
                    errs.invalid(spec().child("clusterIPs"), json!(asked), detail);
                } else {
                    ips.push(ip.clone());
                }
            }
            None => match ranges.iter().find_map(|range| free_ip(range, used, held)) {
                Some(ip) => ips.push(ip),
                None => errs.internal(
                    spec().child("clusterIPs"),
                    "failed to allocate a serviceIP: range is full",
                ),
            },
        }
    }
    if let Some(first) = ips.first() {
        set(obj, "spec.clusterIP", first.as_str());
        set(obj, "spec.clusterIPs", json!(ips));
    }
}

fn out_of_range(errs: &mut FieldErrors, asked: &[String], ip: &str) {
    let detail = format!(
        "failed to allocate IP {ip}: the provided network does not match the current range"
    );
    errs.invalid(spec().child("clusterIPs"), json!(asked), detail);
}

/// A free address, from the upper part of the range first: the lower is for those who choose.
fn free_ip(range: &IpNetwork, used: &Used, held: &mut Reservation) -> Option<String> {
    let (base, bits) = match range.network() {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)), 32),
        IpAddr::V6(ip) => (u128::from(ip), 128),
    };
    let host_bits = u32::from(bits - range.prefix()).min(16);
    let size = 1_u128 << host_bits;
    let last = if bits == 32 { size.checked_sub(2)? } else { size - 1 };
    let lower = (size / 16).clamp(16, 256).min(last);
    let at = |offset: u128| -> String {
        if bits == 32 {
            std::net::Ipv4Addr::from(u32::try_from(base + offset).unwrap_or_default()).to_string()
        } else {
            std::net::Ipv6Addr::from(base + offset).to_string()
        }
    };
    for (from, to) in [(lower + 1, last), (1, lower)] {
        if from > to {
            continue;
        }
        let count = to - from + 1;
        let start = random() % count;
        let found = (0..count)
            .map(|n| at(from + (start + n) % count))
            .find(|ip| !used.ips.contains(ip) && held.take(ip.clone()));
        if found.is_some() {
            return found;
        }
    }
    None
}

fn random() -> u128 {
    uuid::Uuid::new_v4().as_u128()
}

fn node_ports(
    obj: &mut Object,
    old: Option<&Object>,
    range: &std::ops::RangeInclusive<i64>,
    used: &Used,
    held: &mut Reservation,
    errs: &mut FieldErrors,
) {
    let kind = text(obj, "spec.type");
    let wants = kind == "NodePort"
        || kind == "LoadBalancer"
            && (flag(obj, "spec.allocateLoadBalancerNodePorts")
                || !has(obj, "spec.allocateLoadBalancerNodePorts"));
    let explicit = kind == "LoadBalancer";
    let mut had: HashSet<(String, i64)> = HashSet::new();
    if let Some(old) = old {
        for port in list(old, "spec.ports") {
            had.insert((
                text(port, "protocol").to_owned(),
                int(port, "nodePort").unwrap_or_default(),
            ));
        }
        had.insert(("health".to_owned(), int(old, "spec.healthCheckNodePort").unwrap_or_default()));
    }
    let mut chosen: HashSet<(String, i64)> = HashSet::new();
    let count = list(obj, "spec.ports").len();
    for n in 0..count {
        let port = &list(obj, "spec.ports")[n];
        let protocol = text(port, "protocol").to_owned();
        let number = int(port, "nodePort").unwrap_or_default();
        let path = spec().child("ports").index(n).child("nodePort");
        if number == 0 {
            if !wants {
                continue;
            }
            // One number serves the same port under several protocols.
            let twin = list(obj, "spec.ports")[..n]
                .iter()
                .find(|other| {
                    key(other, "port") == key(port, "port") && text(other, "protocol") != protocol
                })
                .and_then(|other| int(other, "nodePort"))
                .filter(|number| {
                    *number != 0 && !used.ports.contains(&(protocol.clone(), *number))
                });
            match twin.or_else(|| free_port(range, &protocol, used, &chosen, held)) {
                Some(number) => {
                    obj["spec"]["ports"][n]["nodePort"] = json!(number);
                    chosen.insert((protocol, number));
                }
                None => errs.internal(path, "failed to allocate a nodePort: range is full"),
            }
            continue;
        }
        if !wants && !explicit {
            continue;
        }
        let mine = (protocol, number);
        if chosen.contains(&mine) {
            errs.invalid(path, number, "provided port is already allocated");
        } else if had.contains(&mine) {
            chosen.insert(mine);
        } else if !range.contains(&number) {
            let detail = format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                range.start(),
                range.end()
            );
            errs.invalid(path, number, detail);
        } else if used.ports.contains(&mine) || !held.take(format!("{}/{number}", mine.0)) {
            errs.invalid(path, number, "provided port is already allocated");
        } else {
            chosen.insert(mine);
        }
    }
    health_port(obj, &had, range, used, &chosen, held, errs);
}

fn health_port(
    obj: &mut Object,
    had: &HashSet<(String, i64)>,
    range: &std::ops::RangeInclusive<i64>,
    used: &Used,
    chosen: &HashSet<(String, i64)>,
    held: &mut Reservation,
    errs: &mut FieldErrors,
) {
    if !needs_health_check(obj) {
        return;
    }
    let number = int(obj, "spec.healthCheckNodePort").unwrap_or_default();
    let path = spec().child("healthCheckNodePort");
    if number == 0 {
        match free_port(range, "TCP", used, chosen, held) {
            Some(number) => set(obj, "spec.healthCheckNodePort", number),
            None => errs.internal(path, "failed to allocate a nodePort: range is full"),
        }
    } else if !had.contains(&("health".to_owned(), number))
        && (!range.contains(&number)
            || used.ports.contains(&("TCP".to_owned(), number))
            || !held.take(format!("TCP/{number}")))
    {
        let detail = format!(
            "failed to allocate requested HealthCheck NodePort {number}: provided port is already allocated"
        );
        errs.internal(path, detail);
    }
}

/// A free node port, from the upper part of the range first.
fn free_port(
    range: &std::ops::RangeInclusive<i64>,
    protocol: &str,
    used: &Used,
    chosen: &HashSet<(String, i64)>,
    held: &mut Reservation,
) -> Option<i64> {
    let size = range.end() - range.start() + 1;
    let lower = (size / 32).clamp(16, 128).min(size);
    for (from, count) in [(lower, size - lower), (0, lower)] {
        if count <= 0 {
            continue;
        }
        let start = i64::try_from(random() % u128::from(count.unsigned_abs())).unwrap_or_default();
        for n in 0..count {
            let number = range.start() + from + (start + n) % count;
            let mine = (protocol.to_owned(), number);
            if !used.ports.contains(&mine)
                && !chosen.contains(&mine)
                && held.take(format!("{protocol}/{number}"))
            {
                return Some(number);
            }
        }
    }
    None
}
