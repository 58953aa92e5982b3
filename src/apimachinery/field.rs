//! Validation errors of fields (`field.Error`): kind, path, value, and upstream's exact texts.

use std::fmt::{self, Display};

use serde_json::{Value, json};

use crate::gotext;

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    Internal,
    TypeInvalid,
}

/// One error at one path.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    pub kind: ErrorKind,
    pub field: String,
    /// What the message shows; `None` where upstream leaves the value out.
    pub value: Option<Value>,
    pub detail: String,
}

impl ErrorKind {
    /// The words that begin the message.
    pub fn text(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::Internal => "Internal error",
        }
    }

    /// The machine-readable cause.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::Internal => "InternalError",
            Self::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
}

impl FieldError {
    fn new(kind: ErrorKind, field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { kind, field: field.into(), value: None, detail: detail.into() }
    }

    fn with(mut self, value: impl Into<Value>) -> Self {
        self.value = Some(value.into());
        self
    }

    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Required, field, detail)
    }

    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Forbidden, field, detail)
    }

    pub fn invalid(
        field: impl Into<String>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self::new(ErrorKind::Invalid, field, detail).with(value)
    }

    pub fn type_invalid(
        field: impl Into<String>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self::new(ErrorKind::TypeInvalid, field, detail).with(value)
    }

    pub fn duplicate(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(ErrorKind::Duplicate, field, "").with(value)
    }

    pub fn not_found(field: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(ErrorKind::NotFound, field, "").with(value)
    }

    /// The supported values appear in the given order; upstream sorts them in most places.
    pub fn not_supported<S: AsRef<str>>(
        field: impl Into<String>,
        value: impl Into<Value>,
        supported: &[S],
    ) -> Self {
        let quoted = supported.iter().map(|s| gotext::quote(s.as_ref())).collect::<Vec<_>>();
        let detail = match quoted.is_empty() {
            true => String::new(),
            false => format!("supported values: {}", quoted.join(", ")),
        };
        Self::new(ErrorKind::NotSupported, field, detail).with(value)
    }

    pub fn too_long(field: impl Into<String>, max_bytes: usize) -> Self {
        let detail = format!("may not be more than {max_bytes} bytes");
        Self::new(ErrorKind::TooLong, field, detail)
    }

    pub fn too_many(field: impl Into<String>, count: usize, max: usize) -> Self {
        let items = if max == 1 { "item" } else { "items" };
        let detail = format!("must have at most {max} {items}");
        Self::new(ErrorKind::TooMany, field, detail).with(count)
    }

    pub fn internal(field: impl Into<String>, err: impl Display) -> Self {
        Self::new(ErrorKind::Internal, field, err.to_string())
    }

    /// The message without the path.
    pub fn body(&self) -> String {
        let mut text = self.kind.text().to_owned();
        let silent = matches!(
            self.kind,
            ErrorKind::Required | ErrorKind::Forbidden | ErrorKind::TooLong | ErrorKind::Internal
        );
        if let (false, Some(value)) = (silent, &self.value) {
            text.push_str(": ");
            match value {
                Value::String(s) => text.push_str(&gotext::quote(s)),
                other => text.push_str(&other.to_string()),
            }
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }

    /// The cause as `Status.details.causes` carries it.
    pub fn cause(&self) -> Value {
        json!({"reason": self.kind.reason(), "message": self.body(), "field": self.field})
    }
}

impl Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// `spec.containers` + `name` → `spec.containers.name`; an empty parent gives the name alone.
pub fn child(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}.{name}") }
}

/// `spec.containers` + 3 → `spec.containers[3]`.
pub fn index(parent: &str, at: usize) -> String {
    format!("{parent}[{at}]")
}

/// `metadata.annotations` + key → `metadata.annotations[key]`.
pub fn key(parent: &str, key: &str) -> String {
    format!("{parent}[{key}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_upstreams() {
        let check = |error: FieldError, text: &str| assert_eq!(error.to_string(), text);
        check(FieldError::required("spec.a", ""), "spec.a: Required value");
        check(FieldError::invalid("a", "x y", "bad"), "a: Invalid value: \"x y\": bad");
        check(FieldError::invalid("a", -1, "bad"), "a: Invalid value: -1: bad");
        check(FieldError::duplicate("a[1]", "x"), "a[1]: Duplicate value: \"x\"");
        check(
            FieldError::not_supported("p", "X", &["A", "B"]),
            "p: Unsupported value: \"X\": supported values: \"A\", \"B\"",
        );
        check(FieldError::too_long("m", 63), "m: Too long: may not be more than 63 bytes");
        check(FieldError::too_many("m", 3, 1), "m: Too many: 3: must have at most 1 item");
    }
}
