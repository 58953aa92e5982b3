//! Label selectors (`a in (b),!c`, `metav1.LabelSelector`) and field selectors (`a=b,c!=d`).

use serde_json::{Map, Value};

use crate::gotext::quote;
use crate::validation;

/// What one requirement asks of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
    GreaterThan(i64),
    LessThan(i64),
}

/// One label and what is asked of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
}

/// A label selector: all requirements must hold. The default one matches everything.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LabelSelector {
    pub requirements: Vec<Requirement>,
    /// Matches no object at all (a nil `metav1.LabelSelector`).
    pub nothing: bool,
}

/// One term of a field selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldTerm {
    pub field: String,
    pub value: String,
    pub equal: bool,
}

/// A field selector: all terms must hold.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct FieldSelector {
    pub terms: Vec<FieldTerm>,
}

impl Requirement {
    /// Whether a set of labels meets the requirement.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        let value = label(&self.key);
        let number = |value: Option<&str>| value.and_then(|value| value.parse::<i64>().ok());
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.iter().any(|v| v == value)),
            Operator::NotIn(values) => value.is_none_or(|value| values.iter().all(|v| v != value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan(than) => number(value).is_some_and(|value| value > *than),
            Operator::LessThan(than) => number(value).is_some_and(|value| value < *than),
        }
    }
}

impl LabelSelector {
    /// Whether the selector selects everything.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// Matches through a lookup of labels.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str> + Copy) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(label))
    }

    /// Matches an object's `metadata.labels`.
    pub fn matches_labels(&self, labels: Option<&Map<String, Value>>) -> bool {
        self.matches(|key: &str| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str))
    }

    /// Parses the string form of a query parameter; the error is what the server answers.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parser = Parser { lexer: tokens(text), at: 0 };
        let requirements = parser.requirements().map_err(|err| match err.strip_prefix(BARE) {
            Some(bare) => bare.to_owned(),
            None => format!("unable to parse requirement: {err}"),
        })?;
        Ok(Self { requirements, nothing: false })
    }

    /// The struct form; a missing selector matches nothing, an empty one everything.
    pub fn from_value(value: Option<&Value>) -> Result<Self, String> {
        let Some(value) = value.filter(|value| !value.is_null()) else {
            return Ok(Self { requirements: Vec::new(), nothing: true });
        };
        let mut requirements = Vec::new();
        for (key, value) in
            value.get("matchLabels").and_then(Value::as_object).into_iter().flatten()
        {
            let values = vec![value.as_str().unwrap_or_default().to_owned()];
            requirements.push(requirement(key, Operator::In(values))?);
        }
        let expressions = value.get("matchExpressions").and_then(Value::as_array);
        for expression in expressions.into_iter().flatten() {
            let text = |key: &str| expression.get(key).and_then(Value::as_str).unwrap_or_default();
            let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
            let values = values.filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
            let operator = match text("operator") {
                "In" => Operator::In(values),
                "NotIn" => Operator::NotIn(values),
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(format!("{} is not a valid label selector operator", quote(other)));
                }
            };
            requirements.push(requirement(text("key"), operator)?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, nothing: false })
    }
}

impl std::fmt::Display for LabelSelector {
    /// The string form, as `status.selector` of a scale shows it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            let key = &requirement.key;
            match &requirement.operator {
                Operator::In(values) if values.len() == 1 => write!(f, "{key}={}", values[0])?,
                Operator::NotIn(values) if values.len() == 1 => write!(f, "{key}!={}", values[0])?,
                Operator::In(values) => write!(f, "{key} in ({})", sorted(values))?,
                Operator::NotIn(values) => write!(f, "{key} notin ({})", sorted(values))?,
                Operator::Exists => f.write_str(key)?,
                Operator::DoesNotExist => write!(f, "!{key}")?,
                Operator::GreaterThan(than) => write!(f, "{key}>{than}")?,
                Operator::LessThan(than) => write!(f, "{key}<{than}")?,
            }
        }
        Ok(())
    }
}

fn sorted(values: &[String]) -> String {
    let mut values = values.to_vec();
    values.sort();
    values.join(",")
}

