//! ValidatingAdmissionPolicies: what is wrong with their expressions for the types that they are
//! about goes into their status.
//!
//! Invariant: each generation of a policy is checked once, and a type that cannot be found out is
//! left out, never guessed.

mod check;
mod schema;

use std::{collections::HashMap, sync::Arc};

use anyhow::{Context, Result};
use apimachinery::cel::Ty;
use client::{Action, Event, HasMeta, Key, Meta, Patch, WorkQueue, is_not_found};
use serde::Deserialize;
use serde_json::{Value, json};

use self::check::{Gvk, Policy, Warning};
use crate::{Cx, Running, caches::ADMISSION_POLICIES, discovery, workers};

const NAME: &str = "validatingadmissionpolicy-status-controller";
const MANAGER: &str = "validatingadmissionpolicy-status";

/// Of a policy only how far it has been checked is kept.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AdmissionPolicy {
    pub metadata: Meta,
    pub status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Status {
    pub observed_generation: i64,
}

impl HasMeta for AdmissionPolicy {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

pub(crate) fn start(cx: &Cx) -> Running {
    let queue = WorkQueue::new();
    let filled = queue.clone();
    cx.caches.admission_policies.on_event(move |event| {
        if !matches!(event, Event::Deleted(_)) && is_unseen(event.object()) {
            filled.add(event.object().metadata.key());
        }
    });
    let shared = Arc::new(cx.clone());
    workers(cx, NAME, 1, &queue, move |key| {
        let cx = Arc::clone(&shared);
        async move { reconcile(&cx, &key).await }
    })
}

fn is_unseen(policy: &AdmissionPolicy) -> bool {
    policy.metadata.generation > policy.status.observed_generation
}

async fn reconcile(cx: &Cx, key: &Key) -> Result<Action> {
    let known = cx.caches.admission_policies.lister().get(key);
    if !known.is_some_and(|policy| is_unseen(&policy)) {
        return Ok(Action::Done);
    }
    let live: Value = match cx.rest.get(&ADMISSION_POLICIES, key).await {
        Ok(live) => live,
        Err(err) if is_not_found(&err) => return Ok(Action::Done),
        Err(err) => return Err(err).with_context(|| format!("reading policy {key}")),
    };
    let policy: Policy = serde_json::from_value(live["spec"].clone())
        .with_context(|| format!("reading the spec of policy {key}"))?;
    let mut types = Vec::new();
    for (group, version, resources) in policy.subjects() {
        let found = discovery::group_version(&cx.rest, &group, &version).await?;
        for resource in resources {
            let kind = found.iter().find(|it| it.resource.plural == resource.as_str());
            let Some(kind) = kind.map(|it| it.resource.kind.to_string()) else { continue };
            types.push(Gvk { group: group.clone(), version: version.clone(), kind });
        }
    }
    let types = check::chosen(types);
    let mut documents = HashMap::new();
    let mut objects = Vec::new();
    for gvk in types {
        if let Some(ty) = type_of(cx, &mut documents, &gvk).await? {
            objects.push((gvk, ty));
        }
    }
    let params = match policy.params() {
        Some(gvk) => type_of(cx, &mut documents, &gvk).await?,
        None => None,
    };
    let warnings = check::warnings(&policy, &objects, params.as_ref());
    let generation = live["metadata"]["generation"].as_i64().unwrap_or_default();
    let body = status(&key.name, generation, &warnings);
    let patch = Patch::Apply(MANAGER);
    match cx.rest.patch(&ADMISSION_POLICIES, key, "status", patch, &body).await {
        Ok(policy) => cx.caches.admission_policies.observe(policy),
        Err(err) if is_not_found(&err) => {}
        Err(err) => return Err(err).with_context(|| format!("writing status of policy {key}")),
    }
    Ok(Action::Done)
}

/// The type of a kind, from the server's OpenAPI document of its group version.
async fn type_of(
    cx: &Cx,
    documents: &mut HashMap<String, Option<Value>>,
    gvk: &Gvk,
) -> Result<Option<Ty>> {
    let path = match gvk.group.as_str() {
        "" => format!("/openapi/v3/api/{}", gvk.version),
        group => format!("/openapi/v3/apis/{group}/{}", gvk.version),
    };
    if !documents.contains_key(&path) {
        let document = match cx.rest.get_path::<Value>(&path).await {
            Ok(document) => Some(document),
            Err(err) if is_not_found(&err) => None,
            Err(err) => return Err(err).with_context(|| format!("reading {path}")),
        };
        documents.insert(path.clone(), document);
    }
    let document = documents.get(&path).and_then(Option::as_ref);
    Ok(document.and_then(|document| schema::type_of(document, gvk)))
}

fn status(name: &str, generation: i64, warnings: &[Warning]) -> Value {
    let mut checking = json!({});
    if !warnings.is_empty() {
        checking["expressionWarnings"] = json!(warnings);
    }
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "status": {"observedGeneration": generation, "typeChecking": checking},
    })
}
