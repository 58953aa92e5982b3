//! AdmissionReview: the question that a webhook is asked, and its answer. Pure.
//!
//! Invariant: an answer that does not fit its question is no answer, as upstream's
//! `VerifyAdmissionResponse` has it.

use std::collections::BTreeMap;

use apimachinery::gotext::quote;
use apimachinery::status::Status;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::super::Attributes;
use super::hook::Phase;
use crate::admission::Operation;
use crate::registry::value::{flag, key, list, map, text};

/// What a webhook is asked about: the request's own kind and resource, or equivalent ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Invocation {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) resource: String,
    pub(super) kind: [String; 3],
}

/// The question.
pub(super) fn question(
    cx: &Attributes<'_>,
    invocation: &Invocation,
    review: &str,
    uid: &str,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Value {
    let kind = |[group, version, kind]: [&str; 3]| json!({"group": group, "version": version, "kind": kind});
    let resource = |group: &str, version: &str, resource: &str| json!({"group": group, "version": version, "resource": resource});
    let [group, version, name] = &invocation.kind;
    let mut request = json!({
        "uid": uid,
        "kind": kind([group, version, name]),
        "resource": resource(&invocation.group, &invocation.version, &invocation.resource),
        "requestKind": kind([cx.kind_group, cx.kind_version, cx.kind]),
        "requestResource": resource(cx.group, cx.version, cx.resource),
        "operation": cx.operation.name(),
        "userInfo": cx.user.to_value(),
        "object": object,
        "oldObject": old,
        "dryRun": cx.dry_run,
        "options": options(cx),
    });
    // A Namespace is in itself.
    let namespace = match (cx.namespace, cx.resource) {
        ("", "namespaces") if cx.group.is_empty() => cx.name,
        (namespace, _) => namespace,
    };
    for (field, value) in [
        ("subResource", cx.subresource),
        ("requestSubResource", cx.subresource),
        ("name", cx.name),
        ("namespace", namespace),
    ] {
        if !value.is_empty() {
            request[field] = value.into();
        }
    }
    json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{review}"),
        "request": request})
}

/// The options of the operation that is performed.
fn options(cx: &Attributes<'_>) -> Value {
    let kind = match cx.operation {
        Operation::Create => "CreateOptions",
        Operation::Update => "UpdateOptions",
        Operation::Delete => "DeleteOptions",
        Operation::Connect => return Value::Null,
    };
    let mut options = match cx.delete_options {
        Some(sent) => sent.clone(),
        None => json!({}),
    };
    options["kind"] = kind.into();
    options["apiVersion"] = "meta.k8s.io/v1".into();
    if cx.dry_run {
        options["dryRun"] = json!(["All"]);
    }
    if !cx.field_manager.is_empty() {
        options["fieldManager"] = cx.field_manager.into();
    }
    if cx.operation != Operation::Delete && !cx.field_validation.is_empty() {
        options["fieldValidation"] = cx.field_validation.into();
    }
    options
}

/// What a webhook said.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) allowed: bool,
    /// `status`, where it was refused.
    pub(super) result: Value,
    /// A JSON patch, decoded.
    pub(super) patch: Option<Vec<u8>>,
    pub(super) patch_type: String,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) warnings: Vec<String>,
}