/// Marks errors that upstream does not wrap in "unable to parse requirement".
const BARE: &str = "\u{1}";

fn requirement(key: &str, operator: Operator) -> Result<Requirement, String> {
    let mut errors = validation::qualified_problems(key).into_iter();
    if let Some(error) = errors.next() {
        return Err(format!("{BARE}key: Invalid value: {}: {error}", quote(key)));
    }
    if let Operator::In(values) | Operator::NotIn(values) = &operator {
        if values.is_empty() {
            return Err(format!(
                "{BARE}values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty"
            ));
        }
        for (index, value) in values.iter().enumerate() {
            if let Some(error) = validation::label_value_problems(value).into_iter().next() {
                let value = quote(value);
                return Err(format!(
                    "{BARE}values[{index}][{key}]: Invalid value: {value}: {error}"
                ));
            }
        }
    }
    Ok(Requirement { key: key.to_owned(), operator })
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Open,
    Close,
    Comma,
    Not,
    Equal,
    NotEqual,
    Greater,
    Less,
    In,
    NotIn,
    Text(String),
    /// Something the lexer knows no token for.
    Error(String),
}

impl Token {
    fn literal(&self) -> String {
        match self {
            Self::Open => "(".to_owned(),
            Self::Close => ")".to_owned(),
            Self::Comma => ",".to_owned(),
            Self::Not => "!".to_owned(),
            Self::Equal => "=".to_owned(),
            Self::NotEqual => "!=".to_owned(),
            Self::Greater => ">".to_owned(),
            Self::Less => "<".to_owned(),
            Self::In => "in".to_owned(),
            Self::NotIn => "notin".to_owned(),
            Self::Text(text) | Self::Error(text) => text.clone(),
        }
    }
}

fn tokens(text: &str) -> Vec<Token> {
    let special = |c: char| matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<');
    let space = |c: char| matches!(c, ' ' | '\t' | '\r' | '\n');
    let mut tokens = Vec::new();
    let mut rest = text.trim_start_matches(space);
    while let Some(first) = rest.chars().next() {
        let (token, len) = if rest.starts_with("!=") {
            (Token::NotEqual, 2)
        } else if rest.starts_with("==") {
            (Token::Equal, 2)
        } else if special(first) {
            let token = match first {
                '(' => Token::Open,
                ')' => Token::Close,
                ',' => Token::Comma,
                '!' => Token::Not,
                '=' => Token::Equal,
                '>' => Token::Greater,
                _ => Token::Less,
            };
            // Upstream's lexer takes runs of symbols that make no operator as an error.
            (token, 1)
        } else {
            let len = rest.find(|c| special(c) || space(c)).unwrap_or(rest.len());
            let token = match &rest[..len] {
                "in" => Token::In,
                "notin" => Token::NotIn,
                "\0" => Token::Error("\0".to_owned()),
                text => Token::Text(text.to_owned()),
            };
            (token, len)
        };
        tokens.push(token);
        rest = rest[len..].trim_start_matches(space);
    }
    tokens
}

struct Parser {
    lexer: Vec<Token>,
    at: usize,
}

impl Parser {
    /// In the place of a value, `in` and `notin` are ordinary words.
    fn peek_value(&self) -> Option<Token> {
        match self.lexer.get(self.at) {
            Some(Token::In) => Some(Token::Text("in".to_owned())),
            Some(Token::NotIn) => Some(Token::Text("notin".to_owned())),
            other => other.cloned(),
        }
    }

    fn found(&self) -> String {
        self.lexer.get(self.at).map(Token::literal).unwrap_or_default()
    }

