//! Validation of jobs and job templates.

use apimachinery::field::{ErrorKind, FieldErrors, Path};
use serde_json::{Value, json};

use crate::registry::Object;
use crate::registry::core::podtemplate::validate_template;
use crate::registry::internal;
use crate::registry::validate::{
    IMMUTABLE, immutable_spec, label_selector, not_negative, selects, spec,
};
use crate::registry::value::{at, flag, has, int, key, list, map, text};

const MAX_INDEXED: i64 = 100_000;
const MAX_PER_INDEX: i64 = 10_000;
const RULES_MAX: usize = 20;
const CODES_MAX: usize = 255;
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
        "maxFailedIndexes",
    ] {
        not_negative(errs, &path.child(field), key(body, field));
    }
    if has(body, "maxFailedIndexes") && !has(body, "backoffLimitPerIndex") {
        errs.required(path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    if has(body, "managedBy") {
        managed_by(errs, &path.child("managedBy"), text(body, "managedBy"));
    }
    completion_mode(errs, path, body);
    failure_policy(errs, &path.child("podFailurePolicy"), body);
    success_policy(errs, &path.child("successPolicy"), body);
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
        indexed(errs, path, body);
    } else if matches!(mode, "" | "NonIndexed") {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(value) = int(body, field) {
                errs.invalid(path.child(field), value, "requires indexed completion mode");
            }
        }
    }
}

fn indexed(errs: &mut FieldErrors, path: &Path, body: &Value) {
    let mut at_most = |field: &str, most: i64, when: &str| {
        if let Some(number) = int(body, field).filter(|number| *number > most) {
            let detail = format!("must be less than or equal to {most}{when}");
            errs.invalid(path.child(field), number, detail);
        }
    };
    at_most("parallelism", MAX_INDEXED, " when completion mode is Indexed");
    at_most("maxFailedIndexes", MAX_INDEXED, "");
    let completions = int(body, "completions");
    if completions.is_some_and(|all| all > MAX_INDEXED) && has(body, "backoffLimitPerIndex") {
        let when = format!(
            " when completions are above {MAX_INDEXED} and used with backoff limit per index"
        );
        at_most("parallelism", MAX_PER_INDEX, &when);
        at_most("maxFailedIndexes", MAX_PER_INDEX, &when);
        if !has(body, "maxFailedIndexes") {
            let detail = format!("must be specified when completions is above {MAX_INDEXED}");
            errs.required(path.child("maxFailedIndexes"), detail);
        }
    }
    let Some(completions) = completions else {
        errs.required(path.child("completions"), "when completion mode is Indexed");
        return;
    };
    if let Some(failed) = int(body, "maxFailedIndexes").filter(|failed| *failed > completions) {
        let detail = "must be less than or equal to completions";
        errs.invalid(path.child("maxFailedIndexes"), failed, detail);
    }
}

/// When an indexed job has succeeded before all of its indexes have.
fn success_policy(errs: &mut FieldErrors, path: &Path, body: &Value) {
    let policy = key(body, "successPolicy");
    if policy.is_null() {
        return;
    }
    if text(body, "completionMode") != "Indexed" {
        errs.invalid(path, internal::renamed(policy), "requires indexed completion mode");
        return;
    }
    let (rules, path) = (list(policy, "rules"), path.child("rules"));
    if rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        errs.required(&path, detail);
    }
    if rules.len() > RULES_MAX {
        errs.too_many(&path, rules.len(), RULES_MAX);
    }
    let completions = int(body, "completions").unwrap_or_default();
    for (n, rule) in rules.iter().enumerate() {
        success_rule(errs, &path.index(n), rule, completions);
    }
}

