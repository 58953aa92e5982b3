//! LIST: a gather of cached slices, whole or in pages of one consistent snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;

use apimachinery::decode::Media;
use apimachinery::status::Status;
use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, URL_SAFE_NO_PAD};
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::get::wait;
use super::object;
use super::options::{ListOptions, Match};
use super::render::{encode, partial};
use super::select::Filter;
use super::table::{Head, table};
use crate::body::{Body, answer, full};
use crate::custom::convert;
use crate::filter::Call;
use crate::kinds::Kind;
use crate::negotiate::{Accept, Shape};
use crate::storage::entry::Entry;
use crate::storage::store::{State, Store};

/// Go's decoder takes stray bits at the end.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::RequireNone),
);

/// Bytes gathered before they are handed to the connection.
const CHUNK: usize = 64 << 10;

/// The revision of a token that continues with whatever is there.
const LATEST: i64 = -1;

/// The objects of one answer and what its `metadata` says.
pub struct Page {
    pub entries: Vec<Arc<Entry>>,
    pub revision: i64,
    pub next: Option<String>,
    pub remaining: Option<usize>,
}

/// The token behind `continue`, in upstream's form.
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    v: String,
    rv: i64,
    start: String,
}

pub async fn list(call: &Call<'_>, kind: &Kind) -> Result<Response<Body>, Status> {
    let accept = Accept::read(&call.parts.headers)?;
    let options = ListOptions::read(&call.query, false)?;
    let filter = Filter::read(&call.info, kind, &options)?;
    let page = selected(call, kind, &options, &filter).await?;
    Ok(render(call, kind, accept, page))
}

/// Reads one page of what is selected, in the version that is asked for.
pub async fn selected(
    call: &Call<'_>,
    kind: &Kind,
    options: &ListOptions,
    filter: &Filter,
) -> Result<Page, Status> {
    let store = call.server.storage.store(&kind.resource).ok_or_else(Status::no_resource)?;
    if convert::converter(kind).is_none() {
        return page(call, &store, options, filter).await;
    }
    // Fields are those of the version that is asked for: they are compared after conversion.
    let page = page(call, &store, options, &filter.without_custom_fields()).await?;
    let mut entries = convert::entries(call.server, kind, page.entries).await?;
    entries.retain(|entry| filter.matches(entry));
    Ok(Page { entries, ..page })
}

/// Reads one page (everything without `limit`).
async fn page(
    call: &Call<'_>,
    store: &Store,
    options: &ListOptions,
    filter: &Filter,
) -> Result<Page, Status> {
    let mut start = None;
    let (exact, from) = if options.continue_token.is_empty() {
        let legacy = options.matching == Match::Unset && options.limit > 0;
        let exact = match options.revision {
            Some(revision) if revision > 0 => {
                (options.matching == Match::Exact || legacy).then_some(revision)
            }
            _ => None,
        };
        (exact, String::new())
    } else {
        let token = decode_token(&options.continue_token)?;
        let from = match filter.namespace.as_str() {
            "" => token.start.clone(),
            namespace => format!("{namespace}/{}", token.start),
        };
        start = Some(token.start);
        ((token.rv > 0).then_some(token.rv), from)
    };
    let now = wait(call, exact.or(options.revision)).await?;
    let state = store.read();
    let revision = exact.unwrap_or_else(|| now.max(state.latest()));
    // "Any version" is answered from the cache as a whole, as upstream does.
    let whole = options.limit == 0 || options.revision == Some(0);
    let limit = if whole { usize::MAX } else { options.limit };
    let mut page = match exact {
        Some(revision) if call.server.storage.is_compacted(revision) => return Err(expired(start)),
        Some(revision) if revision < state.latest() => {
            let then = snapshot(&state, revision, filter, &from).ok_or_else(|| expired(start))?;
            cut(then.values(), revision, limit, filter)
        }
        _ => cut(state.range(&filter.namespace, &from), revision, limit, filter),
    };
    if !filter.is_everything() {
        page.remaining = None;
    }
    Ok(page)
}

