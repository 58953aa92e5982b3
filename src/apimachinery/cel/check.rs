//! Types of expressions, and what may be done with them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use super::Problem;
use super::parse::{Access, Expr, Loop, Node};
use crate::structural::{Additional, Structural};

/// The type of a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Ty {
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Duration,
    Timestamp,
    Type,
    List(Arc<Ty>),
    Map(Arc<Ty>, Arc<Ty>),
    Optional(Arc<Ty>),
    /// An object with named fields; other fields are refused.
    Object(Arc<BTreeMap<String, Ty>>),
    /// A type of a library: `kubernetes.Quantity`.
    Opaque(&'static str),
    /// A type parameter of a signature.
    Param(char),
}

impl Ty {
    /// The type of `authorizer`.
    pub const AUTHORIZER: Self = Self::Opaque("kubernetes.authorization.Authorizer");

    pub fn list(item: Self) -> Self {
        Self::List(Arc::new(item))
    }

    pub fn map(value: Self) -> Self {
        Self::Map(Arc::new(Self::String), Arc::new(value))
    }

    pub fn object<'a>(fields: impl IntoIterator<Item = (&'a str, Self)>) -> Self {
        let fields = fields.into_iter().map(|(name, ty)| (name.to_owned(), ty));
        Self::Object(Arc::new(fields.collect()))
    }

    /// The type of what a schema describes; `root` when it is a whole object.
    pub fn of(schema: &Structural, root: bool) -> Self {
        if schema.int_or_string {
            return Self::Dyn;
        }
        match schema.ty.as_str() {
            "boolean" => Self::Bool,
            "integer" => Self::Int,
            "number" => Self::Double,
            "string" => match schema.limits.format.as_str() {
                "date-time" | "date" => Self::Timestamp,
                "duration" => Self::Duration,
                "byte" => Self::Bytes,
                _ => Self::String,
            },
            "array" => {
                let item = schema.items.as_ref().map_or(Self::Dyn, |item| Self::of(item, false));
                Self::list(item)
            }
            "object" => Self::of_object(schema, root || schema.embedded),
            _ => Self::Dyn,
        }
    }

    fn of_object(schema: &Structural, root: bool) -> Self {
        match &schema.additional {
            Additional::Schema(value) if schema.properties.is_empty() => {
                return Self::map(Self::of(value, false));
            }
            Additional::Anything if schema.properties.is_empty() => return Self::map(Self::Dyn),
            _ => {}
        }
        let mut fields: BTreeMap<String, Self> = BTreeMap::new();
        for (name, child) in &schema.properties {
            fields.insert(super::escape(name), Self::of(child, false));
        }
        if root {
            for name in ["apiVersion", "kind"] {
                fields.insert(name.to_owned(), Self::String);
            }
            let names = [("name", Self::String), ("generateName", Self::String)];
            fields.insert("metadata".to_owned(), Self::object(names));
        } else if fields.is_empty() && schema.preserve {
            return Self::Dyn;
        }
        Self::Object(Arc::new(fields))
    }
}

impl fmt::Display for Ty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => f.write_str("dyn"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Duration => f.write_str("google.protobuf.Duration"),
            Self::Timestamp => f.write_str("google.protobuf.Timestamp"),
            Self::Type => f.write_str("type"),
            Self::List(item) => write!(f, "list({item})"),
            Self::Map(key, value) => write!(f, "map({key}, {value})"),
            Self::Optional(value) => write!(f, "optional_type({value})"),
            Self::Object(_) => f.write_str("object"),
            Self::Opaque(name) => f.write_str(name),
            Self::Param(name) => write!(f, "{name}"),
        }
    }
}

/// What a function takes and gives; the first parameter of a method is its target.
struct Signature {
    name: &'static str,
    method: bool,
    params: Vec<Ty>,
    result: Ty,
}

/// One line each: `name(params) result`, or `type:name(params) result` for methods. `A` and `B` stand for any type.
const SIGNATURES: &str = include_str!("signatures.txt");

static TABLE: LazyLock<BTreeMap<&'static str, Vec<Signature>>> = LazyLock::new(|| {
    let mut table: BTreeMap<&str, Vec<Signature>> = BTreeMap::new();
    for line in SIGNATURES.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(signature) = signature(line) {
            table.entry(signature.name).or_default().push(signature);
        }
    }
    table
});

