//! Validation of jobs and job templates.

use serde_json::{Value, json};

use crate::registry::Object;
use crate::registry::core::podtemplate::validate_template;
use crate::registry::field::{FieldErrors, Path};
use crate::registry::validate::{
    IMMUTABLE, immutable_spec, label_selector, not_negative, selects, spec,
};
use crate::registry::value::{at, flag, has, int, key, list, map, text};

const MAX_INDEXED: i64 = 100_000;
const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];

pub(super) fn validate(errs: &mut FieldErrors, obj: &Object) {
    generated_selector(errs, obj);
    let path = spec();
    let body = at(obj, "spec");
    validate_body(errs, &path, body);
    let selector = key(body, "selector");
    if selector.is_null() {
        errs.required(path.child("selector"), "");
    } else {
        label_selector(errs, &path.child("selector"), selector);
    }
    let labels = at(body, "template.metadata.labels");
    if !selects(selector, labels) {
        let path = path.child("template").child("metadata").child("labels");
        errs.invalid(path, labels.clone(), "`selector` does not match template `labels`");
    }
}

/// The selector that the server makes may not be given by the client.
fn generated_selector(errs: &mut FieldErrors, obj: &Object) {
    if flag(obj, "spec.manualSelector") {
        return;
    }
    let selector = at(obj, "spec.selector");
    if selector.is_null() {
        errs.required(spec().child("selector"), "");
        let labels = at(obj, "spec.template.metadata.labels");
        let path = spec().child("template").child("metadata").child("labels");
        errs.invalid(path, labels.clone(), "`selector` does not match template `labels`");
        return;
    }
    let uid = at(obj, "metadata.uid");
    let mut wanted = serde_json::Map::new();
    wanted.insert("batch.kubernetes.io/controller-uid".to_owned(), uid.clone());
    let mut legacy = serde_json::Map::new();
    legacy.insert("controller-uid".to_owned(), uid.clone());
    let given = map(selector, "matchLabels");
    if (*given != wanted && *given != legacy) || !list(selector, "matchExpressions").is_empty() {
        errs.invalid(spec().child("selector"), selector.clone(), "`selector` not auto-generated");
    }
}

/// A job's spec, also in the template of a CronJob.
pub(super) fn validate_body(errs: &mut FieldErrors, path: &Path, body: &Value) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
    ] {
        not_negative(errs, &path.child(field), key(body, field));
    }
    completion_mode(errs, path, body);
    failure_policy(errs, &path.child("podFailurePolicy"), body);
    let replacement = text(body, "podReplacementPolicy");
    if has(body, "podReplacementPolicy") {
        if has(body, "podFailurePolicy") {
            if replacement != "Failed" {
                errs.not_supported(path.child("podReplacementPolicy"), replacement, &["Failed"]);
            }
        } else if !matches!(replacement, "Failed" | "TerminatingOrFailed") {
            let valid = &["Failed", "TerminatingOrFailed"];
            errs.not_supported(path.child("podReplacementPolicy"), replacement, valid);
        }
    }
    if has(body, "managedBy") {
        managed_by(errs, &path.child("managedBy"), text(body, "managedBy"));
    }
    let template = path.child("template");
    validate_template(errs, &template, key(body, "template"));
    let policy = at(body, "template.spec.restartPolicy").as_str().unwrap_or_default();
    let here = template.child("spec").child("restartPolicy");
    match policy {
        "" | "Always" => errs.required(here, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if has(body, "podFailurePolicy") => {
            errs.invalid(
                here,
                policy,
                "only \"Never\" is supported when podFailurePolicy is specified",
            );
        }
        "OnFailure" | "Never" => {}
        other => errs.not_supported(here, other, &["OnFailure", "Never"]),
    }
}

