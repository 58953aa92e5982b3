//! Webhook configurations, mutating and validating.

use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::{label_1035_problems, subdomain_problems};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::rules::{default_rules, failure_policy, match_conditions, rule};
use crate::expressions::Scope;
use crate::registry::table::{age, integer, name};
use crate::registry::validate::{label_selector, one_of, problems};
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
    if has(hook, "reinvocationPolicy") {
        let policy = key(hook, "reinvocationPolicy");
        one_of(errs, &path.child("reinvocationPolicy"), policy, &["IfNeeded", "Never"]);
    }
    client_config(errs, &path.child("clientConfig"), key(hook, "clientConfig"));
    review_versions(errs, &path.child("admissionReviewVersions"), hook);
    let scope = Scope::match_conditions();
    let conditions = list(hook, "matchConditions");
    match_conditions(errs, &path.child("matchConditions"), conditions, &scope);
}

/// Where a webhook is called.
pub(crate) fn client_config(errs: &mut FieldErrors, path: &Path, config: &Value) {
    match (has(config, "url"), has(config, "service")) {
        (true, false) => url(errs, &path.child("url"), text(config, "url")),
        (false, true) => service(errs, &path.child("service"), key(config, "service")),
        _ => errs.required(path, "exactly one of url or service is required"),
    }
}

fn url(errs: &mut FieldErrors, path: &Path, url: &str) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = rest.split('/').next().unwrap_or_default();
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    if scheme != "https" {
        errs.invalid(path, scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if host.is_empty() {
        errs.invalid(path, host, format!("host must be specified{FORM}"));
    }
    if let Some(user) = user {
        errs.invalid(path, user, "user information is not permitted in the URL");
    }
    if !fragment.is_empty() {
        errs.invalid(path, fragment, "fragments are not permitted in the URL");
    }
    if !query.is_empty() {
        errs.invalid(path, query, "query parameters are not permitted in the URL");
    }
}

fn service(errs: &mut FieldErrors, path: &Path, service: &Value) {
    for field in ["name", "namespace"] {
        if text(service, field).is_empty() {
            errs.required(path.child(field), format!("service {field} is required"));
        }
    }
    if let Some(port) = int(service, "port").filter(|port| !(1..=65535).contains(port)) {
        let detail = "port is not valid: must be between 1 and 65535, inclusive";
        errs.invalid(path.child("port"), port, detail);
    }
    let (path, target) = (path.child("path"), text(service, "path"));
    match target {
        "" | "/" => return,
        "//" => return errs.invalid(path, target, "segment[0] may not be empty"),
        _ if !target.starts_with('/') => errs.invalid(&path, target, "must start with a '/'"),
        _ => {}
    }
    let inner = target.get(1..).unwrap_or_default();
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    for (n, step) in inner.split('/').enumerate() {
        if step.is_empty() {
            errs.invalid(&path, target, format!("segment[{n}] may not be empty"));
            continue;
        }
        for problem in subdomain_problems(step) {
            errs.invalid(&path, target, format!("segment[{n}]: {problem}"));
        }
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
            continue;
        }
        problems(errs, &path.index(n), version, label_1035_problems(version));
    }
    if !versions.iter().any(|version| matches!(*version, "v1" | "v1beta1")) {
        let shown = key(hook, "admissionReviewVersions").clone();
        errs.invalid(path, shown, "must include at least one of v1, v1beta1");
    }
}
