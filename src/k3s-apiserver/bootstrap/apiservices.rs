//! The APIService objects that stand for the groups this server serves itself.

use serde_json::json;

use super::{Item, Keep, Stamp};

/// Group, version, priority of the group, priority of the version.
const SERVED: &[(&str, &str, i32, i32)] = &[
    ("", "v1", 18000, 1),
    ("apps", "v1", 17800, 15),
    ("events.k8s.io", "v1", 17750, 15),
    ("authentication.k8s.io", "v1", 17700, 15),
    ("authorization.k8s.io", "v1", 17600, 15),
    ("autoscaling", "v1", 17500, 15),
    ("autoscaling", "v2", 17500, 30),
    ("batch", "v1", 17400, 15),
    ("certificates.k8s.io", "v1", 17300, 15),
    ("networking.k8s.io", "v1", 17200, 15),
    ("policy", "v1", 17100, 15),
    ("rbac.authorization.k8s.io", "v1", 17000, 15),
    ("storage.k8s.io", "v1", 16800, 15),
    ("apiextensions.k8s.io", "v1", 16700, 15),
    ("admissionregistration.k8s.io", "v1", 16700, 15),
    ("scheduling.k8s.io", "v1", 16600, 15),
    ("coordination.k8s.io", "v1", 16500, 15),
    ("node.k8s.io", "v1", 16300, 15),
    ("discovery.k8s.io", "v1", 16200, 15),
    ("resource.k8s.io", "v1", 16200, 21),
    ("flowcontrol.apiserver.k8s.io", "v1", 16100, 21),
];

pub(super) fn items(stamp: &Stamp) -> Vec<Item> {
    SERVED
        .iter()
        .map(|(group, version, priority, version_priority)| {
            let name = format!("{version}.{group}");
            let mut spec = json!({
                "groupPriorityMinimum": priority,
                "version": version,
                "versionPriority": version_priority,
            });
            if !group.is_empty() {
                spec["group"] = json!(group);
            }
            let object = json!({
                "apiVersion": "apiregistration.k8s.io/v1",
                "kind": "APIService",
                "metadata": {
                    "name": name,
                    "labels": {"kube-aggregator.kubernetes.io/automanaged": "onstart"},
                },
                "spec": spec,
                "status": {"conditions": [{
                    "lastTransitionTime": stamp.now,
                    "message": "Local APIServices are always available",
                    "reason": "Local",
                    "status": "True",
                    "type": "Available",
                }]},
            });
            Item { resource: "apiservices.apiregistration.k8s.io", object, keep: Keep::AsIs }
        })
        .collect()
}
