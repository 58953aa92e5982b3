//! `jsonpath` templates: text with `{.path}`, filters, `range` and `end`, as kubectl knows them.

use anyhow::{Result, bail};
use serde_json::Value;

/// A template that can be applied to values.
#[derive(Debug)]
pub(crate) struct Template(Vec<Node>);

#[derive(Debug)]
enum Node {
    Text(String),
    Path(Path),
    Range(Path, Vec<Node>),
}

#[derive(Debug, Default)]
struct Path(Vec<Step>);

#[derive(Debug)]
enum Step {
    Field(String),
    /// `..name`
    Descend(String),
    All,
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    Filter(Box<Filter>),
    Root,
}

#[derive(Debug)]
struct Filter {
    left: Operand,
    /// `None` asks whether the left is there.
    right: Option<(String, Operand)>,
}

#[derive(Debug)]
enum Operand {
    Path(Path),
    Value(Value),
}

impl Template {
    /// Reads a template; one without braces is a path.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let text = match text.contains('{') {
            true => text.to_owned(),
            false => {
                format!("{{{}{text}}}", if text.starts_with(['.', '[', '$']) { "" } else { "." })
            }
        };
        let mut pieces = pieces(&text)?.into_iter();
        let nodes = nodes(&mut pieces, false)?;
        Ok(Self(nodes))
    }

    /// The text for a value.
    pub(crate) fn render(&self, value: &Value) -> String {
        let mut out = String::new();
        render(&self.0, value, value, &mut out);
        out
    }

    /// The values that the first path leads to.
    pub(crate) fn values(&self, value: &Value) -> Vec<Value> {
        let path = self.0.iter().find_map(|node| match node {
            Node::Path(path) => Some(path),
            _ => None,
        });
        path.map(|path| path.walk(value, value)).unwrap_or_default()
    }
}

/// Literal text, or what stood between braces.
enum Piece {
    Text(String),
    Code(String),
}

fn pieces(text: &str) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        if open > 0 {
            pieces.push(Piece::Text(rest[..open].to_owned()));
        }
        let inside = &rest[open + 1..];
        let Some(close) = closing(inside) else { bail!("unclosed action in template {text:?}") };
        pieces.push(Piece::Code(inside[..close].trim().to_owned()));
        rest = &inside[close + 1..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

/// Where the brace is that ends an action; quoted braces do not count.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c == '}' => return Some(at),
            None => {}
        }
    }
    None
}

fn nodes(pieces: &mut std::vec::IntoIter<Piece>, inside: bool) -> Result<Vec<Node>> {
    let mut nodes = Vec::new();
    while let Some(piece) = pieces.next() {
        let code = match piece {
            Piece::Text(text) => {
                nodes.push(Node::Text(text));
                continue;
            }
            Piece::Code(code) => code,
        };
        if code == "end" {
            if inside {
                return Ok(nodes);
            }
            bail!("not in range, nothing to end");
        } else if let Some(over) = code.strip_prefix("range ") {
            let path = path(over.trim())?;
            nodes.push(Node::Range(path, self::nodes(pieces, true)?));
        } else if let Some(text) = quoted(&code) {
            nodes.push(Node::Text(text));
        } else {
            nodes.push(Node::Path(path(&code)?));
        }
    }
    if inside { bail!("unterminated range") } else { Ok(nodes) }
}

/// `"text"` with escapes, or `'text'`.
fn quoted(code: &str) -> Option<String> {
    let quote = code.chars().next().filter(|c| *c == '"' || *c == '\'')?;
    let inner = code.strip_prefix(quote)?.strip_suffix(quote)?;
    let mut out = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next()? {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'r' => out.push('\r'),
                other => out.push(other),
            },
            other => out.push(other),
        }
    }
    Some(out)
}

