//! The paths that describe the server: discovery, OpenAPI, and the list of all paths.
//!
//! Documents are made when they are asked for. The one thing that is kept are the hashes of the
//! OpenAPI documents, because the index names them all.

use std::sync::{Arc, OnceLock};

use apimachinery::decode::Media;
use apimachinery::protobuf;
use apimachinery::status::Status;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::body::{Body, JSON, answer, full, text};
use crate::discovery::{self, Group, Root};
use crate::filter::Call;
use crate::kinds::Kind;
use crate::negotiate::Accept;
use crate::openapi;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// Answers a GET of a path without trailing slash; `None` where the path is another's.
pub fn serve(call: &Call<'_>, path: &str) -> Option<Result<Response<Body>, Status>> {
    let parts = path.split('/').skip(1).collect::<Vec<_>>();
    Some(match parts.as_slice() {
        [] => index(call),
        ["api"] => api(call),
        ["api", "v1"] => resources(call, "", "v1"),
        ["apis"] => apis(call),
        ["apis", group] => one_group(call, group),
        ["apis", group, version] => resources(call, group, version),
        ["openapi", "v2"] => openapi_v2(call),
        ["openapi", "v3"] => Ok(document(&openapi_index(call))),
        ["openapi", "v3", rest @ ..] => openapi_v3(call, rest),
        ["openapi", ..] => Ok(not_found()),
        _ => return None,
    })
}

/// What has no page.
pub fn not_found() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// What is served, in discovery's shape.
fn groups(call: &Call<'_>) -> Vec<Group> {
    let kinds = &call.server.kinds;
    let mut groups =
        discovery::builtin_groups(|r| kinds.get(r.group, r.version, r.plural).is_some());
    for kind in kinds.custom() {
        if let Some(definition) = kind.custom() {
            let resource = discovery::custom(&kind, definition);
            discovery::add(&mut groups, &kind.group, &kind.version, resource);
        }
    }
    call.server.delegates.discover(&mut groups);
    groups
}

/// A discovery document in the encoding that the client wants.
fn negotiated(call: &Call<'_>, value: &Value) -> Result<Response<Body>, Status> {
    let accept = Accept::read(&call.parts.headers)?;
    let body = match accept.media {
        Media::Json => value.to_string().into_bytes(),
        Media::Yaml => serde_saphyr::to_string(value).unwrap_or_default().into_bytes(),
        Media::Protobuf => {
            let kind = value["kind"].as_str().unwrap_or_default();
            match api::schema::definition(&format!("{META}.{kind}")) {
                Some(node) => protobuf::encode_object(value, node),
                None => return Err(Status::no_resource()),
            }
        }
    };
    Ok(answer(StatusCode::OK, accept.content_type(), full(body)))
}

/// Whether the aggregated form is the first that the client names and we have.
fn wants_aggregated(call: &Call<'_>) -> bool {
    let header = call.parts.headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    for clause in header.unwrap_or_default().split(',').map(str::trim) {
        let mut parts = clause.split(';').map(str::trim);
        if parts.next() != Some("application/json") {
            continue;
        }
        let parts = parts.filter(|part| !part.starts_with("q=")).collect::<Vec<_>>();
        if parts.is_empty() {
            return false;
        }
        let wanted = ["g=apidiscovery.k8s.io", "v=v2", "as=APIGroupDiscoveryList"];
        if wanted.iter().all(|part| parts.contains(part)) {
            return true;
        }
    }
    false
}

fn aggregated(call: &Call<'_>, root: Root) -> Response<Body> {
    let text = discovery::aggregated(&groups(call), root).to_string();
    let mut response = tagged(call, HeaderValue::from_static(AGGREGATED), text);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public"));
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    response
}

/// A document with its ETag, or only word that the client has it already.
fn tagged(call: &Call<'_>, content_type: HeaderValue, text: String) -> Response<Body> {
    let etag = discovery::etag(text.as_bytes());
    let known = call.parts.headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    let fresh = known == Some(etag.as_str());
    let mut response = match fresh {
        true => answer(StatusCode::NOT_MODIFIED, content_type, full("")),
        false => answer(StatusCode::OK, content_type, full(text)),
    };
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(ETAG, etag);
    }
    response
}

fn api(call: &Call<'_>) -> Result<Response<Body>, Status> {
    if wants_aggregated(call) {
        return Ok(aggregated(call, Root::Core));
    }
    let args = &call.server.args;
    let host = args.advertise_address.map(|address| address.to_string()).unwrap_or_default();
    negotiated(call, &discovery::api_versions(&format!("{host}:{}", args.secure_port)))
}

fn apis(call: &Call<'_>) -> Result<Response<Body>, Status> {
    match wants_aggregated(call) {
        true => Ok(aggregated(call, Root::Named)),
        false => negotiated(call, &discovery::group_list(&groups(call))),
    }
}

