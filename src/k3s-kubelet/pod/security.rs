//! `securityContext` of pod and container to the runtime's security settings.
//!
//! Pure. Invariant: the container's own value wins over the pod's.

use k8s_openapi::api::core::v1::{
    Container, Pod, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext,
};

use super::env::ConfigError;
use super::labels::PodNames;
use crate::cri::config::*;

/// Paths that `procMount: Default` hides, as upstream lists them.
const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn spec_of(pod: &Pod) -> Option<&PodSpec> {
    pod.spec.as_ref()
}

fn pod_context(pod: &Pod) -> Option<&PodSecurityContext> {
    spec_of(pod)?.security_context.as_ref()
}

/// The namespaces of sandbox and containers.
pub(crate) fn namespaces(pod: &Pod, target_id: Option<String>) -> NamespaceOption {
    let spec = spec_of(pod);
    let on = |value: Option<bool>| value.unwrap_or(false);
    let node_or_pod = |host: bool| if host { NamespaceMode::Node } else { NamespaceMode::Pod };
    let pid = match (target_id.is_some(), spec) {
        (true, _) => NamespaceMode::Target,
        (_, Some(spec)) if on(spec.host_pid) => NamespaceMode::Node,
        (_, Some(spec)) if on(spec.share_process_namespace) => NamespaceMode::Pod,
        _ => NamespaceMode::Container,
    };
    NamespaceOption {
        network: node_or_pod(pod.host_network()).into(),
        pid: pid.into(),
        ipc: node_or_pod(spec.is_some_and(|spec| on(spec.host_ipc))).into(),
        target_id: target_id.unwrap_or_default(),
        userns_options: None,
    }
}

fn seccomp(profile: Option<&SeccompProfile>, seccomp_root: &str) -> SecurityProfile {
    let (profile_type, localhost_ref) = match profile.map(|profile| profile.type_.as_str()) {
        Some("RuntimeDefault") => (ProfileType::RuntimeDefault, String::new()),
        Some("Localhost") => {
            let name = profile.and_then(|p| p.localhost_profile.as_deref()).unwrap_or_default();
            (ProfileType::Localhost, format!("{seccomp_root}/{name}"))
        }
        _ => (ProfileType::Unconfined, String::new()),
    };
    SecurityProfile { profile_type: profile_type.into(), localhost_ref }
}

/// The groups every process of the pod belongs to besides its own.
fn supplemental_groups(pod: &Pod) -> Vec<i64> {
    let context = pod_context(pod);
    let mut groups: Vec<i64> = context.and_then(|context| context.fs_group).into_iter().collect();
    groups.extend(context.and_then(|c| c.supplemental_groups.as_ref()).into_iter().flatten());
    groups
}

pub(crate) fn sandbox(pod: &Pod, seccomp_root: &str) -> LinuxSandboxSecurityContext {
    let context = pod_context(pod);
    let id = |value: Option<i64>| value.map(|value| Int64Value { value });
    let privileged = spec_of(pod).is_some_and(|spec| {
        spec.init_containers.iter().flatten().chain(&spec.containers).any(is_privileged)
    });
    LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod, None)),
        selinux_options: None,
        run_as_user: id(context.and_then(|context| context.run_as_user)),
        run_as_group: id(context.and_then(|context| context.run_as_group)),
        readonly_rootfs: false,
        supplemental_groups: supplemental_groups(pod),
        supplemental_groups_policy: SupplementalGroupsPolicy::Merge.into(),
        privileged,
        // The sandbox itself always runs confined, whatever its containers ask for.
        seccomp: Some(match context.and_then(|context| context.seccomp_profile.as_ref()) {
            Some(profile) => seccomp(Some(profile), seccomp_root),
            None => SecurityProfile {
                profile_type: ProfileType::RuntimeDefault.into(),
                localhost_ref: String::new(),
            },
        }),
        apparmor: None,
    }
}

fn is_privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|context| context.privileged).unwrap_or(false)
}

/// Sysctls of the pod.
pub(crate) fn sysctls(pod: &Pod) -> std::collections::BTreeMap<String, String> {
    pod_context(pod)
        .and_then(|context| context.sysctls.as_ref())
        .into_iter()
        .flatten()
        .map(|sysctl| (sysctl.name.replace('/', "."), sysctl.value.clone()))
        .collect()
}

/// Who the image runs as, when the pod does not say.
pub(crate) struct ImageUser {
    pub(crate) uid: Option<i64>,
    pub(crate) username: String,
}

/// The user that a container will run as, if a number is known.
pub(crate) fn run_as_user(pod: &Pod, container: &Container) -> Option<i64> {
    let own = container.security_context.as_ref().and_then(|context| context.run_as_user);
    own.or_else(|| pod_context(pod).and_then(|context| context.run_as_user))
}

