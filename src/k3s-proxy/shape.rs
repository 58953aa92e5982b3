//! The chains that elements lead to, named after what they do, so that a name says what must exist.
//!
//! A service with K endpoints goes to a chain that draws J out of K and looks the endpoint up in
//! map J. Chains are shared by all services with the same K: their number does not grow with the
//! number of services. Invariant: a chain's rules follow from its name alone.

use ipnetwork::IpNetwork;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Which frontends a chain is for; each has its own maps of endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Cluster, external and load balancer addresses.
    Address,
    /// Node ports.
    Port,
    /// External addresses for clients outside the cluster, with this node's endpoints only.
    OutsideAddress,
    OutsidePort,
}

impl Scope {
    pub const ALL: [Self; 4] = [Self::Address, Self::Port, Self::OutsideAddress, Self::OutsidePort];

    pub fn prefix(self) -> &'static str {
        match self {
            Self::Address => "a",
            Self::Port => "p",
            Self::OutsideAddress => "oa",
            Self::OutsidePort => "op",
        }
    }

    /// Whether the key has the destination address in it.
    pub fn has_address(self) -> bool {
        matches!(self, Self::Address | Self::OutsideAddress)
    }

    /// The verdict map of the frontends.
    pub fn frontends(self) -> &'static str {
        match self {
            Self::Address => "services",
            Self::Port => "nodeports",
            Self::OutsideAddress => "outside-services",
            Self::OutsidePort => "outside-nodeports",
        }
    }

    /// The map of the endpoints with this index.
    pub fn endpoints(self, index: u32) -> String {
        format!("{}-endpoint{index}", self.prefix())
    }

    /// The set of clients that stay with the endpoint of this index.
    pub fn clients(self, index: u32) -> String {
        format!("{}-clients{index}", self.prefix())
    }
}

/// Whose packets get the node's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Masquerade {
    Nobody,
    /// Everybody but pods: clients of cluster addresses.
    Strangers,
    Everybody,
}

/// One chain that a frontend can go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    pub scope: Scope,
    pub masquerade: Masquerade,
    /// How many endpoints there are; at least one.
    pub count: u32,
    /// Seconds that a client stays with its endpoint.
    pub affinity: Option<u32>,
}

impl Target {
    pub fn chain(&self) -> String {
        let kind = match self.masquerade {
            Masquerade::Nobody => "pick",
            Masquerade::Strangers => "own",
            Masquerade::Everybody => "masq",
        };
        let mut name = format!("{}-{kind}{}", self.scope.prefix(), self.count);
        if let Some(secs) = self.affinity {
            name.push_str(&format!("-for{secs}"));
        }
        name
    }

    pub fn picking(self) -> Self {
        let masquerade = Masquerade::Nobody;
        Self { masquerade, ..self }
    }
}

/// Who may reach a load balancer's address: a chain that silences everybody else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sources(pub Vec<IpNetwork>);

impl Sources {
    /// Lists of networks have no bound, names have: so it is a digest.
    pub fn chain(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.0.hash(&mut hasher);
        format!("from-{:016x}", hasher.finish())
    }
}

/// The chain that translates to the endpoint with this index.
pub fn endpoint_chain(scope: Scope, index: u32) -> String {
    format!("{}-to{index}", scope.prefix())
}

/// The chain that remembers the client first.
pub fn remember_chain(scope: Scope, index: u32, secs: u32) -> String {
    format!("{}-keep{index}-for{secs}", scope.prefix())
}

/// Everything of variable number that a table has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shape {
    pub endpoints: BTreeSet<(Scope, u32)>,
    pub clients: BTreeSet<(Scope, u32)>,
    pub remembering: BTreeSet<(Scope, u32, u32)>,
    pub picking: BTreeSet<Target>,
    pub masquerading: BTreeSet<Target>,
    pub sources: BTreeSet<Sources>,
}

impl Shape {
    /// What the targets need.
    pub fn of(targets: impl IntoIterator<Item = Target>) -> Self {
        let mut shape = Self::default();
        for target in targets {
            if target.masquerade != Masquerade::Nobody {
                shape.masquerading.insert(target);
            }
            shape.picking.insert(target.picking());
            for index in 0..target.count {
                shape.endpoints.insert((target.scope, index));
                if let Some(secs) = target.affinity {
                    shape.clients.insert((target.scope, index));
                    shape.remembering.insert((target.scope, index, secs));
                }
            }
        }
        shape
    }

    /// A table starts with what most services need, so that growing is rare.
    pub fn initial() -> Self {
        let targets = (1..=8).flat_map(|count| {
            let target = |scope, masquerade| Target { scope, masquerade, count, affinity: None };
            [
                target(Scope::Address, Masquerade::Strangers),
                target(Scope::Address, Masquerade::Everybody),
                target(Scope::Port, Masquerade::Everybody),
            ]
        });
        Self::of(targets)
    }

    /// What `wanted` has and `self` lacks.
    pub fn missing(&self, wanted: &Self) -> Self {
        fn less<T: Ord + Clone>(wanted: &BTreeSet<T>, have: &BTreeSet<T>) -> BTreeSet<T> {
            wanted.difference(have).cloned().collect()
        }
        Self {
            endpoints: less(&wanted.endpoints, &self.endpoints),
            clients: less(&wanted.clients, &self.clients),
            remembering: less(&wanted.remembering, &self.remembering),
            picking: less(&wanted.picking, &self.picking),
            masquerading: less(&wanted.masquerading, &self.masquerading),
            sources: less(&wanted.sources, &self.sources),
        }
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub fn add(&mut self, other: Self) {
        self.endpoints.extend(other.endpoints);
        self.clients.extend(other.clients);
        self.remembering.extend(other.remembering);
        self.picking.extend(other.picking);
        self.masquerading.extend(other.masquerading);
        self.sources.extend(other.sources);
    }
}
