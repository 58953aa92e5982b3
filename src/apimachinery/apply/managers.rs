//! `metadata.managedFields` ⇄ the managers of an object.
//!
//! Invariant: no two managers have the same identity (name, operation, subresource and, for
//! updates, version), none owns nothing, and they are written in upstream's order.

use std::cmp::Ordering;

use serde_json::{Map, Value, json};

use super::set::Set;

/// The longest field manager name, in bytes.
pub const MANAGER_MAX_LENGTH: usize = 128;
/// How many `Update` entries an object keeps before the oldest are folded together.
const MAX_UPDATE_MANAGERS: usize = 10;
const ANCIENT_CHANGES: &str = "ancient-changes";

/// What a manager did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// One manager and what it owns.
#[derive(Clone, Debug, PartialEq)]
pub struct Manager {
    pub name: String,
    pub operation: Operation,
    pub api_version: String,
    pub subresource: String,
    /// RFC 3339, whole seconds, UTC; none where upstream writes none.
    pub time: Option<String>,
    pub set: Set,
}

impl Manager {
    /// Whether both are the same manager.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.name == other.name
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    fn read(json: &Value) -> Option<Self> {
        let text = |key: &str| json.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let operation = match json.get("operation").and_then(Value::as_str)? {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        let api_version = text("apiVersion");
        if api_version.is_empty() || text("fieldsType") != "FieldsV1" {
            return None;
        }
        let set = match json.get("fieldsV1") {
            Some(Value::Null) | None => Set::new(),
            Some(fields) => Set::from_fields_v1(fields).ok()?,
        };
        let time = json.get("time").and_then(Value::as_str).map(str::to_owned);
        let (name, subresource) = (text("manager"), text("subresource"));
        Some(Self { name, operation, api_version, subresource, time, set })
    }

    fn write(&self) -> Value {
        let mut out = Map::new();
        out.insert("apiVersion".to_owned(), json!(self.api_version));
        out.insert("fieldsType".to_owned(), json!("FieldsV1"));
        out.insert("fieldsV1".to_owned(), self.set.to_fields_v1());
        if !self.name.is_empty() {
            out.insert("manager".to_owned(), json!(self.name));
        }
        out.insert("operation".to_owned(), json!(self.operation.name()));
        if !self.subresource.is_empty() {
            out.insert("subresource".to_owned(), json!(self.subresource));
        }
        if let Some(time) = &self.time {
            out.insert("time".to_owned(), json!(time));
        }
        Value::Object(out)
    }

    fn identity(&self) -> (&str, Operation, &str, &str) {
        (&self.name, self.operation, &self.api_version, &self.subresource)
    }

    fn order(&self, other: &Self) -> Ordering {
        let by_operation = self.operation.cmp(&other.operation);
        by_operation
            .then_with(|| self.time.cmp(&other.time))
            .then_with(|| self.name.cmp(&other.name))
            .then_with(|| self.api_version.cmp(&other.api_version))
            .then_with(|| self.subresource.cmp(&other.subresource))
    }
}

/// All managers of one object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Managers(pub(super) Vec<Manager>);

impl Managers {
    /// Reads `metadata.managedFields`; `None` if any entry is malformed.
    pub fn read(json: Option<&Value>) -> Option<Self> {
        let mut out = Self::default();
        for entry in json.and_then(Value::as_array).into_iter().flatten() {
            let manager = Manager::read(entry)?;
            match out.0.iter_mut().find(|known| known.is(&manager)) {
                Some(known) => *known = manager,
                None => out.0.push(manager),
            }
        }
        Some(out)
    }

    /// The managers of an object as stored, none where they cannot be read.
    pub fn of(object: &Value) -> Self {
        Self::read(managed_fields(object)).unwrap_or_default()
    }

    /// Writes `metadata.managedFields` in order, `None` when nobody owns anything.
    pub fn write(&self) -> Option<Value> {
        if self.0.is_empty() {
            return None;
        }
        let mut sorted: Vec<&Manager> = self.0.iter().collect();
        sorted.sort_by(|a, b| a.order(b));
        Some(Value::Array(sorted.into_iter().map(Manager::write).collect()))
    }

    /// Every manager, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Manager> {
        self.0.iter()
    }

    pub(super) fn find(&self, who: &Manager) -> Option<&Manager> {
        self.0.iter().find(|known| known.is(who))
    }

