//! The shape of every API type, as pointer-free tables.
//!
//! One `Schema` is an arena of types. The built-in one is static and lives in `.rodata` (no
//! relocations, so nine processes share its pages); a CustomResourceDefinition makes its own at run
//! time. Everything that walks an object (decoding, defaulting, omission, patches, apply, protobuf,
//! OpenAPI) walks it beside a `Node`. This module knows nothing of JSON or HTTP.

use std::borrow::Cow;

/// An index into a schema's types. Only meaningful with the schema that it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TypeId(pub u16);

/// A string in a schema's text: start and length in bytes. The empty name means "none".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Name {
    pub start: u32,
    pub len: u16,
}

/// What one type is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    String,
    Bool,
    Int32,
    Int64,
    /// JSON number with a fraction.
    Double,
    /// Base64 text in JSON, bytes in protobuf.
    Bytes,
    /// `resource.Quantity`: string or number in JSON, canonical string on output.
    Quantity,
    /// `intstr.IntOrString`.
    IntOrString,
    /// `metav1.Time`, whole seconds, RFC 3339.
    Time,
    /// `metav1.MicroTime`, microseconds, RFC 3339.
    MicroTime,
    /// `metav1.Duration`, Go's duration text.
    Duration,
    /// `metav1.FieldsV1`: free JSON, raw bytes in protobuf.
    FieldsV1,
    /// `runtime.RawExtension`: a whole object of any kind.
    RawExtension,
    /// Any JSON value (`apiextensions` JSON, preserve-unknown-fields).
    Any,
    /// `apiextensions` JSONSchemaPropsOr…: an `object`, or the other form.
    ObjectOr {
        object: TypeId,
        other: Other,
    },
    /// A struct with `count` fields from `first` in the schema's field table, sorted by JSON name.
    Object {
        name: Name,
        first: u16,
        count: u16,
        atomic: bool,
    },
    /// An `object` whose unknown fields are kept (`x-kubernetes-preserve-unknown-fields`); only
    /// custom resources have it.
    Open {
        object: TypeId,
    },
    /// A list. `keys` is a comma-separated list of the map keys (`listMapKeys`), for `ListKind::Map`.
    List {
        item: TypeId,
        kind: ListKind,
        keys: Name,
    },
    /// A map from string to `value`.
    Map {
        value: TypeId,
        atomic: bool,
    },
}

/// What may stand in place of a schema (`JSONSchemaPropsOrArray`, `…OrBool`, `…OrStringArray`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    /// A list of the same objects.
    Objects,
    Bool,
    Strings,
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListKind {
    Atomic,
    Set,
    Map,
}

/// Which zero values are left out of the JSON output (`facts/json-encoding.tsv`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Omit {
    /// Always written: `null`, `""`, `0`, `false`, `{…}` as the Go zero value is.
    Never,
    /// A pointer without `omitempty`: absence is written as `null`.
    Null,
    /// Go's `omitempty`.
    Empty,
    /// Go's `omitempty` on a pointer: only absence is left out, a zero value is kept.
    Absent,
}

/// One field of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// JSON name.
    pub name: Name,
    pub ty: TypeId,
    /// What Go's reflection calls the type (`[]v1.Container`), for the texts of type errors.
    pub go: Name,
    /// Protobuf field number; 0 where the type has no protobuf form.
    pub number: u16,
    /// Field numbers of the embedded messages that hold this field, outermost first (Go structs
    /// that are inline in JSON are messages of their own in protobuf); 0 means none.
    pub within: [u8; 2],
    pub required: bool,
    pub omit: Omit,
    /// Strategic merge patch: `patchStrategy`.
    pub patch: PatchStrategy,
    /// Strategic merge patch: `patchMergeKey`, empty for lists of scalars.
    pub merge_key: Name,
    /// The default that the published schema declares, as JSON text.
    pub default: Name,
}

/// `x-kubernetes-patch-strategy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchStrategy {
    Replace,
    Merge,
    RetainKeys,
    MergeRetainKeys,
}

/// An arena of types, their fields and the text that names them.
#[derive(Clone, Debug)]
pub struct Schema {
    pub text: Cow<'static, str>,
    pub types: Cow<'static, [Type]>,
    pub fields: Cow<'static, [Field]>,
}

/// A group, version and kind of the built-in schema, with its type.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub group: Name,
    pub version: Name,
    pub kind: Name,
    pub ty: TypeId,
}

/// A type together with the schema it belongs to: what a walk carries.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    pub schema: &'a Schema,
    pub id: TypeId,
}

/// The schema of everything that Kubernetes itself defines.
pub fn builtin() -> &'static Schema {
    &crate::generated::BUILTIN
}

