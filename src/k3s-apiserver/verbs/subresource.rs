//! Subresources: below an object, each with its own body and rules.

use http::{Method, Response};
use hyper::body::Incoming;

use super::{get, patch, review, update};
use crate::body::Body;
use crate::filter::{Call, read_body};
use crate::kinds::Kind;
use crate::status::Status;

/// Answers a request below an object.
pub async fn serve(call: &Call<'_>, kind: &Kind, body: Incoming) -> Result<Response<Body>, Status> {
    let info = &call.info;
    let Some(sub) = kind.sub(&info.subresource) else { return Err(Status::no_resource()) };
    if !sub.verbs.iter().any(|verb| verb == info.verb) {
        return Err(Status::method_not_allowed());
    }
    // Those whose body is the object itself: the strategy sees which one it is.
    if sub.kind == kind.kind {
        return match call.parts.method {
            Method::GET | Method::HEAD => get::get(call, kind).await,
            Method::PUT => update::update(call, kind, read_body(body).await?).await,
            Method::PATCH => patch::patch(call, kind, read_body(body).await?).await,
            _ => Err(Status::method_not_allowed()),
        };
    }
    if kind.resource == "serviceaccounts" && sub.name == "token" {
        return review::token(call, kind, sub, read_body(body).await?).await;
    }
    Err(Status::plain(format!("{}/{} is not served yet", kind.plural, sub.name)))
}
