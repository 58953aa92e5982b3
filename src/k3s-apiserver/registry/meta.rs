//! `ObjectMeta`: what holds for the metadata of every kind.

use apimachinery::field::{ErrorKind, FieldErrors, Path};
use apimachinery::validation::{
    label_1035_problems, label_problems, label_value_problems, path_segment_prefix_problems,
    path_segment_problems, qualified_problems, subdomain_problems,
};
use serde_json::Value;

use super::{NameRule, Object};
use crate::kinds::Kind;

const ANNOTATIONS_MAX: usize = 256 << 10;
/// Refuses bad metadata of a new object.
pub fn validate(kind: &Kind, object: &Object, errs: &mut FieldErrors) {
    let path = Path::new("metadata");
    let meta = &object["metadata"];
    let rule = kind.strategy.name_rule();
    let prefix = meta["generateName"].as_str().unwrap_or_default();
    if !prefix.is_empty() {
        for problem in name_problems(rule, prefix, true) {
            errs.invalid(path.child("generateName"), prefix, problem);
        }
    }
    let name = meta["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        errs.required(path.child("name"), "name or generateName is required");
    } else {
        for problem in name_problems(rule, name, false) {
            errs.invalid(path.child("name"), name, problem);
        }
    }
    let namespace = meta["namespace"].as_str().unwrap_or_default();
    if kind.namespaced {
        if namespace.is_empty() {
            errs.required(path.child("namespace"), "");
        } else {
            for problem in name_problems(NameRule::Label, namespace, false) {
                errs.invalid(path.child("namespace"), namespace, problem);
            }
        }
    } else if !namespace.is_empty() {
        errs.forbidden(path.child("namespace"), "not allowed on this type");
    }
    accessors(meta, &path, errs);
}

/// What create and update check alike.
fn accessors(meta: &Value, path: &Path, errs: &mut FieldErrors) {
    labels(&path.child("labels"), &meta["labels"], errs);
    annotations(&path.child("annotations"), &meta["annotations"], errs);
    owners(&path.child("ownerReferences"), &meta["ownerReferences"], errs);
    finalizers(&path.child("finalizers"), &meta["finalizers"], errs);
}

/// Refuses changes of what stays for an object's life.
///
/// Upstream checks this generically and again in each kind's own validation, so every cause is
/// said twice.
pub fn validate_update(new: &Object, old: &Object, errs: &mut FieldErrors) {
    let before = errs.0.len();
    update_once(new, old, errs);
    // What also holds for new objects is looked at once more by each.
    accessors(&new["metadata"], &Path::new("metadata"), errs);
    errs.0.extend_from_within(before..);
}

fn update_once(new: &Object, old: &Object, errs: &mut FieldErrors) {
    let path = Path::new("metadata");
    let (new, old) = (&new["metadata"], &old["metadata"]);
    let deleting = !old["deletionTimestamp"].is_null();
    if deleting {
        let had: Vec<&Value> = old["finalizers"].as_array().into_iter().flatten().collect();
        let added: Vec<Value> = new["finalizers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|finalizer| !had.contains(finalizer))
            .cloned()
            .collect();
        if !added.is_empty() {
            let shown = format_strings(&added);
            errs.forbidden(
                path.child("finalizers"),
                format!(
                    "no new finalizers can be added if the object is being deleted, found new \
                     finalizers {shown}"
                ),
            );
        }
    }
    for name in ["name", "namespace", "uid", "creationTimestamp"] {
        if new[name] != old[name] {
            errs.invalid(path.child(name), new[name].clone(), "field is immutable");
        }
    }
    accessors(new, &path, errs);
}

/// Go's `%#v` of a string slice.
fn format_strings(list: &[Value]) -> String {
    let quoted: Vec<String> = list.iter().map(apimachinery::field::show).collect();
    format!("[]string{{{}}}", quoted.join(", "))
}

fn labels(path: &Path, labels: &Value, errs: &mut FieldErrors) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        for problem in qualified_problems(key) {
            errs.invalid(path.clone(), key.as_str(), problem);
        }
        let value = value.as_str().unwrap_or_default();
        for problem in label_value_problems(value) {
            errs.invalid(path.clone(), value, problem);
        }
    }
}

/// The metadata of a template: labels and annotations, since nothing else would be used.
pub(crate) fn template_metadata(meta: &Value, path: &Path, errs: &mut FieldErrors) {
    const UNUSED: &[(&str, &str)] = &[
        ("name", "name"),
        ("generateName", "generateName"),
        ("namespace", "namespace"),
        ("selfLink", "selfLink"),
        ("uid", "uID"),
        ("resourceVersion", "resourceVersion"),
        ("generation", "generation"),
        ("creationTimestamp", "creationTimestamp"),
        ("deletionTimestamp", "deletionTimestamp"),
        ("deletionGracePeriodSeconds", "deletionGracePeriodSeconds"),
        ("ownerReferences", "ownerReferences"),
        ("finalizers", "finalizers"),
        ("managedFields", "managedFields"),
    ];
    annotations(&path.child("annotations"), &meta["annotations"], errs);
    labels(&path.child("labels"), &meta["labels"], errs);
    for (name, shown) in UNUSED {
        if !super::value::is_zero(&meta[*name]) {
            errs.forbidden(path.child(shown), "cannot be set");
        }
    }
}

