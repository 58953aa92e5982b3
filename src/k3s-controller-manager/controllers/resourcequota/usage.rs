//! What objects use of a quota, per resource name of quotas. Pure.

use std::sync::Arc;

use serde_json::Value;

use super::{Quota, ScopeTerm};
use crate::{
    amounts::{Amount, Amounts, Side, add, is_best_effort, of_pod},
    types::{
        core::{Pod, Service},
        storage::Claim,
    },
};

/// The objects of a namespace that are measured and not only counted.
pub(super) struct Measured {
    pub pods: Vec<Arc<Pod>>,
    pub services: Vec<Arc<Service>>,
    pub claims: Vec<Arc<Claim>>,
}

/// The resource whose objects a quota's resource name counts one by one, as `(group, plural)`.
pub(super) fn counted(name: &str) -> Option<(&str, &str)> {
    match name {
        "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas" => Some(("", name)),
        _ => {
            let name = name.strip_prefix("count/")?;
            let (plural, group) = name.split_once('.').unwrap_or((name, ""));
            Some((group, plural))
        }
    }
}

/// Whether this resource name is worked out from pods, services or claims.
pub(super) fn measures(name: &str) -> bool {
    if counted(name).is_some() {
        return false;
    }
    let asked = |name: &str| {
        matches!(name, "cpu" | "memory" | "ephemeral-storage")
            || name.starts_with("hugepages-")
            || name.contains('/')
    };
    matches!(name, "pods" | "services" | "services.nodeports" | "services.loadbalancers")
        || matches!(name, "persistentvolumeclaims" | "requests.storage")
        || name.contains(".storageclass.storage.k8s.io/")
        || matches!(name, "cpu" | "memory" | "ephemeral-storage")
        || name.starts_with("hugepages-")
        || name.strip_prefix("requests.").is_some_and(asked)
        || name.strip_prefix("limits.").is_some_and(asked)
}

/// What the measured objects use together, of the names that the quota limits.
pub(super) fn measure(quota: &Quota, objects: &Measured) -> Amounts {
    let mut used = Amounts::new();
    for pod in objects.pods.iter().filter(|pod| in_scope(quota, pod)) {
        add(&mut used, &of_one_pod(pod));
    }
    if quota.scope_terms().is_empty() {
        objects.services.iter().for_each(|it| add(&mut used, &of_service(it)));
    }
    for claim in objects.claims.iter().filter(|claim| claim_in_scope(quota, claim)) {
        add(&mut used, &of_claim(claim));
    }
    let names = quota.spec.hard.keys().filter(|name| measures(name));
    names.map(|name| (name.clone(), used.get(name).copied().unwrap_or(Amount::ZERO))).collect()
}

fn of_one_pod(pod: &Pod) -> Amounts {
    if pod.is_finished() {
        return Amounts::new();
    }
    let mut used = Amounts::from([("pods".to_owned(), Amount::count(1))]);
    for (name, amount) in of_pod(pod, Side::Requests) {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage")
            || name.starts_with("hugepages-")
        {
            used.insert(name.clone(), amount);
        }
        used.insert(format!("requests.{name}"), amount);
    }
    for (name, amount) in of_pod(pod, Side::Limits) {
        used.insert(format!("limits.{name}"), amount);
    }
    used
}

fn of_service(service: &Service) -> Amounts {
    let mut used = Amounts::from([("services".to_owned(), Amount::count(1))]);
    let ports = &service.spec.ports;
    let node_ports = match service.spec.kind.as_str() {
        "NodePort" => ports.len(),
        "LoadBalancer" => {
            used.insert("services.loadbalancers".into(), Amount::count(1));
            match service.spec.allocate_load_balancer_node_ports {
                Some(false) => ports.iter().filter(|port| port.node_port != 0).count(),
                _ => ports.len(),
            }
        }
        _ => 0,
    };
    used.insert("services.nodeports".into(), Amount::count(node_ports));
    used
}

fn of_claim(claim: &Claim) -> Amounts {
    let mut used = Amounts::from([("persistentvolumeclaims".to_owned(), Amount::count(1))]);
    let class = claim.class();
    if !class.is_empty() {
        let name = format!("{class}.storageclass.storage.k8s.io/persistentvolumeclaims");
        used.insert(name, Amount::count(1));
    }
    if let Some(storage) = claim.spec.resources.requests.get("storage") {
        used.insert("requests.storage".into(), *storage);
        if !class.is_empty() {
            let name = format!("{class}.storageclass.storage.k8s.io/requests.storage");
            used.insert(name, *storage);
        }
    }
    used
}

/// Whether the quota speaks of this claim: one scope does, by the classes of its attributes.
fn claim_in_scope(quota: &Quota, claim: &Claim) -> bool {
    quota.scope_terms().iter().all(|term| {
        let classes = claim.attributes_classes();
        let listed = || classes.iter().any(|name| term.values.iter().any(|it| it == name));
        term.scope_name == "VolumeAttributesClass"
            && match term.operator.as_str() {
                "In" => listed(),
                "NotIn" => !listed(),
                "DoesNotExist" => classes.is_empty(),
                _ => !classes.is_empty(),
            }
    })
}

/// Whether the quota speaks of this pod.
pub(super) fn in_scope(quota: &Quota, pod: &Pod) -> bool {
    quota.scope_terms().iter().all(|term| fits(term, pod))
}

