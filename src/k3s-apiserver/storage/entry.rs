//! One object as the cache holds it: its bytes, ready to send, and the little that selectors read.
//!
//! Invariant: `bytes` is complete JSON with `apiVersion`, `kind` and `metadata.resourceVersion`, and
//! is never changed; GET, LIST and every watcher share it.

use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::registry::Selectable;

/// One stored object at one revision.
#[derive(Debug)]
pub struct Entry {
    /// `namespace/name` or `name`.
    pub key: Arc<str>,
    /// `metadata.resourceVersion`: the store's revision of the last write.
    pub revision: i64,
    /// The whole object.
    pub bytes: Bytes,
    /// Where the part without `kind` and `apiVersion` starts in `bytes`: a list item is `{` and
    /// what follows from here. 0 when the object was written by others in another order.
    item: u32,
    /// Where the digits of the resourceVersion are in `bytes`.
    digits: (u32, u32),
    pub uid: Box<str>,
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// The values of the kind's selectable fields, in their order.
    pub fields: Box<[Box<str>]>,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
}

#[derive(Deserialize)]
struct Meta {
    #[serde(default)]
    uid: Box<str>,
    #[serde(default)]
    labels: Option<std::collections::BTreeMap<Box<str>, Box<str>>>,
}

impl Entry {
    /// Makes an entry of what the store returned: JSON without a resourceVersion. Revision 0 (a dry
    /// run) leaves it out.
    pub fn parse(
        key: &str,
        revision: i64,
        stored: &[u8],
        selectable: &[Selectable],
    ) -> anyhow::Result<Self> {
        let head: Head<'_> =
            serde_json::from_slice(stored).with_context(|| format!("read {key}"))?;
        let text = head.metadata.get();
        let meta: Meta =
            serde_json::from_str(text).with_context(|| format!("read metadata of {key}"))?;
        let at = text.as_ptr() as usize - stored.as_ptr() as usize;
        let (bytes, item, digits) = splice(stored, at, text, revision)?;
        let fields = if selectable.is_empty() { Box::default() } else { pick(stored, selectable)? };
        Ok(Self {
            key: key.into(),
            revision,
            bytes,
            item,
            digits,
            uid: meta.uid,
            labels: meta.labels.unwrap_or_default().into_iter().collect(),
            fields,
        })
    }

    /// The namespace, empty for cluster-scoped objects.
    pub fn namespace(&self) -> &str {
        self.key.rsplit_once('/').map_or("", |(namespace, _)| namespace)
    }

    pub fn name(&self) -> &str {
        self.key.rsplit_once('/').map_or(&*self.key, |(_, name)| name)
    }

    /// The value of one label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(key, _)| &**key == name).map(|(_, value)| &**value)
    }

    /// The object as a tree. Costs a parse; callers that need only metadata read the fields above.
    pub fn object(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|_| {
            // Bodies may be nested deeper than this library reads.
            apimachinery::json::parse(&self.bytes).map(|parsed| parsed.value).unwrap_or_default()
        })
    }

    /// The same object with another resourceVersion: what a DELETED event shows.
    pub fn at_revision(&self, revision: i64) -> Self {
        let (from, to) = (self.digits.0 as usize, self.digits.1 as usize);
        let digits = revision.to_string();
        let mut bytes = Vec::with_capacity(self.bytes.len() + digits.len());
        bytes.extend_from_slice(&self.bytes[..from]);
        bytes.extend_from_slice(digits.as_bytes());
        bytes.extend_from_slice(&self.bytes[to..]);
        let end = self.digits.0 + digits.len() as u32;
        Self {
            key: self.key.clone(),
            revision,
            bytes: bytes.into(),
            item: self.item,
            digits: (self.digits.0, end),
            uid: self.uid.clone(),
            labels: self.labels.clone(),
            fields: self.fields.clone(),
        }
    }

    /// What follows `{` of this object as an item of a list; none when it must be made by hand.
    pub fn item(&self) -> Option<&[u8]> {
        if self.item == 0 { None } else { self.bytes.get(self.item as usize..) }
    }
}

/// Puts the resourceVersion first into the metadata object found at `at`.
fn splice(
    stored: &[u8],
    at: usize,
    meta: &str,
    revision: i64,
) -> anyhow::Result<(Bytes, u32, (u32, u32))> {
    let (before, rest) = stored.split_at(at);
    let Some(rest) = rest.strip_prefix(b"{") else { bail!("metadata is no object") };
    let empty = meta.get(1..).is_some_and(|inner| inner.trim_start().starts_with('}'));
    if revision == 0 {
        let item = item_start(before, at)?;
        return Ok((Bytes::copy_from_slice(stored), item, (0, 0)));
    }
    let head = "{\"resourceVersion\":\"";
    let field = format!("{head}{revision}\"{}", if empty { "" } else { "," });
    let from = u32::try_from(at + head.len())?;
    let digits = (from, from + revision.to_string().len() as u32);
    let mut bytes = Vec::with_capacity(stored.len() + field.len());
    bytes.extend_from_slice(before);
    bytes.extend_from_slice(field.as_bytes());
    bytes.extend_from_slice(rest);
    let item = item_start(before, at)?;
    Ok((bytes.into(), item, digits))
}

