//! JSON text to a value, with Go's error texts, a bound on depth, and duplicate keys reported.
//!
//! Invariant: whatever the input, parsing ends without recursion deeper than `MAX_DEPTH`, and a
//! value that was returned is never deeper, so every other walk may recurse.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Number, Value};

/// Deeper input is refused. Low enough for every recursive walk on a thread's 2 MiB of stack.
pub const MAX_DEPTH: usize = 500;

/// A parsed document.
#[derive(Debug)]
pub struct Parsed {
    pub value: Value,
    /// Paths of keys that occurred twice (`spec.containers[0].image`); the last one was kept.
    pub duplicates: Vec<String>,
}

/// Parses one document.
pub fn parse(bytes: &[u8]) -> Result<Parsed, String> {
    let mut parser = Parser::new(bytes);
    let value = parser.value(0)?;
    parser.space();
    match parser.peek() {
        None => Ok(Parsed { value, duplicates: parser.duplicates }),
        Some(_) => Err(parser.unexpected("after top-level value")),
    }
}

/// Where keys stand: the offsets of every key whose path is one of these, in the document's order.
pub fn places(bytes: &[u8], paths: &HashSet<&str>) -> HashMap<String, Vec<usize>> {
    let mut parser = Parser::new(bytes);
    parser.sought = Some(paths);
    // What cannot be read any further has no places.
    let _ = parser.value(0);
    parser.places
}

enum Step {
    Key(String),
    Index(usize),
}

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
    path: Vec<Step>,
    duplicates: Vec<String>,
    sought: Option<&'a HashSet<&'a str>>,
    places: HashMap<String, Vec<usize>>,
}

const END: &str = "unexpected end of JSON input";

