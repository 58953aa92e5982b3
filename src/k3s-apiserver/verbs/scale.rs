//! `scale`: the number of replicas of whatever has one.

use apimachinery::apply::{from_scale, set_managed_fields, to_scale};
use apimachinery::field::FieldErrors;
use apimachinery::meta;
use apimachinery::patch::{self, PatchKind, Typing};
use apimachinery::status::Status;
use bytes::Bytes;
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::managed::{self, How};
use super::object::decode;
use super::options::WriteOptions;
use super::render::{self, Thing};
use super::update::{Source, check_name, update_object};
use super::write::Draft;
use crate::body::Body;
use crate::filter::Call;
use crate::kinds::{Kind, Sub};
use crate::negotiate::{Accept, content_type};
use crate::registry::{Object, ScalePaths};

pub async fn serve(
    call: &Call<'_>,
    kind: &Kind,
    sub: &Sub,
    body: Bytes,
) -> Result<Response<Body>, Status> {
    let accept = Accept::read(&call.parts.headers)?;
    let name = call.info.name.as_str();
    let paths = kind.strategy.scale();
    let replicas: Vec<&str> = paths.replicas.iter().map(String::as_str).collect();
    if call.parts.method == Method::GET {
        call.server.storage.settled().await?;
        let draft = Draft::new(call, kind, WriteOptions::read(&call.query, "GetOptions")?)?;
        let entry = draft.store.get(&draft.key(name));
        let entry = entry.ok_or_else(|| Status::not_found(kind.about(name)))?;
        let mut scale = scale_of(&draft.served(&entry).await?, &paths);
        set_managed_fields(&mut scale, None);
        return Ok(render::one(call, kind, accept, StatusCode::OK, Thing::Tree(scale)));
    }
    let patching = call.parts.method == Method::PATCH;
    let what = if patching { "PatchOptions" } else { "UpdateOptions" };
    let options = WriteOptions::read(&call.query, what)?;
    let mut draft = Draft::new(call, kind, options)?;
    let mut planner = Draft::new(call, kind, draft.options.clone())?;
    planner.memo = draft.memo.clone();
    let manager = managed::manager(&draft);
    let sent = if patching {
        None
    } else {
        let node = kind.sub_node(sub).ok_or_else(Status::no_resource)?;
        let expected = apimachinery::decode::Expected {
            group: &sub.group,
            version: &sub.version,
            kind: &sub.kind,
            node,
        };
        let validation = draft.options.validation;
        Some(decode(call, expected, &body, validation, &mut draft.warnings)?)
    };
    let node = kind.sub_node(sub).ok_or_else(Status::no_resource)?;
    let make = |old: &Object, warnings: &mut Vec<String>| {
        let before = scale_of(old, &paths);
        let after = match &sent {
            Some(sent) => sent.clone(),
            None => patched(call, &planner, &before, &body, node, &manager, warnings)?,
        };
        check_name(&after, name)?;
        if kind.custom().is_none() {
            check(&after, name)?;
        }
        let revision = &after["metadata"]["resourceVersion"];
        if revision.as_str().is_some_and(|text| !text.is_empty())
            && *revision != before["metadata"]["resourceVersion"]
        {
            return Err(Status::modified(kind.about(name)));
        }
        let mut recorded = after;
        if content_type(&call.parts.headers) != "application/apply-patch+yaml" {
            managed::record_scale(&planner, node, &before, &mut recorded, &manager);
        }
        let mut new = old.clone();
        set_replicas(&mut new, &paths, &recorded);
        let fields = from_scale(old, &recorded, &replicas, &kind.api_version);
        set_managed_fields(&mut new, fields);
        Ok(new)
    };
    let entry = update_object(&mut draft, name, Source::Patch, How::Applied, make).await?;
    let mut scale = scale_of(&draft.served(&entry).await?, &paths);
    set_managed_fields(&mut scale, None);
    let mut response = render::one(call, kind, accept, StatusCode::OK, Thing::Tree(scale));
    render::warn(&mut response, &draft.warnings);
    Ok(response)
}