fn signature(line: &'static str) -> Option<Signature> {
    let (head, result) = line.rsplit_once(' ')?;
    let (name, params) = head.split_once('(')?;
    let params = params.strip_suffix(')')?;
    let mut types = Vec::new();
    let (name, method) = match name.split_once(':').filter(|_| !name.starts_with('_')) {
        Some((target, name)) => {
            types.push(ty(target)?);
            (name, true)
        }
        None => (name, false),
    };
    for param in params.split_whitespace() {
        types.push(ty(param)?);
    }
    Some(Signature { name, method, params: types, result: ty(result)? })
}

fn ty(text: &'static str) -> Option<Ty> {
    let inner = |prefix: &str| text.strip_prefix(prefix)?.strip_suffix('>');
    if let Some(item) = inner("list<") {
        return Some(Ty::list(ty(item)?));
    }
    if let Some(item) = inner("optional<") {
        return Some(Ty::Optional(Arc::new(ty(item)?)));
    }
    if let Some((key, value)) = inner("map<").and_then(|pair| pair.split_once(',')) {
        return Some(Ty::Map(Arc::new(ty(key)?), Arc::new(ty(value)?)));
    }
    Some(match text {
        "dyn" => Ty::Dyn,
        "null" => Ty::Null,
        "bool" => Ty::Bool,
        "int" => Ty::Int,
        "uint" => Ty::Uint,
        "double" => Ty::Double,
        "string" => Ty::String,
        "bytes" => Ty::Bytes,
        "duration" => Ty::Duration,
        "timestamp" => Ty::Timestamp,
        "type" => Ty::Type,
        "A" => Ty::Param('A'),
        "B" => Ty::Param('B'),
        "quantity" => Ty::Opaque("kubernetes.Quantity"),
        "url" => Ty::Opaque("kubernetes.URL"),
        "ip" => Ty::Opaque("net.IP"),
        "cidr" => Ty::Opaque("net.CIDR"),
        "semver" => Ty::Opaque("kubernetes.Semver"),
        "format" => Ty::Opaque("kubernetes.NamedFormat"),
        "authorizer" => Ty::Opaque("kubernetes.authorization.Authorizer"),
        "pathcheck" => Ty::Opaque("kubernetes.authorization.PathCheck"),
        "groupcheck" => Ty::Opaque("kubernetes.authorization.GroupCheck"),
        "resourcecheck" => Ty::Opaque("kubernetes.authorization.ResourceCheck"),
        "decision" => Ty::Opaque("kubernetes.authorization.Decision"),
        _ => return None,
    })
}

/// Names that stand for types.
const TYPE_NAMES: [&str; 10] =
    ["bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type", "type"];

/// Namespaces whose functions are called by a dotted name.
pub(super) const NAMESPACES: [&str; 6] = ["sets", "math", "optional", "format", "ip", "jsonpatch"];

pub(super) fn check(root: &Expr, variables: &BTreeMap<String, Ty>) -> Result<Ty, Problem> {
    let scope = variables.iter().map(|(name, ty)| (name.clone(), ty.clone())).collect();
    Checker { scope }.expr(root)
}

struct Checker {
    scope: Vec<(String, Ty)>,
}

fn undefined(at: usize, field: &str) -> Problem {
    Problem { at, message: format!("undefined field '{field}'") }
}

impl Checker {
    fn lookup(&self, name: &str) -> Option<&Ty> {
        self.scope.iter().rev().find(|(own, _)| own == name).map(|(_, ty)| ty)
    }

