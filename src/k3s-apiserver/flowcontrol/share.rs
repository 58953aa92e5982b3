//! How the server's seats are divided among priority levels. Pure.
//!
//! Nominal shares are upstream's computation. Between what a level may lend and what it may borrow,
//! seats go where they are asked for. Invariant: the limits add up to the nominal ones.

use serde_json::Value;

use crate::registry::Object;
use crate::registry::value::{at, int, text};

/// The seats of one level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) nominal: u32,
    /// What it keeps when others borrow all they may.
    pub(super) least: u32,
    /// What it has when it borrows all it may.
    pub(super) most: u32,
}

/// Which part of a level's spec speaks of seats: exempt levels may lend as well.
fn part(level: &Object) -> &Value {
    match text(level, "spec.type") {
        "Exempt" => at(level, "spec.exempt"),
        _ => at(level, "spec.limited"),
    }
}

fn shares(level: &Object) -> f64 {
    let default = if text(level, "spec.type") == "Exempt" { 0 } else { 30 };
    int(part(level), "nominalConcurrencyShares").unwrap_or(default).max(0) as f64
}

/// The shares of all levels of a server with so many seats.
pub(super) fn divide(levels: &[Object], seats: u32) -> Vec<Share> {
    let sum: f64 = levels.iter().map(shares).sum();
    let percent = |level: &Object, field: &str| int(part(level), field);
    levels
        .iter()
        .map(|level| {
            let nominal =
                if sum > 0.0 { (f64::from(seats) * shares(level) / sum).ceil() as u32 } else { 0 };
            let of_nominal = |percent: i64| (f64::from(nominal) * percent as f64 / 100.0).round();
            let lendable = of_nominal(percent(level, "lendablePercent").unwrap_or(0)) as u32;
            let most = match percent(level, "borrowingLimitPercent") {
                Some(percent) => nominal.saturating_add(of_nominal(percent) as u32),
                None => seats.max(nominal),
            };
            Share { nominal, least: nominal.saturating_sub(lendable), most }
        })
        .collect()
}

/// The limits that fit the demand: each level gets what it asks for between its least and its most;
/// what is left is spread over those that may have more, what is missing taken in proportion.
pub(super) fn allot(shares: &[Share], demands: &[u32]) -> Vec<u32> {
    let total: u64 = shares.iter().map(|share| u64::from(share.nominal)).sum();
    let mut limits: Vec<u32> = shares
        .iter()
        .zip(demands)
        .map(|(share, demand)| (*demand).clamp(share.least, share.most.max(share.least)))
        .collect();
    let asked: u64 = limits.iter().map(|limit| u64::from(*limit)).sum();
    if asked > total {
        let least: u64 = shares.iter().map(|share| u64::from(share.least)).sum();
        let part = total.saturating_sub(least) as f64 / (asked - least).max(1) as f64;
        for (limit, share) in limits.iter_mut().zip(shares) {
            let above = f64::from(*limit - share.least) * part;
            *limit = share.least + above.floor() as u32;
        }
        return limits;
    }
    // Up to their nominal share first: what was not lent comes home.
    let mut left = total - asked;
    for (limit, share) in limits.iter_mut().zip(shares) {
        let more = u64::from(share.nominal.saturating_sub(*limit)).min(left);
        *limit += more as u32;
        left -= more;
    }
    limits
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn level(shares: i64, lendable: i64, borrowing: Option<i64>) -> Object {
        let mut limited = json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable});
        if let Some(percent) = borrowing {
            limited["borrowingLimitPercent"] = percent.into();
        }
        json!({"spec": {"type": "Limited", "limited": limited}})
    }

    #[test]
    fn shares_are_upstreams() {
        let levels = [level(30, 33, None), level(10, 0, Some(50)), level(5, 0, Some(0))];
        let want = [
            Share { nominal: 400, least: 268, most: 600 },
            Share { nominal: 134, least: 134, most: 201 },
            Share { nominal: 67, least: 67, most: 67 },
        ];
        assert_eq!(divide(&levels, 600), want);
    }

    #[test]
    fn seats_go_where_they_are_asked_for_and_come_back() {
        let shares =
            [Share { nominal: 10, least: 4, most: 20 }, Share { nominal: 10, least: 10, most: 15 }];
        let check = |demands: [u32; 2], want: [u32; 2]| {
            let limits = allot(&shares, &demands);
            assert_eq!(limits, want, "{demands:?}");
            assert!(limits.iter().sum::<u32>() <= 20);
        };
        check([0, 0], [10, 10]);
        check([0, 30], [5, 15]);
        check([30, 0], [10, 10]);
        check([30, 30], [8, 11]);
    }
}
