//! What may not happen to the status of a pod.

use std::collections::HashSet;

use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::{qualified_problems, subdomain_problems};
use serde_json::Value;

use super::pod_update::annotation_updates;
use crate::registry::Object;
use crate::registry::internal::renamed;
use crate::registry::validate::{immutable, ip, problems};
use crate::registry::value::{at, has, int, key, list, text};

/// An update of the subresource `status`.
pub(super) fn validate(errs: &mut FieldErrors, new: &Object, old: &Object) {
    annotation_updates(errs, new, old);
    for (n, condition) in list(new, "status.conditions").iter().enumerate() {
        let kind = text(condition, "type");
        if !matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            let path = Path::new("metadata").child("conditions").index(n).child("Type");
            problems(errs, &path, kind, qualified_problems(kind));
        }
    }
    let status = Path::new("status");
    if at(new, "spec.nodeName") != at(old, "spec.nodeName") {
        errs.forbidden(status.child("nodeName"), "may not be changed directly");
    }
    let nominated = text(new, "status.nominatedNodeName");
    if nominated != text(old, "status.nominatedNodeName") && !nominated.is_empty() {
        let found = subdomain_problems(nominated);
        problems(errs, &status.child("nominatedNodeName"), nominated, found);
    }
    let (class, had) = (at(new, "status.qosClass"), at(old, "status.qosClass"));
    immutable(errs, &status.child("qosClass"), class, had);
    for field in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        restarts(errs, new, old, field);
    }
    claims(errs, &status.child("resourceClaimStatuses"), new);
    addresses(errs, new, "podIPs");
    let hosts = list(new, "status.hostIPs");
    if let Some(first) = hosts.first()
        && text(first, "ip") != text(new, "status.hostIP")
    {
        let path = status.child("hostIPs").index(0).child("ip");
        errs.invalid(path, text(first, "ip"), "must be equal to `hostIP`");
    }
    addresses(errs, new, "hostIPs");
}

/// A container that has ended for good may not run again.
fn restarts(errs: &mut FieldErrors, new: &Object, old: &Object, field: &str) {
    let policy = match field {
        "ephemeralContainerStatuses" => "Never",
        _ => text(old, "spec.restartPolicy"),
    };
    if policy == "Always" {
        return;
    }
    let inits = list(old, "spec.initContainers");
    for (n, status) in list(old, &format!("status.{field}")).iter().enumerate() {
        let name = text(status, "name");
        let ended = at(status, "state.terminated");
        let failed = int(ended, "exitCode").unwrap_or_default() != 0;
        let sidecar = field == "initContainerStatuses"
            && inits.iter().any(|c| text(c, "name") == name && has(c, "restartPolicy"));
        // With a policy of its own a container decides for itself.
        let own = list(old, "spec.containers")
            .iter()
            .any(|c| text(c, "name") == name && has(c, "restartPolicy"));
        if ended.is_null() || sidecar || own || (failed && policy == "OnFailure") {
            continue;
        }
        let runs = |now: &&Value| text(now, "name") == name && !has(now, "state.terminated");
        for _ in list(new, &format!("status.{field}")).iter().filter(runs) {
            let path = Path::new("status").child(field).index(n).child("state");
            errs.forbidden(path, "may not be transitioned to non-terminated state");
        }
    }
}

fn claims(errs: &mut FieldErrors, path: &Path, new: &Object) {
    let mut seen = HashSet::new();
    for (n, status) in list(new, "status.resourceClaimStatuses").iter().enumerate() {
        let path = path.index(n).child("name");
        let name = text(status, "name");
        if !list(new, "spec.resourceClaims").iter().any(|claim| text(claim, "name") == name) {
            let detail = "must match the name of an entry in `spec.resourceClaims`";
            errs.invalid(&path, name, detail);
        }
        if !seen.insert(name) {
            errs.duplicate(&path, name);
        }
        let made = text(status, "resourceClaimName");
        if has(status, "resourceClaimName") {
            problems(errs, &path, made, subdomain_problems(made));
        }
    }
}

/// At most one address of each family.
fn addresses(errs: &mut FieldErrors, new: &Object, field: &str) {
    let path = Path::new("status").child(field);
    let all = list(new, &format!("status.{field}"));
    let mut families = Vec::new();
    for (n, one) in all.iter().enumerate() {
        families.extend(ip(errs, &path.index(n), text(one, "ip")).map(|ip| ip.is_ipv4()));
    }
    if all.len() < 2 {
        return;
    }
    if all.len() > 2 || families.iter().filter(|v4| **v4).count() != 1 {
        let shown = renamed(key(at(new, "status"), field));
        errs.invalid(&path, shown, "may specify no more than one IP for each IP family");
    }
    for (n, one) in all.iter().enumerate() {
        if all[..n].iter().any(|other| text(other, "ip") == text(one, "ip")) {
            errs.duplicate(path.index(n), renamed(one));
        }
    }
}
