//! How apply sees a schema: every value is a scalar, a list or a map, each granular or atomic.
//!
//! Invariant: a value without a schema (`Type::Any`, `RawExtension`) is deduced from what it holds:
//! maps are granular, lists atomic, the rest scalars.

use std::sync::LazyLock;

use api::schema::{Field, ListKind, Node, Omit, Type};
use serde_json::{Map, Value, json};

use super::path::PathElement;

/// The type of a value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ty<'a> {
    Node(Node<'a>),
    /// Told by the value.
    Deduced,
}

/// What a scalar may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scalar {
    Numeric,
    String,
    Boolean,
    /// Any of them.
    Untyped,
}

/// What one value is to apply.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape<'a> {
    Scalar(Scalar),
    List(List<'a>),
    Map(Fields<'a>),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct List<'a> {
    pub(super) kind: ListKind,
    pub(super) item: Ty<'a>,
    keys: &'a str,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a> {
    pub(super) atomic: bool,
    /// The struct whose named fields these are.
    object: Option<Node<'a>>,
    /// The type of every other key.
    element: Option<Ty<'a>>,
}

impl<'a> Ty<'a> {
    /// The shape for a value, which only matters to deduced types.
    pub(super) fn shape(self, value: Option<&Value>) -> Shape<'a> {
        let Self::Node(node) = self else { return deduced(value) };
        match node.ty() {
            Type::String | Type::Bytes | Type::Duration => Shape::Scalar(Scalar::String),
            Type::Bool => Shape::Scalar(Scalar::Boolean),
            Type::Int32 | Type::Int64 | Type::Double => Shape::Scalar(Scalar::Numeric),
            Type::Quantity | Type::IntOrString | Type::Time | Type::MicroTime => {
                Shape::Scalar(Scalar::Untyped)
            }
            Type::FieldsV1 | Type::RawExtension => Shape::Map(FREE),
            Type::Any | Type::ObjectOr { .. } => deduced(value),
            Type::Object { atomic, .. } => {
                Shape::Map(Fields { atomic, object: Some(node), element: None })
            }
            Type::Open { object } => {
                let atomic =
                    matches!(node.schema.node(object).ty(), Type::Object { atomic: true, .. });
                Shape::Map(Fields { atomic, object: Some(node), element: Some(Ty::Deduced) })
            }
            Type::Map { atomic, .. } => {
                Shape::Map(Fields { atomic, object: None, element: node.element().map(Ty::Node) })
            }
            Type::List { kind, keys, .. } => Shape::List(List {
                kind,
                item: node.element().map_or(Ty::Deduced, Ty::Node),
                keys: node.schema.text(keys),
            }),
        }
    }
}

const FREE: Fields<'static> = Fields { atomic: false, object: None, element: Some(Ty::Deduced) };

fn deduced(value: Option<&Value>) -> Shape<'static> {
    match value {
        Some(Value::Array(_)) => {
            Shape::List(List { kind: ListKind::Atomic, item: Ty::Deduced, keys: "" })
        }
        Some(Value::Object(_) | Value::Null) | None => Shape::Map(FREE),
        Some(_) => Shape::Scalar(Scalar::Untyped),
    }
}

impl<'a> Fields<'a> {
    /// The type of a key and whether the schema names it.
    pub(super) fn child(&self, key: &str) -> Option<(Ty<'a>, bool)> {
        if let Some(node) = self.object
            && let Some(child) = node.child(key)
        {
            return Some((Ty::Node(child), true));
        }
        self.element.map(|ty| (ty, false))
    }

    /// Fields that a typed object always has, with the value that they have when nobody set them.
    pub(super) fn always(
        &self,
    ) -> impl Iterator<Item = (&'a str, Ty<'a>, &'static Value)> + use<'a> {
        self.object.into_iter().flat_map(|node| {
            node.fields().iter().filter_map(move |field| {
                let child = node.schema.node(field.ty);
                Some((node.schema.text(field.name), Ty::Node(child), zero(field, child.ty())?))
            })
        })
    }
}

fn zero(field: &Field, ty: Type) -> Option<&'static Value> {
    static ZEROS: LazyLock<[Value; 5]> =
        LazyLock::new(|| [Value::Null, json!(""), json!(0), json!(false), json!({})]);
    let [null, string, number, boolean, object] = &*ZEROS;
    match field.omit {
        Omit::Empty | Omit::Absent => return None,
        Omit::Null => return Some(null),
        Omit::Never => {}
    }
    match ty {
        Type::String => Some(string),
        Type::Bool => Some(boolean),
        Type::Int32 | Type::Int64 | Type::Double => Some(number),
        Type::Object { .. } => Some(object),
        Type::List { .. } | Type::Map { .. } | Type::Bytes | Type::Time | Type::MicroTime => {
            Some(null)
        }
        _ => None,
    }
}

impl List<'_> {
    /// The path element of an item, by position where items have no identity.
    pub(super) fn element(&self, at: usize, item: &Value) -> Result<PathElement, String> {
        match self.kind {
            ListKind::Atomic => Ok(PathElement::Index(i64::try_from(at).unwrap_or(i64::MAX))),
            ListKind::Set => set_element(item),
            ListKind::Map => self.keyed_element(item),
        }
    }

    fn keyed_element(&self, item: &Value) -> Result<PathElement, String> {
        let map = match item {
            Value::Object(map) => map,
            Value::Null => {
                return Err("associative list with keys may not have a null element".to_owned());
            }
            _ => {
                return Err("associative list with keys may not have non-map elements".to_owned());
            }
        };
        let mut keys = Vec::with_capacity(2);
        for name in self.keys.split(',') {
            let value = match map.get(name) {
                Some(value) => value.clone(),
                None => self.key_default(name).ok_or_else(|| {
                    format!(
                        "associative list with keys has an element that omits key field {name:?} (and doesn't have default value)"
                    )
                })?,
            };
            keys.push((name.into(), value));
        }
        keys.sort_by(|a: &(Box<str>, Value), b| a.0.cmp(&b.0));
        Ok(PathElement::Key(keys.into_boxed_slice()))
    }

    fn key_default(&self, name: &str) -> Option<Value> {
        let Ty::Node(node) = self.item else { return None };
        let field = node.field(name)?;
        let text = node.schema.text(field.default);
        if !text.is_empty() {
            return serde_json::from_str(text).ok();
        }
        // The published schema leaves this default out.
        let port = matches!(node.short_name(), "ContainerPort" | "ServicePort");
        if port && name == "protocol" {
            return Some(json!("TCP"));
        }
        zero(field, node.schema.node(field.ty).ty()).cloned()
    }
}

fn set_element(item: &Value) -> Result<PathElement, String> {
    let refuse = |why: &str| Err(why.to_owned());
    match item {
        Value::Object(_) => {
            refuse("associative list without keys has an element that's a map type")
        }
        Value::Array(_) => refuse("not supported: associative list with lists as elements"),
        Value::Null => {
            refuse("associative list without keys has an element that's an explicit null")
        }
        scalar => Ok(PathElement::Value(Box::new(scalar.clone()))),
    }
}

pub(super) fn as_map(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object)
}

pub(super) fn as_list(value: Option<&Value>) -> Option<&Vec<Value>> {
    value.and_then(Value::as_array)
}
