//! The Node authorizer: a kubelet reaches what its pods need, and nothing else.
//!
//! Invariant: secrets, config maps, claims and service accounts are open to a node only while a pod
//! that is bound to it refers to them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::attributes::{Attributes, Decision};
use super::objects::{Objects, text};
use super::rbac::Snapshot;
use crate::storage::entry::Entry;
use crate::user::UserInfo;

const NODE_LEASES: &str = "kube-node-lease";
/// Pods whose references are remembered; past that the memory starts over.
const PODS_MAX: usize = 20_000;

/// What one pod needs.
#[derive(Debug, Default, PartialEq, Eq)]
struct References {
    node: String,
    secrets: Vec<String>,
    config_maps: Vec<String>,
    claims: Vec<String>,
    /// Claims of devices.
    resource_claims: Vec<String>,
    service_account: String,
}

impl References {
    fn read(pod: &Value) -> Self {
        let mut out = Self {
            node: text(pod, &["spec", "nodeName"]).to_owned(),
            service_account: text(pod, &["spec", "serviceAccountName"]).to_owned(),
            ..Self::default()
        };
        let Some(spec) = pod.get("spec") else { return out };
        for secret in items(spec, "imagePullSecrets") {
            out.secrets.push(text(secret, &["name"]).to_owned());
        }
        for claim in items(spec, "resourceClaims") {
            Self::add(&mut out.resource_claims, text(claim, &["resourceClaimName"]));
        }
        for status in
            pod.get("status").into_iter().flat_map(|it| items(it, "resourceClaimStatuses"))
        {
            Self::add(&mut out.resource_claims, text(status, &["resourceClaimName"]));
        }
        for volume in items(spec, "volumes") {
            out.read_volume(volume, text(pod, &["metadata", "name"]));
        }
        for kind in ["containers", "initContainers", "ephemeralContainers"] {
            for container in items(spec, kind) {
                out.read_environment(container);
            }
        }
        out
    }

    fn add(list: &mut Vec<String>, name: &str) {
        if !name.is_empty() {
            list.push(name.to_owned());
        }
    }

    fn read_volume(&mut self, volume: &Value, pod: &str) {
        Self::add(&mut self.secrets, text(volume, &["secret", "secretName"]));
        Self::add(&mut self.config_maps, text(volume, &["configMap", "name"]));
        Self::add(&mut self.claims, text(volume, &["persistentVolumeClaim", "claimName"]));
        if volume.get("ephemeral").is_some() {
            self.claims.push(format!("{pod}-{}", text(volume, &["name"])));
        }
        for driver in ["cephfs", "cinder", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"] {
            Self::add(&mut self.secrets, text(volume, &[driver, "secretRef", "name"]));
        }
        Self::add(&mut self.secrets, text(volume, &["csi", "nodePublishSecretRef", "name"]));
        Self::add(&mut self.secrets, text(volume, &["azureFile", "secretName"]));
        let sources = volume.get("projected");
        for source in sources.into_iter().flat_map(|projected| items(projected, "sources")) {
            Self::add(&mut self.secrets, text(source, &["secret", "name"]));
            Self::add(&mut self.config_maps, text(source, &["configMap", "name"]));
        }
    }

    fn read_environment(&mut self, container: &Value) {
        for from in items(container, "envFrom") {
            Self::add(&mut self.secrets, text(from, &["secretRef", "name"]));
            Self::add(&mut self.config_maps, text(from, &["configMapRef", "name"]));
        }
        for variable in items(container, "env") {
            let from = |kind| text(variable, &["valueFrom", kind, "name"]);
            Self::add(&mut self.secrets, from("secretKeyRef"));
            Self::add(&mut self.config_maps, from("configMapKeyRef"));
        }
    }
}

