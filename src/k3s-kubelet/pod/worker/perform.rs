//! Performing steps: each becomes an operation beside the worker's loop.

use std::collections::BTreeSet;
use std::sync::Arc;

use client::EventType;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::super::container::{Kind, entries};
use super::super::devices;
use super::super::labels::PodNames;
use super::super::plan::Step;
use super::super::probe::{self, ProbeKind, Subject};
use super::super::start::{self, Start, field_path};
use super::super::state::{Backoff, Ending, Life, Observed, Target, Waiting};
use super::super::{prepare, resources, sandbox};
use super::{Outcome, Worker};
use crate::cri::config::PodSandboxConfig;
use crate::cri::rpc_error;
use crate::shared::Shared;
use crate::{cgroup, volume};

impl Worker {
    pub(super) fn sandbox_config_for(
        &self,
        pod: &Pod,
        attempt: u32,
    ) -> Result<PodSandboxConfig, Waiting> {
        let resolv = std::fs::read_to_string(&self.shared.config.resolv_conf).unwrap_or_default();
        sandbox::config(pod, &self.shared.config, &resolv, attempt).map_err(|err| Waiting {
            reason: "CreatePodSandboxConfigError".to_owned(),
            message: err.0,
        })
    }

    pub(super) fn operate<F>(&mut self, target: Target, grace_secs: i64, operation: F)
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

    pub(super) fn perform(&mut self, step: Step) {
        let target = step.target();
        let (shared, pod) = (Arc::clone(&self.shared), Arc::clone(&self.pod));
        match step {
            Step::SetUpVolumes => {
                self.memory.volumes_stale = false;
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
            Step::Resize { id, name } => {
                let Some(entry) = self.entry(&name) else { return };
                self.operate(target, 0, async move {
                    let resources = entry.container.resources.clone();
                    let result = resize(&shared, &pod, &entry.container, &id).await;
                    Outcome::Resized { id, resources, result }
                });
            }
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

    pub(super) fn start(&mut self, target: Target, name: String, attempt: u32, restart: bool) {
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

    pub(super) fn kill(
        &mut self,
        target: Target,
        id: String,
        name: &str,
        grace_secs: i64,
        message: String,
    ) {
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

    pub(super) fn own_ip(&self) -> String {
        let ips = if self.pod.host_network() { &self.shared.host_ips } else { &self.memory.ips };
        ips.first().cloned().unwrap_or_default()
    }

    /// Starts probes of running containers and ends those of others.
    pub(super) fn sync_probes(&mut self) {
        let ip = self.own_ip();
        let ending = self.memory.ending.is_some();
        let mut wanted = BTreeSet::new();
        for entry in entries(&self.pod) {
            let name = &entry.container.name;
            let Some(view) = self.observed.current(name).cloned() else { continue };
            let spec = || entry.container.resources.clone();
            self.memory.applied.entry(view.id.clone()).or_insert_with(spec);
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
    devices::prepare(shared.rest.as_ref(), pod).await.map_err(|err| Waiting {
        reason: devices::FAILED.into(),
        message: format!("Failed to prepare dynamic resources: {err:#}"),
    })?;
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
    cgroup::ensure(pod, &shared.config).await.map_err(|err| failure(format!("{err:#}")))?;
    let logs = sandbox::log_directory(pod, &shared.config);
    std::fs::create_dir_all(&logs)
        .map_err(|err| failure(format!("creating {}: {err}", logs.display())))?;
    let class = pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref());
    if let Some(class) = class.filter(|class| !class.is_empty()) {
        tracing::debug!(pod = %pod.key(), class, "Runtime class is passed as the handler's name");
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
    volume::image::release(&shared.runtime, &dir).await?;
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
    if let Err(err) = cgroup::remove(pod, &shared.config).await {
        tracing::warn!(pod = %pod.key(), err = %format!("{err:#}"), "Cgroup was not removed, ignoring");
    }
    if deleted {
        shared.disown(pod.uid());
    }
    Ok(())
}

/// Raises what is above the container first and lowers it last.
async fn resize(shared: &Shared, pod: &Pod, container: &Container, id: &str) -> Result<(), String> {
    let config = &shared.config;
    let first = cgroup::ensure(pod, config).await;
    let wanted = resources::container_resources(
        pod,
        container,
        config.memory_capacity_bytes,
        config.oom_group,
    );
    shared.runtime.update_resources(id, wanted).await.map_err(|err| rpc_error(&err))?;
    if first.is_err() {
        cgroup::ensure(pod, config).await.map_err(|err| format!("{err:#}"))?;
    }
    Ok(())
}
