//! Security contexts of pods and containers.

use std::collections::HashSet;

use serde_json::Value;

use crate::registry::field::{FieldErrors, Path};
use crate::registry::value::{at, flag, has, key, list, text};

const ID_RANGE: &str = "must be between 0 and 2147483647, inclusive";
const SECCOMP: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];

/// `spec.securityContext`.
pub(super) fn validate_pod(errs: &mut FieldErrors, path: &Path, spec: &Value) {
    let context = at(spec, "securityContext");
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(errs, &path.child(field), key(context, field));
    }
    for (n, group) in list(context, "supplementalGroups").iter().enumerate() {
        id(errs, &path.child("supplementalGroups").index(n), group);
    }
    if flag(spec, "shareProcessNamespace") && flag(spec, "hostPID") {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errs.invalid(path.child("shareProcessNamespace"), true, detail);
    }
    sysctls(errs, path, spec, context);
    if has(context, "fsGroupChangePolicy") {
        let policy = text(context, "fsGroupChangePolicy");
        if !matches!(policy, "Always" | "OnRootMismatch") {
            errs.not_supported(
                path.child("fsGroupChangePolicy"),
                policy,
                &["Always", "OnRootMismatch"],
            );
        }
    }
    profile(errs, &path.child("seccompProfile"), key(context, "seccompProfile"), "seccomp");
    profile(errs, &path.child("appArmorProfile"), key(context, "appArmorProfile"), "AppArmor");
    if has(context, "supplementalGroupsPolicy") {
        let policy = text(context, "supplementalGroupsPolicy");
        if !matches!(policy, "Merge" | "Strict") {
            errs.not_supported(
                path.child("supplementalGroupsPolicy"),
                policy,
                &["Merge", "Strict"],
            );
        }
    }
}

/// `securityContext` of a container.
pub(super) fn validate_container(
    errs: &mut FieldErrors,
    path: &Path,
    container: &Value,
    spec: &Value,
) {
    let context = key(container, "securityContext");
    if context.is_null() {
        return;
    }
    id(errs, &path.child("runAsUser"), key(context, "runAsUser"));
    id(errs, &path.child("runAsGroup"), key(context, "runAsGroup"));
    if has(context, "procMount") {
        let kind = text(context, "procMount");
        if !matches!(kind, "Default" | "Unmasked") {
            errs.not_supported(path.child("procMount"), kind, &["Default", "Unmasked"]);
        }
        if kind == "Unmasked" && at(spec, "hostUsers").as_bool() != Some(false) {
            let detail = "`hostUsers` must be false to use `Unmasked`";
            errs.invalid(path.child("procMount"), kind, detail);
        }
    }
    profile(errs, &path.child("seccompProfile"), key(context, "seccompProfile"), "seccomp");
    profile(errs, &path.child("appArmorProfile"), key(context, "appArmorProfile"), "AppArmor");
    if at(context, "allowPrivilegeEscalation").as_bool() == Some(false) {
        if flag(context, "privileged") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errs.invalid(path, context.clone(), detail);
        }
        let added = list(context, "capabilities.add");
        if added.iter().any(|cap| cap == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errs.invalid(path, context.clone(), detail);
        }
    }
}

fn id(errs: &mut FieldErrors, path: &Path, value: &Value) {
    if value.as_i64().is_some_and(|id| !(0..=i64::from(i32::MAX)).contains(&id)) {
        errs.invalid(path, value.clone(), ID_RANGE);
    }
}

/// A seccomp or AppArmor profile.
fn profile(errs: &mut FieldErrors, path: &Path, profile: &Value, what: &str) {
    if profile.is_null() {
        return;
    }
    let kind = text(profile, "type");
    let local = key(profile, "localhostProfile");
    let here = path.child("localhostProfile");
    if kind == "Localhost" {
        if local.is_null() {
            errs.required(here, format!("must be set when {what} type is Localhost"));
        } else if what == "seccomp" {
            super::container::local_path(errs, &here, local.as_str().unwrap_or_default());
        }
    } else if !local.is_null() {
        let detail = format!("can only be set when {what} type is Localhost");
        errs.invalid(here, local.clone(), detail);
    }
    match kind {
        "" => errs.required(
            path.child("type"),
            if what == "seccomp" {
                "type is required when seccompProfile is set"
            } else {
                "type is required when appArmorProfile is set"
            },
        ),
        kind if SECCOMP.contains(&kind) => {}
        kind => errs.not_supported(path.child("type"), kind, SECCOMP),
    }
}

fn sysctls(errs: &mut FieldErrors, path: &Path, spec: &Value, context: &Value) {
    let mut seen = HashSet::new();
    for (n, sysctl) in list(context, "sysctls").iter().enumerate() {
        let path = path.child("sysctls").index(n).child("name");
        let name = text(sysctl, "name");
        let plain = |part: &str| {
            let b = part.as_bytes();
            let word = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
            b.first().is_some_and(word)
                && b.last().is_some_and(word)
                && b.iter().all(|c| word(c) || b"-_".contains(c))
        };
        if name.is_empty() {
            errs.required(path, "");
        } else if name.len() > 253 || !name.split(['.', '/']).all(plain) {
            let detail = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errs.invalid(path, name, detail);
        } else if !seen.insert(name) {
            errs.duplicate(path, name);
        } else if flag(spec, "hostNetwork") && name.starts_with("net.") {
            errs.invalid(path, name, "may not be specified when 'hostNetwork' is true");
        } else if flag(spec, "hostIPC")
            && (name.starts_with("kernel.shm")
                || name.starts_with("kernel.msg")
                || name == "kernel.sem"
                || name.starts_with("fs.mqueue."))
        {
            errs.invalid(path, name, "may not be specified when 'hostIPC' is true");
        }
    }
}
