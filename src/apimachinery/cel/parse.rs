//! Tokens to a tree; macros are nodes of their own.

use super::Problem;
use super::lex::{Spanned, Token, lex};

/// Deeper texts are refused.
const MAX_DEPTH: usize = 100;
/// Longer texts are refused.
const MAX_TEXT: usize = 100_000;

#[derive(Clone, Debug)]
pub(super) struct Expr {
    pub(super) at: usize,
    pub(super) node: Node,
}

#[derive(Clone, Debug)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
    Ident(String),
    Select {
        operand: Box<Expr>,
        field: String,
        how: Access,
    },
    Call {
        target: Option<Box<Expr>>,
        function: String,
        args: Vec<Expr>,
    },
    List(Vec<Expr>),
    Map(Vec<(Expr, Expr)>),
    /// A message: its fields. Its name says nothing that evaluation needs.
    Struct(Vec<(String, Expr)>),
    Macro {
        kind: Loop,
        target: Box<Expr>,
        vars: Vec<String>,
        body: Vec<Expr>,
    },
    /// `cel.bind(name, value, result)`
    Bind(String, Box<Expr>, Box<Expr>),
    /// `optMap` and `optFlatMap`: the result is wrapped, or is an optional already.
    OptMap(Box<Expr>, String, Box<Expr>, bool),
}

/// How a field is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Plain,
    /// `has(a.b)`
    Test,
    /// `a.?b`
    Optional,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loop {
    All,
    Exists,
    ExistsOne,
    Map,
    Filter,
    TransformList,
    TransformMap,
}

impl Expr {
    pub(super) fn children(&self) -> Vec<&Self> {
        match &self.node {
            Node::Select { operand, .. } => vec![operand],
            Node::Call { target, args, .. } => target.iter().map(|t| &**t).chain(args).collect(),
            Node::List(items) => items.iter().collect(),
            Node::Map(items) => items.iter().flat_map(|(key, value)| [key, value]).collect(),
            Node::Struct(fields) => fields.iter().map(|(_, value)| value).collect(),
            Node::Macro { target, body, .. } => std::iter::once(&**target).chain(body).collect(),
            Node::Bind(_, value, result) => vec![value, result],
            Node::OptMap(target, _, body, _) => vec![target, body],
            _ => Vec::new(),
        }
    }
}

pub(super) fn parse(text: &str) -> Result<Expr, Problem> {
    if text.len() > MAX_TEXT {
        let message = format!(
            "expression code point size exceeds limit: size: {}, limit {MAX_TEXT}",
            text.len()
        );
        return Err(Problem { at: 0, message });
    }
    let tokens = lex(text)?;
    let mut parser = Parser { tokens, at: 0, text, depth: 0 };
    let expr = parser.ternary()?;
    match parser.peek() {
        Token::End => Ok(expr),
        _ => {
            let shown = parser.shown();
            let offset = parser.offset();
            Err(syntax(offset, format!("mismatched input '{shown}' expecting <EOF>")))
        }
    }
}

const STARTS: &str = "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

fn syntax(at: usize, what: String) -> Problem {
    Problem { at, message: format!("Syntax error: {what}") }
}

