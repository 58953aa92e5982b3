//! Objects as upstream prints its own in-memory structs in refusals, and the difference of two.
//!
//! Knows the layout of those structs (`internal.txt`) and how Go marshals them: every field, in the
//! order of the struct, zero values and nulls included. Invariant: what is printed never depends on
//! which zero values the API object spells out.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

use super::value::{is_zero, key};

/// The struct types that refusals print whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Struct {
    PodSpec,
    PodTemplateSpec,
    EphemeralContainer,
    PersistentVolumeClaimSpec,
    PersistentVolumeSource,
    HorizontalPodAutoscalerBehavior,
}

impl Struct {
    fn name(self) -> &'static str {
        match self {
            Self::PodSpec => "PodSpec",
            Self::PodTemplateSpec => "PodTemplateSpec",
            Self::EphemeralContainer => "EphemeralContainer",
            Self::PersistentVolumeClaimSpec => "PersistentVolumeClaimSpec",
            Self::PersistentVolumeSource => "PersistentVolumeSource",
            Self::HorizontalPodAutoscalerBehavior => "HorizontalPodAutoscalerBehavior",
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    String,
    Int,
    Bool,
    Quantity,
    /// A pointer, list or map of plain values; absence is null.
    Nullable,
    Struct(&'static str),
    Pointer(&'static str),
    List(&'static str),
    /// Its fields stand among those of the struct that holds it.
    Embedded(&'static str),
    /// `ObjectMeta`: embedded, with the names of the API and without zero values.
    Meta,
}

struct Field {
    go: &'static str,
    json: String,
    kind: Kind,
}

static STRUCTS: LazyLock<HashMap<&'static str, Vec<Field>>> = LazyLock::new(|| {
    let lines = include_str!("internal.txt").lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once(' '))
        .map(|(name, fields)| (name, fields.split(' ').filter_map(parse).collect()))
        .collect()
});

fn parse(word: &'static str) -> Option<Field> {
    let (head, kind) = word.rsplit_once(':')?;
    let (go, json) = match head.split_once('=') {
        Some((go, json)) => (go, json.to_owned()),
        None => (head, lower_first(head)),
    };
    let kind = match kind {
        "Meta" => Kind::Meta,
        of if go == "+" => Kind::Embedded(of),
        "string" => Kind::String,
        "int" => Kind::Int,
        "bool" => Kind::Bool,
        "quantity" => Kind::Quantity,
        "?" => Kind::Nullable,
        of => match (of.strip_prefix('?'), of.strip_prefix("[]")) {
            (Some(of), _) => Kind::Pointer(of),
            (_, Some(of)) => Kind::List(of),
            _ => Kind::Struct(of),
        },
    };
    Some(Field { go, json, kind })
}

fn lower_first(name: &str) -> String {
    let mut chars = name.chars();
    chars
        .next()
        .map_or_else(String::new, |c| format!("{}{}", c.to_ascii_lowercase(), chars.as_str()))
}

/// A printed value: members keep their order.
enum Tree {
    Leaf(String),
    List(Vec<Tree>),
    Members(Vec<(String, Tree)>),
}

/// The value as one line of JSON.
pub(crate) fn json(of: Struct, value: &Value) -> String {
    let mut out = String::new();
    compact(&tree(of.name(), value), &mut out);
    out
}

/// The difference of two values, as upstream's `diff.Diff` prints it.
pub(crate) fn diff(of: Struct, old: &Value, new: &Value) -> String {
    let lines = |value| {
        let mut out = Vec::new();
        indented(&tree(of.name(), value), 0, String::new(), "", &mut out);
        out
    };
    super::unified::diff(&lines(old), &lines(new))
}

fn tree(of: &str, value: &Value) -> Tree {
    let mut members = Vec::new();
    let moved = (of == "PodSpec").then(|| with_host_fields(value));
    add_fields(of, moved.as_ref().unwrap_or(value), &mut members);
    Tree::Members(members)
}

/// Upstream keeps what a pod shares with its host in the internal security context.
fn with_host_fields(spec: &Value) -> Value {
    let mut spec = spec.clone();
    for field in ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "hostUsers"] {
        let value = key(&spec, field).clone();
        if !value.is_null() {
            super::value::set(&mut spec, &format!("securityContext.{field}"), value);
        }
    }
    spec
}

fn add_fields(of: &str, value: &Value, out: &mut Vec<(String, Tree)>) {
    for field in STRUCTS.get(of).into_iter().flatten() {
        let member = key(value, &field.json);
        let plain = |zero: &str| {
            Tree::Leaf(if member.is_null() { zero.to_owned() } else { member.to_string() })
        };
        let shown = match field.kind {
            Kind::Embedded(of) => {
                add_fields(of, value, out);
                continue;
            }
            Kind::Meta => {
                let meta = member.as_object().into_iter().flatten();
                let set = meta.filter(|(_, value)| !is_zero(value));
                out.extend(set.map(|(name, value)| (name.clone(), raw(value))));
                continue;
            }
            Kind::String => plain("\"\""),
            Kind::Int => plain("0"),
            Kind::Bool => plain("false"),
            Kind::Quantity => plain("\"0\""),
            Kind::Nullable => raw(member),
            Kind::Struct(of) => tree(of, member),
            Kind::Pointer(_) if member.is_null() => Tree::Leaf("null".to_owned()),
            Kind::Pointer(of) => tree(of, member),
            Kind::List(of) => match member.as_array() {
                None => Tree::Leaf("null".to_owned()),
                Some(items) => Tree::List(items.iter().map(|item| tree(of, item)).collect()),
            },
        };
        out.push((field.go.to_owned(), shown));
    }
}

fn raw(value: &Value) -> Tree {
    match value {
        Value::Array(items) => Tree::List(items.iter().map(raw).collect()),
        Value::Object(members) => {
            let mut members: Vec<_> =
                members.iter().map(|(name, value)| (name.clone(), raw(value))).collect();
            // The one struct with API names in here whose order is not the alphabet's.
            members.sort_by_key(|(name, _)| name == "matchExpressions");
            Tree::Members(members)
        }
        other => Tree::Leaf(other.to_string()),
    }
}

fn compact(tree: &Tree, out: &mut String) {
    match tree {
        Tree::Leaf(text) => out.push_str(text),
        Tree::List(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                compact(item, out);
            }
            out.push(']');
        }
        Tree::Members(members) => {
            out.push('{');
            for (at, (name, member)) in members.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                out.push_str(&format!("{}:", Value::from(name.as_str())));
                compact(member, out);
            }
            out.push('}');
        }
    }
}

