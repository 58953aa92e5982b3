//! A Deployment's status and conditions, computed from its ReplicaSets. Pure.

use std::time::Duration;

use client::{Action, Time};
use jiff::Timestamp;

use super::{
    Sets,
    plan::{max_unavailable, replicas},
};
use crate::types::{
    Condition,
    apps::{Deployment, DeploymentStatus, ReplicaSet},
    condition,
};

const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const FAILURE: &str = "ReplicaFailure";
const NEW_AVAILABLE: &str = "NewReplicaSetAvailable";
/// Both of a condition and of an event.
pub(super) const CREATE_ERROR: &str = "ReplicaSetCreateError";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

/// The status that the Deployment should have now.
pub(super) fn compute(d: &Deployment, sets: &Sets, now: Timestamp) -> DeploymentStatus {
    let sum = |of: fn(&ReplicaSet) -> i32| sets.all().map(|set| of(set)).sum::<i32>();
    let available = sum(|set| set.status.available_replicas);
    let mut status = DeploymentStatus {
        observed_generation: d.metadata.generation,
        replicas: sum(|set| set.status.replicas),
        updated_replicas: sets.new.as_ref().map_or(0, |set| set.status.replicas),
        ready_replicas: sum(|set| set.status.ready_replicas),
        available_replicas: available,
        unavailable_replicas: (sum(ReplicaSet::replicas) - available).max(0),
        terminating_replicas: terminating(sets),
        conditions: d.status.conditions.clone(),
        collision_count: d.status.collision_count,
    };
    let enough = available >= replicas(d) - max_unavailable(d);
    let condition = if enough {
        let message = "Deployment has minimum availability.";
        Condition::new(AVAILABLE, "True", "MinimumReplicasAvailable", message)
    } else {
        let message = "Deployment does not have minimum availability.";
        Condition::new(AVAILABLE, "False", "MinimumReplicasUnavailable", message)
    };
    set(&mut status.conditions, condition, now);
    if !d.metadata.is_deleting() {
        progress(d, sets, &mut status, now);
    }
    let failure = sets.new.iter().chain(&sets.old).find_map(|set| {
        crate::types::condition(&set.status.conditions, FAILURE).filter(|it| it.is_true())
    });
    match failure {
        Some(failure) => {
            let (reason, message) = (&failure.reason, failure.message.clone());
            set(&mut status.conditions, Condition::new(FAILURE, "True", reason, message), now);
        }
        None => status.conditions.retain(|it| it.kind != FAILURE),
    }
    status
}

/// Pods on their way out; unknown while a ReplicaSet that was looked at does not say.
fn terminating(sets: &Sets) -> Option<i32> {
    sets.all()
        .map(|set| match set.status.terminating_replicas {
            None if set.status.observed_generation == 0 => Some(0),
            known => known,
        })
        .sum()
}

/// The conditions with what is said about the ReplicaSet of the current template: that it was
/// made, that it was found by one who had not followed it, or that it cannot be made. `None` when
/// they say so already.
pub(super) fn announced(d: &Deployment, new: &New<'_>, now: Timestamp) -> Option<Vec<Condition>> {
    progress_deadline(d)?;
    let known = condition(&d.status.conditions, PROGRESSING);
    let (status, reason, message) = match new {
        New::Made(name) => {
            ("True", "NewReplicaSetCreated", format!("Created new replica set {name:?}"))
        }
        New::Found(name) if known.is_none() => {
            ("True", "FoundNewReplicaSet", format!("Found new replica set {name:?}"))
        }
        New::Found(_) => return None,
        New::Refused(message) => ("False", CREATE_ERROR, (*message).to_owned()),
    };
    let mut conditions = d.status.conditions.clone();
    set(&mut conditions, Condition::new(PROGRESSING, status, reason, message), now);
    (conditions != d.status.conditions).then_some(conditions)
}

