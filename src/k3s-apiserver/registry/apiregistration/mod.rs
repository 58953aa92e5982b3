//! `apiregistration.k8s.io/v1`.

use apimachinery::field::{FieldErrors, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::table::{age, column, condition, name};
use super::validate::spec;
use super::value::{at, at_mut, default, flag, has, int, text};
use super::{AGE, Column, Cx, NAME, NameRule, Object, Strategy};

pub(super) static STRATEGIES: &[&dyn Strategy] = &[&ApiService];

#[derive(Debug)]
struct ApiService;

impl Strategy for ApiService {
    fn resource(&self) -> &'static str {
        "apiservices.apiregistration.k8s.io"
    }

    fn default(&self, obj: &mut Object) {
        if let Some(service) = at_mut(obj, "spec.service") {
            default(service, "port", 443);
        }
    }

    fn prepare_for_create(&self, cx: &Cx<'_>, obj: &mut Object) {
        if !has(obj, "spec.service") {
            obj["status"] = json!({"conditions": [{
                "type": "Available",
                "status": "True",
                "lastTransitionTime": format!("{:.0}", cx.now),
                "reason": "Local",
                "message": "Local APIServices are always available",
            }]});
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        validate(obj, errs);
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, _old: &Object, errs: &mut FieldErrors) {
        if cx.subresource.is_empty() {
            validate(new, errs);
        }
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, column("Service"), column("Available"), AGE];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let service = match at(obj, "spec.service") {
            Value::Null => "Local".to_owned(),
            service => format!("{}/{}", text(service, "namespace"), text(service, "name")),
        };
        let available = match condition(obj, "Available") {
            Some(c) if text(c, "status") == "True" => "True".to_owned(),
            Some(c) => format!("{} ({})", text(c, "status"), text(c, "reason")),
            None => "Unknown".to_owned(),
        };
        vec![name(obj), json!(service), json!(available), age(obj, now)]
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Own
    }
}

fn validate(obj: &Object, errs: &mut FieldErrors) {
    let path = spec();
    let (group, version) = (text(obj, "spec.group"), text(obj, "spec.version"));
    let wanted = format!("{version}.{group}");
    let name = text(obj, "metadata.name");
    if name != wanted {
        let detail = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
        errs.invalid(Path::new("metadata").child("name"), name, detail);
    }
    for (field, most) in [("groupPriorityMinimum", 20000), ("versionPriority", 1000)] {
        let value = int(at(obj, "spec"), field).unwrap_or_default();
        if value <= 0 || value > most {
            let detail = format!("must be positive and less than {most}");
            errs.invalid(path.child(field), value, detail);
        }
    }
    let ca = !text(obj, "spec.caBundle").is_empty();
    let service = at(obj, "spec.service");
    if service.is_null() {
        if ca {
            errs.invalid(path.child("caBundle"), "", "local APIServices may not have a caBundle");
        }
        if flag(obj, "spec.insecureSkipTLSVerify") {
            let detail = "local APIServices may not have insecureSkipTLSVerify";
            errs.invalid(path.child("insecureSkipTLSVerify"), true, detail);
        }
        return;
    }
    for field in ["namespace", "name"] {
        if text(service, field).is_empty() {
            errs.required(path.child("service").child(field), "");
        }
    }
    if ca && flag(obj, "spec.insecureSkipTLSVerify") {
        let detail = "may not be true if caBundle is present";
        errs.invalid(path.child("insecureSkipTLSVerify"), true, detail);
    }
}