fn path(text: &str) -> Result<Path> {
    let mut steps = Vec::new();
    let mut rest = text;
    if let Some(after) = rest.strip_prefix('$') {
        steps.push(Step::Root);
        rest = after;
    } else if let Some(after) = rest.strip_prefix('@') {
        rest = after;
    }
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("..") {
            let (name, after) = name(after);
            steps.push(Step::Descend(name));
            rest = after;
        } else if let Some(after) = rest.strip_prefix('.') {
            if let Some(after) = after.strip_prefix('*') {
                steps.push(Step::All);
                rest = after;
                continue;
            }
            let (name, after) = name(after);
            if !name.is_empty() {
                steps.push(Step::Field(name));
            } else if !after.starts_with('[') && !after.is_empty() {
                bail!("unrecognized character in {text:?}");
            }
            rest = after;
        } else if let Some(after) = rest.strip_prefix('[') {
            let Some(close) = bracket(after) else { bail!("unterminated array in {text:?}") };
            steps.push(subscript(after[..close].trim())?);
            rest = &after[close + 1..];
        } else {
            bail!("unrecognized character in {text:?}");
        }
    }
    Ok(Path(steps))
}

/// A name up to what follows it; `\.` is a dot of the name.
fn name(text: &str) -> (String, &str) {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => out.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' | ' ' | '=' | '!' | '<' | '>' | ')' => return (out, &text[at..]),
            other => out.push(other),
        }
    }
    (out, "")
}

fn bracket(text: &str) -> Option<usize> {
    let mut depth = 0;
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match quote {
            Some(q) if c == q => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c == '[' => depth += 1,
            None if c == ']' && depth == 0 => return Some(at),
            None if c == ']' => depth -= 1,
            None => {}
        }
    }
    None
}

fn subscript(text: &str) -> Result<Step> {
    if text == "*" {
        return Ok(Step::All);
    }
    if let Some(inner) = text.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
        return Ok(Step::Filter(Box::new(filter(inner.trim())?)));
    }
    if let Some(name) = quoted(text) {
        return Ok(Step::Field(name));
    }
    if let Some((from, to)) = text.split_once(':') {
        let bound = |text: &str| (!text.is_empty()).then(|| text.parse::<i64>()).transpose();
        return Ok(Step::Slice(bound(from.trim())?, bound(to.trim())?));
    }
    match text.parse() {
        Ok(index) => Ok(Step::Index(index)),
        Err(_) => bail!("invalid array index {text}"),
    }
}

fn filter(text: &str) -> Result<Filter> {
    for operator in ["==", "!=", "<=", ">=", "<", ">"] {
        if let Some((left, right)) = text.split_once(operator) {
            let right = Some((operator.to_owned(), operand(right.trim())?));
            return Ok(Filter { left: operand(left.trim())?, right });
        }
    }
    Ok(Filter { left: operand(text)?, right: None })
}

fn operand(text: &str) -> Result<Operand> {
    if text.starts_with(['@', '.', '$']) {
        return Ok(Operand::Path(path(text)?));
    }
    if let Some(text) = quoted(text) {
        return Ok(Operand::Value(text.into()));
    }
    match serde_json::from_str(text) {
        Ok(value) => Ok(Operand::Value(value)),
        Err(_) => bail!("unrecognized character in filter {text:?}"),
    }
}

fn render(nodes: &[Node], root: &Value, at: &Value, out: &mut String) {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Path(path) => {
                let found: Vec<String> = path.walk(root, at).iter().map(plain).collect();
                out.push_str(&found.join(" "));
            }
            Node::Range(path, inner) => {
                for value in path.walk(root, at) {
                    render(inner, root, &value, out);
                }
            }
        }
    }
}

/// Text without quotes, everything else as JSON.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => crate::output::escaped(&other.to_string()),
    }
}

impl Path {
    fn walk(&self, root: &Value, at: &Value) -> Vec<Value> {
        let mut found = vec![at.clone()];
        for step in &self.0 {
            found = found.iter().flat_map(|value| step.take(root, value)).collect();
        }
        found
    }
}

