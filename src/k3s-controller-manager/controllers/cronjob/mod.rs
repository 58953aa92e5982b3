//! CronJobs: a Job at each scheduled time, and the old ones cleaned up.

mod schedule;

use std::{cmp::Reverse, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use client::{
    Action, EventType, Key, Patch, Preconditions, Propagation, Time, WorkQueue, is_already_exists,
    is_not_found, now, rfc3339,
};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde_json::{Value, json};

use self::schedule::Schedule;
use crate::{
    Cx, Running,
    caches::{CRON_JOBS, JOBS, controller_key},
    ownership::controller_ref,
    pod_control::{Owner, text},
    types::{
        Condition,
        batch::{CronJob, CronJobStatus, Job},
        condition,
    },
    workers,
};

const NAME: &str = "cronjob-controller";
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// Upstream gives up counting beyond this many missed times.
const MISSED_MAX: usize = 100;

pub(crate) fn start(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    let filled = queue.clone();
    cx.caches.cron_jobs.on_event(move |event| filled.add(event.object().metadata.key()));
    let filled = queue.clone();
    cx.caches.jobs.on_event(move |event| {
        if let Some(key) = controller_key(event.object().as_ref(), "CronJob") {
            filled.add(key);
        }
    });
    let shared = Arc::new(cx.clone());
    workers(cx, NAME, 4, &queue, move |key| {
        let cx = Arc::clone(&shared);
        async move { reconcile(&cx, &key).await }
    })
}

async fn reconcile(cx: &Cx, key: &Key) -> Result<Action> {
    let Some(cron) = cx.caches.cron_jobs.lister().get(key) else { return Ok(Action::Done) };
    let recorder = cx.recorder.named(NAME);
    let owner = Owner { resource: &CRON_JOBS, meta: &cron.metadata, recorder: &recorder };
    let jobs = cx.caches.jobs.lister().by_index(cx.caches.jobs_by_owner, &cron.metadata.uid);
    let mut status = observe(&cron, &jobs, &owner);
    clean_up(cx, &cron, &jobs).await?;
    let action = if cron.metadata.is_deleting() || cron.spec.suspend {
        Action::Done
    } else {
        run_due(cx, &cron, &jobs, &owner, &mut status).await?
    };
    write_status(cx, &cron, &status).await?;
    Ok(action)
}

/// The status brought up to date with the Jobs.
fn observe(cron: &CronJob, jobs: &[Arc<Job>], owner: &Owner<'_>) -> CronJobStatus {
    let mut status = cron.status.clone();
    let listed = |status: &CronJobStatus, job: &Job| {
        status.active.iter().any(|it| it["uid"] == json!(job.metadata.uid))
    };
    for job in jobs {
        if job.is_finished() && listed(&status, job) {
            let complete =
                condition(&job.status.conditions, "Complete").is_some_and(Condition::is_true);
            let verdict = if complete { "Complete" } else { "Failed" };
            let name = &job.metadata.name;
            let message = format!("Saw completed job: {name}, condition: {verdict}");
            owner.event(EventType::Normal, "SawCompletedJob", message);
        } else if !job.is_finished() && !listed(&status, job) && !job.metadata.is_deleting() {
            status.active.push(reference(job));
        }
        let completed = job.status.completion_time.clone();
        if job.is_finished() && completed > status.last_successful_time {
            status.last_successful_time = completed;
        }
    }
    status.active.retain(|it| {
        jobs.iter().any(|job| it["uid"] == json!(job.metadata.uid) && !job.is_finished())
    });
    status
}

fn reference(job: &Job) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "name": job.metadata.name,
        "namespace": job.metadata.namespace, "uid": job.metadata.uid,
        "resourceVersion": job.metadata.resource_version,
    })
}

