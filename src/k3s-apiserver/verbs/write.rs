//! What all writes share: the draft of an object on its way into the store.
//!
//! The order is upstream's: managed fields, mutating admission, strategy, validation, validating
//! admission, allocation, store. Invariant: nothing is stored that was not validated after its last
//! change.

use std::sync::Arc;
use std::time::Duration;

use apimachinery::status::Status;
use bytes::Bytes;
use etcd::mvccpb::KeyValue;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::object::{self, canonicalize_as, to_version};
use super::options::WriteOptions;
use super::scale::{scale_of, set_replicas};
use crate::admission::{self, Attributes, Operation};
use crate::companions;
use crate::custom::convert::{self, Memo};
use crate::filter::Call;
use crate::kinds::Kind;
use crate::registry::{Cx, Guard, Object};
use crate::storage::entry::{Entry, encode};
use crate::storage::keys::object_key;
use crate::storage::store::Store;
use crate::storage::write::{Change, Outcome};

/// How long a write waits for the caches to see what it allocated.
const SETTLE: Duration = Duration::from_secs(5);

/// Attempts to charge a quota that others charge at the same time.
const CHARGES_TRIED: usize = 50;

/// Where the new object of an update comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    Client,
    /// The server changed what it read (a binding).
    Server,
}

/// The request behind a write, and what it gathers on the way.
pub struct Draft<'a> {
    pub call: &'a Call<'a>,
    pub kind: &'a Kind,
    pub store: Arc<Store>,
    pub options: WriteOptions,
    pub subresource: &'a str,
    /// Who made the new object: what the server made itself, no strategy checks.
    pub author: Author,
    pub now: Timestamp,
    pub warnings: Vec<String>,
    /// The body of a DELETE.
    pub delete_options: Option<Value>,
    /// Conversions that managed fields need.
    pub memo: Arc<Memo>,
}

impl<'a> Draft<'a> {
    pub fn new(call: &'a Call<'a>, kind: &'a Kind, options: WriteOptions) -> Result<Self, Status> {
        let store = call.server.storage.store(&kind.resource).ok_or_else(Status::no_resource)?;
        let subresource = &call.info.subresource;
        let now = call.server.now();
        Ok(Self {
            call,
            kind,
            store,
            options,
            subresource,
            author: Author::Client,
            now,
            warnings: Vec::new(),
            delete_options: None,
            memo: Arc::default(),
        })
    }

