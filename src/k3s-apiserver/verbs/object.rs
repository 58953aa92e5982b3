//! Objects between wire and tree: decoding bodies, versions, encodings, compression.

use std::io::Write;

use api::schema::Node;
use apimachinery::decode::{self, Expected, FieldValidation};
use apimachinery::encode::canonicalize;
use apimachinery::protobuf;
use apimachinery::status::Status;
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderValue, VARY};
use http::{HeaderMap, Response};
use serde_json::{Value, json};

use crate::body::{Body, full};
use crate::custom;
use crate::filter::Call;
use crate::kinds::Kind;
use crate::negotiate::{Accept, Shape, content};
use crate::registry::Object;
use crate::storage::entry::Entry;

/// Answers from this size on are compressed for clients that can, as upstream does.
pub const GZIP_MIN: usize = 128 << 10;

/// Decodes a body into an object of the expected kind.
pub fn decode(
    call: &Call<'_>,
    expected: Expected<'_>,
    body: &Bytes,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Object, Status> {
    let media = content(&call.parts.headers)?;
    let decoded = decode::body(body, media, &expected)?;
    let (object, mut found) = decoded.validated(validation, &expected)?;
    warnings.append(&mut found);
    Ok(object)
}

/// Decodes a body into an object of this kind.
pub fn decode_own(
    call: &Call<'_>,
    kind: &Kind,
    body: &Bytes,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Object, Status> {
    match kind.custom() {
        None => decode(call, expected(kind), body, validation, warnings),
        Some(own) => {
            let media = content(&call.parts.headers)?;
            custom::decode::body(kind, own, body, media, validation, warnings)
        }
    }
}

/// What a body of this kind must be.
pub fn expected(kind: &Kind) -> Expected<'_> {
    Expected { group: &kind.group, version: &kind.version, kind: &kind.kind, node: kind.node() }
}

/// The body of a DELETE.
pub fn decode_options(call: &Call<'_>, body: &Bytes) -> Result<Value, Status> {
    let node = api::schema::definition("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions")
        .ok_or_else(|| Status::plain("no schema of DeleteOptions"))?;
    let media = content(&call.parts.headers)?;
    let expected = Expected { group: "", version: "v1", kind: "DeleteOptions", node };
    Ok(decode::body(body, media, &expected)?.value)
}

/// Types a tree that was put together from others (the result of an apply).
pub fn settle(kind: &Kind, object: &mut Object) -> Result<(), Status> {
    if let Some(own) = kind.custom() {
        return custom::decode::settle(kind, own, object).map(|_pruned| ());
    }
    let typed = decode::walk(object, kind.node());
    typed.map(|_pruned| ()).map_err(|err| Status::plain(err.to_string()))
}

/// Brings a tree into the form that the store and the wire have.
pub fn normalize(kind: &Kind, object: &mut Object) {
    match (kind.custom(), custom::metadata_node()) {
        (Some(_), Some(node)) => canonicalize(&mut object["metadata"], node),
        _ => canonicalize(object, kind.node()),
    }
}

/// A stored object in the version that the kind is served in.
pub fn served(kind: &Kind, entry: &Entry) -> Object {
    let mut object = entry.object();
    kind.strategy.complete_stored(&mut object);
    let from = object["apiVersion"].as_str().unwrap_or_default().to_owned();
    to_version(kind, &mut object, &from, &kind.api_version);
    object
}

/// Turns an object of one version of the kind into another.
pub fn to_version(kind: &Kind, object: &mut Object, from: &str, to: &str) {
    if from != to {
        object["apiVersion"] = to.into();
        kind.strategy.convert(object, from, to);
        if to == kind.api_version {
            normalize(kind, object);
        }
    }
}

/// Brings a built-in object into the form of a version that it is not served in now.
pub fn canonicalize_as(object: &mut Object, api_version: &str, kind: &str) {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if let Some(node) = api::schema::kind(group, version, kind) {
        canonicalize(object, node);
    }
}

/// An object of the kind with nothing in it but metadata: what a bookmark shows.
pub fn empty(kind: &Kind, meta: Value) -> Object {
    let mut object = json!({"kind": kind.kind, "apiVersion": kind.api_version, "metadata": meta});
    normalize(kind, &mut object);
    object
}

pub fn to_yaml(tree: &Value) -> String {
    serde_saphyr::to_string(tree).unwrap_or_default()
}

/// A built-in object, a partial object or a Status in protobuf.
pub fn to_protobuf(tree: &Value) -> Vec<u8> {
    match protobuf_node(tree) {
        Some(node) => protobuf::encode_object(tree, node),
        None => Vec::new(),
    }
}

/// A built-in object by what its envelope says; none when that is no kind that is known.
pub fn from_protobuf(bytes: &[u8]) -> Option<Value> {
    let envelope = protobuf::open(bytes).ok()?;
    let mut object = json!({"kind": envelope.kind, "apiVersion": envelope.api_version});
    let decoded = protobuf::decode(envelope.raw, protobuf_node(&object)?).ok()?;
    for (field, value) in decoded.as_object()? {
        object[field] = value.clone();
    }
    Some(object)
}

/// The schema of an object by its own kind.
fn protobuf_node(tree: &Value) -> Option<Node<'static>> {
    let version = tree["apiVersion"].as_str()?;
    let kind = tree["kind"].as_str()?;
    if kind == "Status" || version.starts_with("meta.k8s.io/") {
        return api::schema::definition(&format!("{META}{kind}"));
    }
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    api::schema::kind(group, version, kind)
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// A list in protobuf: whole objects or partial ones.
pub fn protobuf_list(kind: &Kind, accept: Accept, meta: &Value, trees: &[Value]) -> Vec<u8> {
    let partial_version = format!("meta.k8s.io/{}", accept.meta_version);
    let (version, list, node) = match accept.shape {
        Shape::Partial => {
            let name = format!("{META}PartialObjectMetadata");
            let node = api::schema::definition(&name).unwrap_or_else(|| kind.node());
            (partial_version.as_str(), "PartialObjectMetadataList", node)
        }
        _ => (kind.api_version.as_str(), kind.list_kind.as_str(), kind.node()),
    };
    let items: Vec<Vec<u8>> = trees
        .iter()
        .map(|tree| match accept.shape {
            Shape::Partial => protobuf::encode(&json!({"metadata": tree["metadata"]}), node),
            _ => protobuf::encode(tree, node),
        })
        .collect();
    protobuf::encode_list(version, list, meta, items.iter().map(Vec::as_slice))
}

/// One watch event: a length and a `WatchEvent` message.
pub fn protobuf_frame(what: &str, tree: &Value) -> Vec<u8> {
    protobuf::watch_frame(what, &to_protobuf(tree))
}

/// Does the client take gzip?
pub fn wants_gzip(headers: &HeaderMap) -> bool {
    let header = headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    header.unwrap_or_default().split(',').any(|part| {
        let mut parts = part.split(';').map(str::trim);
        parts.next() == Some("gzip") && parts.all(|weight| weight != "q=0")
    })
}

/// The answer with a compressed body.
pub fn gzip(mut response: Response<Body>, body: &[u8]) -> Response<Body> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(1));
    let packed = encoder.write_all(body).and_then(|()| encoder.finish());
    let Ok(packed) = packed else {
        *response.body_mut() = full(Bytes::copy_from_slice(body));
        return response;
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    *response.body_mut() = full(packed);
    response
}
