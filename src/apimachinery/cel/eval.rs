//! Evaluation: a walk over the tree.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::check::NAMESPACES;
use super::functions;
use super::parse::{Access, Expr, Loop, Node};
use super::value::{Key, Val};

/// Steps of one evaluation.
const STEPS_MAX: u64 = 1_000_000;

/// Decides a check of the authorizer: the attributes in order, then the verb.
pub type Authorize<'a> = dyn Fn(&[(String, String)]) -> bool + Send + Sync + 'a;

/// The values of variables.
#[derive(Clone, Default)]
pub struct Vars<'a> {
    values: BTreeMap<String, Val>,
    /// Answers `authorizer`.
    pub authorize: Option<&'a Authorize<'a>>,
}

impl Vars<'_> {
    pub fn set(&mut self, name: &str, value: Val) {
        self.values.insert(name.to_owned(), value);
    }
}

pub(super) fn run(root: &Expr, vars: &Vars<'_>) -> Result<Val, String> {
    Run { vars, scope: Vec::new(), steps: 0 }.expr(root)
}

struct Run<'a> {
    vars: &'a Vars<'a>,
    scope: Vec<(String, Val)>,
    steps: u64,
}

impl Run<'_> {
    fn lookup(&self, name: &str) -> Option<Val> {
        let local = self.scope.iter().rev().find(|(own, _)| own == name).map(|(_, value)| value);
        local.or_else(|| self.vars.values.get(name)).cloned()
    }

    fn expr(&mut self, expr: &Expr) -> Result<Val, String> {
        self.steps += 1;
        if self.steps > STEPS_MAX {
            return Err("operation cancelled: actual cost limit exceeded".to_owned());
        }
        Ok(match &expr.node {
            Node::Null => Val::Null,
            Node::Bool(flag) => Val::Bool(*flag),
            Node::Int(number) => Val::Int(*number),
            Node::Uint(number) => Val::Uint(*number),
            Node::Double(number) => Val::Double(*number),
            Node::String(text) => Val::text(text.as_str()),
            Node::Bytes(bytes) => Val::Bytes(bytes.as_slice().into()),
            Node::Ident(name) => match self.lookup(name) {
                Some(value) => value,
                None => Val::Type(name.as_str().into()),
            },
            Node::Select { operand, field, how } => {
                let operand = self.expr(operand)?;
                return select(&operand, field, *how);
            }
            Node::Call { target, function, args } => {
                return self.call(target.as_deref(), function, args);
            }
            Node::List(items) => {
                Val::list(items.iter().map(|item| self.expr(item)).collect::<Result<_, _>>()?)
            }
            Node::Map(items) => {
                let mut map = BTreeMap::new();
                for (key, value) in items {
                    let key = self.expr(key)?.key().ok_or("unsupported key type")?;
                    map.insert(key, self.expr(value)?);
                }
                Val::Map(Arc::new(map))
            }
            Node::Struct(fields) => {
                let mut map = BTreeMap::new();
                for (name, value) in fields {
                    map.insert(Key::String(name.as_str().into()), self.expr(value)?);
                }
                Val::Map(Arc::new(map))
            }
            Node::Macro { kind, target, vars, body } => {
                return self.looped(*kind, target, vars, body);
            }
            Node::Bind(name, value, result) => {
                let value = self.expr(value)?;
                return self.with(vec![(name.clone(), value)], |run| run.expr(result));
            }
            Node::OptMap(target, name, body, flat) => match self.expr(target)? {
                Val::Optional(Some(value)) => {
                    let scope = vec![(name.clone(), (*value).clone())];
                    let result = self.with(scope, |run| run.expr(body))?;
                    if *flat { result } else { Val::some(result) }
                }
                _ => Val::Optional(None),
            },
        })
    }

    fn with<T>(&mut self, more: Vec<(String, Val)>, run: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.scope.len();
        self.scope.extend(more);
        let result = run(self);
        self.scope.truncate(before);
        result
    }

    fn call(
        &mut self,
        target: Option<&Expr>,
        function: &str,
        args: &[Expr],
    ) -> Result<Val, String> {
        match (function, args) {
            ("_&&_", [a, b]) => return self.logic(a, b, false),
            ("_||_", [a, b]) => return self.logic(a, b, true),
            ("_?_:_", [condition, yes, no]) => {
                return match self.expr(condition)? {
                    Val::Bool(true) => self.expr(yes),
                    Val::Bool(false) => self.expr(no),
                    _ => Err(functions::no_overload()),
                };
            }
            _ => {}
        }
        let namespace = match target {
            Some(Expr { node: Node::Ident(name), .. })
                if NAMESPACES.contains(&name.as_str()) && self.lookup(name).is_none() =>
            {
                Some(name)
            }
            _ => None,
        };
        let dotted = namespace.map(|namespace| format!("{namespace}.{function}"));
        let target = if namespace.is_some() { None } else { target };
        let mut values = Vec::with_capacity(args.len() + 1);
        for arg in target.into_iter().chain(args) {
            values.push(self.expr(arg)?);
        }
        self.steps += values.iter().map(weight).sum::<u64>();
        functions::call(dotted.as_deref().unwrap_or(function), &values, self.vars.authorize)
    }

    /// `&&` and `||`: the side that decides wins over an error of the other.
    fn logic(&mut self, a: &Expr, b: &Expr, decides: bool) -> Result<Val, String> {
        let first = self.expr(a);
        if first == Ok(Val::Bool(decides)) {
            return first;
        }
        let second = self.expr(b);
        if second == Ok(Val::Bool(decides)) {
            return second;
        }
        match (first?, second?) {
            (Val::Bool(_), Val::Bool(_)) => Ok(Val::Bool(!decides)),
            _ => Err(functions::no_overload()),
        }
    }

    fn looped(
        &mut self,
        kind: Loop,
        target: &Expr,
        vars: &[String],
        body: &[Expr],
    ) -> Result<Val, String> {
        let range = self.expr(target)?;
        let is_map = matches!(range, Val::Map(_));
        let entries: Vec<(Val, Val)> = match &range {
            Val::List(items) => {
                items.iter().zip(0..).map(|(item, at)| (Val::Int(at), item.clone())).collect()
            }
            Val::Map(map) => {
                map.iter().map(|(key, value)| (Val::from(key.clone()), value.clone())).collect()
            }
            _ => return Err(functions::no_overload()),
        };
        let mut error: Option<String> = None;
        let mut found = 0;
        let mut list = Vec::new();
        let mut map = BTreeMap::new();
        for (key, value) in entries {
            let scope = match vars {
                [one] => {
                    let own = if is_map { key.clone() } else { value.clone() };
                    vec![(one.clone(), own)]
                }
                [first, second] => {
                    vec![(first.clone(), key.clone()), (second.clone(), value.clone())]
                }
                _ => Vec::new(),
            };
            let parts = self.with(scope, |run| -> Result<Option<Val>, String> {
                let mut last = None;
                for (at, part) in body.iter().enumerate() {
                    let value = run.expr(part)?;
                    let is_condition = at + 1 < body.len();
                    if is_condition && value != Val::Bool(true) {
                        return Ok(None);
                    }
                    last = Some(value);
                }
                Ok(last)
            });
            match (kind, parts) {
                (Loop::All, Ok(Some(Val::Bool(false)))) => return Ok(Val::Bool(false)),
                (Loop::Exists, Ok(Some(Val::Bool(true)))) => return Ok(Val::Bool(true)),
                (Loop::All | Loop::Exists, Ok(Some(Val::Bool(_)))) => {}
                (Loop::All | Loop::Exists, Err(why)) => {
                    error.get_or_insert(why);
                }
                (_, Err(why)) => return Err(why),
                (_, Ok(None)) => {}
                (Loop::ExistsOne, Ok(Some(Val::Bool(hit)))) => found += usize::from(hit),
                (Loop::Filter, Ok(Some(Val::Bool(hit)))) => {
                    if hit {
                        list.push(if is_map && vars.len() == 1 { key } else { value });
                    }
                }
                (Loop::Map | Loop::TransformList, Ok(Some(result))) => list.push(result),
                (Loop::TransformMap, Ok(Some(result))) => {
                    map.insert(key.key().ok_or("unsupported key type")?, result);
                }
                _ => return Err(functions::no_overload()),
            }
        }
        if let Some(why) = error {
            return Err(why);
        }
        Ok(match kind {
            Loop::All => Val::Bool(true),
            Loop::Exists => Val::Bool(false),
            Loop::ExistsOne => Val::Bool(found == 1),
            Loop::TransformMap => Val::Map(Arc::new(map)),
            _ => Val::list(list),
        })
    }
}

/// What looking at a value costs.
fn weight(value: &Val) -> u64 {
    match value {
        Val::String(text) => text.len() as u64 / 10,
        Val::Bytes(bytes) => bytes.len() as u64 / 10,
        Val::List(items) => items.len() as u64 / 10,
        _ => 0,
    }
}

fn select(operand: &Val, field: &str, how: Access) -> Result<Val, String> {
    let (inner, optional) = match operand {
        Val::Optional(None) if how == Access::Test => return Ok(Val::Bool(false)),
        Val::Optional(None) => return Ok(Val::Optional(None)),
        Val::Optional(Some(inner)) => (&**inner, true),
        other => (other, how == Access::Optional),
    };
    if let Val::Opaque(_) = inner {
        return functions::call(field, std::slice::from_ref(inner), None);
    }
    let Val::Map(map) = inner else { return Err(functions::no_overload()) };
    let found = map.get(&Key::String(field.into()));
    Ok(match (how, found) {
        (Access::Test, found) => Val::Bool(found.is_some()),
        (_, found) if optional => Val::optional(found.cloned()),
        (_, Some(found)) => found.clone(),
        (_, None) => return Err(format!("no such key: {field}")),
    })
}
