//! What a Job's pods say and what to do next. Pure.
//!
//! Invariant: a pod's end is counted exactly once: its uid waits in `uncountedTerminatedPods` until
//! its finalizer is gone, and only then becomes a number.

use std::{collections::BTreeSet, sync::Arc};

use client::Time;
use jiff::Timestamp;

use crate::types::{
    Condition,
    batch::{Job, JobStatus, Uncounted},
    condition,
    core::Pod,
};

pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const BACKOFF_SECONDS: i64 = 10;
const BACKOFF_SECONDS_MAX: i64 = 600;

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) status: JobStatus,
    /// Pods whose end is recorded in the status: they may lose the finalizer once it is written.
    pub(super) release: Vec<Arc<Pod>>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// Pods to make, with their index in Indexed mode.
    pub(super) create: Vec<Option<i32>>,
    /// Look again after this many seconds.
    pub(super) again: Option<i64>,
    /// An event for the Job's end or suspension: reason and message.
    pub(super) event: Option<(&'static str, &'static str)>,
}

pub(super) fn is_indexed(job: &Job) -> bool {
    job.spec.completion_mode == "Indexed"
}

pub(super) fn index(pod: &Pod) -> Option<i32> {
    pod.metadata.annotation(INDEX)?.parse().ok()
}

/// Whether the pod counts as failed.
fn has_failed(job: &Job, pod: &Pod) -> bool {
    if pod.status.phase == "Failed" {
        return true;
    }
    // A pod on its way out counts before it ends, unless replacements wait for real ends.
    job.spec.pod_replacement_policy != "Failed"
        && pod.metadata.is_deleting()
        && pod.status.phase != "Succeeded"
}

/// Decides about a Job from all of its pods.
pub(super) fn plan(job: &Job, pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let mut status = job.status.clone();
    let mut plan = Plan::default();
    let over = job.is_finished();
    if status.start_time.is_none() && !job.spec.suspend && !over {
        status.start_time = Some(Time(now));
    }
    if over || job.metadata.is_deleting() {
        // Nothing is counted any more; nothing may hold its pods back.
        plan.release =
            pods.iter().filter(|it| it.metadata.has_finalizer(FINALIZER)).cloned().collect();
        plan.status = job.status.clone();
        return plan;
    }
    let mut done = parse_indexes(&status.completed_indexes);
    count(job, pods, &mut status, &mut done, &mut plan.release);
    let active: Vec<Arc<Pod>> = pods.iter().filter(|pod| pod.is_active()).cloned().collect();
    let terminating =
        pods.iter().filter(|it| it.metadata.is_deleting() && !it.is_finished()).count();
    let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
    let failed = status.failed + size(uncounted.failed.len());
    let succeeded = if is_indexed(job) {
        size(done.len())
    } else {
        status.succeeded + size(uncounted.succeeded.len())
    };
    let kept = end(job, &mut status, &mut plan, &active, (succeeded, failed), now);
    if let Some(deadline) = deadline(job, &status, now) {
        plan.again = Some(deadline);
    }
    let all_counted = uncounted == Uncounted::default();
    if kept {
        manage(job, pods, &active, (succeeded, size(terminating)), &done, &mut plan, now);
    } else {
        plan.delete.clone_from(&active);
        if active.is_empty() && terminating == 0 && all_counted {
            finish(&mut status, &mut plan, now);
        }
    }
    let left = active.len() - plan.delete.len();
    status.active = size(left + plan.create.len());
    let deleted: BTreeSet<&str> = plan.delete.iter().map(|it| it.metadata.uid.as_str()).collect();
    let ready =
        active.iter().filter(|it| it.is_ready() && !deleted.contains(it.metadata.uid.as_str()));
    status.ready = Some(size(ready.count()));
    status.terminating = Some(size(terminating + plan.delete.len()));
    plan.status = status;
    plan
}

