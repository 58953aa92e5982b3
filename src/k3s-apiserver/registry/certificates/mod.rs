//! `certificates.k8s.io`.

use std::collections::HashSet;

use apimachinery::field::FieldErrors;
use apimachinery::validation::subdomain_problems;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::table::{age, column, human, name, or};
use super::validate::spec;
use super::value::{at, carry, int, list, set, text, texts};
use super::{AGE, Column, Cx, NAME, NameRule, Object, Selectable, Strategy};

pub(super) static STRATEGIES: &[&dyn Strategy] = &[&CertificateSigningRequest, &ClusterTrustBundle];

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

#[derive(Debug)]
struct CertificateSigningRequest;

impl Strategy for CertificateSigningRequest {
    fn resource(&self) -> &'static str {
        "certificatesigningrequests.certificates.k8s.io"
    }

    fn prepare_for_create(&self, cx: &Cx<'_>, obj: &mut Object) {
        for field in ["username", "uid", "groups", "extra"] {
            super::value::remove(obj, &format!("spec.{field}"));
        }
        set(obj, "spec.username", cx.user.name.as_str());
        if !cx.user.uid.is_empty() {
            set(obj, "spec.uid", cx.user.uid.as_str());
        }
        if !cx.user.groups.is_empty() {
            set(obj, "spec.groups", json!(cx.user.groups));
        }
        if !cx.user.extra.is_empty() {
            set(obj, "spec.extra", json!(cx.user.extra));
        }
        super::value::remove(obj, "status");
    }

    fn prepare_for_update(&self, cx: &Cx<'_>, new: &mut Object, old: &Object) {
        // What was asked for never changes; each subresource owns its part of the status.
        carry(old, new, "spec");
        match cx.subresource {
            "approval" => {
                let conditions = at(new, "status.conditions").clone();
                carry(old, new, "status");
                if !conditions.is_null() {
                    set(new, "status.conditions", conditions);
                }
                stamp(new, old, cx.now);
            }
            "status" => {
                let keep: Vec<Value> = list(old, "status.conditions")
                    .iter()
                    .filter(|c| is_decision(c))
                    .cloned()
                    .collect();
                let mut conditions: Vec<Value> = list(new, "status.conditions")
                    .iter()
                    .filter(|c| !is_decision(c))
                    .cloned()
                    .collect();
                conditions.splice(0..0, keep);
                if !conditions.is_empty() {
                    set(new, "status.conditions", conditions);
                }
                stamp(new, old, cx.now);
            }
            _ => carry(old, new, "status"),
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        validate(obj, errs);
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        let kinds = |object: &Object| -> Vec<String> {
            let conditions = list(object, "status.conditions").iter();
            conditions.map(|condition| text(condition, "type").to_owned()).collect()
        };
        let left = kinds(new);
        for kind in kinds(old).iter().filter(|kind| !left.contains(kind)) {
            let permanent = matches!(kind.as_str(), "Approved" | "Denied" | "Failed");
            if permanent && matches!(cx.subresource, "approval" | "status") {
                let detail = format!("updates may not remove a condition of type {kind:?}");
                errs.forbidden("status.conditions", detail);
            }
        }
        let certificate = text(new, "status.certificate");
        if cx.subresource == "status" && certificate != text(old, "status.certificate") {
            let pem = STANDARD.decode(certificate).unwrap_or_default();
            let found = !certificate.is_empty()
                && String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE-----");
            if !found {
                let detail = "must contain at least one CERTIFICATE PEM block";
                errs.invalid("status.certificate", "<certificate data>", detail);
            }
        }
    }

    fn selectable_fields(&self) -> &'static [Selectable] {
        const FIELDS: &[Selectable] =
            &[Selectable { name: "spec.signerName", path: "spec.signerName", zero: "" }];
        FIELDS
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            AGE,
            column("SignerName"),
            column("Requestor"),
            column("RequestedDuration"),
            column("Condition"),
        ];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let duration = int(obj, "spec.expirationSeconds").map_or("<none>".to_owned(), human);
        vec![
            name(obj),
            age(obj, now),
            json!(or(obj, "spec.signerName", "<none>")),
            json!(text(obj, "spec.username")),
            json!(duration),
            json!(condition(obj)),
        ]
    }
}

