//! Admission webhooks: others outside that change or refuse what is written.
//!
//! `hook` reads the configurations, `matching` decides who is asked about what, `review` makes the
//! question and reads the answer; this file asks. Invariant: configurations of webhooks and policies
//! themselves are never sent, so that whoever made one that refuses everything can remove it.

mod hook;
mod matching;
mod review;

use std::collections::HashSet;
use std::sync::Arc;

use apimachinery::gotext::quote;
use apimachinery::status::Status;
use bytes::Bytes;
use futures::future::join_all;
use serde_json::{Value, json};
use tracing::warn;

use self::hook::{Hook, Phase};
use self::matching::invocation;
use self::review::{Answer, Invocation};
use super::Attributes;
use crate::custom;
use crate::kinds::Kind;
use crate::registry::Object;
use crate::verbs::object;

pub use hook::Webhooks;

/// What one request remembers between its two rounds of mutation.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    second: bool,
    changed: bool,
    /// Asked already, and to be asked again when somebody after them changes the object.
    asked: HashSet<String>,
    /// To be asked in the second round.
    due: HashSet<String>,
    /// The object after the first round's webhooks.
    last: Option<Value>,
}

impl Rounds {
    /// Is a second round needed? Begins it.
    pub(super) fn again(&mut self) -> bool {
        self.second = true;
        self.changed
    }

    fn all_due(&mut self) {
        self.due.extend(std::mem::take(&mut self.asked));
    }
}

/// Resources about which no webhook is asked.
fn is_exempt(cx: &Attributes<'_>) -> bool {
    cx.group == "admissionregistration.k8s.io"
        && (cx.resource.ends_with("webhookconfigurations")
            || cx.resource.ends_with("admissionpolicies")
            || cx.resource.ends_with("admissionpolicybindings"))
}

/// Asks the mutating webhooks one after the other; each sees what those before it made.
pub(super) async fn mutate(
    cx: &Attributes<'_>,
    mut object: Option<&mut Object>,
    old: Option<&Object>,
    rounds: &mut Rounds,
    warnings: &mut Vec<String>,
) -> Result<(), Status> {
    let hooks = cx.server.webhooks.all(cx.cluster, Phase::Mutating);
    if hooks.is_empty() || is_exempt(cx) {
        return Ok(());
    }
    let round = u8::from(rounds.second);
    if rounds.second && rounds.last.as_ref() != object.as_deref() {
        rounds.all_due();
    }
    for (at, hook) in hooks.iter().enumerate() {
        if rounds.second && !rounds.due.contains(&hook.id) {
            continue;
        }
        let Some(asked) = invocation(cx, hook, object.as_deref(), old)? else { continue };
        let place = format!("round_{round}_index_{at}");
        let called = ask(cx, hook, Phase::Mutating, &asked, object.as_deref(), old).await;
        let outcome = match called {
            Ok(answer) => {
                change(cx, hook, &asked, answer, object.as_deref_mut(), &place, warnings).await
            }
            Err(failed) => Err(failed),
        };
        if hook.again {
            rounds.asked.insert(hook.id.clone());
        }
        match outcome {
            Ok(Changed::No) => {}
            Ok(Changed::Yes) => {
                // The one that changed it has seen the change.
                rounds.asked.remove(&hook.id);
                rounds.all_due();
                if hook.again {
                    rounds.asked.insert(hook.id.clone());
                }
                rounds.changed = true;
            }
            Err(Failed::Refused(refusal)) => return Err(*refusal),
            Err(Failed::Call(why)) => {
                let key = format!("failed-open.mutation.webhook.admission.k8s.io/{place}");
                open(cx, hook, Phase::Mutating, &why, &key)?;
            }
        }
    }
    if !rounds.second {
        rounds.last = object.as_deref().cloned();
    }
    Ok(())
}

/// Asks the validating webhooks, all at once.
pub(super) async fn validate(
    cx: &Attributes<'_>,
    object: Option<&Object>,
    old: Option<&Object>,
    warnings: &mut Vec<String>,
) -> Result<(), Status> {
    let hooks = cx.server.webhooks.all(cx.cluster, Phase::Validating);
    if hooks.is_empty() || is_exempt(cx) {
        return Ok(());
    }
    let mut due: Vec<(Arc<Hook>, Invocation)> = Vec::new();
    for hook in hooks {
        if let Some(asked) = invocation(cx, &hook, object, old)? {
            due.push((hook, asked));
        }
    }
    let calls =
        due.iter().map(|(hook, asked)| ask(cx, hook, Phase::Validating, asked, object, old));
    let mut first = Ok(());
    for (at, outcome) in join_all(calls).await.into_iter().enumerate() {
        let (hook, _) = &due[at];
        let judged = match outcome {
            Ok(answer) => permitted(cx, hook, &answer, warnings),
            Err(failed) => Err(failed),
        };
        let judged = match judged {
            Ok(()) => Ok(()),
            Err(Failed::Refused(refusal)) => Err(*refusal),
            Err(Failed::Call(why)) => {
                let key =
                    format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{at}");
                open(cx, hook, Phase::Validating, &why, &key)
            }
        };
        if first.is_ok() {
            first = judged;
        }
    }
    first
}

