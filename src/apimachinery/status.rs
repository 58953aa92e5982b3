//! `metav1.Status` refusals, in upstream's words.
//!
//! Every error that a client sees is made here. Invariant: the constructors fill code, reason,
//! message and details exactly as `k8s.io/apimachinery/pkg/api/errors` does.

use std::borrow::Cow;
use std::fmt;

use serde_json::{Value, json};

use crate::field::{FieldError, FieldErrors};
use crate::gotext::quote;
use crate::meta::group_resource;

/// A refusal on its way to the client.
#[derive(Clone, Debug)]
pub struct Status {
    pub code: u16,
    pub reason: Cow<'static, str>,
    pub message: String,
    /// `details`, or null for none.
    pub details: Value,
    /// `metadata`, none for an empty one. Boxed: hardly any refusal has it.
    pub metadata: Option<Box<Value>>,
    /// What the client is told besides, in `Warning` headers.
    pub warnings: Vec<String>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

/// Group and resource (or kind) that a refusal is about.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    pub group: &'a str,
    pub resource: &'a str,
    pub name: &'a str,
}

impl About<'_> {
    /// `deployments.apps`
    fn qualified(&self) -> String {
        group_resource(self.group, self.resource)
    }

    fn details(&self) -> Value {
        let mut details = serde_json::Map::new();
        for (key, value) in [("name", self.name), ("group", self.group), ("kind", self.resource)] {
            if !value.is_empty() {
                details.insert(key.to_owned(), value.into());
            }
        }
        Value::Object(details)
    }
}

impl Status {
    /// A refusal without details.
    pub fn new(
        code: u16,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            code,
            reason: reason.into(),
            message: message.into(),
            details: Value::Null,
            metadata: None,
            warnings: Vec::new(),
        }
    }

    /// The refusal with warnings of the request that was refused.
    #[must_use]
    pub fn warned(mut self, warnings: &[String]) -> Self {
        self.warnings = warnings.to_vec();
        self
    }

    /// 500 without a reason: an error that upstream did not turn into a Status.
    pub fn plain(message: impl Into<String>) -> Self {
        Self::new(500, "", message)
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub fn forbidden(about: About<'_>, why: &str) -> Self {
        let head = match about.name {
            "" => about.qualified(),
            name => format!("{} {}", about.qualified(), quote(name)),
        };
        Self {
            details: about.details(),
            ..Self::new(403, "Forbidden", format!("{head} is forbidden: {why}"))
        }
    }

    pub fn not_found(about: About<'_>) -> Self {
        let message = format!("{} {} not found", about.qualified(), quote(about.name));
        Self { details: about.details(), ..Self::new(404, "NotFound", message) }
    }

    /// The path is not served.
    pub fn no_resource() -> Self {
        Self {
            details: json!({}),
            ..Self::new(404, "NotFound", "the server could not find the requested resource")
        }
    }

    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self { details: json!({}), ..Self::new(405, "MethodNotAllowed", message) }
    }

    pub fn not_acceptable(accepted: &str) -> Self {
        let message = format!("only the following media types are accepted: {accepted}");
        Self::new(406, "NotAcceptable", message)
    }

    pub fn already_exists(about: About<'_>) -> Self {
        let message = format!("{} {} already exists", about.qualified(), quote(about.name));
        Self { details: about.details(), ..Self::new(409, "AlreadyExists", message) }
    }

    /// Somebody else wrote first, or a precondition does not hold.
    pub fn conflict(about: About<'_>, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {}: {why}",
            about.qualified(),
            quote(about.name)
        );
        Self { details: about.details(), ..Self::new(409, "Conflict", message) }
    }

    /// A wrong `resourceVersion`.
    pub fn modified(about: About<'_>) -> Self {
        Self::conflict(
            about,
            "the object has been modified; please apply your changes to the latest version and \
             try again",
        )
    }

    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub fn too_large(message: &str) -> Self {
        let message = format!("Request entity too large: {message}");
        Self::new(413, "RequestEntityTooLarge", message)
    }

    pub fn unsupported_media_type(accepted: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: \
             {accepted}"
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// Validation refused the object; `kind` and `group` are the kind's.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &FieldErrors) -> Self {
        let about = About { group, resource: kind, name };
        let head = format!("{} {} is invalid", about.qualified(), quote(name));
        let mut status = Self::new(422, "Invalid", format!("{head}: {}", errors.aggregate()));
        status.details = about.details();
        status.set_causes(&errors.0);
        status
    }

    /// A patch that does not fit the object, which tells no more.
    pub fn unprocessable() -> Self {
        let message = "the server rejected our request due to an error in our request";
        Self { details: json!({}), ..Self::new(422, "Invalid", message) }
    }

    pub fn internal(err: impl fmt::Display) -> Self {
        let message = err.to_string();
        Self {
            details: json!({"causes": [{"message": message}]}),
            ..Self::new(500, "InternalError", format!("Internal error occurred: {message}"))
        }
    }

    /// The store does not answer.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self {
            details: json!({"retryAfterSeconds": 1}),
            ..Self::new(503, "ServiceUnavailable", message)
        }
    }

    /// The reads cannot be served in time: the caches are behind.
    pub fn timeout(message: &str) -> Self {
        let message = format!("Timeout: {message}");
        Self { details: json!({"retryAfterSeconds": 1}), ..Self::new(504, "Timeout", message) }
    }

    pub fn set_causes(&mut self, causes: &[FieldError]) {
        let causes: Vec<Value> = causes.iter().map(FieldError::cause).collect();
        if !self.details.is_object() {
            self.details = json!({});
        }
        self.details["causes"] = causes.into();
    }

    /// The object on the wire.
    pub fn to_value(&self) -> Value {
        let mut value = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            value["reason"] = self.reason.as_ref().into();
        }
        if !self.details.is_null() {
            value["details"] = self.details.clone();
        }
        if let Some(metadata) = &self.metadata {
            value["metadata"] = Value::clone(metadata);
        }
        value
    }

    /// Seconds for the `Retry-After` header.
    pub fn retry_after(&self) -> Option<u64> {
        self.details.get("retryAfterSeconds").and_then(Value::as_u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_upstreams() {
        let about = About { group: "apps", resource: "deployments", name: "d" };
        let status = Status::not_found(about);
        assert_eq!(status.message, "deployments.apps \"d\" not found");
        assert_eq!(status.details, json!({"name": "d", "group": "apps", "kind": "deployments"}));
        let mut errors = FieldErrors::default();
        errors.required("spec", "");
        let status = Status::invalid("apps", "Deployment", "d", &errors);
        assert_eq!(status.message, "Deployment.apps \"d\" is invalid: spec: Required value");
        assert_eq!(status.details["causes"][0]["reason"], "FieldValueRequired");
    }
}