/// Starts the Job of the latest missed time, if there is one; says when the next time is.
async fn run_due(
    cx: &Cx,
    cron: &CronJob,
    jobs: &[Arc<Job>],
    owner: &Owner<'_>,
    status: &mut CronJobStatus,
) -> Result<Action> {
    let schedule = match Schedule::parse(&cron.spec.schedule) {
        Ok(schedule) => schedule,
        Err(err) => {
            let message = format!("Unparseable schedule: {:?} : {err}", cron.spec.schedule);
            owner.event(EventType::Warning, "UnparseableSchedule", message);
            return Ok(Action::Done);
        }
    };
    let zone = match cron.spec.time_zone.as_deref() {
        None => TimeZone::UTC,
        Some(name) => match TimeZone::get(name) {
            Ok(zone) => zone,
            Err(err) => {
                let message = format!("invalid timeZone: {name:?}: {err}");
                owner.event(EventType::Warning, "UnknownTimeZone", message);
                return Ok(Action::Done);
            }
        },
    };
    let now = now();
    let next = || {
        let wait = schedule.next(now, &zone).map(|at| at.duration_since(now).unsigned_abs());
        wait.map_or(Action::Done, |wait| Action::RequeueAfter(wait + Duration::from_millis(1)))
    };
    let Some((due, missed)) = latest_due(cron, &schedule, &zone, now) else { return Ok(next()) };
    if missed > MISSED_MAX {
        let message = format!(
            "too many missed start times: {missed}. Set or decrease .spec.startingDeadlineSeconds or check clock skew"
        );
        owner.event(EventType::Warning, "TooManyMissedTimes", message);
    }
    let late = cron
        .spec
        .starting_deadline_seconds
        .is_some_and(|limit| now.duration_since(due).as_secs() > limit);
    if late {
        let message = format!("Missed scheduled time to start a job: {}", rfc3339(due));
        owner.event(EventType::Warning, "MissSchedule", message);
        return Ok(next());
    }
    let active: Vec<&Arc<Job>> = jobs.iter().filter(|job| !job.is_finished()).collect();
    match cron.spec.concurrency_policy.as_str() {
        "Forbid" if !active.is_empty() => {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            owner.event(EventType::Normal, "JobAlreadyActive", message.to_owned());
            return Ok(next());
        }
        "Replace" => {
            for job in active {
                delete(cx, job).await?;
                let message = format!("Deleted job {}", job.metadata.name);
                owner.event(EventType::Normal, "SuccessfulDelete", message);
                status.active.retain(|it| it["uid"] != json!(job.metadata.uid));
            }
        }
        _ => {}
    }
    create(cx, cron, owner, due, status).await?;
    Ok(next())
}

/// The latest scheduled time that has come and was not served, and how many there were.
fn latest_due(
    cron: &CronJob,
    schedule: &Schedule,
    zone: &TimeZone,
    now: Timestamp,
) -> Option<(Timestamp, usize)> {
    let last = cron.status.last_schedule_time.as_ref().map(|time| time.0);
    let mut from = last.unwrap_or(cron.metadata.created());
    if let Some(limit) = cron.spec.starting_deadline_seconds {
        let earliest = now.checked_sub(SignedDuration::from_secs(limit)).ok()?;
        from = from.max(earliest);
    }
    let mut found = None;
    let mut missed = 0;
    while let Some(at) = schedule.next(from, zone)
        && at <= now
    {
        found = Some(at);
        missed += 1;
        from = at;
        if missed > MISSED_MAX {
            // Close to now instead of one by one: the latest is among the last day's times.
            let day = now.checked_sub(SignedDuration::from_hours(24)).ok()?;
            from = from.max(day);
        }
    }
    found.map(|at| (at, missed))
}

