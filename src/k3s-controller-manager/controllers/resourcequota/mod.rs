//! ResourceQuotas: `status` says what the namespace uses of what it may.
//!
//! Pods, Services and claims are measured from the caches; every other resource is counted at the
//! server, when an object of it goes. Who notices that for resources without a cache is the garbage
//! collector, which watches everything; without it they are counted at each resync.
//!
//! Invariant: what comes is charged by the API server's admission and never measured here at once,
//! since a cache that lags behind a charge would take it back.

mod usage;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use client::{
    Action, Event, HasMeta, Key, Meta, Patch, Resource, WorkQueue, is_not_found, null_default,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use self::usage::{Measured, counted, in_scope, measure, measures};
use crate::{
    Cx, Running,
    amounts::{Amount, Amounts},
    caches::{QUOTAS, counting},
    discovery::discover,
    types::{Partial, core::Pod},
    workers,
};

const NAME: &str = "resourcequota-controller";
const WORKERS: usize = 5;
const RESYNC: Duration = Duration::from_secs(300);

/// `v1 ResourceQuota`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Quota {
    pub metadata: Meta,
    spec: QuotaSpec,
    status: QuotaStatus,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct QuotaSpec {
    #[serde(deserialize_with = "null_default")]
    hard: Amounts,
    #[serde(deserialize_with = "null_default")]
    scopes: Vec<String>,
    scope_selector: ScopeSelector,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ScopeSelector {
    #[serde(deserialize_with = "null_default")]
    match_expressions: Vec<ScopeTerm>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ScopeTerm {
    scope_name: String,
    operator: String,
    #[serde(deserialize_with = "null_default")]
    values: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct QuotaStatus {
    #[serde(deserialize_with = "null_default")]
    hard: Amounts,
    #[serde(deserialize_with = "null_default")]
    used: Amounts,
}

impl HasMeta for Quota {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

impl Quota {
    /// Whether the status does not tell of every limit yet.
    fn lacks_figures(&self) -> bool {
        self.status.hard != self.spec.hard
            || self.spec.hard.keys().any(|name| !self.status.used.contains_key(name))
    }

    /// Scopes and scope selector in one form.
    fn scope_terms(&self) -> Vec<ScopeTerm> {
        let plain = self.spec.scopes.iter().map(|scope| ScopeTerm {
            scope_name: scope.clone(),
            operator: "Exists".into(),
            values: Vec::new(),
        });
        plain.chain(self.spec.scope_selector.match_expressions.iter().cloned()).collect()
    }
}

pub(crate) fn start(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    let filled = queue.clone();
    cx.caches.quotas.on_event(move |event| {
        let stale = match event {
            Event::Added(_) => true,
            Event::Updated { old, new } => old.spec != new.spec || new.lacks_figures(),
            Event::Deleted(_) => false,
        };
        if stale {
            filled.add(event.object().metadata.key());
        }
    });
    let measured = |cx: &Cx| {
        let (filled, quotas) = (queue.clone(), cx.caches.quotas.lister());
        move |namespace: &str| {
            for quota in quotas.namespaced(namespace) {
                if quota.spec.hard.keys().any(|name| measures(name)) {
                    filled.add(quota.metadata.key());
                }
            }
        }
    };
    let changed = measured(cx);
    cx.caches.pods.on_event(move |event| {
        let counts = |pod: &Pod| (pod.is_finished(), pod.metadata.generation);
        match event {
            Event::Added(_) => {}
            Event::Updated { old, new } if counts(old) == counts(new) => {}
            _ => changed(&event.object().metadata.namespace),
        }
    });
    let changed = measured(cx);
    cx.caches.services.on_event(move |event| {
        if !matches!(event, Event::Added(_)) {
            changed(&event.object().metadata.namespace);
        }
    });
    let changed = measured(cx);
    cx.caches.claims.on_event(move |event| {
        if !matches!(event, Event::Added(_)) {
            changed(&event.object().metadata.namespace);
        }
    });
    let (filled, quotas) = (queue.clone(), cx.caches.quotas.lister());
    cx.caches.goings.subscribe(move |resource, namespace| {
        let same = |name: &String| {
            counted(name).is_some_and(|it| it == (&*resource.group, &*resource.plural))
        };
        for quota in quotas.namespaced(namespace) {
            if quota.spec.hard.keys().any(same) {
                filled.add(quota.metadata.key());
            }
        }
    });
    let shared = Arc::new(cx.clone());
    workers(cx, NAME, WORKERS, &queue, move |key| {
        let cx = Arc::clone(&shared);
        async move { reconcile(&cx, &key).await }
    })
}

async fn reconcile(cx: &Cx, key: &Key) -> Result<Action> {
    let Some(quota) = cx.caches.quotas.lister().get(key) else { return Ok(Action::Done) };
    let objects = Measured {
        pods: cx.caches.pods.lister().namespaced(&key.namespace),
        services: cx.caches.services.lister().namespaced(&key.namespace),
        claims: cx.caches.claims.lister().namespaced(&key.namespace),
    };
    let mut used = measure(&quota, &objects);
    let pods = objects.pods.iter().filter(|pod| in_scope(&quota, pod)).count();
    let scoped = !quota.scope_terms().is_empty();
    let names: BTreeSet<&String> = quota.spec.hard.keys().collect();
    let mut resources = None;
    for name in names {
        let Some((group, plural)) = counted(name) else { continue };
        if (group, plural) == ("", "pods") {
            used.insert(name.clone(), Amount::count(pods));
            continue;
        }
        if scoped {
            used.insert(name.clone(), Amount::ZERO);
            continue;
        }
        let resource = match counting(group, plural) {
            Some(resource) => Some(resource),
            None => {
                if resources.is_none() {
                    resources = Some(discover(&cx.rest).await?.found);
                }
                resources
                    .iter()
                    .flatten()
                    .find(|it| it.resource.group == group && it.resource.plural == plural)
                    .map(|it| it.resource.clone())
            }
        };
        // What the server does not have is not counted, as upstream.
        if let Some(resource) = resource {
            used.insert(name.clone(), Amount::count(count(cx, &resource, &key.namespace).await?));
        }
    }
    let want = QuotaStatus { hard: quota.spec.hard.clone(), used };
    if want != quota.status {
        write_status(cx, &quota, &want).await?;
    }
    Ok(Action::RequeueAfter(RESYNC))
}

async fn count(cx: &Cx, resource: &Resource, namespace: &str) -> Result<usize> {
    let list = cx.rest.list::<Partial>(resource, namespace, &[("resourceVersion", "0")]).await;
    list.map(|list| list.items.len()).with_context(|| format!("counting {}", resource.plural))
}

async fn write_status(cx: &Cx, quota: &Quota, want: &QuotaStatus) -> Result<()> {
    let key = quota.metadata.key();
    let body = json!({
        "metadata": {"resourceVersion": quota.metadata.resource_version},
        "status": {
            "hard": patch(&quota.status.hard, &want.hard),
            "used": patch(&quota.status.used, &want.used),
        },
    });
    match cx.rest.patch::<Quota>(&QUOTAS, &key, "status", Patch::Merge, &body).await {
        Ok(quota) => cx.caches.quotas.observe(quota),
        Err(err) if is_not_found(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("updating status of {key}")),
    }
    Ok(())
}

/// The merge patch from one list to another.
fn patch(have: &Amounts, want: &Amounts) -> Value {
    let mut out: Map<String, Value> =
        want.iter().map(|(name, amount)| (name.clone(), json!(amount))).collect();
    for name in have.keys().filter(|name| !want.contains_key(*name)) {
        out.insert(name.clone(), Value::Null);
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_that_are_no_longer_limited_are_taken_out() {
        let list = |text: &str| serde_json::from_str::<Amounts>(text).unwrap();
        let patch = patch(&list(r#"{"a": "1", "b": "1"}"#), &list(r#"{"b": "2000m"}"#));
        assert_eq!(patch, json!({"a": null, "b": "2"}));
    }
}