fn indented(tree: &Tree, depth: usize, head: String, tail: &str, out: &mut Vec<String>) {
    let pad = " ".repeat(depth);
    match tree {
        Tree::Members(members) if !members.is_empty() => {
            out.push(format!("{pad}{head}{{"));
            for (at, (name, member)) in members.iter().enumerate() {
                let comma = if at + 1 == members.len() { "" } else { "," };
                let head = format!("{}: ", Value::from(name.as_str()));
                indented(member, depth + 1, head, comma, out);
            }
            out.push(format!("{pad}}}{tail}"));
        }
        Tree::List(items) if !items.is_empty() => {
            out.push(format!("{pad}{head}["));
            for (at, item) in items.iter().enumerate() {
                let comma = if at + 1 == items.len() { "" } else { "," };
                indented(item, depth + 1, String::new(), comma, out);
            }
            out.push(format!("{pad}]{tail}"));
        }
        Tree::Members(_) => out.push(format!("{pad}{head}{{}}{tail}")),
        Tree::List(_) => out.push(format!("{pad}{head}[]{tail}")),
        Tree::Leaf(text) => out.push(format!("{pad}{head}{text}{tail}")),
    }
}

/// A value as Go prints one of its own structs, for callers that need no more than the member names.
pub(crate) fn renamed(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            members.iter().map(|(name, member)| (go_name(name), renamed(member))).collect()
        }
        Value::Array(items) => items.iter().map(renamed).collect(),
        other => other.clone(),
    }
}

fn go_name(name: &str) -> String {
    let mut chars = name.chars();
    match chars.next() {
        Some(first) if first.is_ascii_lowercase() && !name.contains(['.', '/', '-']) => {
            format!("{}{}", first.to_ascii_uppercase(), chars.as_str())
        }
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_type_that_is_named_has_a_line() {
        for field in STRUCTS.values().flatten() {
            let of = match field.kind {
                Kind::Struct(of) | Kind::Pointer(of) | Kind::List(of) | Kind::Embedded(of) => of,
                _ => continue,
            };
            assert!(STRUCTS.contains_key(of), "{of}");
        }
    }

    #[test]
    fn zero_values_are_spelled_out_in_the_order_of_the_struct() {
        let claim = json!({"resources": {"requests": {"storage": "1Gi"}}, "accessModes": ["ReadWriteOnce"]});
        assert_eq!(
            super::json(Struct::PersistentVolumeClaimSpec, &claim),
            r#"{"AccessModes":["ReadWriteOnce"],"Selector":null,"Resources":{"Limits":null,"Requests":{"storage":"1Gi"}},"VolumeName":"","StorageClassName":null,"VolumeMode":null,"DataSource":null,"DataSourceRef":null,"VolumeAttributesClassName":null}"#
        );
        let template = json!({"metadata": {"labels": {"a": "b"}, "annotations": {}}});
        let shown = super::json(Struct::PodTemplateSpec, &template);
        assert!(shown.starts_with(r#"{"labels":{"a":"b"},"Spec":{"#), "{shown}");
        let spec = tree("PodSpec", &json!({"hostNetwork": true}));
        let mut text = String::new();
        compact(&spec, &mut text);
        assert!(
            text.contains(r#""SecurityContext":{"HostNetwork":true,"HostPID":false"#),
            "{text}"
        );
    }
}
