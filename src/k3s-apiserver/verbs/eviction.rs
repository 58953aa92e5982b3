//! `pods/eviction`: a deletion that PodDisruptionBudgets may refuse.

use apimachinery::selector::LabelSelector;
use apimachinery::status::Status;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::delete::delete_object;
use super::managed;
use super::object::decode;
use super::options::{DeleteOptions, WriteOptions};
use super::render::{self, success};
use super::update::{Source, update_object};
use super::write::{Author, Draft, meta_text};
use crate::body::Body;
use crate::filter::Call;
use crate::kinds::{Kind, Sub};
use crate::negotiate::Accept;
use crate::registry::Object;
use crate::storage::entry::{Entry, encode};
use crate::storage::write::{Change, Outcome};

/// Attempts to take a disruption from a budget that others take from too.
const ATTEMPTS: usize = 10;

pub async fn evict(
    call: &Call<'_>,
    kind: &Kind,
    sub: &Sub,
    body: Bytes,
) -> Result<Response<Body>, Status> {
    let accept = Accept::read(&call.parts.headers)?;
    let write = WriteOptions::read(&call.query, "CreateOptions")?;
    let validation = write.validation;
    let mut draft = Draft::new(call, kind, write)?;
    let node = kind.sub_node(sub).ok_or_else(Status::no_resource)?;
    let expected = apimachinery::decode::Expected {
        group: &sub.group,
        version: &sub.version,
        kind: &sub.kind,
        node,
    };
    let mut eviction = decode(call, expected, &body, validation, &mut draft.warnings)?;
    let name = call.info.name.as_str();
    let given = meta_text(&eviction, "name");
    if !given.is_empty() && given != name {
        return Err(Status::bad_request("name in URL does not match name in Eviction object"));
    }
    draft.review([&sub.group, &sub.version, &sub.kind], "eviction", name, &mut eviction).await?;
    let given = eviction.get("deleteOptions").filter(|options| !options.is_null());
    let mut options = DeleteOptions::read(&call.query, given)?;
    options.dry_run |= draft.options.dry_run;
    draft.options.dry_run = options.dry_run;
    draft.subresource = "";
    call.server.storage.settled().await?;
    let entry = draft.store.get(&draft.key(name));
    let entry = entry.ok_or_else(|| Status::not_found(kind.about(name)))?;
    let pod = draft.served(&entry).await?;
    if !may_ignore_budgets(&pod) {
        take_disruption(&draft, &pod, &entry).await?;
    }
    tell_why(&mut draft, name).await?;
    delete_object(&mut draft, name, &options).await?;
    let mut response = render::status(accept, StatusCode::CREATED, &success(StatusCode::CREATED));
    render::warn(&mut response, &draft.warnings);
    Ok(response)
}

/// Puts the reason into the pod's status, for those who see it go.
async fn tell_why(draft: &mut Draft<'_>, name: &str) -> Result<(), Status> {
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastProbeTime": null,
        "lastTransitionTime": super::write::time_text(draft.now),
    });
    let make = |old: &Object, _: &mut Vec<String>| {
        let mut pod = old.clone();
        let mut conditions = old["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.retain(|known| known["type"] != condition["type"]);
        conditions.push(condition.clone());
        pod["status"]["conditions"] = conditions.into();
        Ok(pod)
    };
    let manager = managed::manager(draft);
    let author = std::mem::replace(&mut draft.author, Author::Server);
    draft.subresource = "status";
    let done =
        update_object(draft, name, Source::Patch, managed::How::Update(&manager), make).await;
    draft.subresource = "";
    draft.author = author;
    done.map(|_| ())
}

/// Pods that are done, not started or leaving are no disruption.
fn may_ignore_budgets(pod: &Object) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Pending"))
        || !pod["metadata"]["deletionTimestamp"].is_null()
}

/// Takes one disruption from the budget of the pod, or refuses.
async fn take_disruption(draft: &Draft<'_>, pod: &Object, entry: &Entry) -> Result<(), Status> {
    let storage = &draft.call.server.storage;
    for _ in 0..ATTEMPTS {
        let budgets: Vec<_> = draft
            .call
            .server
            .cluster
            .list("poddisruptionbudgets.policy", entry.namespace())
            .into_iter()
            .map(|budget| (budget.object(), budget))
            .filter(|(object, _)| {
                LabelSelector::from_value(object["spec"].get("selector"))
                    .is_ok_and(|selector| selector.matches(|name: &str| entry.label(name)))
            })
            .collect();
        let (mut budget, held) = match budgets.len() {
            0 => return Ok(()),
            1 => match budgets.into_iter().next() {
                Some(one) => one,
                None => return Ok(()),
            },
            _ => {
                return Err(Status::plain(
                    "This pod has more than one PodDisruptionBudget, which the eviction \
                     subresource does not support.",
                ));
            }
        };
        if unhealthy_may_go(&budget, pod) {
            return Ok(());
        }
        let allowed = budget["status"]["disruptionsAllowed"].as_i64().unwrap_or(0);
        let observed = budget["status"]["observedGeneration"].as_i64().unwrap_or(0);
        let generation = budget["metadata"]["generation"].as_i64().unwrap_or(0);
        if observed < generation {
            let why = format!(
                "The disruption budget {} is still being processed by the server.",
                held.name()
            );
            let mut status = too_many(VIOLATES);
            status.details["causes"] = json!([{"reason": "DisruptionBudget", "message": why}]);
            return Err(status);
        }
        if allowed <= 0 {
            return Err(refused(&budget, held.name()));
        }
        budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
        budget["status"]["disruptedPods"][entry.name()] = super::write::time_text(draft.now).into();
        if draft.options.dry_run {
            return Ok(());
        }
        let store = draft.call.server.cluster.store("poddisruptionbudgets.policy");
        let Some(store) = store else { return Ok(()) };
        let key = format!("{}{}", store.prefix, held.key);
        let change = Change::Put { value: encode(&budget).into(), lease: 0 };
        match storage.write(&key, held.revision, change).await? {
            Outcome::Done(_) => return Ok(()),
            Outcome::Conflict(_) => {
                storage.settled().await?;
                storage.reached(held.revision + 1, super::get::FRESH).await;
            }
        }
    }
    Err(too_many("The disruption budget is being changed by others, try again."))
}

/// Does the budget let pods go that are not ready anyway?
fn unhealthy_may_go(budget: &Value, pod: &Object) -> bool {
    let ready = pod["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    if ready {
        return false;
    }
    let status = &budget["status"];
    let number = |name: &str| status[name].as_i64().unwrap_or(0);
    budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
        || (number("currentHealthy") >= number("desiredHealthy") && number("desiredHealthy") > 0)
}

const VIOLATES: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

fn too_many(message: &str) -> Status {
    let mut status = Status::new(429, "TooManyRequests", message);
    status.details = json!({"retryAfterSeconds": 10});
    status
}

fn refused(budget: &Value, name: &str) -> Status {
    let mut status = too_many(VIOLATES);
    let number = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    status.details = json!({"causes": [{
        "reason": "DisruptionBudget",
        "message": format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            number("desiredHealthy"),
            number("currentHealthy")
        ),
    }]});
    status
}
