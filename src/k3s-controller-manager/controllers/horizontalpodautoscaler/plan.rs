//! From the replicas that metrics ask for to those that are set: limits, stabilisation, and the
//! rates of scaling, in upstream's words. Pure.
//!
//! Invariant: the result is never outside the limits, and never moves faster than the rules allow.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};

use super::replicas::Tolerances;
use crate::types::{
    Condition,
    autoscaling::{AutoscalerSpec, ScalingRules},
};

/// How long a higher recommendation holds replicas up when nothing else is said.
const DOWNSCALE_STABILIZATION: SignedDuration = SignedDuration::from_mins(5);
/// The longest stabilisation window and the longest period of a policy.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(1);

/// What is remembered of an autoscaler between two looks.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    recommendations: VecDeque<(Timestamp, i32)>,
    ups: VecDeque<(Timestamp, i32)>,
    downs: VecDeque<(Timestamp, i32)>,
}

impl Memory {
    /// The replicas at the first look count as a recommendation.
    pub(super) fn begin(&mut self, current: i32, now: Timestamp) {
        if self.recommendations.is_empty() {
            self.recommendations.push_back((now, current));
        }
    }

    /// Replicas were set.
    pub(super) fn scaled(&mut self, from: i32, to: i32, now: Timestamp) {
        let (events, by) =
            if to > from { (&mut self.ups, to - from) } else { (&mut self.downs, from - to) };
        events.push_back((now, by));
        forget(events, now);
    }

    fn recommended(&mut self, replicas: i32, now: Timestamp) {
        self.recommendations.push_back((now, replicas));
        forget(&mut self.recommendations, now);
    }
}

fn forget(events: &mut VecDeque<(Timestamp, i32)>, now: Timestamp) {
    while events.front().is_some_and(|(at, _)| *at + REMEMBERED < now) {
        events.pop_front();
    }
}

/// What to set, and the conditions that say why.
#[derive(Debug)]
pub(super) struct Normalized {
    pub replicas: i32,
    pub conditions: [Condition; 2],
}

/// The tolerances of a specification.
pub(super) fn tolerances(spec: &AutoscalerSpec) -> Tolerances {
    let mut tolerances = Tolerances::default();
    if let Some(behavior) = &spec.behavior {
        let given = |rules: &ScalingRules| rules.tolerance.map(|it| it.0.as_f64());
        tolerances.up = given(&behavior.scale_up).unwrap_or(tolerances.up);
        tolerances.down = given(&behavior.scale_down).unwrap_or(tolerances.down);
    }
    tolerances
}

/// Keeps what metrics ask for within limits, and from going up and down.
pub(super) fn normalize(
    spec: &AutoscalerSpec,
    memory: &mut Memory,
    current: i32,
    desired: i32,
    now: Timestamp,
) -> Normalized {
    let (stabilized, able) = stabilize(spec, memory, current, desired, now);
    let (replicas, reason, message) = limit(spec, memory, current, stabilized, now);
    let limited = if replicas == stabilized { "False" } else { "True" };
    let conditions = [able, Condition::new("ScalingLimited", limited, reason, message)];
    Normalized { replicas, conditions }
}

fn stabilize(
    spec: &AutoscalerSpec,
    memory: &mut Memory,
    current: i32,
    desired: i32,
    now: Timestamp,
) -> (i32, Condition) {
    let window = |rules: &ScalingRules, default| {
        rules.stabilization_window_seconds.map_or(default, SignedDuration::from_secs)
    };
    let (up, down) = match &spec.behavior {
        None => (None, DOWNSCALE_STABILIZATION),
        Some(it) => (
            Some(window(&it.scale_up, SignedDuration::ZERO)),
            window(&it.scale_down, DOWNSCALE_STABILIZATION),
        ),
    };
    let since = |window: SignedDuration| {
        let recent = memory.recommendations.iter().filter(move |(at, _)| *at > now - window);
        recent.map(|(_, replicas)| *replicas).chain([desired])
    };
    let highest = since(down).max().unwrap_or(desired);
    let stabilized = match up {
        None => highest,
        Some(up) => current.max(since(up).min().unwrap_or(desired)).min(highest),
    };
    memory.recommended(desired, now);
    let able = |reason, message| Condition::new("AbleToScale", "True", reason, message);
    let condition = if stabilized == desired {
        able("ReadyForNewScale", "recommended size matches current size")
    } else if up.is_some() && desired >= current {
        able(
            "ScaleUpStabilized",
            "recent recommendations were lower than current one, applying the lowest recent recommendation",
        )
    } else {
        able(
            "ScaleDownStabilized",
            "recent recommendations were higher than current one, applying the highest recent recommendation",
        )
    };
    (stabilized, condition)
}

