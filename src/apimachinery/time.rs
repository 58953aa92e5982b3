//! `metav1.Time` and `metav1.MicroTime`: RFC 3339 in UTC, with no or six fractional digits.

use jiff::Timestamp;

/// The instant in whole seconds as the API writes it.
pub fn format(at: Timestamp) -> String {
    let whole = Timestamp::from_second(at.as_second()).unwrap_or(at);
    format!("{whole:.0}")
}

/// The instant with microseconds.
pub fn format_micro(at: Timestamp) -> String {
    format!("{at:.6}")
}

/// Parses RFC 3339; the error is what Go says.
pub fn parse(text: &str) -> Result<Timestamp, String> {
    parse_as(text, "2006-01-02T15:04:05Z07:00")
}

/// Parses RFC 3339 with a fraction.
pub fn parse_micro(text: &str) -> Result<Timestamp, String> {
    parse_as(text, "2006-01-02T15:04:05.000000Z07:00")
}

fn parse_as(text: &str, layout: &str) -> Result<Timestamp, String> {
    let shape = text.as_bytes();
    let looks_right = shape.len() >= 20 && shape[10] == b'T' && shape[4] == b'-';
    let parsed = if looks_right { text.parse::<Timestamp>().ok() } else { None };
    parsed.ok_or_else(|| {
        let (text, layout) = (crate::gotext::quote(text), crate::gotext::quote(layout));
        format!("parsing time {text} as {layout}: cannot parse {text} as \"2006\"")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_written_in_utc() {
        let at = parse("2024-01-02T03:04:05.678+01:00").unwrap();
        assert_eq!(format(at), "2024-01-02T02:04:05Z");
        assert_eq!(format_micro(at), "2024-01-02T02:04:05.678000Z");
        assert!(parse("yesterday").unwrap_err().starts_with("parsing time \"yesterday\" as"));
        assert!(parse("").is_err());
        assert!(parse("2024-01-02").is_err());
    }
}
