//! Field errors: what validation says about one field, in upstream's words.
//!
//! Knows nothing of any kind. Invariant: the text of an error is complete when it is added; nobody
//! edits it later.

use std::fmt;

use apimachinery::gotext::quote;
use serde_json::{Map, Value, json};

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
        if self.0.is_empty() { Self::new(name) } else { Self(format!("{}.{name}", self.0)) }
    }

    /// `self[index]`.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// `self[key]`.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }
}

impl fmt::Display for Path {
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

/// One refusal: `details.causes[]` of a Status 422.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    pub reason: &'static str,
    pub field: String,
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.field, self.message)
        }
    }
}

/// The refusals collected while one object is validated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldErrors(pub Vec<FieldError>);

impl FieldErrors {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds an error whose message is given in full.
    pub fn add(&mut self, reason: &'static str, field: impl Into<Path>, message: String) {
        self.0.push(FieldError { reason, field: field.into().0, message });
    }

    /// `Required value[: detail]`
    pub fn required(&mut self, field: impl Into<Path>, detail: impl AsRef<str>) {
        self.add("FieldValueRequired", field, with_detail("Required value", detail.as_ref()));
    }

    /// `Invalid value: value: detail`
    pub fn invalid(
        &mut self,
        field: impl Into<Path>,
        value: impl Into<Value>,
        detail: impl AsRef<str>,
    ) {
        let head = format!("Invalid value: {}", show(&value.into()));
        self.add("FieldValueInvalid", field, with_detail(&head, detail.as_ref()));
    }

    /// `Invalid value: value: detail`, for a value of the wrong type.
    pub fn type_invalid(
        &mut self,
        field: impl Into<Path>,
        value: impl Into<Value>,
        detail: impl AsRef<str>,
    ) {
        let head = format!("Invalid value: {}", show(&value.into()));
        self.add("FieldValueTypeInvalid", field, with_detail(&head, detail.as_ref()));
    }

    /// `Unsupported value: value: supported values: "a", "b"`; list the values sorted.
    pub fn not_supported(
        &mut self,
        field: impl Into<Path>,
        value: impl Into<Value>,
        valid: &[&str],
    ) {
        let mut text = format!("Unsupported value: {}", show(&value.into()));
        for (at, value) in valid.iter().enumerate() {
            text.push_str(if at == 0 { ": supported values: " } else { ", " });
            text.push_str(&quote(value));
        }
        self.add("FieldValueNotSupported", field, text);
    }

    /// `Duplicate value: value`
    pub fn duplicate(&mut self, field: impl Into<Path>, value: impl Into<Value>) {
        let text = format!("Duplicate value: {}", show(&value.into()));
        self.add("FieldValueDuplicate", field, text);
    }

    /// `Forbidden[: detail]`
    pub fn forbidden(&mut self, field: impl Into<Path>, detail: impl AsRef<str>) {
        self.add("FieldValueForbidden", field, with_detail("Forbidden", detail.as_ref()));
    }

    /// `Not found: value`
    pub fn not_found(&mut self, field: impl Into<Path>, value: impl Into<Value>) {
        let text = format!("Not found: {}", show(&value.into()));
        self.add("FieldValueNotFound", field, text);
    }

    /// `Too long: may not be more than N bytes`
    pub fn too_long(&mut self, field: impl Into<Path>, max: usize) {
        let text = format!("Too long: may not be more than {max} bytes");
        self.add("FieldValueTooLong", field, text);
    }

    /// `Too many: N: must have at most M items`
    pub fn too_many(&mut self, field: impl Into<Path>, actual: usize, max: usize) {
        let text = format!("Too many: {actual}: must have at most {max} items");
        self.add("FieldValueTooMany", field, text);
    }

    /// `Internal error: detail`
    pub fn internal(&mut self, field: impl Into<Path>, detail: impl fmt::Display) {
        self.add("InternalError", field, format!("Internal error: {detail}"));
    }

    /// All errors as upstream joins them: bare when one, bracketed when several, repeats once.
    pub fn aggregate(&self) -> String {
        let mut texts: Vec<String> = Vec::new();
        for error in &self.0 {
            let text = error.to_string();
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        if texts.len() == 1 { texts.remove(0) } else { format!("[{}]", texts.join(", ")) }
    }
}

fn with_detail(head: &str, detail: &str) -> String {
    if detail.is_empty() { head.to_owned() } else { format!("{head}: {detail}") }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_upstream_prints_them() {
        let mut errs = FieldErrors::default();
        let spec = Path::new("spec");
        errs.required(spec.child("selector"), "");
        errs.invalid(spec.child("ports").index(0).child("port"), 0, "must be between 1 and 65535");
        errs.not_supported(spec.child("type"), "X", &["A", "B"]);
        errs.invalid(Path::new("metadata").child("name"), "a\0", "no");
        assert_eq!(
            errs.aggregate(),
            "[spec.selector: Required value, spec.ports[0].port: Invalid value: 0: must be between \
             1 and 65535, spec.type: Unsupported value: \"X\": supported values: \"A\", \"B\", \
             metadata.name: Invalid value: \"a\\x00\": no]"
        );
    }
}
