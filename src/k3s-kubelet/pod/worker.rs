//! One pod's worker: observes, plans, performs, reports; waits for whatever comes next.
//!
//! Everything slow runs as an operation beside the loop and comes back as an [`Outcome`], so the
//! loop itself never blocks. Invariant: at most one operation per [`Target`] and one status patch
//! are under way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use client::{EventType, Key, Patch};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{broadcast, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::container::{Entry, Kind, entries};
use super::labels::PodNames;
use super::plan::{self, Plan, Step};
use super::prepare::{self, Inputs};
use super::probe::{self, Finding, ProbeKind, Subject};
use super::start::{self, Start, field_path};
use super::state::{Backoff, Ending, Life, Memory, Observed, Target, Waiting, age};
use super::status::{self, NodeFacts};
use super::{observe, sandbox};
use crate::cri::config::PodSandboxConfig;
use crate::cri::rpc_error;
use crate::shared::Shared;
use crate::typed::PODS;
use crate::{cgroup, volume};

/// How long a runtime may take to show an exit that its event stream announced.
const EXIT_SHOWN_MAX: Duration = Duration::from_secs(2);
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(16);
const PULL_RETRY_FIRST: Duration = Duration::from_secs(10);
const PULL_RETRY_MAX: Duration = Duration::from_secs(300);
const IDLE: Duration = Duration::from_secs(600);

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// The pod as the API or its manifest has it now.
    Pod(Arc<Pod>),
    /// A static pod's mirror, whose status this worker writes.
    Mirror(Option<Arc<Pod>>),
    /// The pod is gone from its source.
    Gone,
    /// The runtime may have changed.
    Look,
    /// This container has exited.
    Exited(String),
    OutOfMemory(String),
    /// The node needs the pod's resources back.
    Evict {
        reason: String,
        message: String,
        grace_secs: i64,
    },
}

/// What others may see of a worker.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) status: PodStatus,
    pub(crate) observed: Observed,
}

enum Outcome {
    Volumes(Result<Inputs, String>),
    Sandbox(Result<String, Waiting>),
    Started { name: String, result: Result<String, Waiting> },
    Killed { id: String, result: Result<(), String> },
    Done { target: Target, result: Result<(), String> },
    Patched { want: PodStatus, result: Result<(), String>, gone: bool },
    Deleted { result: Result<(), String> },
}

pub(crate) struct Worker {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    /// Where the status goes: the pod itself, or the mirror of a static pod.
    mirror: Option<Arc<Pod>>,
    is_static: bool,
    gone: bool,
    memory: Memory,
    observed: Observed,
    inputs: Inputs,
    sandbox_config: PodSandboxConfig,
    operations: JoinSet<(Target, Outcome)>,
    aborts: BTreeMap<Target, AbortHandle>,
    probes: BTreeMap<(String, ProbeKind), AbortHandle>,
    probe_tasks: JoinSet<()>,
    findings: mpsc::Sender<Finding>,
    written: PodStatus,
    writing: bool,
    write_retry_at: Option<Timestamp>,
    write_failures: u32,
    deleting: bool,
    deleted: bool,
    exited: BTreeMap<String, Timestamp>,
    view: tokio::sync::watch::Sender<View>,
}

impl Worker {
    pub(crate) fn new(
        shared: Arc<Shared>,
        pod: Arc<Pod>,
        is_static: bool,
        view: tokio::sync::watch::Sender<View>,
    ) -> (Worker, mpsc::Receiver<Finding>) {
        let (findings, heard) = mpsc::channel(64);
        let written = pod.status.clone().unwrap_or_default();
        let mut memory = Memory { start_time: Some(Timestamp::now()), ..Default::default() };
        if let Some(status) = &pod.status {
            memory.start_time = status.start_time.as_ref().map(|t| t.0).or(memory.start_time);
            memory.ips = status.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
        }
        let worker = Worker {
            shared,
            pod,
            mirror: None,
            is_static,
            gone: false,
            memory,
            observed: Observed::default(),
            inputs: Inputs::default(),
            sandbox_config: PodSandboxConfig::default(),
            operations: JoinSet::new(),
            aborts: BTreeMap::new(),
            probes: BTreeMap::new(),
            probe_tasks: JoinSet::new(),
            findings,
            written,
            writing: false,
            write_retry_at: None,
            write_failures: 0,
            deleting: false,
            deleted: false,
            exited: BTreeMap::new(),
            view,
        };
        (worker, heard)
    }

