//! Subresources: below an object, each with its own body and rules.

use apimachinery::status::Status;
use http::{Method, Response};
use hyper::body::Incoming;

use super::{binding, eviction, get, patch, review, scale, update};
use crate::body::Body;
use crate::filter::{Call, read_body};
use crate::kinds::Kind;
use crate::proxy;

/// Answers a request below an object.
pub async fn serve(call: &Call<'_>, kind: &Kind, body: Incoming) -> Result<Response<Body>, Status> {
    let info = &call.info;
    let Some(sub) = kind.sub(&info.subresource) else { return Err(Status::no_resource()) };
    // OPTIONS has no verb of ours, and what is behind a proxy answers it.
    let options = sub.name == "proxy" && call.parts.method == Method::OPTIONS;
    if !options && !sub.verbs.iter().any(|verb| verb == info.verb) {
        return Err(Status::method_not_allowed());
    }
    // Those whose body is the object itself: the strategy sees which one it is.
    if sub.kind == kind.kind && sub.name != "log" {
        return match call.parts.method {
            Method::GET | Method::HEAD => get::get(call, kind).await,
            Method::PUT => update::update(call, kind, read_body(call, body).await?).await,
            Method::PATCH => patch::patch(call, kind, read_body(call, body).await?).await,
            _ => Err(Status::method_not_allowed()),
        };
    }
    match (kind.resource.as_str(), sub.name.as_str()) {
        ("serviceaccounts", "token") => {
            return review::token(call, kind, sub, read_body(call, body).await?).await;
        }
        (_, "scale") => return scale::serve(call, kind, sub, read_body(call, body).await?).await,
        ("pods", "binding") => {
            return binding::bind(call, kind, read_body(call, body).await?).await;
        }
        ("pods", "eviction") => {
            return eviction::evict(call, kind, sub, read_body(call, body).await?).await;
        }
        (_, "log" | "exec" | "attach" | "portforward" | "proxy") => {
            return proxy::serve(call, kind, body).await;
        }
        _ => {}
    }
    Err(Status::plain(format!("{}/{} is not served yet", kind.plural, sub.name)))
}
