//! From a request to the code that answers it.

use std::sync::Arc;

use apimachinery::status::Status;
use http::header::ACCEPT;
use http::{Method, Response, StatusCode};
use hyper::body::Incoming;
use jiff::Timestamp;

use crate::aggregation::{self, Delegate};
use crate::body::{Body, text};
use crate::filter::{Call, read_body};
use crate::kinds::Kind;
use crate::negotiate::{Accept, CUSTOM_ACCEPTED};
use crate::{documents, health, verbs, zpages};

/// Answers an authorised request.
pub async fn dispatch(call: Call<'_>, body: Incoming) -> Result<Response<Body>, Status> {
    if let Some(delegate) = delegate(&call) {
        return aggregation::proxy::serve(&call, &delegate, body).await;
    }
    if !call.info.is_resource {
        return plain(&call).await;
    }
    let info = &call.info;
    let kind = call.server.kinds.get(&info.group, &info.version, &info.resource);
    let Some(kind) = kind else { return unknown(&call) };
    let mut call = call;
    if kind.custom().is_some() {
        let misplaced = kind.namespaced == call.info.namespace.is_empty()
            && (!kind.namespaced || !matches!(call.info.verb, "list" | "watch"));
        if misplaced {
            return Ok(documents::not_found());
        }
        if call.parts.headers.contains_key(ACCEPT) {
            let accept = Accept::without_protobuf(&call.parts.headers);
            let accept = accept.ok_or_else(|| Status::not_acceptable(CUSTOM_ACCEPTED))?;
            call.parts.headers.insert(ACCEPT, accept);
        }
    }
    let info = &call.info;
    if kind.namespaced && info.namespace.is_empty() && !matches!(info.verb, "list" | "watch") {
        // A collection takes a selector's name, no other path without a namespace has a name.
        let named = !info.name.is_empty() && info.verb != "deletecollection";
        return Err(if named { Status::no_resource() } else { Status::method_not_allowed() });
    }
    if !kind.namespaced && !info.namespace.is_empty() && info.resource != "namespaces" {
        return Err(Status::no_resource());
    }
    if !kind.namespaced {
        call.info.namespace.clear();
    }
    let answer = if call.info.subresource.is_empty() {
        object(&call, &kind, body).await
    } else {
        verbs::subresource::serve(&call, &kind, body).await
    };
    let custom = kind.custom().and_then(|custom| custom.deprecation.as_deref());
    let Some(warning) = deprecated(&kind).or(custom) else { return answer };
    let warnings = [warning.to_owned()];
    let mut response = answer.map_err(|mut status| {
        status.warnings.extend_from_slice(&warnings);
        status
    })?;
    verbs::render::warn(&mut response, &warnings);
    Ok(response)
}

/// Another server that this path belongs to: `/apis/<group>/<version>` and all below, and its
/// OpenAPI document.
fn delegate(call: &Call<'_>) -> Option<Arc<Delegate>> {
    let delegates = &call.server.delegates;
    if call.info.is_resource {
        return delegates.find(&call.info.group, &call.info.version);
    }
    let mut parts = call.info.path.trim_matches('/').split('/');
    let mut first = parts.next();
    if first == Some("openapi") && parts.next() == Some("v3") {
        first = parts.next();
    }
    match (first, parts.next(), parts.next(), parts.next()) {
        (Some("apis"), Some(group), Some(version), None) => delegates.find(group, version),
        _ => None,
    }
}

/// What every use of a deprecated resource is told.
fn deprecated(kind: &Kind) -> Option<&'static str> {
    match (kind.api_version.as_str(), kind.kind.as_str()) {
        ("v1", "Endpoints") => {
            Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
        }
        ("v1", "ComponentStatus") => Some("v1 ComponentStatus is deprecated in v1.19+"),
        _ => None,
    }
}

async fn object(
    call: &Call<'_>,
    kind: &Arc<Kind>,
    body: Incoming,
) -> Result<Response<Body>, Status> {
    let verb = call.info.verb;
    if !kind.has_verb(verb) {
        return Err(Status::method_not_allowed());
    }
    verbs::table::Include::check(call)?;
    if kind.has_verb("create") && !kind.has_verb("list") {
        if kind.kind == "Binding" {
            let pods = call.server.kinds.get("", "v1", "pods").ok_or_else(Status::no_resource)?;
            return verbs::binding::bind(call, &pods, read_body(call, body).await?).await;
        }
        return verbs::review::serve(call, kind, read_body(call, body).await?).await;
    }
    match verb {
        "get" => verbs::get::get(call, kind).await,
        "list" => verbs::list::list(call, kind).await,
        "watch" => verbs::watch::watch(call, kind).await,
        "create" => verbs::create::create(call, kind, read_body(call, body).await?).await,
        "update" => verbs::update::update(call, kind, read_body(call, body).await?).await,
        "patch" => verbs::patch::patch(call, kind, read_body(call, body).await?).await,
        "delete" => verbs::delete::delete(call, kind, read_body(call, body).await?).await,
        "deletecollection" => {
            verbs::delete::collection(call, kind, read_body(call, body).await?).await
        }
        _ => Err(Status::method_not_allowed()),
    }
}

/// No such resource: what is in none of our groups would be a custom one.
fn unknown(call: &Call<'_>) -> Result<Response<Body>, Status> {
    let info = &call.info;
    match call.server.kinds.has_group_version(&info.group, &info.version) {
        true => Err(Status::no_resource()),
        false => Ok(documents::not_found()),
    }
}

/// Paths that name no resource.
async fn plain(call: &Call<'_>) -> Result<Response<Body>, Status> {
    let path = call.info.path.trim_end_matches('/');
    let get = matches!(call.parts.method, Method::GET | Method::HEAD);
    if let (true, Some(answer)) = (get, documents::serve(call, path)) {
        return answer;
    }
    match path {
        "/debug/api_priority_and_fairness/dump_priority_levels" if get => {
            Ok(text(StatusCode::OK, call.server.flow_control.dump()))
        }
        "/version" if get => Ok(health::version()),
        "/flagz" if get => zpages::flags(call),
        "/statusz" if get => zpages::status(call),
        "/metrics/slis" if get => {
            Ok(text(StatusCode::OK, call.server.metrics.render_checks(call.server.begun)))
        }
        "/metrics" if get => {
            let mut all = call.server.metrics.render();
            all.push_str(&call.server.metrics.render_checks(call.server.begun));
            call.server.flow_control.render(&mut all);
            all.push_str(&certificates(call));
            Ok(text(StatusCode::OK, all))
        }
        "/.well-known/openid-configuration" | "/openid/v1/jwks" if get => {
            Ok(health::issuer(call, path))
        }
        _ if get && is_health(path) => Ok(health::check(call, path)),
        _ => Err(Status::no_resource()),
    }
}

/// k3s' metric of the certificates that this server keeps.
fn certificates(call: &Call<'_>) -> String {
    let folder = call.server.args.supervisor_dir.as_ref().map(|dir| dir.join("tls"));
    pki::expiration_metric(folder.as_deref(), Timestamp::now().as_second())
}

fn is_health(path: &str) -> bool {
    let first = path.split('/').nth(1).unwrap_or_default();
    matches!(first, "healthz" | "livez" | "readyz")
}
