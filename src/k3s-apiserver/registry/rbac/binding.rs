//! RoleBindings and ClusterRoleBindings.

use apimachinery::field::{FieldErrors, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::GROUP;
use crate::registry::table::{age, column, name, wide};
use crate::registry::value::{at_mut, default_zero, key, list, list_mut, text};
use crate::registry::{AGE, Column, Cx, NAME, NameRule, Object, Strategy};

/// The strategy of one of the two resources.
#[derive(Debug)]
pub(super) struct Binding(pub(super) &'static str);

impl Binding {
    fn check(&self, obj: &Object, errs: &mut FieldErrors) {
        let cluster = self.0.starts_with("cluster");
        let path = Path::new("roleRef");
        let group = text(obj, "roleRef.apiGroup");
        if group != GROUP {
            errs.not_supported(path.child("apiGroup"), group, &[GROUP]);
        }
        let kind = text(obj, "roleRef.kind");
        let kinds: &[&str] = if cluster { &["ClusterRole"] } else { &["Role", "ClusterRole"] };
        if !kinds.contains(&kind) {
            errs.not_supported(path.child("kind"), kind, kinds);
        }
        let role = text(obj, "roleRef.name");
        if role.is_empty() {
            errs.required(path.child("name"), "");
        } else {
            path_segment(errs, &path.child("name"), role);
        }
        for (n, subject) in list(obj, "subjects").iter().enumerate() {
            self.subject(errs, &Path::new("subjects").index(n), subject, cluster);
        }
    }

    fn subject(&self, errs: &mut FieldErrors, path: &Path, subject: &Value, cluster: bool) {
        let group = text(subject, "apiGroup");
        if text(subject, "name").is_empty() {
            errs.required(path.child("name"), "");
        }
        match text(subject, "kind") {
            "ServiceAccount" => {
                let name = text(subject, "name");
                if !name.is_empty() {
                    let found = apimachinery::validation::subdomain_problems(name);
                    crate::registry::validate::problems(errs, &path.child("name"), name, found);
                }
                if !group.is_empty() {
                    errs.not_supported(path.child("apiGroup"), group, &[""]);
                }
                if cluster && text(subject, "namespace").is_empty() {
                    errs.required(path.child("namespace"), "");
                }
            }
            "User" | "Group" => {
                if group != GROUP {
                    errs.not_supported(path.child("apiGroup"), group, &[GROUP]);
                }
            }
            other => {
                let valid = &["ServiceAccount", "User", "Group"];
                errs.not_supported(path.child("kind"), other, valid);
            }
        }
    }
}

impl Strategy for Binding {
    fn resource(&self) -> &'static str {
        self.0
    }

    fn default(&self, obj: &mut Object) {
        if let Some(role) = at_mut(obj, "roleRef") {
            default_zero(role, "apiGroup", GROUP);
        }
        for subject in list_mut(obj, "subjects") {
            if matches!(text(subject, "kind"), "User" | "Group") {
                default_zero(subject, "apiGroup", GROUP);
            }
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        self.check(obj, errs);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        self.check(new, errs);
        if key(new, "roleRef") != key(old, "roleRef") {
            let shown = crate::registry::internal::renamed(key(new, "roleRef"));
            errs.invalid("roleRef", shown, "cannot change roleRef");
        }
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] =
            &[NAME, column("Role"), AGE, wide("Users"), wide("Groups"), wide("ServiceAccounts")];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let of = |kind: &str| {
            list(obj, "subjects")
                .iter()
                .filter(|subject| key(subject, "kind") == kind)
                .map(|subject| match kind {
                    "ServiceAccount" => {
                        format!("{}/{}", text(subject, "namespace"), text(subject, "name"))
                    }
                    _ => text(subject, "name").to_owned(),
                })
                .collect::<Vec<_>>()
                .join(", ")
        };
        let role = format!("{}/{}", text(obj, "roleRef.kind"), text(obj, "roleRef.name"));
        vec![
            name(obj),
            json!(role),
            age(obj, now),
            json!(of("User")),
            json!(of("Group")),
            json!(of("ServiceAccount")),
        ]
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }
}

/// A name that is one segment of a path.
pub(crate) fn path_segment(errs: &mut FieldErrors, path: &Path, name: &str) {
    let found = crate::registry::meta::name_problems(NameRule::PathSegment, name, false);
    crate::registry::validate::problems(errs, path, name, found);
}
