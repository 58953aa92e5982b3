//! Validation errors of fields (`field.Error`): where in an object, what is wrong, in upstream's
//! words.
//!
//! Knows no kind. Invariant: the text of an error is complete when it is made; nobody edits it later.

use std::fmt::{self, Display};

use serde_json::{Map, Value, json};

use crate::gotext::quote;

/// Where in an object a problem is: `spec.containers[0].ports[1].name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// The path of a top-level field; the empty name is the object itself.
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// `self.name`.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        Self(child(&self.0, name))
    }

    /// `self[at]`.
    #[must_use]
    pub fn index(&self, at: usize) -> Self {
        Self(index(&self.0, at))
    }

    /// `self[name]`.
    #[must_use]
    pub fn key(&self, name: &str) -> Self {
        Self(key(&self.0, name))
    }
}

impl Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Path {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Path {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&Path> for Path {
    fn from(path: &Path) -> Self {
        path.clone()
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

impl ErrorKind {
    /// The words that begin the message.
    fn text(self) -> &'static str {
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

/// One refusal: `details.causes[]` of a Status 422.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub kind: ErrorKind,
    pub field: String,
    pub message: String,
}

impl FieldError {
    /// An error whose value is given as it is shown; an empty value or detail is left out.
    pub fn shown(kind: ErrorKind, field: impl Into<Path>, value: &str, detail: &str) -> Self {
        let parts = [kind.text(), value, detail];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        Self { kind, field: field.into().0, message: parts.join(": ") }
    }

    /// `Required value[: detail]`
    pub fn required(field: impl Into<Path>, detail: impl AsRef<str>) -> Self {
        Self::shown(ErrorKind::Required, field, "", detail.as_ref())
    }

    /// `Forbidden[: detail]`
    pub fn forbidden(field: impl Into<Path>, detail: impl AsRef<str>) -> Self {
        Self::shown(ErrorKind::Forbidden, field, "", detail.as_ref())
    }

    /// `Invalid value: value[: detail]`
    pub fn invalid(
        field: impl Into<Path>,
        value: impl Into<Value>,
        detail: impl AsRef<str>,
    ) -> Self {
        Self::shown(ErrorKind::Invalid, field, &show(&value.into()), detail.as_ref())
    }

    /// `Invalid value: value[: detail]`, for a value of the wrong type.
    pub fn type_invalid(
        field: impl Into<Path>,
        value: impl Into<Value>,
        detail: impl AsRef<str>,
    ) -> Self {
        Self::shown(ErrorKind::TypeInvalid, field, &show(&value.into()), detail.as_ref())
    }

    /// `Duplicate value: value`
    pub fn duplicate(field: impl Into<Path>, value: impl Into<Value>) -> Self {
        Self::shown(ErrorKind::Duplicate, field, &show(&value.into()), "")
    }

    /// `Not found: value`
    pub fn not_found(field: impl Into<Path>, value: impl Into<Value>) -> Self {
        Self::shown(ErrorKind::NotFound, field, &show(&value.into()), "")
    }

    /// `Unsupported value: value: supported values: "a", "b"`, in the given order; upstream sorts
    /// them in most places.
    pub fn not_supported<S: AsRef<str>>(
        field: impl Into<Path>,
        value: impl Into<Value>,
        supported: &[S],
    ) -> Self {
        let detail = supported_values(supported);
        Self::shown(ErrorKind::NotSupported, field, &show(&value.into()), &detail)
    }

    /// `Too long: may not be more than N bytes`
    pub fn too_long(field: impl Into<Path>, max_bytes: usize) -> Self {
        let detail = format!("may not be more than {max_bytes} bytes");
        Self::shown(ErrorKind::TooLong, field, "", &detail)
    }

    /// `Too many: N: must have at most M items`
    pub fn too_many(field: impl Into<Path>, count: usize, max: usize) -> Self {
        let items = if max == 1 { "item" } else { "items" };
        let detail = format!("must have at most {max} {items}");
        Self::shown(ErrorKind::TooMany, field, &count.to_string(), &detail)
    }

    /// `Internal error: detail`
    pub fn internal(field: impl Into<Path>, err: impl Display) -> Self {
        Self::shown(ErrorKind::Internal, field, "", &err.to_string())
    }

    /// The cause as `Status.details.causes` carries it.
    pub fn cause(&self) -> Value {
        let mut cause = json!({"reason": self.kind.reason(), "message": self.message});
        if !self.field.is_empty() {
            cause["field"] = self.field.as_str().into();
        }
        cause
    }
}

impl Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.field, self.message)
        }
    }
}

