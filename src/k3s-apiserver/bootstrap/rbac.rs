//! Bootstrap RBAC: the roles and bindings of a fresh cluster, and how they are kept.
//!
//! Invariant, as upstream: an existing object only ever gains rules and subjects, never loses any,
//! and one annotated `autoupdate: "false"` is left alone.

use serde_json::{Map, Value, json};

use super::controller_roles::CONTROLLER_ROLES;
use super::roles::ROLES;
use super::{Item, Keep};
use crate::registry::Object;
use crate::registry::value::{at_mut, key, list, text};

const GROUP: &str = "rbac.authorization.k8s.io";
pub(super) const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// One role as written in the tables.
pub(super) struct Role {
    pub(super) name: &'static str,
    pub(super) rules: &'static [&'static str],
}

/// Roles that aggregate others: name and the label of what they gather.
const AGGREGATED: &[(&str, &str)] = &[("admin", "admin"), ("edit", "edit"), ("view", "view")];

/// Roles that others gather: name and whose.
const GATHERED: &[(&str, &str)] = &[
    ("edit", "admin"),
    ("view", "edit"),
    ("system:aggregate-to-admin", "admin"),
    ("system:aggregate-to-edit", "edit"),
    ("system:aggregate-to-view", "view"),
];

/// Bindings of users and groups: name, role, subjects (`u:` user, `g:` group, `s:` service account).
const BINDINGS: &[(&str, &str, &[&str])] = &[
    ("cluster-admin", "cluster-admin", &["g:system:masters"]),
    ("system:basic-user", "system:basic-user", &["g:system:authenticated"]),
    ("system:discovery", "system:discovery", &["g:system:authenticated"]),
    (
        "system:kube-controller-manager",
        "system:kube-controller-manager",
        &["u:system:kube-controller-manager"],
    ),
    ("system:kube-dns", "system:kube-dns", &["s:kube-system/kube-dns"]),
    ("system:kube-scheduler", "system:kube-scheduler", &["u:system:kube-scheduler"]),
    ("system:monitoring", "system:monitoring", &["g:system:monitoring"]),
    ("system:node", "system:node", &[]),
    ("system:node-proxier", "system:node-proxier", &["u:system:kube-proxy"]),
    (
        "system:public-info-viewer",
        "system:public-info-viewer",
        &["g:system:authenticated", "g:system:unauthenticated"],
    ),
    (
        "system:service-account-issuer-discovery",
        "system:service-account-issuer-discovery",
        &["g:system:serviceaccounts"],
    ),
    ("system:volume-scheduler", "system:volume-scheduler", &["u:system:kube-scheduler"]),
];

/// Namespaced roles: namespace, name, rules.
const NAMESPACED: &[(&str, &str, &[&str])] = &[
    (
        "kube-public",
        "system:controller:bootstrap-signer",
        &[
            "core configmaps get,list,watch",
            "core configmaps update cluster-info",
            "core,events.k8s.io events create,patch,update",
        ],
    ),
    (
        "kube-system",
        "extension-apiserver-authentication-reader",
        &["core configmaps get,list,watch extension-apiserver-authentication"],
    ),
    ("kube-system", "system::leader-locking-kube-controller-manager", LEADER),
    ("kube-system", "system::leader-locking-kube-scheduler", LEADER),
    ("kube-system", "system:controller:bootstrap-signer", &["core secrets get,list,watch"]),
    ("kube-system", "system:controller:cloud-provider", &["core configmaps create,get,list,watch"]),
    (
        "kube-system",
        "system:controller:token-cleaner",
        &["core secrets delete,get,list,watch", "core,events.k8s.io events create,patch,update"],
    ),
];

const LEADER: &[&str] = &[
    "coordination.k8s.io leases create,get,list,update,watch",
    "coordination.k8s.io leasecandidates create,get,list,update,watch",
];

/// Namespaced bindings: namespace, name, role, subjects.
const NAMESPACED_BINDINGS: &[(&str, &str, &str, &[&str])] = &[
    (
        "kube-public",
        "system:controller:bootstrap-signer",
        "system:controller:bootstrap-signer",
        &["s:kube-system/bootstrap-signer"],
    ),
    (
        "kube-system",
        "system::extension-apiserver-authentication-reader",
        "extension-apiserver-authentication-reader",
        &["u:system:kube-controller-manager", "u:system:kube-scheduler"],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-controller-manager",
        "system::leader-locking-kube-controller-manager",
        &["u:system:kube-controller-manager", "s:kube-system/kube-controller-manager"],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-scheduler",
        "system::leader-locking-kube-scheduler",
        &["u:system:kube-scheduler", "s:kube-system/kube-scheduler"],
    ),
    (
        "kube-system",
        "system:controller:bootstrap-signer",
        "system:controller:bootstrap-signer",
        &["s:kube-system/bootstrap-signer"],
    ),
    (
        "kube-system",
        "system:controller:cloud-provider",
        "system:controller:cloud-provider",
        &["s:kube-system/cloud-provider"],
    ),
    (
        "kube-system",
        "system:controller:token-cleaner",
        "system:controller:token-cleaner",
        &["s:kube-system/token-cleaner"],
    ),
];