fn success_rule(errs: &mut FieldErrors, path: &Path, rule: &Value, completions: i64) {
    let indexes = rule.get("succeededIndexes").and_then(Value::as_str);
    let count = int(rule, "succeededCount");
    if indexes.is_none() && count.is_none() {
        let detail = "at least one of succeededCount or succeededIndexes must be specified";
        errs.required(path, detail);
    }
    let total = indexes.map(|text| indexes_count(text, completions));
    if let Some(Err(why)) = &total {
        let text = indexes.unwrap_or_default();
        let detail = format!("error parsing succeededIndexes: {why}");
        errs.invalid(path.child("succeededIndexes"), text, detail);
    }
    let Some(count) = count else { return };
    let path = path.child("succeededCount");
    not_negative(errs, &path, key(rule, "succeededCount"));
    if count > completions {
        let detail = format!(
            "must be less than or equal to {completions} (the number of specified completions)"
        );
        errs.invalid(&path, count, detail);
    }
    if let Some(total) = total.map(Result::unwrap_or_default).filter(|total| count > *total) {
        let detail = format!(
            "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
        );
        errs.invalid(path, count, detail);
    }
}

/// How many indexes a list like `0-3,5` has.
fn indexes_count(text: &str, completions: i64) -> Result<i64, String> {
    let number = |text: &str| {
        let index = text
            .parse::<i64>()
            .map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
        if index >= completions { Err(format!("too large index: {text:?}")) } else { Ok(index) }
    };
    let mut last: Option<i64> = None;
    let mut total = 0;
    for interval in text.split(',').filter(|_| !text.is_empty()) {
        let parts: Vec<&str> = interval.split('-').collect();
        let (from, to) = match parts.as_slice() {
            [one] => (number(one)?, None),
            [from, to] => (number(from)?, Some(number(to)?)),
            _ => {
                return Err(format!(
                    "the fragment {interval:?} violates the requirement that an index interval can have at most two parts separated by '-'"
                ));
            }
        };
        let order = |a: i64, b: i64| {
            if a >= b {
                Err(format!("non-increasing order, previous: {a}, current: {b}"))
            } else {
                Ok(())
            }
        };
        if let Some(last) = last {
            order(last, from)?;
        }
        if let Some(to) = to {
            order(from, to)?;
        }
        last = Some(to.unwrap_or(from));
        total += to.unwrap_or(from) - from + 1;
    }
    Ok(total)
}

fn failure_policy(errs: &mut FieldErrors, path: &Path, body: &Value) {
    let count = list(body, "podFailurePolicy.rules").len();
    if count > RULES_MAX {
        errs.too_many(path.child("rules"), count, RULES_MAX);
    }
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
                    let found = apimachinery::validation::qualified_problems(kind);
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
    errs.add(ErrorKind::Invalid, path, "", detail);
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
    if values.len() > CODES_MAX {
        errs.too_many(&path, values.len(), CODES_MAX);
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
        !rest.is_empty() && apimachinery::validation::subdomain_problems(domain).is_empty()
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
    completions(errs, new, old);
    immutable_spec(errs, "selector", new, old);
    template(errs, new, old);
    for field in
        ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
    {
        immutable_spec(errs, field, new, old);
    }
}

/// An indexed job may grow and shrink: as many at a time as there are altogether.
fn completions(errs: &mut FieldErrors, new: &Object, old: &Object) {
    let wanted = int(new, "spec.completions");
    if text(new, "spec.completionMode") != "Indexed" {
        immutable_spec(errs, "completions", new, old);
    } else if wanted != int(old, "spec.completions") && wanted != int(new, "spec.parallelism") {
        let shown = at(new, "spec.completions").clone();
        let detail = "can only be modified in tandem with spec.parallelism";
        errs.invalid(spec().child("completions"), shown, detail);
    }
}

/// An update of the status.
pub(super) fn validate_status(errs: &mut FieldErrors, new: &Object) {
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        not_negative(errs, &Path::new("status").child(field), key(at(new, "status"), field));
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
        let shown = internal::json(internal::Struct::PodTemplateSpec, &allowed);
        errs.add(ErrorKind::Invalid, spec().child("template"), &shown, IMMUTABLE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_counted_in_order() {
        assert_eq!(indexes_count("0-3,5", 10), Ok(5));
        assert_eq!(indexes_count("", 10), Ok(0));
        for (text, why) in [
            ("a", "cannot convert string to integer for index: \"a\""),
            ("10", "too large index: \"10\""),
            ("3,2", "non-increasing order, previous: 3, current: 2"),
            ("3-3", "non-increasing order, previous: 3, current: 3"),
        ] {
            assert_eq!(indexes_count(text, 10), Err(why.to_owned()), "{text}");
        }
    }
}
