//! Nobody grants what they do not have: checks on writes of roles and bindings.
//!
//! The registry calls `check_role` and `check_binding` before it stores one. Invariant: a write
//! passes only if its author holds every rule in it, or the `escalate` or `bind` verb.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::attributes::Attributes;
use super::authorizer::Authorizer;
use super::objects::{Objects, text};
use super::rbac::Rule;
use crate::user::UserInfo;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Why a role or binding may not be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Escalation {
    /// 403: the text after `… is forbidden: `.
    #[error("{0}")]
    Forbidden(String),
    /// 404: the binding names a role that is not there, given by name.
    #[error("{0:?} not found")]
    MissingRole(String),
}

/// May the user write these roles and bindings? `old` is the object before, if there is one.
pub struct Guard<'a> {
    pub authorizer: &'a Authorizer,
    pub objects: &'a dyn Objects,
    pub user: &'a UserInfo,
    /// Empty for cluster roles and bindings.
    pub namespace: &'a str,
}

impl Guard<'_> {
    /// Checks a Role or ClusterRole (`resource` is `roles` or `clusterroles`).
    pub fn check_role(
        &self,
        resource: &str,
        role: &Value,
        old: Option<&Value>,
    ) -> Result<(), Escalation> {
        let unchanged = |old: &Value| {
            old.get("rules") == role.get("rules")
                && old.get("aggregationRule") == role.get("aggregationRule")
        };
        let name = text(role, &["metadata", "name"]);
        if self.is_exempt() || old.is_some_and(unchanged) || self.may("escalate", resource, name) {
            return Ok(());
        }
        let aggregates = |role: &Value| {
            let selectors = role.get("aggregationRule").and_then(|a| a.get("clusterRoleSelectors"));
            selectors.and_then(Value::as_array).is_some_and(|list| !list.is_empty())
        };
        if aggregates(role) && self.confirm(&[everything(), everywhere()]).is_err() {
            let why = "must have cluster-admin privileges to use an aggregationRule";
            return Err(Escalation::Forbidden(why.to_owned()));
        }
        if old.is_some_and(aggregates) && self.confirm(&[everything(), everywhere()]).is_err() {
            let why = "must have cluster-admin privileges to use an aggregationRule";
            return Err(Escalation::Forbidden(why.to_owned()));
        }
        self.confirm(&Rule::read_all(role))
    }

    /// Checks a RoleBinding or ClusterRoleBinding.
    pub fn check_binding(&self, binding: &Value, old: Option<&Value>) -> Result<(), Escalation> {
        let unchanged = |old: &Value| {
            old.get("roleRef") == binding.get("roleRef")
                && old.get("subjects") == binding.get("subjects")
        };
        let kind = text(binding, &["roleRef", "kind"]);
        let name = text(binding, &["roleRef", "name"]);
        let resource = if kind == "ClusterRole" { "clusterroles" } else { "roles" };
        if self.is_exempt() || old.is_some_and(unchanged) || self.may("bind", resource, name) {
            return Ok(());
        }
        let snapshot = self.authorizer.rbac.snapshot(self.objects);
        let rules = snapshot
            .rules_of(kind, name, self.namespace)
            .map_err(|_| Escalation::MissingRole(name.to_owned()))?;
        self.confirm(rules)
    }

    fn is_exempt(&self) -> bool {
        self.user.in_group("system:masters")
    }

    fn may(&self, verb: &str, resource: &str, name: &str) -> bool {
        let asked = Attributes {
            user: Some(self.user),
            verb,
            is_resource: true,
            group: GROUP,
            resource,
            namespace: self.namespace,
            name,
            ..Attributes::default()
        };
        self.authorizer.authorize(self.objects, &asked).is_allowed()
    }

    fn confirm(&self, wanted: &[Rule]) -> Result<(), Escalation> {
        let snapshot = self.authorizer.rbac.snapshot(self.objects);
        let (owned, errors) = snapshot.rules_for(self.user, self.namespace);
        let missing = uncovered(&owned, wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let lines: BTreeSet<String> = compact(missing).iter().map(describe).collect();
        let lines: Vec<String> = lines.into_iter().collect();
        let mut why = format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            self.user.name,
            quoted(&self.user.groups),
            lines.join("\n")
        );
        if !errors.is_empty() {
            why.push_str(&format!("; resolution errors: [{errors}]"));
        }
        Err(Escalation::Forbidden(why))
    }
}

fn all() -> Vec<String> {
    vec!["*".to_owned()]
}

fn everything() -> Rule {
    Rule { verbs: all(), groups: all(), resources: all(), ..Rule::default() }
}

fn everywhere() -> Rule {
    Rule { verbs: all(), urls: all(), ..Rule::default() }
}

/// The parts of `wanted` that no rule of `owned` covers, each with one value per field.
fn uncovered(owned: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let parts = wanted.iter().flat_map(split);
    parts.filter(|part| !owned.iter().any(|rule| covers(rule, part))).collect()
}

fn split(rule: &Rule) -> Vec<Rule> {
    let one = |text: &String| vec![text.clone()];
    let mut out = Vec::new();
    for group in &rule.groups {
        for resource in &rule.resources {
            for verb in &rule.verbs {
                let part = Rule {
                    verbs: one(verb),
                    groups: one(group),
                    resources: one(resource),
                    ..Rule::default()
                };
                if rule.names.is_empty() {
                    out.push(part);
                } else {
                    let named = |name| Rule { names: one(name), ..part.clone() };
                    out.extend(rule.names.iter().map(named));
                }
            }
        }
    }
    for url in &rule.urls {
        for verb in &rule.verbs {
            out.push(Rule { verbs: one(verb), urls: one(url), ..Rule::default() });
        }
    }
    out
}