pub(crate) fn container(
    pod: &Pod,
    container: &Container,
    image: &ImageUser,
    target_id: Option<String>,
    seccomp_root: &str,
) -> Result<LinuxContainerSecurityContext, ConfigError> {
    let empty = SecurityContext::default();
    let own = container.security_context.as_ref().unwrap_or(&empty);
    let shared = pod_context(pod);
    let user = run_as_user(pod, container);
    let non_root =
        own.run_as_non_root.or_else(|| shared.and_then(|context| context.run_as_non_root));
    if non_root == Some(true) {
        verify_non_root(pod, container, user, image)?;
    }
    let group = own.run_as_group.or_else(|| shared.and_then(|context| context.run_as_group));
    let privileged = own.privileged.unwrap_or(false);
    let profile =
        own.seccomp_profile.as_ref().or_else(|| shared.and_then(|c| c.seccomp_profile.as_ref()));
    let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let capabilities = own.capabilities.as_ref().map(|capabilities| Capability {
        add_capabilities: list(&capabilities.add),
        drop_capabilities: list(&capabilities.drop),
        add_ambient_capabilities: Vec::new(),
    });
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |paths: &[&str]| {
        if unmasked { Vec::new() } else { paths.iter().map(|path| (*path).to_owned()).collect() }
    };
    let adds_admin = capabilities
        .as_ref()
        .is_some_and(|c| c.add_capabilities.iter().any(|name| name.ends_with("SYS_ADMIN")));
    // Both need privilege escalation to make sense, as upstream decides.
    let no_new_privs = own.allow_privilege_escalation == Some(false) && !privileged && !adds_admin;
    Ok(LinuxContainerSecurityContext {
        capabilities,
        privileged,
        namespace_options: Some(namespaces(pod, target_id)),
        selinux_options: None,
        run_as_user: user
            .or(image.uid.filter(|_| image.username.is_empty()))
            .map(|value| Int64Value { value }),
        run_as_group: group.map(|value| Int64Value { value }),
        run_as_username: if user.is_none() { image.username.clone() } else { String::new() },
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: supplemental_groups(pod),
        supplemental_groups_policy: SupplementalGroupsPolicy::Merge.into(),
        no_new_privs,
        masked_paths: paths(MASKED),
        readonly_paths: paths(READ_ONLY),
        seccomp: Some(seccomp(profile.filter(|_| !privileged), seccomp_root)),
        apparmor: None,
    })
}

fn verify_non_root(
    pod: &Pod,
    container: &Container,
    user: Option<i64>,
    image: &ImageUser,
) -> Result<(), ConfigError> {
    let place = format!("(pod: \"{}\", container: {})", pod.format(), container.name);
    match (user, image.uid) {
        (Some(0), _) => {
            Err(ConfigError(format!("container's runAsUser breaks non-root policy {place}")))
        }
        (Some(_), _) => Ok(()),
        (None, Some(0)) => Err(ConfigError(format!(
            "container has runAsNonRoot and image will run as root {place}"
        ))),
        (None, Some(_)) => Ok(()),
        (None, None) if !image.username.is_empty() => Err(ConfigError(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root {place}",
            image.username
        ))),
        (None, None) => Err(ConfigError(format!(
            "container has runAsNonRoot and image will run as root {place}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(
        pod_level: serde_json::Value,
        own: serde_json::Value,
        test: impl Fn(Result<LinuxContainerSecurityContext, ConfigError>),
    ) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"securityContext": pod_level, "containers": [{"name": "c", "securityContext": own}]}
        }))
        .unwrap();
        let root = ImageUser { uid: Some(0), username: String::new() };
        let spec = pod.spec.as_ref().unwrap();
        test(container(&pod, &spec.containers[0], &root, None, "/seccomp"));
    }

    #[test]
    fn the_container_wins_over_the_pod() {
        check(json!({"runAsUser": 1}), json!({"runAsUser": 2}), |context| {
            assert_eq!(context.unwrap().run_as_user, Some(Int64Value { value: 2 }));
        });
    }

    #[test]
    fn non_root_is_verified() {
        check(json!({"runAsNonRoot": true}), json!({}), |context| {
            assert_eq!(
                context.unwrap_err().0,
                "container has runAsNonRoot and image will run as root (pod: \"p_ns(u)\", container: c)"
            );
        });
        check(json!({"runAsNonRoot": true}), json!({"runAsUser": 5}), |c| assert!(c.is_ok()));
    }

    #[test]
    fn escalation_can_be_forbidden_unless_privileged() {
        check(json!({}), json!({"allowPrivilegeEscalation": false}), |context| {
            let context = context.unwrap();
            assert!(context.no_new_privs && !context.masked_paths.is_empty());
        });
        check(json!({}), json!({"privileged": true}), |context| {
            let context = context.unwrap();
            assert!(!context.no_new_privs && context.masked_paths.is_empty());
        });
    }
}
