//! `metav1.Status`: the answer to every request that fails, with upstream's texts and codes.

use std::borrow::Cow;
use std::fmt::{self, Display};

use serde_json::{Map, Value, json};

use crate::field::FieldError;
use crate::gotext::quote;
use crate::meta::group_resource;

/// An API status. As an error it prints its message.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// `NotFound`, `Conflict`, …; empty when upstream gives none.
    pub reason: Cow<'static, str>,
    pub message: String,
    pub details: Option<Box<Details>>,
    /// `Success` instead of `Failure`.
    pub success: bool,
}

/// What the status is about. `kind` holds the resource for most reasons, the kind for `Invalid`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Details {
    pub name: String,
    pub group: String,
    pub kind: String,
    pub uid: String,
    pub causes: Vec<Value>,
    pub retry_after_seconds: u32,
}

impl std::error::Error for Status {}

impl Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Details {
    fn of(group: &str, kind: &str, name: &str) -> Self {
        let (group, kind, name) = (group.to_owned(), kind.to_owned(), name.to_owned());
        Self { group, kind, name, ..Self::default() }
    }

    fn to_value(&self) -> Value {
        let mut map = Map::new();
        let texts = [
            ("name", &self.name),
            ("group", &self.group),
            ("kind", &self.kind),
            ("uid", &self.uid),
        ];
        for (key, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            map.insert(key.to_owned(), text.as_str().into());
        }
        if !self.causes.is_empty() {
            map.insert("causes".to_owned(), Value::Array(self.causes.clone()));
        }
        if self.retry_after_seconds != 0 {
            map.insert("retryAfterSeconds".to_owned(), self.retry_after_seconds.into());
        }
        Value::Object(map)
    }
}

