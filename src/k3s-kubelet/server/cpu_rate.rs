//! How fast CPU time is used, for runtimes that tell only how much was used.
//!
//! Invariant: a figure is what lies between two readings; the first reading of something has none.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Readings nearer to each other say more about the clock than about the load.
const APART_NANOS: i64 = 100_000_000;

/// The last readings, by what was read.
#[derive(Debug, Default)]
pub(crate) struct CpuRates(Mutex<HashMap<String, Reading>>);

#[derive(Clone, Copy, Debug)]
struct Reading {
    used_nanos: u64,
    at_nanos: i64,
    rate: Option<u64>,
}

impl CpuRates {
    /// Takes a reading and returns the CPU nanoseconds used per second since the one before.
    pub(super) fn note(&self, id: &str, used_nanos: u64, at_nanos: i64) -> Option<u64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.get(id).copied();
        let rate = match before {
            Some(before) if at_nanos - before.at_nanos < APART_NANOS => return before.rate,
            Some(before) if used_nanos >= before.used_nanos => {
                let used = u128::from(used_nanos - before.used_nanos) * 1_000_000_000;
                let apart = (at_nanos - before.at_nanos).unsigned_abs();
                u64::try_from(used / u128::from(apart)).ok()
            }
            _ => None,
        };
        all.insert(id.to_owned(), Reading { used_nanos, at_nanos, rate });
        rate
    }

    /// Forgets what is no longer there.
    pub(super) fn keep(&self, there: impl Fn(&str) -> bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|id, _| there(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_lies_between_two_readings() {
        const SECOND: i64 = 1_000_000_000;
        let rates = CpuRates::default();
        let check = |used, at, expected| assert_eq!(rates.note("c", used, at), expected, "{at}");
        check(100, SECOND, None);
        check(500_000_100, 3 * SECOND, Some(250_000_000));
        // Too soon for another figure.
        check(900_000_000, 3 * SECOND + 1, Some(250_000_000));
        // Started anew.
        check(5, 4 * SECOND, None);
        check(10, 5 * SECOND, Some(5));
        rates.keep(|id| id != "c");
        check(20, 6 * SECOND, None);
    }
}