/// Takes what matches until the page is full.
fn cut<'s>(
    mut entries: impl Iterator<Item = &'s Arc<Entry>>,
    revision: i64,
    limit: usize,
    filter: &Filter,
) -> Page {
    let mut page = Page { entries: Vec::new(), revision, next: None, remaining: None };
    for entry in entries.by_ref().filter(|entry| filter.matches(entry)) {
        if page.entries.len() == limit {
            page.remaining = Some(1 + entries.filter(|entry| filter.matches(entry)).count());
            break;
        }
        page.entries.push(entry.clone());
    }
    if page.remaining.is_some()
        && let Some(last) = page.entries.last()
    {
        let key = if filter.namespace.is_empty() { &*last.key } else { last.name() };
        page.next = Some(encode_token(revision, format!("{key}\0")));
    }
    page
}

/// The objects as they were at an earlier revision; none when that has expired.
fn snapshot(
    state: &State,
    revision: i64,
    filter: &Filter,
    from: &str,
) -> Option<BTreeMap<Arc<str>, Arc<Entry>>> {
    let mut then: BTreeMap<Arc<str>, Arc<Entry>> = state
        .range(&filter.namespace, from)
        .map(|entry| (entry.key.clone(), entry.clone()))
        .collect();
    for event in state.undo(revision)? {
        let key = &event.entry.key;
        let inside = filter.namespace.is_empty() || event.entry.namespace() == filter.namespace;
        if !inside || &**key < from {
            continue;
        }
        match &event.previous {
            Some(previous) => then.insert(key.clone(), previous.clone()),
            None => then.remove(key),
        };
    }
    Some(then)
}

/// The revision is gone. Whoever continued a list at `start` may go on there with what is now.
fn expired(start: Option<String>) -> Status {
    let Some(start) = start else {
        return Status::expired("The resourceVersion for the provided list is too old.");
    };
    let mut status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can \
         start a new list without the continue parameter, or use the continue token in this \
         response to retrieve the remainder of the results. Continuing with the provided token \
         results in an inconsistent list - objects that were created, modified, or deleted between \
         the time the first chunk was returned and now may show up in the list.",
    );
    status.metadata = Some(Box::new(json!({"continue": encode_token(LATEST, start)})));
    status
}

fn encode_token(revision: i64, start: String) -> String {
    let token = Token { v: "meta.k8s.io/v1".to_owned(), rv: revision, start };
    let json = serde_json::to_vec(&token).expect("strings and numbers serialise");
    URL_SAFE_NO_PAD.encode(json)
}

fn decode_token(text: &str) -> Result<Token, Status> {
    let bad = |why: &str| {
        Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"))
    };
    let raw = URL_SAFE_NO_PAD
        .decode(text)
        .or_else(|_| LENIENT.decode(text))
        .map_err(|_| bad("illegal base64 data"))?;
    let token: Token = serde_json::from_slice(&raw).map_err(|_| match raw.first() {
        Some(first) if *first != b'{' => bad(&format!(
            "invalid character {} looking for beginning of value",
            quote_char(char::from(*first))
        )),
        _ => bad("unexpected end of JSON input"),
    })?;
    if token.v != "meta.k8s.io/v1" {
        return Err(bad("unrecognized encoded version"));
    }
    if token.start.is_empty() || token.start.split('/').any(|part| part == ".." || part == ".") {
        return Err(bad("invalid start key"));
    }
    Ok(token)
}

fn quote_char(c: char) -> String {
    let quoted = apimachinery::gotext::quote(&c.to_string());
    format!("'{}'", &quoted[1..quoted.len() - 1])
}

/// The list's `metadata`.
fn meta(page: &Page, kind: Option<&Kind>) -> Value {
    let mut meta = json!({"resourceVersion": page.revision.to_string()});
    if kind.is_some_and(|kind| kind.custom().is_some()) {
        meta["continue"] = "".into();
    }
    if let Some(next) = &page.next {
        meta["continue"] = next.as_str().into();
        if let Some(remaining) = page.remaining {
            meta["remainingItemCount"] = remaining.into();
        }
    }
    meta
}

