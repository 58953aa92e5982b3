//! What a Job's pods say and what to do next. Pure.
//!
//! Invariant: a pod's end is counted exactly once: its uid waits in `uncountedTerminatedPods` until
//! its finalizer is gone, and only then becomes a number. (The successes of an Indexed Job are its
//! completed indexes.)

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use client::{EventType, Time};
use jiff::Timestamp;

use super::{
    indexes::{self, Indexes, index, is_indexed},
    policy::{self, Verdict, judge},
    retry::{self, Failures},
};
use crate::types::{
    Condition,
    batch::{Job, JobStatus, Uncounted},
    condition,
    core::Pod,
};

pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const FAILURE_TARGET: &str = "FailureTarget";
const SUCCESS_MET: &str = "SuccessCriteriaMet";
/// Pods made or deleted at once.
const BURST: usize = 500;

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) status: JobStatus,
    /// Pods whose end is recorded in the status: they may lose the finalizer once it is written.
    pub(super) release: Vec<Arc<Pod>>,
    pub(super) delete: Vec<Arc<Pod>>,
    pub(super) create: Vec<NewPod>,
    /// Look again after this many seconds.
    pub(super) again: Option<i64>,
    /// An event for the Job's end or suspension: type, reason and message.
    pub(super) event: Option<(EventType, String, String)>,
}

/// A pod to make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NewPod {
    /// In Indexed mode.
    pub(super) index: Option<i32>,
    /// With a back-off limit per index.
    pub(super) failures: Option<Failures>,
}

/// Whether the pod counts as failed.
pub(super) fn has_failed(job: &Job, pod: &Pod) -> bool {
    if pod.status.phase == "Failed" {
        return true;
    }
    // A pod on its way out counts before it ends, unless replacements wait for real ends.
    !replaces_only_failed(job) && pod.metadata.is_deleting() && pod.status.phase != "Succeeded"
}

fn replaces_only_failed(job: &Job) -> bool {
    job.spec.pod_replacement_policy == "Failed"
}

/// What is known of a Job's pods.
struct Facts<'a> {
    job: &'a Job,
    pods: &'a [Arc<Pod>],
    active: Vec<Arc<Pod>>,
    terminating: usize,
    done: Indexes,
    failed_indexes: Indexes,
    /// The last failed pod of each index that is to be tried again.
    awaiting: BTreeMap<i32, Arc<Pod>>,
    succeeded: i32,
    failed: i32,
}

/// Decides about a Job from all of its pods.
pub(super) fn plan(job: &Job, pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let mut status = job.status.clone();
    let mut plan = Plan::default();
    let over = job.is_finished();
    if over || job.metadata.is_deleting() {
        // Nothing is counted any more; nothing may hold its pods back.
        plan.release =
            pods.iter().filter(|it| it.metadata.has_finalizer(FINALIZER)).cloned().collect();
        plan.status = status;
        return plan;
    }
    if status.start_time.is_none() && !job.spec.suspend {
        status.start_time = Some(Time(now));
    }
    fold(job, pods, &mut status);
    let facts = Facts::new(job, pods, &status);
    let ending = facts.ending(&mut status, now);
    facts.record(&mut status, ending, &mut plan.release);
    let deadline = deadline(job, &status, now).filter(|left| *left > 0);
    plan.again = deadline;
    if let Some(ending) = ending {
        plan.delete.clone_from(&facts.active);
        let counted = status.uncounted_terminated_pods.as_ref() == Some(&Uncounted::default());
        if facts.active.is_empty() && facts.terminating == 0 && counted {
            finish(&mut status, ending, &mut plan, now);
        }
    } else {
        suspension(job, &mut status, &mut plan, now);
        facts.manage(&mut plan, now);
    }
    let deleted: BTreeSet<&str> = plan.delete.iter().map(|it| it.metadata.uid.as_str()).collect();
    let left = facts.active.iter().filter(|it| !deleted.contains(it.metadata.uid.as_str()));
    status.ready = Some(size(left.filter(|it| it.is_ready()).count()));
    status.active = size(facts.active.len() - plan.delete.len() + plan.create.len());
    status.terminating = Some(size(facts.terminating + plan.delete.len()));
    plan.status = status;
    plan
}