fn limit(
    spec: &AutoscalerSpec,
    memory: &Memory,
    current: i32,
    desired: i32,
    now: Timestamp,
) -> (i32, &'static str, &'static str) {
    let too_many =
        ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
    let too_few =
        ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
    let too_fast = (
        "ScaleUpLimit",
        "the desired replica count is increasing faster than the maximum scale rate",
    );
    let (mut most, mut why_most) = (spec.max_replicas, too_many);
    let (mut least, mut why_least) = (minimum(spec), too_few);
    let fastest = match &spec.behavior {
        None => Some(current.saturating_mul(2).max(4)),
        Some(it) if desired > current => {
            let change = |period| (sum(&memory.ups, period, now), sum(&memory.downs, period, now));
            Some(bound(&it.scale_up, current, change, Direction::Up).max(current))
        }
        Some(_) => None,
    };
    if let Some(fastest) = fastest.filter(|it| *it < most) {
        (most, why_most) = (fastest, too_fast);
    }
    if let Some(it) = spec.behavior.as_ref().filter(|_| desired < current) {
        let change = |period| (sum(&memory.ups, period, now), sum(&memory.downs, period, now));
        let slowest = bound(&it.scale_down, current, change, Direction::Down).min(current);
        if slowest > least {
            least = slowest;
            why_least = (
                "ScaleDownLimit",
                "the desired replica count is decreasing faster than the maximum scale rate",
            );
        }
    }
    if desired < least {
        (least, why_least.0, why_least.1)
    } else if desired > most {
        (most, why_most.0, why_most.1)
    } else {
        (desired, "DesiredWithinRange", "the desired count is within the acceptable range")
    }
}

pub(super) fn minimum(spec: &AutoscalerSpec) -> i32 {
    spec.min_replicas.unwrap_or(1)
}

fn sum(events: &VecDeque<(Timestamp, i32)>, seconds: i64, now: Timestamp) -> i32 {
    let from = now - SignedDuration::from_secs(seconds);
    events.iter().filter(|(at, _)| *at > from).map(|(_, by)| by).sum()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

/// How far the policies let replicas go in one direction; `change` says by how much they rose and
/// fell within a period.
fn bound(
    rules: &ScalingRules,
    current: i32,
    change: impl Fn(i64) -> (i32, i32),
    direction: Direction,
) -> i32 {
    let select = rules.select_policy.as_deref().unwrap_or("Max");
    if select == "Disabled" {
        return current;
    }
    let each = rules.policies.iter().map(|policy| {
        let (rose, fell) = change(policy.period_seconds);
        let start = current - rose + fell;
        let part = f64::from(policy.value) / 100.0;
        match (direction, policy.kind == "Pods") {
            (Direction::Up, true) => start.saturating_add(policy.value),
            (Direction::Up, false) => (f64::from(start) * (1.0 + part)).ceil() as i32,
            (Direction::Down, true) => start.saturating_sub(policy.value),
            (Direction::Down, false) => (f64::from(start) * (1.0 - part)) as i32,
        }
    });
    // The largest change is the highest number when rising and the lowest when falling.
    let bound = match (direction, select) {
        (Direction::Up, "Min") | (Direction::Down, "Max") => each.min(),
        _ => each.max(),
    };
    bound.unwrap_or(current)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    fn spec(behavior: serde_json::Value) -> AutoscalerSpec {
        let spec = json!({"minReplicas": 2, "maxReplicas": 100, "behavior": behavior});
        serde_json::from_value(spec).unwrap()
    }

    /// Desired replicas at a second, what becomes of them, and why.
    fn check(behavior: serde_json::Value, current: i32, steps: &[(i64, i32, i32, &str)]) {
        let (spec, mut memory, mut current) = (spec(behavior), Memory::default(), current);
        memory.begin(current, at(0));
        for (second, desired, want, reason) in steps {
            let found = normalize(&spec, &mut memory, current, *desired, at(*second));
            let reasons = found.conditions.map(|it| it.reason);
            assert_eq!(found.replicas, *want, "at {second} {reasons:?}");
            assert!(reasons.iter().any(|it| it == reason), "at {second} {reasons:?}");
            if found.replicas != current {
                memory.scaled(current, found.replicas, at(*second));
                current = found.replicas;
            }
        }
    }

    #[test]
    fn without_behavior_growth_doubles_and_shrinking_waits_five_minutes() {
        check(
            json!(null),
            3,
            &[
                (1, 50, 6, "ScaleUpLimit"),
                (2, 5, 12, "ScaleDownStabilized"),
                (300, 5, 24, "ScaleDownStabilized"),
                (303, 5, 5, "ReadyForNewScale"),
                (400, 1, 5, "ScaleDownStabilized"),
            ],
        );
    }

    #[test]
    fn limits_hold_and_say_so() {
        check(json!(null), 2, &[(1, 1, 2, "ScaleDownStabilized"), (400, 1, 2, "TooFewReplicas")]);
        check(json!(null), 90, &[(1, 150, 100, "TooManyReplicas")]);
    }

    #[test]
    fn rates_and_windows_are_the_behaviors() {
        let slow = json!({
            "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max",
                "policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}]},
            "scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max",
                "policies": [{"type": "Percent", "value": 50, "periodSeconds": 60}]},
        });
        check(
            slow,
            10,
            &[
                (1, 20, 12, "ScaleUpLimit"),
                (15, 20, 12, "ScaleUpLimit"),
                (62, 20, 14, "ScaleUpLimit"),
                (200, 2, 7, "ScaleDownLimit"),
                (215, 2, 7, "ScaleDownLimit"),
                (270, 4, 4, "DesiredWithinRange"),
            ],
        );
        let held = json!({
            "scaleUp": {"stabilizationWindowSeconds": 100, "selectPolicy": "Disabled"},
            "scaleDown": {"selectPolicy": "Disabled", "stabilizationWindowSeconds": 0},
        });
        check(held, 10, &[(1, 20, 10, "ScaleUpStabilized"), (101, 5, 10, "ScaleDownLimit")]);
    }
}
