//! CertificateSigningRequests: nodes' own are approved, approved ones of the `kubernetes.io/*`
//! signers are signed with `--cluster-signing-*`, and old ones are cleaned away.

mod checks;

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use client::{
    Action, Event, HasMeta, Key, Meta, Patch, Preconditions, Propagation, Resource, Time,
    WorkQueue, is_conflict, is_not_found, now, null_default,
};
use jiff::Timestamp;
use pki::{Authority, Live, Request};
use serde::Deserialize;
use serde_json::{Value, json};

use self::checks::{API_CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY, check, kubelet_client};
use crate::{
    Args, Cx, Running,
    caches::SIGNING_REQUESTS,
    types::{Condition, condition},
    workers,
};

const APPROVER: &str = "certificatesigningrequest-approving-controller";
const SIGNER: &str = "certificatesigningrequest-signing-controller";
const CLEANER: &str = "certificatesigningrequest-cleaner-controller";
const WORKERS: usize = 4;
/// When a node that may not have its request approved is asked about again.
const ASK_AGAIN: Duration = Duration::from_secs(60);
const DECIDED_SECS: i64 = 3600;
const PENDING_SECS: i64 = 24 * 3600;

static REVIEWS: Resource =
    Resource::cluster("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview");

/// `certificates.k8s.io/v1 CertificateSigningRequest`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SigningRequest {
    pub metadata: Meta,
    spec: Spec,
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    request: String,
    signer_name: String,
    expiration_seconds: Option<i64>,
    #[serde(deserialize_with = "null_default")]
    usages: Vec<String>,
    username: String,
    uid: String,
    #[serde(deserialize_with = "null_default")]
    groups: Vec<String>,
    extra: Option<Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    #[serde(deserialize_with = "null_default")]
    conditions: Vec<Condition>,
    certificate: String,
}

impl HasMeta for SigningRequest {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl SigningRequest {
    fn has(&self, kind: &str) -> bool {
        condition(&self.status.conditions, kind).is_some()
    }

    fn request(&self) -> Result<Request> {
        let pem = STANDARD.decode(&self.spec.request).context("decoding spec.request")?;
        Request::parse(&String::from_utf8(pem).context("decoding spec.request")?)
    }
}

pub(crate) fn start_approving(cx: &Cx) -> Running {
    let queue = subscribe(cx);
    let shared = Arc::new(cx.clone());
    workers(cx, APPROVER, WORKERS, &queue, move |key| {
        let cx = Arc::clone(&shared);
        async move { approve(&cx, &key).await }
    })
}

pub(crate) fn start_signing(cx: &Cx) -> Running {
    let authorities = Arc::new(Authorities::open(&cx.args));
    let queue = subscribe(cx);
    let shared = Arc::new(cx.clone());
    workers(cx, SIGNER, WORKERS, &queue, move |key| {
        let (cx, authorities) = (Arc::clone(&shared), Arc::clone(&authorities));
        async move { sign(&cx, &key, &authorities).await }
    })
}

pub(crate) fn start_cleaning(cx: &Cx) -> Running {
    let queue = subscribe(cx);
    let shared = Arc::new(cx.clone());
    workers(cx, CLEANER, 1, &queue, move |key| {
        let cx = Arc::clone(&shared);
        async move { clean(&cx, &key).await }
    })
}

fn subscribe(cx: &Cx) -> WorkQueue<Key> {
    let queue = WorkQueue::new();
    let filled = queue.clone();
    cx.caches.signing_requests.on_event(move |event| {
        if !matches!(event, Event::Deleted(_)) {
            filled.add(event.object().metadata.key());
        }
    });
    queue
}

/// The subresources that the requester must be allowed to create, with the words of approval; none
/// when the request is not for this controller to approve.
fn permissions(csr: &SigningRequest) -> Vec<(&'static str, &'static str)> {
    let decided = csr.has("Approved") || csr.has("Denied") || !csr.status.certificate.is_empty();
    if decided || csr.spec.signer_name != KUBELET_CLIENT {
        return Vec::new();
    }
    let Ok(request) = csr.request() else { return Vec::new() };
    if kubelet_client(&request, &csr.spec.usages).is_err() {
        return Vec::new();
    }
    let mut ways = Vec::new();
    if request.common_name() == csr.spec.username {
        let words = "Auto approving self kubelet client certificate after SubjectAccessReview.";
        ways.push(("selfnodeclient", words));
    }
    ways.push((
        "nodeclient",
        "Auto approving kubelet client certificate after SubjectAccessReview.",
    ));
    ways
}

async fn approve(cx: &Cx, key: &Key) -> Result<Action> {
    let Some(csr) = cx.caches.signing_requests.lister().get(key) else { return Ok(Action::Done) };
    let ways = permissions(&csr);
    for (subresource, words) in &ways {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {
                "user": csr.spec.username, "uid": csr.spec.uid, "groups": csr.spec.groups,
                "extra": csr.spec.extra,
                "resourceAttributes": {
                    "group": "certificates.k8s.io", "resource": "certificatesigningrequests",
                    "verb": "create", "subresource": subresource, "version": "*",
                },
            },
        });
        let answer: Value =
            cx.rest.create(&REVIEWS, "", &review).await.context("asking for access")?;
        if answer["status"]["allowed"] == true {
            let approved = Condition::new("Approved", "True", "AutoApproved", *words);
            write(cx, &csr, "approval", approved).await?;
            return Ok(Action::Done);
        }
    }
    Ok(if ways.is_empty() { Action::Done } else { Action::RequeueAfter(ASK_AGAIN) })
}

