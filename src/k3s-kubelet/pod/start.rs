//! Starting one container: image, environment, mounts, create, start, `postStart`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::EventType;
use k8s_openapi::api::core::v1::{Pod, Secret, Service};

use super::container::{self, Entry, Prepared};
use super::env::{self, ConfigError, Objects};
use super::labels::PodNames;
use super::security::ImageUser;
use super::state::Waiting;
use super::{hook, sandbox};
use crate::cri::config::{Mount, MountPropagation, PodSandboxConfig};
use crate::cri::image::Image;
use crate::cri::rpc_error;
use crate::image::Note;
use crate::shared::Shared;
use crate::volume::{self, Volume};

const HOOK_LIMIT: Duration = Duration::from_secs(3600);

/// What a start needs to know.
pub(crate) struct Start {
    pub(crate) pod: Arc<Pod>,
    pub(crate) entry: Entry,
    pub(crate) attempt: u32,
    pub(crate) sandbox_id: String,
    pub(crate) sandbox: PodSandboxConfig,
    pub(crate) pod_ips: Vec<String>,
    pub(crate) volumes: Arc<Vec<Volume>>,
    pub(crate) objects: Arc<Objects>,
    pub(crate) target_id: Option<String>,
}

/// `spec.containers{name}`, as events name a container.
pub(crate) fn field_path(entry: &Entry) -> String {
    let list = match entry.kind {
        container::Kind::Init | container::Kind::Sidecar => "initContainers",
        container::Kind::Main => "containers",
        container::Kind::Ephemeral => "ephemeralContainers",
    };
    format!("spec.{list}{{{}}}", entry.container.name)
}

/// Starts the container and runs its hook; the id on success, else why it waits.
pub(crate) async fn start(shared: &Shared, start: Start) -> Result<String, Waiting> {
    let result = create_and_start(shared, &start).await;
    if let Err(waiting) = &result {
        let path = field_path(&start.entry);
        let message = match waiting.reason.as_str() {
            "ErrImagePull" => {
                let image = start.entry.container.image.as_deref().unwrap_or_default();
                let failed = format!("Failed to pull image \"{image}\": {}", waiting.message);
                shared.event(&start.pod, &path, EventType::Warning, "Failed", failed);
                "Error: ErrImagePull".to_owned()
            }
            "InvalidImageName" => {
                let message = waiting.message.clone();
                let pod = &start.pod;
                shared.event(pod, &path, EventType::Warning, "InspectFailed", message);
                "Error: InvalidImageName".to_owned()
            }
            _ => format!("Error: {}", waiting.message),
        };
        shared.event(&start.pod, &path, EventType::Warning, "Failed", message);
    }
    result
}

async fn create_and_start(shared: &Shared, start: &Start) -> Result<String, Waiting> {
    let (pod, entry) = (&start.pod, &start.entry);
    let path = field_path(entry);
    let image = ensure_image(shared, start, &path).await?;
    let wait = |reason: &str, message: String| Waiting { reason: reason.to_owned(), message };
    let config_error = |ConfigError(message)| wait("CreateContainerConfigError", message);
    let services: Vec<Service> = match &shared.services {
        Some(lister) => lister.list().iter().map(|typed| Service::clone(typed)).collect(),
        None => Vec::new(),
    };
    let env = env::environment(
        pod,
        &entry.container,
        &start.objects,
        &services,
        &shared.facts(&start.pod_ips),
    )
    .map_err(config_error)?;
    let mounts = mounts(shared, start, &env)
        .map_err(|err| wait("CreateContainerConfigError", format!("{err:#}")))?;
    let config = container::config(
        pod,
        entry,
        Prepared {
            image_ref: image.id.clone(),
            image_user: ImageUser {
                uid: image.uid.map(|uid| uid.value).or(image.username.is_empty().then_some(0)),
                username: image.username.clone(),
            },
            env,
            mounts,
            target_id: start.target_id.clone(),
            restart_count: start.attempt,
            config: &shared.config,
        },
    )
    .map_err(config_error)?;
    let logs = sandbox::log_directory(pod, &shared.config).join(&entry.container.name);
    std::fs::create_dir_all(&logs).map_err(|err| {
        wait("CreateContainerError", format!("creating {}: {err}", logs.display()))
    })?;
    let id = shared
        .runtime
        .create_container(&start.sandbox_id, config, start.sandbox.clone())
        .await
        .map_err(|err| wait("CreateContainerError", err.message().to_owned()))?;
    shared.own(&id, pod.uid());
    let name = &entry.container.name;
    let normal = EventType::Normal;
    shared.event(pod, &path, normal, "Created", format!("Container created: {name}"));
    link_log(shared, start, &id);
    shared
        .runtime
        .start_container(&id)
        .await
        .map_err(|err| wait("RunContainerError", err.message().to_owned()))?;
    shared.event(pod, &path, normal, "Started", format!("Container started: {name}"));
    post_start(shared, start, &id, &path).await?;
    Ok(id)
}

