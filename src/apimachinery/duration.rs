//! Go's duration text (`1h2m3.5s`), as `metav1.Duration` and many flags use it.

/// Parses Go's text into nanoseconds.
pub fn parse(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {}", crate::gotext::quote(text));
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0_i128;
    while !rest.is_empty() {
        let number = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let (number, tail) = rest.split_at(number);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0 || fraction.contains('.') || number.len() > 30 {
            return Err(invalid());
        }
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let nanos = match unit {
            "ns" => 1_i128,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "" => {
                let text = crate::gotext::quote(text);
                return Err(format!("time: missing unit in duration {text}"));
            }
            _ => {
                let (unit, text) = (crate::gotext::quote(unit), crate::gotext::quote(text));
                return Err(format!("time: unknown unit {unit} in duration {text}"));
            }
        };
        let whole =
            if whole.is_empty() { 0 } else { whole.parse::<i128>().map_err(|_| invalid())? };
        total = whole.checked_mul(nanos).and_then(|n| total.checked_add(n)).ok_or_else(invalid)?;
        let mut unit_part = nanos;
        for digit in fraction.bytes() {
            unit_part /= 10;
            total += i128::from(digit - b'0') * unit_part;
        }
        rest = tail;
    }
    let total = if negative { -total } else { total };
    i64::try_from(total).map_err(|_| invalid())
}

/// Go's text of a duration in nanoseconds.
pub fn format(nanos: i64) -> String {
    if nanos == 0 {
        return "0s".to_owned();
    }
    let sign = if nanos < 0 { "-" } else { "" };
    let left = nanos.unsigned_abs();
    let fraction = |value: u64, digits: usize| {
        let text = format!("{value:0digits$}");
        let text = text.trim_end_matches('0');
        if text.is_empty() { String::new() } else { format!(".{text}") }
    };
    if left < 1_000 {
        return format!("{sign}{left}ns");
    }
    if left < 1_000_000 {
        return format!("{sign}{}{}µs", left / 1_000, fraction(left % 1_000, 3));
    }
    if left < 1_000_000_000 {
        return format!("{sign}{}{}ms", left / 1_000_000, fraction(left % 1_000_000, 6));
    }
    let seconds = left / 1_000_000_000;
    let rest = fraction(left % 1_000_000_000, 9);
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{sign}{s}{rest}s"),
        (0, m, s) => format!("{sign}{m}m{s}{rest}s"),
        (h, m, s) => format!("{sign}{h}h{m}m{s}{rest}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_go_s() {
        let table = [
            ("1h", "1h0m0s"),
            ("90s", "1m30s"),
            ("1.5s", "1.5s"),
            ("100ms", "100ms"),
            ("1h2m3.25s", "1h2m3.25s"),
            ("-5m", "-5m0s"),
            ("0", "0s"),
            ("15us", "15µs"),
        ];
        for (text, canonical) in table {
            assert_eq!(format(parse(text).unwrap()), canonical, "{text}");
        }
        assert_eq!(parse("5").unwrap_err(), "time: missing unit in duration \"5\"");
        for text in ["", "s", "1d", "1.2.3s", "99999999999h", "."] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
