//! Tolerations, topology spread and scheduling gates.

use std::collections::HashSet;

use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::{label_value_problems, qualified_problems};
use serde_json::Value;

use crate::registry::validate::{label_selector, problems};
use crate::registry::value::{has, int, key, list, map, text, texts};

/// `tolerations` of a pod spec.
pub(super) fn tolerations(errs: &mut FieldErrors, path: &Path, spec: &Value) {
    tolerations_at(errs, &path.child("tolerations"), list(spec, "tolerations"));
}

/// A list of tolerations.
pub(crate) fn tolerations_at(errs: &mut FieldErrors, path: &Path, all: &[Value]) {
    for (at, one) in all.iter().enumerate() {
        let path = path.index(at);
        let (name, operator) = (text(one, "key"), text(one, "operator"));
        let (value, effect) = (text(one, "value"), text(one, "effect"));
        if !name.is_empty() {
            problems(errs, &path.child("key"), name, qualified_problems(name));
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errs.invalid(path.child("operator"), operator, detail);
        }
        if has(one, "tolerationSeconds") && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errs.invalid(path.child("effect"), effect, detail);
        }
        match operator {
            "Equal" | "" => {
                let found = label_value_problems(value);
                if !found.is_empty() {
                    errs.invalid(path.child("operator"), value, found.join(";"));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    let detail = "value must be empty when `operator` is 'Exists'";
                    errs.invalid(path.child("operator"), value, detail);
                }
            }
            _ => errs.not_supported(path.child("operator"), operator, &["Equal", "Exists"]),
        }
        if !effect.is_empty() && !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute")
        {
            let valid = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
            errs.not_supported(path.child("effect"), effect, valid);
        }
    }
}

/// `schedulingGates`.
pub(super) fn gates(errs: &mut FieldErrors, path: &Path, spec: &Value) {
    let path = path.child("schedulingGates");
    let mut seen = HashSet::new();
    for (at, gate) in list(spec, "schedulingGates").iter().enumerate() {
        let name = text(gate, "name");
        problems(errs, &path.index(at), name, qualified_problems(name));
        if !seen.insert(name) {
            errs.duplicate(path.index(at), name);
        }
    }
}

/// `topologySpreadConstraints`.
pub(super) fn spread(errs: &mut FieldErrors, path: &Path, spec: &Value) {
    let all = list(spec, "topologySpreadConstraints");
    let path = path.child("topologySpreadConstraints");
    for (at, one) in all.iter().enumerate() {
        let path = path.index(at);
        let skew = int(one, "maxSkew").unwrap_or_default();
        if skew <= 0 {
            errs.invalid(path.child("maxSkew"), skew, "must be greater than zero");
        }
        let topology = text(one, "topologyKey");
        if topology.is_empty() {
            errs.required(path.child("topologyKey"), "can not be empty");
        }
        let when = text(one, "whenUnsatisfiable");
        let valid = &["DoNotSchedule", "ScheduleAnyway"];
        if !valid.contains(&when) {
            errs.not_supported(path.child("whenUnsatisfiable"), when, valid);
        }
        let again = all[at + 1..].iter().any(|other| {
            text(other, "topologyKey") == topology && text(other, "whenUnsatisfiable") == when
        });
        if again {
            let shown = format!("{{{topology}, {when}}}");
            errs.duplicate(path.child("{topologyKey, whenUnsatisfiable}"), shown);
        }
        min_domains(errs, &path, one, when);
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            let policy = text(one, field);
            if has(one, field) && !matches!(policy, "Honor" | "Ignore") {
                errs.not_supported(path.child(field), policy, &["Honor", "Ignore"]);
            }
        }
        label_keys(errs, &path.child("matchLabelKeys"), one);
        label_selector(errs, &path.child("labelSelector"), key(one, "labelSelector"));
    }
}

fn min_domains(errs: &mut FieldErrors, path: &Path, one: &Value, when: &str) {
    let Some(min) = int(one, "minDomains") else { return };
    let path = path.child("minDomains");
    if min <= 0 {
        errs.invalid(path.clone(), min, "must be greater than zero");
    }
    if when != "DoNotSchedule" {
        let detail =
            format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}");
        errs.invalid(path, min, detail);
    }
}

/// `matchLabelKeys` of a spread constraint: labels that its selector does not have already.
fn label_keys(errs: &mut FieldErrors, path: &Path, one: &Value) {
    let selector = key(one, "labelSelector");
    if selector.is_null() && !list(one, "matchLabelKeys").is_empty() {
        errs.forbidden(path, "must not be specified when labelSelector is not set");
    }
    let selected = |name: &str| {
        map(selector, "matchLabels").contains_key(name)
            || list(selector, "matchExpressions").iter().any(|term| text(term, "key") == name)
    };
    for (n, name) in texts(one, "matchLabelKeys").enumerate() {
        problems(errs, &path.index(n), name, qualified_problems(name));
        if selected(name) {
            errs.invalid(path.index(n), name, "exists in both matchLabelKeys and labelSelector");
        }
    }
}
