//! The checks of names and values that every kind shares, with upstream's texts.
//!
//! Each function returns the messages of what is wrong; an empty list means valid.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;

const DNS1123_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const DNS1123_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS1035_LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const WILDCARD_SUBDOMAIN: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED_NAME: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const C_IDENTIFIER: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";
const CONFIG_MAP_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const HTTP_PATH: &str = "must be an absolute path (e.g. '/', '/healthz')";
const HTTP_HEADER: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";
const ENV_VAR_NAME: &str = "a valid environment variable name must consist only of printable ASCII characters other than '='";

/// `must be no more than 63 characters`.
pub fn max_len(max: usize) -> String {
    format!("must be no more than {max} characters")
}

/// `must be no more than 63 bytes`, as label validation says since 1.33.
pub fn max_len_bytes(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// `must be between 1 and 65535, inclusive`.
pub fn inclusive_range(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

fn lower_alnum(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn label_shape(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = |byte: Option<&u8>| byte.copied().is_some_and(lower_alnum);
    ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|byte| lower_alnum(*byte) || *byte == b'-')
}

fn subdomain_shape(text: &str) -> bool {
    text.split('.').all(label_shape)
}

fn qualified_shape(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

fn checked(text: &str, max: usize, fits: bool, message: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > max {
        errors.push(max_len(max));
    }
    if !fits {
        errors.push(message.to_owned());
    }
    errors
}

pub fn dns1123_label(text: &str) -> Vec<String> {
    checked(
        text,
        LABEL_MAX,
        label_shape(text),
        match subdomain_shape(text) {
            // A name that would be a valid subdomain only lacks the dots' absence.
            true if text.contains('.') => "must not contain dots",
            _ => DNS1123_LABEL,
        },
    )
}

pub fn dns1123_subdomain(text: &str) -> Vec<String> {
    checked(text, SUBDOMAIN_MAX, subdomain_shape(text), DNS1123_SUBDOMAIN)
}

pub fn dns1035_label(text: &str) -> Vec<String> {
    let fits = label_shape(text) && text.starts_with(|c: char| c.is_ascii_lowercase());
    checked(text, LABEL_MAX, fits, DNS1035_LABEL)
}

pub fn wildcard_dns1123_subdomain(text: &str) -> Vec<String> {
    let fits = text.strip_prefix("*.").is_some_and(subdomain_shape);
    checked(text, SUBDOMAIN_MAX, fits, WILDCARD_SUBDOMAIN)
}

/// A label key: an optional DNS prefix and a name.
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let parts = text.split('/').collect::<Vec<_>>();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            match prefix.is_empty() {
                true => errors.push("prefix part must be non-empty".to_owned()),
                false => {
                    let wrong = dns1123_subdomain(prefix).into_iter();
                    errors.extend(wrong.map(|message| format!("prefix part {message}")));
                }
            }
            *name
        }
        _ => {
            let text = QUALIFIED_NAME.strip_suffix(')').unwrap_or(QUALIFIED_NAME);
            return vec![format!(
                "a qualified name {text}) with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        errors.push(format!("name part {}", max_len(LABEL_MAX)));
    }
    if !qualified_shape(name) {
        errors.push(format!("name part {QUALIFIED_NAME}"));
    }
    errors
}

pub fn label_value(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > LABEL_MAX {
        errors.push(max_len_bytes(LABEL_MAX));
    }
    if !text.is_empty() && !qualified_shape(text) {
        errors.push(LABEL_VALUE.to_owned());
    }
    errors
}

pub fn c_identifier(text: &str) -> Vec<String> {
    let bytes = text.as_bytes();
    let first = bytes.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_');
    let fits = first && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    checked(text, usize::MAX, fits, C_IDENTIFIER)
}

/// Environment variable names: any printable ASCII but `=`.
pub fn env_var_name(text: &str) -> Vec<String> {
    let fits = !text.is_empty() && text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=');
    checked(text, usize::MAX, fits, ENV_VAR_NAME)
}

/// Keys of ConfigMaps and Secrets.
pub fn config_map_key(text: &str) -> Vec<String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let fits = !text.is_empty() && text.bytes().all(fits);
    let mut errors = checked(text, SUBDOMAIN_MAX, fits, CONFIG_MAP_KEY);
    match text {
        "." => errors.push("must not be '.'".to_owned()),
        ".." => errors.push("must not be '..'".to_owned()),
        _ if text.starts_with("..") => errors.push("must not start with '..'".to_owned()),
        _ => {}
    }
    errors
}

pub fn http_path(text: &str) -> Vec<String> {
    checked(text, usize::MAX, text.starts_with('/'), HTTP_PATH)
}

pub fn http_header_name(text: &str) -> Vec<String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let fits = !text.is_empty() && text.bytes().all(fits);
    checked(text, usize::MAX, fits, HTTP_HEADER)
}

/// A name that is one segment of a URL path.
pub fn path_segment_name(text: &str) -> Vec<String> {
    match text {
        "." => return vec!["may not be '.'".to_owned()],
        ".." => return vec!["may not be '..'".to_owned()],
        _ => {}
    }
    let holds = ['/', '%'].into_iter().filter(|c| text.contains(*c));
    holds.map(|c| format!("may not contain '{c}'")).collect()
}

pub fn percent(text: &str) -> Vec<String> {
    let number = text.strip_suffix('%').unwrap_or_default();
    let fits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    checked(text, usize::MAX, fits, PERCENT)
}

pub fn port_number(port: i64) -> Vec<String> {
    match (1..=65535).contains(&port) {
        true => Vec::new(),
        false => vec![inclusive_range(1, 65535)],
    }
}

/// The name of a container port (IANA service name).
pub fn port_name(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > 15 {
        errors.push(max_len(15));
    }
    let bytes = text.as_bytes();
    if !bytes.iter().all(|byte| lower_alnum(*byte) || *byte == b'-') {
        errors.push(
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned(),
        );
    }
    if !bytes.iter().any(u8::is_ascii_lowercase) {
        errors.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        errors.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        errors.push("must not begin or end with a hyphen".to_owned());
    }
    errors
}

pub fn ip(text: &str) -> Vec<String> {
    match parse_ip(text) {
        Some(_) => Vec::new(),
        None => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

pub fn cidr(text: &str) -> Vec<String> {
    match parse_cidr(text) {
        Some(_) => Vec::new(),
        None => {
            vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()]
        }
    }
}

/// An address as upstream's lenient parser reads it: IPv4 octets may have leading zeros, and
/// IPv4-mapped IPv6 counts as IPv4.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    if text.contains(':') {
        let address = text.parse::<Ipv6Addr>().ok()?;
        return Some(address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4));
    }
    let octets = text.split('.').collect::<Vec<_>>();
    let octet = |text: &&str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.trim_start_matches('0');
        let number = if number.is_empty() { "0" } else { number };
        if digits { number.parse::<u8>().ok() } else { None }
    };
    let octets = octets.iter().map(octet).collect::<Option<Vec<_>>>()?;
    let octets = <[u8; 4]>::try_from(octets).ok()?;
    Some(IpAddr::V4(Ipv4Addr::from(octets)))
}

