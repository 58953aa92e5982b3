//! How often and how soon a failed pod is replaced: back-off for the whole Job or, with
//! `backoffLimitPerIndex`, for each index. Pure.
//!
//! Invariant: what is known of an index's failures is on its newest pod; the last failed pod of an
//! index keeps its finalizer until a replacement carries the count on.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use super::{
    indexes::{Indexes, index},
    plan::has_failed,
    policy::{Verdict, judge},
};
use crate::types::{batch::Job, core::Pod};

pub(super) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
pub(super) const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
const BACKOFF_SECONDS: i64 = 10;
const BACKOFF_SECONDS_MAX: i64 = 600;

/// Failures of an index before its pod was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Failures {
    pub(super) counted: i32,
    pub(super) ignored: i32,
}

impl Failures {
    fn of(pod: &Pod) -> Self {
        let number = |name| pod.metadata.annotation(name).and_then(|it| it.parse().ok());
        Failures {
            counted: number(FAILURES).unwrap_or(0),
            ignored: number(IGNORED_FAILURES).unwrap_or(0),
        }
    }

    /// With the failure of this pod.
    pub(super) fn after(job: &Job, pod: &Pod) -> Self {
        let mut failures = Failures::of(pod);
        if judge(job, pod) == Verdict::Ignore {
            failures.ignored += 1;
        } else {
            failures.counted += 1;
        }
        failures
    }

    fn all(self) -> i32 {
        self.counted.saturating_add(self.ignored)
    }
}

/// Whether the failure of this pod is the last that its index is allowed.
pub(super) fn fails_index(job: &Job, pod: &Pod) -> bool {
    let Some(limit) = job.spec.backoff_limit_per_index else { return false };
    match judge(job, pod) {
        Verdict::FailIndex => true,
        Verdict::Ignore => false,
        Verdict::Count | Verdict::FailJob(_) => Failures::of(pod).counted >= limit,
    }
}

/// The failed pod of each index that waits to be replaced.
pub(super) fn awaiting(
    job: &Job,
    pods: &[Arc<Pod>],
    finalizer: &str,
    over: impl Fn(i32) -> bool,
) -> BTreeMap<i32, Arc<Pod>> {
    let mut last = BTreeMap::<i32, Arc<Pod>>::new();
    if job.spec.backoff_limit_per_index.is_none() {
        return last;
    }
    let active: Indexes =
        pods.iter().filter(|it| it.is_active()).filter_map(|it| index(job, it)).collect();
    for pod in pods.iter().filter(|it| it.metadata.has_finalizer(finalizer) && has_failed(job, it))
    {
        let Some(at) = index(job, pod).filter(|at| !active.contains(at) && !over(*at)) else {
            continue;
        };
        let newer = last.get(&at).is_none_or(|it| {
            let key = |pod: &Pod| (Failures::of(pod).all(), pod.metadata.created());
            key(it) <= key(pod)
        });
        if newer {
            last.insert(at, Arc::clone(pod));
        }
    }
    last
}

/// Seconds to wait before the Job's next pod: ten after the first failure in a row, then doubling.
pub(super) fn wait(job: &Job, pods: &[Arc<Pod>], now: Timestamp) -> Option<i64> {
    let last_success = pods
        .iter()
        .filter(|pod| pod.status.phase == "Succeeded")
        .filter_map(|pod| ended(pod))
        .max();
    let mut failures: Vec<Timestamp> = pods
        .iter()
        .filter(|pod| has_failed(job, pod))
        .filter_map(|pod| ended(pod))
        .filter(|at| last_success.is_none_or(|success| *at > success))
        .collect();
    failures.sort_unstable_by_key(|at| Reverse(*at));
    left(i32::try_from(failures.len()).unwrap_or(i32::MAX), *failures.first()?, now)
}

/// Seconds to wait before the index of this failed pod is tried again.
pub(super) fn wait_for_index(failed: &Pod, now: Timestamp) -> Option<i64> {
    left(Failures::of(failed).all().saturating_add(1), ended(failed)?, now)
}

fn left(failures: i32, last: Timestamp, now: Timestamp) -> Option<i64> {
    let doublings = failures.saturating_sub(1).clamp(0, 10);
    let delay = (BACKOFF_SECONDS << doublings).min(BACKOFF_SECONDS_MAX);
    let left = delay - now.duration_since(last).as_secs();
    (left > 0).then_some(left)
}

/// When the pod ended, or began to.
fn ended(pod: &Pod) -> Option<Timestamp> {
    let ends = pod
        .status
        .container_statuses
        .iter()
        .filter_map(|it| it.state.terminated.as_ref()?.finished_at.as_ref().map(|time| time.0));
    ends.max().or(pod.metadata.deletion_timestamp.as_ref().map(|time| time.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn waiting_doubles_up_to_ten_minutes() {
        let check = |failures, now, want| assert_eq!(left(failures, at(0), at(now)), want);
        check(1, 4, Some(6));
        check(1, 10, None);
        check(3, 10, Some(30));
        check(100, 0, Some(600));
        check(i32::MAX, 600, None);
    }

    #[test]
    fn an_index_fails_at_its_limit_or_by_policy() {
        let check = |spec: &str, failures: &str, want: bool| {
            let text = format!(r#"{{"spec":{{"completions":2,{spec}}}}}"#);
            let job: Job = serde_json::from_str(&text).unwrap();
            let text = format!(
                r#"{{"metadata":{{"annotations":{{"{FAILURES}":"{failures}"}}}},"status":{{
                "containerStatuses":[{{"name":"c","state":{{"terminated":{{"exitCode":1}}}}}}]}}}}"#
            );
            let pod: Pod = serde_json::from_str(&text).unwrap();
            assert_eq!(fails_index(&job, &pod), want, "{spec} {failures}");
        };
        check(r#""backoffLimit":1"#, "9", false);
        check(r#""backoffLimitPerIndex":1"#, "0", false);
        check(r#""backoffLimitPerIndex":1"#, "1", true);
        let rule = |action: &str| {
            format!(
                r#""backoffLimitPerIndex":1,"podFailurePolicy":{{"rules":[{{"action":"{action}","onExitCodes":{{"operator":"In","values":[1]}}}}]}}"#
            )
        };
        check(&rule("FailIndex"), "0", true);
        check(&rule("Ignore"), "1", false);
        check(&rule("Count"), "1", true);
    }
}
