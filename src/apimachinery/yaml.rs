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
        .map_err(|err| format!("yaml: {err}"))?;
    Ok(Parsed { value, duplicates: Vec::new() })
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
    fn only_the_first_document_counts() {
        let check = |text: &str, expected: &str| assert_eq!(first_document(text), expected);
        check("a: b\n---\nc: d\n", "a: b\n");
        check("# first\n---\na: b\n--- \nc: d\n", "# first\n---\na: b\n");
        check("a: ---\nb: |\n  ---\n---x: y\n", "a: ---\nb: |\n  ---\n---x: y\n");
        check("", "");
    }
}
