//! Taking the results of operations and the verdicts of probes.

use std::time::Duration;

use client::EventType;
use jiff::Timestamp;

use super::super::container::entries;
use super::super::devices;
use super::super::labels::PodNames as _;
use super::super::probe::{Finding, ProbeKind};
use super::super::start::field_path;
use super::super::state::Target;
use super::{Outcome, RETRY_FIRST, RETRY_MAX, Worker};

const PULL_RETRY_FIRST: Duration = Duration::from_secs(10);
const PULL_RETRY_MAX: Duration = Duration::from_secs(300);

impl Worker {
    /// Takes the result of an operation; true when the runtime is to be looked at.
    pub(super) fn finish(&mut self, target: Target, outcome: Outcome) -> bool {
        self.aborts.remove(&target);
        self.memory.busy.remove(&target);
        match outcome {
            Outcome::Volumes(Ok(inputs)) => {
                self.inputs = inputs;
                self.memory.volumes_ready = true;
                self.succeeded(&target);
                false
            }
            Outcome::Volumes(Err(message)) => {
                let warning = EventType::Warning;
                self.shared.event(&self.pod, "", warning, "FailedMount", message.clone());
                self.memory.volumes_stale = true;
                self.failed(target, &message, RETRY_FIRST, RETRY_MAX);
                false
            }
            Outcome::Sandbox(Ok(id)) => {
                self.shared.own(&id, self.pod.uid());
                self.succeeded(&target);
                true
            }
            Outcome::Sandbox(Err(waiting)) => {
                let (reason, message) = match waiting.reason.as_str() {
                    devices::FAILED => (devices::FAILED, waiting.message.clone()),
                    _ => (
                        "FailedCreatePodSandBox",
                        format!("Failed to create pod sandbox: {}", waiting.message),
                    ),
                };
                self.shared.event(&self.pod, "", EventType::Warning, reason, message);
                self.failed(target, &waiting.message, RETRY_FIRST, RETRY_MAX);
                true
            }
            Outcome::Started { name, result: Ok(_) } => {
                self.memory.waiting.remove(&name);
                self.succeeded(&target);
                true
            }
            Outcome::Started { name, result: Err(waiting) } => {
                let pull = waiting.reason.contains("Image");
                let (first, most) = if pull {
                    (PULL_RETRY_FIRST, PULL_RETRY_MAX)
                } else {
                    (RETRY_FIRST, RETRY_MAX)
                };
                let message = waiting.message.clone();
                self.memory.waiting.insert(name, waiting);
                self.failed(target, &message, first, most);
                true
            }
            Outcome::Resized { id, resources, result } => {
                match result {
                    Ok(()) => {
                        self.memory.applied.insert(id, resources);
                        self.succeeded(&target);
                    }
                    Err(message) => self.failed(target, &message, RETRY_FIRST, RETRY_MAX),
                }
                false
            }
            Outcome::Killed { id, result } => {
                if let Err(message) = result {
                    self.failed(target, &message, RETRY_FIRST, RETRY_MAX);
                } else {
                    self.memory.unhealthy.remove(&id);
                    self.succeeded(&target);
                }
                true
            }
            Outcome::Done { target, result } => {
                match result {
                    Ok(()) => {
                        self.succeeded(&target);
                        self.memory.finished |= target == Target::Finish;
                    }
                    Err(message) => self.failed(target.clone(), &message, RETRY_FIRST, RETRY_MAX),
                }
                // After the end nothing is left to see, and the last view is what is reported.
                target != Target::Finish
            }
            Outcome::Patched { want, version, result, gone } => {
                self.writing = false;
                self.gone |= gone && !self.is_static;
                match result {
                    Ok(()) => {
                        self.written = want;
                        self.written_version = version;
                        self.write_failures = 0;
                        self.write_retry_at = None;
                        self.name_image_back_off();
                    }
                    Err(message) => self.write_failed(&message),
                }
                false
            }
            Outcome::Deleted { result } => {
                self.writing = false;
                self.deleting = false;
                match result {
                    Ok(()) => self.deleted = true,
                    Err(message) => self.write_failed(&message),
                }
                false
            }
        }
    }

    /// A pull that failed is first an error and from then on a back-off.
    pub(super) fn name_image_back_off(&mut self) {
        for (name, waiting) in &mut self.memory.waiting {
            if waiting.reason == "ErrImagePull" {
                let entry = entries(&self.pod).into_iter().find(|e| e.container.name == *name);
                let image = entry.as_ref().and_then(|entry| entry.container.image.clone());
                let image = image.unwrap_or_default();
                waiting.reason = "ImagePullBackOff".to_owned();
                waiting.message = format!(
                    "Back-off pulling image \"{image}\": ErrImagePull: {}",
                    waiting.message
                );
                let path = entry.as_ref().map(field_path).unwrap_or_default();
                let message = format!("Back-off pulling image \"{image}\"");
                self.shared.event(&self.pod, &path, EventType::Normal, "BackOff", message);
            }
        }
    }

    pub(super) fn succeeded(&mut self, target: &Target) {
        self.memory.failures.remove(target);
        self.memory.retry_at.remove(target);
    }

    pub(super) fn failed(
        &mut self,
        target: Target,
        message: &str,
        first: Duration,
        most: Duration,
    ) {
        let failures = self.memory.failures.entry(target.clone()).or_default();
        let pause = (first * 2_u32.saturating_pow((*failures).min(10))).min(most);
        *failures += 1;
        tracing::warn!(pod = %self.pod.key(), err = %message, step = ?target, ?pause,
            "Step failed, retrying");
        self.memory.retry_at.insert(target, Timestamp::now() + pause);
    }

    pub(super) fn judge(&mut self, finding: Finding) -> bool {
        match finding {
            Finding::Unhealthy { container, kind, output } => {
                let path = self.entry(&container).map(|e| field_path(&e)).unwrap_or_default();
                let message = format!("{} probe failed: {output}", kind.name());
                self.shared.event(&self.pod, &path, EventType::Warning, "Unhealthy", message);
            }
            Finding::Verdict { id, kind, healthy } => match (kind, healthy) {
                (ProbeKind::Readiness, true) => {
                    self.memory.ready.insert(id);
                }
                (ProbeKind::Readiness, false) => {
                    self.memory.ready.remove(&id);
                }
                (ProbeKind::Startup, true) => {
                    self.memory.started.insert(id);
                }
                (ProbeKind::Liveness, true) => {}
                (ProbeKind::Startup | ProbeKind::Liveness, false) => {
                    let name = self.observed.all().find(|view| view.id == id);
                    let name = name.map(|view| view.name.clone()).unwrap_or_default();
                    let probe = kind.name().to_lowercase();
                    let message =
                        format!("Container {name} failed {probe} probe, will be restarted");
                    self.memory.unhealthy.insert(id, message);
                }
            },
        }
        false
    }
}
