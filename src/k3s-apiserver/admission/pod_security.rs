//! PodSecurity: the three levels of pod security that a namespace's labels ask for.
//!
//! `violations` is pure: a level and a pod spec in, upstream's words out.

use apimachinery::status::Status;
use serde_json::Value;

use super::Attributes;
use crate::registry::Object;
use crate::registry::value::{at, flag, has, key, list, text, texts};

const PREFIX: &str = "pod-security.kubernetes.io/";
const CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
const SELINUX_TYPES: &[&str] =
    &["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
const SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];
const VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
    "image",
];

/// The pod template of a kind that has one.
const TEMPLATES: &[(&str, &str, &str)] = &[
    ("", "podtemplates", "template"),
    ("", "replicationcontrollers", "spec.template"),
    ("apps", "deployments", "spec.template"),
    ("apps", "replicasets", "spec.template"),
    ("apps", "statefulsets", "spec.template"),
    ("apps", "daemonsets", "spec.template"),
    ("batch", "jobs", "spec.template"),
    ("batch", "cronjobs", "spec.jobTemplate.spec.template"),
];

/// Refuses pods that the namespace's level does not allow; warns for pods and templates.
pub(super) fn check(
    cx: &Attributes<'_>,
    object: &Object,
    old: Option<&Object>,
    warnings: &mut Vec<String>,
) -> Result<(), Status> {
    let template = TEMPLATES
        .iter()
        .find(|(group, resource, _)| *group == cx.group && *resource == cx.resource)
        .map(|(_, _, path)| *path);
    let is_pod = cx.group.is_empty()
        && cx.resource == "pods"
        && matches!(cx.subresource, "" | "ephemeralcontainers");
    let pod = match template {
        Some(path) if cx.subresource.is_empty() => at(object, path),
        _ if is_pod => object,
        _ => return Ok(()),
    };
    if old.is_some_and(|old| {
        template.map_or(at(old, "spec") == at(object, "spec"), |path| at(old, path) == pod)
    }) {
        return Ok(());
    }
    let Some(namespace) = cx.cluster.get("namespaces", "", cx.namespace) else { return Ok(()) };
    let label = |name: &str| namespace.label(&format!("{PREFIX}{name}"));
    let version = |mode: &str| label(&format!("{mode}-version")).unwrap_or("latest").to_owned();
    if is_pod && let Some(level) = label("enforce") {
        let found = violations(level, pod);
        if !found.is_empty() {
            let detail = format!(
                "violates PodSecurity \"{level}:{}\": {}",
                version("enforce"),
                found.join(", ")
            );
            return Err(cx.forbidden_for(Some(object), &detail));
        }
    }
    if let Some(level) = label("warn") {
        let found = violations(level, pod);
        if !found.is_empty() {
            warnings.push(format!(
                "would violate PodSecurity \"{level}:{}\": {}",
                version("warn"),
                found.join(", ")
            ));
        }
    }
    Ok(())
}

/// What a pod has that a level forbids, each as `what (why)`.
pub(super) fn violations(level: &str, pod: &Value) -> Vec<String> {
    let mut out = Vec::new();
    if level == "privileged" {
        return out;
    }
    let spec = at(pod, "spec");
    let checks: &[(bool, fn(&Value) -> Option<String>)] = &[
        (false, host_namespaces),
        (false, privileged),
        (true, privilege_escalation),
        (true, restricted_capabilities),
        (false, capabilities),
        (false, host_path),
        (true, volume_types),
        (false, host_ports),
        (false, app_armor),
        (false, se_linux),
        (false, proc_mount),
        (false, sysctls),
        (true, run_as_non_root),
        (true, run_as_user),
        (false, seccomp_baseline),
        (true, seccomp_restricted),
    ];
    let restricted = level == "restricted";
    for (only_restricted, check) in checks {
        // The stricter check of a pair stands for both.
        let replaced = restricted
            && [capabilities as fn(&Value) -> Option<String>, host_path, seccomp_baseline]
                .iter()
                .any(|base| std::ptr::fn_addr_eq(*base, *check));
        if (*only_restricted && !restricted) || replaced {
            continue;
        }
        out.extend(check(spec));
    }
    out
}

fn all(spec: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|kind| list(spec, kind))
}

/// `container "a"` or `containers "a", "b"`.
fn named(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    format!("container{} {}", if names.len() == 1 { "" } else { "s" }, quoted.join(", "))
}

fn failing(spec: &Value, bad: impl Fn(&Value) -> bool) -> Vec<&str> {
    all(spec).filter(|c| bad(key(c, "securityContext"))).map(|c| text(c, "name")).collect()
}

fn host_namespaces(spec: &Value) -> Option<String> {
    let set: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|field| flag(spec, field))
        .map(|field| format!("{field}=true"))
        .collect();
    (!set.is_empty()).then(|| format!("host namespaces ({})", set.join(", ")))
}

fn privileged(spec: &Value) -> Option<String> {
    let bad = failing(spec, |context| flag(context, "privileged"));
    (!bad.is_empty()).then(|| {
        format!("privileged ({} must not set securityContext.privileged=true)", named(&bad))
    })
}

