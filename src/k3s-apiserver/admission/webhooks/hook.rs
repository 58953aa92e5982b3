//! Webhook configurations as they are acted upon: read once per revision, in upstream's order.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use apimachinery::selector::LabelSelector;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::registry::value::{int, key, list, text, texts};
use crate::remote::Server;
use crate::storage::entry::Entry;

/// The two kinds of webhooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    Mutating,
    Validating,
}

impl Phase {
    fn resource(self) -> &'static str {
        match self {
            Self::Mutating => "mutatingwebhookconfigurations.admissionregistration.k8s.io",
            Self::Validating => "validatingwebhookconfigurations.admissionregistration.k8s.io",
        }
    }

    /// `admit` or `validating`, as metrics call it.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Mutating => "admit",
            Self::Validating => "validating",
        }
    }
}

/// One webhook of a configuration.
#[derive(Debug)]
pub(super) struct Hook {
    pub(super) configuration: String,
    pub(super) name: String,
    /// Configuration, name and place: what a round of reinvocations remembers it by.
    pub(super) id: String,
    pub(super) server: Result<Server, String>,
    pub(super) rules: Vec<Value>,
    /// `matchPolicy: Equivalent`
    pub(super) equivalent: bool,
    /// `failurePolicy: Fail`
    pub(super) fails: bool,
    pub(super) namespaces: Result<LabelSelector, String>,
    pub(super) objects: Result<LabelSelector, String>,
    /// The match conditions where a policy has them; null for none.
    pub(super) conditions: Value,
    pub(super) side_effects: String,
    pub(super) limit: Duration,
    /// The first version of AdmissionReview that both sides know.
    pub(super) review: Option<&'static str>,
    /// `reinvocationPolicy: IfNeeded`
    pub(super) again: bool,
}

impl Hook {
    fn read(configuration: &str, at: usize, hook: &Value) -> Self {
        let name = text(hook, "name").to_owned();
        let conditions = key(hook, "matchConditions");
        let seconds = int(hook, "timeoutSeconds").and_then(|seconds| u64::try_from(seconds).ok());
        Self {
            id: format!("{configuration}/{name}/{at}"),
            configuration: configuration.to_owned(),
            server: Server::read(key(hook, "clientConfig")),
            rules: list(hook, "rules").to_vec(),
            equivalent: text(hook, "matchPolicy") != "Exact",
            fails: text(hook, "failurePolicy") != "Ignore",
            namespaces: LabelSelector::from_value(hook.get("namespaceSelector")),
            objects: LabelSelector::from_value(hook.get("objectSelector")),
            conditions: match conditions.as_array().is_some_and(|all| !all.is_empty()) {
                true => json!({"spec": {"matchConditions": conditions}}),
                false => Value::Null,
            },
            side_effects: text(hook, "sideEffects").to_owned(),
            limit: Duration::from_secs(seconds.unwrap_or(10)),
            review: texts(hook, "admissionReviewVersions").find_map(|version| match version {
                "v1" => Some("v1"),
                "v1beta1" => Some("v1beta1"),
                _ => None,
            }),
            again: text(hook, "reinvocationPolicy") == "IfNeeded",
            name,
        }
    }

    /// May it be called for a dry run?
    pub(super) fn is_without_effects(&self) -> bool {
        matches!(self.side_effects.as_str(), "None" | "NoneOnDryRun")
    }
}

type Known = HashMap<(Phase, Arc<str>), (i64, Arc<Vec<Arc<Hook>>>)>;

/// The webhooks of all configurations, kept by the revision that they were read from.
#[derive(Debug, Default)]
pub struct Webhooks {
    known: Mutex<Known>,
}

impl Webhooks {
    /// The webhooks in the order in which they are asked: by the configurations' names.
    pub(super) fn all(&self, cluster: &Cluster, phase: Phase) -> Vec<Arc<Hook>> {
        let entries = cluster.list(phase.resource(), "");
        if entries.is_empty() {
            return Vec::new();
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(of, name), _| {
            *of != phase || entries.iter().any(|entry| *entry.key == **name)
        });
        let mut all = Vec::new();
        for entry in &entries {
            let place = (phase, entry.key.clone());
            let hooks = match known.get(&place) {
                Some((revision, hooks)) if *revision == entry.revision => hooks.clone(),
                _ => {
                    let hooks = Arc::new(read(entry));
                    known.insert(place, (entry.revision, hooks.clone()));
                    hooks
                }
            };
            all.extend(hooks.iter().cloned());
        }
        all
    }
}

fn read(entry: &Entry) -> Vec<Arc<Hook>> {
    let object = entry.object();
    let hooks = list(&object, "webhooks").iter().enumerate();
    hooks.map(|(at, hook)| Arc::new(Hook::read(entry.name(), at, hook))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_fields_mean_upstreams_defaults() {
        let hook = Hook::read(
            "c",
            1,
            &json!({"name": "a.b.c",
            "admissionReviewVersions": ["v2", "v1beta1", "v1"],
            "clientConfig": {"url": "https://x"}, "sideEffects": "Some"}),
        );
        assert_eq!((hook.id.as_str(), hook.review), ("c/a.b.c/1", Some("v1beta1")));
        assert!(hook.fails && hook.equivalent && !hook.again && !hook.is_without_effects());
        assert_eq!(hook.limit, Duration::from_secs(10));
        assert!(hook.conditions.is_null());
    }
}
