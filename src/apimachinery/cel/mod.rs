//! The Common Expression Language as Kubernetes speaks it: parsed, type-checked, evaluated.
//!
//! `compile` turns a text into a `Program` for declared variables and refuses what cannot be typed,
//! in upstream's words; `Program::run` evaluates it. Knows no kind and no IO. Invariant: evaluation
//! ends: its steps are counted and macros are the only loops.

mod check;
mod eval;
mod functions;
mod lex;
mod library;
mod parse;
mod text;
mod time;
mod value;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use check::Ty;
pub use eval::{Authorize, Vars};
pub use value::{Opaque, Val, escape};

use parse::{Expr, Node};

/// What went wrong at a place of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Byte offset.
    pub(crate) at: usize,
    pub(crate) message: String,
}

/// A compiled expression.
#[derive(Clone, Debug)]
pub struct Program {
    root: Arc<Expr>,
    /// The type of its result.
    pub ty: Ty,
}

/// Compiles a text. `variables` says what may be named and what type it has.
pub fn compile(text: &str, variables: &BTreeMap<String, Ty>) -> Result<Program, String> {
    let root = parse::parse(text).map_err(|problem| problem.shown(text))?;
    let ty = check::check(&root, variables).map_err(|problem| problem.shown(text))?;
    Ok(Program { root: Arc::new(root), ty })
}

impl Program {
    /// Evaluates with these values of the variables.
    pub fn run(&self, vars: &Vars) -> Result<Val, String> {
        eval::run(&self.root, vars)
    }

    /// Does the expression name this variable?
    pub fn uses(&self, name: &str) -> bool {
        uses(&self.root, name)
    }

    /// A lower bound for the estimated cost: what the loops cost, where `size` tells how many
    /// elements the value at a path of fields (`*` for elements) may have.
    pub fn cost(&self, size: &dyn Fn(&[String]) -> u64) -> u64 {
        cost(&self.root, &mut Vec::new(), size)
    }
}

impl Problem {
    /// As upstream prints it, with the line that it is in.
    fn shown(&self, text: &str) -> String {
        let at = self.at.min(text.len());
        let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let line = text[start..].lines().next().unwrap_or_default();
        let number = text[..at].matches('\n').count() + 1;
        let column = text[start..at].chars().count();
        let dots = ".".repeat(column);
        format!("ERROR: <input>:{number}:{}: {}\n | {line}\n | {dots}^", column + 1, self.message)
    }
}

fn uses(expr: &Expr, name: &str) -> bool {
    match &expr.node {
        Node::Ident(own) => own == name,
        _ => expr.children().into_iter().any(|child| uses(child, name)),
    }
}

/// The fields that lead from a variable to a value, through the variables of loops.
fn place(expr: &Expr, scope: &[(String, Vec<String>)]) -> Option<Vec<String>> {
    match &expr.node {
        Node::Ident(name) => {
            let known = scope.iter().rev().find(|(own, _)| own == name);
            Some(known.map_or_else(|| vec![name.clone()], |(_, path)| path.clone()))
        }
        Node::Select { operand, field, .. } => {
            let mut path = place(operand, scope)?;
            path.push(field.clone());
            Some(path)
        }
        Node::Call { function, args, target: None } if function == "_[_]" => {
            let mut path = place(args.first()?, scope)?;
            path.push("*".to_owned());
            Some(path)
        }
        _ => None,
    }
}