/// Every built-in kind, lists and request bodies included, sorted by group, version and kind.
pub fn kinds() -> &'static [Kind] {
    &crate::generated::KINDS
}

/// The built-in type of this kind. `DeleteOptions` and `WatchEvent` exist in every group.
pub fn kind(group: &str, version: &str, kind: &str) -> Option<Node<'static>> {
    let schema = builtin();
    let (group, version) = match kind {
        "DeleteOptions" => ("", "v1"),
        _ => (group, version),
    };
    let key = |k: &Kind| (schema.text(k.group), schema.text(k.version), schema.text(k.kind));
    let at = kinds().binary_search_by(|k| key(k).cmp(&(group, version, kind))).ok()?;
    kinds().get(at).map(|found| schema.node(found.ty))
}

/// The built-in type with this definition name (`io.k8s.api.core.v1.Pod`). A linear search.
pub fn definition(name: &str) -> Option<Node<'static>> {
    let schema = builtin();
    let is = |ty: &Type| matches!(ty, Type::Object { name: own, .. } if schema.text(*own) == name);
    let at = schema.types.iter().position(is)?;
    Some(schema.node(TypeId(u16::try_from(at).ok()?)))
}

impl Schema {
    /// The text behind a name.
    pub fn text(&self, name: Name) -> &str {
        let start = name.start as usize;
        self.text.get(start..start + usize::from(name.len)).unwrap_or_default()
    }

    /// The node for a type of this schema.
    pub fn node(&self, id: TypeId) -> Node<'_> {
        Node { schema: self, id }
    }
}

impl<'a> Node<'a> {
    /// The type itself; an id from another schema is `Any`.
    pub fn ty(self) -> Type {
        self.schema.types.get(usize::from(self.id.0)).copied().unwrap_or(Type::Any)
    }

    /// The fields of an object type (open or not), sorted by JSON name; empty for every other type.
    pub fn fields(self) -> &'a [Field] {
        match self.ty() {
            Type::Object { first, count, .. } => {
                let first = usize::from(first);
                self.schema.fields.get(first..first + usize::from(count)).unwrap_or_default()
            }
            Type::Open { object } => self.schema.node(object).fields(),
            _ => &[],
        }
    }

    /// The field with this JSON name.
    pub fn field(self, name: &str) -> Option<&'a Field> {
        let fields = self.fields();
        let at = fields.binary_search_by(|field| self.schema.text(field.name).cmp(name)).ok()?;
        fields.get(at)
    }

    /// The type of a field of this object.
    pub fn child(self, name: &str) -> Option<Node<'a>> {
        self.field(name).map(|field| self.schema.node(field.ty))
    }

    /// The definition name of an object type (`io.k8s.api.core.v1.Pod`); empty for other types.
    pub fn name(self) -> &'a str {
        match self.ty() {
            Type::Object { name, .. } => self.schema.text(name),
            _ => "",
        }
    }

    /// The last part of the definition name: Go's struct name.
    pub fn short_name(self) -> &'a str {
        self.name().rsplit('.').next().unwrap_or_default()
    }

    /// The element type of a list or the value type of a map.
    pub fn element(self) -> Option<Node<'a>> {
        match self.ty() {
            Type::List { item, .. } => Some(self.schema.node(item)),
            Type::Map { value, .. } => Some(self.schema.node(value)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_sorted_and_found() {
        let schema = builtin();
        for k in kinds() {
            let (g, v, n) = (schema.text(k.group), schema.text(k.version), schema.text(k.kind));
            assert!(kind(g, v, n).is_some(), "{g}/{v} {n}");
        }
    }

    #[test]
    fn fields_are_sorted_and_found() {
        let schema = builtin();
        for index in 0..schema.types.len() {
            let node = schema.node(TypeId(u16::try_from(index).unwrap()));
            for field in node.fields() {
                let name = schema.text(field.name);
                assert_eq!(node.field(name), Some(field), "{}.{name}", node.name());
                assert!(usize::from(field.ty.0) < schema.types.len());
            }
        }
    }

    #[test]
    fn a_pod_is_what_upstream_says() {
        let spec = kind("", "v1", "Pod").unwrap().child("spec").unwrap();
        let containers = spec.field("containers").unwrap();
        assert_eq!(containers.omit, Omit::Never);
        assert_eq!(containers.number, 2);
        assert_eq!(spec.schema.text(containers.merge_key), "name");
        assert_eq!(spec.schema.text(containers.go), "[]v1.Container");
        let volume = spec.child("volumes").unwrap().element().unwrap();
        assert_eq!(volume.field("hostPath").unwrap().within, [2, 0]);
        assert_eq!(spec.field("hostNetwork").unwrap().omit, Omit::Empty);
        assert_eq!(spec.field("priority").unwrap().omit, Omit::Absent);
    }
}