/// `supported values: "a", "b"`; nothing for none.
pub fn supported_values<S: AsRef<str>>(supported: &[S]) -> String {
    let quoted: Vec<String> = supported.iter().map(|text| quote(text.as_ref())).collect();
    match quoted.is_empty() {
        true => String::new(),
        false => format!("supported values: {}", quoted.join(", ")),
    }
}

/// A value as upstream prints it after `Invalid value:`.
pub fn show(value: &Value) -> String {
    match value {
        Value::String(text) => quote(text),
        Value::Object(members) if members.contains_key("matchExpressions") => selector(members),
        other => other.to_string(),
    }
}

/// A label selector: the one struct of the API whose order is not that of its names.
fn selector(members: &Map<String, Value>) -> String {
    let mut fields: Vec<(&String, &Value)> = members.iter().collect();
    fields.sort_by_key(|(name, _)| name.as_str() == "matchExpressions");
    let shown: Vec<String> =
        fields.iter().map(|(name, value)| format!("{}:{value}", json!(name))).collect();
    format!("{{{}}}", shown.join(","))
}

/// The refusals collected while one object is validated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldErrors(pub Vec<FieldError>);

impl FieldErrors {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// [`FieldError::shown`]
    pub fn add(&mut self, kind: ErrorKind, field: impl Into<Path>, value: &str, detail: &str) {
        self.0.push(FieldError::shown(kind, field, value, detail));
    }

    /// [`FieldError::required`]
    pub fn required(&mut self, field: impl Into<Path>, detail: impl AsRef<str>) {
        self.0.push(FieldError::required(field, detail));
    }

    /// [`FieldError::forbidden`]
    pub fn forbidden(&mut self, field: impl Into<Path>, detail: impl AsRef<str>) {
        self.0.push(FieldError::forbidden(field, detail));
    }

    /// [`FieldError::invalid`]
    pub fn invalid(
        &mut self,
        field: impl Into<Path>,
        value: impl Into<Value>,
        detail: impl AsRef<str>,
    ) {
        self.0.push(FieldError::invalid(field, value, detail));
    }

    /// [`FieldError::type_invalid`]
    pub fn type_invalid(
        &mut self,
        field: impl Into<Path>,
        value: impl Into<Value>,
        detail: impl AsRef<str>,
    ) {
        self.0.push(FieldError::type_invalid(field, value, detail));
    }

    /// [`FieldError::not_supported`]
    pub fn not_supported(
        &mut self,
        field: impl Into<Path>,
        value: impl Into<Value>,
        valid: &[&str],
    ) {
        self.0.push(FieldError::not_supported(field, value, valid));
    }

    /// [`FieldError::duplicate`]
    pub fn duplicate(&mut self, field: impl Into<Path>, value: impl Into<Value>) {
        self.0.push(FieldError::duplicate(field, value));
    }

    /// [`FieldError::not_found`]
    pub fn not_found(&mut self, field: impl Into<Path>, value: impl Into<Value>) {
        self.0.push(FieldError::not_found(field, value));
    }

    /// [`FieldError::too_long`]
    pub fn too_long(&mut self, field: impl Into<Path>, max: usize) {
        self.0.push(FieldError::too_long(field, max));
    }

    /// [`FieldError::too_many`]
    pub fn too_many(&mut self, field: impl Into<Path>, actual: usize, max: usize) {
        self.0.push(FieldError::too_many(field, actual, max));
    }

    /// [`FieldError::internal`]
    pub fn internal(&mut self, field: impl Into<Path>, err: impl Display) {
        self.0.push(FieldError::internal(field, err));
    }

    /// All errors as upstream joins them: bare when one, bracketed when several, repeats once.
    pub fn aggregate(&self) -> String {
        aggregate(&self.0)
    }
}

/// All errors as upstream joins them: bare when one, bracketed when several, repeats once.
pub fn aggregate(errors: &[FieldError]) -> String {
    let mut texts: Vec<String> = Vec::with_capacity(errors.len());
    for error in errors {
        let text = error.to_string();
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    if texts.len() == 1 { texts.remove(0) } else { format!("[{}]", texts.join(", ")) }
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

    #[test]
    fn several_errors_are_bracketed_and_said_once() {
        let mut errs = FieldErrors::default();
        let spec = Path::new("spec");
        errs.required(spec.child("selector"), "");
        errs.invalid(spec.child("ports").index(0).child("port"), 0, "must be positive");
        errs.required(spec.child("selector"), "");
        errs.invalid(Path::new("metadata").child("name"), "a\0", "no");
        assert_eq!(
            errs.aggregate(),
            "[spec.selector: Required value, spec.ports[0].port: Invalid value: 0: must be \
             positive, metadata.name: Invalid value: \"a\\x00\": no]"
        );
    }
}
