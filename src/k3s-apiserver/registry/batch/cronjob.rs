//! CronJobs.

use apimachinery::field::FieldErrors;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{cron, job_validation};
use crate::registry::core::podtemplate::{default_template, template_warnings};
use crate::registry::table::{age, boolean, column, containers, integer, name, or, since, wide};
use crate::registry::validate::{not_negative, one_of, spec};
use crate::registry::value::{at, at_mut, default, default_zero, flag, has, key, list, text};
use crate::registry::{AGE, Column, Cx, NAME, Object, Strategy};

#[derive(Debug)]
pub(super) struct CronJob;

impl Strategy for CronJob {
    fn resource(&self) -> &'static str {
        "cronjobs.batch"
    }

    fn default(&self, obj: &mut Object) {
        if let Some(spec) = at_mut(obj, "spec") {
            default_zero(spec, "concurrencyPolicy", "Allow");
            default(spec, "suspend", false);
            default(spec, "successfulJobsHistoryLimit", 3);
            default(spec, "failedJobsHistoryLimit", 1);
        }
        default_template(obj, "spec.jobTemplate.spec.template");
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        validate(obj, None, errs);
        let name = text(obj, "metadata.name");
        if name.len() > 52 {
            errs.invalid("metadata.name", name, "must be no more than 52 characters");
        }
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        if cx.subresource != "status" {
            validate(new, Some(old), errs);
        }
    }

    fn warnings(&self, _cx: &Cx<'_>, obj: &Object, old: Option<&Object>) -> Vec<String> {
        template_warnings(obj, old, "spec.jobTemplate.spec.template")
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column("Schedule"),
            column("Timezone"),
            boolean("Suspend"),
            integer("Active"),
            column("Last Schedule"),
            AGE,
            wide("Containers"),
            wide("Images"),
            wide("Selector"),
        ];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let (names, images) = containers(at(obj, "spec.jobTemplate.spec.template.spec"));
        let last = match at(obj, "status.lastScheduleTime") {
            Value::Null => "<none>".to_owned(),
            time => since(time, now),
        };
        let selector = match at(obj, "spec.jobTemplate.spec.selector") {
            Value::Null => "<none>".to_owned(),
            selector => crate::registry::table::selector(selector),
        };
        vec![
            name(obj),
            json!(text(obj, "spec.schedule")),
            json!(or(obj, "spec.timeZone", "<none>")),
            json!(if flag(obj, "spec.suspend") { "True" } else { "False" }),
            json!(list(obj, "status.active").len()),
            json!(last),
            age(obj, now),
            json!(names),
            json!(images),
            json!(selector),
        ]
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn validate(obj: &Object, old: Option<&Object>, errs: &mut FieldErrors) {
    let path = spec();
    let body = at(obj, "spec");
    schedule(errs, text(body, "schedule"), old.map(|old| text(old, "spec.schedule")));
    time_zone(errs, body, old);
    let field = "startingDeadlineSeconds";
    not_negative(errs, &path.child(field), key(body, field));
    let policy = path.child("concurrencyPolicy");
    match text(body, "concurrencyPolicy") {
        "" => errs.required(policy, ""),
        _ => one_of(errs, &policy, key(body, "concurrencyPolicy"), &["Allow", "Forbid", "Replace"]),
    }
    let template = at(body, "jobTemplate.spec");
    let here = path.child("jobTemplate").child("spec");
    job_validation::validate_body(errs, &here, template);
    if has(template, "selector") {
        let shown = key(template, "selector").clone();
        errs.invalid(here.child("selector"), shown, "`selector` will be auto-generated");
    }
    if flag(template, "manualSelector") {
        errs.not_supported(here.child("manualSelector"), true, &["nil", "false"]);
    }
    for field in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        not_negative(errs, &path.child(field), key(body, field));
    }
}

fn schedule(errs: &mut FieldErrors, text: &str, old: Option<&str>) {
    let path = spec().child("schedule");
    if text.is_empty() {
        errs.required(path, "");
        return;
    }
    if text.contains("TZ") {
        if old != Some(text) {
            let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            errs.invalid(path, text, detail);
        }
        return;
    }
    if let Err(why) = cron::check(text) {
        errs.invalid(path, text, why);
    }
}

fn time_zone(errs: &mut FieldErrors, body: &Value, old: Option<&Object>) {
    if !has(body, "timeZone")
        || old.is_some_and(|old| at(old, "spec.timeZone") == key(body, "timeZone"))
    {
        return;
    }
    let path = spec().child("timeZone");
    let zone = text(body, "timeZone");
    if zone.is_empty() {
        errs.invalid(path, zone, "timeZone must be nil or non-empty string");
    } else if zone.eq_ignore_ascii_case("local") {
        let detail =
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errs.invalid(path, zone, detail);
    } else if !known_zone(zone) {
        errs.invalid(path, zone, format!("unknown time zone {zone}"));
    }
}

/// Zones are files of the system's database; without one, plausible names are taken.
fn known_zone(zone: &str) -> bool {
    let plain = zone.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+-/".contains(&b));
    if !plain || zone.starts_with('/') {
        return false;
    }
    let base = std::path::Path::new("/usr/share/zoneinfo");
    zone == "UTC" || !base.exists() || base.join(zone).is_file()
}