/// Takes ended pods into the status.
fn count(
    job: &Job,
    pods: &[Arc<Pod>],
    status: &mut JobStatus,
    done: &mut BTreeSet<i32>,
    release: &mut Vec<Arc<Pod>>,
) {
    let mut uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
    let held: BTreeSet<&str> = pods
        .iter()
        .filter(|pod| pod.metadata.has_finalizer(FINALIZER))
        .map(|pod| pod.metadata.uid.as_str())
        .collect();
    // Those without a finalizer (or altogether gone) become numbers.
    let before = uncounted.succeeded.len();
    uncounted.succeeded.retain(|uid| held.contains(uid.as_str()));
    let counted = size(before - uncounted.succeeded.len());
    let before = uncounted.failed.len();
    uncounted.failed.retain(|uid| held.contains(uid.as_str()));
    status.failed += size(before - uncounted.failed.len());
    if !is_indexed(job) {
        status.succeeded += counted;
    }
    for pod in pods.iter().filter(|pod| pod.metadata.has_finalizer(FINALIZER)) {
        let uid = &pod.metadata.uid;
        if pod.status.phase == "Succeeded" {
            if is_indexed(job) {
                if let Some(index) = index(pod).filter(|it| *it < completions(job).unwrap_or(0)) {
                    done.insert(index);
                }
            } else if !uncounted.succeeded.contains(uid) {
                uncounted.succeeded.push(uid.clone());
            }
            release.push(Arc::clone(pod));
        } else if has_failed(job, pod) {
            if !uncounted.failed.contains(uid) {
                uncounted.failed.push(uid.clone());
            }
            release.push(Arc::clone(pod));
        }
    }
    if is_indexed(job) {
        status.completed_indexes = format_indexes(done);
        status.succeeded = size(done.len());
    }
    status.uncounted_terminated_pods = Some(uncounted);
}

fn completions(job: &Job) -> Option<i32> {
    job.spec.completions
}

fn parallelism(job: &Job) -> i32 {
    job.spec.parallelism.unwrap_or(1)
}

/// Decides whether the Job is at its end, and sets the interim condition. Returns whether it goes on.
fn end(
    job: &Job,
    status: &mut JobStatus,
    plan: &mut Plan,
    active: &[Arc<Pod>],
    (succeeded, failed): (i32, i32),
    now: Timestamp,
) -> bool {
    let pending = ["FailureTarget", "SuccessCriteriaMet"];
    if pending.iter().any(|it| condition(&status.conditions, it).is_some_and(Condition::is_true)) {
        return false;
    }
    let limit = job.spec.backoff_limit.unwrap_or(6);
    let restarts: i32 = active.iter().map(|pod| pod.restarts()).sum();
    let on_failure = active.first().is_some_and(|pod| pod.spec.restart_policy == "OnFailure");
    let verdict = if failed > limit
        || (on_failure && restarts > 0 && restarts >= limit.max(1) && limit > 0)
        || (on_failure && limit == 0 && restarts > 0)
    {
        let message = "Job has reached the specified backoff limit";
        Some(("FailureTarget", "BackoffLimitExceeded", message))
    } else if deadline(job, status, now).is_some_and(|left| left <= 0) {
        let message = "Job was active longer than specified deadline";
        Some(("FailureTarget", "DeadlineExceeded", message))
    } else {
        let enough = match completions(job) {
            Some(wanted) => succeeded >= wanted,
            None => succeeded > 0 && active.is_empty(),
        };
        let message = "Reached expected number of succeeded pods";
        enough.then_some(("SuccessCriteriaMet", "CompletionsReached", message))
    };
    if let Some((kind, reason, message)) = verdict {
        set(status, Condition::new(kind, "True", reason, message), now);
        return false;
    }
    suspension(job, status, plan, now);
    true
}

fn suspension(job: &Job, status: &mut JobStatus, plan: &mut Plan, now: Timestamp) {
    let suspended = condition(&status.conditions, "Suspended").is_some_and(Condition::is_true);
    if job.spec.suspend && !suspended {
        set(status, Condition::new("Suspended", "True", "JobSuspended", "Job suspended"), now);
        plan.event = Some(("Suspended", "Job suspended"));
        status.start_time = None;
    } else if !job.spec.suspend && suspended {
        set(status, Condition::new("Suspended", "False", "JobResumed", "Job resumed"), now);
        plan.event = Some(("Resumed", "Job resumed"));
        status.start_time = Some(Time(now));
    }
}

/// Seconds until the active deadline.
fn deadline(job: &Job, status: &JobStatus, now: Timestamp) -> Option<i64> {
    let limit = job.spec.active_deadline_seconds?;
    let start = status.start_time.as_ref().filter(|_| !job.spec.suspend)?;
    Some(limit - now.duration_since(start.0).as_secs())
}

