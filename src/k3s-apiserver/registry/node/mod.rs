//! `node.k8s.io`.

use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::label_problems;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::core::podspec::tolerations_at;
use super::core::resources::resource_value;
use super::table::{age, column, name};
use super::validate::{immutable, labels, problems};
use super::value::{at, key, list, map, text};
use super::{AGE, Column, Cx, NAME, Object, Strategy};

pub(super) static STRATEGIES: &[&dyn Strategy] = &[&RuntimeClass];

#[derive(Debug)]
struct RuntimeClass;

impl Strategy for RuntimeClass {
    fn resource(&self) -> &'static str {
        "runtimeclasses.node.k8s.io"
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        let handler = text(obj, "handler");
        let path = Path::new("handler");
        if handler.is_empty() {
            errs.required(path, "");
        } else {
            problems(errs, &path, handler, label_problems(handler));
        }
        for (name, value) in map(obj, "overhead.podFixed") {
            let path = Path::new("overhead").child("limits").key(name);
            resource_value(errs, &path, name, value);
        }
        let path = Path::new("scheduling");
        labels(errs, &path.child("nodeSelector"), at(obj, "scheduling.nodeSelector"));
        tolerations_at(errs, &path.child("tolerations"), list(obj, "scheduling.tolerations"));
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        immutable(errs, &Path::new("handler"), key(new, "handler"), key(old, "handler"));
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, column("Handler"), AGE];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        vec![name(obj), json!(text(obj, "handler")), age(obj, now)]
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}
