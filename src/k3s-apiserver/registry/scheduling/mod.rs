//! `scheduling.k8s.io`.

use apimachinery::field::{FieldErrors, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::table::{age, boolean, column, integer, name, number};
use super::validate::{immutable, one_of};
use super::value::{default, flag, int, key, text};
use super::{AGE, Column, Cx, NAME, Object, Strategy};

const MAX_USER: i64 = 1_000_000_000;

pub(super) static STRATEGIES: &[&dyn Strategy] = &[&PriorityClass];

#[derive(Debug)]
struct PriorityClass;

impl Strategy for PriorityClass {
    fn resource(&self) -> &'static str {
        "priorityclasses.scheduling.k8s.io"
    }

    fn default(&self, obj: &mut Object) {
        default(obj, "preemptionPolicy", "PreemptLowerPriority");
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        let name = text(obj, "metadata.name");
        let value = int(obj, "value").unwrap_or_default();
        let path = Path::new("metadata").child("name");
        if name.starts_with("system-") {
            let known = [
                ("system-node-critical", 2_000_001_000),
                ("system-cluster-critical", 2_000_000_000),
            ];
            let why = match known.iter().find(|(known, _)| *known == name) {
                None => format!("{name} is not a known system priority class"),
                Some((_, wanted)) if *wanted != value => {
                    format!("value of {name} PriorityClass must be {wanted}")
                }
                Some(_) if flag(obj, "globalDefault") => {
                    format!("globalDefault of {name} PriorityClass must be false")
                }
                Some(_) => String::new(),
            };
            if !why.is_empty() {
                let detail = "priority class names with 'system-' prefix are reserved for system use only. error: ";
                errs.forbidden(path, format!("{detail}{why}"));
            }
        } else if value > MAX_USER {
            let detail = format!("maximum allowed value of a user defined priority is {MAX_USER}");
            errs.forbidden("value", detail);
        }
        let valid = &["PreemptLowerPriority", "Never"];
        one_of(errs, &Path::new("preemptionPolicy"), key(obj, "preemptionPolicy"), valid);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        if int(new, "value").unwrap_or_default() != int(old, "value").unwrap_or_default() {
            errs.forbidden("value", "may not be changed in an update.");
        }
        let path = Path::new("preemptionPolicy");
        immutable(errs, &path, key(new, "preemptionPolicy"), key(old, "preemptionPolicy"));
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] =
            &[NAME, integer("Value"), boolean("Global-Default"), AGE, column("PreemptionPolicy")];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        vec![
            name(obj),
            number(obj, "value"),
            json!(flag(obj, "globalDefault")),
            age(obj, now),
            json!(text(obj, "preemptionPolicy")),
        ]
    }

    fn has_generation(&self) -> bool {
        true
    }
}