/// The interim condition becomes the final one.
fn finish(status: &mut JobStatus, plan: &mut Plan, now: Timestamp) {
    if let Some(target) = condition(&status.conditions, "FailureTarget").cloned() {
        set(status, Condition::new("Failed", "True", &target.reason, target.message), now);
        plan.event = Some(match target.reason.as_str() {
            "DeadlineExceeded" => {
                ("DeadlineExceeded", "Job was active longer than specified deadline")
            }
            _ => ("BackoffLimitExceeded", "Job has reached the specified backoff limit"),
        });
    } else if let Some(met) = condition(&status.conditions, "SuccessCriteriaMet").cloned() {
        set(status, Condition::new("Complete", "True", &met.reason, met.message), now);
        status.completion_time = Some(Time(now));
        plan.event = Some(("Completed", "Job completed"));
    }
}

/// Makes the number of running pods right.
fn manage(
    job: &Job,
    pods: &[Arc<Pod>],
    active: &[Arc<Pod>],
    (succeeded, terminating): (i32, i32),
    done: &BTreeSet<i32>,
    plan: &mut Plan,
    now: Timestamp,
) {
    if job.spec.suspend {
        plan.delete = active.to_vec();
        return;
    }
    let mut have = size(active.len());
    let want = match completions(job) {
        Some(wanted) => parallelism(job).min(wanted - succeeded),
        None if succeeded > 0 => have,
        None => parallelism(job),
    }
    .max(0);
    if have > want {
        let mut ranked = active.to_vec();
        ranked.sort_by_key(|pod| (pod.is_ready(), std::cmp::Reverse(pod.metadata.created())));
        ranked.truncate(usize::try_from(have - want).unwrap_or(0));
        plan.delete = ranked;
        return;
    }
    if job.spec.pod_replacement_policy == "Failed" {
        have += terminating;
    }
    let missing = usize::try_from(want - have).unwrap_or(0);
    if missing == 0 {
        return;
    }
    if let Some(wait) = back_off(job, pods, now) {
        plan.again = Some(plan.again.map_or(wait, |it| it.min(wait)));
        return;
    }
    if is_indexed(job) {
        let busy: BTreeSet<i32> = active.iter().filter_map(|pod| index(pod)).collect();
        let free = (0..completions(job).unwrap_or(0))
            .filter(|it| !done.contains(it) && !busy.contains(it));
        plan.create = free.take(missing).map(Some).collect();
    } else {
        plan.create = vec![None; missing];
    }
}

/// Seconds to wait before the next pod: ten after the first failure in a row, then doubling.
fn back_off(job: &Job, pods: &[Arc<Pod>], now: Timestamp) -> Option<i64> {
    let end = |pod: &Pod| {
        let ends =
            pod.status.container_statuses.iter().filter_map(|it| {
                it.state.terminated.as_ref()?.finished_at.as_ref().map(|time| time.0)
            });
        ends.max().or(pod.metadata.deletion_timestamp.as_ref().map(|time| time.0))
    };
    let last_success =
        pods.iter().filter(|pod| pod.status.phase == "Succeeded").filter_map(|pod| end(pod)).max();
    let failures: Vec<Timestamp> = pods
        .iter()
        .filter(|pod| has_failed(job, pod))
        .filter_map(|pod| end(pod))
        .filter(|at| last_success.is_none_or(|success| *at > success))
        .collect();
    let last = failures.iter().max()?;
    let doublings = u32::try_from(failures.len()).unwrap_or(u32::MAX).saturating_sub(1).min(10);
    let delay = (BACKOFF_SECONDS << doublings).min(BACKOFF_SECONDS_MAX);
    let left = delay - now.duration_since(*last).as_secs();
    (left > 0).then_some(left)
}

fn set(status: &mut JobStatus, mut condition: Condition, now: Timestamp) {
    condition.last_probe_time = Some(Time(now));
    condition.last_transition_time = Some(Time(now));
    status.conditions.retain(|it| it.kind != condition.kind);
    status.conditions.push(condition);
}