    fn requirements(&mut self) -> Result<Vec<Requirement>, String> {
        let mut found = Vec::new();
        if self.lexer.is_empty() {
            return Ok(found);
        }
        loop {
            match self.peek_value() {
                Some(Token::Text(_) | Token::Not) => found.push(self.requirement()?),
                None => return Ok(found),
                Some(_) => {
                    let text = self.found();
                    return Err(format!(
                        "{BARE}found '{text}', expected: !, identifier, or 'end of string'"
                    ));
                }
            }
            match self.lexer.get(self.at) {
                None => break,
                Some(Token::Comma) => {
                    self.at += 1;
                    if !matches!(self.peek_value(), Some(Token::Text(_) | Token::Not)) {
                        let text = self.found();
                        return Err(format!(
                            "{BARE}found '{text}', expected: identifier after ','"
                        ));
                    }
                }
                Some(_) => {
                    let text = self.found();
                    return Err(format!("{BARE}found '{text}', expected: ',' or 'end of string'"));
                }
            }
        }
        found.sort_by(|a: &Requirement, b| a.key.cmp(&b.key));
        Ok(found)
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let negated = self.lexer.get(self.at) == Some(&Token::Not);
        if negated {
            self.at += 1;
        }
        let key = match self.peek_value() {
            Some(Token::Text(text)) => text,
            _ => return Err(format!("found '{}', expected: identifier", self.found())),
        };
        self.at += 1;
        if negated {
            return requirement(&key, Operator::DoesNotExist);
        }
        let token = match self.lexer.get(self.at) {
            None | Some(Token::Comma) => return requirement(&key, Operator::Exists),
            Some(token) => token.clone(),
        };
        if matches!(
            token,
            Token::Text(_) | Token::Open | Token::Close | Token::Not | Token::Error(_)
        ) {
            let text = self.found();
            return Err(format!("found '{text}', expected: in, notin, =, ==, !=, gt, lt"));
        }
        self.at += 1;
        match token {
            Token::In => self.values().and_then(|values| requirement(&key, Operator::In(values))),
            Token::NotIn => {
                self.values().and_then(|values| requirement(&key, Operator::NotIn(values)))
            }
            Token::Equal => {
                let value = self.exact()?;
                requirement(&key, Operator::In(vec![value]))
            }
            Token::NotEqual => {
                let value = self.exact()?;
                requirement(&key, Operator::NotIn(vec![value]))
            }
            greater_or_less => {
                let value = self.exact()?;
                let number = value.parse::<i64>().map_err(|_| {
                    let value = quote(&value);
                    format!("{BARE}values[0]: Invalid value: {value}: for 'Gt', 'Lt' operators, the value must be an integer")
                })?;
                let greater = greater_or_less == Token::Greater;
                let operator = if greater {
                    Operator::GreaterThan(number)
                } else {
                    Operator::LessThan(number)
                };
                requirement(&key, operator)
            }
        }
    }

    /// One value; nothing is the empty value.
    fn exact(&mut self) -> Result<String, String> {
        match self.peek_value() {
            None | Some(Token::Comma) => Ok(String::new()),
            Some(Token::Text(text)) => {
                self.at += 1;
                Ok(text)
            }
            Some(_) => Err(format!("found '{}', expected: identifier", self.found())),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        if self.lexer.get(self.at) != Some(&Token::Open) {
            return Err(format!("found '{}' expected: '('", self.found()));
        }
        self.at += 1;
        let mut values = Vec::new();
        let mut pending = false;
        loop {
            match self.peek_value() {
                Some(Token::Text(text)) => {
                    values.push(text);
                    pending = false;
                    self.at += 1;
                    if !matches!(self.lexer.get(self.at), Some(Token::Comma | Token::Close)) {
                        let text = self.found();
                        return Err(format!("found '{text}', expected: ',' or ')'"));
                    }
                }
                Some(Token::Comma) => {
                    if pending || values.is_empty() {
                        values.push(String::new());
                    }
                    pending = true;
                    self.at += 1;
                }
                Some(Token::Close) => {
                    if pending || values.is_empty() {
                        values.push(String::new());
                    }
                    self.at += 1;
                    values.sort();
                    values.dedup();
                    return Ok(values);
                }
                _ => {
                    let text = self.found();
                    return Err(format!("found '{text}', expected: ',', or identifier"));
                }
            }
        }
    }
}

impl FieldSelector {
    /// Parses the string form; the error is what the server answers.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut terms = Vec::new();
        for part in split_terms(text) {
            if part.is_empty() {
                continue;
            }
            let (field, value, equal) = split_term(part)
                .ok_or_else(|| format!("invalid selector: '{text}'; can't understand '{part}'"))?;
            terms.push(FieldTerm { field: field.to_owned(), value: unescape(value)?, equal });
        }
        Ok(Self { terms })
    }

    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// Matches through a lookup of field values; a field that is not there is the empty text.
    pub fn matches<'a>(&self, value: impl Fn(&str) -> Option<&'a str>) -> bool {
        let holds =
            |term: &FieldTerm| (value(&term.field).unwrap_or_default() == term.value) == term.equal;
        self.terms.iter().all(holds)
    }

    /// The value that a field must have, if one is required.
    pub fn requires(&self, field: &str) -> Option<&str> {
        let term = self.terms.iter().find(|term| term.equal && term.field == field)?;
        Some(&term.value)
    }
}