/// The answer of LIST and deletecollection.
pub fn render(call: &Call<'_>, kind: &Kind, accept: Accept, page: Page) -> Response<Body> {
    let meta = match accept.shape {
        Shape::Whole => meta(&page, Some(kind)),
        _ => meta(&page, None),
    };
    if accept.media == Media::Json && accept.shape == Shape::Whole && kind.sends_stored() {
        return gather(call, kind, &meta, page.entries);
    }
    let trees: Vec<Value> = page.entries.iter().map(|entry| object::served(kind, entry)).collect();
    if accept.media == Media::Protobuf {
        let bytes = object::protobuf_list(kind, accept, &meta, &trees);
        return answer(StatusCode::OK, accept.content_type(), full(bytes));
    }
    let tree = match accept.shape {
        Shape::Table => table(call, kind, accept, meta, &trees, Head::With),
        Shape::Partial => json!({
            "kind": "PartialObjectMetadataList",
            "apiVersion": format!("meta.k8s.io/{}", accept.meta_version),
            "metadata": meta,
            "items": trees.iter().map(|tree| partial(kind, accept, tree)).collect::<Vec<_>>(),
        }),
        Shape::Whole => {
            let items: Vec<Value> = trees
                .into_iter()
                .map(|mut tree| {
                    if let (None, Some(map)) = (kind.custom(), tree.as_object_mut()) {
                        map.remove("kind");
                        map.remove("apiVersion");
                    }
                    tree
                })
                .collect();
            json!({"kind": kind.list_kind, "apiVersion": kind.api_version, "metadata": meta,
                "items": items})
        }
    };
    answer(StatusCode::OK, accept.content_type(), full(encode(accept.media, &tree)))
}

/// JSON made of the cached bytes, at most a chunk of it at a time.
fn gather(call: &Call<'_>, kind: &Kind, meta: &Value, entries: Vec<Arc<Entry>>) -> Response<Body> {
    let head = format!(
        "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{meta},\"items\":[",
        kind.list_kind, kind.api_version
    );
    let items = if kind.custom().is_some() { Items::Whole } else { Items::Bare };
    let size: usize = entries.iter().map(|entry| entry.bytes.len() + 1).sum();
    let zip = size > super::object::GZIP_MIN && object::wants_gzip(&call.parts.headers);
    if size <= CHUNK || zip {
        let mut out = BytesMut::with_capacity(head.len() + size + 4);
        out.put_slice(head.as_bytes());
        for (at, entry) in entries.iter().enumerate() {
            put_item(&mut out, at, entry, items);
        }
        out.put_slice(b"]}\n");
        let content_type = Accept::JSON.content_type();
        if zip {
            return object::gzip(answer(StatusCode::OK, content_type, full(Bytes::new())), &out);
        }
        return answer(StatusCode::OK, content_type, full(out.freeze()));
    }
    let pieces =
        stream::unfold((Some(head), entries, 0), move |(head, entries, mut at)| async move {
            if at > entries.len() {
                return None;
            }
            let mut out = BytesMut::with_capacity(CHUNK + (8 << 10));
            out.put_slice(head.unwrap_or_default().as_bytes());
            while let Some(entry) = entries.get(at) {
                put_item(&mut out, at, entry, items);
                at += 1;
                if out.len() >= CHUNK {
                    return Some((out.freeze(), (None, entries, at)));
                }
            }
            out.put_slice(b"]}\n");
            Some((out.freeze(), (None, entries, usize::MAX)))
        });
    answer(StatusCode::OK, Accept::JSON.content_type(), crate::body::stream(pieces))
}

/// How objects stand in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Items {
    /// Without `kind` and `apiVersion`.
    Bare,
    Whole,
}

fn put_item(out: &mut BytesMut, at: usize, entry: &Entry, items: Items) {
    if at > 0 {
        out.put_u8(b',');
    }
    if items == Items::Whole {
        out.put_slice(&entry.bytes);
        return;
    }
    match entry.item() {
        Some(item) => {
            out.put_u8(b'{');
            out.put_slice(item);
        }
        None => {
            let mut tree = entry.object();
            if let Some(map) = tree.as_object_mut() {
                map.remove("kind");
                map.remove("apiVersion");
            }
            out.put_slice(tree.to_string().as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continue_tokens_come_back_and_forged_ones_are_refused() {
        let token = decode_token(&encode_token(7, "ns/a\0".to_owned())).unwrap();
        assert_eq!((token.rv, token.start.as_str()), (7, "ns/a\0"));
        let message = decode_token("garbage").unwrap_err().message;
        assert_eq!(
            message,
            "invalid continue token: continue key is not valid: invalid character '\\u0081' \
             looking for beginning of value"
        );
        assert!(decode_token("!!").is_err());
    }
}
