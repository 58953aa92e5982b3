//! The decision: what is to be done for a pod now.
//!
//! Pure: `plan(pod, observed, memory, now)` names steps and when to look again. The worker performs
//! the steps; each is an operation under way (`memory.busy`) until its result comes back.
//! Invariant: the same state gives the same plan, so a step that failed or was lost is named again.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::container::{Entry, Kind, entries, hash};
use super::labels::PodNames;
use super::state::{ContainerView, Ending, Life, Memory, Observed, Target, Waiting, age};

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    SetUpVolumes,
    CreateSandbox {
        attempt: u32,
    },
    Start {
        name: String,
        attempt: u32,
        restart: bool,
    },
    Kill {
        id: String,
        name: String,
        grace_secs: i64,
        message: String,
    },
    /// The spec asks for other resources than the running container has.
    Resize {
        id: String,
        name: String,
    },
    RemoveContainer {
        id: String,
    },
    StopSandbox {
        id: String,
    },
    RemoveSandbox {
        id: String,
    },
    /// Nothing runs any more: release what the pod holds.
    Finish,
}

impl Step {
    pub(crate) fn target(&self) -> Target {
        match self {
            Step::SetUpVolumes => Target::Volumes,
            Step::CreateSandbox { .. } => Target::Sandbox,
            Step::Start { name, .. } => Target::Container(name.clone()),
            Step::Resize { id, .. } => Target::Resize(id.clone()),
            Step::Kill { id, .. } => Target::Kill(id.clone()),
            Step::RemoveContainer { id } | Step::RemoveSandbox { id } => Target::Remove(id.clone()),
            Step::StopSandbox { .. } => Target::Sandbox,
            Step::Finish => Target::Finish,
        }
    }
}

/// What to do, what to say of containers that wait, and when to plan again at the latest.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) waiting: BTreeMap<String, Waiting>,
    pub(crate) wake_at: Option<Timestamp>,
}

/// How the pod stands, decided by its containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Going,
    Succeeded,
    Failed,
}

struct Planner<'a> {
    pod: &'a Pod,
    entries: Vec<Entry>,
    observed: &'a Observed,
    memory: &'a Memory,
    now: Timestamp,
    plan: Plan,
}

pub(crate) fn plan(pod: &Pod, observed: &Observed, memory: &Memory, now: Timestamp) -> Plan {
    let plan = Plan::default();
    let mut planner = Planner { pod, entries: entries(pod), observed, memory, now, plan };
    if let Some(ending) = &memory.ending {
        planner.end(ending.grace_secs());
    } else if outcome(pod, observed) != Outcome::Going {
        planner.end(grace(pod));
    } else {
        planner.run();
        planner.tidy();
    }
    planner.plan
}

fn policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
}

/// The pod's grace period.
pub(crate) fn grace(pod: &Pod) -> i64 {
    pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30)
}

/// Whether a container that ended so is to run again.
pub(crate) fn restarts(pod: &Pod, kind: Kind, container: &Container, exit_code: i32) -> bool {
    if kind == Kind::Ephemeral {
        return false;
    }
    for rule in container.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else { continue };
        let listed = codes.values.iter().flatten().any(|value| *value == exit_code);
        let matches = if codes.operator == "NotIn" { !listed } else { listed };
        if matches {
            return rule.action.starts_with("Restart");
        }
    }
    match container.restart_policy.as_deref().unwrap_or(policy(pod)) {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        // A finished init container is done under every policy.
        _ => kind != Kind::Init || exit_code != 0,
    }
}

/// Decided by containers alone: a restart that is due means the pod is still going.
pub(crate) fn outcome(pod: &Pod, observed: &Observed) -> Outcome {
    let entries = entries(pod);
    let mut failed = false;
    let mut mains = 0;
    for entry in &entries {
        let Some(view) = observed.newest(&entry.container.name) else {
            if entry.kind == Kind::Main {
                return init_failure(pod, &entries, observed);
            }
            continue;
        };
        if entry.kind != Kind::Main {
            continue;
        }
        mains += 1;
        if view.life != Life::Exited || restarts(pod, entry.kind, &entry.container, view.exit_code)
        {
            return Outcome::Going;
        }
        failed |= view.exit_code != 0;
    }
    match (mains, failed) {
        (0, _) => Outcome::Going,
        (_, true) => Outcome::Failed,
        (_, false) => Outcome::Succeeded,
    }
}

fn init_failure(pod: &Pod, entries: &[Entry], observed: &Observed) -> Outcome {
    let failed = entries.iter().filter(|entry| entry.kind == Kind::Init).any(|entry| {
        observed.newest(&entry.container.name).is_some_and(|view| {
            view.life == Life::Exited
                && view.exit_code != 0
                && !restarts(pod, entry.kind, &entry.container, view.exit_code)
        })
    });
    if failed { Outcome::Failed } else { Outcome::Going }
}