/// Annotation keys and the size of all.
pub(crate) fn annotations(path: &Path, annotations: &Value, errs: &mut FieldErrors) {
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        for problem in qualified_problems(&key.to_lowercase()) {
            errs.invalid(path.clone(), key.as_str(), problem);
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_MAX {
        errs.too_long(path.clone(), ANNOTATIONS_MAX);
    }
}

fn owners(path: &Path, owners: &Value, errs: &mut FieldErrors) {
    let mut controller: Option<String> = None;
    for owner in owners.as_array().into_iter().flatten() {
        let of = |field: &str| owner[field].as_str().unwrap_or_default();
        let version = of("apiVersion");
        if version.is_empty() || version.split('/').count() > 2 || version.ends_with('/') {
            errs.invalid(path.child("apiVersion"), version, "version must not be empty");
        }
        for field in ["kind", "name", "uid"] {
            if of(field).is_empty() {
                errs.invalid(path.child(field), "", "must not be empty");
            }
        }
        if version == "v1" && of("kind") == "Event" {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errs.add(ErrorKind::Invalid, path, &show_owner(owner), detail);
        }
        if owner["controller"] != true {
            continue;
        }
        let name = format!("{}/{}", of("kind"), of("name"));
        match &controller {
            None => controller = Some(name),
            Some(first) => {
                let all: Vec<String> =
                    owners.as_array().into_iter().flatten().map(show_owner).collect();
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in \
                     references for {first} and {name}"
                );
                let shown = format!("[{}]", all.join(","));
                errs.add(ErrorKind::Invalid, path, &shown, &detail);
            }
        }
    }
}

/// An owner as Go marshals it.
fn show_owner(owner: &Value) -> String {
    let always = ["apiVersion", "kind", "name", "uid"];
    let members: Vec<String> = always
        .into_iter()
        .chain(["controller", "blockOwnerDeletion"])
        .filter(|field| always.contains(field) || !owner[*field].is_null())
        .map(|field| {
            let value = if owner[field].is_null() { Value::from("") } else { owner[field].clone() };
            format!("{}:{value}", Value::from(field))
        })
        .collect();
    format!("{{{}}}", members.join(","))
}

fn finalizers(path: &Path, finalizers: &Value, errs: &mut FieldErrors) {
    let list: Vec<&str> =
        finalizers.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (at, finalizer) in list.iter().enumerate() {
        let path = path.index(at);
        let problems = qualified_problems(finalizer);
        let bad = !problems.is_empty();
        for problem in problems {
            errs.invalid(path.clone(), *finalizer, problem);
        }
        let standard = matches!(*finalizer, "kubernetes" | "orphan" | "foregroundDeletion");
        if !bad && !finalizer.contains('/') && !standard {
            errs.invalid(
                path,
                *finalizer,
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
    }
    if list.contains(&"orphan") && list.contains(&"foregroundDeletion") {
        errs.invalid(
            path.clone(),
            finalizers.clone(),
            "finalizer orphan and foregroundDeletion cannot be both set",
        );
    }
}

/// What is wrong with a name; `prefix` when it is a `generateName`, which may end with a dash.
pub fn name_problems(rule: NameRule, name: &str, prefix: bool) -> Vec<String> {
    let masked: String;
    let checked = if prefix && name.len() > 1 && name.ends_with('-') {
        masked = format!("{}a", &name[..name.len() - 2]);
        masked.as_str()
    } else {
        name
    };
    match rule {
        NameRule::Own => Vec::new(),
        NameRule::Subdomain => subdomain_problems(checked),
        NameRule::Label | NameRule::Service => label_problems(checked),
        NameRule::Label1035 => label_1035_problems(checked),
        NameRule::PathSegment if prefix => path_segment_prefix_problems(name),
        NameRule::PathSegment => path_segment_problems(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_rule() {
        let check = |rule, name: &str, good: bool| {
            assert_eq!(name_problems(rule, name, false).is_empty(), good, "{rule:?} {name}");
        };
        check(NameRule::Subdomain, "a.b-c", true);
        check(NameRule::Subdomain, "a..b", false);
        check(NameRule::Subdomain, &"a".repeat(254), false);
        check(NameRule::Label, "a.b", false);
        check(NameRule::Label1035, "1a", false);
        check(NameRule::PathSegment, "system:node", true);
        check(NameRule::PathSegment, "..", false);
        assert!(name_problems(NameRule::Label, "web-", true).is_empty());
    }
}
