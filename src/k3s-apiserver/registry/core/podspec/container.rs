//! Containers: names, images, ports, mounts, lifecycle, resources.

use std::collections::HashSet;

use apimachinery::field::{ErrorKind, FieldErrors, Path};
use apimachinery::validation::{label_problems, port_name_problems};
use serde_json::Value;

use super::volumes::Volumes;
use super::{Of, env, probe, security};
use crate::registry::core::resources::validate_resources;
use crate::registry::validate::{one_of, problems};
use crate::registry::value::{at, flag, has, int, is_zero, key, list, text};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const RESTART: &[&str] = &["Always", "Never", "OnFailure"];
const RULES_MAX: usize = 20;
const CODES_MAX: usize = 255;
const PORT_RANGE: &str = "must be between 1 and 65535, inclusive";

/// What the checks of a container look at besides the container itself.
struct Around<'a> {
    spec: &'a Value,
    volumes: &'a Volumes<'a>,
    grace: Option<i64>,
}

/// All containers of a spec.
pub(super) fn validate_all(
    errs: &mut FieldErrors,
    path: &Path,
    spec: &Value,
    volumes: &Volumes<'_>,
    of: Of<'_>,
) {
    let around = Around { spec, volumes, grace: int(spec, "terminationGracePeriodSeconds") };
    let (mains, inits) = (list(spec, "containers"), list(spec, "initContainers"));
    let mut names = HashSet::new();
    if mains.is_empty() {
        errs.required(path.child("containers"), "");
    }
    for (at, container) in mains.iter().enumerate() {
        let path = path.child("containers").index(at);
        common(errs, &path, container, &around);
        unique(errs, &path, container, &mut names);
        hooks(errs, &path, container, &around);
        restart_rules(errs, &path, container);
    }
    host_ports(errs, &path.child("containers"), mains);
    for (at, container) in inits.iter().enumerate() {
        let path = path.child("initContainers");
        init(errs, &path, at, container, &around, &mut names);
    }
    if matches!(of, Of::Pod(_)) {
        for (kind, containers) in [("containers", mains), ("initContainers", inits)] {
            for (at, container) in containers.iter().enumerate() {
                trimmed_image(errs, &path.child(kind).index(at), container);
            }
        }
    }
    for (at, container) in list(spec, "ephemeralContainers").iter().enumerate() {
        let path = path.child("ephemeralContainers").index(at);
        common(errs, &path, container, &around);
        trimmed_image(errs, &path, container);
        unique(errs, &path, container, &mut names);
        ephemeral(errs, &path, container, &around);
    }
}

fn unique<'a>(
    errs: &mut FieldErrors,
    path: &Path,
    container: &'a Value,
    seen: &mut HashSet<&'a str>,
) {
    let name = text(container, "name");
    if !seen.insert(name) {
        errs.duplicate(path.child("name"), name);
    }
}

fn init<'a>(
    errs: &mut FieldErrors,
    all: &Path,
    at: usize,
    container: &'a Value,
    around: &Around<'_>,
    names: &mut HashSet<&'a str>,
) {
    let path = all.index(at);
    common(errs, &path, container, around);
    restart_rules(errs, &path, container);
    if !text(container, "name").is_empty() {
        unique(errs, &path, container, names);
    }
    host_ports(errs, all, std::slice::from_ref(container));
    if text(container, "restartPolicy") == "Always" {
        hooks(errs, &path, container, around);
        return;
    }
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if has(container, field) {
            let detail = "may not be set for init containers without restartPolicy=Always";
            errs.forbidden(path.child(field), detail);
        }
    }
}

/// An ephemeral container is for a look inside: nothing may come to rely on it.
fn ephemeral(errs: &mut FieldErrors, path: &Path, container: &Value, around: &Around<'_>) {
    let target = text(container, "targetContainerName");
    let others = ["containers", "initContainers"];
    let known = others
        .iter()
        .flat_map(|kind| list(around.spec, kind))
        .any(|other| text(other, "name") == target);
    if !target.is_empty() && !known {
        errs.not_found(path.child("targetContainerName"), target);
    }
    for field in [
        "ports",
        "resources",
        "resizePolicy",
        "restartPolicy",
        "restartPolicyRules",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "lifecycle",
    ] {
        let value = key(container, field);
        let set = if value.is_object() && field != "resources" { true } else { !is_zero(value) };
        if set {
            errs.forbidden(path.child(field), "cannot be set for an Ephemeral Container");
        }
    }
    for (at, mount) in list(container, "volumeMounts").iter().enumerate() {
        for field in ["subPath", "subPathExpr"] {
            if !text(mount, field).is_empty() {
                let path = path.child("volumeMounts").index(at).child(field);
                errs.forbidden(path, "cannot be set for an Ephemeral Container");
            }
        }
    }
}