/// What our own processes need beyond upstream's roles: name, user, rules.
const OWN: &[(&str, &str, &[&str])] = &[
    (
        "system:k3s-controller",
        "system:k3s-controller",
        &[
            "core nodes get,list,watch,patch",
            "core nodes/status get,patch",
            "core pods,namespaces get,list,watch",
            "networking.k8s.io networkpolicies list,watch",
            "discovery.k8s.io endpointslices get,list,watch",
        ],
    ),
    (
        "system:k3s-dns",
        "system:k3s-dns",
        &[
            "core services,pods,namespaces,nodes get,list,watch",
            "discovery.k8s.io endpointslices list,watch",
        ],
    ),
    ("system:k3s-proxy", "system:kube-proxy", &["core pods get,list,watch"]),
    (
        "k3s-cloud-controller-manager",
        "k3s-cloud-controller-manager",
        &[
            "core,events.k8s.io events create,patch,update",
            "core nodes *",
            "core nodes/status patch",
            "core services list,patch,update,watch",
            "core services/status patch,update",
            "core serviceaccounts create",
            "core namespaces create,get",
            "core persistentvolumes get,list,update,watch",
            "core endpoints create,get,list,watch,update",
            "core configmaps get,list,watch",
            "core pods list,watch",
            "coordination.k8s.io leases get,watch,list,update,create",
            "apps daemonsets *",
            "discovery.k8s.io endpointslices list,watch",
        ],
    ),
];

/// Every RBAC object of a fresh cluster, in the order to make them.
pub(super) fn items() -> Vec<Item> {
    let mut items = Vec::new();
    for role in ROLES.iter().chain(CONTROLLER_ROLES) {
        items.push(cluster_role(role));
    }
    for (name, role, subjects) in BINDINGS {
        items.push(cluster_binding(name, role, subjects));
    }
    for role in CONTROLLER_ROLES {
        let account = role.name.rsplit(':').next().unwrap_or_default();
        items.push(cluster_binding(role.name, role.name, &[&format!("s:kube-system/{account}")]));
    }
    for (namespace, name, rules) in NAMESPACED {
        let mut object = shell("Role", name, Some(namespace), true);
        object["rules"] = parse(rules);
        items.push(Item { resource: "roles.rbac.authorization.k8s.io", object, keep: Keep::Rules });
    }
    for (namespace, name, role, to) in NAMESPACED_BINDINGS {
        let mut object = shell("RoleBinding", name, Some(namespace), true);
        object["roleRef"] = json!({"apiGroup": GROUP, "kind": "Role", "name": role});
        object["subjects"] = to.iter().map(|text| subject(text)).collect();
        let resource = "rolebindings.rbac.authorization.k8s.io";
        items.push(Item { resource, object, keep: Keep::Subjects });
    }
    own(&mut items);
    items
}

/// The roles of our own processes. They carry no bootstrap label: upstream has no such objects.
fn own(items: &mut Vec<Item>) {
    let role = |name: &str, rules: Value| {
        let mut object = shell("ClusterRole", name, None, false);
        object["rules"] = rules;
        Item { resource: "clusterroles.rbac.authorization.k8s.io", object, keep: Keep::Rules }
    };
    for (name, user, rules) in OWN {
        items.push(role(name, parse(rules)));
        items.push(own_binding(name, name, user));
    }
    // One process runs all controllers under one identity, so it holds what they hold together.
    let all: Vec<&'static str> = CONTROLLER_ROLES
        .iter()
        .flat_map(|role| role.rules.iter().copied())
        // Controllers of ours make the cluster DNS Service and read the local-path configuration.
        .chain(["core services create,patch", "core configmaps get"])
        .collect();
    items.push(role("system:k3s-controller-manager", parse(&all)));
    items.push(own_binding(
        "system:k3s-controller-manager",
        "system:k3s-controller-manager",
        "system:kube-controller-manager",
    ));
    items.push(own_binding(
        "kube-apiserver-kubelet-admin",
        "system:kubelet-api-admin",
        "kube-apiserver",
    ));
}

fn cluster_role(role: &Role) -> Item {
    let mut object = shell("ClusterRole", role.name, None, true);
    if let Some((_, of)) = GATHERED.iter().find(|(name, _)| *name == role.name) {
        object["metadata"]["labels"][format!("{GROUP}/aggregate-to-{of}")] = json!("true");
    }
    match AGGREGATED.iter().find(|(name, _)| *name == role.name) {
        Some((_, of)) => {
            let label = format!("{GROUP}/aggregate-to-{of}");
            let mut labels = Map::new();
            labels.insert(label, json!("true"));
            object["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": labels}]});
            object["rules"] = Value::Null;
        }
        None => object["rules"] = parse(role.rules),
    }
    Item { resource: "clusterroles.rbac.authorization.k8s.io", object, keep: Keep::Rules }
}

