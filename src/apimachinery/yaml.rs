//! YAML text to a value, bounded in size, depth and alias expansion.

use crate::json::Parsed;

/// Parses one document. Errors begin with `yaml: `, as Go's do.
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
    let value =
        serde_saphyr::from_str_with_options(text, options).map_err(|err| format!("yaml: {err}"))?;
    Ok(Parsed { value, duplicates: Vec::new() })
}