/// Why a webhook did not permit.
enum Failed {
    /// It could not be asked, or its answer was none: `failurePolicy` decides.
    Call(String),
    Refused(Box<Status>),
}

/// What a webhook that failed means: nothing, or 500.
fn open(
    cx: &Attributes<'_>,
    hook: &Hook,
    phase: Phase,
    why: &str,
    key: &str,
) -> Result<(), Status> {
    let message = format!("failed calling webhook {}: {why}", quote(&hook.name));
    let kind = phase.label();
    let (name, operation) = (&hook.name, cx.operation.name());
    if hook.fails {
        warn!(webhook = hook.name, err = why, "Could not call a webhook, refusing the request");
        cx.server.metrics.add(
            "apiserver_admission_webhook_rejection_count",
            format!(
                "error_type=\"calling_webhook_error\",name=\"{name}\",operation=\"{operation}\",\
                 rejection_code=\"0\",type=\"{kind}\""
            ),
        );
        return Err(Status::internal(message));
    }
    warn!(webhook = hook.name, err = why, "Could not call a webhook, going on without it");
    cx.annotations.add(key, hook.name.as_str());
    cx.server.metrics.add(
        "apiserver_admission_webhook_fail_open_count",
        format!("name=\"{name}\",type=\"{kind}\""),
    );
    Ok(())
}

/// Asks one webhook.
async fn ask(
    cx: &Attributes<'_>,
    hook: &Hook,
    phase: Phase,
    asked: &Invocation,
    object: Option<&Object>,
    old: Option<&Object>,
) -> Result<Answer, Failed> {
    if cx.dry_run && !hook.is_without_effects() {
        let why = format!("admission webhook {} does not support dry run", quote(&hook.name));
        return Err(refusal(Status::bad_request(why)));
    }
    let Some(version) = hook.review else {
        let why = "could not create admission objects: webhook does not accept known \
                   AdmissionReview versions (v1, v1beta1)";
        return Err(Failed::Call(why.to_owned()));
    };
    let server = hook.server.as_ref();
    let server = server.map_err(|why| Failed::Call(format!("could not get REST client: {why}")))?;
    let (object, old) = (sent(cx, asked, object).await?, sent(cx, asked, old).await?);
    let uid = uuid::Uuid::new_v4().to_string();
    let question = review::question(cx, asked, version, &uid, object.as_ref(), old.as_ref());
    let body = Bytes::from(question.to_string());
    let begun = std::time::Instant::now();
    let answered = cx.server.remote.post(cx.cluster, server, body, hook.limit).await;
    let labels = format!(
        "name=\"{}\",operation=\"{}\",rejected=\"{}\",type=\"{}\"",
        hook.name,
        cx.operation.name(),
        answered.as_ref().map_or(hook.fails, |answer| answer["response"]["allowed"] != true),
        phase.label()
    );
    let name = "apiserver_admission_webhook_admission_duration_seconds";
    cx.server.metrics.observe(name, labels.clone(), begun.elapsed());
    let code = if answered.is_ok() { 200 } else { 0 };
    let counted = format!("code=\"{code}\",{labels}");
    cx.server.metrics.add("apiserver_admission_webhook_request_total", counted);
    let answered =
        answered.map_err(|why| Failed::Call(format!("failed to call webhook: {why}")))?;
    let answer = review::answer(version, &uid, phase, &answered)
        .map_err(|why| Failed::Call(format!("received invalid webhook response: {why}")))?;
    for (key, value) in &answer.annotations {
        cx.annotations.add(format!("{}/{key}", hook.name), value.as_str());
    }
    Ok(answer)
}

fn refusal(status: Status) -> Failed {
    Failed::Refused(Box::new(status))
}

/// The object in the version that the webhook is asked about.
async fn sent(
    cx: &Attributes<'_>,
    asked: &Invocation,
    object: Option<&Object>,
) -> Result<Option<Object>, Failed> {
    let Some(object) = object else { return Ok(None) };
    match other_version(cx, asked) {
        None => Ok(Some(object.clone())),
        Some((own, other)) => {
            let converted = convert(cx, &own, object, &other.api_version).await;
            converted.map(Some).map_err(|why| refusal(Status::internal(why)))
        }
    }
}

