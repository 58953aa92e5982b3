//! ServiceAccount: every pod runs as somebody, and carries that account's token.

use apimachinery::field::FieldErrors;
use apimachinery::status::Status;
use serde_json::{Value, json};

use super::Attributes;
use crate::registry::Object;
use crate::registry::value::{at, has, key, list, list_mut, set, text};

const MIRROR: &str = "kubernetes.io/config.mirror";
const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const TOKEN_SECONDS: i64 = 60 * 60 + 7;
const PREFIX: &str = "kube-api-access-";

/// Sets the account, its pull secrets and its token volume.
pub(super) fn mutate(cx: &Attributes<'_>, pod: &mut Object) -> Result<(), Status> {
    if mirror(pod).is_some() {
        return Ok(());
    }
    if text(pod, "spec.serviceAccountName").is_empty() {
        let old = text(pod, "spec.serviceAccount").to_owned();
        let name = if old.is_empty() { "default".to_owned() } else { old };
        set(pod, "spec.serviceAccountName", name);
    }
    let account = account(cx, pod)?;
    if mounts(&account, pod) {
        mount_token(pod);
    }
    if list(pod, "spec.imagePullSecrets").is_empty()
        && !list(&account, "imagePullSecrets").is_empty()
    {
        let secrets = at(&account, "imagePullSecrets").clone();
        set(pod, "spec.imagePullSecrets", secrets);
    }
    Ok(())
}

/// What a mirror pod may not have, and that the account is there.
pub(super) fn validate(cx: &Attributes<'_>, pod: &Object) -> Result<(), Status> {
    if let Some(value) = mirror(pod) {
        if text(pod, "spec.nodeName").is_empty() {
            let mut errs = FieldErrors::default();
            let path = format!("metadata.annotations[{MIRROR}]");
            errs.invalid(path, value, "must set spec.nodeName if mirror pod annotation is set");
            return Err(Status::invalid("", "Pod", text(pod, "metadata.name"), &errs));
        }
        if !text(pod, "spec.serviceAccountName").is_empty() {
            return Err(
                cx.forbidden_for(Some(pod), "a mirror pod may not reference service accounts")
            );
        }
        let refers = |volume: &Value| has(volume, "secret") || has(volume, "projected");
        if list(pod, "spec.volumes").iter().any(refers) {
            return Err(cx.forbidden_for(Some(pod), "a mirror pod may not reference secrets"));
        }
        return Ok(());
    }
    let account = account(cx, pod)?;
    if key(at(&account, "metadata.annotations"), "kubernetes.io/enforce-mountable-secrets")
        == "true"
    {
        mountable(cx, &account, pod)?;
    }
    Ok(())
}

fn mirror(pod: &Object) -> Option<&str> {
    key(at(pod, "metadata.annotations"), MIRROR).as_str()
}

fn account(cx: &Attributes<'_>, pod: &Object) -> Result<Object, Status> {
    let name = text(pod, "spec.serviceAccountName");
    match cx.cluster.get("serviceaccounts", cx.namespace, name) {
        Some(entry) => Ok(entry.object()),
        None => {
            let detail = format!(
                "error looking up service account {}/{name}: serviceaccount {name:?} not found",
                cx.namespace
            );
            Err(cx.forbidden_for(Some(pod), &detail))
        }
    }
}

/// The pod's word goes before the account's; without either a token is mounted.
fn mounts(account: &Object, pod: &Object) -> bool {
    at(pod, "spec.automountServiceAccountToken")
        .as_bool()
        .or_else(|| at(account, "automountServiceAccountToken").as_bool())
        .unwrap_or(true)
}

fn mount_token(pod: &mut Object) {
    let existing = list(pod, "spec.volumes")
        .iter()
        .map(|volume| text(volume, "name"))
        .find(|name| name.starts_with(PREFIX))
        .map(str::to_owned);
    let volume = existing.clone().unwrap_or_else(|| format!("{PREFIX}{}", suffix()));
    let mut used = false;
    for kind in ["initContainers", "containers"] {
        for container in list_mut(pod, &format!("spec.{kind}")) {
            if list(container, "volumeMounts").iter().any(|mount| text(mount, "mountPath") == MOUNT)
            {
                continue;
            }
            let mut mounts = list(container, "volumeMounts").to_vec();
            mounts.push(json!({"name": volume, "readOnly": true, "mountPath": MOUNT}));
            container["volumeMounts"] = Value::Array(mounts);
            used = true;
        }
    }
    if !used || existing.is_some() {
        return;
    }
    let mut volumes = list(pod, "spec.volumes").to_vec();
    volumes.push(json!({"name": volume, "projected": {
        "defaultMode": 0o644,
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{
                "path": "namespace",
                "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
            }]}},
        ],
    }}));
    set(pod, "spec.volumes", volumes);
}

/// Five letters and digits, as generated names have.
fn suffix() -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let random = uuid::Uuid::new_v4().into_bytes();
    random
        .iter()
        .take(5)
        .map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]))
        .collect()
}

fn mountable(cx: &Attributes<'_>, account: &Object, pod: &Object) -> Result<(), Status> {
    let allowed =
        |name: &str| list(account, "secrets").iter().any(|secret| text(secret, "name") == name);
    let name = text(account, "metadata.name");
    for volume in list(pod, "spec.volumes") {
        let secret = text(volume, "secret.secretName");
        if !secret.is_empty() && !allowed(secret) {
            let detail = format!(
                "volume with secret.secretName={secret:?} is not allowed because service account {name} does not reference that secret"
            );
            return Err(cx.forbidden_for(Some(pod), &detail));
        }
    }
    Ok(())
}