fn size(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// `1,3-5,7` as numbers.
pub(super) fn parse_indexes(text: &str) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            found.extend(first..=last.min(first.saturating_add(100_000)));
        }
    }
    found
}

/// Numbers as `1,3-5,7`; two neighbours are a pair, not a range, as upstream writes them.
pub(super) fn format_indexes(indexes: &BTreeSet<i32>) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for index in indexes {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => runs.push((*index, *index)),
        }
    }
    let text = runs.into_iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    });
    text.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn job(parallelism: i32, completions: Option<i32>) -> Job {
        let mut job = Job::default();
        job.spec.parallelism = Some(parallelism);
        job.spec.completions = completions;
        job.spec.backoff_limit = Some(1);
        job
    }

    fn pod(uid: &str, phase: &str, finalizer: bool) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.uid = uid.into();
        pod.status.phase = phase.into();
        if finalizer {
            pod.metadata.finalizers.push(FINALIZER.into());
        }
        Arc::new(pod)
    }

    #[test]
    fn a_job_runs_to_its_end_and_counts_each_pod_once() {
        let mut job = job(2, Some(2));
        let first = plan(&job, &[], at(1));
        assert_eq!((first.create.len(), first.status.active), (2, 2));
        job.status = first.status;
        let running = [pod("a", "Running", true), pod("b", "Running", true)];
        let second = plan(&job, &running, at(2));
        assert!(second.create.is_empty() && second.delete.is_empty());
        assert_eq!(second.status.uncounted_terminated_pods, Some(Uncounted::default()));
        job.status = second.status;
        let ended = [pod("a", "Succeeded", true), pod("b", "Succeeded", true)];
        let third = plan(&job, &ended, at(3));
        assert_eq!(third.release.len(), 2);
        assert_eq!(third.status.succeeded, 0, "not before the finalizers are gone");
        assert!(condition(&third.status.conditions, "Complete").is_none());
        job.status = third.status;
        assert_eq!(plan(&job, &ended, at(3)).status, job.status, "nothing is counted twice");
        let released = [pod("a", "Succeeded", false), pod("b", "Succeeded", false)];
        let fourth = plan(&job, &released, at(4));
        assert_eq!(fourth.status.succeeded, 2);
        assert_eq!(
            condition(&fourth.status.conditions, "Complete").unwrap().reason,
            "CompletionsReached"
        );
        job.status = fourth.status.clone();
        assert_eq!(plan(&job, &released, at(5)).status, fourth.status);
    }

    #[test]
    fn failures_beyond_the_limit_end_the_job() {
        let mut job = job(1, Some(1));
        job.status.failed = 1;
        job.status.start_time = Some(Time(at(0)));
        let found = plan(&job, &[pod("a", "Failed", true)], at(5));
        assert!(found.create.is_empty());
        assert_eq!(
            condition(&found.status.conditions, "FailureTarget").unwrap().reason,
            "BackoffLimitExceeded"
        );
        job.status = found.status;
        let found = plan(&job, &[pod("a", "Failed", false)], at(6));
        assert_eq!(
            condition(&found.status.conditions, "Failed").unwrap().reason,
            "BackoffLimitExceeded"
        );
        assert_eq!(found.status.failed, 2);
    }

    #[test]
    fn indexed_jobs_fill_the_lowest_free_indexes() {
        let mut job = job(2, Some(4));
        job.spec.completion_mode = "Indexed".into();
        job.status.completed_indexes = "0".into();
        let mut running = Pod::default();
        running.metadata.annotations.insert(INDEX.into(), "1".into());
        running.status.phase = "Running".into();
        assert_eq!(plan(&job, &[Arc::new(running)], at(1)).create, [Some(2)]);
    }

    #[test]
    fn suspended_jobs_have_no_pods() {
        let mut job = job(1, Some(1));
        job.spec.suspend = true;
        let found = plan(&job, &[pod("a", "Running", true)], at(1));
        assert_eq!(found.delete.len(), 1);
        assert!(condition(&found.status.conditions, "Suspended").unwrap().is_true());
        assert!(found.status.start_time.is_none());
    }

    #[test]
    fn indexes_are_written_in_runs() {
        for text in ["", "1", "0,1", "1,3-5,7", "0-9"] {
            assert_eq!(format_indexes(&parse_indexes(text)), text);
        }
    }
}