async fn ensure_image(shared: &Shared, start: &Start, path: &str) -> Result<Image, Waiting> {
    let container = &start.entry.container;
    let name = container.image.as_deref().unwrap_or_default();
    let secrets = pull_secrets(&start.pod, &start.objects);
    let note = |note: Note| {
        let (reason, message) = note.told(name);
        shared.event(&start.pod, path, EventType::Normal, reason, message);
    };
    let policy = container.image_pull_policy.as_deref();
    shared.images.ensure(name, policy, &secrets, &start.sandbox, &note).await
}

/// The Secrets that the pod's images are pulled with.
pub(crate) fn pull_secrets(pod: &Pod, objects: &Objects) -> Vec<Arc<Secret>> {
    let references = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    references.filter_map(|reference| objects.secrets.get(&reference.name)?.clone()).collect()
}

async fn post_start(shared: &Shared, start: &Start, id: &str, path: &str) -> Result<(), Waiting> {
    let container = &start.entry.container;
    let handler = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref());
    let Some(handler) = handler else { return Ok(()) };
    let ip = start.pod_ips.first().map(String::as_str).unwrap_or_default();
    let result = hook::run(&shared.runtime, handler, container, id, ip, HOOK_LIMIT).await;
    let Err(message) = result else { return Ok(()) };
    tracing::warn!(pod = %start.pod.key(), container = %container.name, err = %message,
        "Hook postStart failed, killing the container");
    shared.event(
        &start.pod,
        path,
        EventType::Warning,
        "FailedPostStartHook",
        "PostStartHook failed".to_owned(),
    );
    let killing = "FailedPostStartHook".to_owned();
    shared.event(&start.pod, path, EventType::Normal, "Killing", killing);
    let grace = super::plan::grace(&start.pod);
    if let Err(err) = shared.runtime.stop_container(id, grace).await {
        tracing::warn!(container = %id, %err, "Container was not stopped, retrying with the next plan");
    }
    Err(Waiting { reason: "PostStartHookError".to_owned(), message })
}

/// `/var/log/containers/<pod>_<ns>_<container>-<id>.log`, which log shippers look for.
fn link_log(shared: &Shared, start: &Start, id: &str) {
    let (pod, name) = (&start.pod, &start.entry.container.name);
    let dir = &shared.config.container_log_dir;
    let link = dir.join(format!("{}_{}_{name}-{id}.log", pod.name(), pod.namespace()));
    let target = sandbox::log_directory(pod, &shared.config)
        .join(name)
        .join(format!("{}.log", start.attempt));
    let made =
        std::fs::create_dir_all(dir).and_then(|()| std::os::unix::fs::symlink(target, &link));
    if let Err(err) = made {
        tracing::warn!(%err, "Log link {} was not made, going on", link.display());
    }
}

/// `<root>/pods/<uid>`
pub(crate) fn pod_dir(shared: &Shared, pod: &Pod) -> PathBuf {
    shared.config.pods_dir().join(pod.uid())
}