/// The authority of each signer that has one.
struct Authorities {
    known: Vec<(&'static str, Live<Authority>)>,
}

impl Authorities {
    fn open(args: &Args) -> Self {
        let all = [
            (
                API_CLIENT,
                &args.cluster_signing_kube_apiserver_client_cert_file,
                &args.cluster_signing_kube_apiserver_client_key_file,
            ),
            (
                KUBELET_CLIENT,
                &args.cluster_signing_kubelet_client_cert_file,
                &args.cluster_signing_kubelet_client_key_file,
            ),
            (
                KUBELET_SERVING,
                &args.cluster_signing_kubelet_serving_cert_file,
                &args.cluster_signing_kubelet_serving_key_file,
            ),
            (
                LEGACY,
                &args.cluster_signing_legacy_unknown_cert_file,
                &args.cluster_signing_legacy_unknown_key_file,
            ),
        ];
        let mut known = Vec::new();
        for (signer, cert, key) in all {
            let cert = cert.as_deref().or(args.cluster_signing_cert_file.as_deref());
            let key = key.as_deref().or(args.cluster_signing_key_file.as_deref());
            if let (Some(cert), Some(key)) = (cert, key)
                && let Some(authority) = open(signer, cert, key)
            {
                known.push((signer, authority));
            }
        }
        Authorities { known }
    }