fn items<'v>(object: &'v Value, key: &str) -> impl Iterator<Item = &'v Value> + use<'v> {
    object.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// The authorizer, with what it remembers of pods.
#[derive(Debug, Default)]
pub struct NodeAuthorizer {
    seen: Mutex<HashMap<Arc<str>, (i64, Arc<References>)>>,
}

/// The node that a user is, if it is one.
pub fn node_name(user: &UserInfo) -> Option<&str> {
    user.in_group("system:nodes").then(|| user.name.strip_prefix("system:node:")).flatten()
}

impl NodeAuthorizer {
    /// Decides. The rules for what is not divided between nodes are those of the cluster role
    /// `system:node`.
    pub fn authorize(
        &self,
        objects: &dyn Objects,
        rbac: &Snapshot,
        asked: &Attributes<'_>,
    ) -> Decision {
        let Some(node) = asked.user.and_then(node_name) else { return Decision::no("") };
        if asked.is_resource {
            match (asked.group, asked.resource) {
                ("", "secrets" | "configmaps") => return self.read_object(objects, node, asked),
                ("", "persistentvolumeclaims") if asked.subresource == "status" => {
                    return self.update_status(objects, node, asked);
                }
                ("", "persistentvolumeclaims" | "persistentvolumes")
                | ("storage.k8s.io", "volumeattachments")
                | ("resource.k8s.io", "resourceclaims") => {
                    return self.get_object(objects, node, asked);
                }
                ("", "serviceaccounts") => return self.service_account(objects, node, asked),
                ("coordination.k8s.io", "leases") => return lease(node, asked),
                ("storage.k8s.io", "csinodes") => return csi_node(node, asked),
                ("", "nodes") => {
                    if let Some(decision) = own_node(node, asked) {
                        return decision;
                    }
                }
                ("", "pods") => {
                    if let Some(decision) = self.pods(objects, node, asked) {
                        return decision;
                    }
                }
                _ => {}
            }
        }
        if rbac.cluster_role("system:node").iter().any(|rule| rule.allows(asked)) {
            return Decision::allow();
        }
        Decision::no("")
    }

    fn read_object(&self, objects: &dyn Objects, node: &str, asked: &Attributes<'_>) -> Decision {
        if !matches!(asked.verb, "get" | "list" | "watch") {
            return Decision::no("can only read resources of this type");
        }
        if !asked.subresource.is_empty() {
            return Decision::no("cannot read subresource");
        }
        if asked.namespace.is_empty() {
            return Decision::no("can only read namespaced object of this type");
        }
        self.related(objects, node, asked)
    }

    fn get_object(&self, objects: &dyn Objects, node: &str, asked: &Attributes<'_>) -> Decision {
        if asked.verb != "get" {
            return Decision::no("can only get individual resources of this type");
        }
        if !asked.subresource.is_empty() {
            return Decision::no("cannot get subresource");
        }
        self.related(objects, node, asked)
    }

    fn update_status(&self, objects: &dyn Objects, node: &str, asked: &Attributes<'_>) -> Decision {
        if !matches!(asked.verb, "update" | "patch") {
            return Decision::no("can only update/patch this type");
        }
        self.related(objects, node, asked)
    }

    fn service_account(
        &self,
        objects: &dyn Objects,
        node: &str,
        asked: &Attributes<'_>,
    ) -> Decision {
        match (asked.verb, asked.subresource) {
            ("create", "token") | ("get", "") => self.related(objects, node, asked),
            ("get", _) => Decision::no("cannot get subresource"),
            _ => Decision::no("can only create tokens for individual service accounts"),
        }
    }

    fn related(&self, objects: &dyn Objects, node: &str, asked: &Attributes<'_>) -> Decision {
        if asked.name.is_empty() {
            return Decision::no("No Object name found");
        }
        if self.has_path(objects, node, asked) {
            Decision::allow()
        } else {
            Decision::no(format!("no relationship found between node '{node}' and this object"))
        }
    }

    fn has_path(&self, objects: &dyn Objects, node: &str, asked: &Attributes<'_>) -> bool {
        let name = asked.name;
        let uses = |list: &[String]| list.iter().any(|item| item == name);
        match asked.resource {
            "persistentvolumes" => {
                let Some(volume) = objects.get("persistentvolumes", "", name) else { return false };
                let volume = volume.object();
                let claim = text(&volume, &["spec", "claimRef", "name"]);
                let namespace = text(&volume, &["spec", "claimRef", "namespace"]);
                self.any_pod(objects, node, namespace, |pod| {
                    pod.claims.iter().any(|own| own == claim)
                })
            }
            "volumeattachments" => {
                let resource = "volumeattachments.storage.k8s.io";
                objects
                    .get(resource, "", name)
                    .is_some_and(|found| text(&found.object(), &["spec", "nodeName"]) == node)
            }
            resource => self.any_pod(objects, node, asked.namespace, |pod| match resource {
                "secrets" => uses(&pod.secrets),
                "configmaps" => uses(&pod.config_maps),
                "persistentvolumeclaims" => uses(&pod.claims),
                "resourceclaims" => uses(&pod.resource_claims),
                "serviceaccounts" => pod.service_account == name,
                _ => false,
            }),
        }
    }

    fn any_pod(
        &self,
        objects: &dyn Objects,
        node: &str,
        namespace: &str,
        wanted: impl Fn(&References) -> bool,
    ) -> bool {
        if namespace.is_empty() {
            return false;
        }
        let pods = objects.list("pods", namespace);
        pods.iter().any(|pod| {
            let references = self.references(pod);
            references.node == node && wanted(&references)
        })
    }

    fn references(&self, pod: &Entry) -> Arc<References> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((revision, references)) = seen.get(&pod.key)
            && *revision == pod.revision
        {
            return references.clone();
        }
        if seen.len() >= PODS_MAX {
            seen.clear();
        }
        let references = Arc::new(References::read(&pod.object()));
        seen.insert(pod.key.clone(), (pod.revision, references.clone()));
        references
    }

    fn pods(&self, objects: &dyn Objects, node: &str, asked: &Attributes<'_>) -> Option<Decision> {
        if !asked.subresource.is_empty() {
            return None;
        }
        let is_mine = |name: &str| {
            let pod = objects.get("pods", asked.namespace, name);
            pod.is_some_and(|pod| self.references(&pod).node == node)
        };
        match asked.verb {
            "list" | "watch" if selects_node(asked.field_selector, node) => Some(Decision::allow()),
            "get" | "list" | "watch" if !asked.name.is_empty() => Some(if is_mine(asked.name) {
                Decision::allow()
            } else {
                Decision::no(format!("no relationship found between node '{node}' and this object"))
            }),
            "get" | "list" | "watch" => {
                Some(Decision::no("can only list/watch pods with spec.nodeName field selector"))
            }
            _ => None,
        }
    }
}

