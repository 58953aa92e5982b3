//! One event as the log has it: `audit.k8s.io/v1`. Pure.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::registry::value::{key, text};
use crate::request::RequestInfo;

/// Times of the audit log have microseconds.
pub(super) fn micro_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

/// What a request is about.
pub(super) fn reference(info: &RequestInfo) -> Option<Value> {
    if !info.is_resource {
        return None;
    }
    let mut about = Map::new();
    for (field, value) in [
        ("resource", &info.resource),
        ("namespace", &info.namespace),
        ("name", &info.name),
        ("apiGroup", &info.group),
        ("apiVersion", &info.version),
        ("subresource", &info.subresource),
    ] {
        if !value.is_empty() {
            about.insert(field.to_owned(), value.as_str().into());
        }
    }
    Some(about.into())
}

/// Adds to what a request is about what only its object says.
pub(super) fn complete(about: &mut Value, object: &Value) {
    let Some(about) = about.as_object_mut() else { return };
    for (field, path) in [
        ("name", "metadata.name"),
        ("namespace", "metadata.namespace"),
        ("uid", "metadata.uid"),
        ("resourceVersion", "metadata.resourceVersion"),
    ] {
        let value = text(object, path);
        if !about.contains_key(field) && !value.is_empty() {
            about.insert(field.to_owned(), value.into());
        }
    }
}

/// An object as events show it; a list loses the managed fields of its items.
pub(super) fn object(mut object: Value, omit_managed_fields: bool) -> Value {
    if omit_managed_fields {
        let items = object.get_mut("items").and_then(Value::as_array_mut);
        for item in items.into_iter().flatten() {
            forget(item);
        }
        forget(&mut object);
    }
    object
}

fn forget(object: &mut Value) {
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
    }
}

/// What an answer's object says about its success.
pub(super) fn status(code: u16, object: Option<&Value>) -> Value {
    let mut status = json!({"metadata": {}, "code": code});
    let said = object.filter(|object| object["kind"] == "Status" && object["apiVersion"] == "v1");
    if let Some(said) = said {
        for field in ["status", "message", "reason", "details"] {
            if !key(said, field).is_null() {
                status[field] = key(said, field).clone();
            }
        }
    }
    status
}

/// The old format: one line of names and values.
pub(super) fn legacy(event: &Value) -> String {
    let user = key(event, "user");
    let groups: Vec<String> = user["groups"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|group| format!("{:?}", group.as_str().unwrap_or_default()))
        .collect();
    let groups = if groups.is_empty() { "\"<none>\"".to_owned() } else { groups.join(",") };
    let or =
        |text: &str, other: &str| if text.is_empty() { other.to_owned() } else { text.to_owned() };
    let code = event["responseStatus"]["code"].as_u64();
    format!(
        "{} AUDIT: id={:?} stage={:?} ip={:?} method={:?} user={:?} groups={groups} as={:?} \
         asgroups=\"<lookup>\" user-agent={:?} namespace={:?} uri={:?} response=\"{}\"\n",
        text(event, "stageTimestamp"),
        text(event, "auditID"),
        text(event, "stage"),
        or(event["sourceIPs"][0].as_str().unwrap_or_default(), "<unknown>"),
        text(event, "verb"),
        or(text(user, "username"), "<none>"),
        or(text(event, "impersonatedUser.username"), "<self>"),
        text(event, "userAgent"),
        or(text(event, "objectRef.namespace"), "<none>"),
        text(event, "requestURI"),
        code.map_or("<deferred>".to_owned(), |code| code.to_string()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn managed_fields_are_left_out_where_that_is_wanted() {
        let list = json!({"items": [{"metadata": {"name": "a", "managedFields": [1]}}]});
        let shown = object(list.clone(), true);
        assert_eq!(shown["items"][0]["metadata"], json!({"name": "a"}));
        assert_eq!(object(list.clone(), false), list);
    }

    #[test]
    fn answers_are_told_by_their_status() {
        let refusal = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
            "message": "no", "reason": "Forbidden", "metadata": {}});
        let said = status(403, Some(&refusal));
        assert_eq!((text(&said, "reason"), said["code"].as_u64()), ("Forbidden", Some(403)));
        assert_eq!(
            status(200, Some(&json!({"kind": "Pod"}))),
            json!({"metadata": {}, "code": 200})
        );
    }

    #[test]
    fn times_have_microseconds() {
        let at = Timestamp::from_millisecond(1_500).unwrap();
        assert_eq!(micro_time(at), "1970-01-01T00:00:01.500000Z");
    }
}
