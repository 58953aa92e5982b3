//! One request on its way through the server, as the audit log sees it: stage by stage.

use std::sync::{Arc, Mutex, PoisonError};

use apimachinery::decode::Media;
use bytes::Bytes;
use futures::stream::StreamExt;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Response};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::policy::{Decision, Level};
use super::{Annotations, Audit, event};
use crate::body::Body;
use crate::negotiate::content;
use crate::request::RequestInfo;
use crate::server::Peer;
use crate::user::UserInfo;
use crate::verbs::object::from_protobuf;

const ID: HeaderName = HeaderName::from_static("audit-id");
/// The longest answer that is read only to see whether it is a Status.
const STATUS_MAX: usize = 16 << 10;
const FORWARDED: &str = "x-forwarded-for";

/// What is known of a request so far.
pub struct Record {
    audit: Arc<Audit>,
    decision: Decision,
    /// The event without what belongs to one stage.
    event: Mutex<Value>,
    pub annotations: Arc<Annotations>,
    begun: Timestamp,
}

impl Record {
    /// Begins the record of a request that the policy wants to know about, and logs its first stage.
    pub fn begin(
        audit: &Arc<Audit>,
        peer: &Peer,
        parts: &Parts,
        info: &RequestInfo,
        user: &UserInfo,
    ) -> Option<Arc<Self>> {
        let decision = audit.policy.decide(user, info);
        if decision.level == Level::None {
            return None;
        }
        let header = |name: &str| {
            let value = parts.headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let id = match header(ID.as_str()) {
            given if given.is_empty() => uuid::Uuid::new_v4().to_string(),
            given => given,
        };
        let mut sources: Vec<String> = header(FORWARDED)
            .split(',')
            .map(|address| address.trim().to_owned())
            .filter(|address| !address.is_empty())
            .collect();
        let own = peer.address.ip().to_string();
        if sources.last() != Some(&own) {
            sources.push(own);
        }
        let begun = Timestamp::now();
        let mut first = json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": decision.level.name(),
            "auditID": id, "stage": "",
            "requestURI": parts.uri.path_and_query().map_or("/", |uri| uri.as_str()), "verb": info.verb, "user": user.to_value(),
            "sourceIPs": sources, "userAgent": header(USER_AGENT.as_str()),
        });
        if let Some(about) = event::reference(info) {
            first["objectRef"] = about;
        }
        let record = Self {
            audit: audit.clone(),
            decision,
            event: Mutex::new(first),
            annotations: Arc::default(),
            begun,
        };
        record.write("RequestReceived", None);
        Some(Arc::new(record))
    }

    /// Whom the user acts as.
    pub fn impersonated(&self, user: &UserInfo) {
        self.event()["impersonatedUser"] = user.to_value();
    }

    /// Notes the body of a request.
    pub fn request(&self, parts: &Parts, body: &Bytes) {
        if body.is_empty() {
            return;
        }
        let parsed = match content(&parts.headers) {
            Ok(Media::Yaml) => apimachinery::yaml::parse(body).ok().map(|parsed| parsed.value),
            Ok(Media::Protobuf) => from_protobuf(body),
            // Patches have their own types and are JSON, or YAML which JSON is as well.
            _ => serde_json::from_slice(body)
                .ok()
                .or_else(|| apimachinery::yaml::parse(body).ok().map(|parsed| parsed.value)),
        };
        let Some(parsed) = parsed else { return };
        event::complete(&mut self.event()["objectRef"], &parsed);
        if self.decision.level >= Level::Request {
            let shown = event::object(parsed, self.decision.omit_managed_fields);
            self.event()["requestObject"] = shown;
        }
    }

    /// Logs the answer; one that goes on and on is logged when it begins and when it ends.
    pub fn answer(
        self: Arc<Self>,
        info: &RequestInfo,
        mut response: Response<Body>,
    ) -> Response<Body> {
        if let Some(id) = self.event()["auditID"].as_str()
            && let Ok(id) = HeaderValue::from_str(id)
        {
            response.headers_mut().insert(ID, id);
        }
        let code = response.status().as_u16();
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.unwrap_or_default();
        let whole = self.decision.level == Level::RequestResponse;
        let bytes = response.body().bytes().filter(|bytes| whole || bytes.len() <= STATUS_MAX);
        let object: Option<Value> =
            bytes.and_then(|bytes| match kind.starts_with("application/vnd.kubernetes.protobuf") {
                true => from_protobuf(&bytes),
                false => serde_json::from_slice(&bytes).ok(),
            });
        self.event()["responseStatus"] = event::status(code, object.as_ref());
        let streams = matches!(response.body(), Body::Pieces(_));
        if streams && (info.verb == "watch" || !info.subresource.is_empty()) {
            self.write("ResponseStarted", None);
            let last = Last(self);
            return response.map(|body| match body {
                Body::Pieces(pieces) => Body::Pieces(Box::pin(pieces.map(move |piece| {
                    let _held = &last;
                    piece
                }))),
                whole => whole,
            });
        }
        let shown = object.filter(|_| whole);
        self.write("ResponseComplete", shown);
        response
    }

    fn write(&self, stage: &str, response: Option<Value>) {
        if self.decision.omitted.iter().any(|omitted| omitted == stage) {
            return;
        }
        let mut event = self.event().clone();
        event["stage"] = stage.into();
        if let Some(response) = response {
            let shown = event::object(response, self.decision.omit_managed_fields);
            event["responseObject"] = shown;
        }
        event["requestReceivedTimestamp"] = event::micro_time(self.begun).into();
        event["stageTimestamp"] = event::micro_time(Timestamp::now()).into();
        let noted = self.annotations.all();
        if !noted.is_empty() {
            event["annotations"] = json!(noted);
        }
        self.audit.log.write(&event);
    }

    fn event(&self) -> std::sync::MutexGuard<'_, Value> {
        self.event.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs the end of an answer that went on and on.
struct Last(Arc<Record>);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.write("ResponseComplete", None);
    }
}