/// Ends that waited for their finalizers to go become numbers.
fn fold(job: &Job, pods: &[Arc<Pod>], status: &mut JobStatus) {
    let mut uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
    let held: BTreeSet<&str> = pods
        .iter()
        .filter(|pod| pod.metadata.has_finalizer(FINALIZER))
        .map(|pod| pod.metadata.uid.as_str())
        .collect();
    let settle = |uids: &mut Vec<String>| {
        let before = uids.len();
        uids.retain(|uid| held.contains(uid.as_str()));
        size(before - uids.len())
    };
    status.failed += settle(&mut uncounted.failed);
    let succeeded = settle(&mut uncounted.succeeded);
    if !is_indexed(job) {
        status.succeeded += succeeded;
    }
    status.uncounted_terminated_pods = Some(uncounted);
}

/// How a Job that is not over yet is going to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Failure,
    Success,
}

impl<'a> Facts<'a> {
    fn new(job: &'a Job, pods: &'a [Arc<Pod>], status: &JobStatus) -> Self {
        let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        let completions = job.spec.completions.unwrap_or(0);
        let mut done = indexes::parse(&status.completed_indexes, completions);
        let failed_text = status.failed_indexes.as_deref().unwrap_or_default();
        let mut failed_indexes = indexes::parse(failed_text, completions);
        let mut succeeded = status.succeeded + size(uncounted.succeeded.len());
        let mut failed = status.failed + size(uncounted.failed.len());
        for pod in pods.iter().filter(|pod| pod.metadata.has_finalizer(FINALIZER)) {
            if pod.status.phase == "Succeeded" {
                if let Some(index) = index(job, pod) {
                    done.insert(index);
                }
                succeeded += i32::from(!uncounted.succeeded.contains(&pod.metadata.uid));
            } else if has_failed(job, pod) {
                if let Some(index) = index(job, pod)
                    && retry::fails_index(job, pod)
                {
                    failed_indexes.insert(index);
                }
                let new = !uncounted.failed.contains(&pod.metadata.uid);
                failed += i32::from(new && judge(job, pod) != Verdict::Ignore);
            }
        }
        if is_indexed(job) {
            succeeded = size(done.len());
        }
        let over = |at: i32| done.contains(&at) || failed_indexes.contains(&at);
        Facts {
            job,
            pods,
            active: pods.iter().filter(|pod| pod.is_active()).cloned().collect(),
            terminating: pods
                .iter()
                .filter(|it| it.metadata.is_deleting() && !it.is_finished())
                .count(),
            awaiting: retry::awaiting(job, pods, FINALIZER, over),
            done,
            failed_indexes,
            succeeded,
            failed,
        }
    }

    /// Decides whether the Job is at its end, and sets the interim condition if so.
    fn ending(&self, status: &mut JobStatus, now: Timestamp) -> Option<Ending> {
        let has = |kind| condition(&status.conditions, kind).is_some_and(Condition::is_true);
        if has(SUCCESS_MET) {
            return Some(Ending::Success);
        }
        if has(FAILURE_TARGET) {
            return Some(Ending::Failure);
        }
        let (ending, reason, message) = self
            .failure(status, now)
            .map(|(reason, message)| (Ending::Failure, reason, message))
            .or_else(|| {
                self.success().map(|(reason, message)| (Ending::Success, reason, message))
            })?;
        let kind = if ending == Ending::Failure { FAILURE_TARGET } else { SUCCESS_MET };
        set(status, Condition::new(kind, "True", reason, message), now);
        Some(ending)
    }

