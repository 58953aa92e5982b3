//! The text of a table, in nft's language: base chains, the chains of a [`Shape`], and all elements.
//!
//! ```text
//! prerouting, output -> services -> vmap @services -> a-own3 -> a-pick3 -> a-to1 -> dnat @a-endpoint1
//! ```
//! Invariant: a pure function; the same state always gives the same text.

use crate::element::{Family, Found, Slot};
use crate::plan::{
    DROP, GUARDED, HAIRPIN, HOST_ADDRESSES, HOST_PORTS, PORTS_WITHOUT_ENDPOINTS, REJECT,
    WITHOUT_ENDPOINTS,
};
use crate::shape::{Masquerade, Scope, Shape, Sources, Target, endpoint_chain, remember_chain};
use ipnetwork::IpNetwork;
use netlink::nft::TableName;
use std::collections::BTreeMap;
use std::fmt::Display;

/// Our bit of the packet mark; all other bits are left alone.
pub const MARK: u32 = 0x4000;
/// Elements per command, so that no single line gets huge.
const CHUNK: usize = 1024;
/// Clients remembered for each endpoint index.
const CLIENTS_MAX: u32 = 65_536;
const PORT_KEY: &str = "meta l4proto . th dport";

/// What the rules depend on beside the elements.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Where pods' addresses are; clients from elsewhere are masqueraded.
    pub cluster_cidrs: Vec<IpNetwork>,
    /// The node's addresses that node ports listen on; all if empty.
    pub nodeport_addresses: Vec<IpNetwork>,
}

pub fn name(family: Family) -> TableName {
    match family {
        Family::V4 => TableName::ip("k3s-proxy"),
        Family::V6 => TableName::ip6("k3s-proxy"),
    }
}

/// One transaction in the making.
pub struct Script<'a> {
    family: Family,
    settings: &'a Settings,
    text: String,
}

impl<'a> Script<'a> {
    pub fn new(family: Family, settings: &'a Settings) -> Self {
        let text = String::new();
        Self { family, settings, text }
    }

    /// Empties the table and describes it anew.
    pub fn replace(mut self, shape: &Shape, elements: &BTreeMap<Slot, Found>) -> String {
        // A delete of a missing table would fail, hence the first add.
        for command in ["add", "delete", "add"] {
            self.text.push_str(&format!("{command} table {} k3s-proxy\n", self.ip()));
        }
        self.frontend_maps();
        self.refusing();
        self.grow(shape);
        self.translating();
        self.all_elements(elements);
        self.text
    }

    /// Adds what a bigger shape needs.
    pub fn extend(mut self, missing: &Shape) -> String {
        self.grow(missing);
        self.text
    }