async fn create(
    cx: &Cx,
    cron: &CronJob,
    owner: &Owner<'_>,
    due: Timestamp,
    status: &mut CronJobStatus,
) -> Result<()> {
    let template: Value = match &cron.spec.job_template {
        Some(raw) => serde_json::from_str(raw.get()).context("parsing the job template")?,
        None => json!({}),
    };
    let namespace = &cron.metadata.namespace;
    let name = format!("{}-{}", cron.metadata.name, due.as_second() / 60);
    let mut metadata = json!({
        "name": name, "namespace": namespace,
        "labels": template["metadata"]["labels"],
        "annotations": template["metadata"]["annotations"],
        "ownerReferences": [controller_ref(&CRON_JOBS, &cron.metadata)],
    });
    metadata["annotations"][SCHEDULED] = json!(rfc3339(due));
    let body = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"],
    });
    match cx.rest.create::<Job>(&JOBS, namespace, &body).await {
        Ok(job) => {
            owner.event(EventType::Normal, "SuccessfulCreate", format!("Created job {name}"));
            status.active.push(reference(&job));
            cx.caches.jobs.observe(job);
        }
        // Made before a restart, when the status was not written any more.
        Err(err) if is_already_exists(&err) => {}
        Err(err) => {
            let message = format!("Error creating job: {}", text(&err));
            owner.event(EventType::Warning, "FailedCreate", message);
            return Err(err).with_context(|| format!("creating job {namespace}/{name}"));
        }
    }
    status.last_schedule_time = Some(Time(due));
    Ok(())
}

/// Finished Jobs beyond the history limits, the oldest first.
fn surplus(cron: &CronJob, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let mut gone = Vec::new();
    let limits = [
        ("Complete", cron.spec.successful_jobs_history_limit),
        ("Failed", cron.spec.failed_jobs_history_limit),
    ];
    for (kind, limit) in limits {
        let Some(limit) = limit.and_then(|it| usize::try_from(it).ok()) else { continue };
        let mut done: Vec<Arc<Job>> = jobs
            .iter()
            .filter(|job| condition(&job.status.conditions, kind).is_some_and(Condition::is_true))
            .filter(|job| !job.metadata.is_deleting())
            .cloned()
            .collect();
        done.sort_by_key(|job| Reverse((job.status.start_time.clone(), job.metadata.name.clone())));
        gone.extend(done.into_iter().skip(limit));
    }
    gone
}

async fn clean_up(cx: &Cx, cron: &CronJob, jobs: &[Arc<Job>]) -> Result<()> {
    for job in surplus(cron, jobs) {
        delete(cx, &job).await?;
    }
    Ok(())
}

async fn delete(cx: &Cx, job: &Job) -> Result<()> {
    let key = job.metadata.key();
    let when = Preconditions { uid: &job.metadata.uid, ..Preconditions::default() };
    match cx.rest.delete(&JOBS, &key, Propagation::Background, when).await {
        Err(err) if !is_not_found(&err) => Err(err).with_context(|| format!("deleting job {key}")),
        _ => Ok(()),
    }
}

async fn write_status(cx: &Cx, cron: &CronJob, status: &CronJobStatus) -> Result<()> {
    if cron.status == *status {
        return Ok(());
    }
    let key = cron.metadata.key();
    let body = json!({
        "metadata": {"resourceVersion": cron.metadata.resource_version}, "status": status,
    });
    match cx.rest.patch::<CronJob>(&CRON_JOBS, &key, "status", Patch::Merge, &body).await {
        Ok(updated) => cx.caches.cron_jobs.observe(updated),
        Err(err) if is_not_found(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("updating status of {key}")),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_missed_time_is_served_and_only_once() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let schedule = Schedule::parse("*/10 * * * *").unwrap();
        let mut cron = CronJob::default();
        cron.metadata.creation_timestamp = Some(Time(at("2026-01-01T00:05:00Z")));
        let due = |cron: &CronJob, now: &str| {
            latest_due(cron, &schedule, &TimeZone::UTC, at(now)).map(|(at, _)| at.to_string())
        };
        assert_eq!(due(&cron, "2026-01-01T00:09:00Z"), None);
        assert_eq!(due(&cron, "2026-01-01T00:35:00Z").as_deref(), Some("2026-01-01T00:30:00Z"));
        cron.status.last_schedule_time = Some(Time(at("2026-01-01T00:30:00Z")));
        assert_eq!(due(&cron, "2026-01-01T00:35:00Z"), None);
        assert_eq!(due(&cron, "2026-03-01T00:00:01Z").as_deref(), Some("2026-03-01T00:00:00Z"));
        cron.spec.starting_deadline_seconds = Some(5);
        assert_eq!(due(&cron, "2026-01-01T00:45:00Z"), None);
    }
}