fn hooks(errs: &mut FieldErrors, path: &Path, container: &Value, around: &Around<'_>) {
    let lifecycle = key(container, "lifecycle");
    probe::lifecycle(errs, &path.child("lifecycle"), lifecycle, around.grace);
    stop_signal(errs, &path.child("lifecycle").child("stopSignal"), lifecycle, around.spec);
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        probe::validate(errs, path, container, field, around.grace);
    }
}

/// A signal is a matter of the operating system, which must be named.
fn stop_signal(errs: &mut FieldErrors, path: &Path, lifecycle: &Value, spec: &Value) {
    let signal = text(lifecycle, "stopSignal");
    if !has(lifecycle, "stopSignal") {
        return;
    }
    match text(spec, "os.name") {
        "" => errs.forbidden(path, "may not be set for containers with empty `spec.os.name`"),
        "windows" if !matches!(signal, "SIGTERM" | "SIGKILL") => {
            errs.not_supported(path, signal, &["SIGKILL", "SIGTERM"]);
        }
        _ if !signal.starts_with("SIG") => {
            errs.invalid(path, signal, "must be a valid signal name");
        }
        _ => {}
    }
}

/// A container's own restart policy and the exit codes it depends on.
fn restart_rules(errs: &mut FieldErrors, path: &Path, container: &Value) {
    let rules = list(container, "restartPolicyRules");
    if has(container, "restartPolicy") {
        one_of(errs, &path.child("restartPolicy"), key(container, "restartPolicy"), RESTART);
    } else if !rules.is_empty() {
        let detail = "must specify restartPolicy when restart rules are used";
        errs.required(path.child("restartPolicy"), detail);
    }
    let here = path.child("restartPolicyRules");
    if rules.len() > RULES_MAX {
        errs.too_many(&here, rules.len(), RULES_MAX);
    }
    for (at, rule) in rules.iter().enumerate() {
        let path = here.index(at);
        let actions = &["Restart", "RestartAllContainers"];
        one_of(errs, &path.child("action"), key(rule, "action"), actions);
        let codes = key(rule, "exitCodes");
        let path = path.child("exitCodes");
        if codes.is_null() {
            errs.required(path, "must be specified");
            continue;
        }
        one_of(errs, &path.child("operator"), key(codes, "operator"), &["In", "NotIn"]);
        let values = list(codes, "values");
        if values.len() > CODES_MAX {
            errs.too_many(path.child("values"), values.len(), CODES_MAX);
        }
    }
}

/// What holds for containers of every kind, in the order of upstream's causes.
fn common(errs: &mut FieldErrors, path: &Path, container: &Value, around: &Around<'_>) {
    let name = text(container, "name");
    match name {
        "" => errs.required(path.child("name"), ""),
        _ => problems(errs, &path.child("name"), name, label_problems(name)),
    }
    if text(container, "image").is_empty() {
        errs.required(path.child("image"), "");
    }
    let message = path.child("terminationMessagePolicy");
    match text(container, "terminationMessagePolicy") {
        "" => errs.required(message, ""),
        "File" | "FallbackToLogsOnError" => {}
        other => errs.not_supported(message, other, &["File", "FallbackToLogsOnError"]),
    }
    ports(errs, &path.child("ports"), list(container, "ports"));
    env::validate(errs, path, container);
    mounts(errs, &path.child("volumeMounts"), container, around.volumes);
    devices(errs, &path.child("volumeDevices"), container, around.volumes);
    pull_policy(errs, &path.child("imagePullPolicy"), container, "imagePullPolicy");
    let resources = key(container, "resources");
    validate_resources(errs, &path.child("resources"), resources);
    let claims = list(around.spec, "resourceClaims");
    claim_names(errs, &path.child("resources").child("claims"), list(resources, "claims"), claims);
    resize_policy(errs, &path.child("resizePolicy"), container, around.spec);
    let path = path.child("securityContext");
    security::validate_container(errs, &path, container, around.spec);
}

/// `imagePullPolicy`, and an image volume's `pullPolicy`.
pub(super) fn pull_policy(errs: &mut FieldErrors, path: &Path, holder: &Value, field: &str) {
    match text(holder, field) {
        "" => errs.required(path, ""),
        _ => one_of(errs, path, key(holder, field), &["Always", "IfNotPresent", "Never"]),
    }
}

