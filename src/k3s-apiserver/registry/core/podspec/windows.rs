//! What pods of either operating system may not set, and the options of Windows containers.

use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::subdomain_problems;
use serde_json::Value;

use super::each_container;
use crate::registry::validate::problems;
use crate::registry::value::{at, flag, has, is_zero, key, text};

const NOT_WINDOWS: &str = "cannot be set for a windows pod";
const SPEC_MAX_KIB: usize = 64;
const DOMAIN_MAX: usize = 256;
const USER_MAX: usize = 104;

/// `os`, and what goes with it.
pub(super) fn operating_system(errs: &mut FieldErrors, path: &Path, spec: &Value) {
    if !has(spec, "os") {
        return;
    }
    let os = path.child("os");
    match text(spec, "os.name") {
        "" => errs.required(os.child("name"), "cannot be empty"),
        "linux" => linux(errs, path, spec),
        "windows" => windows(errs, path, spec),
        name => errs.not_supported(os, name, &["linux", "windows"]),
    }
}

fn linux(errs: &mut FieldErrors, path: &Path, spec: &Value) {
    let mut check = |path: &Path, holder: &Value| {
        if has(holder, "securityContext.windowsOptions") {
            let path = path.child("securityContext").child("windowsOptions");
            errs.forbidden(path, "windows options cannot be set for a linux pod");
        }
    };
    check(path, spec);
    for (path, container) in each_container(path, spec) {
        check(&path, container);
    }
}

fn windows(errs: &mut FieldErrors, path: &Path, spec: &Value) {
    // Where a field is in the API, in the order of upstream's checks.
    const POD: &[&str] = &[
        "securityContext.appArmorProfile",
        "securityContext.seLinuxOptions",
        "hostUsers",
        "hostPID",
        "hostIPC",
        "securityContext.seccompProfile",
        "securityContext.fsGroup",
        "securityContext.fsGroupChangePolicy",
        "securityContext.sysctls",
        "shareProcessNamespace",
        "securityContext.runAsUser",
        "securityContext.runAsGroup",
        "securityContext.supplementalGroups",
        "securityContext.supplementalGroupsPolicy",
        "securityContext.seLinuxChangePolicy",
    ];
    const CONTAINER: &[&str] = &[
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "capabilities",
        "readOnlyRootFilesystem",
        "privileged",
        "allowPrivilegeEscalation",
        "procMount",
        "runAsUser",
        "runAsGroup",
    ];
    for field in POD {
        let value = at(spec, field);
        let plain = matches!(*field, "hostPID" | "hostIPC" | "securityContext.sysctls");
        if if plain { !is_zero(value) } else { !value.is_null() } {
            errs.forbidden(path.child(field), NOT_WINDOWS);
        }
    }
    for (path, container) in each_container(path, spec) {
        for field in CONTAINER {
            if has(at(container, "securityContext"), field) {
                errs.forbidden(path.child("securityContext").child(field), NOT_WINDOWS);
            }
        }
    }
}

/// Host process containers: all of a pod or none, and on the host's network.
pub(super) fn host_process(errs: &mut FieldErrors, path: &Path, spec: &Value) {
    const OPTION: &str = "securityContext.windowsOptions.hostProcess";
    let of_pod = at(spec, OPTION).as_bool();
    let containers = each_container(path, spec);
    let mut count = 0;
    for (path, container) in &containers {
        let own = at(container, OPTION).as_bool();
        if let (Some(pod), Some(own)) = (of_pod, own)
            && pod != own
        {
            let detail =
                format!("pod hostProcess value must be identical if both are specified, was {pod}");
            errs.invalid(path.child(OPTION), own, detail);
        }
        count += usize::from(own.or(of_pod) == Some(true));
    }
    if count == 0 {
        return;
    }
    if count != containers.len() {
        let detail = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errs.invalid(path, "", detail);
    }
    if !flag(spec, "hostNetwork") {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        errs.invalid(path.child("hostNetwork"), false, detail);
    }
}

/// `windowsOptions` of a pod or a container.
pub(super) fn options(errs: &mut FieldErrors, path: &Path, options: &Value) {
    if has(options, "gmsaCredentialSpecName") {
        let name = text(options, "gmsaCredentialSpecName");
        problems(errs, &path.child("gmsaCredentialSpecName"), name, subdomain_problems(name));
    }
    if has(options, "gmsaCredentialSpec") {
        let spec = text(options, "gmsaCredentialSpec");
        let path = path.child("gmsaCredentialSpec");
        if spec.is_empty() {
            errs.invalid(path, spec, "gmsaCredentialSpec cannot be an empty string");
        } else if spec.len() > SPEC_MAX_KIB * 1024 {
            let detail = format!("gmsaCredentialSpec size must be under {SPEC_MAX_KIB} KiB");
            errs.invalid(path, spec, detail);
        }
    }
    if has(options, "runAsUserName") {
        let name = key(options, "runAsUserName").as_str().unwrap_or_default();
        for problem in user_name_problems(name) {
            errs.invalid(path.child("runAsUserName"), name, problem);
        }
    }
}

fn user_name_problems(name: &str) -> Vec<String> {
    let one = |text: &str| vec![text.to_owned()];
    if name.is_empty() {
        return one("runAsUserName cannot be an empty string");
    }
    if name.chars().any(|c| c.is_ascii_control()) {
        return one("runAsUserName cannot contain control characters");
    }
    let parts: Vec<&str> = name.split('\\').collect();
    let (domain, user) = match parts.as_slice() {
        [user] => (None, *user),
        [domain, user] => (Some(*domain), *user),
        _ => return one("runAsUserName cannot contain more than one backslash"),
    };
    let mut out = Vec::new();
    if domain.is_some_and(|domain| domain.len() >= DOMAIN_MAX) {
        out.push(format!("runAsUserName's Domain length must be under {DOMAIN_MAX} characters"));
    }
    if domain.is_some_and(|domain| !net_bios(domain) && !dns(domain)) {
        out.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format".to_owned());
    }
    if user.is_empty() {
        out.push("runAsUserName's User cannot be empty".to_owned());
    } else if user.len() > USER_MAX {
        out.push(format!(
            "runAsUserName's User length must not be longer than {USER_MAX} characters"
        ));
    }
    if !user.is_empty() && user.chars().all(|c| c == '.' || c == ' ') {
        out.push("runAsUserName's User cannot contain only periods or spaces".to_owned());
    }
    if user.contains(|c: char| "\"/\\:;|=,+*?<>@[]".contains(c)) {
        out.push(
            "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]"
                .to_owned(),
        );
    }
    out
}

fn net_bios(name: &str) -> bool {
    (1..=15).contains(&name.chars().count())
        && !name.starts_with('.')
        && !name.contains(|c: char| "\\/:*?\"<>|".contains(c))
}

fn dns(name: &str) -> bool {
    name.split('.').all(|label| {
        let label = label.as_bytes();
        label.len() <= 63
            && label.first().is_some_and(u8::is_ascii_alphanumeric)
            && label.last().is_some_and(u8::is_ascii_alphanumeric)
            && label.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_user_names_have_a_domain_and_a_user() {
        for (name, problems) in [
            ("ContainerAdministrator", 0),
            ("corp\\me", 0),
            ("", 1),
            ("a\\b\\c", 1),
            ("..\\me", 1),
            ("corp\\", 1),
            ("...", 1),
            ("me@corp", 1),
        ] {
            assert_eq!(user_name_problems(name).len(), problems, "{name:?}");
        }
    }
}