/// Splits at commas that no backslash protects.
fn split_terms(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, &str, bool)> {
    for (at, _) in term.char_indices() {
        let rest = &term[at..];
        for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = rest.strip_prefix(operator) {
                return Some((&term[..at], value, equal));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => {
                    return Err(format!("invalid field selector: invalid escape sequence: \\{c}"));
                }
                None => {
                    return Err("invalid field selector: invalid escape sequence: \\".to_owned());
                }
            },
            ',' | '=' => {
                let code = c as u32;
                return Err(format!(
                    "invalid field selector: unescaped character in value: {code}"
                ));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn matches(selector: &str, labels: &Value) -> bool {
        LabelSelector::parse(selector).unwrap().matches_labels(labels.as_object())
    }

    #[test]
    fn label_selectors_match_as_upstream_does() {
        let labels = json!({"a": "1", "b": "x", "n": "5"});
        for selector in [
            "",
            "a",
            "a=1",
            "a==1",
            "a in (1,2)",
            "b notin (y)",
            "!c",
            "c!=1",
            "n>4",
            "n<6",
            "a,b=x",
            "in!=x",
            " a = 1 , b = x ",
        ] {
            assert!(matches(selector, &labels), "{selector}");
        }
        for selector in
            ["a=2", "c", "!a", "a notin (1)", "a!=1", "n>5", "b>1", "c in (1)", "a=", "c>1"]
        {
            assert!(!matches(selector, &labels), "{selector}");
        }
    }

    #[test]
    fn label_selector_errors_are_upstreams() {
        let check =
            |text: &str, error: &str| assert_eq!(LabelSelector::parse(text).unwrap_err(), error);
        check(
            "a b",
            "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
        );
        check("a,", "found '', expected: identifier after ','");
        check("a in 1", "unable to parse requirement: found '1' expected: '('");
        assert!(LabelSelector::parse("-a=1").is_err());
        assert!(LabelSelector::parse("a=b c").is_err());
        assert!(LabelSelector::parse("a in (").is_err());
        assert!(LabelSelector::parse("a in ()").is_ok());
    }

    #[test]
    fn the_struct_form_matches_and_prints() {
        let value = json!({"matchLabels": {"b": "x"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["2", "1"]}]});
        let selector = LabelSelector::from_value(Some(&value)).unwrap();
        assert_eq!(selector.to_string(), "a in (1,2),b=x");
        assert!(selector.matches_labels(json!({"a": "1", "b": "x"}).as_object()));
        assert!(!LabelSelector::from_value(None).unwrap().matches_labels(None));
        assert!(LabelSelector::from_value(Some(&json!({}))).unwrap().matches_labels(None));
    }

    #[test]
    fn field_selectors_parse_and_refuse_as_upstream_does() {
        let selector = FieldSelector::parse("metadata.name==a\\,b,spec.x!=1").unwrap();
        assert_eq!(selector.requires("metadata.name"), Some("a,b"));
        assert!(selector.matches(|field| (field == "metadata.name").then_some("a,b")));
        let check =
            |text: &str, error: &str| assert_eq!(FieldSelector::parse(text).unwrap_err(), error);
        check("foo", "invalid selector: 'foo'; can't understand 'foo'");
        check("a=b=c", "invalid field selector: unescaped character in value: 61");
        assert_eq!(FieldSelector::parse("").unwrap(), FieldSelector::default());
    }
}
