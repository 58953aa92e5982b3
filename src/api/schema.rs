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
    /// Any JSON value (`apiextensions` JSON and JSONSchemaPropsOr…, preserve-unknown-fields).
    Any,
    /// A struct with `count` fields from `first` in the schema's field table, sorted by JSON name.
    Object {
        name: Name,
        first: u16,
        count: u16,
        atomic: bool,
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
    /// Always written: `null`, `""`, `0`, `false` as the Go zero value is.
    Never,
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
    /// Protobuf field number; 0 where the type has no protobuf form.
    pub number: u16,
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

/// A type together with the schema it belongs to: what a walk carries.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    pub schema: &'a Schema,
    pub id: TypeId,
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

    /// The fields of an object type, sorted by JSON name; empty for every other type.
    pub fn fields(self) -> &'a [Field] {
        match self.ty() {
            Type::Object { first, count, .. } => {
                let first = usize::from(first);
                self.schema.fields.get(first..first + usize::from(count)).unwrap_or_default()
            }
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

    /// The element type of a list or the value type of a map.
    pub fn element(self) -> Option<Node<'a>> {
        match self.ty() {
            Type::List { item, .. } => Some(self.schema.node(item)),
            Type::Map { value, .. } => Some(self.schema.node(value)),
            _ => None,
        }
    }
}
