//! Conversion webhooks: objects of a custom resource from one version to another.
//!
//! An entry of the cache becomes an entry in the version that is asked for, and everything behind
//! (rendering, selecting, planning) sees no difference. Invariant: metadata other than labels and
//! annotations is never the webhook's to change.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use apimachinery::status::Status;
use bytes::Bytes;
use serde_json::{Value, json};

use super::decode::settle;
use crate::api_server::ApiServer;
use crate::kinds::Kind;
use crate::registry::value::{at, key, list, text, texts};
use crate::registry::{Object, Strategy};
use crate::remote::Server;
use crate::storage::entry::{Entry, encode};
use crate::verbs::object::normalize;

/// How long a webhook may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Objects in one question.
const BATCH: usize = 500;
/// Converted entries that are kept, for the watchers of one change and the reads around it.
const KEPT_MAX: usize = 4096;
const KEPT_FOR: Duration = Duration::from_secs(10);

/// The webhook of a definition.
#[derive(Debug)]
pub struct Converter {
    server: Result<Server, String>,
    /// The first version of ConversionReview that both sides know.
    review: Option<&'static str>,
    /// The definition and its generation.
    pub id: String,
}

impl Converter {
    /// The webhook of a definition, if it has one.
    pub(super) fn read(definition: &Object) -> Option<Self> {
        let conversion = at(definition, "spec.conversion");
        if text(conversion, "strategy") != "Webhook" {
            return None;
        }
        let versions = texts(conversion, "webhook.conversionReviewVersions");
        let review = versions.into_iter().find_map(|version| match version {
            "v1" => Some("v1"),
            "v1beta1" => Some("v1beta1"),
            _ => None,
        });
        let meta = key(definition, "metadata");
        Some(Self {
            server: Server::read(at(conversion, "webhook.clientConfig")),
            review,
            id: format!("{} {}", text(meta, "uid"), key(meta, "generation")),
        })
    }
}

type Known = HashMap<(String, Arc<str>, i64), (Instant, Arc<Entry>)>;

/// Entries that were converted a moment ago.
#[derive(Default)]
pub struct Converted(Mutex<Known>);

impl Converted {
    fn get(&self, place: &(String, Arc<str>, i64)) -> Option<Arc<Entry>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(place).filter(|(made, _)| made.elapsed() < KEPT_FOR).map(|(_, one)| one.clone())
    }

    fn keep(&self, place: (String, Arc<str>, i64), entry: Arc<Entry>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT_MAX {
            known.retain(|_, (made, _)| made.elapsed() < KEPT_FOR);
        }
        if known.len() < KEPT_MAX {
            known.insert(place, (Instant::now(), entry));
        }
    }
}

/// The webhook of a kind, if it has one.
pub fn converter(kind: &Kind) -> Option<&Converter> {
    kind.custom().and_then(|custom| custom.converter.as_ref())
}

/// These entries in the version that the kind is served in; as they are where nothing converts.
pub async fn entries(
    server: &ApiServer,
    kind: &Kind,
    entries: Vec<Arc<Entry>>,
) -> Result<Vec<Arc<Entry>>, Status> {
    let Some(webhook) = converter(kind) else { return Ok(entries) };
    let mut done = entries;
    let mut due: Vec<(usize, Object)> = Vec::new();
    let place = |entry: &Entry| {
        (format!("{} {}", webhook.id, kind.api_version), entry.key.clone(), entry.revision)
    };
    for (at, entry) in done.iter_mut().enumerate() {
        if let Some(converted) = server.converted.get(&place(entry)) {
            *entry = converted;
            continue;
        }
        let mut object = entry.object();
        kind.strategy.complete_stored(&mut object);
        if text(&object, "apiVersion") != kind.api_version {
            due.push((at, object));
        }
    }
    while !due.is_empty() {
        let rest = due.split_off(due.len().min(BATCH));
        let (places, objects): (Vec<usize>, Vec<Object>) =
            std::mem::replace(&mut due, rest).into_iter().unzip();
        let converted = objects_to(server, kind, objects, &kind.api_version).await?;
        for (at, mut object) in places.into_iter().zip(converted) {
            if let Some(custom) = kind.custom() {
                settle(kind, custom, &mut object)?;
                custom.default(&mut object);
            }
            normalize(kind, &mut object);
            let old = &done[at];
            let made = Entry::parse(&old.key, old.revision, &encode(&object), &[]);
            let made = Arc::new(made.map_err(Status::internal)?);
            server.converted.keep(place(old), made.clone());
            done[at] = made;
        }
    }
    Ok(done)
}

