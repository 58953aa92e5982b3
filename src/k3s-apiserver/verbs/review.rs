//! Kinds that are only created and never stored: reviews, and requests for tokens.

use apimachinery::status::{About, Status};
use bytes::Bytes;
use http::{Response, StatusCode};

use super::object::{decode, expected};
use super::options::WriteOptions;
use super::render::{self, Thing};
use crate::auth::review::{Refused, Reviewer};
use crate::body::Body;
use crate::filter::Call;
use crate::kinds::{Kind, Sub};
use crate::negotiate::Accept;

/// Answers a review.
pub async fn serve(call: &Call<'_>, kind: &Kind, body: Bytes) -> Result<Response<Body>, Status> {
    let accept = Accept::read_without_table(&call.parts.headers)?;
    let options = WriteOptions::read(&call.query, "CreateOptions")?;
    let mut warnings = Vec::new();
    let object = decode(call, expected(kind), &body, options.validation, &mut warnings)?;
    call.server.storage.settled().await?;
    let Some(answer) = reviewer(call).review(&kind.kind, object) else {
        return Err(Status::plain(format!("{} is not served yet", kind.kind)));
    };
    let answer = answer.map_err(refusal)?;
    let mut response = render::one(call, kind, accept, StatusCode::CREATED, Thing::Tree(answer));
    render::warn(&mut response, &warnings);
    Ok(response)
}

/// Makes a token for a service account.
pub async fn token(
    call: &Call<'_>,
    kind: &Kind,
    sub: &Sub,
    body: Bytes,
) -> Result<Response<Body>, Status> {
    let accept = Accept::read_without_table(&call.parts.headers)?;
    let options = WriteOptions::read(&call.query, "CreateOptions")?;
    let node = kind.sub_node(sub).ok_or_else(Status::no_resource)?;
    let wanted = apimachinery::decode::Expected {
        group: &sub.group,
        version: &sub.version,
        kind: &sub.kind,
        node,
    };
    let mut warnings = Vec::new();
    let object = decode(call, wanted, &body, options.validation, &mut warnings)?;
    call.server.storage.settled().await?;
    let (answer, warning) =
        reviewer(call).request_token(&call.info.name, object).map_err(refusal)?;
    warnings.extend(warning);
    let mut response = render::one(call, kind, accept, StatusCode::CREATED, Thing::Tree(answer));
    render::warn(&mut response, &warnings);
    Ok(response)
}

fn reviewer<'a>(call: &'a Call<'_>) -> Reviewer<'a> {
    Reviewer {
        authenticator: &call.server.auth.authenticator,
        authorizer: &call.server.auth.authorizer,
        objects: &call.server.cluster,
        user: &call.user,
        namespace: &call.info.namespace,
        now: call.server.now(),
    }
}

fn refusal(refused: Refused) -> Status {
    match refused {
        Refused::Invalid { group, kind, name, errors } => {
            Status::invalid(group, kind, &name, &errors)
        }
        Refused::BadRequest(why) => Status::bad_request(why),
        Refused::NotFound { resource, name } => {
            Status::not_found(About { group: "", resource, name: &name })
        }
        Refused::Conflict { resource, name, why } => {
            Status::conflict(About { group: "", resource: &resource, name: &name }, &why)
        }
        Refused::Internal(why) => Status::internal(why),
    }
}
