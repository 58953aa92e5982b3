//! `pods/binding`, and the old `bindings`: the scheduler's decision.

use apimachinery::status::{About, Status};
use bytes::Bytes;
use http::{Response, StatusCode};

use super::managed::{self, How};
use super::object::decode;
use super::options::WriteOptions;
use super::render::{self, success};
use super::update::{Source, update_object};
use super::write::{Author, Draft, meta_text};
use crate::body::Body;
use crate::filter::Call;
use crate::kinds::Kind;
use crate::negotiate::Accept;
use crate::registry::core::pod_binding::{self, Refused};

/// Binds a pod. `kind` is Pod; for the old form the name comes from the body.
pub async fn bind(call: &Call<'_>, kind: &Kind, body: Bytes) -> Result<Response<Body>, Status> {
    let accept = Accept::read(&call.parts.headers)?;
    let options = WriteOptions::read(&call.query, "CreateOptions")?;
    let validation = options.validation;
    let mut draft = Draft::new(call, kind, options)?;
    draft.subresource = "binding";
    draft.author = Author::Server;
    let node = api::schema::kind("", "v1", "Binding")
        .ok_or_else(|| Status::plain("no schema of Binding"))?;
    let expected =
        apimachinery::decode::Expected { group: "", version: "v1", kind: "Binding", node };
    let mut binding = decode(call, expected, &body, validation, &mut draft.warnings)?;
    let named = meta_text(&binding, "name").to_owned();
    let name = if call.info.subresource.is_empty() { named } else { call.info.name.clone() };
    draft.review(["", "v1", "Binding"], "binding", &name, &mut binding).await?;
    let manager = managed::manager(&draft);
    let now = draft.now;
    let make = |old: &crate::registry::Object, _: &mut Vec<String>| {
        let mut pod = old.clone();
        pod_binding::bind(&mut pod, &binding, now).map_err(|refused| match refused {
            Refused::Invalid(errors) => Status::invalid("", "Binding", &name, &errors),
            Refused::Conflict(why) => {
                Status::conflict(About { group: "", resource: "pods/binding", name: &name }, &why)
            }
        })?;
        Ok(pod)
    };
    update_object(&mut draft, &name, Source::Patch, How::Update(&manager), make).await?;
    let mut response = render::status(accept, StatusCode::CREATED, &success(StatusCode::CREATED));
    render::warn(&mut response, &draft.warnings);
    Ok(response)
}