fn fits(term: &ScopeTerm, pod: &Pod) -> bool {
    match term.scope_name.as_str() {
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "Terminating" => pod.spec.active_deadline_seconds.is_some(),
        "NotTerminating" => pod.spec.active_deadline_seconds.is_none(),
        "PriorityClass" => {
            let class = &pod.spec.priority_class_name;
            match term.operator.as_str() {
                "In" => term.values.contains(class),
                "NotIn" => !term.values.contains(class),
                "DoesNotExist" => class.is_empty(),
                _ => !class.is_empty(),
            }
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

fn crosses_namespaces(pod: &Pod) -> bool {
    let Some(affinity) = pod.spec.affinity.as_deref() else { return false };
    let crosses = |term: &Value| {
        term.get("namespaceSelector").is_some_and(|it| !it.is_null())
            || term["namespaces"].as_array().is_some_and(|it| !it.is_empty())
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let terms = |when: &str| affinity[*kind][when].as_array().cloned().unwrap_or_default();
        terms("requiredDuringSchedulingIgnoredDuringExecution").iter().any(crosses)
            || terms("preferredDuringSchedulingIgnoredDuringExecution")
                .iter()
                .any(|term| crosses(&term["podAffinityTerm"]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(text: &str) -> Quota {
        serde_json::from_str(&format!(r#"{{"spec": {text}}}"#)).unwrap()
    }

    fn objects() -> Measured {
        let read = |text: &str| Arc::new(serde_json::from_str::<Pod>(text).unwrap());
        let service = serde_json::from_str(
            r#"{"spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}}"#,
        );
        let claim = serde_json::from_str(
            r#"{"spec": {"storageClassName": "fast", "volumeAttributesClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}}"#,
        );
        Measured {
            pods: vec![
                read(
                    r#"{"spec": {"containers": [{"resources": {"requests": {"cpu": "100m", "memory": "1Gi"},
                        "limits": {"cpu": "1"}}}]}}"#,
                ),
                read(r#"{"spec": {"activeDeadlineSeconds": 5, "priorityClassName": "high"}}"#),
                read(r#"{"status": {"phase": "Succeeded"}}"#),
            ],
            services: vec![Arc::new(service.unwrap())],
            claims: vec![Arc::new(claim.unwrap())],
        }
    }

    #[test]
    fn usage_is_what_the_quota_limits_and_nothing_else() {
        let check = |spec: &str, want: &[(&str, &str)]| {
            let used = measure(&quota(spec), &objects());
            let used: Vec<(String, String)> =
                used.iter().map(|(name, amount)| (name.clone(), amount.0.to_string())).collect();
            let want: Vec<(String, String)> =
                want.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
            assert_eq!(used, want, "{spec}");
        };
        check(
            r#"{"hard": {"pods": "5", "requests.cpu": "1", "memory": "1", "limits.cpu": "3", "requests.a.b/c": 1}}"#,
            &[
                ("limits.cpu", "1"),
                ("memory", "1Gi"),
                ("pods", "2"),
                ("requests.a.b/c", "0"),
                ("requests.cpu", "100m"),
            ],
        );
        check(
            r#"{"hard": {"services.nodeports": 1, "count/secrets": 1}}"#,
            &[("services.nodeports", "2")],
        );
        check(
            r#"{"hard": {"requests.storage": 1, "fast.storageclass.storage.k8s.io/requests.storage": 1, "nonsense": 1}}"#,
            &[
                ("fast.storageclass.storage.k8s.io/requests.storage", "1Gi"),
                ("requests.storage", "1Gi"),
            ],
        );
        check(r#"{"hard": {"pods": 1}, "scopes": ["BestEffort"]}"#, &[("pods", "1")]);
        check(
            r#"{"hard": {"pods": 1}, "scopes": ["NotTerminating", "NotBestEffort"]}"#,
            &[("pods", "1")],
        );
        check(
            r#"{"hard": {"pods": 1}, "scopeSelector": {"matchExpressions":
                [{"scopeName": "PriorityClass", "operator": "In", "values": ["low"]}]}}"#,
            &[("pods", "0")],
        );
        let of_class = |operator: &str, values: &str| {
            format!(
                r#"{{"hard": {{"persistentvolumeclaims": 1, "pods": 1}}, "scopeSelector": {{"matchExpressions":
                    [{{"scopeName": "VolumeAttributesClass", "operator": "{operator}", "values": {values}}}]}}}}"#
            )
        };
        let claims = |count| [("persistentvolumeclaims", count), ("pods", "0")];
        check(&of_class("In", r#"["gold"]"#), &claims("1"));
        check(&of_class("In", r#"["silver"]"#), &claims("0"));
        check(&of_class("NotIn", r#"["gold"]"#), &claims("0"));
        check(&of_class("Exists", "[]"), &claims("1"));
        check(&of_class("DoesNotExist", "[]"), &claims("0"));
    }

    #[test]
    fn names_lead_to_the_resource_that_they_count() {
        assert_eq!(counted("count/jobs.batch"), Some(("batch", "jobs")));
        assert_eq!(counted("count/a.b.example.com"), Some(("b.example.com", "a")));
        assert_eq!(counted("count/pods"), Some(("", "pods")));
        assert_eq!(counted("configmaps"), Some(("", "configmaps")));
        assert_eq!(counted("pods"), None);
    }
}
