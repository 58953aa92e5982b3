//! ControllerRevisions: the history of daemon sets and stateful sets.

use apimachinery::field::{FieldErrors, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::table::{age, column, name};
use crate::registry::validate::not_negative;
use crate::registry::value::{flag, key, list, text};
use crate::registry::{AGE, Column, Cx, NAME, Object, Strategy};

#[derive(Debug)]
pub(super) struct ControllerRevision;

impl Strategy for ControllerRevision {
    fn resource(&self) -> &'static str {
        "controllerrevisions.apps"
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        if key(obj, "data").is_null() {
            errs.required("data", "data is mandatory");
        }
        not_negative(errs, &Path::new("revision"), key(obj, "revision"));
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        if key(new, "data") != key(old, "data") {
            errs.invalid("data", key(new, "data").clone(), "field is immutable");
        }
        not_negative(errs, &Path::new("revision"), key(new, "revision"));
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, column("Controller"), column("Revision"), AGE];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let owner = list(obj, "metadata.ownerReferences").iter().find(|o| flag(o, "controller"));
        let owner = owner.map_or("<none>".to_owned(), |owner| {
            let (kind, of) = (text(owner, "kind").to_lowercase(), text(owner, "name"));
            match text(owner, "apiVersion").split_once('/') {
                Some((group, _)) => format!("{kind}.{group}/{of}"),
                None => format!("{kind}/{of}"),
            }
        });
        vec![name(obj), json!(owner), key(obj, "revision").clone(), age(obj, now)]
    }
}
