//! `certificates.k8s.io`.

mod validation;

use apimachinery::field::FieldErrors;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::table::{age, column, human, name, or};
use super::value::{at, carry, int, list, set, text};
use super::{AGE, Column, Cx, NAME, NameRule, Object, Selectable, Strategy};

pub(super) static STRATEGIES: &[&dyn Strategy] = &[&CertificateSigningRequest, &ClusterTrustBundle];

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
                for kind in ["Approved", "Denied"] {
                    keep_decision(new, old, kind);
                }
                stamp(new, old, cx.now);
            }
            _ => carry(old, new, "status"),
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        validation::validate(errs, obj);
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        validation::validate_update(cx, errs, new, old);
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

/// A decision is not changed by way of the status; validation refuses to add or remove one.
fn keep_decision(new: &mut Object, old: &Object, kind: &str) {
    let of_kind = |condition: &&Value| text(condition, "type") == kind;
    let had: Vec<Value> = list(old, "status.conditions").iter().filter(of_kind).cloned().collect();
    if list(new, "status.conditions").iter().filter(of_kind).count() != had.len() {
        return;
    }
    let mut had = had.into_iter();
    for condition in super::value::list_mut(new, "status.conditions") {
        if text(condition, "type") == kind
            && let Some(before) = had.next()
        {
            *condition = before;
        }
    }
}

/// New conditions get their times from the server.
fn stamp(new: &mut Object, old: &Object, now: Timestamp) {
    let had: Vec<Value> = list(old, "status.conditions").to_vec();
    let now = json!(format!("{now:.0}"));
    for condition in super::value::list_mut(new, "status.conditions") {
        if at(condition, "lastUpdateTime").is_null() {
            condition["lastUpdateTime"] = now.clone();
        }
        if at(condition, "lastTransitionTime").is_null() {
            let same = |had: &&Value| {
                ["type", "status"].iter().all(|name| text(had, name) == text(condition, name))
            };
            let before = had.iter().find(same).map(|had| at(had, "lastTransitionTime").clone());
            condition["lastTransitionTime"] =
                before.filter(|time| !time.is_null()).unwrap_or_else(|| now.clone());
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