    pub(super) fn drop_empty(&mut self) {
        self.0.retain(|manager| !manager.set.is_empty());
    }

    /// Folds the oldest updates of a version into one `ancient-changes` entry while there are more
    /// than an object keeps.
    pub(super) fn cap(&mut self) {
        let is_update = |manager: &Manager| manager.operation == Operation::Update;
        let mut updates = self.0.iter().filter(|manager| is_update(manager)).count();
        if updates <= MAX_UPDATE_MANAGERS {
            return;
        }
        let (mut old, mut rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.0).into_iter().partition(is_update);
        old.sort_by(|a, b| a.time.cmp(&b.time).then_with(|| a.identity().cmp(&b.identity())));
        let mut kept: Vec<Manager> = Vec::with_capacity(old.len());
        for manager in old {
            let same_version = |known: &&mut Manager| known.api_version == manager.api_version;
            match kept.iter_mut().find(same_version) {
                Some(bucket) if updates > MAX_UPDATE_MANAGERS => {
                    bucket.name = ANCIENT_CHANGES.to_owned();
                    bucket.subresource = String::new();
                    bucket.time = manager.time;
                    bucket.set = std::mem::take(&mut bucket.set).union(manager.set);
                    updates -= 1;
                }
                _ => kept.push(manager),
            }
        }
        rest.append(&mut kept);
        self.0 = rest;
    }
}

/// `metadata.managedFields` of an object.
pub fn managed_fields(object: &Value) -> Option<&Value> {
    object.get("metadata")?.get("managedFields")
}

/// Puts `metadata.managedFields` into an object, or takes it out.
pub fn set_managed_fields(object: &mut Value, fields: Option<Value>) {
    let Some(object) = object.as_object_mut() else { return };
    let metadata = object.entry("metadata").or_insert_with(|| json!({}));
    if metadata.is_null() {
        *metadata = json!({});
    }
    let Some(metadata) = metadata.as_object_mut() else { return };
    match fields {
        Some(fields) => metadata.insert("managedFields".to_owned(), fields),
        None => metadata.remove("managedFields"),
    };
}

/// Keeps the times of the stored managers when nothing else changed, so that a write that does
/// nothing stays one.
pub fn keep_timestamps(stored: &Value, new: &mut Value) {
    let (Some(old), Some(now)) = (managed_fields(stored), managed_fields(new)) else { return };
    if old == now || !same_but_times(old, now) {
        return;
    }
    let rest_is_same = {
        let (Some(stored), Some(new)) = (stored.as_object(), new.as_object()) else { return };
        stored.len() == new.len()
            && stored.iter().all(|(key, value)| match new.get(key) {
                Some(theirs) if key == "metadata" => same_metadata(value, theirs),
                Some(theirs) => value == theirs,
                None => false,
            })
    };
    if rest_is_same {
        let old = old.clone();
        set_managed_fields(new, Some(old));
    }
}

fn same_metadata(stored: &Value, new: &Value) -> bool {
    let (Some(stored), Some(new)) = (stored.as_object(), new.as_object()) else { return false };
    let compared = |key: &str| key != "managedFields" && key != "resourceVersion";
    stored.iter().filter(|(key, _)| compared(key)).all(|(key, value)| new.get(key) == Some(value))
        && new.keys().filter(|key| compared(key)).all(|key| stored.contains_key(key))
}

fn same_but_times(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_array(), b.as_array()) else { return false };
    let same = |a: &Value, b: &Value| {
        let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return false };
        let has_time = |map: &Map<String, Value>| map.contains_key("time");
        has_time(a) == has_time(b)
            && a.len() == b.len()
            && a.iter().all(|(key, value)| key == "time" || b.get(key) == Some(value))
    };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
}

/// The manager of a request that names none: the User-Agent up to its first slash.
pub fn manager_or_user_agent(field_manager: &str, user_agent: &str) -> String {
    if !field_manager.is_empty() {
        return field_manager.to_owned();
    }
    let mut name = String::new();
    let product = user_agent.split('/').next().unwrap_or_default();
    for character in product.chars().filter(|c| !c.is_control()) {
        if name.len() + character.len_utf8() > MANAGER_MAX_LENGTH {
            break;
        }
        name.push(character);
    }
    name
}
