//! What is wrong with a CertificateSigningRequest, its conditions and its certificate.
//!
//! Invariant: what a stored request has already is tolerated when it is updated.

use std::collections::HashSet;

use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::{label_problems, subdomain_problems};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, X509Certificate, X509CertificationRequest};

use crate::registry::validate::spec;
use crate::registry::value::{at, int, key, list, text, texts};
use crate::registry::{Cx, Object};

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const SUBDOMAIN_MAX: usize = 253;

/// A new request.
pub(super) fn validate(errs: &mut FieldErrors, obj: &Object) {
    let path = spec();
    if let Err(why) = check_request(text(obj, "spec.request")) {
        errs.invalid(path.child("request"), at(obj, "spec.request").clone(), why);
    }
    let usages: Vec<&str> = texts(obj, "spec.usages").collect();
    if usages.is_empty() {
        errs.required(path.child("usages"), "");
    }
    for (n, usage) in usages.iter().enumerate() {
        if !USAGES.contains(usage) {
            errs.not_supported(path.child("usages").index(n), *usage, USAGES);
        }
    }
    for (n, usage) in usages.iter().enumerate() {
        if usages[..n].contains(usage) {
            errs.duplicate(path.child("usages").index(n), *usage);
        }
    }
    let name = text(obj, "spec.signerName");
    if name == "kubernetes.io/legacy-unknown" {
        let detail = "the legacy signerName is not allowed via this API version";
        errs.invalid(path.child("signerName"), name, detail);
    } else {
        signer_name(errs, &path.child("signerName"), name);
    }
    if let Some(seconds) = int(obj, "spec.expirationSeconds")
        && seconds < 600
    {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errs.invalid(path.child("expirationSeconds"), seconds, detail);
    }
}

/// A changed status, by way of the request itself, `status` or `approval`.
pub(super) fn validate_update(cx: &Cx<'_>, errs: &mut FieldErrors, new: &Object, old: &Object) {
    conditions(errs, list(new, "status.conditions"), list(old, "status.conditions"));
    let (certificate, had) = (text(new, "status.certificate"), text(old, "status.certificate"));
    let path = Path::new("status").child("certificate");
    if certificate != had
        && !certificate.is_empty()
        && check_certificate(had).is_ok()
        && let Err(why) = check_certificate(certificate)
    {
        errs.invalid(&path, "<certificate data>", why);
    }
    let of = |object: &Object, kind: &str| -> Vec<Value> {
        let conditions = list(object, "status.conditions").iter();
        conditions.filter(|condition| text(condition, "type") == kind).cloned().collect()
    };
    let conditions_path = Path::new("status").child("conditions");
    for kind in ["Approved", "Denied", "Failed"] {
        if of(new, kind).len() < of(old, kind).len() {
            let detail = format!("updates may not remove a condition of type {kind:?}");
            errs.forbidden(&conditions_path, detail);
        }
    }
    for kind in ["Approved", "Denied"].into_iter().filter(|_| cx.subresource != "approval") {
        if of(new, kind).len() > of(old, kind).len() {
            let detail = format!("updates may not add a condition of type {kind:?}");
            errs.forbidden(&conditions_path, detail);
        }
    }
    if certificate == had {
        return;
    }
    if cx.subresource != "status" {
        errs.forbidden(path, "updates may not set certificate content");
    } else if !had.is_empty() {
        errs.forbidden(path, "updates may not modify existing certificate content");
    }
}

fn conditions(errs: &mut FieldErrors, conditions: &[Value], had: &[Value]) {
    let kinds = |conditions: &[Value]| -> Vec<String> {
        conditions.iter().map(|condition| text(condition, "type").to_owned()).collect()
    };
    let had = kinds(had);
    let had_both = ["Approved", "Denied"].iter().all(|kind| had.iter().any(|had| had == kind));
    let had_twice = had.iter().collect::<HashSet<_>>().len() < had.len();
    let path = Path::new("status").child("conditions");
    let kinds = kinds(conditions);
    for (n, (condition, kind)) in conditions.iter().zip(&kinds).enumerate() {
        let (here, before) = (path.index(n), &kinds[..n]);
        if kind.is_empty() && !had.contains(kind) {
            errs.required(here.child("type"), "");
        }
        let valid: &[&str] = match kind.as_str() {
            "Approved" | "Denied" | "Failed" => &["True"],
            _ => &["False", "True", "Unknown"],
        };
        match text(condition, "status") {
            "" => errs.required(here.child("status"), ""),
            status if valid.contains(&status) => {}
            status => errs.not_supported(here.child("status"), status, valid),
        }
        let other = match kind.as_str() {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if !other.is_empty() && !had_both && before.iter().any(|before| before == other) {
            let detail = "Approved and Denied conditions are mutually exclusive";
            errs.invalid(&path, key(condition, "type").clone(), detail);
        }
        if !had_twice && before.contains(kind) {
            errs.duplicate(here.child("type"), kind.as_str());
        }
    }
}

/// `example.com/signer-name`
fn signer_name(errs: &mut FieldErrors, path: &Path, name: &str) {
    if name.is_empty() {
        errs.required(path, "");
        return;
    }
    let segments: Vec<&str> = name.split('/').collect();
    let [domain, rest] = segments.as_slice() else {
        let detail =
            "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errs.invalid(path, name, detail);
        return;
    };
    if domain.len() > SUBDOMAIN_MAX {
        errs.too_long(path, SUBDOMAIN_MAX);
    }
    domain_labels(errs, path, domain, label_problems);
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errs.invalid(path, *domain, detail);
    }
    domain_labels(errs, path, rest, subdomain_problems);
    let max = SUBDOMAIN_MAX + 1 + SUBDOMAIN_MAX + 63 + 1;
    if name.len() > max {
        errs.too_long(path, max);
    }
}