/// The request's kind and the one that is asked about, where they differ and have the same objects.
fn other_version(cx: &Attributes<'_>, asked: &Invocation) -> Option<(Arc<Kind>, Arc<Kind>)> {
    if (asked.group.as_str(), asked.version.as_str()) == (cx.group, cx.version) {
        return None;
    }
    let own = cx.kinds.get(cx.group, cx.version, cx.resource)?;
    let other = cx.kinds.get(&asked.group, &asked.version, &asked.resource)?;
    (own.kind == cx.kind).then_some((own, other))
}

async fn convert(
    cx: &Attributes<'_>,
    kind: &Kind,
    object: &Object,
    to: &str,
) -> Result<Object, String> {
    if custom::convert::converter(kind).is_some() {
        let converted = custom::convert::object(cx.server, kind, object.clone(), to).await;
        return converted.map_err(|status| status.message);
    }
    let mut converted = object.clone();
    let from = object["apiVersion"].as_str().unwrap_or_default().to_owned();
    object::to_version(kind, &mut converted, &from, to);
    Ok(converted)
}

/// Passes on what the webhook warns of; its refusal is an error.
fn permitted(
    cx: &Attributes<'_>,
    hook: &Hook,
    answer: &Answer,
    warnings: &mut Vec<String>,
) -> Result<(), Failed> {
    warnings.extend(answer.warnings.iter().cloned());
    if answer.allowed {
        return Ok(());
    }
    let refused = review::refused(&hook.name, &answer.result);
    cx.server.metrics.add(
        "apiserver_admission_webhook_rejection_count",
        format!(
            "error_type=\"no_error\",name=\"{}\",operation=\"{}\",rejection_code=\"{}\",\
             type=\"any\"",
            hook.name,
            cx.operation.name(),
            refused.code
        ),
    );
    Err(Failed::Refused(Box::new(refused)))
}

enum Changed {
    Yes,
    No,
}

/// Applies what a mutating webhook answered.
async fn change(
    cx: &Attributes<'_>,
    hook: &Hook,
    asked: &Invocation,
    answer: Answer,
    object: Option<&mut Object>,
    place: &str,
    warnings: &mut Vec<String>,
) -> Result<Changed, Failed> {
    permitted(cx, hook, &answer, warnings)?;
    let note = |mutated: bool| {
        let value = json!({"configuration": hook.configuration, "webhook": hook.name,
            "mutated": mutated});
        let key = format!("mutation.webhook.admission.k8s.io/{place}");
        cx.annotations.add(key, value.to_string());
    };
    let fail = |why: String| refusal(Status::internal(why));
    let Some(patch) = answer.patch else {
        note(false);
        return Ok(Changed::No);
    };
    let steps: Value = serde_json::from_slice(&patch).map_err(|err| fail(err.to_string()))?;
    if steps.as_array().is_none_or(Vec::is_empty) {
        note(false);
        return Ok(Changed::No);
    }
    let Some(object) = object else {
        return Err(fail(format!(
            "admission webhook {} attempted to modify the object, which is not supported for this \
             operation",
            quote(&hook.name)
        )));
    };
    if answer.patch_type != "JSONPatch" {
        let kind = quote(&answer.patch_type);
        return Err(Failed::Call(format!("unsupported patch type {kind}")));
    }
    let Some(mut new) = sent(cx, asked, Some(object)).await? else { return Ok(Changed::No) };
    apimachinery::patch::json::apply(&mut new, &patch).map_err(|status| fail(status.message))?;
    if let Some((own, other)) = other_version(cx, asked) {
        new = convert(cx, &other, &new, &own.api_version).await.map_err(&fail)?;
    }
    settle(cx, &mut new).map_err(|status| fail(status.message))?;
    let changed = new != *object;
    note(changed);
    cx.annotations.add(
        format!("patch.webhook.admission.k8s.io/{place}"),
        json!({"configuration": hook.configuration, "webhook": hook.name, "patch": steps,
            "patchType": answer.patch_type})
        .to_string(),
    );
    *object = new;
    Ok(if changed { Changed::Yes } else { Changed::No })
}

/// Types and completes an object that came from outside.
fn settle(cx: &Attributes<'_>, object: &mut Object) -> Result<(), Status> {
    let kind = cx.kinds.get(cx.group, cx.version, cx.resource);
    let Some(kind) = kind.filter(|kind| kind.kind == cx.kind) else {
        // The body of a subresource, or the options of a connection.
        return Ok(());
    };
    match kind.custom() {
        Some(own) => custom::decode::settle(&kind, own, object).map(|_pruned| ())?,
        None => object::settle(&kind, object)?,
    }
    kind.strategy.default(object);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_be_asked_again_is_due_once_somebody_after_it_changes_the_object() {
        let mut rounds = Rounds::default();
        rounds.asked.insert("a".to_owned());
        rounds.all_due();
        rounds.changed = true;
        assert!(rounds.again() && rounds.second);
        assert!(rounds.due.contains("a") && rounds.asked.is_empty());
        assert!(!Rounds::default().again());
    }
}
