//! JSONPath as `kubectl` and printer columns use it: `.spec.a`, `['a.b']`, `[0]`, `[-1]`, `[*]`,
//! `[?(@.type=="Ready")]`, `..name`.
//!
//! Invariant: finding never fails; what is not there gives no result.

use serde_json::Value;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    All,
    Descend(String),
    Filter(Filter),
}

#[derive(Clone, Debug, PartialEq)]
struct Filter {
    left: Operand,
    test: Option<(Operator, Operand)>,
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Path(JsonPath),
    Literal(Value),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl JsonPath {
    /// Reads a path; `None` when it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let mut reader = Reader { rest: text.trim() };
        let mut steps = Vec::new();
        reader.rest = reader.rest.trim_start_matches(['$', '@']);
        while !reader.rest.is_empty() {
            steps.push(reader.step()?);
        }
        Some(Self(steps))
    }

    /// The field names, when the path is nothing else.
    pub fn fields(&self) -> Option<Vec<&str>> {
        self.0.iter().map(Step::name).collect()
    }

    /// Everything that the path leads to.
    pub fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        self.0.iter().fold(vec![value], |found, step| {
            found.into_iter().flat_map(|value| step.follow(value)).collect()
        })
    }
}

impl Step {
    fn name(&self) -> Option<&str> {
        match self {
            Self::Field(name) => Some(name),
            _ => None,
        }
    }

    fn follow<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let items = || value.as_array().map(Vec::as_slice).unwrap_or_default();
        let place = |index: i64, len: usize| -> Option<usize> {
            let len = i64::try_from(len).ok()?;
            usize::try_from(if index < 0 { len + index } else { index }).ok()
        };
        match self {
            Self::Field(name) => value.get(name).into_iter().collect(),
            Self::Index(index) => {
                let items = items();
                place(*index, items.len()).and_then(|at| items.get(at)).into_iter().collect()
            }
            Self::Slice(from, to) => {
                let items = items();
                let from = from.and_then(|at| place(at, items.len())).unwrap_or(0);
                let to = to.and_then(|at| place(at, items.len())).unwrap_or(items.len());
                items.iter().take(to).skip(from).collect()
            }
            Self::All => match value {
                Value::Array(items) => items.iter().collect(),
                Value::Object(map) => map.values().collect(),
                _ => Vec::new(),
            },
            Self::Descend(name) => {
                let mut found = Vec::new();
                descend(value, name, &mut found);
                found
            }
            Self::Filter(filter) => items().iter().filter(|item| filter.holds(item)).collect(),
        }
    }
}

fn descend<'v>(value: &'v Value, name: &str, found: &mut Vec<&'v Value>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get(name));
            map.values().for_each(|value| descend(value, name, found));
        }
        Value::Array(items) => items.iter().for_each(|item| descend(item, name, found)),
        _ => {}
    }
}

impl Filter {
    fn holds(&self, item: &Value) -> bool {
        let Some(left) = self.left.value(item) else { return false };
        let Some((operator, right)) = &self.test else { return true };
        let Some(right) = right.value(item) else { return false };
        let order = match (left.as_f64(), right.as_f64()) {
            (Some(left), Some(right)) => left.partial_cmp(&right),
            _ => match (left.as_str(), right.as_str()) {
                (Some(left), Some(right)) => Some(left.cmp(right)),
                _ => (left == right).then_some(std::cmp::Ordering::Equal),
            },
        };
        match operator {
            Operator::Equal => order.is_some_and(|order| order.is_eq()),
            Operator::NotEqual => !order.is_some_and(|order| order.is_eq()),
            Operator::Less => order.is_some_and(|order| order.is_lt()),
            Operator::LessOrEqual => order.is_some_and(|order| order.is_le()),
            Operator::Greater => order.is_some_and(|order| order.is_gt()),
            Operator::GreaterOrEqual => order.is_some_and(|order| order.is_ge()),
        }
    }
}

impl Operand {
    fn value<'v>(&'v self, item: &'v Value) -> Option<&'v Value> {
        match self {
            Self::Path(path) => path.find(item).into_iter().next(),
            Self::Literal(value) => Some(value),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.starts_with('@') {
            return JsonPath::parse(text).map(Self::Path);
        }
        let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''));
        if let Some(quote) = quote {
            let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
            return Some(Self::Literal(inner.into()));
        }
        serde_json::from_str(text).ok().map(Self::Literal)
    }
}

