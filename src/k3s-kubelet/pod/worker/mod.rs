//! One pod's worker: observes, plans, performs, reports; waits for whatever comes next.
//!
//! Everything slow runs as an operation beside the loop and comes back as an [`Outcome`], so the
//! loop itself never blocks. Invariant: at most one operation per [`Target`] and one status patch
//! are under way.

mod outcome;
mod perform;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use client::{EventType, Key};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus, ResourceRequirements};
use tokio::sync::{broadcast, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::container::{Entry, entries, message_path};
use super::labels::PodNames;
use super::observe;
use super::oom;
use super::plan::{self, Plan};
use super::prepare::Inputs;
use super::probe::{Finding, ProbeKind};
use super::start::field_path;
use super::state::{Ending, Life, Memory, Observed, Target, Waiting, age};
use crate::admission::Rejection;
use crate::cgroup;
use crate::cri::config::PodSandboxConfig;
use crate::cri::rpc_error;
use crate::shared::Shared;
use crate::volume;

/// How long a runtime may take to show an exit that its event stream announced.
const EXIT_SHOWN_MAX: Duration = Duration::from_secs(2);
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(16);
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
    Started {
        name: String,
        result: Result<String, Waiting>,
    },
    Resized {
        id: String,
        resources: Option<ResourceRequirements>,
        result: Result<(), String>,
    },
    Killed {
        id: String,
        result: Result<(), String>,
    },
    Done {
        target: Target,
        result: Result<(), String>,
    },
    /// `version` is the pod's after the write, 0 when the write failed.
    Patched {
        want: PodStatus,
        version: u64,
        result: Result<(), String>,
        gone: bool,
    },
    Deleted {
        result: Result<(), String>,
    },
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
    /// The version of the pod that `written` made.
    written_version: u64,
    writing: bool,
    write_retry_at: Option<Timestamp>,
    write_failures: u32,
    deleting: bool,
    deleted: bool,
    /// Containers whose exit was announced and is not shown yet.
    exited: BTreeSet<String>,
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
            written_version: 0,
            writing: false,
            write_retry_at: None,
            write_failures: 0,
            deleting: false,
            deleted: false,
            exited: BTreeSet::new(),
            view,
        };
        (worker, heard)
    }

    /// The node does not take the pod: it fails without having begun.
    pub(crate) fn reject(&mut self, rejection: Rejection) {
        let Rejection { reason, message } = rejection;
        self.shared.event(&self.pod, "", EventType::Warning, &reason, message.clone());
        let message = format!("Pod was rejected: {message}");
        self.end(Ending::Failed { reason, message, grace_secs: 0 });
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
        // Whose kills of before they were, only the runtime may know.
        self.memory.kills_known = self.kills().gone;
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

    async fn look(&mut self) {
        let uid = self.pod.uid().to_owned();
        let begun = tokio::time::Instant::now();
        let mut pause = Duration::from_millis(2);
        loop {
            match observe::observe(&self.shared, &uid, &self.observed).await {
                Ok(observed) => self.observed = observed,
                Err(err) => {
                    tracing::warn!(pod = %self.pod.key(), err = %rpc_error(&err),
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
                .any(|view| view.life != Life::Exited && self.exited.contains(&view.id));
            if !pending || begun.elapsed() > EXIT_SHOWN_MAX {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
        // An exit that is not shown yet is waited for again with the next look.
        let shown =
            |id: &String| self.observed.all().all(|v| v.id != *id || v.life == Life::Exited);
        self.exited.retain(|id| !shown(id));
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
        let new: Vec<_> =
            ended.iter().filter(|view| !self.memory.messages.contains_key(&view.id)).collect();
        if !new.is_empty() {
            let kills = self.kills();
            let victims =
                oom::victims(&kills, self.memory.kills_known, &new, &self.memory.out_of_memory);
            self.memory.out_of_memory.extend(victims);
            self.memory.kills_known = kills.explained(&ended);
        }
        for view in ended {
            self.memory.started.remove(&view.id);
            self.memory.ready.remove(&view.id);
            self.memory.unhealthy.remove(&view.id);
            self.memory.applied.remove(&view.id);
            if self.memory.messages.contains_key(&view.id) {
                continue;
            }
            let Some(entry) = entries.iter().find(|entry| entry.container.name == view.name) else {
                continue;
            };
            let container = &entry.container;
            let path = message_path(container);
            let fallback =
                container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
            let message = observe::termination_message(&view, path, fallback);
            self.memory.messages.insert(view.id.clone(), message);
        }
        let known: BTreeSet<String> = self.observed.all().map(|view| view.id.clone()).collect();
        self.memory.messages.retain(|id, _| known.contains(id));
    }

    fn kills(&self) -> oom::Kills {
        oom::kills(&cgroup::memory_folder(&self.pod, &self.shared.config))
    }

    fn hear(&mut self, message: Message) -> bool {
        match message {
            Message::Pod(pod) => {
                let stale = volume::is_stale(&self.pod, &pod);
                self.pod = pod;
                if stale && self.memory.ending.is_none() {
                    self.refresh_volumes();
                }
                self.heed_others();
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
                self.exited.insert(id);
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

    /// Has a pod's volumes brought up to date: now, or when the setup under way is done.
    fn refresh_volumes(&mut self) {
        self.memory.retry_at.remove(&Target::Volumes);
        self.memory.volumes_stale = true;
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
                self.memory.volumes_stale = true;
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
}

fn earliest(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
