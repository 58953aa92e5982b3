//! ServiceAccounts.

use apimachinery::field::FieldErrors;
use jiff::Timestamp;
use serde_json::Value;

use crate::registry::table::{age, name};
use crate::registry::value::remove;
use crate::registry::{AGE, Column, Cx, NAME, Object, Strategy};

#[derive(Debug)]
pub(super) struct ServiceAccount;

impl Strategy for ServiceAccount {
    fn resource(&self) -> &'static str {
        "serviceaccounts"
    }

    fn prepare_for_create(&self, _cx: &Cx<'_>, obj: &mut Object) {
        // Token secrets are no longer listed; what a client lists is kept.
        if obj.get("secrets").is_some_and(|secrets| secrets.as_array().is_some_and(Vec::is_empty)) {
            remove(obj, "secrets");
        }
    }

    fn validate(&self, _cx: &Cx<'_>, _obj: &Object, _errs: &mut FieldErrors) {}

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, AGE];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        vec![name(obj), age(obj, now)]
    }
}
