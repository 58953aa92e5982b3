//! Patches of an object: JSON (RFC 6902), merge (RFC 7396) and strategic merge.
//!
//! The result is decoded like a request's body: typed, pruned, canonical.

use serde_json::Value;

use api::schema::Node;

use crate::decode::{self, TypeError};
use crate::field::{FieldError, FieldErrors};
use crate::gotext;
use crate::json::{self as parser, MAX_DEPTH};
use crate::status::Status;

pub mod json;
pub mod merge;
pub mod strategic;

/// How a patch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    Json,
    Merge,
    Strategic,
}

/// A patched object and what strict decoding found wrong with it.
#[derive(Debug)]
pub struct Patched {
    pub value: Value,
    /// `unknown field "spec.foo"`, `duplicate field "spec.bar"`.
    pub strict: Vec<String>,
    /// The patch as `field.Invalid` would show it; used when strict validation refuses.
    pub shown: String,
}

/// Whether the patched object's types are checked against the schema here (built-in kinds), or
/// pruned and validated by the caller (custom resources).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Typing {
    Typed,
    Custom,
}

/// Applies a patch to an object.
pub fn apply(
    kind: PatchKind,
    mut object: Value,
    patch: &[u8],
    node: Node<'_>,
    typing: Typing,
) -> Result<Patched, Status> {
    let mut strict = Vec::new();
    let mut shown = String::new();
    match kind {
        PatchKind::Json => {
            json::apply(&mut object, patch)?;
            shown = match typing {
                Typing::Typed => json::shown(&object, patch, node),
                Typing::Custom => object.to_string(),
            };
        }
        PatchKind::Merge | PatchKind::Strategic => {
            let parsed = parse_object(patch)?;
            let duplicates = parsed.duplicates.iter();
            strict
                .extend(duplicates.map(|path| format!("duplicate field {}", gotext::quote(path))));
            match kind {
                PatchKind::Merge => merge::apply(&mut object, parsed.value),
                _ => {
                    shown = gotext::print(&parsed.value);
                    strategic::apply(&mut object, parsed.value, node)?;
                }
            }
        }
    }
    if !shallow(&object, 0) {
        return Err(Status::bad_request("exceeded max depth"));
    }
    if kind == PatchKind::Merge {
        shown = object.to_string();
    }
    let unknown = match typing {
        Typing::Typed => decode::walk(&mut object, node).map_err(|err| match kind {
            PatchKind::Strategic => invalid(&shown, &converter_text(&err)),
            _ => invalid(&shown, &err.to_string()),
        })?,
        Typing::Custom => Vec::new(),
    };
    strict.extend(unknown);
    Ok(Patched { value: object, strict, shown })
}

impl Patched {
    /// Applies `fieldValidation`: the object and its warnings, or the refusal.
    pub fn validated(
        self,
        validation: decode::FieldValidation,
    ) -> Result<(Value, Vec<String>), Status> {
        match validation {
            decode::FieldValidation::Ignore => Ok((self.value, Vec::new())),
            decode::FieldValidation::Warn => Ok((self.value, self.strict)),
            decode::FieldValidation::Strict if self.strict.is_empty() => {
                Ok((self.value, Vec::new()))
            }
            decode::FieldValidation::Strict => {
                let why = format!("strict decoding error: {}", self.strict.join(", "));
                Err(invalid(&self.shown, &why))
            }
        }
    }
}

fn invalid(shown: &str, why: &str) -> Status {
    Status::invalid("", "", "", &FieldErrors(vec![FieldError::invalid("patch", shown, why)]))
}

fn parse_object(patch: &[u8]) -> Result<parser::Parsed, Status> {
    let decoding = |err: String| Status::bad_request(format!("error decoding patch: {err}"));
    let parsed = parser::parse(patch).map_err(decoding)?;
    let what = match &parsed.value {
        Value::Object(_) => return Ok(parsed),
        Value::Null => {
            let value = Value::Object(serde_json::Map::new());
            return Ok(parser::Parsed { value, ..parsed });
        }
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
    };
    let go = "map[string]interface {}";
    Err(decoding(format!("json: cannot unmarshal {what} into Go value of type {go}")))
}

/// The words of the converter that upstream uses after a strategic merge.
fn converter_text(err: &TypeError) -> String {
    let TypeError::Mismatch { what, expects, .. } = err else { return err.to_string() };
    let found = match what.as_str() {
        "array" => "slice",
        "object" => "map",
        text if text.starts_with("number") => "int64",
        text => text,
    };
    match *expects {
        "struct" | "slice" | "map" => format!("cannot restore {expects} from: {found}"),
        scalar => format!("unrecognized type: {scalar}"),
    }
}

fn shallow(value: &Value, depth: usize) -> bool {
    if depth > MAX_DEPTH {
        return false;
    }
    match value {
        Value::Array(items) => items.iter().all(|item| shallow(item, depth + 1)),
        Value::Object(map) => map.values().all(|item| shallow(item, depth + 1)),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment() -> Node<'static> {
        api::schema::kind("apps", "v1", "Deployment").unwrap()
    }

    fn message(kind: PatchKind, patch: &str) -> String {
        let object = json!({"spec": {"replicas": 1}});
        let patched = apply(kind, object, patch.as_bytes(), deployment(), Typing::Typed);
        patched.unwrap_err().message
    }

    #[test]
    fn type_errors_say_what_upstream_says() {
        assert_eq!(
            message(PatchKind::Strategic, r#"{"spec":{"replicas":"many"}}"#),
            r#" "" is invalid: patch: Invalid value: "map[spec:map[replicas:many]]": unrecognized type: int32"#
        );
        assert_eq!(
            message(PatchKind::Strategic, r#"{"spec":[]}"#),
            r#" "" is invalid: patch: Invalid value: "map[spec:[]]": cannot restore struct from: slice"#
        );
        assert_eq!(
            message(PatchKind::Merge, "[1]"),
            "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"
        );
    }

    #[test]
    fn unknown_fields_are_named() {
        let patched =
            apply(PatchKind::Merge, json!({}), br#"{"zz":1}"#, deployment(), Typing::Typed);
        let patched = patched.unwrap();
        assert_eq!(patched.strict, [r#"unknown field "zz""#]);
        assert_eq!(patched.value, json!({}));
    }
}