impl Planner<'_> {
    fn step(&mut self, step: Step) {
        let target = step.target();
        if self.memory.busy.contains_key(&target) {
            return;
        }
        if let Some(at) = self.memory.retry_at.get(&target)
            && *at > self.now
        {
            self.wake_at(*at);
            return;
        }
        self.plan.steps.push(step);
    }

    fn wake_at(&mut self, at: Timestamp) {
        self.plan.wake_at = Some(self.plan.wake_at.map_or(at, |old| old.min(at)));
    }

    fn run(&mut self) {
        if !self.memory.volumes_ready {
            return self.step(Step::SetUpVolumes);
        }
        if self.memory.volumes_stale {
            self.step(Step::SetUpVolumes);
        }
        let Some(sandbox) = self.observed.sandbox() else {
            return self.replace_sandbox();
        };
        // Containers of a lost sandbox must go before their successors start.
        let strays: Vec<_> = self
            .observed
            .all()
            .filter(|container| container.is_alive() && container.sandbox_id != sandbox.id)
            .cloned()
            .collect();
        for stray in strays {
            self.kill(&stray, grace(self.pod), "Pod sandbox changed");
        }
        if self.initialize() {
            self.start_all(Kind::Main);
            self.start_all(Kind::Ephemeral);
        }
    }

    fn replace_sandbox(&mut self) {
        let alive: Vec<_> = self.observed.all().filter(|c| c.is_alive()).cloned().collect();
        for container in &alive {
            self.kill(container, grace(self.pod), "Pod sandbox changed");
        }
        if !alive.is_empty() {
            return;
        }
        let attempt = self.observed.sandboxes.first().map_or(0, |sandbox| sandbox.attempt + 1);
        self.step(Step::CreateSandbox { attempt });
    }

    /// Brings init containers and sidecars up in order; true once main containers may run.
    fn initialize(&mut self) -> bool {
        let main_seen = self
            .entries
            .iter()
            .any(|e| e.kind == Kind::Main && self.observed.current(&e.container.name).is_some());
        let init: Vec<Entry> = self
            .entries
            .iter()
            .filter(|entry| matches!(entry.kind, Kind::Init | Kind::Sidecar))
            .cloned()
            .collect();
        for entry in init {
            let current = self.observed.current(&entry.container.name).cloned();
            let passed = match (entry.kind, &current) {
                (Kind::Init, None) if main_seen => true,
                (Kind::Init, Some(view)) if view.life == Life::Exited && view.exit_code == 0 => {
                    true
                }
                (Kind::Sidecar, Some(view)) if view.life == Life::Running => {
                    self.check_running(&entry, view);
                    self.memory.started.contains(&view.id)
                }
                (_, Some(view)) if view.is_alive() => {
                    self.check_running(&entry, view);
                    false
                }
                _ => {
                    self.start(&entry, current.as_ref());
                    false
                }
            };
            if !passed && !main_seen {
                return false;
            }
        }
        true
    }

    fn start_all(&mut self, kind: Kind) {
        let wanted: Vec<Entry> =
            self.entries.iter().filter(|entry| entry.kind == kind).cloned().collect();
        for entry in wanted {
            match self.observed.current(&entry.container.name).cloned() {
                Some(view) if view.is_alive() => self.check_running(&entry, &view),
                Some(view) if view.life == Life::Exited => {
                    if restarts(self.pod, kind, &entry.container, view.exit_code) {
                        self.start(&entry, Some(&view));
                    }
                }
                Some(view) => self.start(&entry, Some(&view)),
                None => {
                    // In a new sandbox, what had finished for good stays finished.
                    let done = self.observed.newest(&entry.container.name).is_some_and(|view| {
                        view.life == Life::Exited
                            && !restarts(self.pod, kind, &entry.container, view.exit_code)
                    });
                    if !done {
                        self.start(&entry, None);
                    }
                }
            }
        }
    }

    /// A running container is killed when its image changed or a probe gave it up.
    fn check_running(&mut self, entry: &Entry, view: &ContainerView) {
        let name = &entry.container.name;
        if let Some(message) = self.memory.unhealthy.get(&view.id) {
            let probe = entry.container.liveness_probe.as_ref();
            let own = probe.and_then(|probe| probe.termination_grace_period_seconds);
            self.kill(view, own.unwrap_or(grace(self.pod)), &message.clone());
        } else if entry.kind != Kind::Ephemeral
            && !view.hash.is_empty()
            && view.hash != hash(&entry.container)
        {
            let message = format!("Container {name} definition changed, will be restarted");
            self.kill(view, grace(self.pod), &message);
        } else if entry.kind != Kind::Ephemeral
            && let Some(applied) = self.memory.applied.get(&view.id)
            && *applied != entry.container.resources
        {
            self.step(Step::Resize { id: view.id.clone(), name: name.clone() });
        }
    }

    fn start(&mut self, entry: &Entry, previous: Option<&ContainerView>) {
        let name = &entry.container.name;
        let attempt = self.observed.newest(name).map_or(0, |view| view.attempt + 1);
        if let Some(view) = previous
            && let Some(backoff) = self.memory.backoff.get(name)
        {
            let ended = view.finished_at.unwrap_or(view.created_at);
            if age(ended, self.now) < backoff.delay {
                let delay = go_duration(backoff.delay);
                self.plan.waiting.insert(
                    name.clone(),
                    Waiting {
                        reason: "CrashLoopBackOff".to_owned(),
                        message: format!(
                            "back-off {delay} restarting failed container={name} pod={}",
                            self.pod.format()
                        ),
                    },
                );
                return self.wake_at(ended + backoff.delay);
            }
        }
        let restart = previous.is_some();
        self.step(Step::Start { name: name.clone(), attempt, restart });
    }

    fn kill(&mut self, view: &ContainerView, grace_secs: i64, message: &str) {
        let target = Target::Kill(view.id.clone());
        // A kill under way is only overtaken by one with less patience.
        if self.memory.busy.get(&target).is_some_and(|given| *given > grace_secs) {
            self.plan.steps.push(Step::Kill {
                id: view.id.clone(),
                name: view.name.clone(),
                grace_secs,
                message: message.to_owned(),
            });
            return;
        }
        self.step(Step::Kill {
            id: view.id.clone(),
            name: view.name.clone(),
            grace_secs,
            message: message.to_owned(),
        });
    }

    /// Old attempts and old sandboxes go; the newest two containers stay for their status and log.
    fn tidy(&mut self) {
        for list in self.observed.containers.values() {
            for old in list.iter().skip(2).filter(|container| !container.is_alive()) {
                self.plan.steps.extend(
                    Some(Step::RemoveContainer { id: old.id.clone() })
                        .filter(|step| !self.memory.busy.contains_key(&step.target())),
                );
            }
        }
        let stale: Vec<String> = self
            .observed
            .sandboxes
            .iter()
            .skip(1)
            .filter(|old| !self.observed.all().any(|c| c.sandbox_id == old.id && c.is_alive()))
            .map(|old| old.id.clone())
            .collect();
        if self.observed.sandbox().is_some() {
            for id in stale {
                self.step(Step::RemoveSandbox { id });
            }
        }
    }

    /// Main containers stop together, then sidecars from last to first, then the sandbox.
    fn end(&mut self, grace_secs: i64) {
        let kind_of = |name: &str| {
            self.entries.iter().find(|e| e.container.name == name).map_or(Kind::Main, |e| e.kind)
        };
        let alive: Vec<ContainerView> =
            self.observed.all().filter(|c| c.is_alive()).cloned().collect();
        let mains: Vec<&ContainerView> =
            alive.iter().filter(|c| kind_of(&c.name) != Kind::Sidecar).collect();
        if !mains.is_empty() {
            for container in mains {
                let message = format!("Stopping container {}", container.name);
                self.kill(container, grace_secs, &message);
            }
            return;
        }
        let order =
            |name: &str| self.entries.iter().position(|e| e.container.name == name).unwrap_or(0);
        if let Some(last) = alive.iter().max_by_key(|container| order(&container.name)) {
            let message = format!("Stopping container {}", last.name);
            return self.kill(last, grace_secs, &message);
        }
        let starting = self
            .memory
            .busy
            .keys()
            .any(|t| matches!(t, Target::Container(_) | Target::Kill(_) | Target::Volumes));
        if starting {
            return;
        }
        if let Some(sandbox) = self.observed.sandboxes.iter().find(|sandbox| sandbox.ready) {
            return self.step(Step::StopSandbox { id: sandbox.id.clone() });
        }
        if !self.memory.busy.contains_key(&Target::Sandbox) && !self.memory.finished {
            self.step(Step::Finish);
        }
    }
}

/// A duration as Go prints it, for whole seconds.
pub(crate) fn go_duration(duration: Duration) -> String {
    let secs = duration.as_secs();
    let (hours, minutes, seconds) = (secs / 3600, secs / 60 % 60, secs % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// The moment the pod's `activeDeadlineSeconds` is over, and the ending it brings.
pub(crate) fn deadline(pod: &Pod, start: Option<Timestamp>) -> Option<(Timestamp, Ending)> {
    let secs = pod.spec.as_ref()?.active_deadline_seconds?;
    let at = start?.checked_add(Duration::from_secs(u64::try_from(secs).ok()?)).ok()?;
    let ending = Ending::Failed {
        reason: "DeadlineExceeded".to_owned(),
        message: "Pod was active on the node longer than the specified deadline".to_owned(),
        grace_secs: grace(pod),
    };
    Some((at, ending))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