    pub fn cx(&self) -> Cx<'_> {
        Cx {
            namespace: &self.call.info.namespace,
            user: &self.call.user,
            now: self.now,
            subresource: self.subresource,
            cluster: &self.call.server.cluster,
            dry_run: self.options.dry_run,
        }
    }

    pub fn attributes<'s>(&'s self, operation: Operation, name: &'s str) -> Attributes<'s> {
        Attributes {
            operation,
            group: &self.kind.group,
            version: &self.kind.version,
            resource: &self.kind.plural,
            subresource: self.subresource,
            kind_group: &self.kind.group,
            kind_version: &self.kind.version,
            kind: &self.kind.kind,
            namespace: &self.call.info.namespace,
            name,
            user: &self.call.user,
            cluster: &self.call.server.cluster,
            auth: &self.call.server.auth,
            kinds: &self.call.server.kinds,
            now: self.now,
            dry_run: self.options.dry_run,
            field_manager: &self.options.field_manager,
            field_validation: self.call.query.text("fieldValidation"),
            delete_options: self.delete_options.as_ref(),
            server: self.call.server,
            annotations: &self.call.annotations,
        }
    }

    fn scale_attributes<'s>(&'s self, operation: Operation, name: &'s str) -> Attributes<'s> {
        let cx = self.attributes(operation, name);
        Attributes { kind_group: "autoscaling", kind_version: "v1", kind: "Scale", ..cx }
    }

    /// Lets policies and webhooks judge the body of a subresource that stores none.
    pub async fn review(
        &mut self,
        kind: [&str; 3],
        subresource: &str,
        name: &str,
        object: &mut Object,
    ) -> Result<(), Status> {
        let mut warnings = Vec::new();
        let mut attributes = self.attributes(Operation::Create, name);
        [attributes.kind_group, attributes.kind_version, attributes.kind] = kind;
        attributes.subresource = subresource;
        admission::review(&attributes, object, &mut warnings).await?;
        self.warnings.append(&mut warnings);
        Ok(())
    }

    /// Lets policies and webhooks judge a connection.
    pub async fn connect(
        &mut self,
        kind: [&str; 3],
        name: &str,
        object: &mut Object,
    ) -> Result<(), Status> {
        let mut warnings = Vec::new();
        let mut attributes = self.attributes(Operation::Connect, name);
        [attributes.kind_group, attributes.kind_version, attributes.kind] = kind;
        admission::review(&attributes, object, &mut warnings).await?;
        Ok(())
    }

    pub async fn mutate(
        &mut self,
        operation: Operation,
        name: &str,
        object: &mut Object,
        old: Option<&Object>,
    ) -> Result<(), Status> {
        let mut warnings = Vec::new();
        if self.author == Author::Server {
            return Ok(());
        }
        if self.subresource == "scale" {
            let paths = self.kind.strategy.scale();
            let mut scale = scale_of(object, &paths);
            let before = old.map(|old| scale_of(old, &paths));
            let cx = self.scale_attributes(operation, name);
            admission::mutate(&cx, &mut scale, before.as_ref(), &mut warnings).await?;
            set_replicas(object, &paths, &scale);
        } else {
            let cx = self.attributes(operation, name);
            admission::mutate(&cx, object, old, &mut warnings).await?;
        }
        self.warnings.append(&mut warnings);
        Ok(())
    }

    pub async fn admit(
        &mut self,
        operation: Operation,
        name: &str,
        object: Option<&Object>,
        old: Option<&Object>,
    ) -> Result<(), Status> {
        let mut warnings = Vec::new();
        if self.author == Author::Server && operation != Operation::Delete {
            return Ok(());
        }
        if self.subresource == "scale" {
            let paths = self.kind.strategy.scale();
            let [object, old] = [object, old].map(|of| of.map(|of| scale_of(of, &paths)));
            let cx = self.scale_attributes(operation, name);
            admission::validate(&cx, object.as_ref(), old.as_ref(), &mut warnings).await?;
        } else {
            let cx = self.attributes(operation, name);
            admission::validate(&cx, object, old, &mut warnings).await?;
        }
        self.warnings.append(&mut warnings);
        Ok(())
    }

    /// Charges the namespace's quotas for what the object uses: what `admit` found within their
    /// limits is written into their status on the condition that they have not changed since.
    pub async fn charge(
        &self,
        operation: Operation,
        name: &str,
        object: &Object,
        old: Option<&Object>,
    ) -> Result<(), Status> {
        let namespace = &self.call.info.namespace;
        if self.options.dry_run || namespace.is_empty() {
            return Ok(());
        }
        let storage = &self.call.server.storage;
        let Some(store) = storage.store("resourcequotas") else { return Ok(()) };
        let mut charged: Vec<String> = Vec::new();
        for _ in 0..CHARGES_TRIED {
            let attributes = self.attributes(operation, name);
            let mut behind = None;
            for (entry, quota) in admission::charges(&attributes, object, old)? {
                if charged.iter().any(|done| *done == *entry.key) {
                    continue;
                }
                let path = format!("{}{}", store.prefix, entry.key);
                let change = Change::Put { value: encode(&quota).into(), lease: 0 };
                match storage.write(&path, entry.revision, change).await? {
                    Outcome::Done(_) => charged.push(entry.key.to_string()),
                    Outcome::Conflict(_) => behind = Some(entry.revision + 1),
                }
            }
            let Some(revision) = behind else { return Ok(()) };
            storage.settled().await?;
            storage.reached(revision, SETTLE).await;
        }
        let mut status = Status::conflict(
            self.kind.about(name),
            "the object's quota is being changed by others, try again",
        );
        status.details["retryAfterSeconds"] = 1.into();
        Err(status)
    }

    /// The stored form of an object in the served version.
    pub async fn stored(&self, object: &Object) -> Result<Bytes, Status> {
        let kind = self.kind;
        if kind.is_stored() {
            return Ok(encode(object).into());
        }
        let mut object = object.clone();
        if convert::converter(kind).is_some() {
            let to = &kind.storage_version;
            object = convert::object(self.call.server, kind, object, to).await?;
        }
        // What the version in the store does not know is not stored.
        to_version(kind, &mut object, &kind.api_version, &kind.storage_version);
        canonicalize_as(&mut object, &kind.storage_version, &kind.kind);
        Ok(encode(&object).into())
    }

    /// Would storing the new object change nothing?
    pub async fn is_same(
        &self,
        old: &Object,
        new: &Object,
        stored: &Bytes,
    ) -> Result<bool, Status> {
        if convert::converter(self.kind).is_some() && !self.kind.is_stored() {
            return Ok(encode(old) == encode(new));
        }
        Ok(*stored == self.stored(old).await?)
    }

    /// The object's key in its cache.
    pub fn key(&self, name: &str) -> String {
        object_key(&self.call.info.namespace, name)
    }

    /// The stored object in the served version.
    pub async fn served(&self, entry: &Arc<Entry>) -> Result<Object, Status> {
        let entry = self.shown(entry.clone()).await?;
        Ok(object::served(self.kind, &entry))
    }

    /// An entry as answers show it.
    async fn shown(&self, entry: Arc<Entry>) -> Result<Arc<Entry>, Status> {
        convert::entry(self.call.server, self.kind, entry).await
    }

    /// Puts bytes where the object was at `expected` (0: was not).
    pub async fn put(&self, name: &str, expected: i64, value: Bytes) -> Result<Written, Status> {
        let key = self.key(name);
        if self.options.dry_run {
            let mut entry = Entry::parse(&key, expected, &value, &[]).map_err(Status::internal)?;
            if expected == 0 {
                // What was not created has no revision.
                entry.bytes = value;
            }
            return Ok(Written::Done(self.shown(Arc::new(entry)).await?));
        }
        let storage = &self.call.server.storage;
        let lease = match self.store.resource.as_str() {
            "events" => storage.event_lease(self.call.server.event_ttl).await?,
            _ => 0,
        };
        let change = Change::Put { value: value.clone(), lease };
        let path = format!("{}{key}", self.store.prefix);
        match storage.write(&path, expected, change).await? {
            Outcome::Done(revision) => {
                let entry = Entry::parse(&key, revision, &value, &[]).map_err(Status::internal)?;
                Ok(Written::Done(self.shown(Arc::new(entry)).await?))
            }
            Outcome::Conflict(found) => self.conflict(&key, found),
        }
    }

    /// Removes the object if it is at `expected`.
    pub async fn remove(&self, name: &str, expected: i64) -> Result<Removed, Status> {
        if self.options.dry_run {
            return Ok(Removed::Done(expected));
        }
        let key = self.key(name);
        let path = format!("{}{key}", self.store.prefix);
        match self.call.server.storage.write(&path, expected, Change::Delete).await? {
            Outcome::Done(revision) => Ok(Removed::Done(revision)),
            Outcome::Conflict(found) => match self.conflict(&key, found)? {
                Written::Conflict(found) => Ok(Removed::Conflict(found)),
                Written::Done(entry) => Ok(Removed::Done(entry.revision)),
            },
        }
    }

    /// Makes and removes what lives and dies with the object.
    pub async fn follow(&self, new: Option<&Object>, old: Option<&Object>) {
        let of = |object: Option<&Object>| {
            object.map(|object| self.kind.strategy.companions(object)).unwrap_or_default()
        };
        let (new, old) = (of(new), of(old));
        if !self.options.dry_run && new != old {
            companions::follow(&self.call.server.storage, &new, &old, self.now).await;
        }
    }

    /// An object's last state, with the revision that it had.
    pub async fn last(
        &self,
        name: &str,
        entry: &Entry,
        object: &Object,
    ) -> Result<Arc<Entry>, Status> {
        // In the version that is served: nobody stores it.
        let value: Bytes = match convert::converter(self.kind) {
            Some(_) => encode(object).into(),
            None => self.stored(object).await?,
        };
        let entry = Entry::parse(&self.key(name), entry.revision, &value, &[]);
        Ok(Arc::new(entry.map_err(Status::internal)?))
    }

    /// Holds what was allocated until the caches show the write that took it.
    pub async fn settle(&self, guard: Guard, revision: i64) {
        if guard.is_some() && !self.options.dry_run {
            self.call.server.storage.reached(revision, SETTLE).await;
        }
    }

    fn conflict(&self, key: &str, found: Option<KeyValue>) -> Result<Written, Status> {
        let found = match found {
            None => None,
            Some(kv) => {
                let entry = Entry::parse(key, kv.mod_revision, &kv.value, self.store.selectable)
                    .map_err(Status::internal)?;
                Some(Arc::new(entry))
            }
        };
        Ok(Written::Conflict(found))
    }
}

