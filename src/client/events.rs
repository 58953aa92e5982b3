//! Events (core/v1): recorded without ever blocking, the same one counted instead of repeated,
//! a noisy object silenced.
//!
//! Invariant: at most `QUEUE` events wait and `KNOWN` are remembered; what does not fit is dropped.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    meta::{Key, PartialObject, now, rfc3339},
    resource::Resource,
    rest::{Patch, Rest, is_not_found},
};

const QUEUE: usize = 256;
const KNOWN: usize = 1024;
/// Upstream's spam filter: this many at once for one object, then one every five minutes.
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;
const MESSAGE_MAX: usize = 1024;
const RETRIES: u32 = 3;

static EVENTS: Resource = Resource::namespaced("", "v1", "events", "Event");

/// `type` of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    Normal,
    Warning,
}

/// What an Event is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ObjectReference {
    pub api_version: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub resource_version: String,
    pub field_path: String,
}

impl ObjectReference {
    /// A reference to an object of a resource.
    pub fn new(resource: &Resource, meta: &crate::meta::Meta) -> Self {
        ObjectReference {
            api_version: resource.api_version(),
            kind: resource.kind.to_string(),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            field_path: String::new(),
        }
    }
}

/// Takes events from anywhere in the component. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Note>,
    component: Arc<str>,
}

/// The other end of a [`Recorder`]: run it to write the events.
pub struct EventSink {
    queue: mpsc::Receiver<Note>,
    rest: Rest,
    host: String,
    known: HashMap<Identity, Written>,
    budgets: HashMap<(String, String), Budget>,
}

struct Note {
    component: Arc<str>,
    about: ObjectReference,
    kind: EventType,
    reason: String,
    message: String,
    at: Timestamp,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Identity {
    uid: String,
    name: String,
    field_path: String,
    kind: EventType,
    reason: String,
    message: String,
}

struct Written {
    name: String,
    count: u32,
    last: Timestamp,
}

struct Budget {
    tokens: f64,
    at: Timestamp,
}

/// A recorder for a component (`source.component`) on a host, which may be empty.
pub fn recorder(client: kube::Client, component: &str, host: &str) -> (Recorder, EventSink) {
    let (sender, queue) = mpsc::channel(QUEUE);
    let sink = EventSink {
        queue,
        rest: Rest::new(client),
        host: host.to_owned(),
        known: HashMap::new(),
        budgets: HashMap::new(),
    };
    (Recorder { queue: sender, component: component.into() }, sink)
}

impl Recorder {
    /// Records an event; drops it when too many wait.
    pub fn event(
        &self,
        about: &ObjectReference,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        let mut message = message.into();
        if message.len() > MESSAGE_MAX {
            let cut = (0..=MESSAGE_MAX).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
            message.truncate(cut);
        }
        let note = Note {
            component: Arc::clone(&self.component),
            about: about.clone(),
            kind,
            reason: reason.to_owned(),
            message,
            at: now(),
        };
        if self.queue.try_send(note).is_err() {
            tracing::debug!(reason, "Event queue was full, dropping the event");
        }
    }

    /// The same recorder speaking for another part of the component (`source.component`).
    pub fn named(&self, component: &str) -> Self {
        Recorder { queue: self.queue.clone(), component: component.into() }
    }

