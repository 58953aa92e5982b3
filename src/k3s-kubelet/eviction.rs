//! Pressure on the node's memory, disk and process ids, and who has to go.
//!
//! Pure decisions over measured signals; the node loop measures and the pod manager evicts.

use std::collections::BTreeMap;

use anyhow::{bail, ensure};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::pod::resources;

const SIGNALS: &[&str] = &[
    "memory.available",
    "nodefs.available",
    "nodefs.inodesFree",
    "imagefs.available",
    "imagefs.inodesFree",
    "pid.available",
];

/// What was measured: available and capacity by signal.
pub(crate) type Signals = BTreeMap<&'static str, (u64, u64)>;

/// A node condition that a signal stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pressure {
    Memory,
    Disk,
    Pid,
}

/// Refuses thresholds that we could not watch.
pub(crate) fn check_thresholds(thresholds: &BTreeMap<String, String>) -> anyhow::Result<()> {
    for (signal, value) in thresholds {
        ensure!(SIGNALS.contains(&signal.as_str()), "eviction signal {signal:?} is not known");
        if amount(value, 100).is_none() {
            bail!("eviction threshold {signal}<{value} is neither a quantity nor a percentage");
        }
    }
    Ok(())
}

fn amount(value: &str, capacity: u64) -> Option<u64> {
    if let Some(percent) = value.strip_suffix('%') {
        let percent: f64 = percent.parse().ok()?;
        return (0.0..=100.0)
            .contains(&percent)
            .then_some((capacity as f64 * percent / 100.0) as u64);
    }
    u64::try_from(resources::units(&Quantity(value.to_owned()))?).ok()
}

/// A threshold that is crossed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Crossed {
    pub(crate) signal: &'static str,
    pub(crate) pressure: Pressure,
    pub(crate) available: u64,
    pub(crate) threshold: u64,
}

/// The thresholds that are crossed now.
pub(crate) fn crossed(thresholds: &BTreeMap<String, String>, signals: &Signals) -> Vec<Crossed> {
    let mut out = Vec::new();
    for (signal, (available, capacity)) in signals {
        let Some(value) = thresholds.get(*signal) else { continue };
        let threshold = amount(value, *capacity).unwrap_or(0);
        if *available < threshold {
            let pressure = match *signal {
                "memory.available" => Pressure::Memory,
                "pid.available" => Pressure::Pid,
                _ => Pressure::Disk,
            };
            out.push(Crossed { signal, pressure, available: *available, threshold });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_a_quantity_or_a_share() {
        let thresholds = BTreeMap::from([
            ("memory.available".to_owned(), "100Mi".to_owned()),
            ("nodefs.available".to_owned(), "5%".to_owned()),
        ]);
        check_thresholds(&thresholds).unwrap();
        let signals = Signals::from([
            ("memory.available", (50 << 20, 1 << 30)),
            ("nodefs.available", (6, 100)),
        ]);
        let crossed = crossed(&thresholds, &signals);
        assert_eq!(crossed.len(), 1);
        assert_eq!(crossed[0].pressure, Pressure::Memory);
        for (signal, value) in [("nope", "1"), ("memory.available", "x%")] {
            assert!(check_thresholds(&BTreeMap::from([(signal.into(), value.into())])).is_err());
        }
    }
}
