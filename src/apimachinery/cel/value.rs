//! Values of expressions, and how JSON becomes one.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use crate::quantity::Quantity;
use crate::structural::Structural;

#[derive(Clone, Debug)]
pub enum Val {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
    List(Arc<Vec<Val>>),
    Map(Arc<BTreeMap<Key, Val>>),
    /// Nanoseconds.
    Duration(i64),
    Timestamp(Timestamp),
    Type(Arc<str>),
    Optional(Option<Arc<Val>>),
    Opaque(Arc<Opaque>),
}

/// Keys of maps.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Bool(bool),
    Int(i64),
    String(Arc<str>),
}

/// Values of libraries.
#[derive(Clone, Debug)]
pub enum Opaque {
    Quantity(Quantity),
    Url(String),
    Ip(IpAddr),
    Cidr(IpAddr, u8),
    /// The name of a string format.
    Format(String),
    /// Major, minor, patch and the rest.
    Semver(u64, u64, u64, String),
    /// What may be asked of the authorizer so far: the attributes in order.
    Authorizer(Vec<(String, String)>),
}

impl PartialEq for Val {
    fn eq(&self, other: &Self) -> bool {
        equal(self, other)
    }
}

/// CEL's equality: numbers by value, other types only with their own.
pub(super) fn equal(a: &Val, b: &Val) -> bool {
    match (a, b) {
        (Val::Null, Val::Null) => true,
        (Val::Bool(a), Val::Bool(b)) => a == b,
        (Val::String(a), Val::String(b)) => a == b,
        (Val::Bytes(a), Val::Bytes(b)) => a == b,
        (Val::List(a), Val::List(b)) => a == b,
        (Val::Map(a), Val::Map(b)) => a == b,
        (Val::Duration(a), Val::Duration(b)) => a == b,
        (Val::Timestamp(a), Val::Timestamp(b)) => a == b,
        (Val::Type(a), Val::Type(b)) => a == b,
        (Val::Optional(a), Val::Optional(b)) => a == b,
        (Val::Opaque(a), Val::Opaque(b)) => opaque_equal(a, b),
        _ => compare(a, b) == Some(Ordering::Equal),
    }
}

fn opaque_equal(a: &Opaque, b: &Opaque) -> bool {
    match (a, b) {
        (Opaque::Quantity(a), Opaque::Quantity(b)) => a.cmp(b).is_eq(),
        (Opaque::Url(a), Opaque::Url(b)) | (Opaque::Format(a), Opaque::Format(b)) => a == b,
        (Opaque::Ip(a), Opaque::Ip(b)) => a == b,
        (Opaque::Cidr(a, x), Opaque::Cidr(b, y)) => (a, x) == (b, y),
        (Opaque::Semver(..), Opaque::Semver(..)) => format!("{a:?}") == format!("{b:?}"),
        _ => false,
    }
}

/// The order of two values of comparable types.
pub(super) fn compare(a: &Val, b: &Val) -> Option<Ordering> {
    let number = |value: &Val| match value {
        Val::Int(n) => Some(*n as f64),
        Val::Uint(n) => Some(*n as f64),
        Val::Double(n) => Some(*n),
        _ => None,
    };
    match (a, b) {
        (Val::Bool(a), Val::Bool(b)) => Some(a.cmp(b)),
        (Val::Int(a), Val::Int(b)) => Some(a.cmp(b)),
        (Val::Uint(a), Val::Uint(b)) => Some(a.cmp(b)),
        (Val::Int(a), Val::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Val::Uint(a), Val::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Val::String(a), Val::String(b)) => Some(a.cmp(b)),
        (Val::Bytes(a), Val::Bytes(b)) => Some(a.cmp(b)),
        (Val::Duration(a), Val::Duration(b)) => Some(a.cmp(b)),
        (Val::Timestamp(a), Val::Timestamp(b)) => Some(a.cmp(b)),
        _ => number(a)?.partial_cmp(&number(b)?),
    }
}

impl Val {
    pub fn text(text: impl Into<Arc<str>>) -> Self {
        Self::String(text.into())
    }

    pub(super) fn list(items: Vec<Self>) -> Self {
        Self::List(Arc::new(items))
    }

    pub(super) fn opaque(opaque: Opaque) -> Self {
        Self::Opaque(Arc::new(opaque))
    }

    pub(super) fn some(value: Self) -> Self {
        Self::Optional(Some(Arc::new(value)))
    }

    /// What `quantity(text)` gives.
    pub fn quantity(quantity: Quantity) -> Self {
        Self::opaque(Opaque::Quantity(quantity))
    }

