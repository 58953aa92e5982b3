//! Role-based access control over a snapshot of the roles and bindings.
//!
//! Invariant: a snapshot is immutable and made again only when one of its resources has changed;
//! deciding takes no lock and parses nothing.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde_json::{Value, json};

use super::attributes::{Attributes, Decision};
use super::objects::{Objects, text, texts};
use crate::user::UserInfo;

const ROLES: &str = "roles.rbac.authorization.k8s.io";
const ROLE_BINDINGS: &str = "rolebindings.rbac.authorization.k8s.io";
const CLUSTER_ROLES: &str = "clusterroles.rbac.authorization.k8s.io";
const CLUSTER_ROLE_BINDINGS: &str = "clusterrolebindings.rbac.authorization.k8s.io";

/// `rbac.authorization.k8s.io/v1` PolicyRule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub groups: Vec<String>,
    pub resources: Vec<String>,
    pub names: Vec<String>,
    pub urls: Vec<String>,
}

impl Rule {
    /// Reads one item of `rules`.
    pub fn read(json: &Value) -> Self {
        Self {
            verbs: texts(json.get("verbs")),
            groups: texts(json.get("apiGroups")),
            resources: texts(json.get("resources")),
            names: texts(json.get("resourceNames")),
            urls: texts(json.get("nonResourceURLs")),
        }
    }

    /// The rules of a role or of nothing.
    pub fn read_all(role: &Value) -> Vec<Self> {
        let rules = role.get("rules").and_then(Value::as_array).into_iter().flatten();
        rules.map(Self::read).collect()
    }

