//! Security contexts of pods and containers.

use std::collections::HashSet;

use apimachinery::field::{FieldErrors, Path};
use serde_json::Value;

use super::windows;
use crate::registry::internal::renamed;
use crate::registry::validate::one_of;
use crate::registry::value::{at, flag, has, key, list, text};

const ID_RANGE: &str = "must be between 0 and 2147483647, inclusive";
const PROFILES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];
const PATH_MAX: usize = 4095;

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
        let policy = key(context, "fsGroupChangePolicy");
        let valid = &["Always", "OnRootMismatch"];
        one_of(errs, &path.child("fsGroupChangePolicy"), policy, valid);
    }
    seccomp(errs, &path.child("seccompProfile"), key(context, "seccompProfile"));
    windows::options(errs, &path.child("windowsOptions"), key(context, "windowsOptions"));
    app_armor(errs, &path.child("appArmorProfile"), key(context, "appArmorProfile"));
    if has(context, "supplementalGroupsPolicy") {
        let policy = key(context, "supplementalGroupsPolicy");
        one_of(errs, &path.child("supplementalGroupsPolicy"), policy, &["Merge", "Strict"]);
    }
    if has(context, "seLinuxChangePolicy") {
        let policy = key(context, "seLinuxChangePolicy");
        one_of(errs, &path.child("seLinuxChangePolicy"), policy, &["MountOption", "Recursive"]);
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
    seccomp(errs, &path.child("seccompProfile"), key(context, "seccompProfile"));
    if at(context, "allowPrivilegeEscalation").as_bool() == Some(false) {
        if flag(context, "privileged") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errs.invalid(path, renamed(context), detail);
        }
        let added = list(context, "capabilities.add");
        if added.iter().any(|cap| cap == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errs.invalid(path, renamed(context), detail);
        }
    }
    windows::options(errs, &path.child("windowsOptions"), key(context, "windowsOptions"));
    app_armor(errs, &path.child("appArmorProfile"), key(context, "appArmorProfile"));
}

fn id(errs: &mut FieldErrors, path: &Path, value: &Value) {
    if value.as_i64().is_some_and(|id| !(0..=i64::from(i32::MAX)).contains(&id)) {
        errs.invalid(path, value.clone(), ID_RANGE);
    }
}

fn seccomp(errs: &mut FieldErrors, path: &Path, profile: &Value) {
    if profile.is_null() {
        return;
    }
    let kind = text(profile, "type");
    match kind {
        "" => errs.required(path.child("type"), "type is required when seccompProfile is set"),
        _ => one_of(errs, &path.child("type"), key(profile, "type"), PROFILES),
    }
    let local = key(profile, "localhostProfile");
    let path = path.child("localhostProfile");
    if kind != "Localhost" {
        if !local.is_null() {
            errs.invalid(path, renamed(profile), "can only be set when seccomp type is Localhost");
        }
    } else if local.is_null() {
        errs.required(path, "must be set when seccomp type is Localhost");
    } else {
        super::container::local_path(errs, &path, local.as_str().unwrap_or_default());
    }
}

fn app_armor(errs: &mut FieldErrors, path: &Path, profile: &Value) {
    if profile.is_null() {
        return;
    }
    let local = profile.get("localhostProfile").and_then(Value::as_str);
    let here = path.child("localhostProfile");
    match (text(profile, "type"), local) {
        ("Localhost", None) => errs.required(here, "must be set when AppArmor type is Localhost"),
        ("Localhost", Some(name)) => {
            if name.trim() != name {
                errs.invalid(&here, name, "must not be padded with whitespace");
            } else if name.is_empty() {
                errs.required(&here, "must be set when AppArmor type is Localhost");
            }
            if name.len() > PATH_MAX {
                errs.too_long(here, PATH_MAX);
            }
        }
        ("RuntimeDefault" | "Unconfined", Some(name)) => {
            errs.invalid(here, name, "can only be set when AppArmor type is Localhost");
        }
        ("RuntimeDefault" | "Unconfined", None) => {}
        ("", _) => {
            errs.required(path.child("type"), "type is required when appArmorProfile is set");
        }
        (kind, _) => errs.not_supported(path.child("type"), kind, PROFILES),
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