fn cluster_binding(name: &str, role: &str, subjects: &[&str]) -> Item {
    let mut object = shell("ClusterRoleBinding", name, None, true);
    object["roleRef"] = json!({"apiGroup": GROUP, "kind": "ClusterRole", "name": role});
    if !subjects.is_empty() {
        object["subjects"] = subjects.iter().map(|text| subject(text)).collect();
    }
    let resource = "clusterrolebindings.rbac.authorization.k8s.io";
    Item { resource, object, keep: Keep::Subjects }
}

fn own_binding(name: &str, role: &str, user: &str) -> Item {
    let mut item = cluster_binding(name, role, &[&format!("u:{user}")]);
    if let Some(meta) = at_mut(&mut item.object, "metadata").and_then(Value::as_object_mut) {
        meta.remove("labels");
    }
    item
}

fn shell(kind: &str, name: &str, namespace: Option<&str>, labelled: bool) -> Object {
    let mut annotations = Map::new();
    annotations.insert(AUTOUPDATE.to_owned(), json!("true"));
    let mut object = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": name, "annotations": annotations},
    });
    if labelled {
        object["metadata"]["labels"] = json!({"kubernetes.io/bootstrapping": "rbac-defaults"});
    }
    if let Some(namespace) = namespace {
        object["metadata"]["namespace"] = json!(namespace);
    }
    object
}

fn subject(text: &str) -> Value {
    match text.split_once(':') {
        Some(("u", name)) => json!({"apiGroup": GROUP, "kind": "User", "name": name}),
        Some(("g", name)) => json!({"apiGroup": GROUP, "kind": "Group", "name": name}),
        Some((_, account)) => {
            let (namespace, name) = account.split_once('/').unwrap_or(("kube-system", account));
            json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
        }
        None => Value::Null,
    }
}

fn parse(lines: &[&str]) -> Value {
    lines.iter().map(|line| rule(line)).collect()
}

fn rule(line: &str) -> Value {
    let words: Vec<&str> = line.split(' ').collect();
    let part = |at: usize| -> Vec<String> {
        words
            .get(at)
            .map(|word| {
                word.split(',').map(|w| if w == "core" { "" } else { w }.to_owned()).collect()
            })
            .unwrap_or_default()
    };
    if words.first() == Some(&"url") {
        return json!({"nonResourceURLs": part(1), "verbs": part(2)});
    }
    let mut rule = json!({"apiGroups": part(0), "resources": part(1), "verbs": part(2)});
    if words.len() > 3 {
        rule["resourceNames"] = json!(part(3));
    }
    rule
}

/// What must change in an existing role or binding, if anything: missing rules or subjects are added.
pub(super) fn reconcile(have: &Object, want: &Object, member: &str) -> Option<Object> {
    if text(key(key(have, "metadata"), "annotations"), "") == "false"
        || key(key(key(have, "metadata"), "annotations"), AUTOUPDATE) == "false"
    {
        return None;
    }
    if want.get("aggregationRule").is_some() {
        return (key(have, "aggregationRule") != key(want, "aggregationRule")).then(|| {
            let mut new = have.clone();
            new["aggregationRule"] = want["aggregationRule"].clone();
            new
        });
    }
    let missing: Vec<Value> = list(want, member)
        .iter()
        .filter(|entry| !list(have, member).contains(entry))
        .cloned()
        .collect();
    if missing.is_empty() {
        return None;
    }
    let mut new = have.clone();
    let mut all = list(have, member).to_vec();
    all.extend(missing);
    new[member] = Value::Array(all);
    Some(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_rule() {
        assert_eq!(
            rule("core,apps pods,services/status get,list a,b"),
            json!({"apiGroups": ["", "apps"], "resources": ["pods", "services/status"],
                   "verbs": ["get", "list"], "resourceNames": ["a", "b"]})
        );
        assert_eq!(
            rule("url /healthz get"),
            json!({"nonResourceURLs": ["/healthz"], "verbs": ["get"]})
        );
    }

    #[test]
    fn missing_rules_are_added_and_none_are_taken() {
        let want = json!({"rules": [{"verbs": ["get"]}]});
        let have = json!({"metadata": {}, "rules": [{"verbs": ["own"]}]});
        let new = reconcile(&have, &want, "rules").expect("a rule is missing");
        assert_eq!(new["rules"], json!([{"verbs": ["own"]}, {"verbs": ["get"]}]));
        assert!(reconcile(&new, &want, "rules").is_none());
        let mut fixed = have;
        fixed["metadata"] = json!({"annotations": {AUTOUPDATE: "false"}});
        assert!(reconcile(&fixed, &want, "rules").is_none());
    }
}