/// How a put ended.
pub enum Written {
    Done(Arc<Entry>),
    /// This is there instead.
    Conflict(Option<Arc<Entry>>),
}

/// How a removal ended.
pub enum Removed {
    /// Done, at this revision.
    Done(i64),
    Conflict(Option<Arc<Entry>>),
}

/// `metadata` of an object, made when it is not there.
pub fn meta_mut(object: &mut Object) -> &mut Map<String, Value> {
    if !object["metadata"].is_object() {
        object["metadata"] = Value::Object(Map::new());
    }
    object["metadata"].as_object_mut().expect("it was made an object above")
}

/// A text of `metadata`, empty when not there.
pub fn meta_text<'o>(object: &'o Object, name: &str) -> &'o str {
    object["metadata"][name].as_str().unwrap_or_default()
}

/// A time as `metadata` has it: whole seconds.
pub fn time_text(now: Timestamp) -> String {
    let seconds = Timestamp::from_second(now.as_second()).unwrap_or(now);
    seconds.to_string()
}

/// Is the object being deleted?
pub fn is_deleting(object: &Object) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// Has the object finalizers?
pub fn has_finalizers(object: &Object) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty())
}

/// Puts the namespace of the request into the object, or refuses another.
pub fn match_namespace(object: &mut Object, namespace: &str) -> Result<(), Status> {
    let have = meta_text(object, "namespace");
    if have == namespace {
        return Ok(());
    }
    if namespace.is_empty() {
        meta_mut(object).remove("namespace");
        return Ok(());
    }
    if !have.is_empty() {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    meta_mut(object).insert("namespace".to_owned(), namespace.into());
    Ok(())
}