/// Puts the number of a Scale into its object.
pub fn set_replicas(object: &mut Object, paths: &ScalePaths, scale: &Value) {
    let path: Vec<&str> = paths.replicas.iter().map(String::as_str).collect();
    let count = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    *meta::place(object, &path) = count.into();
}

/// The Scale of an object.
pub fn scale_of(object: &Object, paths: &ScalePaths) -> Value {
    let meta = &object["metadata"];
    let mut shown = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = meta.get(field) {
            shown[field] = value.clone();
        }
    }
    let find = |path: &[String]| path.iter().try_fold(object, |value, name| value.get(name));
    let count = |path: &[String]| find(path).and_then(Value::as_i64).unwrap_or(0);
    let mut spec = json!({});
    if count(&paths.replicas) != 0 {
        spec["replicas"] = count(&paths.replicas).into();
    }
    let mut status = json!({"replicas": count(&paths.status_replicas)});
    let selector = match find(&paths.selector).filter(|_| !paths.selector.is_empty()) {
        Some(Value::String(text)) => text.clone(),
        Some(selector) => selector_text(selector),
        None => String::new(),
    };
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    let mut scale = json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": shown,
        "spec": spec, "status": status});
    let replicas: Vec<&str> = paths.replicas.iter().map(String::as_str).collect();
    set_managed_fields(&mut scale, to_scale(object, &replicas));
    scale
}

/// A selector as a query parameter has it.
fn selector_text(selector: &Value) -> String {
    let structured =
        selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some();
    let labels = if structured { &selector["matchLabels"] } else { selector };
    let mut terms: Vec<(String, String)> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.clone(), format!("{key}={}", value.as_str().unwrap_or_default())))
        .collect();
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or_default();
        let mut values: Vec<&str> = expression["values"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        values.sort_unstable();
        let values = values.join(",");
        let term = match expression["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        };
        terms.push((key.to_owned(), term));
    }
    terms.sort();
    terms.into_iter().map(|(_, term)| term).collect::<Vec<_>>().join(",")
}

fn check(scale: &Value, name: &str) -> Result<(), Status> {
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas >= 0 {
        return Ok(());
    }
    let mut errors = FieldErrors::default();
    errors.invalid("spec.replicas", replicas, "must be greater than or equal to 0");
    Err(Status::invalid("autoscaling", "Scale", name, &errors))
}

fn patched(
    call: &Call<'_>,
    planner: &Draft<'_>,
    before: &Value,
    body: &Bytes,
    node: api::schema::Node<'_>,
    manager: &str,
    warnings: &mut Vec<String>,
) -> Result<Value, Status> {
    let kind = match content_type(&call.parts.headers) {
        "application/json-patch+json" => PatchKind::Json,
        "application/merge-patch+json" => PatchKind::Merge,
        "application/strategic-merge-patch+json" => PatchKind::Strategic,
        "application/apply-patch+yaml" => {
            let parsed = apimachinery::yaml::parse(body)
                .map_err(|err| Status::bad_request(format!("error decoding YAML: {err}")))?;
            return managed::apply_scale(planner, node, before, &parsed.value, manager);
        }
        _ => return Err(super::patch::unsupported()),
    };
    let patched = patch::apply(kind, before.clone(), body, node, Typing::Typed)?;
    let (after, mut found) = patched.validated(planner.options.validation)?;
    warnings.append(&mut found);
    Ok(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_written_as_queries() {
        let check = |selector: Value, want: &str| assert_eq!(selector_text(&selector), want);
        check(json!({"app": "a"}), "app=a");
        check(
            json!({"matchLabels": {"b": "1"},
                "matchExpressions": [{"key": "a", "operator": "In", "values": ["y", "x"]}]}),
            "a in (x,y),b=1",
        );
        check(json!(null), "");
    }
}