fn cost(
    expr: &Expr,
    scope: &mut Vec<(String, Vec<String>)>,
    size: &dyn Fn(&[String]) -> u64,
) -> u64 {
    if let Node::Macro { target, vars, body, .. } = &expr.node {
        let path = place(target, scope);
        let count = path.as_deref().map_or(1, size);
        let before = scope.len();
        let element = path.map(|mut path| {
            path.push("*".to_owned());
            path
        });
        for name in vars {
            scope.push((name.clone(), element.clone().unwrap_or_default()));
        }
        let each = body.iter().fold(1_u64, |sum, part| sum.saturating_add(cost(part, scope, size)));
        scope.truncate(before);
        return cost(target, scope, size).saturating_add(count.saturating_mul(each));
    }
    let children = expr.children();
    children.into_iter().fold(0, |sum, child| sum.saturating_add(cost(child, scope, size)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn types() -> BTreeMap<String, Ty> {
        let object = Ty::object([("a", Ty::Int), ("s", Ty::String), ("l", Ty::list(Ty::Int))]);
        BTreeMap::from([("self".to_owned(), object), ("any".to_owned(), Ty::Dyn)])
    }

    fn refusal(text: &str, want: &str) {
        assert_eq!(compile(text, &types()).unwrap_err(), want, "{text}");
    }

    #[test]
    fn refusals_are_upstreams() {
        refusal(
            "self.a >",
            "ERROR: <input>:1:9: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}\n | self.a >\n | ........^",
        );
        refusal(
            "self.a > 'x'",
            "ERROR: <input>:1:8: found no matching overload for '_>_' applied to '(int, string)'\n | self.a > 'x'\n | .......^",
        );
        refusal(
            "params == null",
            "ERROR: <input>:1:1: undeclared reference to 'params' (in container '')\n | params == null\n | ^",
        );
        refusal(
            "device.",
            "ERROR: <input>:1:8: Syntax error: no viable alternative at input '.'\n | device.\n | .......^",
        );
        refusal(
            "self.zz == 1",
            "ERROR: <input>:1:5: undefined field 'zz'\n | self.zz == 1\n | ....^",
        );
    }

    fn value(text: &str, want: Result<Val, &str>) {
        let program = compile(text, &types()).unwrap_or_else(|why| panic!("{text}: {why}"));
        let object = json!({"a": 6, "s": "Hello", "l": [1, 2, 3]});
        let mut vars = Vars::default();
        vars.set("self", Val::from_json(&object));
        vars.set("any", Val::from_json(&object));
        assert_eq!(program.run(&vars), want.map_err(str::to_owned), "{text}");
    }

    fn holds(text: &str) {
        value(text, Ok(Val::Bool(true)));
    }

    #[test]
    fn expressions_are_evaluated() {
        holds("self.a == 6 && self.a != 7 && self.a > 5.5 && !(self.a < 2)");
        holds("self.l.all(x, self.l.exists_one(y, y == x))");
        holds("self.l.map(x, x * 2).filter(x, x > 2) == [4, 6]");
        holds("self.l.all(i, v, v == i + 1)");
        holds("{'a': 1, 'b': 2}.exists(k, k == 'b') && 'a' in {'a': 1} && 2 in self.l");
        holds("has(self.a) && !has(any.zz) && size(self.s) == 5 && self.s.size() == 5");
        holds(
            "self.s.matches('^H.*o$') && self.s.lowerAscii() == 'hello' && self.s.contains('ell')",
        );
        holds("self.s.split('l') == ['He', '', 'o'] && ['a', 'b'].join('-') == 'a-b'");
        holds("self.s.substring(1, 3) == 'el' && self.s.indexOf('l') == 2 && 'x'.charAt(0) == 'x'");
        holds(
            "'%s is %d'.format(['a', 3]) == 'a is 3' && 'a1b22'.findAll('[0-9]+') == ['1', '22']",
        );
        holds("(self.a > 3 ? 'big' : 'small') == 'big'");
        holds("true || 1 / 0 > 0");
        holds("(1 / 0 > 0) || true");
        holds("self.l.sum() == 6 && self.l.max() == 3 && self.l.isSorted()");
        holds("duration('1h') > duration('59m') && duration('90s').getMinutes() == 1");
        holds(
            "timestamp('2024-01-01T00:00:00Z') + duration('24h') == timestamp('2024-01-02T00:00:00Z')",
        );
        holds("timestamp('2024-02-03T04:05:06Z').getMonth() == 1");
        holds(
            "quantity('1Gi').isGreaterThan(quantity('1M')) && isQuantity('2') && !isQuantity('x')",
        );
        holds("isURL('https://a:1/b?c=d') && url('https://a:1/b?c=d').getPort() == '1'");
        holds("ip('10.0.0.1').family() == 4 && cidr('10.0.0.0/8').containsIP('10.1.2.3')");
        holds("any.?zz.orValue(5) == 5 && any.?a.hasValue() && any[?'a'].value() == 6");
        holds("type(1) == int && string(1) == '1' && int('3') == 3 && double('1.5') == 1.5");
        holds("sets.contains([1, 2], [2]) && !sets.intersects([1], [2])");
        holds("cel.bind(x, 3, x + x) == 6");
        holds(
            r#""\u00e9\n" == 'é\n' && r'\d' == '\\d' && b'a' == bytes('a') && """q"q""" == 'q"q'"#,
        );
        holds(
            "[1, 2][1] == 2 && {'a': [1]}['a'][0] == 1 && -self.a == -6 && 7 % 4 == 3 && 1u + 2u == 3u",
        );
        value("self.l[5] == 1", Err("index out of bounds: 5"));
        value("any.zz == 1", Err("no such key: zz"));
        value("string(1/0)", Err("division by zero"));
        value(
            "quantity('zz').sign() == 0",
            Err(
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            ),
        );
    }

    #[test]
    fn loops_cost_what_they_run() {
        let program = compile("self.l.all(x, self.l.all(y, x == y))", &types()).unwrap();
        assert_eq!(program.cost(&|path: &[String]| path.len() as u64 * 10), 420);
        assert!(program.uses("self") && !program.uses("oldSelf"));
    }
}
