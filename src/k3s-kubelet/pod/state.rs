//! What is known of one pod: the runtime's view, and what only this process remembers.
//!
//! Plain data. Invariant: [`Memory`] may be lost at any time; a worker that starts anew with only
//! the runtime's view does not touch running containers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceRequirements;

use crate::cri::config::Mount;
use crate::cri::runtime as cri;

use super::labels;

const BACKOFF_FIRST: Duration = Duration::from_secs(10);
const BACKOFF_MAX: Duration = Duration::from_secs(300);
const BACKOFF_FORGET: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Created,
    Running,
    Exited,
    Unknown,
}

/// One container in the runtime.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ContainerView {
    pub(crate) id: String,
    pub(crate) sandbox_id: String,
    pub(crate) name: String,
    pub(crate) attempt: u32,
    pub(crate) life: Life,
    pub(crate) created_at: Timestamp,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
    pub(crate) exit_code: i32,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) hash: String,
    pub(crate) image: String,
    pub(crate) image_id: String,
    pub(crate) log_path: String,
    pub(crate) mounts: Vec<Mount>,
}

impl ContainerView {
    pub(crate) fn of(sandbox_id: String, status: cri::ContainerStatus) -> ContainerView {
        let meta = status.metadata.unwrap_or_default();
        let annotation = |key: &str| status.annotations.get(key).cloned().unwrap_or_default();
        let counted = annotation(labels::RESTART_COUNT).parse().ok();
        let life = match cri::ContainerState::try_from(status.state) {
            Ok(cri::ContainerState::Created) => Life::Created,
            Ok(cri::ContainerState::Running) => Life::Running,
            Ok(cri::ContainerState::Exited) => Life::Exited,
            _ => Life::Unknown,
        };
        ContainerView {
            id: status.id,
            sandbox_id,
            name: meta.name,
            attempt: counted.unwrap_or(meta.attempt),
            life,
            created_at: time(status.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
            started_at: time(status.started_at),
            finished_at: time(status.finished_at),
            exit_code: status.exit_code,
            reason: status.reason,
            message: status.message,
            hash: annotation(labels::HASH),
            image: status.image.map(|image| image.image).unwrap_or_default(),
            image_id: status.image_ref,
            log_path: status.log_path,
            mounts: status.mounts,
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        matches!(self.life, Life::Running | Life::Unknown)
    }
}

fn time(nanos: i64) -> Option<Timestamp> {
    (nanos > 0).then(|| Timestamp::from_nanosecond(i128::from(nanos)).ok())?
}

/// One sandbox in the runtime.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SandboxView {
    pub(crate) id: String,
    pub(crate) attempt: u32,
    pub(crate) ready: bool,
    pub(crate) created_at: Timestamp,
    pub(crate) ips: Vec<String>,
}

impl SandboxView {
    pub(crate) fn of(status: cri::PodSandboxStatus) -> SandboxView {
        let mut ips = Vec::new();
        if let Some(network) = status.network {
            ips.extend(Some(network.ip).filter(|ip| !ip.is_empty()));
            ips.extend(network.additional_ips.into_iter().map(|ip| ip.ip));
        }
        SandboxView {
            id: status.id,
            attempt: status.metadata.map(|meta| meta.attempt).unwrap_or_default(),
            ready: status.state == i32::from(cri::PodSandboxState::Ready),
            created_at: time(status.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
            ips,
        }
    }
}

/// The runtime's view of the pod, newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Observed {
    pub(crate) sandboxes: Vec<SandboxView>,
    pub(crate) containers: BTreeMap<String, Vec<ContainerView>>,
}

impl Observed {
    /// The newest sandbox, if it is ready.
    pub(crate) fn sandbox(&self) -> Option<&SandboxView> {
        self.sandboxes.first().filter(|sandbox| sandbox.ready)
    }

    pub(crate) fn newest(&self, name: &str) -> Option<&ContainerView> {
        self.containers.get(name)?.first()
    }

