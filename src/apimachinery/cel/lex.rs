//! Characters to tokens.

use super::Problem;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    Ident(String),
    /// An identifier in backticks.
    Escaped(String),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
    /// An operator or a bracket.
    Sign(&'static str),
    End,
}

#[derive(Clone, Debug)]
pub(super) struct Spanned {
    pub(super) token: Token,
    pub(super) at: usize,
    pub(super) end: usize,
}

/// Longer signs first.
const SIGNS: [&str; 26] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",",
    "(", ")", "[", "]", "{", "}", "=", "|",
];

pub(super) fn lex(text: &str) -> Result<Vec<Spanned>, Problem> {
    let mut lexer = Lexer { text, at: 0 };
    let mut tokens = Vec::new();
    loop {
        lexer.space();
        let at = lexer.at;
        let token = lexer.token()?;
        let done = token == Token::End;
        tokens.push(Spanned { token, at, end: lexer.at });
        if done {
            return Ok(tokens);
        }
    }
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Lexer<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn space(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start();
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with("//") {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    fn problem(&self, what: &str) -> Problem {
        Problem { at: self.at, message: format!("Syntax error: {what}") }
    }

    fn token(&mut self) -> Result<Token, Problem> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(Token::End) };
        if let Some(token) = self.quoted()? {
            return Ok(token);
        }
        if first == '`' {
            let inner = &rest[1..];
            let end = inner.find('`').ok_or_else(|| self.unrecognized())?;
            self.at += end + 2;
            return Ok(Token::Escaped(inner[..end].to_owned()));
        }
        if first.is_ascii_alphabetic() || first == '_' {
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
            self.at += end;
            return Ok(Token::Ident(rest[..end].to_owned()));
        }
        let second = rest.chars().nth(1);
        if first.is_ascii_digit() || first == '.' && second.is_some_and(|c| c.is_ascii_digit()) {
            return self.number();
        }
        match SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            Some(sign) => {
                self.at += sign.len();
                Ok(Token::Sign(sign))
            }
            None => Err(self.unrecognized()),
        }
    }

    fn unrecognized(&self) -> Problem {
        let shown = self.rest().chars().next().unwrap_or_default();
        self.problem(&format!("token recognition error at: '{shown}'"))
    }

    fn number(&mut self) -> Result<Token, Problem> {
        let rest = self.rest();
        if let Some(hex) = rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X")) {
            let end = hex.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(hex.len());
            self.at += 2 + end;
            if self.take_unsigned() {
                return u64::from_str_radix(&hex[..end], 16)
                    .map(Token::Uint)
                    .map_err(|_| self.problem("invalid uint literal"));
            }
            return i64::from_str_radix(&hex[..end], 16)
                .map(Token::Int)
                .map_err(|_| self.problem("invalid int literal"));
        }
        let bytes = rest.as_bytes();
        let digits = |from: usize| bytes[from..].iter().take_while(|b| b.is_ascii_digit()).count();
        let mut end = digits(0);
        let mut double = false;
        if bytes.get(end) == Some(&b'.') && digits(end + 1) > 0 {
            double = true;
            end += 1 + digits(end + 1);
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            if digits(end + 1 + sign) > 0 {
                double = true;
                end += 1 + sign + digits(end + 1 + sign);
            }
        }
        let shown = &rest[..end];
        self.at += end;
        if double {
            return shown
                .parse()
                .map(Token::Double)
                .map_err(|_| self.problem("invalid double literal"));
        }
        if self.take_unsigned() {
            return shown
                .parse()
                .map(Token::Uint)
                .map_err(|_| self.problem("invalid uint literal"));
        }
        // The least integer is its own negative.
        match shown {
            "9223372036854775808" => Ok(Token::Int(i64::MIN)),
            _ => shown.parse().map(Token::Int).map_err(|_| self.problem("invalid int literal")),
        }
    }

    fn take_unsigned(&mut self) -> bool {
        let unsigned = self.rest().starts_with(['u', 'U']);
        self.at += usize::from(unsigned);
        unsigned
    }

    /// A string or bytes, when one begins here.
    fn quoted(&mut self) -> Result<Option<Token>, Problem> {
        let rest = self.rest();
        let prefix = rest.len() - rest.trim_start_matches(['r', 'R', 'b', 'B']).len();
        if prefix > 2 || !rest[prefix..].starts_with(['"', '\'']) {
            return Ok(None);
        }
        let marks = &rest[..prefix];
        let (raw, bytes) = (marks.contains(['r', 'R']), marks.contains(['b', 'B']));
        let body = &rest[prefix..];
        let quote = &body[..1];
        let triple = quote.repeat(3);
        let delimiter = if body.starts_with(&triple) { triple.as_str() } else { quote };
        let inner = &body[delimiter.len()..];
        let Some(end) = closing(inner, delimiter, raw) else { return Err(self.unrecognized()) };
        let content = &inner[..end];
        if delimiter.len() == 1 && content.contains('\n') {
            return Err(self.unrecognized());
        }
        let text = if raw { content.as_bytes().to_vec() } else { self.unescape(content, bytes)? };
        self.at += prefix + delimiter.len() * 2 + end;
        Ok(Some(match bytes {
            true => Token::Bytes(text),
            false => Token::String(String::from_utf8_lossy(&text).into_owned()),
        }))
    }

    fn unescape(&self, content: &str, bytes: bool) -> Result<Vec<u8>, Problem> {
        let bad = || self.problem("invalid escape sequence");
        let mut out = Vec::with_capacity(content.len());
        let mut rest = content;
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            if c != '\\' {
                push(&mut out, c);
                continue;
            }
            let kind = rest.chars().next().ok_or_else(bad)?;
            let (skip, count, radix) = match kind {
                'x' | 'X' => (1, 2, 16),
                'u' => (1, 4, 16),
                'U' => (1, 8, 16),
                '0'..='3' => (0, 3, 8),
                _ => {
                    push(&mut out, plain_escape(kind).ok_or_else(bad)?);
                    rest = &rest[1..];
                    continue;
                }
            };
            let digits = rest.get(skip..skip + count).ok_or_else(bad)?;
            let code = u32::from_str_radix(digits, radix).map_err(|_| bad())?;
            match (u8::try_from(code), bytes) {
                (Ok(byte), true) => out.push(byte),
                _ => push(&mut out, char::from_u32(code).ok_or_else(bad)?),
            }
            rest = &rest[skip + count..];
        }
        Ok(out)
    }
}

fn push(out: &mut Vec<u8>, c: char) {
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

fn plain_escape(kind: char) -> Option<char> {
    Some(match kind {
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        '\\' | '?' | '"' | '\'' | '`' => kind,
        _ => return None,
    })
}

/// Where a string ends.
fn closing(inner: &str, delimiter: &str, raw: bool) -> Option<usize> {
    let mut at = 0;
    while at < inner.len() {
        if inner[at..].starts_with(delimiter) {
            return Some(at);
        }
        let c = inner[at..].chars().next()?;
        at += c.len_utf8();
        if c == '\\' && !raw {
            at += inner[at..].chars().next()?.len_utf8();
        }
    }
    None
}