    fn failure(&self, status: &JobStatus, now: Timestamp) -> Option<(&'static str, String)> {
        let job = self.job;
        let by_policy = self.pods.iter().filter(|it| has_failed(job, it)).find_map(|pod| {
            let Verdict::FailJob(message) = judge(job, pod) else { return None };
            Some(message)
        });
        if let Some(message) = by_policy {
            return Some(("PodFailurePolicy", message));
        }
        if self.failed > job.spec.backoff_limit.unwrap_or(6) || self.restarted_too_often() {
            let message = "Job has reached the specified backoff limit".to_owned();
            return Some(("BackoffLimitExceeded", message));
        }
        if deadline(job, status, now).is_some_and(|left| left <= 0) {
            let message = "Job was active longer than specified deadline".to_owned();
            return Some(("DeadlineExceeded", message));
        }
        let failed = size(self.failed_indexes.len());
        if job.spec.max_failed_indexes.is_some_and(|max| failed > max) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(("MaxFailedIndexesExceeded", message.to_owned()));
        }
        let all = failed + size(self.done.len()) >= job.spec.completions.unwrap_or(0);
        (failed > 0 && all).then(|| ("FailedIndexes", "Job has failed indexes".to_owned()))
    }

    fn success(&self) -> Option<(&'static str, String)> {
        if let Some(message) = policy::success(self.job, &self.done) {
            return Some(("SuccessPolicy", message));
        }
        let enough = match self.job.spec.completions {
            Some(wanted) => self.succeeded >= wanted,
            None => self.succeeded > 0 && self.active.is_empty(),
        };
        let message = "Reached expected number of succeeded pods".to_owned();
        enough.then_some(("CompletionsReached", message))
    }

    /// Containers that restart in their pod count as failures too.
    fn restarted_too_often(&self) -> bool {
        let limit = self.job.spec.backoff_limit.unwrap_or(6);
        let restarts: i32 = self
            .active
            .iter()
            .filter(|pod| pod.spec.restart_policy == "OnFailure")
            .map(|pod| pod.restarts())
            .sum();
        restarts > 0 && restarts >= limit
    }

    /// Takes ended pods into the status and says which of them may go.
    fn record(&self, status: &mut JobStatus, ending: Option<Ending>, release: &mut Vec<Arc<Pod>>) {
        let job = self.job;
        let mut uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
        for pod in self.pods.iter().filter(|pod| pod.metadata.has_finalizer(FINALIZER)) {
            let uid = &pod.metadata.uid;
            if pod.status.phase == "Succeeded" {
                if !is_indexed(job) && !uncounted.succeeded.contains(uid) {
                    uncounted.succeeded.push(uid.clone());
                }
                release.push(Arc::clone(pod));
                continue;
            }
            let failed = has_failed(job, pod)
                || (ending == Some(Ending::Failure) && pod.metadata.is_deleting());
            let waits = index(job, pod)
                .and_then(|at| self.awaiting.get(&at))
                .is_some_and(|last| ending.is_none() && last.metadata.uid == *uid);
            if failed && !waits {
                if !uncounted.failed.contains(uid) && judge(job, pod) != Verdict::Ignore {
                    uncounted.failed.push(uid.clone());
                }
                release.push(Arc::clone(pod));
            } else if ending.is_some() && pod.metadata.is_deleting() {
                release.push(Arc::clone(pod));
            }
        }
        if is_indexed(job) {
            status.completed_indexes = indexes::format(&self.done);
            status.succeeded = size(self.done.len());
        }
        if job.spec.backoff_limit_per_index.is_some() {
            status.failed_indexes = Some(indexes::format(&self.failed_indexes));
        }
        status.uncounted_terminated_pods = Some(uncounted);
    }

    /// Makes the number of running pods right.
    fn manage(&self, plan: &mut Plan, now: Timestamp) {
        let job = self.job;
        if job.spec.suspend {
            plan.delete.clone_from(&self.active);
            return;
        }
        let have = size(self.active.len());
        let parallelism = job.spec.parallelism.unwrap_or(1);
        let want = match job.spec.completions {
            Some(wanted) => parallelism.min(wanted - self.succeeded),
            None if self.succeeded > 0 => have,
            None => parallelism,
        }
        .max(0);
        plan.delete = self.surplus(usize::try_from(have - want).unwrap_or(0));
        if !plan.delete.is_empty() {
            return;
        }
        let waiting_for_ends = if replaces_only_failed(job) { size(self.terminating) } else { 0 };
        let missing = usize::try_from(want - have - waiting_for_ends).unwrap_or(0).min(BURST);
        if missing == 0 {
            return;
        }
        let mut wait = None;
        if job.spec.backoff_limit_per_index.is_some() {
            (plan.create, wait) = self.due_indexes(missing, now);
        } else if let Some(left) = retry::wait(job, self.pods, now) {
            wait = Some(left);
        } else if is_indexed(job) {
            let free = self.free_indexes().take(missing);
            plan.create = free.map(|at| NewPod { index: Some(at), failures: None }).collect();
        } else {
            plan.create = vec![NewPod::default(); missing];
        }
        plan.again = plan.again.into_iter().chain(wait).min();
    }

    /// Pods to delete: those that no index has room for, then the least valuable.
    fn surplus(&self, at_least: usize) -> Vec<Arc<Pod>> {
        let mut ranked = self.active.clone();
        ranked.sort_by_key(|pod| (pod.is_ready(), std::cmp::Reverse(pod.metadata.created())));
        let (mut surplus, mut rest) = (Vec::new(), Vec::new());
        if is_indexed(self.job) {
            let mut kept = Indexes::new();
            // The most valuable pod of each index stays.
            for pod in ranked.into_iter().rev() {
                match index(self.job, &pod) {
                    Some(at) if kept.insert(at) => rest.push(pod),
                    _ => surplus.push(pod),
                }
            }
            rest.reverse();
        } else {
            rest = ranked;
        }
        let more = at_least.saturating_sub(surplus.len());
        surplus.extend(rest.into_iter().take(more));
        surplus.truncate(BURST);
        surplus
    }

    /// Indexes without a pod that still need one.
    fn free_indexes(&self) -> impl Iterator<Item = i32> {
        let ending = replaces_only_failed(self.job);
        let busy: Indexes = self
            .pods
            .iter()
            .filter(|it| it.is_active() || (ending && !it.is_finished()))
            .filter_map(|pod| index(self.job, pod))
            .collect();
        (0..self.job.spec.completions.unwrap_or(0)).filter(move |at| {
            !self.done.contains(at) && !self.failed_indexes.contains(at) && !busy.contains(at)
        })
    }

    /// Of the first free indexes those whose back-off is over; or else when the next one's is.
    fn due_indexes(&self, missing: usize, now: Timestamp) -> (Vec<NewPod>, Option<i64>) {
        let mut due = Vec::new();
        let mut soonest: Option<i64> = None;
        for at in self.free_indexes().take(missing) {
            let last = self.awaiting.get(&at);
            if let Some(left) = last.and_then(|pod| retry::wait_for_index(pod, now)) {
                soonest = Some(soonest.map_or(left, |it| it.min(left)));
                continue;
            }
            let failures = last.map(|pod| Failures::after(self.job, pod)).unwrap_or_default();
            due.push(NewPod { index: Some(at), failures: Some(failures) });
        }
        (due, soonest)
    }
}