    fn expr(&mut self, expr: &Expr) -> Result<Ty, Problem> {
        match &expr.node {
            Node::Null => Ok(Ty::Null),
            Node::Bool(_) => Ok(Ty::Bool),
            Node::Int(_) => Ok(Ty::Int),
            Node::Uint(_) => Ok(Ty::Uint),
            Node::Double(_) => Ok(Ty::Double),
            Node::String(_) => Ok(Ty::String),
            Node::Bytes(_) => Ok(Ty::Bytes),
            Node::Ident(name) => match self.lookup(name) {
                Some(ty) => Ok(ty.clone()),
                None if TYPE_NAMES.contains(&name.as_str()) => Ok(Ty::Type),
                None => {
                    let message = format!("undeclared reference to '{name}' (in container '')");
                    Err(Problem { at: expr.at, message })
                }
            },
            Node::Select { operand, field, how } => self.select(expr.at, operand, field, *how),
            Node::Call { target, function, args } => {
                self.call(expr.at, target.as_deref(), function, args)
            }
            Node::List(items) => {
                let types = items.iter().map(|item| self.expr(item));
                Ok(Ty::list(join(types.collect::<Result<Vec<_>, _>>()?)))
            }
            Node::Map(items) => {
                let (mut keys, mut values) = (Vec::new(), Vec::new());
                for (key, value) in items {
                    keys.push(self.expr(key)?);
                    values.push(self.expr(value)?);
                }
                Ok(Ty::Map(Arc::new(join(keys)), Arc::new(join(values))))
            }
            Node::Struct(fields) => {
                for (_, value) in fields {
                    self.expr(value)?;
                }
                Ok(Ty::Dyn)
            }
            Node::Macro { kind, target, vars, body } => self.looped(*kind, target, vars, body),
            Node::Bind(name, value, result) => {
                let ty = self.expr(value)?;
                self.with(vec![(name.clone(), ty)], |checker| checker.expr(result))
            }
            Node::OptMap(target, name, body, flat) => {
                let inner = match self.expr(target)? {
                    Ty::Optional(inner) => (*inner).clone(),
                    _ => Ty::Dyn,
                };
                let result =
                    self.with(vec![(name.clone(), inner)], |checker| checker.expr(body))?;
                Ok(if *flat { result } else { Ty::Optional(Arc::new(result)) })
            }
        }
    }

    fn with<T>(&mut self, more: Vec<(String, Ty)>, run: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.scope.len();
        self.scope.extend(more);
        let result = run(self);
        self.scope.truncate(before);
        result
    }

    fn select(
        &mut self,
        at: usize,
        operand: &Expr,
        field: &str,
        how: Access,
    ) -> Result<Ty, Problem> {
        let inner = self.expr(operand)?;
        let (inner, optional) = match &inner {
            Ty::Optional(value) => ((**value).clone(), true),
            _ => (inner, how == Access::Optional),
        };
        let found = match &inner {
            Ty::Dyn => Ty::Dyn,
            Ty::Map(_, value) => (**value).clone(),
            Ty::Object(fields) => match fields.get(field) {
                Some(ty) => ty.clone(),
                None => return Err(undefined(at, field)),
            },
            ty if *ty == Ty::AUTHORIZER && field == "requestResource" => {
                Ty::Opaque("kubernetes.authorization.ResourceCheck")
            }
            other => {
                let message = format!("type '{other}' does not support field selection");
                return Err(Problem { at, message });
            }
        };
        Ok(match how {
            Access::Test => Ty::Bool,
            _ if optional => Ty::Optional(Arc::new(found)),
            _ => found,
        })
    }

    fn call(
        &mut self,
        at: usize,
        target: Option<&Expr>,
        function: &str,
        args: &[Expr],
    ) -> Result<Ty, Problem> {
        // `sets.contains(…)` is a function with a dotted name.
        if let Some(Expr { node: Node::Ident(namespace), .. }) = target
            && NAMESPACES.contains(&namespace.as_str())
            && self.lookup(namespace).is_none()
        {
            return self.overload(at, None, &format!("{namespace}.{function}"), args);
        }
        self.overload(at, target, function, args)
    }

    fn overload(
        &mut self,
        at: usize,
        target: Option<&Expr>,
        function: &str,
        args: &[Expr],
    ) -> Result<Ty, Problem> {
        let mut types = Vec::new();
        for arg in target.into_iter().chain(args) {
            types.push(self.expr(arg)?);
        }
        let Some(known) = TABLE.get(function) else {
            let message = format!("undeclared reference to '{function}' (in container '')");
            return Err(Problem { at, message });
        };
        let mut results = Vec::new();
        for signature in known.iter().filter(|known| known.method == target.is_some()) {
            let mut bound = BTreeMap::new();
            let fits = signature.params.len() == types.len()
                && signature
                    .params
                    .iter()
                    .zip(&types)
                    .all(|(param, ty)| assignable(param, ty, &mut bound));
            if fits {
                let result = substitute(&signature.result, &bound);
                if !results.contains(&result) {
                    results.push(result);
                }
            }
        }
        match results.len() {
            0 => {
                let shown = |types: &[Ty]| {
                    types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
                };
                let applied = match target {
                    Some(_) => format!("{}.({})", types[0], shown(&types[1..])),
                    None => format!("({})", shown(&types)),
                };
                let message =
                    format!("found no matching overload for '{function}' applied to '{applied}'");
                Err(Problem { at, message })
            }
            1 => Ok(results.remove(0)),
            _ => Ok(Ty::Dyn),
        }
    }