/// Where the part without `kind` and `apiVersion` starts, when they are all that comes before.
fn item_start(before: &[u8], at: usize) -> anyhow::Result<u32> {
    let name = br#""metadata":"#;
    let ours = before.starts_with(br#"{"kind":""#) && before.ends_with(name);
    if ours && before.iter().filter(|byte| **byte == b',').count() == 2 {
        Ok(u32::try_from(at - name.len())?)
    } else {
        Ok(0)
    }
}

/// The texts of the selectable fields.
fn pick(stored: &[u8], selectable: &[Selectable]) -> anyhow::Result<Box<[Box<str>]>> {
    let object: Value = serde_json::from_slice(stored)?;
    Ok(selectable.iter().map(|field| field_text(&object, field)).collect())
}

/// The text of one selectable field of an object.
pub fn field_text(object: &Value, field: &Selectable) -> Box<str> {
    let at = |path: &str| path.split('.').try_fold(object, |value, name| value.get(name));
    let filled = |value: &&Value| !value.is_null() && value.as_str() != Some("");
    match field.path.split('|').filter_map(at).find(filled) {
        None => field.zero.into(),
        Some(Value::String(text)) => text.as_str().into(),
        Some(other) => other.to_string().into(),
    }
}

/// An object's stored form: `kind`, `apiVersion` and `metadata` first, no resourceVersion.
pub fn encode(object: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    out.push(b'{');
    let Some(map) = object.as_object() else { return b"{}".to_vec() };
    for name in ["kind", "apiVersion"] {
        write_field(&mut out, name, map.get(name).unwrap_or(&Value::String(String::new())));
    }
    match map.get("metadata") {
        Some(Value::Object(meta)) => write_field(&mut out, "metadata", &Stored(meta)),
        _ => write_field(&mut out, "metadata", &Map::new()),
    }
    for (name, value) in map {
        if !matches!(name.as_str(), "kind" | "apiVersion" | "metadata") {
            write_field(&mut out, name, value);
        }
    }
    out.push(b'}');
    out
}

/// Metadata without what the store does not keep.
struct Stored<'a>(&'a Map<String, Value>);

impl Serialize for Stored<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let kept = |name: &str| !matches!(name, "resourceVersion" | "selfLink");
        serializer.collect_map(self.0.iter().filter(|(name, _)| kept(name)))
    }
}

fn write_field<T: Serialize + ?Sized>(out: &mut Vec<u8>, name: &str, value: &T) {
    if out.len() > 1 {
        out.push(b',');
    }
    write_json(out, name);
    out.push(b':');
    write_json(out, value);
}

fn write_json<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("a tree of strings and numbers always serialises");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_resource_version_is_spliced_in_and_the_rest_shared() {
        let object = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"nodeName": "n"},
            "data": {"metadata": {"x": 1}},
            "metadata": {"name": "a", "uid": "u", "labels": {"k": "v"}, "resourceVersion": "3"}});
        let selectable = [
            Selectable { name: "spec.nodeName", path: "spec.nodeName", zero: "" },
            Selectable { name: "spec.hostNetwork", path: "spec.hostNetwork", zero: "false" },
        ];
        let entry = Entry::parse("ns/a", 7, &encode(&object), &selectable).unwrap();
        assert_eq!(entry.object()["metadata"]["resourceVersion"], "7");
        assert_eq!((entry.namespace(), entry.name()), ("ns", "a"));
        assert_eq!(entry.label("k"), Some("v"));
        assert_eq!(&*entry.fields[1], "false");
        let item = format!("{{{}", std::str::from_utf8(entry.item().unwrap()).unwrap());
        let item: Value = serde_json::from_str(&item).unwrap();
        assert!(item.get("kind").is_none());
        assert_eq!(item["metadata"]["name"], "a");
        let later = entry.at_revision(1234);
        assert_eq!(later.object()["metadata"]["resourceVersion"], "1234");
        assert_eq!(later.at_revision(9).bytes.len(), entry.bytes.len());
    }

    #[test]
    fn what_is_nested_deeply_is_read_back() {
        let deep = format!("{}1{}", "[".repeat(400), "]".repeat(400));
        let stored = format!(r#"{{"metadata":{{}},"spec":{deep}}}"#);
        let entry = Entry::parse("a", 7, stored.as_bytes(), &[]).unwrap();
        assert_eq!(entry.object()["spec"].to_string(), deep);
    }

    #[test]
    fn foreign_order_is_read_too() {
        let entry =
            Entry::parse("a", 7, br#"{"data":{"metadata":{}},"metadata":{}}"#, &[]).unwrap();
        assert_eq!(
            &*entry.bytes,
            br#"{"data":{"metadata":{}},"metadata":{"resourceVersion":"7"}}"#
        );
        assert!(entry.item().is_none());
    }
}