impl Status {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        let (reason, message) = (Cow::Borrowed(reason), message.into());
        Self { code, reason, message, details: None, success: false }
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        self.details = Some(Box::new(Details::of(group, kind, name)));
        self
    }

    fn retry(mut self, seconds: u32) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    /// What `DELETE` answers when the object is gone at once.
    pub fn deleted(group: &str, resource: &str, name: &str, uid: &str) -> Self {
        let mut details = Details::of(group, resource, name);
        uid.clone_into(&mut details.uid);
        Self { success: true, details: Some(Box::new(details)), ..Self::new(200, "", "") }
    }

    /// A plain success.
    pub fn success(code: u16) -> Self {
        Self { success: true, ..Self::new(code, "", "") }
    }

    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {} not found", group_resource(group, resource), quote(name));
        Self::new(404, "NotFound", message).about(group, resource, name)
    }

    /// A URL that leads to no resource.
    pub fn page_not_found() -> Self {
        let message = "the server could not find the requested resource";
        Self::new(404, "NotFound", message).about("", "", "")
    }

    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {} already exists", group_resource(group, resource), quote(name));
        Self::new(409, "AlreadyExists", message).about(group, resource, name)
    }

    /// All generated names were taken.
    pub fn generate_name_conflict(group: &str, resource: &str, name: &str) -> Self {
        let message = format!(
            "{} {} already exists, the server was not able to generate a unique name for the object",
            group_resource(group, resource),
            quote(name)
        );
        Self::new(409, "AlreadyExists", message).about(group, resource, name).retry(1)
    }

    pub fn conflict(group: &str, resource: &str, name: &str, why: impl Display) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {}: {why}",
            group_resource(group, resource),
            quote(name)
        );
        Self::new(409, "Conflict", message).about(group, resource, name)
    }

    /// A write with an old resourceVersion.
    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(group, resource, name, why)
    }

    /// `422 Invalid` with one cause per error; equal messages are said once.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let mut texts: Vec<String> = Vec::with_capacity(errors.len());
        for error in errors {
            let text = error.to_string();
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        let joined = match texts.as_slice() {
            [] => String::new(),
            [one] => format!(": {one}"),
            more => format!(": [{}]", more.join(", ")),
        };
        let message = format!("{} {} is invalid{joined}", group_resource(group, kind), quote(name));
        let mut status = Self::new(422, "Invalid", message).about(group, kind, name);
        if let Some(details) = &mut status.details {
            details.causes = errors.iter().map(FieldError::cause).collect();
        }
        status
    }

    /// A patch that does not fit the object, which tells no more (`json-patch` failures).
    pub fn unprocessable() -> Self {
        let message = "the server rejected our request due to an error in our request";
        Self::new(422, "Invalid", message).about("", "", "")
    }

    pub fn forbidden(group: &str, resource: &str, name: &str, why: impl Display) -> Self {
        let message = match (resource, name) {
            ("", _) => format!("forbidden: {why}"),
            (_, "") => format!("{} is forbidden: {why}", group_resource(group, resource)),
            _ => {
                let resource = group_resource(group, resource);
                format!("{resource} {} is forbidden: {why}", quote(name))
            }
        };
        Self::new(403, "Forbidden", message).about(group, resource, name)
    }

    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub fn method_not_supported(group: &str, resource: &str, action: &str) -> Self {
        let resource_text = quote(&group_resource(group, resource));
        let message = format!("{action} is not supported on resources of kind {resource_text}");
        Self::new(405, "MethodNotAllowed", message).about(group, resource, "")
    }

    /// A known path with a verb that it does not have.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(405, "MethodNotAllowed", message).about("", "", "")
    }

    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message =
            format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::new(406, "NotAcceptable", message)
    }

    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// A patch whose content type the router does not know.
    pub fn unsupported_patch_type() -> Self {
        Self::new(415, "UnsupportedMediaType", "415: Unsupported Media Type").about("", "", "")
    }

    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, "Gone", message)
    }

    /// A resourceVersion that has been compacted.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        Self::new(429, "TooManyRequests", message).about("", "", "").retry(retry_after_seconds)
    }

    pub fn timeout(message: impl Display, retry_after_seconds: u32) -> Self {
        let message = format!("Timeout: {message}");
        Self::new(504, "Timeout", message).about("", "", "").retry(retry_after_seconds)
    }

    pub fn server_timeout(group: &str, resource: &str, operation: &str, retry_after: u32) -> Self {
        let message = format!(
            "The {operation} operation against {} could not be completed at this time, please try again.",
            group_resource(group, resource)
        );
        Self::new(500, "ServerTimeout", message)
            .about(group, resource, operation)
            .retry(retry_after)
    }

    pub fn request_entity_too_large(message: impl Display) -> Self {
        let message = format!("Request entity too large: {message}");
        Self::new(413, "RequestEntityTooLarge", message)
    }

    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    pub fn internal_error(err: impl Display) -> Self {
        let message = format!("Internal error occurred: {err}");
        let mut status = Self::new(500, "InternalError", message);
        let causes = vec![json!({"message": err.to_string()})];
        status.details = Some(Box::new(Details { causes, ..Details::default() }));
        status
    }

    /// An error that upstream passes on without a reason.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::new(500, "", message)
    }

    /// The object on the wire.
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        map.insert("kind".to_owned(), "Status".into());
        map.insert("apiVersion".to_owned(), "v1".into());
        map.insert("metadata".to_owned(), json!({}));
        let status = if self.success { "Success" } else { "Failure" };
        map.insert("status".to_owned(), status.into());
        if !self.message.is_empty() {
            map.insert("message".to_owned(), self.message.as_str().into());
        }
        if !self.reason.is_empty() {
            map.insert("reason".to_owned(), self.reason.as_ref().into());
        }
        if let Some(details) = &self.details {
            map.insert("details".to_owned(), details.to_value());
        }
        if !self.success || self.details.is_none() {
            map.insert("code".to_owned(), self.code.into());
        }
        Value::Object(map)
    }

    /// The object as JSON text.
    pub fn to_json(&self) -> Vec<u8> {
        self.to_value().to_string().into_bytes()
    }

    /// Whether this is the failure with that reason.
    pub fn is(&self, reason: &str) -> bool {
        !self.success && self.reason == reason
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_upstreams() {
        let check = |status: Status, code: u16, message: &str| {
            assert_eq!((status.code, status.message.as_str()), (code, message));
        };
        check(
            Status::not_found("apps", "deployments", "x"),
            404,
            r#"deployments.apps "x" not found"#,
        );
        check(Status::already_exists("", "pods", "x"), 409, r#"pods "x" already exists"#);
        check(
            Status::modified("", "configmaps", "c"),
            409,
            "Operation cannot be fulfilled on configmaps \"c\": the object has been modified; please apply your changes to the latest version and try again",
        );
        let errors = [FieldError::required("a", ""), FieldError::required("a", "")];
        check(
            Status::invalid("apps", "Deployment", "d", &errors),
            422,
            "Deployment.apps \"d\" is invalid: a: Required value",
        );
        check(Status::forbidden("", "pods", "", "no"), 403, "pods is forbidden: no");
    }

    #[test]
    fn the_wire_form_has_the_fields_that_clients_read() {
        let value = Status::not_found("", "pods", "x").to_value();
        assert_eq!(
            value,
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "pods \"x\" not found", "reason": "NotFound",
                "details": {"name": "x", "kind": "pods"}, "code": 404})
        );
    }
}
