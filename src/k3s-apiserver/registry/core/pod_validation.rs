//! What holds for pods and not for templates: annotations, tokens, and what creation may not set.

use apimachinery::field::{FieldErrors, Path};
use serde_json::Value;

use super::podspec::{self, Of};
use crate::registry::Object;
use crate::registry::validate::spec;
use crate::registry::value::{at, has, key, list, map, text};

pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
pub(super) const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_OF: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// A pod's annotations and spec, at creation and at every update.
pub(super) fn validate(errs: &mut FieldErrors, pod: &Object) {
    annotations(errs, &metadata_annotations(), pod);
    let body = at(pod, "spec");
    podspec::validate(errs, &spec(), body, Of::Pod(text(pod, "metadata.name")));
    if !text(body, "serviceAccountName").is_empty() {
        return;
    }
    for (at, volume) in list(body, "volumes").iter().enumerate() {
        for (n, source) in list(volume, "projected.sources").iter().enumerate() {
            if has(source, "serviceAccountToken") {
                let path = spec().child("volumes").index(at).child("projected");
                let path = path.child("sources").index(n).child("serviceAccountToken");
                let detail = "must not be specified when serviceAccountName is not set";
                errs.forbidden(path, detail);
            }
        }
    }
}

/// What only comes later in a pod's life.
pub(super) fn validate_create(errs: &mut FieldErrors, pod: &Object) {
    if !list(pod, "spec.ephemeralContainers").is_empty() {
        errs.forbidden(spec().child("ephemeralContainers"), "cannot be set on create");
    }
    if !text(pod, "spec.nodeName").is_empty() && !list(pod, "spec.schedulingGates").is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errs.forbidden(spec().child("nodeName"), detail);
    }
}

/// Where the annotations of a pod are.
pub(super) fn metadata_annotations() -> Path {
    Path::new("metadata").child("annotations")
}

/// Annotations that stand for fields, of a pod or a template.
pub(super) fn annotations(errs: &mut FieldErrors, path: &Path, pod: &Object) {
    let all = key(at(pod, "metadata"), "annotations");
    if let Some(value) = all.get(MIRROR)
        && text(pod, "spec.nodeName").is_empty()
    {
        let detail = "must set spec.nodeName if mirror pod annotation is set";
        errs.invalid(path.key(MIRROR), value.clone(), detail);
    }
    let cost = key(all, DELETION_COST);
    if cost.as_str().is_some_and(|cost| !is_cost(cost)) {
        errs.invalid(path.key(DELETION_COST), cost.clone(), "must be a 32bit integer");
    }
    for (name, value) in map(at(pod, "metadata"), "annotations") {
        let value = value.as_str().unwrap_or_default();
        if name == SECCOMP || name.starts_with(SECCOMP_OF) {
            seccomp(errs, &path.child(name), value);
        }
        if let Some(container) = name.strip_prefix(APP_ARMOR) {
            app_armor(errs, &path.key(name), at(pod, "spec"), container, value);
        }
    }
}

/// A whole number of 32 bits in its plainest form.
fn is_cost(text: &str) -> bool {
    text.parse::<i32>().is_ok_and(|cost| cost.to_string() == text)
}

fn seccomp(errs: &mut FieldErrors, path: &Path, profile: &str) {
    match profile.strip_prefix("localhost/") {
        Some(name) => podspec::local_path(errs, path, name),
        None if matches!(profile, "runtime/default" | "docker/default" | "unconfined") => {}
        None => errs.invalid(path, profile, "must be a valid seccomp profile"),
    }
}

fn app_armor(errs: &mut FieldErrors, path: &Path, spec: &Value, container: &str, profile: &str) {
    let known = ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|kind| list(spec, kind))
        .any(|one| text(one, "name") == container);
    if !known {
        errs.invalid(path, container, "container not found");
    }
    let good = matches!(profile, "" | "runtime/default" | "unconfined");
    if !good && !profile.starts_with("localhost/") {
        let shown = apimachinery::gotext::quote(profile);
        errs.invalid(path, profile, format!("invalid AppArmor profile name: {shown}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(name: &str, value: &str, want: &[&str]) {
        let mut errs = FieldErrors::default();
        let pod = json!({"metadata": {"annotations": {name: value}},
            "spec": {"containers": [{"name": "main"}]}});
        annotations(&mut errs, &metadata_annotations(), &pod);
        let got: Vec<String> = errs.0.iter().map(ToString::to_string).collect();
        assert_eq!(got, want, "{name}={value}");
    }

    #[test]
    fn annotations_that_stand_for_fields_are_checked() {
        let at = "metadata.annotations";
        check("x", "y", &[]);
        check(DELETION_COST, "-5", &[]);
        check(
            DELETION_COST,
            "+5",
            &[&format!("{at}[{DELETION_COST}]: Invalid value: \"+5\": must be a 32bit integer")],
        );
        check(
            MIRROR,
            "h",
            &[&format!(
                "{at}[{MIRROR}]: Invalid value: \"h\": must set spec.nodeName if mirror pod annotation is set"
            )],
        );
        check(SECCOMP, "runtime/default", &[]);
        check(
            SECCOMP,
            "nope",
            &[&format!("{at}.{SECCOMP}: Invalid value: \"nope\": must be a valid seccomp profile")],
        );
        let key = format!("{APP_ARMOR}main");
        check(
            &key,
            "nope",
            &[&format!(
                "{at}[{key}]: Invalid value: \"nope\": invalid AppArmor profile name: \"nope\""
            )],
        );
    }
}