/// One entry in the version that the kind is served in.
pub async fn entry(
    server: &ApiServer,
    kind: &Kind,
    entry: Arc<Entry>,
) -> Result<Arc<Entry>, Status> {
    if converter(kind).is_none() {
        return Ok(entry);
    }
    let converted = entries(server, kind, vec![entry]).await?;
    converted.into_iter().next().ok_or_else(|| Status::plain("a conversion returned nothing"))
}

/// An object of the kind in another version, by the webhook.
pub async fn object(
    server: &ApiServer,
    kind: &Kind,
    object: Object,
    to: &str,
) -> Result<Object, Status> {
    let converted = objects_to(server, kind, vec![object], to).await?;
    converted.into_iter().next().ok_or_else(|| Status::plain("a conversion returned nothing"))
}

/// Asks the webhook.
async fn objects_to(
    server: &ApiServer,
    kind: &Kind,
    objects: Vec<Object>,
    to: &str,
) -> Result<Vec<Object>, Status> {
    let Some(webhook) = converter(kind) else { return Ok(objects) };
    let Some(first) = objects.first() else { return Ok(objects) };
    let about = format!("{}, Kind={}", text(first, "apiVersion"), kind.kind);
    let failed =
        |why: String| Status::plain(format!("conversion webhook for {about} failed: {why}"));
    let remote = webhook.server.as_ref().map_err(|why| failed(why.clone()))?;
    let review = webhook
        .review
        .ok_or_else(|| failed("does not accept known ConversionReview versions".to_owned()))?;
    let uid = uuid::Uuid::new_v4().to_string();
    let question = json!({
        "kind": "ConversionReview",
        "apiVersion": format!("apiextensions.k8s.io/{review}"),
        "request": {"uid": uid, "desiredAPIVersion": to, "objects": objects},
    });
    let body = Bytes::from(question.to_string());
    let begun = Instant::now();
    let answered = server.remote.post(&server.cluster, remote, body, LIMIT).await;
    let result = if answered.is_ok() { "success" } else { "failure" };
    server.metrics.observe(
        "apiserver_conversion_webhook_duration_seconds",
        format!("failure_type=\"\",result=\"{result}\""),
        begun.elapsed(),
    );
    let answered = answered.map_err(failed)?;
    let converted = read(review, &uid, &answered).map_err(failed)?;
    if converted.len() != objects.len() {
        return Err(Status::plain(format!(
            "conversion webhook for {about} returned {} objects, expected {}",
            converted.len(),
            objects.len()
        )));
    }
    let pairs = objects.iter().zip(converted).enumerate();
    pairs
        .map(|(at, (before, after))| {
            restored(before, after, to).map_err(|why| {
                Status::plain(format!(
                    "conversion webhook for {about} returned invalid converted object at index \
                     {at}: {why}"
                ))
            })
        })
        .collect()
}

/// The objects of an answer.
fn read(review: &str, uid: &str, answer: &Value) -> Result<Vec<Object>, String> {
    let response = key(answer, "response");
    if !response.is_object() {
        return Err("no response provided".to_owned());
    }
    if text(response, "uid") != uid {
        return Err(format!("expected response.uid={uid:?}, got {:?}", text(response, "uid")));
    }
    let wanted = format!("apiextensions.k8s.io/{review}, Kind=ConversionReview");
    let got = format!("{}, Kind={}", text(answer, "apiVersion"), text(answer, "kind"));
    if got != wanted {
        return Err(format!("expected webhook response of {wanted}, got {got}"));
    }
    match (text(response, "result.status"), text(response, "result.message")) {
        ("Success", _) => Ok(list(response, "convertedObjects").to_vec()),
        (status, "") => Err(format!("response.result.status was '{status}', not 'Success'")),
        (_, message) => Err(message.to_owned()),
    }
}

