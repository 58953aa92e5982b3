//! Object metadata as components keep it: everything that decisions read, nothing else.
//!
//! `managedFields` and the last-applied annotation are never kept: they are the bulk of an object.

use std::{collections::BTreeMap, fmt};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Deserializer, Serialize};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Labels or annotations.
pub type Labels = BTreeMap<String, String>;

/// A piece of JSON that is carried and compared, not read.
pub type Raw = Box<serde_json::value::RawValue>;

/// Namespace and name; cluster-scoped objects have an empty namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    /// A key of a namespaced object, or of a cluster-scoped one with an empty namespace.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Key { namespace: namespace.into(), name: name.into() }
    }

    /// A key of a cluster-scoped object.
    pub fn cluster(name: impl Into<String>) -> Self {
        Key::new("", name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// One entry of `metadata.ownerReferences`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference {
    pub api_version: String,
    pub kind: String,
    pub name: String,
    pub uid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_owner_deletion: Option<bool>,
}

impl OwnerReference {
    /// Whether this is the managing controller.
    pub fn is_controller(&self) -> bool {
        self.controller == Some(true)
    }
}

/// `metadata`, without the parts that no component reads. Empty parts take no heap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub resource_version: String,
    pub generation: i64,
    pub creation_timestamp: Option<Time>,
    pub deletion_timestamp: Option<Time>,
    pub deletion_grace_period_seconds: Option<i64>,
    #[serde(deserialize_with = "null_default")]
    pub labels: Labels,
    #[serde(deserialize_with = "annotations")]
    pub annotations: Labels,
    #[serde(deserialize_with = "null_default")]
    pub owner_references: Vec<OwnerReference>,
    #[serde(deserialize_with = "null_default")]
    pub finalizers: Vec<String>,
}

impl Meta {
    /// Namespace and name.
    pub fn key(&self) -> Key {
        Key::new(self.namespace.clone(), self.name.clone())
    }

    /// The owner with `controller: true`.
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.owner_references.iter().find(|owner| owner.is_controller())
    }

    /// Whether deletion has begun.
    pub fn is_deleting(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// The value of an annotation.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).map(String::as_str)
    }

    /// The creation time, or the beginning of time for an object that was not stored yet.
    pub fn created(&self) -> Timestamp {
        self.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0)
    }

    /// Whether a finalizer is present.
    pub fn has_finalizer(&self, name: &str) -> bool {
        self.finalizers.iter().any(|finalizer| finalizer == name)
    }
}

/// What a [`crate::Reflector`] needs to know of an object.
pub trait HasMeta {
    /// The object's metadata.
    fn meta(&self) -> &Meta;
}

/// An object of which only the metadata is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PartialObject {
    pub api_version: String,
    pub kind: String,
    pub metadata: Meta,
}

impl HasMeta for PartialObject {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// Reads JSON `null` as the default: Go writes empty lists and maps of some fields that way.
pub fn null_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// The wall clock.
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// `metav1.Time` on the wire: whole seconds.
pub fn rfc3339(time: Timestamp) -> String {
    format!("{:.0}", Timestamp::from_second(time.as_second()).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// `metav1.MicroTime` on the wire: microseconds.
pub fn rfc3339_micros(time: Timestamp) -> String {
    format!("{time:.6}")
}

/// A duration in Go's notation (`1m30s`, `250ms`), as upstream's flags take it.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    let parsed: Result<jiff::SignedDuration, _> = match text {
        "0" => Ok(jiff::SignedDuration::ZERO),
        text => text.parse(),
    };
    let positive = parsed.ok().and_then(|it| std::time::Duration::try_from(it).ok());
    positive.ok_or_else(|| format!("{text:?} is not a duration such as 40s"))
}

fn annotations<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Labels, D::Error> {
    let mut annotations: Labels = null_default(deserializer)?;
    annotations.remove(LAST_APPLIED);
    Ok(annotations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_api_server_writes_them() {
        let time = Timestamp::from_microsecond(1_700_000_000_123_456).unwrap();
        assert_eq!(rfc3339(time), "2023-11-14T22:13:20Z");
        assert_eq!(rfc3339_micros(time), "2023-11-14T22:13:20.123456Z");
    }

    #[test]
    fn durations_are_gos() {
        let check = |text: &str, want: Option<u128>| {
            assert_eq!(parse_duration(text).ok().map(|it| it.as_millis()), want, "{text}");
        };
        check("1m30s", Some(90_000));
        check("250ms", Some(250));
        check("8760h", Some(31_536_000_000));
        check("5m0s", Some(300_000));
        check("0", Some(0));
        check("5", None);
        check("-5s", None);
    }

    #[test]
    fn the_last_applied_annotation_is_dropped() {
        let text = format!(
            r#"{{"name":"a","annotations":{{"{LAST_APPLIED}":"x","b":"c"}},"labels":null}}"#
        );
        let meta: Meta = serde_json::from_str(&text).unwrap();
        assert_eq!(meta.annotations.len(), 1);
        assert!(meta.labels.is_empty());
    }
}