/// An address and a prefix length that fits it.
pub fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let address = parse_ip(address)?;
    let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
    let prefix = if digits { prefix.parse::<u8>().ok()? } else { return None };
    let max = if address.is_ipv4() { 32 } else { 128 };
    (prefix <= max).then_some((address, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(function: fn(&str) -> Vec<String>, good: &[&str], bad: &[&str]) {
        for text in good {
            assert_eq!(function(text), [""; 0], "{text}");
        }
        for text in bad {
            assert!(!function(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn names_are_checked_as_upstream_does() {
        let long = "a".repeat(64);
        check(dns1123_label, &["a", "a-1", "1a"], &["", "-a", "a-", "A", "a.b", &long]);
        check(dns1123_subdomain, &["a", "a.b-c.1"], &["", ".", "a.", "a..b", "a_b"]);
        check(dns1035_label, &["a1"], &["1a", ""]);
        check(wildcard_dns1123_subdomain, &["*.a.b"], &["*", "*.", "a.b", "*.*.a"]);
        check(
            qualified_name,
            &["a", "A_b.c", "x.io/A"],
            &["", "/a", "a/", "a/b/c", "X.io/a", "a b"],
        );
        check(label_value, &["", "a", "A.b_c"], &["-", "a b", &long]);
        check(c_identifier, &["_", "aB1"], &["", "1", "a-b"]);
        check(config_map_key, &["a", ".a", "A_b-c"], &["", ".", "..", "..a", "a/b"]);
        check(port_name, &["http", "a-1"], &["", "1", "-a", "a--b", "A", "abcdefghijklmnop"]);
        check(percent, &["0%", "100%"], &["", "%", "a%", "10"]);
        check(path_segment_name, &["a:b", "system:x"], &[".", "..", "a/b", "a%b"]);
    }

    #[test]
    fn addresses_are_checked_as_upstream_does() {
        check(ip, &["10.0.0.1", "::1", "010.0.0.1"], &["", "1.2.3", "1.2.3.256", "a", "1.2.3.4/8"]);
        check(cidr, &["10.0.0.0/8", "::/0"], &["10.0.0.0", "10.0.0.0/33", "::/129", "x/8"]);
    }

    #[test]
    fn a_long_label_value_is_counted_in_bytes() {
        assert_eq!(label_value(&"n".repeat(64)), ["must be no more than 63 bytes"]);
    }
}