/// Reads the answer to the question with this uid.
pub(super) fn answer(
    review: &str,
    uid: &str,
    phase: Phase,
    answer: &Value,
) -> Result<Answer, String> {
    let response = key(answer, "response");
    if !response.is_object() {
        return Err("webhook response was absent".to_owned());
    }
    let wanted = format!("admission.k8s.io/{review}, Kind=AdmissionReview");
    if review == "v1" && text(response, "uid") != uid {
        let got = quote(text(response, "uid"));
        return Err(format!("expected response.uid={}, got {got}", quote(uid)));
    }
    let got = format!("{}, Kind={}", text(answer, "apiVersion"), text(answer, "kind"));
    if got != wanted {
        return Err(format!("expected webhook response of {wanted}, got {got}"));
    }
    let patch = match text(response, "patch") {
        "" => None,
        patch => Some(
            STANDARD
                .decode(patch)
                .map_err(|err| format!("couldn't decode response.patch: {err}"))?,
        ),
    };
    let declared = key(response, "patchType").as_str();
    if review == "v1" {
        match (phase, &patch, declared) {
            (Phase::Mutating, Some(_), None) => {
                return Err("webhook returned response.patch but not response.patchType".to_owned());
            }
            (Phase::Mutating, None, Some(_)) => {
                return Err("webhook returned response.patchType but not response.patch".to_owned());
            }
            (Phase::Mutating, Some(_), Some("")) => {
                return Err("webhook returned invalid response.patchType of \"\"".to_owned());
            }
            (Phase::Validating, Some(_), _) => {
                return Err("validating webhook may not return response.patch".to_owned());
            }
            (Phase::Validating, None, Some(_)) => {
                return Err("validating webhook may not return response.patchType".to_owned());
            }
            _ => {}
        }
    }
    let noted = map(response, "auditAnnotations").iter();
    Ok(Answer {
        allowed: flag(response, "allowed"),
        result: key(response, "status").clone(),
        patch,
        // The old version had no other type.
        patch_type: if review == "v1" { declared.unwrap_or_default() } else { "JSONPatch" }
            .to_owned(),
        annotations: noted
            .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect(),
        warnings: list(response, "warnings")
            .iter()
            .filter_map(|warning| warning.as_str().map(str::to_owned))
            .collect(),
    })
}

/// The refusal that a webhook's `status` makes.
pub(super) fn refused(hook: &str, result: &Value) -> Status {
    let head = format!("admission webhook {} denied the request", quote(hook));
    let message = match (text(result, "message"), text(result, "reason")) {
        ("", "") => format!("{head} without explanation"),
        ("", why) | (why, _) => format!("{head}: {why}"),
    };
    let code = key(result, "code").as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or(0);
    Status {
        details: key(result, "details").clone(),
        ..Status::new(code.max(400), text(result, "reason").to_owned(), message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(review: &str, phase: Phase, response: Value) -> Result<Answer, String> {
        let api_version = format!("admission.k8s.io/{review}");
        let object =
            json!({"apiVersion": api_version, "kind": "AdmissionReview", "response": response});
        answer(review, "u", phase, &object)
    }

    #[test]
    fn answers_that_do_not_fit_are_none() {
        let check = |phase: Phase, response: Value, want: &str| {
            assert_eq!(answered("v1", phase, response).unwrap_err(), want);
        };
        check(Phase::Mutating, Value::Null, "webhook response was absent");
        check(Phase::Mutating, json!({}), "expected response.uid=\"u\", got \"\"");
        let patch = STANDARD.encode("[]");
        check(
            Phase::Mutating,
            json!({"uid": "u", "patch": patch}),
            "webhook returned response.patch but not response.patchType",
        );
        check(
            Phase::Validating,
            json!({"uid": "u", "patch": patch, "patchType": "JSONPatch"}),
            "validating webhook may not return response.patch",
        );
        let wrong = json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview",
            "response": {"uid": "u"}});
        assert_eq!(
            answer("v1", "u", Phase::Mutating, &wrong).unwrap_err(),
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got \
             admission.k8s.io/v1beta1, Kind=AdmissionReview"
        );
        let old = answered("v1beta1", Phase::Mutating, json!({"allowed": true, "patch": patch}));
        assert_eq!(old.unwrap().patch_type, "JSONPatch");
    }

    #[test]
    fn refusals_are_at_least_400_and_say_who_refused() {
        let check = |result: Value, code: u16, reason: &str, message: &str| {
            let status = refused("a.b.c", &result);
            assert_eq!((status.code, &*status.reason, &*status.message), (code, reason, message));
        };
        let head = "admission webhook \"a.b.c\" denied the request";
        check(Value::Null, 400, "", &format!("{head} without explanation"));
        check(json!({"reason": "because"}), 400, "because", &format!("{head}: because"));
        check(
            json!({"code": 403, "reason": "Forbidden", "message": "no"}),
            403,
            "Forbidden",
            &format!("{head}: no"),
        );
    }
}