    /// Runs until the pod is gone from runtime and source, or until `stop`, which leaves it running.
    pub(crate) async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Message>,
        mut heard: mpsc::Receiver<Finding>,
        stop: CancellationToken,
    ) {
        let mut changes = self.shared.objects.changes();
        self.adopt().await;
        let mut look = false;
        loop {
            if look && !self.is_over() {
                self.look().await;
            }
            let wake_at = self.advance();
            if self.is_over() {
                break;
            }
            let pause = wake_at.map_or(IDLE, |at| age(Timestamp::now(), at)).min(IDLE);
            look = tokio::select! {
                () = stop.cancelled() => break,
                message = inbox.recv() => match message {
                    Some(message) => self.hear(message),
                    None => break,
                },
                Some(done) = self.operations.join_next() => match done {
                    Ok((target, outcome)) => self.finish(target, outcome),
                    Err(_) => true,
                },
                Some(finding) = heard.recv() => self.judge(finding),
                changed = changes.recv() => self.objects_changed(changed),
                () = tokio::time::sleep(pause) => true,
            };
        }
        self.operations.shutdown().await;
        self.probe_tasks.shutdown().await;
    }

    fn is_over(&self) -> bool {
        let ended = matches!(self.memory.ending, Some(Ending::Deleted { .. }));
        ended && self.memory.finished && (self.gone || self.deleted || self.shared.rest.is_none())
    }

    /// Takes over what already runs: nothing that was ready becomes unready by a restart.
    async fn adopt(&mut self) {
        self.look().await;
        self.consider_deletion();
        let known: BTreeSet<(String, bool, bool)> = self
            .pod
            .status
            .iter()
            .flat_map(|status| {
                status
                    .container_statuses
                    .iter()
                    .flatten()
                    .chain(status.init_container_statuses.iter().flatten())
            })
            .map(|s| {
                let id = s.container_id.as_deref().and_then(|id| id.split("//").nth(1));
                (id.unwrap_or_default().to_owned(), s.started == Some(true), s.ready)
            })
            .collect();
        for (id, started, ready) in known {
            if started {
                self.memory.started.insert(id.clone());
            }
            if ready {
                self.memory.ready.insert(id);
            }
        }
        let pod = Arc::clone(&self.pod);
        self.sandbox_config = self.sandbox_config_for(&pod, 0).unwrap_or_default();
    }

    fn sandbox_config_for(&self, pod: &Pod, attempt: u32) -> Result<PodSandboxConfig, Waiting> {
        let resolv = std::fs::read_to_string(&self.shared.config.resolv_conf).unwrap_or_default();
        sandbox::config(pod, &self.shared.config, &resolv, attempt).map_err(|err| Waiting {
            reason: "CreatePodSandboxConfigError".to_owned(),
            message: err.0,
        })
    }

    async fn look(&mut self) {
        let uid = self.pod.uid().to_owned();
        let begun = tokio::time::Instant::now();
        let mut pause = Duration::from_millis(2);
        loop {
            match observe::observe(&self.shared, &uid, &self.observed).await {
                Ok(observed) => self.observed = observed,
                Err(err) => {
                    tracing::warn!(pod = %self.pod.format(), err = %rpc_error(&err),
                        "Runtime was not readable, retrying");
                    self.memory
                        .retry_at
                        .insert(Target::Remove("look".into()), Timestamp::now() + RETRY_FIRST);
                    return;
                }
            }
            let pending = self
                .observed
                .all()
                .any(|view| view.life == Life::Running && self.exited.contains_key(&view.id));
            if !pending || begun.elapsed() > EXIT_SHOWN_MAX {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
        self.exited.clear();
        self.note_exits();
        if let Some(sandbox) = self.observed.sandbox()
            && !sandbox.ips.is_empty()
        {
            self.memory.ips = sandbox.ips.clone();
        }
    }

    /// Reads the last words of what ended, and forgets what was true only while it ran.
    fn note_exits(&mut self) {
        let entries = entries(&self.pod);
        let ended: Vec<_> =
            self.observed.all().filter(|view| view.life == Life::Exited).cloned().collect();
        for view in ended {
            self.memory.started.remove(&view.id);
            self.memory.ready.remove(&view.id);
            self.memory.unhealthy.remove(&view.id);
            if self.memory.messages.contains_key(&view.id) {
                continue;
            }
            let Some(entry) = entries.iter().find(|entry| entry.container.name == view.name) else {
                continue;
            };
            let container = &entry.container;
            let path = super::container::message_path(container);
            let fallback =
                container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
            let message = observe::termination_message(&view, path, fallback);
            self.memory.messages.insert(view.id.clone(), message);
        }
        let known: BTreeSet<String> = self.observed.all().map(|view| view.id.clone()).collect();
        self.memory.messages.retain(|id, _| known.contains(id));
    }

    fn hear(&mut self, message: Message) -> bool {
        match message {
            Message::Pod(pod) => {
                self.pod = pod;
                // A change may be the cure for what failed.
                self.memory.retry_at.retain(|target, _| {
                    !matches!(target, Target::Volumes)
                        && !matches!(target, Target::Container(name)
                            if self.memory.waiting.get(name).is_some_and(|w| w.reason.starts_with("Create")))
                });
                self.consider_deletion();
                false
            }
            Message::Mirror(mirror) => {
                if let Some(mirror) = &mirror {
                    self.written = mirror.status.clone().unwrap_or_default();
                }
                self.mirror = mirror;
                false
            }
            Message::Gone => {
                self.gone = true;
                if !matches!(self.memory.ending, Some(Ending::Deleted { .. })) {
                    let grace_secs = plan::grace(&self.pod);
                    self.end(Ending::Deleted { grace_secs });
                }
                false
            }
            Message::Look => true,
            Message::Exited(id) => {
                self.exited.insert(id, Timestamp::now());
                true
            }
            Message::OutOfMemory(id) => {
                self.memory.out_of_memory.insert(id);
                false
            }
            Message::Evict { reason, message, grace_secs } => {
                if self.memory.ending.is_none() {
                    let warning = EventType::Warning;
                    self.shared.event(&self.pod, "", warning, "Evicted", message.clone());
                    self.end(Ending::Failed { reason, message, grace_secs });
                }
                false
            }
        }
    }

    fn consider_deletion(&mut self) {
        if self.pod.metadata.deletion_timestamp.is_none() {
            return;
        }
        let asked = self.pod.metadata.deletion_grace_period_seconds;
        let grace_secs = asked.unwrap_or_else(|| plan::grace(&self.pod)).max(1);
        match &self.memory.ending {
            Some(Ending::Deleted { grace_secs: given }) if *given <= grace_secs => {}
            _ => self.end(Ending::Deleted { grace_secs }),
        }
    }

    /// Ends the pod; what is being started is given up.
    fn end(&mut self, ending: Ending) {
        self.memory.ending = Some(ending);
        self.memory.finished = false;
        self.memory.retry_at.clear();
        let starts: Vec<Target> = self
            .aborts
            .keys()
            .filter(|t| matches!(t, Target::Container(_) | Target::Volumes))
            .cloned()
            .collect();
        for target in starts {
            if let Some(abort) = self.aborts.remove(&target) {
                abort.abort();
            }
            self.memory.busy.remove(&target);
        }
        // A sandbox that waits for the network would wait for ever.
        if self.observed.sandbox().is_none()
            && let Some(abort) = self.aborts.remove(&Target::Sandbox)
        {
            abort.abort();
            self.memory.busy.remove(&Target::Sandbox);
        }
    }

    fn objects_changed(&mut self, changed: Result<Key, broadcast::error::RecvError>) -> bool {
        let ours = match changed {
            Ok(key) => key.namespace == self.pod.namespace() && self.inputs.uses(&key.name),
            Err(_) => true,
        };
        if ours && self.memory.ending.is_none() {
            self.refresh_volumes();
            self.memory.retry_at.retain(|target, _| !matches!(target, Target::Container(_)));
        }
        false
    }

    /// Brings a running pod's volumes up to date.
    fn refresh_volumes(&mut self) {
        self.memory.retry_at.remove(&Target::Volumes);
        if self.memory.volumes_ready && !self.memory.busy.contains_key(&Target::Volumes) {
            self.perform(Step::SetUpVolumes);
        } else {
            self.memory.volumes_ready = false;
        }
    }

    /// Plans, performs and reports; returns when to look again at the latest.
    fn advance(&mut self) -> Option<Timestamp> {
        let now = Timestamp::now();
        let deadline = plan::deadline(&self.pod, self.memory.start_time);
        let mut wake_at = None;
        if self.memory.ending.is_none()
            && let Some((at, ending)) = deadline
        {
            if at <= now {
                let warning = EventType::Warning;
                let message = "Pod was active on the node longer than the specified deadline";
                self.shared.event(&self.pod, "", warning, "DeadlineExceeded", message.to_owned());
                self.end(ending);
            } else {
                wake_at = earliest(wake_at, Some(at));
            }
        }
        if self.memory.ending.is_none()
            && let Some(at) = self.inputs.renew_at
        {
            if at <= now {
                self.refresh_volumes();
            } else {
                wake_at = earliest(wake_at, Some(at));
            }
        }
        if !(self.memory.finished && matches!(self.memory.ending, Some(Ending::Deleted { .. }))) {
            let plan = plan::plan(&self.pod, &self.observed, &self.memory, now);
            wake_at = earliest(wake_at, plan.wake_at);
            self.note_waiting(&plan);
            for step in plan.steps {
                self.perform(step);
            }
        }
        self.sync_probes();
        if let Some(at) = self.memory.retry_at.remove(&Target::Remove("look".into())) {
            wake_at = earliest(wake_at, Some(at));
        }
        earliest(wake_at, self.report(now))
    }

    fn note_waiting(&mut self, plan: &Plan) {
        for (name, waiting) in &plan.waiting {
            if self.memory.waiting.get(name) == Some(waiting) {
                continue;
            }
            self.memory.waiting.insert(name.clone(), waiting.clone());
            let message =
                format!("Back-off restarting failed container {name} in pod {}", self.pod.format());
            let path = self.entry(name).map(|entry| field_path(&entry)).unwrap_or_default();
            self.shared.event(&self.pod, &path, EventType::Warning, "BackOff", message);
        }
    }

    fn entry(&self, name: &str) -> Option<Entry> {
        entries(&self.pod).into_iter().find(|entry| entry.container.name == name)
    }

    fn operate<F>(&mut self, target: Target, grace_secs: i64, operation: F)
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let key = target.clone();
        let abort = self.operations.spawn(async move { (key, operation.await) });
        if let Some(old) = self.aborts.insert(target.clone(), abort) {
            old.abort();
        }
        self.memory.busy.insert(target, grace_secs);
    }

    fn perform(&mut self, step: Step) {
        let target = step.target();
        let (shared, pod) = (Arc::clone(&self.shared), Arc::clone(&self.pod));
        match step {
            Step::SetUpVolumes => {
                let (inputs, ips) = (self.inputs.clone(), self.memory.ips.clone());
                self.operate(target, 0, async move {
                    Outcome::Volumes(prepare::prepare(&shared, &pod, inputs, &ips).await)
                });
            }
            Step::CreateSandbox { attempt } => {
                let config = self.sandbox_config_for(&pod, attempt);
                if let Ok(config) = &config {
                    self.sandbox_config = config.clone();
                }
                self.operate(target, 0, async move {
                    let result = match config {
                        Ok(config) => create_sandbox(&shared, &pod, config).await,
                        Err(waiting) => Err(waiting),
                    };
                    Outcome::Sandbox(result)
                });
            }
            Step::Start { name, attempt, restart } => self.start(target, name, attempt, restart),
            Step::Kill { id, name, grace_secs, message } => {
                self.kill(target, id, &name, grace_secs, message);
            }
            Step::RemoveContainer { id } => self.operate(target.clone(), 0, async move {
                let result = shared.runtime.remove_container(&id).await;
                Outcome::Done { target, result: ignoring_absence(result) }
            }),
            Step::StopSandbox { id } => self.operate(target.clone(), 0, async move {
                let result = shared.runtime.stop_sandbox(&id).await;
                Outcome::Done { target, result: ignoring_absence(result) }
            }),
            Step::RemoveSandbox { id } => self.operate(target.clone(), 0, async move {
                let result = async {
                    shared.runtime.stop_sandbox(&id).await?;
                    shared.runtime.remove_sandbox(&id).await
                };
                Outcome::Done { target, result: ignoring_absence(result.await) }
            }),
            Step::Finish => {
                let observed = self.observed.clone();
                let deleted = matches!(self.memory.ending, Some(Ending::Deleted { .. }));
                self.operate(target.clone(), 0, async move {
                    let result = release(&shared, &pod, &observed, deleted).await;
                    Outcome::Done { target, result: result.map_err(|err| format!("{err:#}")) }
                });
            }
        }
    }

    fn start(&mut self, target: Target, name: String, attempt: u32, restart: bool) {
        let (Some(entry), Some(sandbox)) = (self.entry(&name), self.observed.sandbox()) else {
            return;
        };
        if restart {
            let next = Backoff::next(self.memory.backoff.get(&name).copied(), Timestamp::now());
            self.memory.backoff.insert(name.clone(), next);
        }
        let target_id = entry
            .target
            .as_ref()
            .and_then(|target| self.observed.current(target))
            .map(|view| view.id.clone());
        let pod_ips = if self.pod.host_network() {
            self.shared.host_ips.clone()
        } else {
            sandbox.ips.clone()
        };
        let start = Start {
            pod: Arc::clone(&self.pod),
            entry,
            attempt,
            sandbox_id: sandbox.id.clone(),
            sandbox: self.sandbox_config.clone(),
            pod_ips,
            volumes: Arc::clone(&self.inputs.volumes),
            objects: Arc::clone(&self.inputs.objects),
            target_id,
        };
        let shared = Arc::clone(&self.shared);
        self.operate(target, 0, async move {
            Outcome::Started { name, result: start::start(&shared, start).await }
        });
    }

    fn kill(&mut self, target: Target, id: String, name: &str, grace_secs: i64, message: String) {
        let entry = self.entry(name);
        let again = self.memory.busy.contains_key(&target);
        if !again {
            let path = entry.as_ref().map(field_path).unwrap_or_default();
            self.shared.event(&self.pod, &path, EventType::Normal, "Killing", message);
        }
        // The hook ran, or runs, with the first kill; a shorter grace only hastens the end.
        let entry = entry.filter(|_| !again);
        let (shared, pod) = (Arc::clone(&self.shared), Arc::clone(&self.pod));
        let ip = self.own_ip();
        self.operate(target, grace_secs, async move {
            let result = start::stop(&shared, &pod, entry.as_ref(), &id, &ip, grace_secs).await;
            Outcome::Killed { id, result }
        });
    }

    fn own_ip(&self) -> String {
        let ips = if self.pod.host_network() { &self.shared.host_ips } else { &self.memory.ips };
        ips.first().cloned().unwrap_or_default()
    }

    /// Takes the result of an operation; true when the runtime is to be looked at.
    fn finish(&mut self, target: Target, outcome: Outcome) -> bool {
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
                self.failed(target, &message, RETRY_FIRST, RETRY_MAX);
                false
            }
            Outcome::Sandbox(Ok(id)) => {
                self.shared.own(&id, self.pod.uid());
                self.succeeded(&target);
                true
            }
            Outcome::Sandbox(Err(waiting)) => {
                let message = format!("Failed to create pod sandbox: {}", waiting.message);
                let warning = EventType::Warning;
                self.shared.event(&self.pod, "", warning, "FailedCreatePodSandBox", message);
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
            Outcome::Patched { want, result, gone } => {
                self.writing = false;
                self.gone |= gone && !self.is_static;
                match result {
                    Ok(()) => {
                        self.written = want;
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
    fn name_image_back_off(&mut self) {
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

    fn succeeded(&mut self, target: &Target) {
        self.memory.failures.remove(target);
        self.memory.retry_at.remove(target);
    }

    fn failed(&mut self, target: Target, message: &str, first: Duration, most: Duration) {
        let failures = self.memory.failures.entry(target.clone()).or_default();
        let pause = (first * 2_u32.saturating_pow((*failures).min(10))).min(most);
        *failures += 1;
        tracing::warn!(pod = %self.pod.format(), err = %message, step = ?target, ?pause,
            "Step failed, retrying");
        self.memory.retry_at.insert(target, Timestamp::now() + pause);
    }

    fn judge(&mut self, finding: Finding) -> bool {
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

    /// Starts probes of running containers and ends those of others.
    fn sync_probes(&mut self) {
        let ip = self.own_ip();
        let ending = self.memory.ending.is_some();
        let mut wanted = BTreeSet::new();
        for entry in entries(&self.pod) {
            let name = &entry.container.name;
            let Some(view) = self.observed.current(name).cloned() else { continue };
            let starting = self.memory.busy.contains_key(&Target::Container(name.clone()));
            if view.life != Life::Running || starting {
                continue;
            }
            if entry.kind == Kind::Init || entry.kind == Kind::Ephemeral {
                self.memory.started.insert(view.id.clone());
                continue;
            }
            let started = self.memory.started.contains(&view.id);
            if !started && entry.container.startup_probe.is_some() {
                wanted.insert((view.id.clone(), ProbeKind::Startup));
            } else {
                self.memory.started.insert(view.id.clone());
                match entry.container.readiness_probe {
                    Some(_) => {
                        wanted.insert((view.id.clone(), ProbeKind::Readiness));
                    }
                    None => {
                        self.memory.ready.insert(view.id.clone());
                    }
                }
                if entry.container.liveness_probe.is_some() && !ending {
                    wanted.insert((view.id.clone(), ProbeKind::Liveness));
                }
            }
            for kind in [ProbeKind::Startup, ProbeKind::Readiness, ProbeKind::Liveness] {
                let key = (view.id.clone(), kind);
                if !wanted.contains(&key) || self.probes.contains_key(&key) {
                    continue;
                }
                let subject = Subject {
                    pod: Arc::clone(&self.pod),
                    container: entry.container.clone(),
                    kind,
                    id: view.id.clone(),
                    pod_ip: ip.clone(),
                    started_at: view.started_at.unwrap_or_else(Timestamp::now),
                };
                let run = probe::run(Arc::clone(&self.shared), subject, self.findings.clone());
                let abort = self.probe_tasks.spawn(run);
                self.probes.insert(key, abort);
            }
        }
        self.probes.retain(|key, abort| {
            let keep = wanted.contains(key);
            if !keep {
                abort.abort();
            }
            keep
        });
        while self.probe_tasks.try_join_next().is_some() {}
    }

    /// Publishes the status and writes it to the API when it differs; then deletes a pod that ended.
    fn report(&mut self, now: Timestamp) -> Option<Timestamp> {
        let facts = NodeFacts { host_ips: &self.shared.host_ips };
        // Conditions keep the times that this worker last wrote, not what a late watch event has.
        let mut pod = Pod::clone(&self.pod);
        let mut base = pod.status.take().unwrap_or_default();
        merge_written(&mut base, &self.written);
        pod.status = Some(base);
        let want = status::status(&pod, &self.observed, &self.memory, &facts, now);
        self.view.send_if_modified(|view| {
            let changed = view.status != want || view.observed != self.observed;
            if changed {
                *view = View { status: want.clone(), observed: self.observed.clone() };
            }
            changed
        });
        let Some(rest) = self.shared.rest.clone() else {
            self.written = want;
            return None;
        };
        if self.writing || self.gone && !self.is_static {
            return None;
        }
        if let Some(at) = self.write_retry_at
            && at > now
        {
            return Some(at);
        }
        let of =
            if self.is_static { Arc::clone(self.mirror.as_ref()?) } else { Arc::clone(&self.pod) };
        let key = Key::new(of.namespace(), of.name());
        if let Some(patch) = status::patch(of.uid(), &self.written, &want) {
            self.writing = true;
            let target = Target::Remove("patch".into());
            self.operations.spawn(async move {
                let sent = rest
                    .patch::<serde::de::IgnoredAny>(&PODS, &key, "status", Patch::Strategic, &patch)
                    .await;
                let gone = sent
                    .as_ref()
                    .is_err_and(|err| client::is_not_found(err) || client::is_conflict(err));
                let result = match sent {
                    Ok(_) => Ok(()),
                    Err(_) if gone => Ok(()),
                    Err(err) => Err(format!("writing the status: {err}")),
                };
                (target, Outcome::Patched { want, result, gone })
            });
            return None;
        }
        let over =
            matches!(self.memory.ending, Some(Ending::Deleted { .. })) && self.memory.finished;
        let asked = self.pod.metadata.deletion_timestamp.is_some();
        if over && asked && !self.is_static && !self.deleting && !self.deleted {
            self.deleting = true;
            self.writing = true;
            let options = serde_json::json!({
                "gracePeriodSeconds": 0, "preconditions": {"uid": of.uid()}
            });
            let target = Target::Remove("delete".into());
            self.operations.spawn(async move {
                let result = match rest.delete_with(&PODS, &key, options).await {
                    Err(err) if !client::is_not_found(&err) && !client::is_conflict(&err) => {
                        Err(format!("deleting the pod: {err}"))
                    }
                    _ => Ok(()),
                };
                (target, Outcome::Deleted { result })
            });
        }
        None
    }

    fn write_failed(&mut self, message: &str) {
        let pause =
            (RETRY_FIRST * 2_u32.saturating_pow(self.write_failures.min(10))).min(RETRY_MAX);
        self.write_failures += 1;
        self.write_retry_at = Some(Timestamp::now() + pause);
        tracing::warn!(pod = %self.pod.format(), err = %message, "API was not written, retrying");
    }
}

/// What this kubelet wrote last wins over what the watch has brought so far.
fn merge_written(base: &mut PodStatus, written: &PodStatus) {
    let mut conditions = base.conditions.take().unwrap_or_default();
    for condition in written.conditions.iter().flatten() {
        match conditions.iter_mut().find(|have| have.type_ == condition.type_) {
            Some(have) if have.status == condition.status => {
                have.last_transition_time = condition.last_transition_time.clone();
            }
            Some(have) => *have = condition.clone(),
            None => conditions.push(condition.clone()),
        }
    }
    base.conditions = Some(conditions);
    if written.phase.is_some() {
        base.phase = written.phase.clone();
        base.reason = written.reason.clone();
        base.message = written.message.clone();
        base.container_statuses = written.container_statuses.clone();
        base.init_container_statuses = written.init_container_statuses.clone();
        base.ephemeral_container_statuses = written.ephemeral_container_statuses.clone();
        base.start_time = base.start_time.clone().or_else(|| written.start_time.clone());
    }
}

fn earliest(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn ignoring_absence(result: Result<(), tonic::Status>) -> Result<(), String> {
    match result {
        Err(status) if status.code() != tonic::Code::NotFound => Err(rpc_error(&status)),
        _ => Ok(()),
    }
}

async fn create_sandbox(
    shared: &Shared,
    pod: &Pod,
    config: PodSandboxConfig,
) -> Result<String, Waiting> {
    let failure = |message: String| Waiting { reason: "FailedCreatePodSandBox".into(), message };
    if !pod.host_network() {
        let mut network = shared.network.clone();
        let reason = network.borrow().clone();
        if let Some(reason) = reason {
            let message = format!("network is not ready: {reason}");
            shared.event(pod, "", EventType::Warning, "NetworkNotReady", message);
            // The sender lives as long as the kubelet.
            let _ = network.wait_for(Option::is_none).await;
        }
    }
    cgroup::ensure(pod, &shared.config).map_err(|err| failure(format!("{err:#}")))?;
    let logs = sandbox::log_directory(pod, &shared.config);
    std::fs::create_dir_all(&logs)
        .map_err(|err| failure(format!("creating {}: {err}", logs.display())))?;
    let class = pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref());
    if let Some(class) = class.filter(|class| !class.is_empty()) {
        tracing::debug!(pod = %pod.format(), class, "Runtime class is passed as the handler's name");
    }
    shared
        .runtime
        .run_sandbox(config, class.unwrap_or_default())
        .await
        .map_err(|err| failure(rpc_error(&err)))
}

/// Gives back what the pod held. Containers and logs of a finished pod stay until it is deleted.
async fn release(
    shared: &Shared,
    pod: &Pod,
    observed: &Observed,
    deleted: bool,
) -> anyhow::Result<()> {
    if deleted {
        for view in observed.all() {
            ignoring_absence(shared.runtime.remove_container(&view.id).await)
                .map_err(anyhow::Error::msg)?;
        }
        for sandbox in &observed.sandboxes {
            ignoring_absence(shared.runtime.remove_sandbox(&sandbox.id).await)
                .map_err(anyhow::Error::msg)?;
        }
    }
    let dir = start::pod_dir(shared, pod);
    let logs = sandbox::log_directory(pod, &shared.config);
    let links = shared.config.container_log_dir.clone();
    let prefix = format!("{}_{}_", pod.name(), pod.namespace());
    tokio::task::spawn_blocking(move || {
        if !deleted {
            volume::teardown(&dir.join("volume-subpaths"))?;
            return volume::teardown(&dir.join("volumes"));
        }
        volume::teardown(&dir)?;
        for link in std::fs::read_dir(&links).into_iter().flatten().flatten() {
            if link.file_name().to_string_lossy().starts_with(&prefix) {
                std::fs::remove_file(link.path())?;
            }
        }
        match std::fs::remove_dir_all(&logs) {
            Err(err) if err.kind() != std::io::ErrorKind::NotFound => Err(err.into()),
            _ => Ok(()),
        }
    })
    .await??;
    if let Err(err) = cgroup::remove(pod, &shared.config) {
        tracing::warn!(pod = %pod.format(), err = %format!("{err:#}"), "Cgroup was not removed, ignoring");
    }
    if deleted {
        shared.disown(pod.uid());
    }
    Ok(())
}