    /// What `semver(text)` gives, of a text that is one.
    pub fn semver(text: &str) -> Option<Self> {
        super::library::parse_semver(text).map(Self::opaque)
    }

    /// A value or none.
    pub fn optional(value: Option<Self>) -> Self {
        Self::Optional(value.map(Arc::new))
    }

    /// A map with these fields.
    pub fn object<'a>(fields: impl IntoIterator<Item = (&'a str, Self)>) -> Self {
        let fields = fields.into_iter().map(|(name, value)| (Key::String(name.into()), value));
        Self::Map(Arc::new(fields.collect()))
    }

    /// JSON without a schema.
    pub fn from_json(value: &Value) -> Self {
        Self::typed(value, None)
    }

    /// JSON with the schema that says what its strings mean and which names are fields.
    pub fn typed(value: &Value, schema: Option<&Structural>) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(flag) => Self::Bool(*flag),
            Value::Number(number) => {
                let double = schema.is_some_and(|schema| schema.ty == "number");
                match number.as_i64().filter(|_| !double) {
                    Some(whole) => Self::Int(whole),
                    None => Self::Double(number.as_f64().unwrap_or_default()),
                }
            }
            Value::String(text) => Self::formatted(text, schema),
            Value::Array(items) => {
                let schema = schema.and_then(|schema| schema.items.as_deref());
                Self::list(items.iter().map(|item| Self::typed(item, schema)).collect())
            }
            Value::Object(map) => {
                let fields = map.iter().map(|(name, value)| {
                    let own = schema.and_then(|schema| schema.properties.get(name));
                    let child = own.or_else(|| schema.and_then(Structural::additional_schema));
                    let name = if own.is_some() { escape(name) } else { name.clone() };
                    (Key::String(name.into()), Self::typed(value, child))
                });
                Self::Map(Arc::new(fields.collect()))
            }
        }
    }

    fn formatted(text: &str, schema: Option<&Structural>) -> Self {
        let format = match schema {
            Some(schema) if schema.ty == "string" => schema.limits.format.as_str(),
            _ => "",
        };
        let found = match format {
            "date-time" => text.parse().ok().map(Self::Timestamp),
            "date" => format!("{text}T00:00:00Z").parse().ok().map(Self::Timestamp),
            "duration" => crate::duration::parse(text).ok().map(Self::Duration),
            "byte" => STANDARD.decode(text).ok().map(|bytes| Self::Bytes(bytes.into())),
            _ => None,
        };
        found.unwrap_or_else(|| Self::text(text))
    }

    /// The value as JSON; optionals that have none are null.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Null | Self::Optional(None) => Value::Null,
            Self::Bool(flag) => (*flag).into(),
            Self::Int(number) => (*number).into(),
            Self::Uint(number) => (*number).into(),
            Self::Double(number) => (*number).into(),
            Self::String(text) => (**text).into(),
            Self::Bytes(bytes) => STANDARD.encode(bytes).into(),
            Self::List(items) => items.iter().map(Self::to_json).collect(),
            Self::Map(map) => {
                let entry = |(key, value): (&Key, &Self)| {
                    let name = match key {
                        Key::String(text) => text.to_string(),
                        Key::Int(number) => number.to_string(),
                        Key::Bool(flag) => flag.to_string(),
                    };
                    (name, value.to_json())
                };
                Value::Object(map.iter().map(entry).collect())
            }
            Self::Optional(Some(value)) => value.to_json(),
            other => match super::text::string(other) {
                Ok(Self::String(text)) => (*text).into(),
                _ => Value::Null,
            },
        }
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn key(&self) -> Option<Key> {
        match self {
            Self::Bool(flag) => Some(Key::Bool(*flag)),
            Self::Int(number) => Some(Key::Int(*number)),
            Self::Uint(number) => i64::try_from(*number).ok().map(Key::Int),
            Self::Double(number) if number.fract() == 0.0 => Some(Key::Int(*number as i64)),
            Self::String(text) => Some(Key::String(text.clone())),
            _ => None,
        }
    }

    /// The name of the value's type.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::String(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Timestamp(_) => "google.protobuf.Timestamp",
            Self::Type(_) => "type",
            Self::Optional(_) => "optional_type",
            Self::Opaque(_) => "opaque",
        }
    }
}

impl From<Key> for Val {
    fn from(key: Key) -> Self {
        match key {
            Key::Bool(flag) => Self::Bool(flag),
            Key::Int(number) => Self::Int(number),
            Key::String(text) => Self::String(text),
        }
    }
}

const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// The name that a property has in expressions.
pub fn escape(name: &str) -> String {
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    name.replace("__", "__underscores__")
        .replace('.', "__dot__")
        .replace('-', "__dash__")
        .replace('/', "__slash__")
}