fn privilege_escalation(spec: &Value) -> Option<String> {
    let bad =
        failing(spec, |context| at(context, "allowPrivilegeEscalation").as_bool() != Some(false));
    (!bad.is_empty()).then(|| format!("allowPrivilegeEscalation != false ({} must set securityContext.allowPrivilegeEscalation=false)", named(&bad)))
}

fn added(spec: &Value, allowed: &[&str]) -> (Vec<String>, Vec<String>) {
    let (mut names, mut caps) = (Vec::new(), Vec::new());
    for container in all(spec) {
        let bad: Vec<&str> = texts(container, "securityContext.capabilities.add")
            .filter(|cap| !allowed.contains(cap))
            .collect();
        if !bad.is_empty() {
            names.push(text(container, "name").to_owned());
            caps.extend(bad.iter().map(|cap| format!("{cap:?}")));
        }
    }
    caps.sort();
    caps.dedup();
    (names, caps)
}

fn must_not_add(spec: &Value, allowed: &[&str]) -> Option<String> {
    let (names, caps) = added(spec, allowed);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    (!names.is_empty()).then(|| {
        format!(
            "{} must not include {} in securityContext.capabilities.add",
            named(&names),
            caps.join(", ")
        )
    })
}

fn capabilities(spec: &Value) -> Option<String> {
    must_not_add(spec, CAPABILITIES).map(|text| format!("non-default capabilities ({text})"))
}

fn restricted_capabilities(spec: &Value) -> Option<String> {
    let keeps =
        failing(spec, |context| !texts(context, "capabilities.drop").any(|cap| cap == "ALL"));
    let mut parts = Vec::new();
    if !keeps.is_empty() {
        parts.push(format!(
            "{} must set securityContext.capabilities.drop=[\"ALL\"]",
            named(&keeps)
        ));
    }
    parts.extend(must_not_add(spec, &["NET_BIND_SERVICE"]));
    (!parts.is_empty()).then(|| format!("unrestricted capabilities ({})", parts.join("; ")))
}

fn host_path(spec: &Value) -> Option<String> {
    let bad: Vec<String> = list(spec, "volumes")
        .iter()
        .filter(|v| has(v, "hostPath"))
        .map(|v| format!("{:?}", text(v, "name")))
        .collect();
    let plural = if bad.len() == 1 { "" } else { "s" };
    (!bad.is_empty()).then(|| format!("hostPath volumes (volume{plural} {})", bad.join(", ")))
}

fn volume_types(spec: &Value) -> Option<String> {
    let (mut names, mut types) = (Vec::new(), Vec::new());
    for volume in list(spec, "volumes") {
        let kind = volume.as_object().into_iter().flatten().find(|(name, source)| {
            *name != "name" && !source.is_null() && !VOLUMES.contains(&name.as_str())
        });
        if let Some((kind, _)) = kind {
            names.push(format!("{:?}", text(volume, "name")));
            types.push(format!("{kind:?}"));
        }
    }
    types.sort();
    types.dedup();
    let (volumes, verb) = if names.len() == 1 { ("volume", "uses") } else { ("volumes", "use") };
    let kinds = if types.len() == 1 { "type" } else { "types" };
    (!names.is_empty()).then(|| {
        format!(
            "restricted volume types ({volumes} {} {verb} restricted volume {kinds} {})",
            names.join(", "),
            types.join(", ")
        )
    })
}

fn host_ports(spec: &Value) -> Option<String> {
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for container in all(spec) {
        let bad: Vec<i64> = list(container, "ports")
            .iter()
            .filter_map(|p| key(p, "hostPort").as_i64())
            .filter(|n| *n != 0)
            .collect();
        if !bad.is_empty() {
            names.push(text(container, "name"));
            ports.extend(bad);
        }
    }
    ports.sort_unstable();
    ports.dedup();
    let shown: Vec<String> = ports.iter().map(ToString::to_string).collect();
    let verb = if names.len() == 1 { "uses" } else { "use" };
    let plural = if shown.len() == 1 { "" } else { "s" };
    (!names.is_empty()).then(|| {
        format!("hostPort ({} {verb} hostPort{plural} {})", named(&names), shown.join(", "))
    })
}

/// Who sets a field to a forbidden value: the pod, containers, or both.
fn setters(spec: &Value, path: &str, bad: impl Fn(&str) -> bool) -> Option<(String, Vec<String>)> {
    let mut values = Vec::new();
    let mut who = Vec::new();
    let of_pod = text(at(spec, "securityContext"), path);
    if bad(of_pod) {
        who.push("pod".to_owned());
        values.push(format!("{of_pod:?}"));
    }
    let names: Vec<&str> = all(spec)
        .filter(|c| bad(text(key(c, "securityContext"), path)))
        .map(|c| {
            values.push(format!("{:?}", text(key(c, "securityContext"), path)));
            text(c, "name")
        })
        .collect();
    if !names.is_empty() {
        who.push(named(&names));
    }
    values.sort();
    values.dedup();
    (!who.is_empty()).then(|| (who.join(" and "), values))
}

