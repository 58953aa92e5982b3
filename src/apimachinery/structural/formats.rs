//! The formats of strings that upstream checks (`go-openapi/strfmt`).

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use regex::Regex;

use crate::duration;

/// Formats that are checked; others are accepted with a warning.
const KNOWN: &[&str] = &[
    "bsonobjectid",
    "byte",
    "cidr",
    "creditcard",
    "date",
    "date-time",
    "datetime",
    "duration",
    "email",
    "hexcolor",
    "hostname",
    "ipv4",
    "ipv6",
    "isbn",
    "isbn10",
    "isbn13",
    "k8s-long-name",
    "k8s-short-name",
    "mac",
    "password",
    "rgbcolor",
    "ssn",
    "uri",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
];

/// Is the format one that is checked?
pub fn is_known(format: &str) -> bool {
    KNOWN.binary_search(&format).is_ok()
}

macro_rules! regex {
    ($text:expr, $of:expr) => {{
        static REGEX: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new($of).ok());
        REGEX.as_ref().is_some_and(|regex| regex.is_match($text))
    }};
}

/// Has the text this format? Unknown formats fit everything.
pub fn matches(format: &str, text: &str) -> bool {
    match format {
        "bsonobjectid" => text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "byte" => STANDARD.decode(text).is_ok() || URL_SAFE.decode(text).is_ok(),
        "cidr" => is_cidr(text),
        "creditcard" => is_credit_card(text),
        "date" => is_date(text),
        "date-time" | "datetime" => is_date_time(text),
        "duration" => is_duration(text),
        "email" => is_email(text),
        "hexcolor" => regex!(text, "^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$"),
        "hostname" => is_hostname(text),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "k8s-long-name" => {
            text.len() <= 253 && text.split('.').all(|part| !part.is_empty() && is_label(part))
        }
        "k8s-short-name" => is_label(text),
        "mac" => is_mac(text),
        "rgbcolor" => regex!(
            text,
            r"^rgb\(\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*,\s*(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])\s*\)$"
        ),
        "ssn" => regex!(text, r"^\d{3}[- ]?\d{2}[- ]?\d{4}$"),
        "uri" => is_uri(text),
        "uuid" => {
            regex!(text, "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$")
        }
        "uuid3" => {
            regex!(text, "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?3[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}$")
        }
        "uuid4" => {
            regex!(
                text,
                "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?4[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$"
            )
        }
        "uuid5" => {
            regex!(
                text,
                "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?5[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$"
            )
        }
        _ => true,
    }
}

fn is_label(text: &str) -> bool {
    text.len() <= 63 && regex!(text, "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok()
}

fn is_date_time(text: &str) -> bool {
    let Some((date, time)) = text.split_at_checked(10) else { return false };
    let shaped = regex!(
        time,
        r"(?i)^t([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]+)?(z|[+-][0-9]{2}:[0-9]{2})$"
    );
    is_date(date) && shaped
}

/// Go's durations, and what `strfmt` adds: days, weeks and long names of units.
fn is_duration(text: &str) -> bool {
    duration::parse(text).is_ok()
        || regex!(
            text,
            r"^\s*(\d+)\s*(ns|nano|us|µs|micro|ms|milli|s|sec|m|min|h|hr|hour|d|day|w|wk|week)s?\s*$"
        )
}

fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let address = local.strip_prefix('"').map_or(local, |quoted| quoted.trim_end_matches('"'));
    !address.is_empty() && !local.contains(' ') && is_hostname(domain)
}

fn is_hostname(text: &str) -> bool {
    let label = |label: &str| {
        regex!(label, r"^([a-zA-Z0-9\p{S}\p{L}]((-?[a-zA-Z0-9\p{S}\p{L}]{0,62})?)*)$")
            && label.len() <= 63
    };
    !text.is_empty() && text.len() <= 255 && text.split('.').all(label)
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let max = match (address.parse::<Ipv4Addr>(), address.parse::<Ipv6Addr>()) {
        (Ok(_), _) => 32,
        (_, Ok(_)) => 128,
        _ => return false,
    };
    !bits.starts_with('+') && bits.parse::<u8>().is_ok_and(|bits| bits <= max)
}

fn is_mac(text: &str) -> bool {
    regex!(text, "(?i)^([0-9a-f]{2}[:-]){5}([0-9a-f]{2})$")
        || regex!(text, "(?i)^([0-9a-f]{2}[:-]){7}([0-9a-f]{2})$")
        || regex!(text, r"(?i)^([0-9a-f]{4}\.){2}([0-9a-f]{4})$")
}

/// What Go's `url.ParseRequestURI` takes.
fn is_uri(text: &str) -> bool {
    let absolute = regex!(text, r"^[a-zA-Z][a-zA-Z0-9+.-]*:\S+$");
    (absolute || text.starts_with('/')) && !text.contains(char::is_control)
}

fn digits(text: &str) -> Vec<u32> {
    text.chars().filter_map(|c| c.to_digit(10)).collect()
}

fn is_credit_card(text: &str) -> bool {
    let digits = digits(text);
    if !(13..=19).contains(&digits.len()) {
        return false;
    }
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(at, digit)| match (at % 2, digit * 2) {
            (0, _) => *digit,
            (_, twice) if twice > 9 => twice - 9,
            (_, twice) => twice,
        })
        .sum();
    sum.is_multiple_of(10)
}

fn is_isbn10(text: &str) -> bool {
    let plain: String = text.chars().filter(|c| !matches!(c, '-' | ' ')).collect();
    let shaped = regex!(&plain, "^[0-9]{9}[0-9X]$");
    let value = |c: char| c.to_digit(10).unwrap_or(10);
    shaped && plain.chars().zip(1..).map(|(c, at)| value(c) * at).sum::<u32>().is_multiple_of(11)
}

fn is_isbn13(text: &str) -> bool {
    let plain: String = text.chars().filter(|c| !matches!(c, '-' | ' ')).collect();
    let weights = [1, 3].into_iter().cycle();
    let sum: u32 = digits(&plain).iter().zip(weights).map(|(digit, weight)| digit * weight).sum();
    regex!(&plain, "^[0-9]{13}$") && sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_apart() {
        let check = |format: &str, good: &[&str], bad: &[&str]| {
            for text in good {
                assert!(matches(format, text), "{format} {text}");
            }
            for text in bad {
                assert!(!matches(format, text), "{format} {text}");
            }
        };
        check(
            "date-time",
            &["2021-01-01T00:00:00Z", "2021-01-01t00:00:00.5+01:00"],
            &["x", "2021-13-01T00:00:00Z"],
        );
        check("uuid", &["a8098c1a-f86e-11da-bd1a-00112444be1e"], &["x"]);
        check("byte", &["aGk=", ""], &["*"]);
        check("email", &["a@b.c"], &["x", "@b"]);
        check("hostname", &["a.b-c"], &["_", "-a", ""]);
        check("duration", &["1h30m", "5 days", "100ms"], &["x", ""]);
        check("cidr", &["10.0.0.0/8", "::/0"], &["10.0.0.0/33", "10.0.0.0"]);
        check("mac", &["01:23:45:67:89:ab"], &["01:23"]);
        check("isbn", &["0-306-40615-2", "978-0-306-40615-7"], &["1"]);
        check("uri", &["http://a/b", "/x"], &["a b"]);
        assert!(KNOWN.is_sorted());
    }
}