    fn looped(
        &mut self,
        kind: Loop,
        target: &Expr,
        vars: &[String],
        body: &[Expr],
    ) -> Result<Ty, Problem> {
        let range = self.expr(target)?;
        let (key, value) = match &range {
            Ty::List(item) => (Ty::Int, (**item).clone()),
            Ty::Map(key, value) => ((**key).clone(), (**value).clone()),
            Ty::Dyn => (Ty::Dyn, Ty::Dyn),
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                return Err(Problem { at: target.at, message });
            }
        };
        let scope = match vars {
            [one] if matches!(range, Ty::Map(..)) => vec![(one.clone(), key.clone())],
            [one] => vec![(one.clone(), value.clone())],
            [first, second] => {
                vec![(first.clone(), key.clone()), (second.clone(), value.clone())]
            }
            _ => Vec::new(),
        };
        let types = self.with(scope, |checker| {
            body.iter().map(|part| checker.expr(part)).collect::<Result<Vec<_>, _>>()
        })?;
        let conditions = match kind {
            Loop::All | Loop::Exists | Loop::ExistsOne | Loop::Filter => types.len(),
            _ => types.len() - 1,
        };
        for (part, ty) in body.iter().zip(&types).take(conditions) {
            if !matches!(ty, Ty::Bool | Ty::Dyn) {
                let message = format!("expected type 'bool' but found '{ty}'");
                return Err(Problem { at: part.at, message });
            }
        }
        let last = types.into_iter().next_back().unwrap_or(Ty::Dyn);
        Ok(match kind {
            Loop::All | Loop::Exists | Loop::ExistsOne => Ty::Bool,
            Loop::Filter if vars.len() == 1 && matches!(range, Ty::Map(..)) => Ty::list(key),
            Loop::Filter => Ty::list(value),
            Loop::Map | Loop::TransformList => Ty::list(last),
            Loop::TransformMap => Ty::Map(Arc::new(key), Arc::new(last)),
        })
    }
}

/// One type for all, or any type.
fn join(mut types: Vec<Ty>) -> Ty {
    let Some(first) = types.pop() else { return Ty::Dyn };
    match types.iter().all(|ty| *ty == first) {
        true => first,
        false => Ty::Dyn,
    }
}

fn assignable(param: &Ty, ty: &Ty, bound: &mut BTreeMap<char, Ty>) -> bool {
    match (param, ty) {
        (Ty::Param(name), ty) => match bound.get(name).cloned() {
            None | Some(Ty::Dyn) => {
                bound.insert(*name, ty.clone());
                true
            }
            // What may be absent compares with null.
            Some(known) => {
                let nullable = |ty: &Ty| {
                    matches!(
                        ty,
                        Ty::Object(_) | Ty::Opaque(_) | Ty::Duration | Ty::Timestamp | Ty::Null
                    )
                };
                if matches!(known, Ty::Null) && nullable(ty) || *ty == Ty::Null && nullable(&known)
                {
                    return true;
                }
                assignable(&known, ty, bound)
            }
        },
        (Ty::Dyn, _) | (_, Ty::Dyn) => true,
        (Ty::List(a), Ty::List(b)) | (Ty::Optional(a), Ty::Optional(b)) => assignable(a, b, bound),
        (Ty::Map(a, x), Ty::Map(b, y)) => assignable(a, b, bound) && assignable(x, y, bound),
        (a, b) => a == b,
    }
}

fn substitute(ty: &Ty, bound: &BTreeMap<char, Ty>) -> Ty {
    match ty {
        Ty::Param(name) => bound.get(name).cloned().unwrap_or(Ty::Dyn),
        Ty::List(item) => Ty::list(substitute(item, bound)),
        Ty::Optional(inner) => Ty::Optional(Arc::new(substitute(inner, bound))),
        Ty::Map(key, value) => {
            Ty::Map(Arc::new(substitute(key, bound)), Arc::new(substitute(value, bound)))
        }
        other => other.clone(),
    }
}