/// What became of the ReplicaSet of the current template.
pub(super) enum New<'a> {
    Made(&'a str),
    Found(&'a str),
    Refused(&'a str),
}

/// Whether everything is updated, available, and nothing old is left.
pub(super) fn is_complete(d: &Deployment, status: &DeploymentStatus) -> bool {
    status.updated_replicas == replicas(d)
        && status.replicas == replicas(d)
        && status.available_replicas == replicas(d)
        && status.observed_generation >= d.metadata.generation
}

/// When the progress deadline is due, for a Deployment that is still progressing.
pub(super) fn deadline(d: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Action {
    let Some(seconds) = progress_deadline(d) else { return Action::Done };
    if d.spec.paused || is_complete(d, status) {
        return Action::Done;
    }
    let Some(current) = condition(&status.conditions, PROGRESSING) else { return Action::Done };
    if current.reason == TIMED_OUT || current.reason == NEW_AVAILABLE {
        return Action::Done;
    }
    let since = current.last_update_time.as_ref().map_or(now, |time| time.0);
    let left = i64::from(seconds) - now.duration_since(since).as_secs() + 1;
    Action::RequeueAfter(Duration::from_secs(u64::try_from(left).unwrap_or(1).max(1)))
}

fn progress_deadline(d: &Deployment) -> Option<i32> {
    d.spec.progress_deadline_seconds.filter(|it| *it != i32::MAX)
}

fn progress(d: &Deployment, sets: &Sets, status: &mut DeploymentStatus, now: Timestamp) {
    let Some(seconds) = progress_deadline(d) else {
        status.conditions.retain(|it| it.kind != PROGRESSING);
        return;
    };
    let current = condition(&d.status.conditions, PROGRESSING).cloned();
    let reason = current.as_ref().map_or("", |it| it.reason.as_str());
    if d.spec.paused {
        if reason != TIMED_OUT && reason != "DeploymentPaused" {
            let paused =
                Condition::new(PROGRESSING, "Unknown", "DeploymentPaused", "Deployment is paused");
            set(&mut status.conditions, paused, now);
        }
        return;
    }
    if reason == "DeploymentPaused" {
        let resumed =
            Condition::new(PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed");
        set(&mut status.conditions, resumed, now);
        return;
    }
    let who = match &sets.new {
        Some(new) => format!("ReplicaSet \"{}\"", new.metadata.name),
        None => format!("Deployment \"{}\"", d.metadata.name),
    };
    let settled = status.replicas == status.updated_replicas && reason == NEW_AVAILABLE;
    if settled {
        return;
    }
    if is_complete(d, status) {
        let message = format!("{who} has successfully progressed.");
        set(
            &mut status.conditions,
            Condition::new(PROGRESSING, "True", NEW_AVAILABLE, message),
            now,
        );
    } else if has_progressed(&d.status, status) {
        let message = format!("{who} is progressing.");
        let mut moved = Condition::new(PROGRESSING, "True", "ReplicaSetUpdated", message);
        moved.last_update_time = Some(Time(now));
        let was = current.filter(Condition::is_true).and_then(|it| it.last_transition_time);
        moved.last_transition_time = Some(was.unwrap_or(Time(now)));
        status.conditions.retain(|it| it.kind != PROGRESSING);
        status.conditions.push(moved);
    } else if timed_out(current.as_ref(), seconds, now) {
        let message = format!("{who} has timed out progressing.");
        set(&mut status.conditions, Condition::new(PROGRESSING, "False", TIMED_OUT, message), now);
    }
}

fn has_progressed(before: &DeploymentStatus, after: &DeploymentStatus) -> bool {
    let old = |status: &DeploymentStatus| status.replicas - status.updated_replicas;
    after.updated_replicas > before.updated_replicas
        || old(after) < old(before)
        || after.ready_replicas > before.ready_replicas
        || after.available_replicas > before.available_replicas
}

fn timed_out(current: Option<&Condition>, seconds: i32, now: Timestamp) -> bool {
    let Some(current) = current else { return false };
    if current.reason == NEW_AVAILABLE {
        return false;
    }
    let since = current.last_update_time.as_ref().map_or(now, |time| time.0);
    current.reason == TIMED_OUT || now.duration_since(since).as_secs() > i64::from(seconds)
}

/// Sets a condition; its times move only when it says something new.
fn set(conditions: &mut Vec<Condition>, mut condition: Condition, now: Timestamp) {
    let known = conditions.iter().position(|it| it.kind == condition.kind);
    let old = known.and_then(|at| conditions.get(at));
    if old.is_some_and(|it| it.status == condition.status && it.reason == condition.reason) {
        return;
    }
    let same_status = old.filter(|it| it.status == condition.status);
    let since = same_status.and_then(|it| it.last_transition_time.clone());
    condition.last_update_time = Some(Time(now));
    condition.last_transition_time = Some(since.unwrap_or(Time(now)));
    match known.and_then(|at| conditions.get_mut(at)) {
        Some(slot) => *slot = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn sets(replicas: i32, available: i32) -> Sets {
        let mut set = ReplicaSet::default();
        set.metadata.name = "web-abc".into();
        set.spec.replicas = Some(replicas);
        set.status.replicas = replicas;
        set.status.ready_replicas = available;
        set.status.available_replicas = available;
        Sets { new: Some(Arc::new(set)), old: Vec::new() }
    }

    #[test]
    fn conditions_follow_progress_to_the_end_and_then_rest() {
        let mut d = Deployment::default();
        d.spec.replicas = Some(2);
        d.spec.progress_deadline_seconds = Some(600);
        d.status.conditions = announced(&d, &New::Made("web-abc"), at(9)).unwrap();
        d.status = compute(&d, &sets(2, 0), at(10));
        assert_eq!(
            condition(&d.status.conditions, PROGRESSING).unwrap().reason,
            "ReplicaSetUpdated"
        );
        assert_eq!(condition(&d.status.conditions, AVAILABLE).unwrap().status, "False");
        d.status = compute(&d, &sets(2, 1), at(20));
        assert_eq!(
            condition(&d.status.conditions, PROGRESSING).unwrap().reason,
            "ReplicaSetUpdated"
        );
        d.status = compute(&d, &sets(2, 2), at(30));
        let done = condition(&d.status.conditions, PROGRESSING).unwrap();
        assert_eq!(done.message, "ReplicaSet \"web-abc\" has successfully progressed.");
        assert_eq!(compute(&d, &sets(2, 2), at(4000)), d.status, "nothing changes any more");
        assert_eq!(deadline(&d, &d.status, at(31)), Action::Done);
    }

    #[test]
    fn a_rollout_that_stands_still_times_out_once() {
        let mut d = Deployment::default();
        d.spec.replicas = Some(1);
        d.spec.progress_deadline_seconds = Some(5);
        d.status.conditions = announced(&d, &New::Found("web-abc"), at(9)).unwrap();
        d.status = compute(&d, &sets(1, 0), at(10));
        assert_eq!(deadline(&d, &d.status, at(10)), Action::RequeueAfter(Duration::from_secs(6)));
        d.status = compute(&d, &sets(1, 0), at(17));
        assert_eq!(condition(&d.status.conditions, PROGRESSING).unwrap().reason, TIMED_OUT);
        assert_eq!(compute(&d, &sets(1, 0), at(99)), d.status);
    }

    #[test]
    fn the_new_set_is_announced_whatever_was_said_before() {
        let check = |before: Option<&str>, new: &New<'_>, want: Option<(&str, &str, &str)>| {
            let mut d = Deployment::default();
            d.spec.progress_deadline_seconds = Some(600);
            let known = before.map(|reason| Condition::new(PROGRESSING, "True", reason, ""));
            d.status.conditions.extend(known);
            let found = announced(&d, new, at(1));
            let found = found
                .as_ref()
                .map(|it| (it[0].status.as_str(), it[0].reason.as_str(), it[0].message.as_str()));
            assert_eq!(found, want);
            d.spec.progress_deadline_seconds = Some(i32::MAX);
            assert_eq!(announced(&d, new, at(1)), None);
        };
        let made = ("True", "NewReplicaSetCreated", "Created new replica set \"web-abc\"");
        check(None, &New::Made("web-abc"), Some(made));
        check(Some(NEW_AVAILABLE), &New::Made("web-abc"), Some(made));
        let found = ("True", "FoundNewReplicaSet", "Found new replica set \"web-abc\"");
        check(None, &New::Found("web-abc"), Some(found));
        check(Some(NEW_AVAILABLE), &New::Found("web-abc"), None);
        check(Some(NEW_AVAILABLE), &New::Refused("no"), Some(("False", CREATE_ERROR, "no")));
    }

    #[test]
    fn terminating_pods_are_counted_when_every_set_does() {
        let check = |sets: &[(i64, Option<i32>)], want| {
            let old = sets.iter().map(|(seen, terminating)| {
                let mut set = ReplicaSet::default();
                set.status.observed_generation = *seen;
                set.status.terminating_replicas = *terminating;
                Arc::new(set)
            });
            assert_eq!(terminating(&Sets { new: None, old: old.collect() }), want);
        };
        check(&[], Some(0));
        check(&[(1, Some(2)), (1, Some(3))], Some(5));
        check(&[(0, None), (1, Some(3))], Some(3));
        check(&[(1, None), (1, Some(3))], None);
    }
}