fn completion_mode(errs: &mut FieldErrors, path: &Path, body: &Value) {
    let mode = text(body, "completionMode");
    if has(body, "completionMode") && !matches!(mode, "NonIndexed" | "Indexed") {
        errs.not_supported(path.child("completionMode"), mode, &["NonIndexed", "Indexed"]);
    }
    if mode == "Indexed" {
        if !has(body, "completions") {
            errs.required(path.child("completions"), "when completion mode is Indexed");
        }
        let parallel = int(body, "parallelism").unwrap_or_default();
        if parallel > MAX_INDEXED {
            let detail = format!(
                "must be less than or equal to {MAX_INDEXED} when completion mode is Indexed"
            );
            errs.invalid(path.child("parallelism"), parallel, detail);
        }
        if let (Some(failed), Some(all)) = (int(body, "maxFailedIndexes"), int(body, "completions"))
            && failed > all
        {
            errs.invalid(
                path.child("maxFailedIndexes"),
                failed,
                "must be less than or equal to completions",
            );
        }
    } else {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(value) = int(body, field) {
                errs.invalid(path.child(field), value, "requires indexed completion mode");
            }
        }
        if has(body, "successPolicy") {
            let shown = key(body, "successPolicy").clone();
            errs.invalid(path.child("successPolicy"), shown, "requires indexed completion mode");
        }
    }
    if has(body, "maxFailedIndexes") && !has(body, "backoffLimitPerIndex") {
        errs.required(path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
}

fn failure_policy(errs: &mut FieldErrors, path: &Path, body: &Value) {
    for (n, rule) in list(body, "podFailurePolicy.rules").iter().enumerate() {
        let path = path.child("rules").index(n);
        let action = text(rule, "action");
        if action.is_empty() {
            errs.required(path.child("action"), format!("valid values: {}", ACTIONS.join(", ")));
        } else if !ACTIONS.contains(&action) {
            errs.not_supported(path.child("action"), action, ACTIONS);
        } else if action == "FailIndex" && !has(body, "backoffLimitPerIndex") {
            errs.invalid(
                path.child("action"),
                action,
                "requires the backoffLimitPerIndex to be set",
            );
        }
        let conditions = list(rule, "onPodConditions");
        match (has(rule, "onExitCodes"), !conditions.is_empty()) {
            (true, true) => {
                bare(errs, path, "specifying both OnExitCodes and OnPodConditions is not supported")
            }
            (false, false) => {
                bare(errs, path, "specifying one of OnExitCodes and OnPodConditions is required")
            }
            (true, false) => exit_codes(errs, &path.child("onExitCodes"), rule, body),
            (false, true) => {
                for (at, pattern) in conditions.iter().enumerate() {
                    let path = path.child("onPodConditions").index(at);
                    let kind = text(pattern, "type");
                    let found = crate::registry::validate::qualified_problems(kind);
                    crate::registry::validate::problems(errs, &path.child("type"), kind, found);
                    let status = text(pattern, "status");
                    if !matches!(status, "True" | "False" | "Unknown") {
                        let valid = &["False", "True", "Unknown"];
                        errs.not_supported(path.child("status"), status, valid);
                    }
                }
            }
        }
    }
}

/// Upstream shows no value here, and neither do we.
fn bare(errs: &mut FieldErrors, path: Path, detail: &str) {
    errs.add("FieldValueInvalid", path, format!("Invalid value: {detail}"));
}

fn exit_codes(errs: &mut FieldErrors, path: &Path, rule: &Value, body: &Value) {
    let codes = at(rule, "onExitCodes");
    let operator = text(codes, "operator");
    if !matches!(operator, "In" | "NotIn") {
        errs.not_supported(path.child("operator"), operator, &["In", "NotIn"]);
    }
    let name = text(codes, "containerName");
    let template = at(body, "template.spec");
    let known = list(template, "containers").iter().chain(list(template, "initContainers"));
    if !name.is_empty() && !known.into_iter().any(|c| text(c, "name") == name) {
        let detail = "must be one of the container or initContainer names in the pod template";
        errs.invalid(path.child("containerName"), name, detail);
    }
    let values: Vec<i64> = list(codes, "values").iter().filter_map(Value::as_i64).collect();
    let path = path.child("values");
    if values.is_empty() {
        errs.invalid(path, json!([]), "at least one value is required");
        return;
    }
    for (n, code) in values.iter().enumerate() {
        if values[..n].contains(code) {
            errs.duplicate(path.index(n), *code);
        }
        if operator == "In" && *code == 0 {
            errs.invalid(path.index(n), 0, "must not be 0 for the In operator");
        }
    }
    if !values.is_sorted() {
        errs.invalid(path, json!(values), "must be ordered");
    }
}

fn managed_by(errs: &mut FieldErrors, path: &Path, name: &str) {
    let good = name.split_once('/').is_some_and(|(domain, rest)| {
        !rest.is_empty() && crate::registry::validate::subdomain_problems(domain).is_empty()
    });
    if !good {
        errs.invalid(path, name, "must be a domain-prefixed path (such as \"acme.io/foo\")");
    }
    if name.len() > 63 {
        errs.too_long(path, 63);
    }
}

pub(super) fn validate_update(errs: &mut FieldErrors, new: &Object, old: &Object) {
    validate(errs, new);
    let elastic = text(new, "spec.completionMode") == "Indexed"
        && int(new, "spec.completions") == int(new, "spec.parallelism");
    if !elastic {
        immutable_spec(errs, "completions", new, old);
    }
    immutable_spec(errs, "selector", new, old);
    template(errs, new, old);
    for field in
        ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
    {
        immutable_spec(errs, field, new, old);
    }
}

/// While a job is suspended and has not started, where its pods go may still change.
fn template(errs: &mut FieldErrors, new: &Object, old: &Object) {
    let mut allowed = at(new, "spec.template").clone();
    let had = at(old, "spec.template");
    if flag(old, "spec.suspend") && !has(old, "status.startTime") {
        for field in ["nodeSelector", "tolerations", "affinity", "schedulingGates"] {
            crate::registry::value::carry(had, &mut allowed, &format!("spec.{field}"));
        }
        for field in ["annotations", "labels"] {
            crate::registry::value::carry(had, &mut allowed, &format!("metadata.{field}"));
        }
    }
    if allowed != *had {
        let shown = crate::registry::core::spec_diff::internal(&allowed);
        errs.invalid(spec().child("template"), shown, IMMUTABLE);
    }
}
