//! Containers: names, images, ports, mounts, lifecycle, resources.

use std::collections::HashSet;

use serde_json::Value;

use super::volumes::Volumes;
use super::{env, probe, security};
use crate::registry::core::resources::validate_resources;
use crate::registry::field::{FieldErrors, Path};
use crate::registry::validate::{label_problems, one_of, port_name_problems, problems};
use crate::registry::value::{at, flag, has, int, key, list, text};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const RESTART: &[&str] = &["Always", "Never", "OnFailure"];
const PORT_RANGE: &str = "must be between 1 and 65535, inclusive";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Main,
    Init,
    Ephemeral,
}

/// All containers of a spec.
pub(super) fn validate_all(
    errs: &mut FieldErrors,
    path: &Path,
    spec: &Value,
    volumes: &Volumes<'_>,
) {
    let mains = list(spec, "containers");
    let here = path.child("containers");
    if mains.is_empty() {
        errs.required(here.clone(), "");
    }
    let mut names = HashSet::new();
    for (at, container) in mains.iter().enumerate() {
        name(errs, &here.index(at), container, &mut names);
        one(errs, &here.index(at), container, volumes, Kind::Main, spec);
    }
    host_ports(errs, &here, mains);
    let here = path.child("initContainers");
    for (at, container) in list(spec, "initContainers").iter().enumerate() {
        name(errs, &here.index(at), container, &mut names);
        one(errs, &here.index(at), container, volumes, Kind::Init, spec);
    }
    let here = path.child("ephemeralContainers");
    for (n, container) in list(spec, "ephemeralContainers").iter().enumerate() {
        name(errs, &here.index(n), container, &mut names);
        one(errs, &here.index(n), container, volumes, Kind::Ephemeral, spec);
        let target = text(container, "targetContainerName");
        if !target.is_empty()
            && !mains.iter().chain(list(spec, "initContainers")).any(|c| text(c, "name") == target)
        {
            errs.not_found(here.index(n).child("targetContainerName"), target);
        }
    }
}

fn name<'a>(
    errs: &mut FieldErrors,
    path: &Path,
    container: &'a Value,
    seen: &mut HashSet<&'a str>,
) {
    let name = text(container, "name");
    let path = path.child("name");
    if name.is_empty() {
        errs.required(path, "");
        return;
    }
    problems(errs, &path, name, label_problems(name));
    if !seen.insert(name) {
        errs.duplicate(path, name);
    }
}

fn one(
    errs: &mut FieldErrors,
    path: &Path,
    container: &Value,
    volumes: &Volumes<'_>,
    kind: Kind,
    spec: &Value,
) {
    image(errs, path, container);
    if kind == Kind::Ephemeral {
        for field in [
            "ports",
            "livenessProbe",
            "readinessProbe",
            "startupProbe",
            "lifecycle",
            "resizePolicy",
        ] {
            if !crate::registry::value::is_zero(key(container, field)) {
                errs.forbidden(path.child(field), "cannot be set for an Ephemeral Container");
            }
        }
        if !crate::registry::value::is_zero(key(container, "resources")) {
            errs.forbidden(path.child("resources"), "cannot be set for an Ephemeral Container");
        }
    }
    if has(container, "restartPolicy") {
        one_of(errs, &path.child("restartPolicy"), key(container, "restartPolicy"), RESTART);
    }
    let sidecar = kind == Kind::Init && text(container, "restartPolicy") == "Always";
    if kind == Kind::Init && !sidecar {
        for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if has(container, field) {
                let detail = "may not be set for init containers without restartPolicy=Always";
                errs.forbidden(path.child(field), detail);
            }
        }
    } else if kind != Kind::Ephemeral {
        probe::lifecycle(errs, &path.child("lifecycle"), key(container, "lifecycle"));
        probe::validate(errs, path, container, "livenessProbe");
        probe::validate(errs, path, container, "readinessProbe");
        probe::validate(errs, path, container, "startupProbe");
    }
    ports(errs, &path.child("ports"), list(container, "ports"));
    env::validate(errs, path, container);
    mounts(errs, path, container, volumes);
    if has(container, "imagePullPolicy") {
        let policy = text(container, "imagePullPolicy");
        let valid = &["Always", "IfNotPresent", "Never"];
        match policy {
            "" => errs.required(path.child("imagePullPolicy"), ""),
            policy if valid.contains(&policy) => {}
            policy => errs.not_supported(path.child("imagePullPolicy"), policy, valid),
        }
    }
    let message = text(container, "terminationMessagePolicy");
    match message {
        "" => errs.required(path.child("terminationMessagePolicy"), ""),
        "File" | "FallbackToLogsOnError" => {}
        other => errs.not_supported(
            path.child("terminationMessagePolicy"),
            other,
            &["FallbackToLogsOnError", "File"],
        ),
    }
    validate_resources(errs, &path.child("resources"), key(container, "resources"));
    security::validate_container(errs, &path.child("securityContext"), container, spec);
}