    fn ip(&self) -> &'static str {
        match self.family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        }
    }

    fn address_type(&self) -> &'static str {
        match self.family {
            Family::V4 => "ipv4_addr",
            Family::V6 => "ipv6_addr",
        }
    }

    fn key_type(&self, scope: Scope) -> String {
        match scope.has_address() {
            true => format!("{} . inet_proto . inet_service", self.address_type()),
            false => "inet_proto . inet_service".into(),
        }
    }

    fn key(&self, scope: Scope) -> String {
        match scope.has_address() {
            true => format!("{} daddr . {PORT_KEY}", self.ip()),
            false => PORT_KEY.into(),
        }
    }

    fn client_key(&self, scope: Scope) -> String {
        format!("{} saddr . {}", self.ip(), self.key(scope))
    }

    fn add(&mut self, kind: &str, name: &str, body: impl Display) {
        let ip = self.ip();
        self.text.push_str(&format!("add {kind} {ip} k3s-proxy {name} {{ {body}; }}\n"));
    }

    fn verdict_map(&mut self, name: &str, scope: Scope) {
        let types = self.key_type(scope);
        self.add("map", name, format_args!("type {types} : verdict"));
    }

    fn endpoint_map(&mut self, name: &str, scope: Scope) {
        let (types, address) = (self.key_type(scope), self.address_type());
        self.add("map", name, format_args!("type {types} : {address} . inet_service"));
    }

    fn chain<T: AsRef<str>>(&mut self, name: &str, rules: impl IntoIterator<Item = T>) {
        let ip = self.ip();
        self.text.push_str(&format!("add chain {ip} k3s-proxy {name}\n"));
        self.rules(name, rules);
    }

    fn base_chain<T: AsRef<str>>(
        &mut self,
        kind: &str,
        hook: &str,
        priority: i32,
        rules: impl IntoIterator<Item = T>,
    ) {
        let name = format!("{kind}-{hook}");
        self.add("chain", &name, format_args!("type {kind} hook {hook} priority {priority}"));
        self.rules(&name, rules);
    }

    fn rules<T: AsRef<str>>(&mut self, chain: &str, rules: impl IntoIterator<Item = T>) {
        let ip = self.ip();
        for rule in rules {
            let rule = rule.as_ref();
            self.text.push_str(&format!("add rule {ip} k3s-proxy {chain} {rule}\n"));
        }
    }

    fn frontend_maps(&mut self) {
        for scope in Scope::ALL {
            self.verdict_map(scope.frontends(), scope);
        }
        self.verdict_map(GUARDED, Scope::Address);
        self.verdict_map(WITHOUT_ENDPOINTS, Scope::Address);
        self.verdict_map(PORTS_WITHOUT_ENDPOINTS, Scope::Port);
        self.endpoint_map(HOST_ADDRESSES, Scope::Address);
        self.endpoint_map(HOST_PORTS, Scope::Port);
        let address = self.address_type();
        self.add("set", HAIRPIN, format_args!("type {address} . {address}"));
    }

    fn refusing(&mut self) {
        self.chain(REJECT, ["meta l4proto tcp reject with tcp reset", "reject"]);
        self.chain(DROP, ["drop"]);
        let (address, local) = (self.key(Scope::Address), self.at_node_port());
        let rules = [
            format!("{address} vmap @{WITHOUT_ENDPOINTS}"),
            format!("{local} {PORT_KEY} vmap @{PORTS_WITHOUT_ENDPOINTS}"),
        ];
        self.chain("refusing", rules);
        self.chain("guarding", [format!("{address} vmap @{GUARDED}")]);
        for hook in ["prerouting", "output"] {
            let rules = ["ct state new jump guarding", "ct state new goto refusing"];
            self.base_chain("filter", hook, -110, rules);
        }
    }

    fn translating(&mut self) {
        let (ip, address, local) = (self.ip(), self.key(Scope::Address), self.at_node_port());
        let frontends = |scope: Scope| scope.frontends();
        let outside = [
            format!("{address} vmap @{}", frontends(Scope::OutsideAddress)),
            format!("{local} {PORT_KEY} vmap @{}", frontends(Scope::OutsidePort)),
        ];
        self.chain("outside", outside);
        let not_from_pod = self.not_from_pod();
        let services = [
            format!("fib saddr type != local {not_from_pod}jump outside"),
            format!("{address} vmap @{}", frontends(Scope::Address)),
            format!("{local} {PORT_KEY} vmap @{}", frontends(Scope::Port)),
            format!("dnat {ip} to {address} map @{HOST_ADDRESSES}"),
            format!("{local} dnat {ip} to {PORT_KEY} map @{HOST_PORTS}"),
        ];
        self.chain("services", services);
        for hook in ["prerouting", "output"] {
            self.base_chain("nat", hook, -100, ["goto services"]);
        }
        let rules = [
            format!(
                "meta mark & {MARK:#x} != 0 meta mark set meta mark ^ {MARK:#x} masquerade fully-random"
            ),
            // A pod that reached itself through a service must not see its own address.
            format!("ct status dnat {ip} saddr . {ip} daddr @{HAIRPIN} masquerade fully-random"),
        ];
        self.base_chain("nat", "postrouting", 100, rules);
    }

    /// The packet is for an address that node ports are served on.
    fn at_node_port(&self) -> String {
        let ip = self.ip();
        let wanted = self.of_family(&self.settings.nodeport_addresses);
        if !wanted.is_empty() {
            return format!("fib daddr type local {ip} daddr {{ {} }}", wanted.join(", "));
        }
        match self.family {
            // Packets of the loopback network cannot leave for a pod.
            Family::V4 => "fib daddr type local ip daddr != 127.0.0.0/8".into(),
            Family::V6 => "fib daddr type local".into(),
        }
    }

    /// A match, with a space behind it, or nothing if nobody said where pods are.
    fn not_from_pod(&self) -> String {
        let pods = self.of_family(&self.settings.cluster_cidrs);
        match pods.is_empty() {
            true => String::new(),
            false => format!("{} saddr != {{ {} }} ", self.ip(), pods.join(", ")),
        }
    }

    fn of_family(&self, networks: &[IpNetwork]) -> Vec<String> {
        let ours = networks.iter().filter(|cidr| Family::of(cidr.ip()) == self.family);
        ours.map(|cidr| format!("{}/{}", cidr.network(), cidr.prefix())).collect()
    }

    fn grow(&mut self, shape: &Shape) {
        let ip = self.ip();
        for (scope, index) in &shape.endpoints {
            let (map, key) = (scope.endpoints(*index), self.key(*scope));
            self.endpoint_map(&map, *scope);
            self.chain(&endpoint_chain(*scope, *index), [format!("dnat {ip} to {key} map @{map}")]);
        }
        for (scope, index) in &shape.clients {
            let (address, key) = (self.address_type(), self.key_type(*scope));
            let body =
                format!("type {address} . {key}; flags dynamic, timeout; size {CLIENTS_MAX}");
            self.add("set", &scope.clients(*index), body);
        }
        for (scope, index, secs) in &shape.remembering {
            let (set, key) = (scope.clients(*index), self.client_key(*scope));
            let rules = [
                format!("update @{set} {{ {key} timeout {secs}s }}"),
                format!("goto {}", endpoint_chain(*scope, *index)),
            ];
            self.chain(&remember_chain(*scope, *index, *secs), rules);
        }
        for sources in &shape.sources {
            self.chain(&sources.chain(), self.guarding(sources));
        }
        for target in &shape.picking {
            self.chain(&target.chain(), self.picking(target));
        }
        for target in &shape.masquerading {
            self.chain(&target.chain(), self.masquerading(target));
        }
    }

    fn guarding(&self, sources: &Sources) -> Vec<String> {
        let ours = self.of_family(&sources.0).join(", ");
        vec![format!("{} saddr {{ {ours} }} return", self.ip()), "drop".into()]
    }

    fn picking(&self, target: &Target) -> Vec<String> {
        let scope = target.scope;
        let to = |index| match target.affinity {
            None => endpoint_chain(scope, index),
            Some(secs) => remember_chain(scope, index, secs),
        };
        let mut rules = Vec::new();
        if target.affinity.is_some() {
            let key = self.client_key(scope);
            let known = |index: u32| format!("{key} @{} goto {}", scope.clients(index), to(index));
            rules.extend((0..target.count).map(known));
        }
        rules.push(match target.count {
            1 => format!("goto {}", to(0)),
            count => {
                let all = (0..count).map(|index| format!("{index} : goto {}", to(index)));
                let all: Vec<String> = all.collect();
                format!("numgen random mod {count} vmap {{ {} }}", all.join(", "))
            }
        });
        rules
    }

    fn masquerading(&self, target: &Target) -> Vec<String> {
        let who = match target.masquerade {
            Masquerade::Everybody => Some(String::new()),
            Masquerade::Strangers => Some(self.not_from_pod()).filter(|who| !who.is_empty()),
            Masquerade::Nobody => None,
        };
        let mark = who.map(|who| format!("{who}meta mark set meta mark | {MARK:#x}"));
        let go = format!("goto {}", target.picking().chain());
        mark.into_iter().chain([go]).collect()
    }

    fn all_elements(&mut self, elements: &BTreeMap<Slot, Found>) {
        let (ip, family) = (self.ip(), self.family);
        let ours: Vec<_> = elements.iter().filter(|(slot, _)| slot.family == family).collect();
        for run in ours.chunk_by(|a, b| a.0.set == b.0.set) {
            for chunk in run.chunks(CHUNK) {
                let set = &chunk[0].0.set;
                self.text.push_str(&format!("add element {ip} k3s-proxy {set} {{"));
                for (at, (slot, found)) in chunk.iter().enumerate() {
                    self.text.push_str(if at == 0 { " " } else { ", " });
                    slot.key.write(&mut self.text);
                    found.write(&mut self.text);
                }
                self.text.push_str(" }\n");
            }
        }
    }
}
