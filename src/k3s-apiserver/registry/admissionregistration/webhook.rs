//! Webhook configurations, mutating and validating.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::rules::{default_rules, failure_policy, match_conditions, rule};
use crate::expressions::Scope;
use crate::registry::field::{FieldErrors, Path};
use crate::registry::table::{age, integer, name};
use crate::registry::validate::{label_selector, problems, subdomain_problems};
use crate::registry::value::{at_mut, default, has, int, key, list, list_mut, text, texts};
use crate::registry::{AGE, Column, Cx, NAME, Object, Strategy};

/// The strategy of one of the two resources.
#[derive(Debug)]
pub(super) struct Configuration(pub(super) &'static str);

impl Strategy for Configuration {
    fn resource(&self) -> &'static str {
        self.0
    }

    fn default(&self, obj: &mut Object) {
        let mutating = self.0.starts_with("mutating");
        for hook in list_mut(obj, "webhooks") {
            default(hook, "failurePolicy", "Fail");
            default(hook, "matchPolicy", "Equivalent");
            default(hook, "namespaceSelector", json!({}));
            default(hook, "objectSelector", json!({}));
            default(hook, "timeoutSeconds", 10);
            if mutating {
                default(hook, "reinvocationPolicy", "Never");
            }
            default_rules(hook, "rules");
            if let Some(service) = at_mut(hook, "clientConfig.service") {
                default(service, "port", 443);
            }
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        check(obj, errs);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Object, _old: &Object, errs: &mut FieldErrors) {
        check(new, errs);
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, integer("Webhooks"), AGE];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        vec![name(obj), json!(list(obj, "webhooks").len()), age(obj, now)]
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn check(obj: &Object, errs: &mut FieldErrors) {
    let hooks = list(obj, "webhooks");
    for (n, hook) in hooks.iter().enumerate() {
        let path = Path::new("webhooks").index(n);
        let name = text(hook, "name");
        one(errs, &path, hook);
        if hooks[..n].iter().any(|other| text(other, "name") == name) {
            errs.duplicate(path.child("name"), name);
        }
    }
}

fn one(errs: &mut FieldErrors, path: &Path, hook: &Value) {
    let name = text(hook, "name");
    let here = path.child("name");
    if name.is_empty() {
        errs.required(here, "");
    } else {
        let found = subdomain_problems(name);
        let good = found.is_empty();
        problems(errs, &here, name, found);
        if good && name.split('.').count() < 3 {
            let detail = "should be a domain with at least three segments separated by dots";
            errs.invalid(here, name, detail);
        }
    }
    for (n, one) in list(hook, "rules").iter().enumerate() {
        rule(errs, &path.child("rules").index(n), one);
    }
    failure_policy(errs, path, hook);
    let policy = text(hook, "matchPolicy");
    if has(hook, "matchPolicy") && !matches!(policy, "Equivalent" | "Exact") {
        errs.not_supported(path.child("matchPolicy"), policy, &["Equivalent", "Exact"]);
    }
    let effects = text(hook, "sideEffects");
    if !has(hook, "sideEffects") {
        errs.required(path.child("sideEffects"), "must specify one of None, NoneOnDryRun");
    } else if !matches!(effects, "None" | "NoneOnDryRun") {
        errs.not_supported(path.child("sideEffects"), effects, &["None", "NoneOnDryRun"]);
    }
    if let Some(seconds) = int(hook, "timeoutSeconds")
        && !(1..=30).contains(&seconds)
    {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errs.invalid(path.child("timeoutSeconds"), seconds, detail);
    }
    for field in ["namespaceSelector", "objectSelector"] {
        label_selector(errs, &path.child(field), key(hook, field));
    }
    client_config(errs, &path.child("clientConfig"), key(hook, "clientConfig"));
    review_versions(errs, &path.child("admissionReviewVersions"), hook);
    let scope = Scope::match_conditions();
    let conditions = list(hook, "matchConditions");
    match_conditions(errs, &path.child("matchConditions"), conditions, &scope);
}

fn client_config(errs: &mut FieldErrors, path: &Path, config: &Value) {
    match (has(config, "url"), has(config, "service")) {
        (true, false) => {
            let url = text(config, "url");
            let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
            if scheme != "https" {
                let detail =
                    "'https' is the only allowed URL scheme; desired format: https://host[/path]";
                errs.invalid(path.child("url"), scheme, detail);
            }
        }
        (false, true) => {
            let service = key(config, "service");
            for field in ["namespace", "name"] {
                if text(service, field).is_empty() {
                    errs.required(
                        path.child("service").child(field),
                        format!("service {field} is required"),
                    );
                }
            }
        }
        _ => errs.required(path, "exactly one of url or service is required"),
    }
}

fn review_versions(errs: &mut FieldErrors, path: &Path, hook: &Value) {
    let versions: Vec<&str> = texts(hook, "admissionReviewVersions").collect();
    if versions.is_empty() {
        errs.required(path, "must specify one of v1, v1beta1");
        return;
    }
    for (n, version) in versions.iter().enumerate() {
        if versions[..n].contains(version) {
            errs.invalid(path.index(n), *version, "duplicate version");
        }
    }
    if !versions.iter().any(|version| matches!(*version, "v1" | "v1beta1")) {
        let shown = key(hook, "admissionReviewVersions").clone();
        errs.invalid(path, shown, "must include at least one of v1, v1beta1");
    }
}
