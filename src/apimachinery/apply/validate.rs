//! Does an object fit its schema, in the words that clients know?
//!
//! Invariant: an object that passes can be walked by every other file here without an error.

use std::collections::BTreeSet;
use std::fmt;

use api::schema::ListKind;
use serde_json::Value;

use super::shape::{Scalar, Shape, Ty};

/// What does not fit, each with its path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Misfits(Vec<String>);

impl fmt::Display for Misfits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => f.write_str(one),
            many => {
                f.write_str("errors:")?;
                many.iter().try_for_each(|one| write!(f, "\n  {one}"))
            }
        }
    }
}

impl std::error::Error for Misfits {}

/// Whether an associative list may name an item twice: live objects may, applied ones may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duplicates {
    Allowed,
    Refused,
}

/// Checks an object against its type.
pub(super) fn validate(ty: Ty<'_>, value: &Value, duplicates: Duplicates) -> Result<(), Misfits> {
    let mut walk = Walk { path: String::new(), duplicates, misfits: Vec::new() };
    walk.value(ty, value);
    if walk.misfits.is_empty() { Ok(()) } else { Err(Misfits(walk.misfits)) }
}

struct Walk {
    path: String,
    duplicates: Duplicates,
    misfits: Vec<String>,
}

impl Walk {
    fn report(&mut self, what: fmt::Arguments<'_>) {
        let text =
            if self.path.is_empty() { what.to_string() } else { format!("{}: {what}", self.path) };
        self.misfits.push(text);
    }

    fn below(&mut self, step: fmt::Arguments<'_>, visit: impl FnOnce(&mut Self)) {
        use fmt::Write as _;
        let length = self.path.len();
        // Writing to a string cannot fail.
        let _ = self.path.write_fmt(step);
        visit(self);
        self.path.truncate(length);
    }

    fn value(&mut self, ty: Ty<'_>, value: &Value) {
        if value.is_null() {
            return;
        }
        match ty.shape(Some(value)) {
            Shape::Scalar(scalar) => self.scalar(scalar, value),
            Shape::List(list) => {
                let Value::Array(items) = value else {
                    return self.report(format_args!("expected list, got {}", GoValue(value)));
                };
                self.list(list, items);
            }
            Shape::Map(fields) => {
                let Value::Object(map) = value else {
                    return self.report(format_args!("expected map, got {}", GoValue(value)));
                };
                for (key, value) in map {
                    match fields.child(key) {
                        Some((ty, _)) => {
                            self.below(format_args!(".{key}"), |walk| walk.value(ty, value));
                        }
                        None => self.below(format_args!(".{key}"), |walk| {
                            walk.report(format_args!("field not declared in schema"));
                        }),
                    }
                }
            }
        }
    }

    fn list(&mut self, list: super::shape::List<'_>, items: &[Value]) {
        if list.kind == ListKind::Atomic {
            for (at, item) in items.iter().enumerate() {
                self.below(format_args!("[{at}]"), |walk| walk.value(list.item, item));
            }
            return;
        }
        let mut seen = BTreeSet::new();
        for (at, item) in items.iter().enumerate() {
            let element = match list.element(at, item) {
                Ok(element) => element,
                Err(why) => return self.report(format_args!("element {at}: {why}")),
            };
            if self.duplicates == Duplicates::Refused && seen.contains(&element) {
                self.report(format_args!("duplicate entries for key {element}"));
            }
            self.below(format_args!("{element}"), |walk| walk.value(list.item, item));
            if self.duplicates == Duplicates::Refused {
                seen.insert(element);
            }
        }
    }

    fn scalar(&mut self, scalar: Scalar, value: &Value) {
        match (scalar, value) {
            (Scalar::Numeric | Scalar::Untyped, Value::Number(_))
            | (Scalar::String | Scalar::Untyped, Value::String(_))
            | (Scalar::Boolean | Scalar::Untyped, Value::Bool(_)) => {}
            (Scalar::Numeric, _) => {
                let found = go_type(value);
                self.report(format_args!("expected numeric (int or float), got {found}"));
            }
            (Scalar::String, _) => {
                let found = GoSyntax(value);
                self.report(format_args!(
                    "expected string, got &value.valueUnstructured{{Value:{found}}}"
                ));
            }
            (Scalar::Boolean, _) => {
                self.report(format_args!("expected boolean, got {}", GoValue(value)));
            }
            (Scalar::Untyped, _) => {
                self.report(format_args!("expected any scalar, got {}", GoValue(value)));
            }
        }
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// A value as Go's `%#v` prints it.
struct GoSyntax<'a>(&'a Value);

impl fmt::Display for GoSyntax<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Null => f.write_str("interface {}(nil)"),
            Value::Bool(_) | Value::Number(_) | Value::String(_) => write!(f, "{}", self.0),
            Value::Array(items) => {
                f.write_str("[]interface {}{")?;
                for (at, item) in items.iter().enumerate() {
                    write!(f, "{}{}", if at == 0 { "" } else { ", " }, GoSyntax(item))?;
                }
                f.write_str("}")
            }
            Value::Object(map) => {
                f.write_str("map[string]interface {}{")?;
                for (at, (key, item)) in map.iter().enumerate() {
                    write!(f, "{}{key:?}:{}", if at == 0 { "" } else { ", " }, GoSyntax(item))?;
                }
                f.write_str("}")
            }
        }
    }
}

/// A wrapped value as Go's `%v` prints it.
struct GoValue<'a>(&'a Value);

impl fmt::Display for GoValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "&{{{}}}", GoPlain(self.0))
    }
}

struct GoPlain<'a>(&'a Value);

impl fmt::Display for GoPlain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Null => f.write_str("<nil>"),
            Value::String(text) => f.write_str(text),
            Value::Bool(_) | Value::Number(_) => write!(f, "{}", self.0),
            Value::Array(items) => {
                f.write_str("[")?;
                for (at, item) in items.iter().enumerate() {
                    write!(f, "{}{}", if at == 0 { "" } else { " " }, GoPlain(item))?;
                }
                f.write_str("]")
            }
            Value::Object(map) => {
                f.write_str("map[")?;
                for (at, (key, item)) in map.iter().enumerate() {
                    write!(f, "{}{key}:{}", if at == 0 { "" } else { " " }, GoPlain(item))?;
                }
                f.write_str("]")
            }
        }
    }
}