fn app_armor(spec: &Value) -> Option<String> {
    let (who, values) = setters(spec, "appArmorProfile.type", |kind| {
        !matches!(kind, "" | "RuntimeDefault" | "Localhost")
    })?;
    Some(format!(
        "forbidden AppArmor profile ({who} must not set AppArmor profile type to {})",
        values.join(", ")
    ))
}

fn se_linux(spec: &Value) -> Option<String> {
    let mut parts = Vec::new();
    let mut who = Vec::new();
    if let Some((by, values)) =
        setters(spec, "seLinuxOptions.type", |kind| !SELINUX_TYPES.contains(&kind))
    {
        who.push(by);
        let plural = if values.len() == 1 { "" } else { "s" };
        parts.push(format!("type{plural} {}", values.join(", ")));
    }
    for (field, word) in [("user", "user may not be set"), ("role", "role may not be set")] {
        if let Some((by, _)) =
            setters(spec, &format!("seLinuxOptions.{field}"), |value| !value.is_empty())
        {
            if !who.contains(&by) {
                who.push(by);
            }
            parts.push(word.to_owned());
        }
    }
    (!parts.is_empty()).then(|| {
        format!(
            "seLinuxOptions ({} set forbidden securityContext.seLinuxOptions: {})",
            who.join(" and "),
            parts.join("; ")
        )
    })
}

fn proc_mount(spec: &Value) -> Option<String> {
    let (who, values) = setters(spec, "procMount", |kind| !matches!(kind, "" | "Default"))?;
    Some(format!(
        "procMount ({who} must not set securityContext.procMount to {})",
        values.join(", ")
    ))
}

fn sysctls(spec: &Value) -> Option<String> {
    let bad: Vec<&str> = list(spec, "securityContext.sysctls")
        .iter()
        .map(|s| text(s, "name"))
        .filter(|name| !SYSCTLS.contains(name))
        .collect();
    (!bad.is_empty()).then(|| format!("forbidden sysctls ({})", bad.join(", ")))
}

fn run_as_non_root(spec: &Value) -> Option<String> {
    // A pod in its own user namespace may run as root: it is not root outside.
    if at(spec, "hostUsers").as_bool() == Some(false) {
        return None;
    }
    let of_pod = at(spec, "securityContext.runAsNonRoot").as_bool();
    let explicit = failing(spec, |context| at(context, "runAsNonRoot").as_bool() == Some(false));
    let mut parts = Vec::new();
    if of_pod == Some(false) {
        parts.push("pod must not set securityContext.runAsNonRoot=false".to_owned());
    }
    if !explicit.is_empty() {
        parts.push(format!("{} must not set securityContext.runAsNonRoot=false", named(&explicit)));
    }
    if parts.is_empty() && of_pod != Some(true) {
        let unset = failing(spec, |context| at(context, "runAsNonRoot").is_null());
        if !unset.is_empty() {
            parts.push(format!(
                "pod or {} must set securityContext.runAsNonRoot=true",
                named(&unset)
            ));
        }
    }
    (!parts.is_empty()).then(|| format!("runAsNonRoot != true ({})", parts.join(" and ")))
}

fn run_as_user(spec: &Value) -> Option<String> {
    if at(spec, "hostUsers").as_bool() == Some(false) {
        return None;
    }
    let mut who = Vec::new();
    if at(spec, "securityContext.runAsUser").as_i64() == Some(0) {
        who.push("pod".to_owned());
    }
    let bad = failing(spec, |context| at(context, "runAsUser").as_i64() == Some(0));
    if !bad.is_empty() {
        who.push(named(&bad));
    }
    (!who.is_empty())
        .then(|| format!("runAsUser=0 ({} must not set runAsUser=0)", who.join(" and ")))
}

fn seccomp_baseline(spec: &Value) -> Option<String> {
    let (who, values) = setters(spec, "seccompProfile.type", |kind| {
        !matches!(kind, "" | "RuntimeDefault" | "Localhost")
    })?;
    Some(format!(
        "seccompProfile ({who} must not set securityContext.seccompProfile.type to {})",
        values.join(", ")
    ))
}

fn seccomp_restricted(spec: &Value) -> Option<String> {
    if let Some(found) = seccomp_baseline(spec) {
        return Some(found);
    }
    if !text(spec, "securityContext.seccompProfile.type").is_empty() {
        return None;
    }
    let unset = failing(spec, |context| text(context, "seccompProfile.type").is_empty());
    (!unset.is_empty()).then(|| format!("seccompProfile (pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")", named(&unset)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_plain_pod_is_baseline_but_not_restricted() {
        let pod = json!({"spec": {"containers": [{"name": "main"}]}});
        assert!(violations("baseline", &pod).is_empty());
        assert_eq!(violations("restricted", &pod).len(), 4);
        let host = json!({"spec": {"hostNetwork": true, "containers": [{"name": "main"}]}});
        assert_eq!(violations("baseline", &host), ["host namespaces (hostNetwork=true)"]);
    }
}
