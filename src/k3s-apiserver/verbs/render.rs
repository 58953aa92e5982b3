//! Answers with objects: the cached bytes where they fit, else what the client asked for.

use std::sync::Arc;

use apimachinery::decode::Media;
use bytes::Bytes;
use http::header::HeaderValue;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::object;
use super::table;
use crate::body::{Body, answer, full};
use crate::filter::Call;
use crate::kinds::Kind;
use crate::negotiate::{Accept, Shape};
use crate::storage::entry::Entry;

/// One object, cached or as a tree (in the version that is served).
pub enum Thing {
    Entry(Arc<Entry>),
    Tree(Value),
}

impl Thing {
    /// The tree, in the served version.
    pub fn tree(&self, kind: &Kind) -> Value {
        match self {
            Self::Entry(entry) => object::served(kind, entry),
            Self::Tree(tree) => tree.clone(),
        }
    }
}

/// An answer with one object.
pub fn one(
    call: &Call<'_>,
    kind: &Kind,
    accept: Accept,
    code: StatusCode,
    thing: Thing,
) -> Response<Body> {
    let bytes = match (&thing, accept.shape, accept.media) {
        (Thing::Entry(entry), Shape::Whole, Media::Json) if kind.sends_stored() => {
            entry.bytes.clone()
        }
        (_, Shape::Whole, _) => encode(accept.media, &thing.tree(kind)),
        (_, Shape::Partial, _) => encode(accept.media, &partial(kind, accept, &thing.tree(kind))),
        (_, Shape::Table, _) => {
            let tree = thing.tree(kind);
            let revision = tree["metadata"]["resourceVersion"].as_str().unwrap_or_default();
            let meta = json!({"resourceVersion": revision});
            let table = table::table(
                call,
                kind,
                accept,
                meta,
                std::slice::from_ref(&tree),
                table::Head::With,
            );
            encode(accept.media, &table)
        }
    };
    answer(code, accept.content_type(), full(bytes))
}

/// A `Status` of success.
pub fn success(code: StatusCode) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "code": code.as_u16()})
}

/// An answer with a `Status`.
pub fn status(accept: Accept, code: StatusCode, status: &Value) -> Response<Body> {
    answer(code, accept.content_type(), full(encode(accept.media, status)))
}

/// Metadata only, without what a version of the API writes into annotations.
pub fn partial(kind: &Kind, accept: Accept, tree: &Value) -> Value {
    let mut object = json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{}", accept.meta_version),
        "metadata": tree["metadata"],
    });
    let hidden = kind.strategy.annotations_of_version();
    let Some(meta) = object["metadata"].as_object_mut() else { return object };
    if let Some(Value::Object(annotations)) = meta.get_mut("annotations") {
        annotations.retain(|name, _| !hidden.contains(&name.as_str()));
        if annotations.is_empty() {
            meta.remove("annotations");
        }
    }
    object
}

/// The bytes of a tree.
pub fn encode(media: Media, tree: &Value) -> Bytes {
    match media {
        Media::Json => format!("{tree}\n").into(),
        Media::Yaml => object::to_yaml(tree).into(),
        Media::Protobuf => object::to_protobuf(tree).into(),
    }
}

/// `Warning` headers: code 299, no agent, the text quoted.
pub fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings {
        let text = warning.replace('\\', "\\\\").replace('"', "\\\"");
        let text: String = text.chars().filter(|c| !c.is_control()).collect();
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(http::header::WARNING, value);
        }
    }
}