/// A converted object with the metadata that is not the webhook's to change.
fn restored(before: &Object, mut after: Object, to: &str) -> Result<Object, String> {
    let (wanted, got) = (to, text(&after, "apiVersion"));
    if wanted != got {
        return Err(format!("invalid groupVersion (expected {wanted}, received {got})"));
    }
    for (path, name) in [
        ("kind", "kind"),
        ("metadata.name", "name"),
        ("metadata.namespace", "namespace"),
        ("metadata.uid", "UID"),
    ] {
        let (before, after) = (text(before, path), text(&after, path));
        if before != after {
            return Err(format!("must have the same {name}: {before} != {after}"));
        }
    }
    let mut meta = key(before, "metadata").clone();
    for field in ["labels", "annotations"] {
        match after["metadata"].get(field).cloned() {
            Some(value) if !value.is_null() => meta[field] = value,
            _ => {
                if let Some(meta) = meta.as_object_mut() {
                    meta.remove(field);
                }
            }
        }
    }
    after["metadata"] = meta;
    Ok(after)
}

/// Conversions that something synchronous needs: it notes what it misses, is told, and runs again.
#[derive(Debug, Default)]
pub struct Memo {
    known: Mutex<HashMap<String, Object>>,
    missing: Mutex<Vec<(Object, String)>>,
}

impl Memo {
    /// The converted object, or none for now.
    pub fn get(&self, object: &Object, to: &str) -> Option<Object> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.get(&format!("{to} {object}")).cloned();
        if found.is_none() {
            let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
            missing.push((object.clone(), to.to_owned()));
        }
        found
    }

    /// Converts what was missed; says whether that was anything.
    pub async fn fill(&self, server: &ApiServer, kind: &Kind) -> Result<bool, Status> {
        let missing = {
            let mut held = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *held)
        };
        let any = !missing.is_empty();
        for (object, to) in missing {
            let place = format!("{to} {object}");
            let converted = self::object(server, kind, object, &to).await?;
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.insert(place, converted);
        }
        Ok(any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_changes_no_metadata_but_labels_and_annotations() {
        let before = json!({"apiVersion": "a.b/v1", "kind": "K", "metadata": {"name": "n",
            "uid": "u", "finalizers": ["f"], "labels": {"a": "1"}}});
        let after = json!({"apiVersion": "a.b/v2", "kind": "K", "x": 1,
            "metadata": {"name": "n", "uid": "u", "annotations": {"b": "2"}}});
        let made = restored(&before, after.clone(), "a.b/v2").unwrap();
        let want = json!({"name": "n", "uid": "u", "finalizers": ["f"], "annotations": {"b": "2"}});
        assert_eq!((&made["metadata"], &made["x"]), (&want, &json!(1)));
        let why = restored(&before, after.clone(), "a.b/v3").unwrap_err();
        assert_eq!(why, "invalid groupVersion (expected a.b/v3, received a.b/v2)");
        let mut other = after;
        other["metadata"]["name"] = "m".into();
        let why = restored(&before, other, "a.b/v2").unwrap_err();
        assert_eq!(why, "must have the same name: n != m");
    }

    #[test]
    fn answers_must_fit_and_say_success() {
        let check = |response: Value, want: Result<usize, &str>| {
            let answer = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
                "response": response});
            let got = read("v1", "u", &answer).map(|objects| objects.len());
            assert_eq!(got, want.map_err(str::to_owned));
        };
        check(Value::Null, Err("no response provided"));
        check(json!({"uid": "x"}), Err("expected response.uid=\"u\", got \"x\""));
        let failure = json!({"status": "Failure", "message": "cannot"});
        check(json!({"uid": "u", "result": failure}), Err("cannot"));
        let objects = json!([{}, {}]);
        check(
            json!({"uid": "u", "result": {"status": "Success"}, "convertedObjects": objects}),
            Ok(2),
        );
    }
}