fn mounts(shared: &Shared, start: &Start, env: &[(String, String)]) -> anyhow::Result<Vec<Mount>> {
    let container = &start.entry.container;
    let dir = pod_dir(shared, &start.pod);
    let by_name: BTreeMap<&str, &Volume> =
        start.volumes.iter().map(|volume| (volume.name.as_str(), volume)).collect();
    let mut out = Vec::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let volume = by_name
            .get(mount.name.as_str())
            .ok_or_else(|| anyhow::anyhow!("no volume {:?} for its mount", mount.name))?;
        let mut host = volume.path(&dir);
        let sub = match (&mount.sub_path, &mount.sub_path_expr) {
            (_, Some(expr)) if !expr.is_empty() => Some(expand_strictly(expr, env)?),
            (Some(sub), _) if !sub.is_empty() => Some(sub.clone()),
            _ => None,
        };
        if let Some(sub) = sub {
            anyhow::ensure!(!sub.starts_with('/'), "subPath {sub:?} must be a relative path");
            anyhow::ensure!(
                !Path::new(&sub).components().any(|c| c == std::path::Component::ParentDir),
                "subPath {sub:?} must not contain '..'"
            );
            let place = dir
                .join("volume-subpaths")
                .join(&mount.name)
                .join(&container.name)
                .join(format!("{index}-{}", start.attempt));
            host = volume::bind_subpath(&host, &sub, &place)?;
        }
        let propagation = match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => MountPropagation::HostToContainer,
            Some("Bidirectional") => MountPropagation::Bidirectional,
            _ => MountPropagation::Private,
        };
        out.push(Mount {
            container_path: absolute(&mount.mount_path),
            host_path: sandbox::path_text(&host),
            readonly: mount.read_only.unwrap_or(false) || volume.is_read_only(),
            propagation: propagation.into(),
            ..Default::default()
        });
    }
    if !out.iter().any(|mount| mount.container_path == "/etc/hosts") {
        out.push(plain("/etc/hosts", &hosts_file(shared, start, &dir)?));
    }
    let messages = dir.join("containers").join(&container.name).join(start.attempt.to_string());
    if let Some(parent) = messages.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(&messages, b"")?;
    // Any user of the container may write its last words.
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&messages, std::fs::Permissions::from_mode(0o666))?;
    out.push(plain(container::message_path(container), &messages));
    Ok(out)
}

fn plain(container_path: &str, host_path: &Path) -> Mount {
    Mount {
        container_path: container_path.to_owned(),
        host_path: sandbox::path_text(host_path),
        ..Default::default()
    }
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

fn expand_strictly(expr: &str, env: &[(String, String)]) -> anyhow::Result<String> {
    let missing = std::cell::RefCell::new(Vec::new());
    let out = env::expand(expr, &|name| {
        let found = env.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
        if found.is_none() {
            missing.borrow_mut().push(name.to_owned());
        }
        found
    });
    let missing = missing.into_inner();
    anyhow::ensure!(missing.is_empty(), "missing value for {missing:?} in subPathExpr {expr:?}");
    Ok(out)
}

fn hosts_file(shared: &Shared, start: &Start, dir: &Path) -> anyhow::Result<PathBuf> {
    let path = dir.join("etc-hosts");
    let node = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let text = sandbox::hosts_file(&start.pod, &start.pod_ips, &shared.config, &node);
    if std::fs::read_to_string(&path).ok().as_deref() != Some(text.as_str()) {
        std::fs::write(&path, text)?;
    }
    Ok(path)
}

/// Stops a container: `preStop` first, within the grace it shares with the stop.
pub(crate) async fn stop(
    shared: &Shared,
    pod: &Pod,
    entry: Option<&Entry>,
    id: &str,
    ip: &str,
    grace_secs: i64,
) -> Result<(), String> {
    let mut left = grace_secs;
    let handler = entry
        .and_then(|entry| entry.container.lifecycle.as_ref()?.pre_stop.as_ref())
        .filter(|_| grace_secs > 0);
    if let (Some(handler), Some(entry)) = (handler, entry) {
        let limit = Duration::from_secs(u64::try_from(grace_secs).unwrap_or(0));
        let begun = tokio::time::Instant::now();
        let run = hook::run(&shared.runtime, handler, &entry.container, id, ip, limit).await;
        if let Err(message) = run {
            tracing::warn!(pod = %pod.key(), container = %entry.container.name, err = %message,
                "Hook preStop failed, stopping the container");
            shared.event(
                pod,
                &field_path(entry),
                EventType::Warning,
                "FailedPreStopHook",
                "PreStopHook failed".to_owned(),
            );
        }
        let used = i64::try_from(begun.elapsed().as_secs()).unwrap_or(i64::MAX);
        // Upstream leaves at least two seconds between the hook and the end.
        left = grace_secs.saturating_sub(used).max(2);
    }
    match shared.runtime.stop_container(id, left).await {
        Err(status) if status.code() != tonic::Code::NotFound => Err(rpc_error(&status)),
        _ => Ok(()),
    }
}
