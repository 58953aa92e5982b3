//! Amounts of resources, and the sums that scheduling needs.

use std::collections::BTreeMap;

use crate::types::{Amounts, amount};

/// What a container that asks for nothing is counted as when nodes are compared.
const CPU_DEFAULT: i64 = 100;
const MEMORY_DEFAULT: i64 = 200 << 20;

/// CPU in thousandths, everything else in whole units.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    pub(crate) cpu: i64,
    pub(crate) memory: i64,
    pub(crate) ephemeral_storage: i64,
    pub(crate) pods: i64,
    pub(crate) extended: BTreeMap<String, i64>,
}

impl Resources {
    pub(crate) fn parse(amounts: &Amounts) -> Self {
        let mut resources = Resources::default();
        for (name, value) in amounts {
            let value = amount(name, value);
            match name.as_str() {
                "cpu" => resources.cpu = value,
                "memory" => resources.memory = value,
                "ephemeral-storage" => resources.ephemeral_storage = value,
                "pods" => resources.pods = value,
                name => {
                    resources.extended.insert(name.to_owned(), value);
                }
            }
        }
        resources
    }

    /// As [`Resources::parse`], with the defaults used for scoring.
    pub(crate) fn parse_nonzero(amounts: &Amounts) -> Self {
        let mut resources = Resources::parse(amounts);
        if !amounts.contains_key("cpu") {
            resources.cpu = CPU_DEFAULT;
        }
        if !amounts.contains_key("memory") {
            resources.memory = MEMORY_DEFAULT;
        }
        resources
    }

    /// The amount of a resource by its name.
    pub(crate) fn get(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.cpu,
            "memory" => self.memory,
            "ephemeral-storage" => self.ephemeral_storage,
            "pods" => self.pods,
            name => self.extended.get(name).copied().unwrap_or(0),
        }
    }

    /// The resources that there is some of.
    pub(crate) fn names(&self) -> Vec<&str> {
        let basic = ["cpu", "memory", "ephemeral-storage", "pods"];
        let all = basic.into_iter().chain(self.extended.keys().map(String::as_str));
        all.filter(|name| self.get(name) > 0).collect()
    }

    pub(crate) fn add(&mut self, other: &Resources) {
        self.each(other, |mine, theirs| mine + theirs);
    }

    pub(crate) fn sub(&mut self, other: &Resources) {
        self.each(other, |mine, theirs| mine - theirs);
    }

    pub(crate) fn max(&mut self, other: &Resources) {
        self.each(other, i64::max);
    }

    fn each(&mut self, other: &Resources, merge: fn(i64, i64) -> i64) {
        self.cpu = merge(self.cpu, other.cpu);
        self.memory = merge(self.memory, other.memory);
        self.ephemeral_storage = merge(self.ephemeral_storage, other.ephemeral_storage);
        self.pods = merge(self.pods, other.pods);
        for (name, value) in &other.extended {
            let mine = self.extended.entry(name.clone()).or_insert(0);
            *mine = merge(*mine, *value);
        }
    }
}