struct Parser<'t> {
    tokens: Vec<Spanned>,
    at: usize,
    text: &'t str,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).map_or(&Token::End, |spanned| &spanned.token)
    }

    fn offset(&self) -> usize {
        self.tokens.get(self.at).map_or(self.text.len(), |spanned| spanned.at)
    }

    fn shown(&self) -> String {
        match self.tokens.get(self.at) {
            Some(Spanned { token: Token::End, .. }) | None => "<EOF>".to_owned(),
            Some(spanned) => self.text[spanned.at..spanned.end].to_owned(),
        }
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn take(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Token::Sign(own) if *own == sign);
        self.at += usize::from(found);
        found
    }

    fn need(&mut self, sign: &str) -> Result<(), Problem> {
        if self.take(sign) {
            return Ok(());
        }
        Err(syntax(
            self.offset(),
            format!("mismatched input '{}' expecting '{sign}'", self.shown()),
        ))
    }

    fn ternary(&mut self) -> Result<Expr, Problem> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Problem {
                at: self.offset(),
                message: format!("expression recursion limit exceeded: {MAX_DEPTH}"),
            });
        }
        let condition = self.binary(0)?;
        let at = self.offset();
        let expr = if self.take("?") {
            let yes = self.binary(0)?;
            self.need(":")?;
            let no = self.ternary()?;
            call(at, "_?_:_", vec![condition, yes, no])
        } else {
            condition
        };
        self.depth -= 1;
        Ok(expr)
    }

    fn binary(&mut self, level: usize) -> Result<Expr, Problem> {
        const LEVELS: [&[&str]; 5] = [
            &["||"],
            &["&&"],
            &["==", "!=", "<", "<=", ">", ">=", "in"],
            &["+", "-"],
            &["*", "/", "%"],
        ];
        let Some(signs) = LEVELS.get(level) else { return self.unary() };
        let mut left = self.binary(level + 1)?;
        loop {
            let sign = match self.peek() {
                Token::Sign(own) => *own,
                Token::Ident(word) if word == "in" => "in",
                _ => return Ok(left),
            };
            if !signs.contains(&sign) {
                return Ok(left);
            }
            let at = self.offset();
            self.at += 1;
            let right = self.binary(level + 1)?;
            let function = if sign == "in" { "@in".to_owned() } else { format!("_{sign}_") };
            left = call(at, &function, vec![left, right]);
        }
    }

    fn unary(&mut self) -> Result<Expr, Problem> {
        let at = self.offset();
        for sign in ["!", "-"] {
            if !self.take(sign) {
                continue;
            }
            self.depth += 1;
            if self.depth > MAX_DEPTH {
                let message = format!("expression recursion limit exceeded: {MAX_DEPTH}");
                return Err(Problem { at, message });
            }
            let operand = self.unary()?;
            self.depth -= 1;
            return Ok(match (sign, &operand.node) {
                ("-", Node::Int(number)) => Expr { at, node: Node::Int(number.wrapping_neg()) },
                ("-", Node::Double(number)) => Expr { at, node: Node::Double(-number) },
                _ => call(at, if sign == "!" { "!_" } else { "-_" }, vec![operand]),
            });
        }
        self.member()
    }

    fn member(&mut self) -> Result<Expr, Problem> {
        let mut expr = self.primary()?;
        loop {
            let at = self.offset();
            if self.take(".") {
                let optional = self.take("?");
                let field = match self.next() {
                    Token::Ident(name) => name,
                    Token::Escaped(name) => super::escape(&name),
                    _ => {
                        self.at -= 1;
                        let here = self.offset();
                        return Err(match self.peek() {
                            Token::End => {
                                syntax(here, "no viable alternative at input '.'".to_owned())
                            }
                            _ => syntax(
                                here,
                                format!("no viable alternative at input '.{}'", self.shown()),
                            ),
                        });
                    }
                };
                let open = self.offset();
                expr = if !optional && self.take("(") {
                    let args = self.list(")")?;
                    self.method(open, expr, field, args)?
                } else {
                    let how = if optional { Access::Optional } else { Access::Plain };
                    Expr { at, node: Node::Select { operand: Box::new(expr), field, how } }
                };
            } else if self.take("[") {
                let function = if self.take("?") { "_[?_]" } else { "_[_]" };
                let index = self.ternary()?;
                self.need("]")?;
                expr = call(at, function, vec![expr, index]);
            } else if matches!(self.peek(), Token::Sign("{")) && message_name(&expr).is_some() {
                self.at += 1;
                expr = Expr { at, node: Node::Struct(self.fields()?) };
            } else {
                return Ok(expr);
            }
        }
    }

    fn primary(&mut self) -> Result<Expr, Problem> {
        let at = self.offset();
        let node = match self.next() {
            Token::Int(number) => Node::Int(number),
            Token::Uint(number) => Node::Uint(number),
            Token::Double(number) => Node::Double(number),
            Token::String(text) => Node::String(text),
            Token::Bytes(bytes) => Node::Bytes(bytes),
            Token::Ident(word) => match word.as_str() {
                "true" => Node::Bool(true),
                "false" => Node::Bool(false),
                "null" => Node::Null,
                _ => {
                    let open = self.offset();
                    if self.take("(") {
                        let args = self.list(")")?;
                        return function(at, open, word, args);
                    }
                    Node::Ident(word)
                }
            },
            Token::Sign("(") => {
                let inner = self.ternary()?;
                self.need(")")?;
                return Ok(inner);
            }
            Token::Sign("[") => Node::List(self.list("]")?),
            Token::Sign("{") => Node::Map(self.entries()?),
            Token::Sign(".") => match self.next() {
                Token::Ident(name) => Node::Ident(name),
                _ => {
                    self.at -= 1;
                    let text = "no viable alternative at input '.'".to_owned();
                    return Err(syntax(self.offset(), text));
                }
            },
            _ => {
                self.at -= 1;
                let shown = self.shown();
                let how = if shown == "<EOF>" { "mismatched" } else { "extraneous" };
                return Err(syntax(at, format!("{how} input '{shown}' expecting {STARTS}")));
            }
        };
        Ok(Expr { at, node })
    }

    fn list(&mut self, close: &str) -> Result<Vec<Expr>, Problem> {
        let mut items = Vec::new();
        while !self.take(close) {
            self.take("?");
            items.push(self.ternary()?);
            if !self.take(",") {
                self.need(close)?;
                break;
            }
        }
        Ok(items)
    }

    fn entries(&mut self) -> Result<Vec<(Expr, Expr)>, Problem> {
        let mut items = Vec::new();
        while !self.take("}") {
            self.take("?");
            let key = self.ternary()?;
            self.need(":")?;
            items.push((key, self.ternary()?));
            if !self.take(",") {
                self.need("}")?;
                break;
            }
        }
        Ok(items)
    }

    fn fields(&mut self) -> Result<Vec<(String, Expr)>, Problem> {
        let mut items = Vec::new();
        while !self.take("}") {
            self.take("?");
            let (Token::Ident(name) | Token::Escaped(name)) = self.next() else {
                self.at -= 1;
                return Err(syntax(
                    self.offset(),
                    format!(
                        "mismatched input '{}' expecting {{'}}', ',', '?', IDENTIFIER, ESC_IDENTIFIER}}",
                        self.shown()
                    ),
                ));
            };
            self.need(":")?;
            items.push((name, self.ternary()?));
            if !self.take(",") {
                self.need("}")?;
                break;
            }
        }
        Ok(items)
    }

    /// A call on a value: a macro, or a function.
    fn method(
        &self,
        at: usize,
        target: Expr,
        function: String,
        args: Vec<Expr>,
    ) -> Result<Expr, Problem> {
        let name = |expr: &Expr| match &expr.node {
            Node::Ident(name) => Ok(name.clone()),
            _ => Err(Problem { at: expr.at, message: "argument must be a simple name".to_owned() }),
        };
        if matches!(&target.node, Node::Ident(namespace) if namespace == "cel")
            && function == "bind"
            && args.len() == 3
        {
            let mut args = args.into_iter();
            if let (Some(var), Some(value), Some(result)) = (args.next(), args.next(), args.next())
            {
                let node = Node::Bind(name(&var)?, Box::new(value), Box::new(result));
                return Ok(Expr { at, node });
            }
            return Err(Problem { at, message: "cel.bind() needs three arguments".to_owned() });
        }
        if matches!(function.as_str(), "optMap" | "optFlatMap") && args.len() == 2 {
            let flat = function == "optFlatMap";
            let var = name(&args[0])?;
            let body = Box::new(args[1].clone());
            return Ok(Expr { at, node: Node::OptMap(Box::new(target), var, body, flat) });
        }
        // The kind of loop, its variables and its parts.
        let kind = match (function.as_str(), args.len()) {
            ("all", 2) => Some((Loop::All, 1)),
            ("all", 3) => Some((Loop::All, 2)),
            ("exists", 2) => Some((Loop::Exists, 1)),
            ("exists", 3) => Some((Loop::Exists, 2)),
            ("exists_one" | "existsOne", 2) => Some((Loop::ExistsOne, 1)),
            ("exists_one" | "existsOne", 3) => Some((Loop::ExistsOne, 2)),
            ("map", 2 | 3) => Some((Loop::Map, 1)),
            ("filter", 2) => Some((Loop::Filter, 1)),
            ("transformList", 3 | 4) => Some((Loop::TransformList, 2)),
            ("transformMap", 3 | 4) => Some((Loop::TransformMap, 2)),
            _ => None,
        };
        let Some((kind, count)) = kind else {
            let node = Node::Call { target: Some(Box::new(target)), function, args };
            return Ok(Expr { at, node });
        };
        let vars = args[..count].iter().map(name).collect::<Result<Vec<_>, _>>()?;
        let body = args[count..].to_vec();
        Ok(Expr { at, node: Node::Macro { kind, target: Box::new(target), vars, body } })
    }
}

/// `Object` or `Object.spec`: names that begin with a capital letter make messages.
fn message_name(expr: &Expr) -> Option<String> {
    match &expr.node {
        Node::Ident(name) => Some(name.clone()),
        Node::Select { operand, field, how: Access::Plain } => {
            Some(format!("{}.{field}", message_name(operand)?))
        }
        _ => None,
    }
}

fn call(at: usize, function: &str, args: Vec<Expr>) -> Expr {
    Expr { at, node: Node::Call { target: None, function: function.to_owned(), args } }
}

/// A call of a name: `has`, or a function.
fn function(at: usize, open: usize, name: String, args: Vec<Expr>) -> Result<Expr, Problem> {
    if name != "has" {
        return Ok(Expr { at: open, node: Node::Call { target: None, function: name, args } });
    }
    let refuse = || Problem { at, message: "invalid argument to has() macro".to_owned() };
    let [Expr { at, node: Node::Select { operand, field, how: Access::Plain } }] = args.as_slice()
    else {
        return Err(refuse());
    };
    let (operand, field) = (operand.clone(), field.clone());
    Ok(Expr { at: *at, node: Node::Select { operand, field, how: Access::Test } })
}