fn is_decision(condition: &Value) -> bool {
    matches!(text(condition, "type"), "Approved" | "Denied")
}

/// New conditions get their times from the server.
fn stamp(new: &mut Object, old: &Object, now: Timestamp) {
    let had: Vec<Value> = list(old, "status.conditions").to_vec();
    let now = format!("{now:.0}");
    for condition in super::value::list_mut(new, "status.conditions") {
        let kind = text(condition, "type").to_owned();
        let before = had.iter().find(|c| text(c, "type") == kind);
        let changed = before.is_none_or(|c| text(c, "status") != text(condition, "status"));
        if at(condition, "lastUpdateTime").is_null() {
            condition["lastUpdateTime"] = json!(now);
        }
        if changed || at(condition, "lastTransitionTime").is_null() {
            condition["lastTransitionTime"] = json!(now);
        }
    }
}

fn condition(obj: &Object) -> String {
    let has = |kind: &str| list(obj, "status.conditions").iter().any(|c| text(c, "type") == kind);
    let mut out = if has("Denied") {
        "Denied".to_owned()
    } else if has("Approved") {
        "Approved".to_owned()
    } else {
        "Pending".to_owned()
    };
    if has("Failed") {
        out.push_str(",Failed");
    }
    if !text(obj, "status.certificate").is_empty() {
        out.push_str(",Issued");
    }
    out
}

fn validate(obj: &Object, errs: &mut FieldErrors) {
    let path = spec();
    let request = STANDARD.decode(text(obj, "spec.request")).unwrap_or_default();
    if !String::from_utf8_lossy(&request).contains("-----BEGIN CERTIFICATE REQUEST-----") {
        errs.invalid(path.child("request"), "", "PEM block type must be CERTIFICATE REQUEST");
    }
    let usages: Vec<&str> = texts(obj, "spec.usages").collect();
    if usages.is_empty() {
        errs.required(path.child("usages"), "");
    }
    let mut seen = HashSet::new();
    for (n, usage) in usages.iter().enumerate() {
        if !USAGES.contains(usage) {
            errs.not_supported(path.child("usages").index(n), *usage, USAGES);
        }
        if !seen.insert(*usage) {
            errs.duplicate(path.child("usages").index(n), *usage);
        }
    }
    signer(errs, obj);
    if let Some(seconds) = int(obj, "spec.expirationSeconds")
        && seconds < 600
    {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errs.invalid(path.child("expirationSeconds"), seconds, detail);
    }
}

fn signer(errs: &mut FieldErrors, obj: &Object) {
    let path = spec().child("signerName");
    let name = text(obj, "spec.signerName");
    if name.is_empty() {
        errs.required(path, "");
        return;
    }
    let good = name.split_once('/').is_some_and(|(domain, rest)| {
        domain.contains('.') && subdomain_problems(domain).is_empty() && !rest.is_empty()
    });
    if !good {
        let detail =
            "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        errs.invalid(path, name, detail);
    }
}

#[derive(Debug)]
struct ClusterTrustBundle;

impl Strategy for ClusterTrustBundle {
    fn resource(&self) -> &'static str {
        "clustertrustbundles.certificates.k8s.io"
    }

    fn selectable_fields(&self) -> &'static [Selectable] {
        const FIELDS: &[Selectable] =
            &[Selectable { name: "spec.signerName", path: "spec.signerName", zero: "" }];
        FIELDS
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, column("SignerName")];
        COLUMNS
    }

    fn row(&self, obj: &Object, _now: Timestamp) -> Vec<Value> {
        vec![name(obj), json!(or(obj, "spec.signerName", "<none>"))]
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }
}
