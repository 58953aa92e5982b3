//! Jobs: the selector and labels that tie pods to one job.

use apimachinery::field::FieldErrors;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::job_validation;
use crate::registry::core::podtemplate::{default_template, template_warnings};
use crate::registry::table::{age, column, condition, containers, human, name, selector, wide};
use crate::registry::value::{
    at, at_mut, default, default_zero, flag, has, int, is_zero, list_mut, object, set, text,
};
use crate::registry::{AGE, Column, Cx, NAME, Object, Selectable, Strategy};

#[derive(Debug)]
pub(super) struct Job;

impl Strategy for Job {
    fn resource(&self) -> &'static str {
        "jobs.batch"
    }

    fn default(&self, obj: &mut Object) {
        if let Some(spec) = at_mut(obj, "spec") {
            if !has(spec, "completions") && !has(spec, "parallelism") {
                spec["completions"] = json!(1);
            }
            default(spec, "parallelism", 1);
            let limit = if has(spec, "backoffLimitPerIndex") { i32::MAX } else { 6 };
            default(spec, "backoffLimit", limit);
            default(spec, "completionMode", "NonIndexed");
            default(spec, "suspend", false);
            default(spec, "manualSelector", false);
            let replacement =
                if has(spec, "podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
            default(spec, "podReplacementPolicy", replacement);
            for rule in list_mut(spec, "podFailurePolicy.rules") {
                for pattern in list_mut(rule, "onPodConditions") {
                    default_zero(pattern, "status", "True");
                }
            }
        }
        default_template(obj, "spec.template");
    }

    fn prepare_for_create(&self, _cx: &Cx<'_>, obj: &mut Object) {
        generate_selector(obj);
        // A job without labels of its own has those of its pods.
        let labels = at(obj, "spec.template.metadata.labels").clone();
        if is_zero(at(obj, "metadata.labels")) && !is_zero(&labels) {
            set(obj, "metadata.labels", labels);
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        job_validation::validate(errs, obj);
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        if cx.subresource == "status" {
            return job_validation::validate_status(errs, new);
        }
        job_validation::validate_update(errs, new, old);
    }

    fn warnings(&self, _cx: &Cx<'_>, obj: &Object, old: Option<&Object>) -> Vec<String> {
        let mut out = Vec::new();
        let name = text(obj, "metadata.name");
        if old.is_none()
            && !apimachinery::validation::label_problems(name).is_empty()
            && !name.is_empty()
        {
            out.push(format!(
                "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: {:?}",
                apimachinery::validation::label_problems(name)
            ));
        }
        out.extend(template_warnings(obj, old, "spec.template"));
        out
    }

    fn selectable_fields(&self) -> &'static [Selectable] {
        const FIELDS: &[Selectable] =
            &[Selectable { name: "status.successful", path: "status.succeeded", zero: "0" }];
        FIELDS
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column("Status"),
            column("Completions"),
            column("Duration"),
            AGE,
            wide("Containers"),
            wide("Images"),
            wide("Selector"),
        ];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let (names, images) = containers(at(obj, "spec.template.spec"));
        vec![
            name(obj),
            json!(status(obj)),
            json!(completions(obj)),
            json!(duration(obj, now)),
            age(obj, now),
            json!(names),
            json!(images),
            json!(selector(at(obj, "spec.selector"))),
        ]
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn orphans_by_default(&self) -> bool {
        true
    }
}

/// The job's uid in its selector and in the labels of its pods.
fn generate_selector(obj: &mut Object) {
    if flag(obj, "spec.manualSelector") {
        return;
    }
    let uid = text(obj, "metadata.uid").to_owned();
    let name = text(obj, "metadata.name").to_owned();
    let labels = object(obj, "spec.template.metadata.labels");
    for (label, value) in [
        ("controller-uid", &uid),
        ("batch.kubernetes.io/controller-uid", &uid),
        ("job-name", &name),
        ("batch.kubernetes.io/job-name", &name),
    ] {
        labels.insert(label.to_owned(), json!(value));
    }
    let matching = object(obj, "spec.selector.matchLabels");
    matching.insert("batch.kubernetes.io/controller-uid".to_owned(), json!(uid));
}

fn holds(job: &Object, kind: &str) -> bool {
    condition(job, kind).is_some_and(|c| text(c, "status") == "True")
}

fn status(job: &Object) -> &'static str {
    if holds(job, "Complete") {
        "Complete"
    } else if holds(job, "Failed") {
        "Failed"
    } else if has(job, "metadata.deletionTimestamp") {
        "Terminating"
    } else if holds(job, "Suspended") {
        "Suspended"
    } else if holds(job, "FailureTarget") {
        "FailureTarget"
    } else if holds(job, "SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn completions(job: &Object) -> String {
    let done = int(job, "status.succeeded").unwrap_or_default();
    match (int(job, "spec.completions"), int(job, "spec.parallelism").unwrap_or_default()) {
        (Some(wanted), _) => format!("{done}/{wanted}"),
        (None, parallel) if parallel > 1 => format!("{done}/1 of {parallel}"),
        (None, _) => format!("{done}/1"),
    }
}

fn duration(job: &Object, now: Timestamp) -> String {
    let time = |path: &str| text(job, path).parse::<Timestamp>().ok();
    match (time("status.startTime"), time("status.completionTime")) {
        (None, _) => String::new(),
        (Some(start), end) => human(end.unwrap_or(now).as_second() - start.as_second()),
    }
}