impl Step {
    fn take(&self, root: &Value, value: &Value) -> Vec<Value> {
        match self {
            Step::Root => vec![root.clone()],
            Step::Field(name) => value.get(name).into_iter().cloned().collect(),
            Step::Descend(name) => descend(value, name),
            Step::All => children(value),
            Step::Index(index) => {
                let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
                let at = if *index < 0 { index + len(list) } else { *index };
                usize::try_from(at).ok().and_then(|at| list.get(at)).into_iter().cloned().collect()
            }
            Step::Slice(from, to) => {
                let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
                let bound = |at: i64| if at < 0 { at + len(list) } else { at }.clamp(0, len(list));
                let from = usize::try_from(bound(from.unwrap_or(0))).unwrap_or(0);
                let to = usize::try_from(bound(to.unwrap_or(len(list)))).unwrap_or(0);
                list.get(from..to).unwrap_or_default().to_vec()
            }
            Step::Filter(filter) => {
                children(value).into_iter().filter(|item| filter.holds(root, item)).collect()
            }
        }
    }
}

fn len(list: &[Value]) -> i64 {
    i64::try_from(list.len()).unwrap_or(i64::MAX)
}

fn children(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(list) => list.clone(),
        Value::Object(map) => map.values().cloned().collect(),
        _ => Vec::new(),
    }
}

fn descend(value: &Value, name: &str) -> Vec<Value> {
    let mut found: Vec<Value> = value.get(name).into_iter().cloned().collect();
    for child in children(value) {
        found.extend(descend(&child, name));
    }
    found
}

impl Filter {
    fn holds(&self, root: &Value, item: &Value) -> bool {
        let left = self.left.value(root, item);
        let Some((operator, right)) = &self.right else { return left.is_some() };
        let (Some(left), Some(right)) = (left, right.value(root, item)) else { return false };
        let order = match (left.as_f64(), right.as_f64()) {
            (Some(left), Some(right)) => left.partial_cmp(&right),
            _ => plain(&left).partial_cmp(&plain(&right)),
        };
        let Some(order) = order else { return false };
        match operator.as_str() {
            "==" => order.is_eq(),
            "!=" => order.is_ne(),
            "<=" => order.is_le(),
            ">=" => order.is_ge(),
            "<" => order.is_lt(),
            _ => order.is_gt(),
        }
    }
}

impl Operand {
    fn value(&self, root: &Value, item: &Value) -> Option<Value> {
        match self {
            Operand::Path(path) => path.walk(root, item).into_iter().next(),
            Operand::Value(value) => Some(value.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn templates_are_filled_in() {
        let value = json!({
            "kind": "List",
            "items": [
                {"metadata": {"name": "a", "labels": {"k8s.io/x": "1"}}, "n": 1,
                 "conditions": [{"type": "Ready", "status": "True"}]},
                {"metadata": {"name": "b"}, "n": 2, "conditions": []},
            ],
        });
        let check = |template: &str, expected: &str| {
            assert_eq!(Template::parse(template).unwrap().render(&value), expected, "{template}");
        };
        check("{.kind}", "List");
        check(".kind", "List");
        check("kind", "List");
        check("{.items[*].metadata.name}", "a b");
        check("{.items[0].metadata.name}-{.items[-1].metadata.name}", "a-b");
        check("{.items[:1].n}", "1");
        check("{.items[?(@.n>1)].metadata.name}", "b");
        check("{.items[*].conditions[?(@.type=='Ready')].status}", "True");
        check("{.items[?(@.metadata.labels)].n}", "1");
        check("{range .items[*]}{.metadata.name}={.n}{\"\\n\"}{end}", "a=1\nb=2\n");
        check("{.items[0].metadata.labels.k8s\\.io/x}", "1");
        check("{.items[0].metadata.labels['k8s.io/x']}", "1");
        check("{..name}", "a b");
        check("{.items[0].metadata}", r#"{"labels":{"k8s.io/x":"1"},"name":"a"}"#);
        check("{$.kind} of {.items[0]['n']}", "List of 1");
        check("{.missing}", "");
    }

    #[test]
    fn mistakes_are_refused() {
        for bad in ["{.a", "{end}", "{range .items[*]}", "{.a[x]}", "{.a[?(@.b==c)]}"] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }
}
