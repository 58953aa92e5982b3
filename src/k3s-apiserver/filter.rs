//! The chain that every request runs through: read it, authenticate, impersonate, authorise,
//! dispatch, count.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use apimachinery::decode::Media;
use apimachinery::status::Status;
use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::api_server::ApiServer;
use crate::audit::{Annotations, Record};
use crate::auth;
use crate::body::{Body, full, refusal};
use crate::dispatch::dispatch;
use crate::metrics::Labels;
use crate::negotiate::Accept;
use crate::request::{Query, RequestInfo};
use crate::server::Peer;
use crate::supervisor;
use crate::user::UserInfo;
use crate::verbs::render::encode;

/// The largest body, upstream's `MaxRequestBodyBytes`.
pub const BODY_MAX: usize = 3 << 20;
/// How long a client may take to send its body.
const BODY_TIME: std::time::Duration = std::time::Duration::from_secs(60);

/// A request that has been read and may be served.
pub struct Call<'a> {
    pub server: &'a Arc<ApiServer>,
    pub info: RequestInfo,
    pub query: Query,
    pub parts: Parts,
    pub user: UserInfo,
    pub peer: &'a Peer,
    pub annotations: Arc<Annotations>,
    /// For the audit log, when it wants to know about the request.
    pub record: Option<Arc<Record>>,
}

/// Answers one request; never fails.
pub async fn handle(
    server: &Arc<ApiServer>,
    peer: &Peer,
    request: Request<Incoming>,
) -> Response<Body> {
    let begun = Instant::now();
    let (parts, body) = request.into_parts();
    let query = Query::parse(parts.uri.query());
    let info = RequestInfo::new(&parts.method, parts.uri.path(), &query);
    let mut labels = Labels {
        verb: info.verb,
        group: info.group.clone(),
        version: info.version.clone(),
        resource: info.resource.clone(),
        subresource: info.subresource.clone(),
        code: 0,
    };
    let known =
        info.is_resource && server.kinds.get(&info.group, &info.version, &info.resource).is_some();
    let accept = Accept::read(&parts.headers).unwrap_or(Accept::JSON);
    server.metrics.inflight.fetch_add(1, Ordering::Relaxed);
    let mut response = match serve(server, peer, info, query, parts, accept, body).await {
        Ok(response) => response,
        Err(status) => refused(&status, accept),
    };
    server.metrics.inflight.fetch_sub(1, Ordering::Relaxed);
    if !known {
        labels = Labels {
            group: String::new(),
            version: String::new(),
            resource: String::new(),
            subresource: String::new(),
            ..labels
        };
    }
    labels.code = response.status().as_u16();
    server.metrics.count(labels, begun.elapsed());
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let value = HeaderValue::from_static("no-cache, private");
        response.headers_mut().entry(CACHE_CONTROL).or_insert(value);
    }
    response
}

/// A refusal in the encoding that the client wants.
fn refused(status: &Status, accept: Accept) -> Response<Body> {
    let mut response = refusal(status);
    if accept.media != Media::Json {
        *response.body_mut() = full(encode(accept.media, &status.to_value()));
        response.headers_mut().insert(CONTENT_TYPE, accept.content_type());
    }
    response
}

async fn serve(
    server: &Arc<ApiServer>,
    peer: &Peer,
    info: RequestInfo,
    query: Query,
    parts: Parts,
    accept: Accept,
    body: Incoming,
) -> Result<Response<Body>, Status> {
    if supervisor::owns(&info.path) {
        return supervisor::serve(server, peer, &info, &parts, body).await;
    }
    let user = match auth::authenticate(server, peer, &parts, &info).await {
        Ok(user) => user,
        Err(status) => {
            let response = refused(&status, accept);
            return Ok(match begin(server, peer, &parts, &info, &UserInfo::default()) {
                Some(record) => record.answer(&info, response),
                None => response,
            });
        }
    };
    let Some(record) = begin(server, peer, &parts, &info, &user) else {
        return admitted(server, peer, info, query, parts, user, None, accept, body).await;
    };
    let about = info.clone();
    let kept = Some(record.clone());
    let answer = admitted(server, peer, info, query, parts, user, kept, accept, body).await;
    let response = answer.unwrap_or_else(|status| refused(&status, accept));
    Ok(record.answer(&about, response))
}

/// Begins the audit record of a request, where there is an audit log that wants it.
fn begin(
    server: &ApiServer,
    peer: &Peer,
    parts: &Parts,
    info: &RequestInfo,
    user: &UserInfo,
) -> Option<Arc<Record>> {
    Record::begin(server.audit.as_ref()?, peer, parts, info, user)
}

/// From the authenticated user to a free seat.
async fn admitted(
    server: &Arc<ApiServer>,
    peer: &Peer,
    info: RequestInfo,
    query: Query,
    parts: Parts,
    user: UserInfo,
    record: Option<Arc<Record>>,
    accept: Accept,
    body: Incoming,
) -> Result<Response<Body>, Status> {
    let asked = record.as_ref().map(|record| (record, user.name.clone()));
    let user = auth::impersonate(server, user, &parts, &info).await?;
    if let Some((record, name)) = asked
        && user.name != name
    {
        record.impersonated(&user);
    }
    let admitted = match server.flow_control.admit(&user, &info).await {
        Ok(admitted) => admitted,
        Err(response) => return Ok(*response),
    };
    let mut response = match authorized(server, peer, info, query, parts, user, record, body).await
    {
        Ok(response) => response,
        Err(status) => refused(&status, accept),
    };
    admitted.mark(&mut response);
    Ok(response)
}

async fn authorized(
    server: &Arc<ApiServer>,
    peer: &Peer,
    info: RequestInfo,
    query: Query,
    parts: Parts,
    user: UserInfo,
    record: Option<Arc<Record>>,
    body: Incoming,
) -> Result<Response<Body>, Status> {
    let annotations = record.as_ref().map(|record| record.annotations.clone()).unwrap_or_default();
    let allowed = auth::authorize(server, &user, &info, &query).await;
    if record.is_some() {
        let decision = if allowed.is_ok() { "allow" } else { "forbid" };
        annotations.add("authorization.k8s.io/decision", decision);
        let reason = allowed.as_ref().unwrap_or_else(|status| &status.message);
        annotations.add("authorization.k8s.io/reason", reason.as_str());
    }
    allowed?;
    let call = Call { server, info, query, parts, user, peer, annotations, record };
    dispatch(call, body).await
}

/// Reads the body of a request, within limits.
pub async fn read_body(call: &Call<'_>, body: Incoming) -> Result<Bytes, Status> {
    let all = read_all(body).await?;
    if let Some(record) = &call.record {
        record.request(&call.parts, &all);
    }
    Ok(all)
}

/// Reads a whole body, within limits.
pub async fn read_all(body: Incoming) -> Result<Bytes, Status> {
    match tokio::time::timeout(BODY_TIME, gather(body)).await {
        Ok(read) => read,
        Err(_) => Err(Status::new(408, "Timeout", "the body did not come in time")),
    }
}

async fn gather(mut body: Incoming) -> Result<Bytes, Status> {
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|err| Status::bad_request(format!("the body could not be read: {err}")))?;
        if let Ok(data) = frame.into_data() {
            if all.len() + data.len() > BODY_MAX {
                return Err(Status::too_large(&format!("limit is {BODY_MAX}")));
            }
            if all.is_empty() && body.is_end_stream() {
                return Ok(data);
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(all.freeze())
}
