//! Finished Jobs with `ttlSecondsAfterFinished` are deleted when that time has passed.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use client::{Action, Key, Preconditions, Propagation, WorkQueue, is_conflict, is_not_found, now};
use jiff::Timestamp;

use crate::{Cx, Running, caches::JOBS, types::batch::Job, workers};

const NAME: &str = "ttl-after-finished-controller";

pub(crate) fn start(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    let filled = queue.clone();
    cx.caches.jobs.on_event(move |event| {
        let job = event.object();
        if job.spec.ttl_seconds_after_finished.is_some() && job.is_finished() {
            filled.add(job.metadata.key());
        }
    });
    let shared = Arc::new(cx.clone());
    workers(cx, NAME, 4, &queue, move |key| {
        let cx = Arc::clone(&shared);
        async move { reconcile(&cx, &key).await }
    })
}

/// Seconds until the Job is to be deleted; `None` when it is not.
fn plan(job: &Job, now: Timestamp) -> Option<u64> {
    let ttl = i64::from(job.spec.ttl_seconds_after_finished?);
    let mut done = job
        .status
        .conditions
        .iter()
        .filter(|it| it.is_true() && matches!(it.kind.as_str(), "Complete" | "Failed"));
    let finished = done.next()?.last_transition_time.as_ref()?.0;
    Some(u64::try_from(ttl - now.duration_since(finished).as_secs()).unwrap_or(0))
}

async fn reconcile(cx: &Cx, key: &Key) -> Result<Action> {
    let Some(job) = cx.caches.jobs.lister().get(key) else { return Ok(Action::Done) };
    if job.metadata.is_deleting() {
        return Ok(Action::Done);
    }
    match plan(&job, now()) {
        None => Ok(Action::Done),
        Some(0) => {
            let when = Preconditions {
                uid: &job.metadata.uid,
                resource_version: &job.metadata.resource_version,
            };
            match cx.rest.delete(&JOBS, key, Propagation::Foreground, when).await {
                Err(err) if !is_not_found(&err) && !is_conflict(&err) => {
                    Err(err).with_context(|| format!("deleting job {key}"))
                }
                _ => Ok(Action::Done),
            }
        }
        Some(left) => Ok(Action::RequeueAfter(Duration::from_secs(left))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Condition;

    #[test]
    fn jobs_go_when_their_time_after_finishing_is_over() {
        let mut job = Job::default();
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(plan(&job, at(0)), None);
        job.spec.ttl_seconds_after_finished = Some(10);
        assert_eq!(plan(&job, at(0)), None, "still running");
        let mut done = Condition::new("Complete", "True", "", "");
        done.last_transition_time = Some(client::Time(at(100)));
        job.status.conditions.push(done);
        assert_eq!(plan(&job, at(104)), Some(6));
        assert_eq!(plan(&job, at(200)), Some(0));
    }
}
