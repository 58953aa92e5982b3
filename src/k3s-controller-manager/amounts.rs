//! Resource lists: `resource.Quantity` by resource name, and what a pod asks for.

use std::collections::BTreeMap;

use apimachinery::quantity::Quantity;
use client::null_default;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::types::core::{Container, Pod};

/// A quantity on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Amount(pub Quantity);

/// Amounts by resource name.
pub(crate) type Amounts = BTreeMap<String, Amount>;

impl Amount {
    pub(crate) const ZERO: Amount = Amount(Quantity::ZERO);

    /// A number of objects.
    pub(crate) fn count(number: usize) -> Self {
        let number = i64::try_from(number).unwrap_or(i64::MAX);
        Amount(Quantity::from_whole(number, apimachinery::quantity::Format::DecimalSi))
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Quantity::parse(&text).map(Amount).map_err(serde::de::Error::custom)
    }
}

/// `resources` of a container or a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Resources {
    #[serde(deserialize_with = "null_default")]
    pub requests: Amounts,
    #[serde(deserialize_with = "null_default")]
    pub limits: Amounts,
}

/// Requests or limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Requests,
    Limits,
}

impl Resources {
    pub(crate) fn side(&self, side: Side) -> &Amounts {
        match side {
            Side::Requests => &self.requests,
            Side::Limits => &self.limits,
        }
    }

    fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.limits.is_empty()
    }
}

/// Adds each amount of one list to another.
pub(crate) fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = total.entry(name.clone()).or_insert(Amount::ZERO);
        *sum = Amount(sum.0 + amount.0);
    }
}

fn raise(total: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let most = total.entry(name.clone()).or_insert(*amount);
        *most = (*most).max(*amount);
    }
}

/// What a pod asks for: its containers and sidecars together or the peak of its init containers,
/// replaced by what the pod itself says, plus overhead.
pub(crate) fn of_pod(pod: &Pod, side: Side) -> Amounts {
    let mut total = Amounts::new();
    for container in &pod.spec.containers {
        add(&mut total, container.resources.side(side));
    }
    // Sidecars run beside everything that starts after them; other init containers run alone.
    let mut sidecars = Amounts::new();
    let mut peak = Amounts::new();
    for container in &pod.spec.init_containers {
        let mut here = sidecars.clone();
        add(&mut here, container.resources.side(side));
        if container.restart_policy == "Always" {
            add(&mut total, container.resources.side(side));
            sidecars.clone_from(&here);
        }
        raise(&mut peak, &here);
    }
    raise(&mut total, &peak);
    for (name, amount) in pod.spec.resources.side(side) {
        total.insert(name.clone(), *amount);
    }
    match side {
        Side::Requests => add(&mut total, &pod.spec.overhead),
        Side::Limits => {
            for (name, amount) in &pod.spec.overhead {
                if let Some(sum) = total.get_mut(name) {
                    *sum = Amount(sum.0 + amount.0);
                }
            }
        }
    }
    total
}

/// Whether no container asks for cpu or memory: quality of service `BestEffort`.
pub(crate) fn is_best_effort(pod: &Pod) -> bool {
    let nothing = |resources: &Resources| {
        [Side::Requests, Side::Limits].iter().all(|side| {
            let amounts = resources.side(*side);
            !["cpu", "memory"]
                .iter()
                .any(|name| amounts.get(*name).is_some_and(|it| !it.0.is_zero()))
        })
    };
    if !pod.spec.resources.is_empty() {
        return nothing(&pod.spec.resources);
    }
    let all = |containers: &[Container]| containers.iter().all(|it| nothing(&it.resources));
    all(&pod.spec.containers) && all(&pod.spec.init_containers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_containers_count_by_their_peak_and_sidecars_add_up() {
        let pod: Pod = serde_json::from_str(
            r#"{"spec": {"overhead": {"cpu": "250m"},
                "containers": [{"resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}],
                "initContainers": [
                    {"restartPolicy": "Always", "resources": {"requests": {"cpu": "500m"}}},
                    {"resources": {"requests": {"cpu": 3}}}]}}"#,
        )
        .unwrap();
        let total = of_pod(&pod, Side::Requests);
        assert_eq!(total["cpu"].0.to_string(), "3750m");
        assert_eq!(total["memory"].0.to_string(), "1Gi");
        assert!(of_pod(&pod, Side::Limits).is_empty());
        assert!(!is_best_effort(&pod));
        assert!(is_best_effort(&Pod::default()));
    }
}