fn covers(owner: &Rule, part: &Rule) -> bool {
    let within = |owned: &[String], wanted: &[String]| {
        owned.iter().any(|item| item == "*") || wanted.iter().all(|item| owned.contains(item))
    };
    let resource = |wanted: &String| {
        let owned = |resource: &String| {
            resource == "*"
                || resource == wanted
                || wanted.split_once('/').is_some_and(|(_, subresource)| {
                    resource.strip_prefix("*/") == Some(subresource)
                })
        };
        owner.resources.iter().any(owned)
    };
    let url = |wanted: &String| {
        let owned = |url: &String| {
            url == wanted || url.strip_suffix('*').is_some_and(|start| wanted.starts_with(start))
        };
        owner.urls.iter().any(owned)
    };
    let names = owner.names.is_empty()
        || (!part.names.is_empty() && part.names.iter().all(|name| owner.names.contains(name)));
    within(&owner.verbs, &part.verbs)
        && within(&owner.groups, &part.groups)
        && part.resources.iter().all(resource)
        && part.urls.iter().all(url)
        && names
}

/// Joins the verbs of rules that are about the same resource.
fn compact(rules: Vec<Rule>) -> Vec<Rule> {
    let mut simple: BTreeMap<(Vec<String>, Vec<String>, Vec<String>), Rule> = BTreeMap::new();
    let mut out = Vec::new();
    for rule in rules {
        if rule.resources.is_empty() {
            out.push(rule);
            continue;
        }
        let key = (rule.groups.clone(), rule.resources.clone(), rule.names.clone());
        match simple.get_mut(&key) {
            Some(known) => {
                let fresh: Vec<_> =
                    rule.verbs.into_iter().filter(|verb| !known.verbs.contains(verb)).collect();
                known.verbs.extend(fresh);
            }
            None => {
                simple.insert(key, rule);
            }
        }
    }
    out.extend(simple.into_values());
    out
}

fn quoted(list: &[String]) -> String {
    let items: Vec<String> = list.iter().map(|item| format!("{item:?}")).collect();
    format!("[{}]", items.join(" "))
}

fn describe(rule: &Rule) -> String {
    let fields = [
        ("APIGroups", &rule.groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.urls),
        ("ResourceNames", &rule.names),
        ("Verbs", &rule.verbs),
    ];
    let parts: Vec<String> = fields
        .iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(name, list)| format!("{name}:{}", quoted(list)))
        .collect();
    format!("{{{}}}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::objects::fake::Fake;
    use super::*;
    use serde_json::json;

    fn objects() -> Fake {
        Fake::default()
            .with(
                "roles.rbac.authorization.k8s.io",
                &json!({"metadata": {"name": "r", "namespace": "a"}, "rules": [
                    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
                    {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["bind"], "resourceNames": ["free"]},
                ]}),
            )
            .with(
                "rolebindings.rbac.authorization.k8s.io",
                &json!({"metadata": {"name": "rb", "namespace": "a"},
                    "roleRef": {"kind": "Role", "name": "r"},
                    "subjects": [{"kind": "User", "name": "alice"}]}),
            )
            .with(
                "clusterroles.rbac.authorization.k8s.io",
                &json!({"metadata": {"name": "cluster-admin"}, "rules": [
                    {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
                    {"nonResourceURLs": ["*"], "verbs": ["*"]},
                ]}),
            )
    }

    fn check(objects: &Fake, write: impl FnOnce(&Guard<'_>) -> Result<(), Escalation>) -> String {
        let user = UserInfo {
            name: "alice".to_owned(),
            groups: vec!["devs".to_owned(), "system:authenticated".to_owned()],
            ..UserInfo::default()
        };
        let authorizer = Authorizer::new(&["RBAC".to_owned()]).expect("modes");
        let guard = Guard { authorizer: &authorizer, objects, user: &user, namespace: "a" };
        write(&guard).map_or_else(|err| err.to_string(), |()| "fine".to_owned())
    }

    fn binding(kind: &str, name: &str) -> Value {
        json!({"metadata": {"name": "b"}, "roleRef": {"kind": kind, "name": name}, "subjects": []})
    }

    #[test]
    fn one_may_grant_what_one_has() {
        let objects = objects();
        let role = |rules: Value| json!({"metadata": {"name": "x"}, "rules": rules});
        let held = role(
            json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"], "resourceNames": ["p"]}]),
        );
        assert_eq!(check(&objects, |guard| guard.check_role("roles", &held, None)), "fine");
        let more = role(
            json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "watch", "delete"]}]),
        );
        assert_eq!(
            check(&objects, |guard| guard.check_role("roles", &more, None)),
            "user \"alice\" (groups=[\"devs\" \"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"watch\" \"delete\"]}"
        );
        assert_eq!(check(&objects, |guard| guard.check_role("roles", &more, Some(&more))), "fine");
    }

    #[test]
    fn one_may_bind_what_one_has_or_may_bind() {
        let objects = objects();
        let bind = |kind: &str, name: &str| {
            check(&objects, |guard| guard.check_binding(&binding(kind, name), None))
        };
        assert_eq!(bind("Role", "r"), "fine");
        assert_eq!(bind("ClusterRole", "free"), "fine");
        assert_eq!(bind("Role", "missing"), "\"missing\" not found");
        assert_eq!(
            bind("ClusterRole", "cluster-admin"),
            "user \"alice\" (groups=[\"devs\" \"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}\n{NonResourceURLs:[\"*\"], Verbs:[\"*\"]}"
        );
    }
}
