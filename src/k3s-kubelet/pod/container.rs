//! A container of a pod to the runtime's configuration.
//!
//! Pure: host paths of volumes and the environment are worked out before.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use super::env::{self, ConfigError};
use super::labels;
use super::resources;
use super::sandbox::identity;
use super::security::{self, ImageUser};
use crate::config::Config;
use crate::cri::config::*;

/// Which list of the spec a container comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Init,
    /// An init container with `restartPolicy: Always`.
    Sidecar,
    Main,
    Ephemeral,
}

/// A container with its kind; ephemeral ones are turned into plain containers.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) container: Container,
    /// The container whose process namespace an ephemeral container joins.
    pub(crate) target: Option<String>,
}

/// All containers of the pod: init, main, ephemeral, in the order of the spec.
pub(crate) fn entries(pod: &Pod) -> Vec<Entry> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let init = spec.init_containers.iter().flatten().map(|container| Entry {
        kind: if container.restart_policy.as_deref() == Some("Always") {
            Kind::Sidecar
        } else {
            Kind::Init
        },
        container: container.clone(),
        target: None,
    });
    let main = spec.containers.iter().map(|container| Entry {
        kind: Kind::Main,
        container: container.clone(),
        target: None,
    });
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| Entry {
        kind: Kind::Ephemeral,
        target: container.target_container_name.clone().filter(|name| !name.is_empty()),
        container: Container {
            name: container.name.clone(),
            image: container.image.clone(),
            image_pull_policy: container.image_pull_policy.clone(),
            command: container.command.clone(),
            args: container.args.clone(),
            env: container.env.clone(),
            env_from: container.env_from.clone(),
            working_dir: container.working_dir.clone(),
            volume_mounts: container.volume_mounts.clone(),
            volume_devices: container.volume_devices.clone(),
            security_context: container.security_context.clone(),
            stdin: container.stdin,
            stdin_once: container.stdin_once,
            tty: container.tty,
            termination_message_path: container.termination_message_path.clone(),
            termination_message_policy: container.termination_message_policy.clone(),
            ..Default::default()
        },
    });
    init.chain(main).chain(ephemeral).collect()
}

/// Changes when the running container no longer is what the spec asks for.
pub(crate) fn hash(container: &Container) -> String {
    let image = container.image.as_deref().unwrap_or_default();
    format!("{:x}", labels::fnv32a(format!("{}\n{image}", container.name).as_bytes()))
}

/// Everything that was worked out before a container can be configured.
pub(crate) struct Prepared<'a> {
    pub(crate) image_ref: String,
    pub(crate) image_user: ImageUser,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) target_id: Option<String>,
    pub(crate) restart_count: u32,
    pub(crate) config: &'a Config,
}

pub(crate) fn config(
    pod: &Pod,
    entry: &Entry,
    prepared: Prepared<'_>,
) -> Result<ContainerConfig, ConfigError> {
    let container = &entry.container;
    let lookup = |name: &str| prepared.env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let expand = |list: &Option<Vec<String>>| {
        list.iter().flatten().map(|word| env::expand(word, &lookup)).collect::<Vec<_>>()
    };
    let node = prepared.config;
    let name = &container.name;
    let security = security::container(
        pod,
        container,
        &prepared.image_user,
        prepared.target_id,
        &node.seccomp_root(),
    )?;
    let resources =
        resources::container_resources(pod, container, node.memory_capacity_bytes, node.oom_group);
    let mut labels = identity(pod);
    labels.insert(labels::CONTAINER_NAME.to_owned(), name.clone());
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.clone(), attempt: prepared.restart_count }),
        image: Some(ImageSpec {
            image: prepared.image_ref,
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..Default::default()
        }),
        command: expand(&container.command),
        args: expand(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: prepared
            .env
            .iter()
            .map(|(key, value)| KeyValue { key: key.clone(), value: value.clone().into_bytes() })
            .collect(),
        mounts: prepared.mounts,
        devices: Vec::new(),
        labels,
        annotations: annotations(pod, container, prepared.restart_count),
        log_path: format!("{name}/{}.log", prepared.restart_count),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        linux: Some(LinuxContainerConfig {
            resources: Some(resources),
            security_context: Some(security),
        }),
        cdi_devices: Vec::new(),
        stop_signal: 0,
    })
}

fn annotations(pod: &Pod, container: &Container, restart_count: u32) -> BTreeMap<String, String> {
    let mut out = BTreeMap::from([
        (labels::HASH.to_owned(), hash(container)),
        (labels::RESTART_COUNT.to_owned(), restart_count.to_string()),
        (labels::MESSAGE_PATH.to_owned(), message_path(container).to_owned()),
        (
            labels::MESSAGE_POLICY.to_owned(),
            container.termination_message_policy.clone().unwrap_or_else(|| "File".to_owned()),
        ),
    ]);
    let grace = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    out.insert(labels::GRACE_PERIOD.to_owned(), grace.unwrap_or(30).to_string());
    if let Some(ports) = &container.ports
        && let Ok(text) = serde_json::to_string(ports)
    {
        out.insert(labels::PORTS.to_owned(), text);
    }
    out
}

pub(crate) fn message_path(container: &Container) -> &str {
    match container.termination_message_path.as_deref() {
        Some(path) if !path.is_empty() => path,
        _ => "/dev/termination-log",
    }
}