fn one_group(call: &Call<'_>, name: &str) -> Result<Response<Body>, Status> {
    let groups = groups(call);
    match groups.iter().find(|group| group.name == name && !name.is_empty()) {
        Some(group) => negotiated(call, &discovery::group(group)),
        None => Ok(not_found()),
    }
}

fn resources(call: &Call<'_>, group: &str, version: &str) -> Result<Response<Body>, Status> {
    let groups = groups(call);
    let found = groups.iter().find(|found| found.name == group);
    match found.and_then(|found| found.versions.iter().find(|found| found.name == version)) {
        Some(version) => negotiated(call, &discovery::resource_list(group, version)),
        None => Ok(not_found()),
    }
}

fn document(value: &Value) -> Response<Body> {
    answer(StatusCode::OK, JSON, full(value.to_string()))
}

fn is_served(call: &Call<'_>, r: &api::resources::Resource) -> bool {
    call.server.kinds.get(r.group, r.version, r.plural).is_some()
}

fn openapi_v2(call: &Call<'_>) -> Result<Response<Body>, Status> {
    Accept::read(&call.parts.headers)?;
    let mut whole = openapi::v2::document(|r| is_served(call, r));
    openapi::custom::extend_v2(&mut whole, &call.server.kinds.custom());
    Ok(tagged(call, JSON, whole.to_string()))
}

fn openapi_document(call: &Call<'_>, group: &str, version: &str) -> Option<Value> {
    let kinds = custom_kinds(call, group, version);
    match kinds.is_empty() {
        true => openapi::v3::document(group, version, |r| is_served(call, r)),
        false => Some(openapi::custom::document(group, version, &kinds)),
    }
}

/// The custom kinds of a group version.
fn custom_kinds(call: &Call<'_>, group: &str, version: &str) -> Vec<Arc<Kind>> {
    let mut kinds = call.server.kinds.custom();
    kinds.retain(|kind| kind.group == group && kind.version == version);
    kinds
}

fn openapi_index(call: &Call<'_>) -> Value {
    static HASHES: OnceLock<Vec<(String, String)>> = OnceLock::new();
    let served = |resource: &api::resources::Resource| is_served(call, resource);
    let builtin = HASHES.get_or_init(|| {
        let mut hashes = Vec::new();
        for group in discovery::builtin_groups(served) {
            for version in &group.versions {
                let (group, version) = (&group.name, &version.name);
                let print = openapi::v3::fingerprint(group, version, served);
                hashes.extend(print.map(|print| (openapi::v3::path(group, version), print)));
            }
        }
        hashes
    });
    let mut versions: Vec<(String, String)> = Vec::new();
    for kind in call.server.kinds.custom() {
        let version = (kind.group.clone(), kind.version.clone());
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    let custom: Vec<(String, String)> = versions
        .iter()
        .map(|(group, version)| {
            let kinds = custom_kinds(call, group, version);
            (openapi::v3::path(group, version), openapi::custom::fingerprint(&kinds))
        })
        .collect();
    let all = builtin.iter().chain(&custom);
    let mut index = openapi::v3::index(all.map(|(path, hash)| (path.as_str(), hash.as_str())));
    for delegate in call.server.delegates.all().iter() {
        let path = openapi::v3::path(&delegate.group, &delegate.version);
        if let Some(query) = &delegate.openapi {
            let url = format!("/openapi/v3/{path}?{query}");
            index["paths"][path] = json!({"serverRelativeURL": url});
        }
    }
    index
}

fn openapi_v3(call: &Call<'_>, rest: &[&str]) -> Result<Response<Body>, Status> {
    let found = match rest {
        ["api", version] => openapi_document(call, "", version),
        ["apis", group, version] if !group.is_empty() => openapi_document(call, group, version),
        _ => None,
    };
    match found {
        Some(found) => {
            let mut response = document(&found);
            response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
            Ok(response)
        }
        None => {
            let mut response = answer(StatusCode::NOT_FOUND, JSON, full(""));
            response.headers_mut().remove(CONTENT_TYPE);
            Ok(response)
        }
    }
}

/// `GET /`
fn index(call: &Call<'_>) -> Result<Response<Body>, Status> {
    Ok(document(&json!({"paths": paths(call)})))
}

/// What is served besides objects, sorted.
pub fn paths(call: &Call<'_>) -> Vec<String> {
    let mut paths =
        vec!["/api".to_owned(), "/api/v1".to_owned(), "/apis".to_owned(), "/apis/".to_owned()];
    for group in groups(call).iter().filter(|group| !group.name.is_empty()) {
        paths.push(format!("/apis/{}", group.name));
        let versions = group.versions.iter();
        paths.extend(versions.map(|version| format!("/apis/{}/{}", group.name, version.name)));
    }
    let others = [
        "/.well-known/openid-configuration",
        "/flagz",
        "/metrics",
        "/metrics/slis",
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/",
        "/openid/v1/jwks",
        "/statusz",
        "/version",
    ];
    paths.extend(others.map(str::to_owned));
    paths.extend(crate::health::paths());
    paths.sort();
    paths
}