fn image(errs: &mut FieldErrors, path: &Path, container: &Value) {
    let image = text(container, "image");
    if image.is_empty() {
        // Templates may leave the image to whoever makes pods of them; pods may not. Upstream
        // requires it in both.
        errs.required(path.child("image"), "");
    } else if image.trim() != image {
        errs.invalid(path.child("image"), image, "must not have leading or trailing whitespace");
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

fn mounts(errs: &mut FieldErrors, path: &Path, container: &Value, volumes: &Volumes<'_>) {
    let devices = list(container, "volumeDevices");
    let mut paths = HashSet::new();
    for (at, mount) in list(container, "volumeMounts").iter().enumerate() {
        let path = path.child("volumeMounts").index(at);
        let name = text(mount, "name");
        if name.is_empty() {
            errs.required(path.child("name"), "");
        } else if !volumes.has(name) {
            errs.not_found(path.child("name"), name);
        }
        let target = text(mount, "mountPath");
        if target.is_empty() {
            errs.required(path.child("mountPath"), "");
        }
        if !paths.insert(target) {
            errs.invalid(path.child("mountPath"), target, "must be unique");
        }
        if devices.iter().any(|device| text(device, "name") == name) && !name.is_empty() {
            errs.invalid(path.child("name"), name, "must not already exist in volumeDevices");
        }
        if devices.iter().any(|device| text(device, "devicePath") == target) {
            errs.invalid(
                path.child("mountPath"),
                target,
                "must not already exist as a path in volumeDevices",
            );
        }
        sub_path(errs, &path, mount);
        propagation(errs, &path, mount, container);
    }
    for (n, device) in devices.iter().enumerate() {
        let path = path.child("volumeDevices").index(n);
        let name = text(device, "name");
        if name.is_empty() {
            errs.required(path.child("name"), "");
        }
        if !volumes.has(name) {
            errs.not_found(path.child("name"), name);
        } else if !volumes.is_claim(name) {
            let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
            errs.invalid(path.child("name"), name, detail);
        }
        let target = text(device, "devicePath");
        if target.is_empty() {
            errs.required(path.child("devicePath"), "");
        } else if target.split('/').any(|part| part == "..") {
            errs.invalid(path.child("devicePath"), target, "can not contain backsteps ('..')");
        }
    }
}

fn sub_path(errs: &mut FieldErrors, path: &Path, mount: &Value) {
    for field in ["subPath", "subPathExpr"] {
        let sub = text(mount, field);
        if sub.is_empty() {
            continue;
        }
        local_path(errs, &path.child(field), sub);
    }
    if !text(mount, "subPath").is_empty() && !text(mount, "subPathExpr").is_empty() {
        let shown = text(mount, "subPathExpr");
        errs.invalid(
            path.child("subPathExpr"),
            shown,
            "subPathExpr and subPath are mutually exclusive",
        );
    }
}

/// A path inside a volume: relative, without steps back.
pub(super) fn local_path(errs: &mut FieldErrors, path: &Path, text: &str) {
    if text.starts_with('/') {
        errs.invalid(path, text, "must be a relative path");
    }
    if text.split('/').any(|part| part == "..") {
        errs.invalid(path, text, "must not contain '..'");
    }
}

fn propagation(errs: &mut FieldErrors, path: &Path, mount: &Value, container: &Value) {
    let mode = text(mount, "mountPropagation");
    if !has(mount, "mountPropagation") {
        return;
    }
    let valid = &["Bidirectional", "HostToContainer", "None"];
    if !valid.contains(&mode) {
        errs.not_supported(path.child("mountPropagation"), mode, valid);
    }
    if mode == "Bidirectional" && !flag(at(container, "securityContext"), "privileged") {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        errs.forbidden(path.child("mountPropagation"), detail);
    }
}
