//! ClusterRoles with an aggregation rule hold the rules of all ClusterRoles that it selects.

use std::sync::Arc;

use anyhow::{Context, Result};
use client::{Action, HasMeta, Key, Patch, WorkQueue, is_not_found};
use serde_json::{Value, json};

use crate::{Cx, Running, caches::CLUSTER_ROLES, types::rbac::ClusterRole, workers};

const NAME: &str = "clusterrole-aggregation-controller";
const WORKERS: usize = 5;

pub(crate) fn start(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    let (filled, roles) = (queue.clone(), cx.caches.cluster_roles.lister());
    cx.caches.cluster_roles.on_event(move |_| {
        roles.for_each(|role| {
            if role.aggregation_rule.is_some() {
                filled.add(role.metadata.key());
            }
        });
    });
    let shared = Arc::new(cx.clone());
    workers(cx, NAME, WORKERS, &queue, move |key| {
        let cx = Arc::clone(&shared);
        async move { reconcile(&cx, &key).await }
    })
}

/// The rules that the role should have, when those differ from what it has.
fn plan(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<Value>> {
    let selectors = &role.aggregation_rule.as_ref()?.cluster_role_selectors;
    let mut rules: Vec<Value> = Vec::new();
    for selector in selectors {
        let mut selected: Vec<&Arc<ClusterRole>> = all
            .iter()
            .filter(|it| it.metadata.name != role.metadata.name)
            .filter(|it| selector.matches(&it.metadata.labels))
            .collect();
        selected.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        for rule in selected.iter().flat_map(|it| &it.rules) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    (rules != role.rules).then_some(rules)
}

async fn reconcile(cx: &Cx, key: &Key) -> Result<Action> {
    let lister = cx.caches.cluster_roles.lister();
    let Some(role) = lister.get(key) else { return Ok(Action::Done) };
    if role.meta().is_deleting() {
        return Ok(Action::Done);
    }
    let Some(rules) = plan(&role, &lister.list()) else { return Ok(Action::Done) };
    let body = json!({
        "apiVersion": CLUSTER_ROLES.api_version(), "kind": "ClusterRole",
        "metadata": {"name": key.name, "uid": role.metadata.uid},
        "rules": rules,
    });
    let how = Patch::Apply(NAME);
    match cx.rest.patch::<ClusterRole>(&CLUSTER_ROLES, key, "", how, &body).await {
        Ok(role) => cx.caches.cluster_roles.observe(role),
        Err(err) if is_not_found(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("aggregating cluster role {key}")),
    }
    Ok(Action::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(text: &str) -> Arc<ClusterRole> {
        Arc::new(serde_json::from_str(text).unwrap())
    }

    #[test]
    fn selected_rules_are_gathered_once_and_in_order() {
        let gathers = |rules: &str| {
            role(&format!(
                r#"{{"metadata": {{"name": "admin", "labels": {{"a": "1"}}}}, "rules": {rules},
                    "aggregationRule": {{"clusterRoleSelectors": [{{"matchLabels": {{"a": "1"}}}}]}}}}"#
            ))
        };
        let of = |name: &str, label: &str, verb: &str| {
            role(&format!(
                r#"{{"metadata": {{"name": "{name}", "labels": {{"a": "{label}"}}}},
                    "rules": [{{"verbs": ["{verb}"]}}]}}"#
            ))
        };
        let others =
            [of("z", "1", "get"), of("b", "1", "list"), of("c", "2", "watch"), of("y", "1", "get")];
        let with = |role: &Arc<ClusterRole>| [&others[..], &[Arc::clone(role)]].concat();
        let empty = gathers("null");
        let want = vec![json!({"verbs": ["list"]}), json!({"verbs": ["get"]})];
        assert_eq!(plan(&empty, &with(&empty)), Some(want.clone()));
        let full = gathers(r#"[{"verbs": ["list"]}, {"verbs": ["get"]}]"#);
        assert_eq!(plan(&full, &with(&full)), None, "nothing to write");
        assert_eq!(plan(&others[0], &with(&full)), None, "does not aggregate");
        assert_eq!(plan(&full, &[Arc::clone(&full)]), Some(vec![]), "its sources are gone");
    }
}
