//! `pattern` of a schema: regular expressions in RE2's syntax.

use regex::Regex;
use regex_syntax::ast::ErrorKind;
use regex_syntax::ast::parse::Parser;

/// A regular expression and how it was written. One that does not compile matches nothing.
#[derive(Clone, Debug)]
pub struct Pattern {
    pub text: String,
    regex: Option<Regex>,
}

impl Pattern {
    /// Reads an expression in RE2's syntax.
    pub fn new(text: &str) -> Self {
        Self { text: text.to_owned(), regex: Regex::new(text).ok() }
    }

    pub fn is_match(&self, text: &str) -> bool {
        self.regex.as_ref().is_some_and(|regex| regex.is_match(text))
    }

    /// What Go has against an expression.
    pub fn problem(text: &str) -> Option<String> {
        let err = Parser::new().parse(text).err()?;
        let (start, end) = (err.span().start.offset, err.span().end.offset);
        let (here, rest) = (&text[start..end], &text[start..]);
        let why = match err.kind() {
            ErrorKind::ClassUnclosed => format!("missing closing ]: `{rest}`"),
            ErrorKind::GroupUnclosed => format!("missing closing ): `{text}`"),
            ErrorKind::GroupUnopened => format!("unexpected ): `{text}`"),
            ErrorKind::RepetitionMissing => {
                let operator = rest.chars().next().unwrap_or_default();
                format!("missing argument to repetition operator: `{operator}`")
            }
            ErrorKind::EscapeUnexpectedEof => {
                "trailing backslash at end of expression: ``".to_owned()
            }
            ErrorKind::EscapeUnrecognized => format!("invalid escape sequence: `{here}`"),
            ErrorKind::ClassRangeInvalid => format!("invalid character class range: `{here}`"),
            ErrorKind::UnsupportedLookAround => {
                format!("invalid or unsupported Perl syntax: `{}`", &here[..here.len().min(3)])
            }
            _ => return None,
        };
        Some(format!("error parsing regexp: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_told_in_gos_words() {
        let check = |text: &str, want: &str| {
            let found = Pattern::problem(text).unwrap_or_default();
            assert_eq!(found.trim_start_matches("error parsing regexp: "), want, "{text}");
        };
        check("^[a-z]+$", "");
        check("a[b", "missing closing ]: `[b`");
        check("(a", "missing closing ): `(a`");
        check("a)", "unexpected ): `a)`");
        check("*a", "missing argument to repetition operator: `*`");
        check("a\\", "trailing backslash at end of expression: ``");
        check("(?=a)", "invalid or unsupported Perl syntax: `(?=`");
    }
}