    fn of(&self, signer: &str) -> Option<Arc<Authority>> {
        self.known.iter().find(|(name, _)| *name == signer).map(|(_, authority)| authority.get())
    }
}

fn open(signer: &str, cert: &Path, key: &Path) -> Option<Live<Authority>> {
    let (cert, key) = (cert.to_owned(), key.to_owned());
    match Live::new(vec![cert.clone(), key.clone()], move || Authority::open(&cert, &key)) {
        Ok(authority) => Some(authority),
        Err(err) => {
            let err = format!("{err:#}");
            tracing::error!(
                signer,
                err,
                "Signing authority was not opened, signing nothing for it"
            );
            None
        }
    }
}

/// Whether it is approved, and neither denied nor answered yet.
fn is_to_sign(csr: &SigningRequest) -> bool {
    csr.has("Approved")
        && !csr.has("Denied")
        && !csr.has("Failed")
        && csr.status.certificate.is_empty()
}

async fn sign(cx: &Cx, key: &Key, authorities: &Authorities) -> Result<Action> {
    let Some(csr) = cx.caches.signing_requests.lister().get(key) else { return Ok(Action::Done) };
    let Some(authority) = authorities.of(&csr.spec.signer_name) else { return Ok(Action::Done) };
    if !is_to_sign(&csr) {
        return Ok(Action::Done);
    }
    let longest = i64::try_from(cx.args.cluster_signing_duration.as_secs()).unwrap_or(i64::MAX);
    match issue(&csr, &authority, now(), longest) {
        Ok(certificate) => {
            let body = json!({
                "metadata": {"resourceVersion": csr.metadata.resource_version},
                "status": {"certificate": STANDARD.encode(certificate)},
            });
            patch(cx, &csr, "status", &body).await?;
        }
        Err(err) => {
            let failed =
                Condition::new("Failed", "True", "SignerValidationFailure", format!("{err:#}"));
            write(cx, &csr, "status", failed).await?;
        }
    }
    Ok(Action::Done)
}

fn issue(
    csr: &SigningRequest,
    authority: &Authority,
    now: Timestamp,
    longest: i64,
) -> Result<String> {
    let request = csr.request()?;
    check(&csr.spec.signer_name, &request, &csr.spec.usages).map_err(anyhow::Error::msg)?;
    let asked = csr.spec.expiration_seconds.map_or(longest, |it| it.max(600));
    authority.sign(request, &csr.spec.usages, now.as_second(), asked.min(longest))
}

/// Adds a condition.
async fn write(
    cx: &Cx,
    csr: &SigningRequest,
    subresource: &str,
    mut added: Condition,
) -> Result<()> {
    let at = Time(now());
    added.last_update_time = Some(at.clone());
    added.last_transition_time = Some(at);
    let mut conditions = csr.status.conditions.clone();
    conditions.push(added);
    let body = json!({
        "metadata": {"resourceVersion": csr.metadata.resource_version},
        "status": {"conditions": conditions},
    });
    patch(cx, csr, subresource, &body).await
}

async fn patch(cx: &Cx, csr: &SigningRequest, subresource: &str, body: &Value) -> Result<()> {
    let key = csr.metadata.key();
    let how = Patch::Merge;
    match cx.rest.patch::<SigningRequest>(&SIGNING_REQUESTS, &key, subresource, how, body).await {
        Ok(csr) => cx.caches.signing_requests.observe(csr),
        Err(err) if is_not_found(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("updating {key}")),
    }
    Ok(())
}

/// Seconds until the request is to be deleted.
fn left(csr: &SigningRequest, now: Timestamp) -> i64 {
    let since = |at: Timestamp, keep: i64| keep - now.duration_since(at).as_secs();
    let pending = since(csr.metadata.created(), PENDING_SECS);
    let answered = !csr.status.certificate.is_empty();
    let decided = csr.status.conditions.iter().filter(|it| match it.kind.as_str() {
        "Approved" => answered,
        "Denied" | "Failed" => true,
        _ => false,
    });
    let decided = decided.filter_map(|it| it.last_update_time.as_ref()).map(|it| it.0).min();
    match decided {
        Some(at) => since(at, DECIDED_SECS),
        // Approved for a signer of somebody else, who may take as long as it likes.
        None => pending,
    }
}

async fn clean(cx: &Cx, key: &Key) -> Result<Action> {
    let Some(csr) = cx.caches.signing_requests.lister().get(key) else { return Ok(Action::Done) };
    if let Ok(left @ 1..) = u64::try_from(left(&csr, now())) {
        return Ok(Action::RequeueAfter(Duration::from_secs(left)));
    }
    let when =
        Preconditions { uid: &csr.metadata.uid, resource_version: &csr.metadata.resource_version };
    match cx.rest.delete(&SIGNING_REQUESTS, key, Propagation::Background, when).await {
        Err(err) if !is_not_found(&err) && !is_conflict(&err) => {
            Err(err).with_context(|| format!("deleting {key}"))
        }
        _ => Ok(Action::Done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_approved_and_unanswered_is_signed() {
        let check = |conditions: &[&str], certificate: &str, want: bool| {
            let mut csr = SigningRequest::default();
            csr.status.certificate = certificate.into();
            csr.status.conditions =
                conditions.iter().map(|kind| Condition::new(kind, "True", "", "")).collect();
            assert_eq!(is_to_sign(&csr), want, "{conditions:?}");
        };
        check(&[], "", false);
        check(&["Approved"], "", true);
        check(&["Approved"], "x", false);
        check(&["Approved", "Failed"], "", false);
        check(&["Approved", "Denied"], "", false);
    }

    #[test]
    fn old_requests_go() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut csr = SigningRequest::default();
        csr.metadata.creation_timestamp = Some(Time(at(0)));
        assert_eq!(left(&csr, at(0)), PENDING_SECS);
        let mut approved = Condition::new("Approved", "True", "", "");
        approved.last_update_time = Some(Time(at(100)));
        csr.status.conditions.push(approved);
        assert_eq!(left(&csr, at(0)), PENDING_SECS, "not answered yet");
        csr.status.certificate = "x".into();
        assert_eq!(left(&csr, at(200)), DECIDED_SECS - 100);
    }

    #[test]
    fn requests_of_others_are_left_alone() {
        let mut csr = SigningRequest::default();
        csr.spec.signer_name = "example.com/mine".into();
        assert!(permissions(&csr).is_empty());
        csr.spec.signer_name = KUBELET_CLIENT.into();
        csr.spec.request = "garbage".into();
        assert!(permissions(&csr).is_empty());
    }
}
