//! `coordination.k8s.io`.

use apimachinery::field::FieldErrors;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::table::{age, column, name};
use super::validate::{not_negative, spec};
use super::value::{at, int, text};
use super::{AGE, Column, Cx, NAME, Object, Strategy};

pub(super) static STRATEGIES: &[&dyn Strategy] = &[&Lease, &LeaseCandidate];

#[derive(Debug)]
struct Lease;

impl Strategy for Lease {
    fn resource(&self) -> &'static str {
        "leases.coordination.k8s.io"
    }

    /// Coordinated election is not on: its fields are dropped.
    fn prepare_for_create(&self, _cx: &Cx<'_>, obj: &mut Object) {
        for field in ["spec.strategy", "spec.preferredHolder"] {
            super::value::remove(obj, field);
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        validate(obj, errs);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Object, _old: &Object, errs: &mut FieldErrors) {
        validate(new, errs);
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, column("Holder"), AGE];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        vec![name(obj), json!(text(obj, "spec.holderIdentity")), age(obj, now)]
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

fn validate(obj: &Object, errs: &mut FieldErrors) {
    if let Some(seconds) = int(obj, "spec.leaseDurationSeconds")
        && seconds <= 0
    {
        errs.invalid(spec().child("leaseDurationSeconds"), seconds, "must be greater than 0");
    }
    not_negative(errs, &spec().child("leaseTransitions"), at(obj, "spec.leaseTransitions"));
}

#[derive(Debug)]
struct LeaseCandidate;

impl Strategy for LeaseCandidate {
    fn resource(&self) -> &'static str {
        "leasecandidates.coordination.k8s.io"
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        for field in ["leaseName", "binaryVersion", "strategy"] {
            if text(at(obj, "spec"), field).is_empty() {
                errs.required(spec().child(field), "");
            }
        }
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column("LeaseName"),
            column("BinaryVersion"),
            column("EmulationVersion"),
            column("Strategy"),
            AGE,
        ];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        vec![
            name(obj),
            json!(text(obj, "spec.leaseName")),
            json!(text(obj, "spec.binaryVersion")),
            json!(text(obj, "spec.emulationVersion")),
            json!(text(obj, "spec.strategy")),
            age(obj, now),
        ]
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}