    /// A recorder that drops everything: for tests.
    pub fn discarding() -> Self {
        Recorder { queue: mpsc::channel(1).0, component: "".into() }
    }
}

impl EventSink {
    /// Writes events until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let note = tokio::select! {
                () = stop.cancelled() => return,
                note = self.queue.recv() => note,
            };
            let Some(note) = note else { return };
            if self.within_budget(&note) {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.write(note) => {}
                }
            }
        }
    }

    fn within_budget(&mut self, note: &Note) -> bool {
        if self.budgets.len() >= KNOWN {
            let oldest =
                self.budgets.iter().min_by_key(|(_, it)| it.at).map(|(key, _)| key.clone());
            oldest.map(|key| self.budgets.remove(&key));
        }
        let key = (note.about.uid.clone(), note.about.name.clone());
        let budget = self.budgets.entry(key).or_insert(Budget { tokens: BURST, at: note.at });
        let passed = note.at.duration_since(budget.at).as_secs_f64().max(0.0);
        budget.tokens = (budget.tokens + passed / REFILL_SECONDS).min(BURST);
        budget.at = note.at;
        let within = budget.tokens >= 1.0;
        if within {
            budget.tokens -= 1.0;
        }
        within
    }

    async fn write(&mut self, note: Note) {
        let mut wait = Duration::from_millis(100);
        for attempt in 1..=RETRIES {
            match self.try_write(&note).await {
                Ok(()) => return,
                Err(kube::Error::Api(status)) if status.code < 500 && status.code != 429 => {
                    // A namespace on its way out refuses new events: nothing to tell anybody.
                    tracing::debug!(reason = note.reason, err = %status.message, "Event was refused, dropping it");
                    return;
                }
                Err(err) if attempt == RETRIES => {
                    tracing::debug!(reason = note.reason, err = %err, "Event could not be written, dropping it");
                }
                Err(_) => tokio::time::sleep(wait).await,
            }
            wait *= 4;
        }
    }

    async fn try_write(&mut self, note: &Note) -> Result<(), kube::Error> {
        let identity = Identity {
            uid: note.about.uid.clone(),
            name: note.about.name.clone(),
            field_path: note.about.field_path.clone(),
            kind: note.kind,
            reason: note.reason.clone(),
            message: note.message.clone(),
        };
        let namespace = match note.about.namespace.as_str() {
            "" => "default",
            namespace => namespace,
        };
        if let Some(written) = self.known.get_mut(&identity) {
            let count = written.count + 1;
            let body = json!({"count": count, "lastTimestamp": rfc3339(note.at)});
            let key = Key::new(namespace, written.name.clone());
            let patched: Result<PartialObject, _> =
                self.rest.patch(&EVENTS, &key, "", Patch::Merge, &body).await;
            match patched {
                Ok(_) => {
                    written.count = count;
                    written.last = note.at;
                    return Ok(());
                }
                Err(err) if is_not_found(&err) => {
                    self.known.remove(&identity);
                }
                Err(err) => return Err(err),
            }
        }
        let name = format!("{}.{:x}", note.about.name, note.at.as_nanosecond());
        let body = self.body(note, namespace, &name);
        let _: PartialObject = self.rest.create(&EVENTS, namespace, &body).await?;
        self.remember(identity, Written { name, count: 1, last: note.at });
        Ok(())
    }

    fn remember(&mut self, identity: Identity, written: Written) {
        if self.known.len() >= KNOWN {
            let oldest =
                self.known.iter().min_by_key(|(_, it)| it.last).map(|(key, _)| key.clone());
            oldest.map(|key| self.known.remove(&key));
        }
        self.known.insert(identity, written);
    }

    fn body(&self, note: &Note, namespace: &str, name: &str) -> serde_json::Value {
        let about = &note.about;
        let mut involved = json!({"kind": about.kind, "name": about.name});
        let parts = [
            ("apiVersion", &about.api_version),
            ("namespace", &about.namespace),
            ("uid", &about.uid),
            ("resourceVersion", &about.resource_version),
            ("fieldPath", &about.field_path),
        ];
        for (part, value) in parts {
            if !value.is_empty() {
                involved[part] = json!(value);
            }
        }
        let mut source = json!({"component": &*note.component});
        if !self.host.is_empty() {
            source["host"] = json!(self.host);
        }
        let kind = match note.kind {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        };
        let at = rfc3339(note.at);
        json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": involved,
            "reason": note.reason, "message": note.message, "type": kind, "count": 1,
            "firstTimestamp": at, "lastTimestamp": at,
            "source": source,
            "reportingComponent": &*note.component, "reportingInstance": self.host,
        })
    }
}