fn selects_node(selector: &str, node: &str) -> bool {
    selector.split(',').any(|term| {
        let term = term.trim();
        let value = term.strip_prefix("spec.nodeName==").or(term.strip_prefix("spec.nodeName="));
        value == Some(node)
    })
}

fn own_node(node: &str, asked: &Attributes<'_>) -> Option<Decision> {
    if !asked.subresource.is_empty() || !matches!(asked.verb, "get" | "list" | "watch") {
        return None;
    }
    Some(match asked.name {
        name if name == node => Decision::allow(),
        "" => {
            Decision::no(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        other => {
            Decision::no(format!("node '{node}' cannot read '{other}', only its own Node object"))
        }
    })
}

fn lease(node: &str, asked: &Attributes<'_>) -> Decision {
    if !matches!(asked.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Decision::no("can only get, create, update, patch, or delete a node lease");
    }
    if asked.namespace != NODE_LEASES {
        return Decision::no(format!(
            "can only access leases in the {NODE_LEASES:?} system namespace"
        ));
    }
    if asked.verb != "create" && asked.name != node {
        return Decision::no(
            "can only access node lease with the same name as the requesting node",
        );
    }
    Decision::allow()
}

fn csi_node(node: &str, asked: &Attributes<'_>) -> Decision {
    if !matches!(asked.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Decision::no("can only get, create, update, patch, or delete a CSINode");
    }
    if !asked.subresource.is_empty() {
        return Decision::no("cannot authorize CSINode subresources");
    }
    if asked.verb != "create" && asked.name != node {
        return Decision::no("can only access CSINode with the same name as the requesting node");
    }
    Decision::allow()
}

#[cfg(test)]
mod tests {
    use super::super::objects::fake::Fake;
    use super::super::rbac::Rbac;
    use super::*;
    use serde_json::json;

    fn objects() -> Fake {
        Fake::default()
            .with(
                "pods",
                &json!({"metadata": {"name": "p", "namespace": "a"}, "spec": {
                    "nodeName": "n1", "serviceAccountName": "robot",
                    "imagePullSecrets": [{"name": "pull"}],
                    "volumes": [
                        {"name": "v", "projected": {"sources": [{"configMap": {"name": "c"}}]}},
                        {"name": "d", "persistentVolumeClaim": {"claimName": "claim"}},
                    ],
                    "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "key"}}}]}],
                }}),
            )
            .with(
                "persistentvolumes",
                &json!({"metadata": {"name": "pv"}, "spec": {"claimRef": {"namespace": "a", "name": "claim"}}}),
            )
            .with(
                "clusterroles.rbac.authorization.k8s.io",
                &json!({"metadata": {"name": "system:node"}, "rules": [
                    {"apiGroups": [""], "resources": ["services"], "verbs": ["get", "list", "watch"]},
                    {"apiGroups": [""], "resources": ["nodes", "pods"], "verbs": ["create", "update", "get", "list"]},
                ]}),
            )
    }

    #[test]
    fn a_node_reaches_what_its_pods_need() {
        let objects = objects();
        let rbac = Rbac::default().snapshot(&objects);
        let authorizer = NodeAuthorizer::default();
        let check = |who: &str, verb: &str, path: &str, expected: &str| {
            let user = UserInfo {
                name: format!("system:node:{who}"),
                groups: vec!["system:nodes".to_owned()],
                ..UserInfo::default()
            };
            let mut parts = path.split('/');
            let mut next = || parts.next().unwrap_or_default();
            let (namespace, resource, name, subresource) = (next(), next(), next(), next());
            let (name, field_selector) =
                if name.starts_with("spec.") { ("", name) } else { (name, "") };
            let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
            let asked = Attributes {
                user: Some(&user),
                verb,
                is_resource: true,
                group,
                resource,
                subresource,
                namespace,
                name,
                field_selector,
                ..Attributes::default()
            };
            let decision = authorizer.authorize(&objects, &rbac, &asked);
            let text = if decision.is_allowed() { "yes" } else { decision.reason() };
            assert_eq!(text, expected, "{who} {verb} {path}");
        };
        let unrelated = "no relationship found between node 'n2' and this object";
        for path in [
            "a/secrets/pull",
            "a/secrets/key",
            "a/configmaps/c",
            "a/persistentvolumeclaims/claim",
            "/persistentvolumes/pv",
            "a/serviceaccounts/robot",
            "a/pods/p",
        ] {
            check("n1", "get", path, "yes");
            check("n2", "get", path, unrelated);
        }
        check("n1", "create", "a/serviceaccounts/robot/token", "yes");
        check("n2", "create", "a/serviceaccounts/robot/token", unrelated);
        check("n1", "list", "a/secrets/", "No Object name found");
        check(
            "n1",
            "get",
            "b/secrets/pull",
            "no relationship found between node 'n1' and this object",
        );
        check("n1", "update", "a/secrets/pull", "can only read resources of this type");
        check("n1", "get", "/nodes/n1", "yes");
        check("n1", "list", "/nodes/", "node 'n1' cannot read all nodes, only its own Node object");
        check("n1", "list", "/services/", "yes");
        check("n1", "list", "/pods/spec.nodeName=n1", "yes");
        check(
            "n1",
            "list",
            "/pods/spec.nodeName=n2",
            "can only list/watch pods with spec.nodeName field selector",
        );
        check("n1", "update", "kube-node-lease/leases.coordination.k8s.io/n1", "yes");
        check(
            "n1",
            "get",
            "kube-node-lease/leases.coordination.k8s.io/n2",
            "can only access node lease with the same name as the requesting node",
        );
        check("n1", "delete", "/namespaces/zz", "");
    }
}