impl<'a> Parser<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Parser {
            bytes,
            at: 0,
            path: Vec::new(),
            duplicates: Vec::new(),
            sought: None,
            places: HashMap::new(),
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Go's words for the byte at the current place.
    fn unexpected(&self, context: &str) -> String {
        let Some(byte) = self.peek() else { return END.to_owned() };
        let shown = match byte {
            b'\'' => r"'\''".to_owned(),
            b'"' => "'\"'".to_owned(),
            b'\n' => r"'\n'".to_owned(),
            b'\t' => r"'\t'".to_owned(),
            b'\r' => r"'\r'".to_owned(),
            b'\\' => r"'\\'".to_owned(),
            0x20..=0x7e => format!("'{}'", char::from(byte)),
            0x80.. => match char::from(byte).is_control() {
                true => format!("'\\u{byte:04x}'"),
                false => format!("'{}'", char::from(byte)),
            },
            _ => format!("'\\x{byte:02x}'"),
        };
        format!("invalid character {shown} {context}")
    }

    fn value(&mut self, depth: usize) -> Result<Value, String> {
        if depth > MAX_DEPTH {
            return Err("exceeded max depth".to_owned());
        }
        self.space();
        match self.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string().map(Value::String),
            Some(b't') => self.literal("true", Value::Bool(true)),
            Some(b'f') => self.literal("false", Value::Bool(false)),
            Some(b'n') => self.literal("null", Value::Null),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(self.unexpected("looking for beginning of value")),
        }
    }

    fn literal(&mut self, text: &str, value: Value) -> Result<Value, String> {
        for expected in text.bytes() {
            if self.peek() != Some(expected) {
                let expected = char::from(expected);
                return Err(self.unexpected(&format!("in literal {text} (expecting '{expected}')")));
            }
            self.at += 1;
        }
        Ok(value)
    }

    fn object(&mut self, depth: usize) -> Result<Value, String> {
        self.at += 1;
        let mut map = Map::new();
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Object(map));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("looking for beginning of object key string"));
            }
            let key = self.string()?;
            self.space();
            if self.peek() != Some(b':') {
                return Err(self.unexpected("after object key"));
            }
            self.at += 1;
            let again = map.contains_key(&key);
            self.path.push(Step::Key(key));
            self.note_place();
            let value = self.value(depth + 1)?;
            if again {
                self.duplicate();
            }
            if let Some(Step::Key(key)) = self.path.pop() {
                map.insert(key, value);
            }
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Value::Object(map));
                }
                _ => return Err(self.unexpected("after object key:value pair")),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, String> {
        self.at += 1;
        let mut items = Vec::new();
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::Array(items));
        }
        loop {
            self.path.push(Step::Index(items.len()));
            items.push(self.value(depth + 1)?);
            self.path.pop();
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(Value::Array(items));
                }
                _ => return Err(self.unexpected("after array element")),
            }
        }
    }

    fn duplicate(&mut self) {
        let text = self.place();
        if self.duplicates.len() < 100 && !self.duplicates.contains(&text) {
            self.duplicates.push(text);
        }
    }

    fn note_place(&mut self) {
        let Some(sought) = self.sought else { return };
        let text = self.place();
        if sought.contains(text.as_str()) {
            self.places.entry(text).or_default().push(self.at);
        }
    }

    /// The path of the current key.
    fn place(&self) -> String {
        let mut text = String::new();
        for step in &self.path {
            match step {
                Step::Key(key) => {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    text.push_str(key);
                }
                Step::Index(index) => {
                    text.push('[');
                    text.push_str(&index.to_string());
                    text.push(']');
                }
            }
        }
        text
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at - start
    }

    fn number(&mut self) -> Result<Value, String> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => {
                self.digits();
            }
            _ => return Err(self.unexpected("in numeric literal")),
        }
        let mut whole = true;
        if self.peek() == Some(b'.') {
            whole = false;
            self.at += 1;
            if self.digits() == 0 {
                return Err(self.unexpected("after decimal point in numeric literal"));
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            whole = false;
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if self.digits() == 0 {
                return Err(self.unexpected("in exponent of numeric literal"));
            }
        }
        let text = std::str::from_utf8(&self.bytes[start..self.at]).unwrap_or_default();
        if whole {
            if let Ok(number) = text.parse::<i64>() {
                return Ok(number.into());
            }
            if let Ok(number) = text.parse::<u64>() {
                return Ok(number.into());
            }
        }
        let number = text.parse::<f64>().ok().and_then(Number::from_f64);
        number.map(Value::Number).ok_or_else(|| {
            format!("json: cannot unmarshal number {text} into Go value of type float64")
        })
    }

    fn string(&mut self) -> Result<String, String> {
        self.at += 1;
        let start = self.at;
        loop {
            match self.peek() {
                None => return Err(END.to_owned()),
                Some(b'"') => {
                    let text = String::from_utf8_lossy(&self.bytes[start..self.at]).into_owned();
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => return self.escaped_string(start),
                Some(0..=0x1f) => return Err(self.unexpected("in string literal")),
                Some(_) => self.at += 1,
            }
        }
    }

    fn escaped_string(&mut self, start: usize) -> Result<String, String> {
        let mut out = self.bytes[start..self.at].to_vec();
        loop {
            match self.peek() {
                None => return Err(END.to_owned()),
                Some(b'"') => {
                    self.at += 1;
                    let text = String::from_utf8(out);
                    return Ok(text.unwrap_or_else(|err| {
                        String::from_utf8_lossy(err.as_bytes()).into_owned()
                    }));
                }
                Some(b'\\') => {
                    self.at += 1;
                    let c = self.escape()?;
                    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
                Some(0..=0x1f) => return Err(self.unexpected("in string literal")),
                Some(byte) => {
                    out.push(byte);
                    self.at += 1;
                }
            }
        }
    }

    fn escape(&mut self) -> Result<char, String> {
        let simple = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode();
            }
            _ => return Err(self.unexpected("in string escape code")),
        };
        self.at += 1;
        Ok(simple)
    }

    fn unicode(&mut self) -> Result<char, String> {
        let high = self.hex()?;
        let pair = (0xd800..0xdc00).contains(&high)
            && self.bytes.get(self.at..self.at + 2) == Some(b"\\u".as_slice());
        if pair {
            let back = self.at;
            self.at += 2;
            let low = self.hex()?;
            if (0xdc00..0xe000).contains(&low) {
                let code = 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = back;
        }
        Ok(char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hex(&mut self) -> Result<u32, String> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            let Some(digit) = digit else {
                return Err(self.unexpected("in \\u hexadecimal character escape"));
            };
            code = code * 16 + digit;
            self.at += 1;
        }
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_serde_json_on_good_input() {
        for text in [
            r#"{"a":[1,-2,3.5,1e3,true,false,null,"x\n\u00e9\ud83d\ude00"],"b":{}}"#,
            " [ ] ",
            "\"\"",
            "18446744073709551615",
        ] {
            let ours = parse(text.as_bytes()).unwrap().value;
            assert_eq!(ours, serde_json::from_str::<Value>(text).unwrap(), "{text}");
        }
    }

    #[test]
    fn errors_are_go_s() {
        let check = |text: &str, error: &str| {
            assert_eq!(parse(text.as_bytes()).unwrap_err(), error, "{text}");
        };
        check("", END);
        check("{", END);
        check("{} {}", "invalid character '{' after top-level value");
        check("x", "invalid character 'x' looking for beginning of value");
        check("{a", "invalid character 'a' looking for beginning of object key string");
        check("[1 2", "invalid character '2' after array element");
        check("\u{81}", "invalid character 'Â' looking for beginning of value");
        check("tru", END);
    }

    #[test]
    fn deep_input_is_refused() {
        for text in ["[".repeat(10_000), "{\"a\":".repeat(10_000)] {
            assert_eq!(parse(text.as_bytes()).unwrap_err(), "exceeded max depth");
        }
    }

    #[test]
    fn duplicates_carry_their_path() {
        let parsed = parse(br#"{"d":{"a":1,"a":2},"l":[{"x":1,"x":1}]}"#).unwrap();
        assert_eq!(parsed.duplicates, ["d.a", "l[0].x"]);
        assert_eq!(parsed.value["d"]["a"], 2);
    }
}