fn suspension(job: &Job, status: &mut JobStatus, plan: &mut Plan, now: Timestamp) {
    let suspended = condition(&status.conditions, "Suspended").is_some_and(Condition::is_true);
    let event = |reason: &str, message: &str| {
        Some((EventType::Normal, reason.to_owned(), message.to_owned()))
    };
    if job.spec.suspend && !suspended {
        set(status, Condition::new("Suspended", "True", "JobSuspended", "Job suspended"), now);
        plan.event = event("Suspended", "Job suspended");
        status.start_time = None;
    } else if !job.spec.suspend && suspended {
        set(status, Condition::new("Suspended", "False", "JobResumed", "Job resumed"), now);
        plan.event = event("Resumed", "Job resumed");
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
fn finish(status: &mut JobStatus, ending: Ending, plan: &mut Plan, now: Timestamp) {
    let interim = if ending == Ending::Failure { FAILURE_TARGET } else { SUCCESS_MET };
    let Some(interim) = condition(&status.conditions, interim).cloned() else { return };
    let Condition { reason, message, .. } = interim;
    if ending == Ending::Failure {
        plan.event = Some((EventType::Warning, reason.clone(), message.clone()));
        set(status, Condition::new("Failed", "True", &reason, message), now);
    } else {
        plan.event = Some((EventType::Normal, "Completed".into(), "Job completed".into()));
        set(status, Condition::new("Complete", "True", &reason, message), now);
        status.completion_time = Some(Time(now));
    }
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
        running.metadata.annotations.insert(indexes::INDEX.into(), "1".into());
        running.status.phase = "Running".into();
        let made = plan(&job, &[Arc::new(running)], at(1)).create;
        assert_eq!(made, [NewPod { index: Some(2), failures: None }]);
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

    fn ended(uid: &str, index: i32, failures: Option<i32>, code: i32) -> Arc<Pod> {
        let annotations = failures.map_or_else(
            || format!(r#"{{"{}":"{index}"}}"#, indexes::INDEX),
            |count| {
                format!(r#"{{"{}":"{index}","{}":"{count}"}}"#, indexes::INDEX, retry::FAILURES)
            },
        );
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        let text = format!(
            r#"{{"metadata":{{"uid":"{uid}","finalizers":["{FINALIZER}"],"annotations":{annotations}}},
            "status":{{"phase":"{phase}","containerStatuses":[{{"name":"c","state":
            {{"terminated":{{"exitCode":{code},"finishedAt":"1970-01-01T00:00:00Z"}}}}}}]}}}}"#
        );
        Arc::new(serde_json::from_str(&text).unwrap())
    }

    fn indexed(spec: &str) -> Job {
        let text = format!(r#"{{"spec":{{"completionMode":"Indexed",{spec}}}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    fn reason(status: &JobStatus, kind: &str) -> Option<String> {
        condition(&status.conditions, kind).map(|it| it.reason.clone())
    }

    #[test]
    fn each_index_is_tried_up_to_its_own_limit() {
        let mut job = indexed(
            r#""parallelism":2,"completions":2,"backoffLimit":2147483647,"backoffLimitPerIndex":1"#,
        );
        let zero = ended("z", 0, Some(0), 0);
        let pods = [Arc::clone(&zero), ended("a", 1, Some(0), 1)];
        let found = plan(&job, &pods, at(5));
        assert_eq!((found.create.len(), found.again), (0, Some(5)), "the index backs off");
        assert_eq!(found.release.len(), 1, "the failed pod waits for its replacement");
        job.status = found.status;
        let found = plan(&job, &pods, at(10));
        let failures = Some(Failures { counted: 1, ignored: 0 });
        assert_eq!(found.create, [NewPod { index: Some(1), failures }]);
        assert_eq!(found.status.failed_indexes.as_deref(), Some(""));
        job.status = found.status;
        let pods = [zero, ended("a", 1, Some(0), 1), ended("b", 1, Some(1), 1)];
        let found = plan(&job, &pods, at(30));
        assert_eq!(found.status.failed_indexes.as_deref(), Some("1"));
        assert_eq!(reason(&found.status, "FailureTarget").as_deref(), Some("FailedIndexes"));
        assert_eq!((found.release.len(), found.create.len()), (3, 0));
        job.status = found.status;
        let found = plan(&job, &[], at(31));
        assert_eq!(reason(&found.status, "Failed").as_deref(), Some("FailedIndexes"));
        assert_eq!((found.status.failed, found.status.succeeded), (2, 1));
        assert_eq!(found.status.completed_indexes, "0");
    }

    #[test]
    fn policies_end_a_job_early() {
        let check = |spec: &str, pods: &[Arc<Pod>], kind: &str, want: Option<&str>| {
            let job = indexed(&format!(r#""parallelism":2,"completions":4,{spec}"#));
            let found = plan(&job, pods, at(5));
            assert_eq!(reason(&found.status, kind).as_deref(), want, "{spec}");
            assert!(want.is_none() || found.create.is_empty());
        };
        let failed = || ended("a", 1, None, 1);
        check(
            r#""podFailurePolicy":{"rules":[{"action":"FailJob","onExitCodes":{"operator":"In","values":[1]}}]}"#,
            &[failed()],
            "FailureTarget",
            Some("PodFailurePolicy"),
        );
        check(
            r#""backoffLimit":0,"podFailurePolicy":{"rules":[{"action":"Ignore","onExitCodes":{"operator":"In","values":[1]}}]}"#,
            &[failed()],
            "FailureTarget",
            None,
        );
        check(
            r#""backoffLimitPerIndex":0,"maxFailedIndexes":0"#,
            &[failed()],
            "FailureTarget",
            Some("MaxFailedIndexesExceeded"),
        );
        check(
            r#""successPolicy":{"rules":[{"succeededIndexes":"0"}]}"#,
            &[ended("b", 0, None, 0)],
            "SuccessCriteriaMet",
            Some("SuccessPolicy"),
        );
    }

    #[test]
    fn two_pods_of_one_index_are_one_too_many() {
        let job = indexed(r#""parallelism":3,"completions":3"#);
        let running = |uid: &str, index: i32| {
            let mut pod = Pod::default();
            pod.metadata.uid = uid.into();
            pod.metadata.annotations.insert(indexes::INDEX.into(), index.to_string());
            Arc::new(pod)
        };
        let found = plan(&job, &[running("a", 0), running("b", 0), running("c", 7)], at(1));
        assert_eq!(found.delete.len(), 2);
    }
}