struct Reader<'t> {
    rest: &'t str,
}

impl<'t> Reader<'t> {
    fn take(&mut self, prefix: &str) -> bool {
        match self.rest.strip_prefix(prefix) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn step(&mut self) -> Option<Step> {
        if self.take("..") {
            return self.name().map(Step::Descend);
        }
        if self.take("[") {
            return self.bracket();
        }
        self.take(".");
        if self.rest.starts_with('[') {
            self.take("[");
            return self.bracket();
        }
        if self.take("*") {
            return Some(Step::All);
        }
        self.name().map(Step::Field)
    }

    /// A name; a backslash takes away a character's meaning.
    fn name(&mut self) -> Option<String> {
        let mut name = String::new();
        let mut chars = self.rest.char_indices();
        let mut end = self.rest.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => name.extend(chars.next().map(|(_, c)| c)),
                '.' | '[' | ']' => {
                    end = at;
                    break;
                }
                _ => name.push(c),
            }
        }
        self.rest = &self.rest[end..];
        (!name.is_empty()).then_some(name)
    }

    fn bracket(&mut self) -> Option<Step> {
        if self.take("?(") {
            let end = self.rest.find(")]")?;
            let (inside, rest) = self.rest.split_at(end);
            self.rest = &rest[2..];
            return filter(inside).map(Step::Filter);
        }
        if let Some(quote) = self.rest.chars().next().filter(|c| matches!(c, '\'' | '"')) {
            let inside = &self.rest[1..];
            let end = inside.find(&format!("{quote}]"))?;
            self.rest = &inside[end + 2..];
            return Some(Step::Field(inside[..end].replace("\\.", ".")));
        }
        let (inside, rest) = self.rest.split_once(']')?;
        self.rest = rest;
        if inside == "*" {
            return Some(Step::All);
        }
        let number = |text: &str| match text {
            "" => Some(None),
            text => text.trim().parse().ok().map(Some),
        };
        match inside.split_once(':') {
            Some((from, to)) => Some(Step::Slice(number(from)?, number(to)?)),
            None => inside.trim().parse().ok().map(Step::Index),
        }
    }
}

fn filter(text: &str) -> Option<Filter> {
    const OPERATORS: [(&str, Operator); 6] = [
        ("==", Operator::Equal),
        ("!=", Operator::NotEqual),
        ("<=", Operator::LessOrEqual),
        (">=", Operator::GreaterOrEqual),
        ("<", Operator::Less),
        (">", Operator::Greater),
    ];
    for (sign, operator) in OPERATORS {
        if let Some((left, right)) = text.split_once(sign) {
            let test = Some((operator, Operand::parse(right)?));
            return Some(Filter { left: Operand::parse(left)?, test });
        }
    }
    Some(Filter { left: Operand::parse(text)?, test: None })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_to_values() {
        let value = json!({"metadata": {"labels": {"a.b/c": "x"}}, "spec": {"l": [1, 2, 3]},
            "status": {"conditions": [{"type": "A", "status": "no"},
                {"type": "Ready", "status": "yes", "n": 2}]}});
        let check = |path: &str, want: Value| {
            let found = JsonPath::parse(path).map(|path| json!(path.find(&value)));
            assert_eq!(found, Some(want), "{path}");
        };
        check(".spec.l[0]", json!([1]));
        check(".spec.l[-1]", json!([3]));
        check(".spec.l[1:]", json!([2, 3]));
        check(".spec.l[*]", json!([1, 2, 3]));
        check(r".metadata.labels.a\.b/c", json!(["x"]));
        check(".metadata.labels['a.b/c']", json!(["x"]));
        check(r#".status.conditions[?(@.type=="Ready")].status"#, json!(["yes"]));
        check(".status.conditions[?(@.n>1)].type", json!(["Ready"]));
        check("..type", json!(["A", "Ready"]));
        check(".nope.x", json!([]));
        assert!(JsonPath::parse(".a[[").is_none());
    }
}