fn trimmed_image(errs: &mut FieldErrors, path: &Path, container: &Value) {
    let image = text(container, "image");
    if image.trim() != image {
        errs.invalid(path.child("image"), image, "must not have leading or trailing whitespace");
    }
}

/// The claims of the pod that a container uses.
fn claim_names(errs: &mut FieldErrors, path: &Path, used: &[Value], claims: &[Value]) {
    let mut known: Vec<&str> = claims.iter().map(|claim| text(claim, "name")).collect();
    known.retain(|name| !name.is_empty());
    known.sort_unstable();
    let mut seen = HashSet::new();
    for (at, claim) in used.iter().enumerate() {
        let (name, path) = (text(claim, "name"), path.index(at));
        if name.is_empty() {
            errs.required(path, "");
            continue;
        }
        let whole = match text(claim, "request") {
            "" => name.to_owned(),
            request => format!("{name}/{request}"),
        };
        if !seen.insert(whole) {
            errs.duplicate(&path, name);
        }
        if !known.contains(&name) {
            let names = known.join(", ");
            let which =
                if names.is_empty() { " which is empty".into() } else { format!(": {names}") };
            let shown = apimachinery::field::show(&Value::from(name));
            let detail = "must be one of the names in pod.spec.resourceClaims";
            errs.add(ErrorKind::NotFound, &path, &shown, &format!("{detail}{which}"));
        }
    }
}

fn resize_policy(errs: &mut FieldErrors, path: &Path, container: &Value, spec: &Value) {
    let mut seen = HashSet::new();
    for (at, policy) in list(container, "resizePolicy").iter().enumerate() {
        let (name, restart) = (text(policy, "resourceName"), text(policy, "restartPolicy"));
        if !seen.insert(name) {
            errs.duplicate(path.index(at), name);
        }
        match name {
            "" => errs.required(path, ""),
            "cpu" | "memory" => {}
            _ => errs.not_supported(path, name, &["cpu", "memory"]),
        }
        match restart {
            "" => errs.required(path, ""),
            "NotRequired" | "RestartContainer" => {}
            _ => errs.not_supported(path, restart, &["NotRequired", "RestartContainer"]),
        }
        if text(spec, "restartPolicy") == "Never" && restart != "NotRequired" {
            let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            errs.invalid(path, restart, detail);
        }
    }
}

fn ports(errs: &mut FieldErrors, path: &Path, ports: &[Value]) {
    let mut names = HashSet::new();
    for (at, port) in ports.iter().enumerate() {
        let path = path.index(at);
        let name = text(port, "name");
        if !name.is_empty() {
            let found = port_name_problems(name);
            let bad = !found.is_empty();
            problems(errs, &path.child("name"), name, found);
            if !bad && !names.insert(name) {
                errs.duplicate(path.child("name"), name);
            }
        }
        match int(port, "containerPort").unwrap_or_default() {
            0 => errs.required(path.child("containerPort"), ""),
            1..=65535 => {}
            number => errs.invalid(path.child("containerPort"), number, PORT_RANGE),
        }
        match int(port, "hostPort").unwrap_or_default() {
            0..=65535 => {}
            number => errs.invalid(path.child("hostPort"), number, PORT_RANGE),
        }
        match text(port, "protocol") {
            "" => errs.required(path.child("protocol"), ""),
            protocol if PROTOCOLS.contains(&protocol) => {}
            protocol => errs.not_supported(path.child("protocol"), protocol, PROTOCOLS),
        }
    }
}

/// A host port may be taken once per protocol and address.
fn host_ports(errs: &mut FieldErrors, path: &Path, containers: &[Value]) {
    let mut seen = HashSet::new();
    for (at, container) in containers.iter().enumerate() {
        for (n, port) in list(container, "ports").iter().enumerate() {
            let number = int(port, "hostPort").unwrap_or_default();
            if number == 0 {
                continue;
            }
            let what = format!("{}/{}/{number}", text(port, "protocol"), text(port, "hostIP"));
            if !seen.insert(what.clone()) {
                errs.duplicate(path.index(at).child("ports").index(n).child("hostPort"), what);
            }
        }
    }
}