/// What is wrong with the first bad label says it all.
fn domain_labels(errs: &mut FieldErrors, path: &Path, whole: &str, check: fn(&str) -> Vec<String>) {
    let found =
        whole.split('.').map(|label| (label, check(label))).find(|(_, why)| !why.is_empty());
    let Some((label, problems)) = found else { return };
    for why in problems {
        errs.invalid(path, whole, format!("validating label {label:?}: {why}"));
    }
}

/// A PKCS#10 request in PEM, signed with the key that it names.
fn check_request(encoded: &str) -> Result<(), String> {
    let pem = STANDARD.decode(encoded).unwrap_or_default();
    let block = Pem::iter_from_buffer(&pem).next().and_then(Result::ok);
    let block = block.filter(|block| block.label == "CERTIFICATE REQUEST");
    let block = block.ok_or("PEM block type must be CERTIFICATE REQUEST")?;
    let (_, request) = X509CertificationRequest::from_der(&block.contents)
        .map_err(|_| "asn1: syntax error: data truncated")?;
    request.verify_signature().map_err(|_| {
        let algorithm = request.signature_algorithm.algorithm.to_id_string();
        if algorithm.starts_with("1.2.840.10045.") {
            "x509: ECDSA verification failure"
        } else if algorithm == "1.3.101.112" {
            "x509: Ed25519 verification failure"
        } else {
            "crypto/rsa: verification error"
        }
        .to_owned()
    })
}

/// Nothing, or certificates in PEM.
fn check_certificate(encoded: &str) -> Result<(), String> {
    if encoded.is_empty() {
        return Ok(());
    }
    let pem = STANDARD.decode(encoded).unwrap_or_default();
    let mut blocks = 0;
    for block in Pem::iter_from_buffer(&pem).map_while(Result::ok) {
        if block.label != "CERTIFICATE" {
            let found = block.label;
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {found:?}"));
        }
        blocks += 1;
        X509Certificate::from_der(&block.contents).map_err(|_| "x509: malformed certificate")?;
    }
    match blocks {
        0 => Err("must contain at least one CERTIFICATE PEM block".to_owned()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_of_signers_have_a_domain_and_a_path() {
        let check = |name: &str, want: &str| {
            let mut errs = FieldErrors::default();
            signer_name(&mut errs, &Path::new("s"), name);
            let found = if errs.is_empty() { String::new() } else { errs.aggregate() };
            assert!(found.starts_with(want) && found.is_empty() == want.is_empty(), "{found}");
        };
        check("example.com/a.b", "");
        check("nosigner", "s: Invalid value: \"nosigner\": must be a fully qualified domain");
        check("example/a", "s: Invalid value: \"example\": should be a domain with at least two");
        check("Bad.com/a", "s: Invalid value: \"Bad.com\": validating label \"Bad\": a lowercase");
        check("example.com/A_", "s: Invalid value: \"A_\": validating label \"A_\": a lowercase");
    }

    #[test]
    fn conditions_are_decided_once() {
        let check = |conditions: Value, had: Value, want: &str| {
            let mut errs = FieldErrors::default();
            let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
            super::conditions(&mut errs, &list(&conditions), &list(&had));
            let found = if errs.is_empty() { String::new() } else { errs.aggregate() };
            assert_eq!(found, want);
        };
        let yes = |kind: &str| json!({"type": kind, "status": "True"});
        check(json!([yes("Approved")]), json!([]), "");
        check(
            json!([yes("Approved"), yes("Denied")]),
            json!([]),
            "status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are \
             mutually exclusive",
        );
        check(
            json!([{"type": "Failed", "status": "False"}, {}]),
            json!([]),
            "[status.conditions[0].status: Unsupported value: \"False\": supported values: \"True\", \
             status.conditions[1].type: Required value, status.conditions[1].status: Required value]",
        );
    }
}