    /// Whether the rule allows what is asked.
    pub fn allows(&self, asked: &Attributes<'_>) -> bool {
        if !has(&self.verbs, asked.verb) {
            return false;
        }
        if !asked.is_resource {
            return self.urls.iter().any(|url| url_matches(url, asked.path));
        }
        has(&self.groups, asked.group)
            && self.resources.iter().any(|resource| resource_matches(resource, asked))
            && (self.names.is_empty() || self.names.iter().any(|name| name == asked.name))
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

fn url_matches(url: &str, path: &str) -> bool {
    url == path || url.strip_suffix('*').is_some_and(|start| path.starts_with(start))
}

fn resource_matches(resource: &str, asked: &Attributes<'_>) -> bool {
    if resource == "*" {
        return true;
    }
    match resource.split_once('/') {
        None => asked.subresource.is_empty() && resource == asked.resource,
        Some((owner, subresource)) => {
            !asked.subresource.is_empty()
                && subresource == asked.subresource
                && (owner == "*" || owner == asked.resource)
        }
    }
}

#[derive(Clone, Debug)]
enum Subject {
    User(String),
    Group(String),
    ServiceAccount { namespace: String, name: String },
}

impl Subject {
    fn read(json: &Value, namespace: &str) -> Option<Self> {
        let name = text(json, &["name"]).to_owned();
        match text(json, &["kind"]) {
            "User" => Some(Self::User(name)),
            "Group" => Some(Self::Group(name)),
            "ServiceAccount" => {
                let own = text(json, &["namespace"]);
                let namespace = if own.is_empty() { namespace } else { own }.to_owned();
                (!namespace.is_empty()).then_some(Self::ServiceAccount { namespace, name })
            }
            _ => None,
        }
    }

    fn is(&self, user: &UserInfo) -> bool {
        match self {
            Self::User(name) => *name == user.name,
            Self::Group(name) => user.in_group(name),
            Self::ServiceAccount { namespace, name } => {
                let account = user.name.strip_prefix("system:serviceaccount:");
                account.and_then(|account| account.split_once(':'))
                    == Some((namespace.as_str(), name.as_str()))
            }
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::User(name) => format!("User {name:?}"),
            Self::Group(name) => format!("Group {name:?}"),
            Self::ServiceAccount { namespace, name } => {
                format!("ServiceAccount {:?}", format!("{name}/{namespace}"))
            }
        }
    }
}

#[derive(Debug)]
struct Binding {
    name: String,
    role_kind: String,
    role_name: String,
    subjects: Vec<Subject>,
}

impl Binding {
    fn read(json: &Value) -> Self {
        let namespace = text(json, &["metadata", "namespace"]);
        let subjects = json.get("subjects").and_then(Value::as_array).into_iter().flatten();
        Self {
            name: text(json, &["metadata", "name"]).to_owned(),
            role_kind: text(json, &["roleRef", "kind"]).to_owned(),
            role_name: text(json, &["roleRef", "name"]).to_owned(),
            subjects: subjects.filter_map(|subject| Subject::read(subject, namespace)).collect(),
        }
    }
}

/// The rules behind a role reference are not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}.rbac.authorization.k8s.io {name:?} not found")]
pub struct MissingRole {
    /// `role` or `clusterrole`.
    pub kind: &'static str,
    pub name: String,
}

/// Something read from an object, good for one revision of it.
type Read<T> = HashMap<Arc<str>, (i64, Arc<T>)>;

/// All roles and bindings at one time.
#[derive(Debug, Default)]
pub struct Snapshot {
    sequences: [u64; 4],
    roles: Read<Vec<Rule>>,
    cluster_roles: Read<Vec<Rule>>,
    bindings: Read<Binding>,
    by_namespace: HashMap<String, Vec<Arc<Binding>>>,
    cluster_bindings: Read<Binding>,
}

impl Snapshot {
    fn refresh(&self, objects: &dyn Objects, sequences: [u64; 4]) -> Self {
        let bindings = reread(objects, ROLE_BINDINGS, &self.bindings, Binding::read);
        let mut by_namespace: HashMap<String, Vec<Arc<Binding>>> = HashMap::new();
        for (key, (_, binding)) in &bindings {
            let namespace = key.split_once('/').map_or("", |(namespace, _)| namespace);
            by_namespace.entry(namespace.to_owned()).or_default().push(binding.clone());
        }
        for list in by_namespace.values_mut() {
            list.sort_by(|a, b| a.name.cmp(&b.name));
        }
        Self {
            sequences,
            roles: reread(objects, ROLES, &self.roles, Rule::read_all),
            cluster_roles: reread(objects, CLUSTER_ROLES, &self.cluster_roles, Rule::read_all),
            bindings,
            by_namespace,
            cluster_bindings: reread(
                objects,
                CLUSTER_ROLE_BINDINGS,
                &self.cluster_bindings,
                Binding::read,
            ),
        }
    }

    /// The rules that a role reference names.
    pub fn rules_of(
        &self,
        kind: &str,
        name: &str,
        namespace: &str,
    ) -> Result<&[Rule], MissingRole> {
        let (found, kind) = if kind == "ClusterRole" {
            (self.cluster_roles.get(name), "clusterrole")
        } else {
            (self.roles.get(format!("{namespace}/{name}").as_str()), "role")
        };
        found
            .map(|(_, rules)| rules.as_slice())
            .ok_or_else(|| MissingRole { kind, name: name.to_owned() })
    }

    /// Shows every rule that applies to a user in a namespace (none: cluster-wide only), with a
    /// description of what grants it, until the visitor has seen enough.
    fn visit(
        &self,
        user: &UserInfo,
        namespace: &str,
        visit: &mut dyn FnMut(Result<&Rule, MissingRole>, &dyn Fn() -> String) -> bool,
    ) {
        let cluster = self.cluster_bindings.values().map(|(_, binding)| ("", binding));
        let local = self.by_namespace.get(namespace).into_iter().flatten();
        for (namespace, binding) in cluster.chain(local.map(|binding| (namespace, binding))) {
            let Some(subject) = binding.subjects.iter().find(|subject| subject.is(user)) else {
                continue;
            };
            let describe = || {
                let (kind, name) = if namespace.is_empty() {
                    ("ClusterRoleBinding", binding.name.clone())
                } else {
                    ("RoleBinding", format!("{}/{namespace}", binding.name))
                };
                let subject = subject.describe();
                let (role_kind, role) = (&binding.role_kind, &binding.role_name);
                format!("{kind} {name:?} of {role_kind} {role:?} to {subject}")
            };
            match self.rules_of(&binding.role_kind, &binding.role_name, namespace) {
                Ok(rules) => {
                    for rule in rules {
                        if !visit(Ok(rule), &describe) {
                            return;
                        }
                    }
                }
                Err(missing) => {
                    if !visit(Err(missing), &describe) {
                        return;
                    }
                }
            }
        }
    }

    /// Decides.
    pub fn authorize(&self, asked: &Attributes<'_>) -> Decision {
        let Some(user) = asked.user else { return Decision::no("") };
        let namespace = if asked.is_resource { asked.namespace } else { "" };
        let mut decision = None;
        let mut missing: Vec<String> = Vec::new();
        self.visit(user, namespace, &mut |rule, describe| {
            match rule {
                Ok(rule) if rule.allows(asked) => {
                    let reason = format!("RBAC: allowed by {}", describe());
                    decision = Some(Decision::Allow { reason });
                }
                Ok(_) => {}
                Err(err) => missing.push(err.to_string()),
            }
            decision.is_none()
        });
        decision.unwrap_or_else(|| Decision::no(resolution_errors("RBAC: ", &mut missing)))
    }

    /// Every rule that applies to a user in a namespace, and why some may be missing.
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<Rule>, String) {
        let mut rules = Vec::new();
        let mut missing: Vec<String> = Vec::new();
        self.visit(user, namespace, &mut |rule, _| {
            match rule {
                Ok(rule) => rules.push(rule.clone()),
                Err(err) => missing.push(err.to_string()),
            }
            true
        });
        (rules, resolution_errors("", &mut missing))
    }

    /// The rules of one cluster role, none if it is not there.
    pub(super) fn cluster_role(&self, name: &str) -> &[Rule] {
        self.rules_of("ClusterRole", name, "").unwrap_or_default()
    }
}

/// Upstream prints one error as it is and several as a list.
fn resolution_errors(prefix: &str, errors: &mut Vec<String>) -> String {
    errors.sort();
    errors.dedup();
    match errors.as_slice() {
        [] => String::new(),
        [one] => format!("{prefix}{one}"),
        many => format!("{prefix}[{}]", many.join(", ")),
    }
}

fn reread<T>(
    objects: &dyn Objects,
    resource: &str,
    known: &Read<T>,
    read: impl Fn(&Value) -> T,
) -> Read<T> {
    let entries = objects.list(resource, "");
    let mut out = HashMap::with_capacity(entries.len());
    for entry in entries {
        let value = match known.get(&entry.key) {
            Some((revision, value)) if *revision == entry.revision => value.clone(),
            _ => Arc::new(read(&entry.object())),
        };
        out.insert(entry.key.clone(), (entry.revision, value));
    }
    out
}

/// The current snapshot.
#[derive(Debug, Default)]
pub struct Rbac {
    snapshot: ArcSwap<Snapshot>,
}

impl Rbac {
    /// The snapshot of what the caches hold now.
    pub fn snapshot(&self, objects: &dyn Objects) -> Arc<Snapshot> {
        let sequences = [ROLES, ROLE_BINDINGS, CLUSTER_ROLES, CLUSTER_ROLE_BINDINGS]
            .map(|resource| objects.sequence(resource));
        let current = self.snapshot.load();
        if current.sequences == sequences {
            return Arc::clone(&current);
        }
        let fresh = Arc::new(current.refresh(objects, sequences));
        self.snapshot.store(fresh.clone());
        fresh
    }
}

impl Rule {
    /// The rule as reviews show it.
    pub(super) fn review(&self) -> Value {
        let mut out = json!({"verbs": self.verbs});
        let fields = [
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.urls),
        ];
        for (key, list) in fields {
            if !list.is_empty()
                && let Some(map) = out.as_object_mut()
            {
                map.insert(key.to_owned(), json!(list));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::super::objects::fake::Fake;
    use super::*;

    fn user(name: &str, groups: &[&str]) -> UserInfo {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        UserInfo { name: name.to_owned(), groups, ..UserInfo::default() }
    }

    fn ask<'a>(
        user: &'a UserInfo,
        verb: &'a str,
        resource: &'a str,
        namespace: &'a str,
    ) -> Attributes<'a> {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        Attributes {
            user: Some(user),
            verb,
            is_resource: true,
            resource,
            subresource,
            namespace,
            ..Attributes::default()
        }
    }

