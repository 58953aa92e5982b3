//! What an APIService's status says, and which APIServices stand for our own groups. Pure.
//!
//! Invariant: only the condition `Available` is ours; what others wrote beside it stays.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::Object;
use crate::registry::value::{int, key, list, set, text};
use crate::verbs::write::time_text;

/// The label of those that follow the definitions of custom resources.
pub(super) const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// What was found out about a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) available: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Verdict {
    fn not(reason: &'static str, message: String) -> Self {
        Self { available: false, reason, message }
    }

    pub(super) fn passed() -> Self {
        let message = "all checks passed".to_owned();
        Self { available: true, reason: "Passed", message }
    }

    pub(super) fn failed(message: String) -> Self {
        Self::not("FailedDiscoveryCheck", message)
    }
}

/// Whether the Service of an APIService could answer at all; `endpoints` are ready ones behind it.
pub(super) fn reachable(
    api: &Object,
    service: Option<&Object>,
    endpoints: bool,
) -> Option<Verdict> {
    let (namespace, name) = (text(api, "spec.service.namespace"), text(api, "spec.service.name"));
    let port = int(api, "spec.service.port").unwrap_or(443);
    let Some(service) = service else {
        let message = format!("service/{name} in {namespace:?} is not present");
        return Some(Verdict::not("ServiceNotFound", message));
    };
    if text(service, "spec.type") == "ExternalName" {
        return None;
    }
    let found = list(service, "spec.ports").iter().find(|own| int(own, "port") == Some(port));
    let Some(found) = found else {
        let message = format!("service/{name} in {namespace:?} is not listening on port {port}");
        return Some(Verdict::not("ServicePortError", message));
    };
    if !endpoints {
        let port = text(found, "name");
        let message = format!(
            "endpoints for service/{name} in {namespace:?} have no addresses with port name \
             {port:?}"
        );
        return Some(Verdict::not("MissingEndpoints", message));
    }
    None
}

/// The APIService with what was found out, if that changes it.
pub(super) fn judged(api: &Object, verdict: &Verdict, now: Timestamp) -> Option<Object> {
    let mut conditions = list(api, "status.conditions").to_vec();
    let status = if verdict.available { "True" } else { "False" };
    let known = conditions.iter_mut().find(|condition| condition["type"] == "Available");
    let since = match &known {
        Some(known) if known["status"] == status => known["lastTransitionTime"].clone(),
        _ => time_text(now).into(),
    };
    let condition = json!({"type": "Available", "status": status, "lastTransitionTime": since,
        "reason": verdict.reason, "message": verdict.message});
    match known {
        Some(known) if *known == condition => return None,
        Some(known) => *known = condition,
        None => conditions.insert(0, condition),
    }
    let mut judged = api.clone();
    set(&mut judged, "status.conditions", conditions);
    Some(judged)
}

/// One change to the APIServices of custom groups.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    Create(Object),
    Delete(String),
}

/// What is missing or left over among the APIServices of custom groups.
pub(super) fn registered(
    custom: &BTreeSet<(String, String)>,
    have: &[Object],
    now: Timestamp,
) -> Vec<Step> {
    let name = |(group, version): &(String, String)| format!("{version}.{group}");
    let mut steps = Vec::new();
    for wanted in custom {
        if !have.iter().any(|api| text(api, "metadata.name") == name(wanted)) {
            steps.push(Step::Create(local(wanted, &name(wanted), now)));
        }
    }
    for api in have {
        let own = key(key(key(api, "metadata"), "labels"), MANAGED) == "true";
        let stands_for = (text(api, "spec.group").to_owned(), text(api, "spec.version").to_owned());
        if own && !custom.contains(&stands_for) {
            steps.push(Step::Delete(text(api, "metadata.name").to_owned()));
        }
    }
    steps
}

fn local((group, version): &(String, String), name: &str, now: Timestamp) -> Value {
    json!({
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {
            "name": name,
            "uid": uuid::Uuid::new_v4().to_string(),
            "creationTimestamp": time_text(now),
            "labels": {MANAGED: "true"},
        },
        "spec": {"group": group, "version": version, "groupPriorityMinimum": 1000,
            "versionPriority": 100},
        "status": {"conditions": [{
            "type": "Available", "status": "True", "lastTransitionTime": time_text(now),
            "reason": "Local", "message": "Local APIServices are always available",
        }]},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api() -> Object {
        json!({"metadata": {"name": "v1.a.b"}, "spec": {"group": "a.b", "version": "v1",
            "service": {"namespace": "n", "name": "s", "port": 7}}})
    }

    #[test]
    fn a_server_is_unavailable_for_upstreams_reasons() {
        let check = |service: Option<Value>, endpoints: bool, reason: &str| {
            let verdict = reachable(&api(), service.as_ref(), endpoints);
            assert_eq!(verdict.map_or("", |verdict| verdict.reason), reason);
        };
        let service = |port: i64| Some(json!({"spec": {"ports": [{"port": port}]}}));
        check(None, false, "ServiceNotFound");
        check(service(8), true, "ServicePortError");
        check(service(7), false, "MissingEndpoints");
        check(service(7), true, "");
    }

    #[test]
    fn conditions_of_others_stay_and_nothing_is_written_twice() {
        let mut object = api();
        object["status"] = json!({"conditions": [{"type": "Other", "status": "True"}]});
        let judged_once = judged(&object, &Verdict::passed(), Timestamp::now()).unwrap();
        let all = list(&judged_once, "status.conditions");
        assert_eq!((text(&all[0], "message"), all.len()), ("all checks passed", 2));
        assert_eq!(judged(&judged_once, &Verdict::passed(), Timestamp::now()), None);
    }

    #[test]
    fn custom_groups_are_registered_once_and_forgotten_with_their_definition() {
        let custom = BTreeSet::from([("a.b".to_owned(), "v1".to_owned())]);
        let steps = registered(&custom, &[], Timestamp::now());
        let [Step::Create(made)] = steps.as_slice() else { panic!("{steps:?}") };
        assert!(registered(&custom, std::slice::from_ref(made), Timestamp::now()).is_empty());
        let gone = registered(&BTreeSet::new(), std::slice::from_ref(made), Timestamp::now());
        assert_eq!(gone, [Step::Delete("v1.a.b".to_owned())]);
        assert!(registered(&BTreeSet::new(), &[api()], Timestamp::now()).is_empty());
    }
}