/// The mounts of a container at `path`; upstream leaves the index out of some of its paths.
fn mounts(errs: &mut FieldErrors, all: &Path, container: &Value, volumes: &Volumes<'_>) {
    let devices = list(container, "volumeDevices");
    let mut paths = HashSet::new();
    for (at, mount) in list(container, "volumeMounts").iter().enumerate() {
        let path = all.index(at);
        let (name, target) = (text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            errs.required(path.child("name"), "");
        }
        if !volumes.has(name) {
            errs.not_found(path.child("name"), name);
        }
        if target.is_empty() {
            errs.required(path.child("mountPath"), "");
        }
        if !paths.insert(target) {
            errs.invalid(path.child("mountPath"), target, "must be unique");
        }
        if devices.iter().any(|device| text(device, "name") == name) {
            errs.invalid(path.child("name"), name, "must not already exist in volumeDevices");
        }
        if devices.iter().any(|device| text(device, "devicePath") == target) {
            let detail = "must not already exist as a path in volumeDevices";
            errs.invalid(path.child("mountPath"), target, detail);
        }
        let (sub, expression) = (text(mount, "subPath"), text(mount, "subPathExpr"));
        local_path(errs, &all.child("subPath"), sub);
        if !expression.is_empty() && !sub.is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errs.invalid(path.child("subPathExpr"), expression, detail);
        }
        local_path(errs, &all.child("subPathExpr"), expression);
        propagation(errs, &all.child("mountPropagation"), mount, container);
        recursive_read_only(errs, &all.child("recursiveReadOnly"), mount);
    }
}

fn devices(errs: &mut FieldErrors, all: &Path, container: &Value, volumes: &Volumes<'_>) {
    let mounts = list(container, "volumeMounts");
    let (mut paths, mut names) = (HashSet::new(), HashSet::new());
    for (n, device) in list(container, "volumeDevices").iter().enumerate() {
        let path = all.index(n);
        let (name, target) = (text(device, "name"), text(device, "devicePath"));
        if name.is_empty() {
            errs.required(path.child("name"), "");
        } else if !names.insert(name) {
            errs.invalid(path.child("name"), name, "must be unique");
        }
        if !volumes.has(name) {
            errs.not_found(path.child("name"), name);
        } else if !volumes.is_claim(name) {
            let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
            errs.invalid(path.child("name"), name, detail);
        }
        if target.is_empty() {
            errs.required(path.child("devicePath"), "");
        }
        if paths.contains(target) {
            errs.invalid(path.child("devicePath"), target, "must be unique");
        }
        if target.split('/').any(|part| part == "..") {
            errs.invalid(path.child("devicePath"), target, "can not contain backsteps ('..')");
        } else {
            paths.insert(target);
        }
        if mounts.iter().any(|mount| text(mount, "name") == name) {
            errs.invalid(path.child("name"), name, "must not already exist in volumeMounts");
        }
        if mounts.iter().any(|mount| text(mount, "mountPath") == target) {
            let detail = "must not already exist as a path in volumeMounts";
            errs.invalid(path.child("devicePath"), target, detail);
        }
    }
}

/// A path inside a volume: relative, without steps back.
pub(crate) fn local_path(errs: &mut FieldErrors, path: &Path, text: &str) {
    if text.starts_with('/') {
        errs.invalid(path, text, "must be a relative path");
    }
    no_backsteps(errs, path, text);
}

/// A path that does not lead upwards.
pub(super) fn no_backsteps(errs: &mut FieldErrors, path: &Path, text: &str) {
    if text.split('/').any(|part| part == "..") {
        errs.invalid(path, text, "must not contain '..'");
    }
}

fn propagation(errs: &mut FieldErrors, path: &Path, mount: &Value, container: &Value) {
    if !has(mount, "mountPropagation") {
        return;
    }
    let mode = key(mount, "mountPropagation");
    one_of(errs, path, mode, &["Bidirectional", "HostToContainer", "None"]);
    if mode == "Bidirectional" && !flag(at(container, "securityContext"), "privileged") {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        errs.forbidden(path, detail);
    }
}

fn recursive_read_only(errs: &mut FieldErrors, path: &Path, mount: &Value) {
    match text(mount, "recursiveReadOnly") {
        "Enabled" | "IfPossible" => {
            if !flag(mount, "readOnly") {
                errs.forbidden(path, "may only be specified when readOnly is true");
            }
            if has(mount, "mountPropagation") && text(mount, "mountPropagation") != "None" {
                let detail = "may only be specified when mountPropagation is None or not specified";
                errs.forbidden(path, detail);
            }
        }
        "Disabled" => {}
        _ if !has(mount, "recursiveReadOnly") => {}
        mode => errs.not_supported(path, mode, &["Disabled", "Enabled", "IfPossible"]),
    }
}
