//! `apiextensions.k8s.io/v1`: the objects that define custom resources.

use serde_json::{Value, json};

use super::field::{FieldErrors, Path};
use super::validate::{label_1035_problems, label_problems, problems, spec, subdomain_problems};
use super::value::{at, at_mut, default, default_zero, flag, has, key, list, text};
use super::{Cx, NameRule, Object, Strategy};

pub(super) static STRATEGIES: &[&dyn Strategy] = &[&CustomResourceDefinition];

#[derive(Debug)]
struct CustomResourceDefinition;

impl Strategy for CustomResourceDefinition {
    fn resource(&self) -> &'static str {
        "customresourcedefinitions.apiextensions.k8s.io"
    }

    fn default(&self, obj: &mut Object) {
        let Some(spec) = at_mut(obj, "spec") else { return };
        let kind = text(spec, "names.kind").to_owned();
        if let Some(names) = at_mut(spec, "names") {
            default_zero(names, "singular", kind.to_lowercase());
            if !kind.is_empty() {
                default_zero(names, "listKind", format!("{kind}List"));
            }
        }
        default(spec, "conversion", json!({"strategy": "None"}));
        if let Some(service) = at_mut(spec, "conversion.webhook.clientConfig.service") {
            default(service, "port", 443);
        }
    }

    fn prepare_for_create(&self, _cx: &Cx<'_>, obj: &mut Object) {
        let stored: Vec<Value> = list(obj, "spec.versions")
            .iter()
            .filter(|version| flag(version, "storage"))
            .map(|version| key(version, "name").clone())
            .collect();
        obj["status"] = json!({
            "acceptedNames": {"kind": "", "plural": ""},
            "conditions": null,
            "storedVersions": stored,
        });
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        validate(obj, errs);
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        if !cx.subresource.is_empty() {
            return;
        }
        validate(new, errs);
        for field in ["group", "scope"] {
            super::validate::immutable_spec(errs, field, new, old);
        }
        for field in ["kind", "plural"] {
            let path = format!("spec.names.{field}");
            let here = spec().child("names").child(field);
            super::validate::immutable(errs, &here, at(new, &path), at(old, &path));
        }
        for name in super::value::texts(old, "status.storedVersions") {
            if !list(new, "spec.versions").iter().any(|v| text(v, "name") == name) {
                let detail = format!(
                    "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {name} and removes {name} from status.storedVersions"
                );
                errs.invalid("status.storedVersions[0]", name, detail);
            }
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Own
    }
}

fn validate(obj: &Object, errs: &mut FieldErrors) {
    let (path, body) = (spec(), at(obj, "spec"));
    let (group, plural) = (text(body, "group"), text(body, "names.plural"));
    let name = text(obj, "metadata.name");
    let wanted = format!("{plural}.{group}");
    if name != wanted {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        errs.invalid(Path::new("metadata").child("name"), name, detail);
    }
    if group.is_empty() {
        errs.required(path.child("group"), "");
    } else {
        problems(errs, &path.child("group"), group, subdomain_problems(group));
        if !group.contains('.') {
            errs.invalid(path.child("group"), group, "should be a domain with at least one dot");
        }
    }
    let scope = text(body, "scope");
    if scope.is_empty() {
        errs.required(path.child("scope"), "");
    } else if !matches!(scope, "Cluster" | "Namespaced") {
        errs.not_supported(path.child("scope"), scope, &["Cluster", "Namespaced"]);
    }
    versions(errs, &path, body);
    names(errs, &path.child("names"), key(body, "names"));
    let strategy = text(body, "conversion.strategy");
    if !matches!(strategy, "None" | "Webhook") {
        let here = path.child("conversion").child("strategy");
        errs.not_supported(here, strategy, &["None", "Webhook"]);
    } else if strategy == "Webhook" && !has(body, "conversion.webhook.clientConfig") {
        let here = path.child("conversion").child("webhook").child("clientConfig");
        errs.required(here, "required when strategy is set to Webhook");
    }
}

fn versions(errs: &mut FieldErrors, path: &Path, body: &Value) {
    let path = path.child("versions");
    let all = list(body, "versions");
    let mut stored = 0;
    for (n, version) in all.iter().enumerate() {
        let path = path.index(n);
        let name = text(version, "name");
        problems(errs, &path.child("name"), name, label_1035_problems(name));
        if all[..n].iter().any(|other| text(other, "name") == name) {
            errs.duplicate(path.child("name"), name);
        }
        stored += usize::from(flag(version, "storage"));
        if !has(version, "schema.openAPIV3Schema") && !has(body, "preserveUnknownFields") {
            errs.required(path.child("schema").child("openAPIV3Schema"), "schemas are required");
        }
    }
    if stored != 1 {
        let shown = key(body, "versions").clone();
        let detail = "must have exactly one version marked as storage version";
        errs.invalid(path, shown, detail);
    }
}

fn names(errs: &mut FieldErrors, path: &Path, names: &Value) {
    for field in ["plural", "singular", "kind", "listKind"] {
        let value = text(names, field);
        if value.is_empty() {
            errs.required(path.child(field), "");
        } else {
            problems(errs, &path.child(field), value, label_1035_problems(&value.to_lowercase()));
        }
    }
    for field in ["shortNames", "categories"] {
        for (n, value) in super::value::texts(names, field).enumerate() {
            problems(errs, &path.child(field).index(n), value, label_problems(value));
        }
    }
    if !text(names, "kind").is_empty() && text(names, "kind") == text(names, "listKind") {
        errs.invalid(
            path.child("listKind"),
            text(names, "listKind"),
            "kind and listKind may not be the same",
        );
    }
}