    fn objects() -> Fake {
        let role = |name: &str, rules: Value| json!({"metadata": {"name": name, "namespace": "a"}, "rules": rules});
        let binding = |name: &str, kind: &str, role: &str, subjects: Value| {
            json!({
                "metadata": {"name": name, "namespace": "a"},
                "roleRef": {"kind": kind, "name": role}, "subjects": subjects,
            })
        };
        Fake::default()
            .with(ROLES, &role("r", json!([
                {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get"]},
                {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": ["ok"]},
                {"apiGroups": [""], "resources": ["*/status"], "verbs": ["*"]},
            ])))
            .with(ROLE_BINDINGS, &binding("rb", "Role", "r", json!([
                {"kind": "User", "name": "alice"},
                {"kind": "ServiceAccount", "name": "robot"},
            ])))
            .with(ROLE_BINDINGS, &binding("lost", "ClusterRole", "gone", json!([{"kind": "User", "name": "bob"}])))
            .with(CLUSTER_ROLES, &json!({"metadata": {"name": "health"}, "rules": [{"nonResourceURLs": ["/livez/*"], "verbs": ["get"]}]}))
            .with(CLUSTER_ROLE_BINDINGS, &json!({"metadata": {"name": "crb"}, "roleRef": {"kind": "ClusterRole", "name": "health"}, "subjects": [{"kind": "Group", "name": "devs"}]}))
    }

    #[test]
    fn rules_apply_where_they_are_bound() {
        let snapshot = Rbac::default().snapshot(&objects());
        let check = |asked: Attributes<'_>, expected: &str| {
            assert_eq!(snapshot.authorize(&asked).reason(), expected, "{asked:?}");
        };
        let alice = user("alice", &["devs"]);
        let by_role = r#"RBAC: allowed by RoleBinding "rb/a" of Role "r" to User "alice""#;
        check(ask(&alice, "get", "pods", "a"), by_role);
        check(ask(&alice, "get", "pods/log", "a"), by_role);
        check(ask(&alice, "patch", "nodes/status", "a"), by_role);
        check(ask(&alice, "list", "pods", "a"), "");
        check(ask(&alice, "get", "pods", "b"), "");
        check(ask(&alice, "get", "secrets", "a"), "");
        check(Attributes { name: "ok", ..ask(&alice, "get", "secrets", "a") }, by_role);
        let robot = user("system:serviceaccount:a:robot", &[]);
        check(
            ask(&robot, "get", "pods", "a"),
            r#"RBAC: allowed by RoleBinding "rb/a" of Role "r" to ServiceAccount "robot/a""#,
        );
        let bob = user("bob", &[]);
        check(
            ask(&bob, "get", "pods", "a"),
            r#"RBAC: clusterrole.rbac.authorization.k8s.io "gone" not found"#,
        );
        let path = |path| Attributes { is_resource: false, path, ..ask(&alice, "get", "", "") };
        check(
            path("/livez/etcd"),
            r#"RBAC: allowed by ClusterRoleBinding "crb" of ClusterRole "health" to Group "devs""#,
        );
        check(path("/livez"), "");
    }

    #[test]
    fn a_snapshot_is_kept_until_something_changes() {
        let rbac = Rbac::default();
        let before = objects();
        let first = rbac.snapshot(&before);
        assert!(Arc::ptr_eq(&first, &rbac.snapshot(&before)));
        let after = before.with(ROLES, &json!({"metadata": {"name": "s", "namespace": "a"}}));
        let second = rbac.snapshot(&after);
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(second.rules_of("Role", "s", "a").is_ok());
    }
}