    /// The newest container of that name in the current sandbox.
    pub(crate) fn current(&self, name: &str) -> Option<&ContainerView> {
        let sandbox = self.sandboxes.first()?;
        self.newest(name).filter(|container| container.sandbox_id == sandbox.id)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &ContainerView> {
        self.containers.values().flatten()
    }
}

/// What an operation works on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    Volumes,
    Sandbox,
    Container(String),
    /// Giving a running container other resources, by its id.
    Resize(String),
    /// Killing a container, by its id.
    Kill(String),
    /// Removing leftovers.
    Remove(String),
    Finish,
}

/// Why a container or sandbox is not running yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// A delay that doubles while restarts follow each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Backoff {
    pub(crate) delay: Duration,
    pub(crate) since: Timestamp,
}

impl Backoff {
    /// The backoff after one more try at `now`.
    pub(crate) fn next(previous: Option<Backoff>, now: Timestamp) -> Backoff {
        let delay = match previous {
            Some(old) if age(old.since, now) <= old.delay + BACKOFF_FORGET => {
                (old.delay * 2).min(BACKOFF_MAX)
            }
            _ => BACKOFF_FIRST,
        };
        Backoff { delay, since: now }
    }
}

pub(crate) fn age(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

/// Why the whole pod ends.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ending {
    /// Deleted in the API, or its manifest is gone.
    Deleted { grace_secs: i64 },
    /// Failed by the kubelet: deadline, eviction, admission.
    Failed { reason: String, message: String, grace_secs: i64 },
}

impl Ending {
    pub(crate) fn grace_secs(&self) -> i64 {
        match self {
            Ending::Deleted { grace_secs } | Ending::Failed { grace_secs, .. } => *grace_secs,
        }
    }
}

/// What this process remembers of a pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    /// Operations under way; for kills the grace they were given.
    pub(crate) busy: BTreeMap<Target, i64>,
    /// Failed operations are not tried again before.
    pub(crate) retry_at: BTreeMap<Target, Timestamp>,
    /// Failed tries so far.
    pub(crate) failures: BTreeMap<Target, u32>,
    pub(crate) waiting: BTreeMap<String, Waiting>,
    pub(crate) backoff: BTreeMap<String, Backoff>,
    pub(crate) volumes_ready: bool,
    /// What the volumes show has changed since their last setup was begun.
    pub(crate) volumes_stale: bool,
    /// Container ids whose startup is over: no startup probe, or it succeeded.
    pub(crate) started: BTreeSet<String>,
    /// Container ids whose readiness probe succeeds.
    pub(crate) ready: BTreeSet<String>,
    /// Container ids to be killed, and why.
    pub(crate) unhealthy: BTreeMap<String, String>,
    pub(crate) ending: Option<Ending>,
    pub(crate) start_time: Option<Timestamp>,
    /// The last addresses, kept for finished pods.
    pub(crate) ips: Vec<String>,
    /// Termination messages by container id.
    pub(crate) messages: BTreeMap<String, String>,
    /// Resources that running containers have, by container id.
    pub(crate) applied: BTreeMap<String, Option<ResourceRequirements>>,
    /// Container ids that ran out of memory.
    pub(crate) out_of_memory: BTreeSet<String>,
    /// Kills for memory in containers that are gone, as far as it is known whose they were.
    pub(crate) kills_known: u64,
    /// The pod is over and its volumes are gone.
    pub(crate) finished: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_to_five_minutes_and_is_forgotten_after_ten() {
        let start = Timestamp::UNIX_EPOCH;
        let mut backoff = None;
        let mut now = start;
        let mut delays = Vec::new();
        for _ in 0..7 {
            let next = Backoff::next(backoff, now);
            delays.push(next.delay.as_secs());
            now += next.delay;
            backoff = Some(next);
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
        let later = now + Duration::from_secs(1000);
        assert_eq!(Backoff::next(backoff, later).delay.as_secs(), 10);
    }
}
