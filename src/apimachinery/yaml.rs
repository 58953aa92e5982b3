//! YAML text to a value, bounded in size, depth and alias expansion.

use crate::json::Parsed;

/// Parses the first document. Errors begin with `yaml: `, as Go's do.
pub fn parse(bytes: &[u8]) -> Result<Parsed, String> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| "yaml: control characters are not allowed".to_owned())?;
    // JSON is YAML, and the exact parser is the faster one.
    if text.trim_start().starts_with('{')
        && let Ok(parsed) = crate::json::parse(bytes)
    {
        return Ok(parsed);
    }
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
        with_snippet: false,
    };
    let value = serde_saphyr::from_str_with_options(first_document(text), options)
        .map_err(|err| go_words(&err.to_string(), text))?;
    Ok(Parsed { value, duplicates: Vec::new() })
}

/// A parser's error as Go's parser says it: the line first, and only when it is not the first.
fn go_words(error: &str, text: &str) -> String {
    let (message, place) = error.rsplit_once(" at line ").unwrap_or((error, "1,"));
    let line = place.split(',').next().unwrap_or("1");
    if let Some(open) = message.strip_prefix("unclosed bracket ") {
        // What comes to its end too soon is told with its line in any case.
        let missing = match (text.trim_end().ends_with(['[', '{', ',']), open.contains('[')) {
            (true, _) => "node content",
            (false, true) => "',' or ']'",
            (false, false) => "',' or '}'",
        };
        return format!("yaml: line {line}: did not find expected {missing}");
    }
    if line == "1" { format!("yaml: {message}") } else { format!("yaml: line {line}: {message}") }
}

/// The first key that a map of the first document has twice, in Go's words.
pub fn duplicate(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    if text.trim_start().starts_with('{')
        && crate::json::parse(bytes).is_ok_and(|parsed| parsed.duplicates.is_empty())
    {
        return None;
    }
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        with_snippet: false,
    };
    let parsed: Result<serde_json::Value, _> =
        serde_saphyr::from_str_with_options(first_document(text), options);
    match parsed {
        Err(serde_saphyr::Error::DuplicateMappingKey { key, location }) => {
            let key = key.unwrap_or_default();
            Some(format!("line {}: key {key:?} already set in map", location.line()))
        }
        _ => None,
    }
}

/// The text up to the marker that begins a second document.
fn first_document(text: &str) -> &str {
    let mut begun = false;
    let mut end = 0;
    for line in text.split_inclusive('\n') {
        let marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if marker && begun {
            return text.get(..end).unwrap_or(text);
        }
        let bare = line.trim();
        begun |= marker || !(bare.is_empty() || bare.starts_with('#') || bare.starts_with('%'));
        end += line.len();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_there_twice_is_named() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(duplicate(text.as_bytes()).as_deref(), expected, "{text}");
        };
        check("a: 1\nb: {c: 1, c: 2}\n", Some("line 2: key \"c\" already set in map"));
        check(r#"{"a":1,"a":2}"#, Some("line 1: key \"a\" already set in map"));
        check("a: 1\nb: 2\n", None);
        check("a: [", None);
    }

    #[test]
    fn only_the_first_document_counts() {
        let check = |text: &str, expected: &str| assert_eq!(first_document(text), expected);
        check("a: b\n---\nc: d\n", "a: b\n");
        check("# first\n---\na: b\n--- \nc: d\n", "# first\n---\na: b\n");
        check("a: ---\nb: |\n  ---\n---x: y\n", "a: ---\nb: |\n  ---\n---x: y\n");
        check("", "");
    }
}
