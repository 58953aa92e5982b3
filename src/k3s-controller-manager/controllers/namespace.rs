//! Namespaces on their way out: everything in them is deleted, what remains is reported in
//! conditions, and the finalizer goes when nothing remains.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use client::{Action, Key, Propagation, WorkQueue, is_conflict, is_not_found, now};
use futures::{StreamExt, stream};
use serde_json::{Value, json};

use crate::{
    Cx, Running,
    caches::NAMESPACES,
    discovery::{self, Discovered},
    types::{Condition, core::Namespace},
    workers,
};

const NAME: &str = "namespace-controller";
const WORKERS: usize = 10;
const PARALLEL: usize = 8;
const FINALIZER: &str = "kubernetes";
const AGAIN: Duration = Duration::from_millis(500);

/// What one resource has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remaining {
    pub resource: String,
    pub count: usize,
    pub finalizers: Vec<String>,
}

pub(crate) fn start(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    let filled = queue.clone();
    cx.caches.namespaces.on_event(move |event| {
        if event.object().metadata.is_deleting() {
            filled.add(event.object().metadata.key());
        }
    });
    // The last pod of a namespace going away is what deletion usually waits for.
    let (filled, namespaces) = (queue.clone(), cx.caches.namespaces.lister());
    cx.caches.pods.on_event(move |event| {
        if let client::Event::Deleted(pod) = event {
            let key = Key::cluster(pod.metadata.namespace.clone());
            if namespaces.get(&key).is_some_and(|it| it.metadata.is_deleting()) {
                filled.add(key);
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
    let Some(namespace) = cx.caches.namespaces.lister().get(key) else { return Ok(Action::Done) };
    if !namespace.metadata.is_deleting()
        || !namespace.spec.finalizers.iter().any(|it| it == FINALIZER)
    {
        return Ok(Action::Done);
    }
    let discovery = discovery::discover(&cx.rest).await?;
    let (pods, others): (Vec<_>, Vec<_>) = discovery
        .found
        .iter()
        .filter(|it| it.resource.namespaced && it.has(&["delete", "list"]))
        .partition(|it| (&*it.resource.group, &*it.resource.plural) == ("", "pods"));
    let mut failures = Vec::new();
    let mut remaining = Vec::new();
    // Pods go before what they may need to end well: policies, configuration, accounts.
    for stage in [pods, others] {
        if remaining.is_empty() && failures.is_empty() {
            (remaining, failures) = empty_all(cx, &key.name, stage).await;
        }
    }
    let done = remaining.is_empty() && failures.is_empty() && discovery.failed.is_empty();
    if done {
        return finalize(cx, &namespace).await;
    }
    report(cx, &namespace, conditions(&discovery.failed, &failures, &remaining)).await?;
    Ok(Action::RequeueAfter(AGAIN))
}

/// Deletes everything of these resources; returns what is left of them and what went wrong.
async fn empty_all(
    cx: &Cx,
    namespace: &str,
    resources: Vec<&Discovered>,
) -> (Vec<Remaining>, Vec<String>) {
    let work: Vec<_> = resources
        .into_iter()
        .map(|it| async { (it.resource.plural.to_string(), empty(cx, namespace, it).await) })
        .collect();
    let (mut remaining, mut failures) = (Vec::new(), Vec::new());
    let outcomes: Vec<(String, Result<Remaining>)> =
        stream::iter(work).buffer_unordered(PARALLEL).collect().await;
    for (resource, outcome) in outcomes {
        match outcome {
            Ok(left) if left.count == 0 => {}
            Ok(left) => remaining.push(left),
            Err(err) => failures.push(format!("{resource}: {err:#}")),
        }
    }
    remaining.sort_by(|a, b| a.resource.cmp(&b.resource));
    failures.sort();
    (remaining, failures)
}

/// Deletes everything of one resource and says what is left of it.
async fn empty(cx: &Cx, namespace: &str, it: &Discovered) -> Result<Remaining> {
    let resource = &it.resource;
    let list = || async {
        match cx.rest.list::<client::PartialObject>(resource, namespace, &[("limit", "500")]).await
        {
            Ok(list) => Ok(list.items),
            Err(err) if is_not_found(&err) => Ok(Vec::new()),
            Err(err) => Err(err).with_context(|| format!("listing {}", resource.plural)),
        }
    };
    let mut items = list().await?;
    if !items.is_empty() {
        let fresh = items.iter().any(|item| !item.metadata.is_deleting());
        if fresh && it.has(&["deletecollection"]) {
            cx.rest
                .delete_collection(resource, namespace, &[], Propagation::Background)
                .await
                .with_context(|| format!("deleting all {}", resource.plural))?;
        } else if fresh {
            for item in &items {
                let key = item.metadata.key();
                let when = client::Preconditions::default();
                match cx.rest.delete(resource, &key, Propagation::Background, when).await {
                    Err(err) if !is_not_found(&err) => {
                        return Err(err).with_context(|| format!("deleting {key}"));
                    }
                    _ => {}
                }
            }
        }
        if fresh {
            items = list().await?;
        }
    }
    let mut finalizers: Vec<String> =
        items.iter().flat_map(|item| item.metadata.finalizers.clone()).collect();
    finalizers.sort();
    let name = match resource.group.as_ref() {
        "" => format!("{}.", resource.plural),
        group => format!("{}.{group}", resource.plural),
    };
    Ok(Remaining { resource: name, count: items.len(), finalizers })
}

async fn finalize(cx: &Cx, namespace: &Namespace) -> Result<Action> {
    let key = namespace.metadata.key();
    let left: Vec<&String> =
        namespace.spec.finalizers.iter().filter(|it| *it != FINALIZER).collect();
    let body = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {
            "name": key.name,
            "resourceVersion": namespace.metadata.resource_version,
            "uid": namespace.metadata.uid,
        },
        "spec": {"finalizers": left},
    });
    match cx.rest.update::<Value>(&NAMESPACES, &key, "finalize", &body).await {
        Ok(_) => Ok(Action::Done),
        Err(err) if is_not_found(&err) => Ok(Action::Done),
        Err(err) if is_conflict(&err) => Ok(Action::RequeueAfter(Duration::from_millis(20))),
        Err(err) => Err(err).with_context(|| format!("finalizing namespace {key}")),
    }
}

async fn report(cx: &Cx, namespace: &Namespace, wanted: Vec<Condition>) -> Result<()> {
    let mut conditions = namespace.status.conditions.clone();
    let mut changed = false;
    for mut condition in wanted {
        let known = conditions.iter().position(|it| it.kind == condition.kind);
        let same = known.and_then(|at| conditions.get(at)).is_some_and(|it| {
            (&it.status, &it.reason, &it.message)
                == (&condition.status, &condition.reason, &condition.message)
        });
        if same {
            continue;
        }
        changed = true;
        condition.last_transition_time = Some(client::Time(now()));
        match known.and_then(|at| conditions.get_mut(at)) {
            Some(slot) => *slot = condition,
            None => conditions.push(condition),
        }
    }
    if !changed {
        return Ok(());
    }
    let key = namespace.metadata.key();
    let body = json!({"status": {"conditions": conditions}});
    let patch = client::Patch::Merge;
    match cx.rest.patch::<Namespace>(&NAMESPACES, &key, "status", patch, &body).await {
        Ok(namespace) => cx.caches.namespaces.observe(namespace),
        Err(err) if is_not_found(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("updating status of {key}")),
    }
    Ok(())
}

/// Upstream's five conditions for this state of the deletion.
fn conditions(
    undiscovered: &[String],
    failures: &[String],
    remaining: &[Remaining],
) -> Vec<Condition> {
    let pick = |kind: &str, bad: bool, reasons: (&str, &str), messages: (String, &str)| {
        if bad {
            Condition::new(kind, "True", reasons.0, messages.0)
        } else {
            Condition::new(kind, "False", reasons.1, messages.1)
        }
    };
    let left: Vec<String> = remaining
        .iter()
        .map(|it| format!("{} has {} resource instances", it.resource, it.count))
        .collect();
    let mut finalizers = std::collections::BTreeMap::<&str, usize>::new();
    for finalizer in remaining.iter().flat_map(|it| &it.finalizers) {
        *finalizers.entry(finalizer).or_default() += 1;
    }
    let held: Vec<String> = finalizers
        .iter()
        .map(|(name, count)| format!("{name} in {count} resource instances"))
        .collect();
    vec![
        pick(
            "NamespaceDeletionDiscoveryFailure",
            !undiscovered.is_empty(),
            ("DiscoveryFailed", "ResourcesDiscovered"),
            (
                format!(
                    "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
                    undiscovered.len(),
                    undiscovered.join(", ")
                ),
                "All resources successfully discovered",
            ),
        ),
        pick(
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            ("GroupVersionParsingFailed", "ParsedGroupVersions"),
            (String::new(), "All legacy kube types successfully parsed"),
        ),
        pick(
            "NamespaceDeletionContentFailure",
            !failures.is_empty(),
            ("ContentDeletionFailed", "ContentDeleted"),
            (
                format!(
                    "Failed to delete all resource types, {} remaining: {}",
                    failures.len(),
                    failures.join(", ")
                ),
                "All content successfully deleted, may be waiting on finalization",
            ),
        ),
        pick(
            "NamespaceContentRemaining",
            !left.is_empty(),
            ("SomeResourcesRemain", "ContentRemoved"),
            (
                format!("Some resources are remaining: {}", left.join(", ")),
                "All content successfully removed",
            ),
        ),
        pick(
            "NamespaceFinalizersRemaining",
            !held.is_empty(),
            ("SomeFinalizersRemain", "ContentHasNoFinalizers"),
            (
                format!(
                    "Some content in the namespace has finalizers remaining: {}",
                    held.join(", ")
                ),
                "All content-preserving finalizers finished",
            ),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::condition;

    #[test]
    fn conditions_name_what_is_left() {
        let left = Remaining {
            resource: "pods.".into(),
            count: 2,
            finalizers: vec!["example.com/a".into(), "example.com/a".into()],
        };
        let found = conditions(&[], &[], &[left]);
        assert_eq!(found.len(), 5);
        let remaining = condition(&found, "NamespaceContentRemaining").unwrap();
        assert_eq!(
            remaining.message,
            "Some resources are remaining: pods. has 2 resource instances"
        );
        let held = condition(&found, "NamespaceFinalizersRemaining").unwrap();
        assert_eq!(
            held.message,
            "Some content in the namespace has finalizers remaining: example.com/a in 2 resource instances"
        );
        assert!(conditions(&[], &[], &[]).iter().all(|it| it.status == "False"));
    }
}
