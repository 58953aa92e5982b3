//! The checks of names and values that every kind shares, with upstream's texts.
//!
//! Each function returns the messages of what is wrong; an empty list means valid.

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

/// `must be no more than 63 characters`.
fn max_len(max: usize) -> String {
    format!("must be no more than {max} characters")
}

/// `must be no more than 63 bytes`, as label validation says since 1.33.
fn max_len_bytes(max: usize) -> String {
    format!("must be no more than {max} bytes")
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

/// What is wrong with an RFC 1123 label.
pub fn label_problems(text: &str) -> Vec<String> {
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

/// What is wrong with an RFC 1123 subdomain.
pub fn subdomain_problems(text: &str) -> Vec<String> {
    checked(text, SUBDOMAIN_MAX, subdomain_shape(text), DNS1123_SUBDOMAIN)
}

/// What is wrong with an RFC 1035 label.
pub fn label_1035_problems(text: &str) -> Vec<String> {
    let fits = label_shape(text) && text.starts_with(|c: char| c.is_ascii_lowercase());
    checked(text, LABEL_MAX, fits, DNS1035_LABEL)
}

/// What is wrong with a wildcard subdomain (`*.example.com`).
pub fn wildcard_problems(text: &str) -> Vec<String> {
    let fits = text.strip_prefix("*.").is_some_and(subdomain_shape);
    checked(text, SUBDOMAIN_MAX, fits, WILDCARD_SUBDOMAIN)
}

/// What is wrong with a qualified name (`example.com/name`), such as the key of a label.
pub fn qualified_problems(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    let parts = text.split('/').collect::<Vec<_>>();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            match prefix.is_empty() {
                true => errors.push("prefix part must be non-empty".to_owned()),
                false => {
                    let wrong = subdomain_problems(prefix).into_iter();
                    errors.extend(wrong.map(|message| format!("prefix part {message}")));
                }
            }
            *name
        }
        _ => {
            let text = QUALIFIED_NAME.strip_suffix(')').unwrap_or(QUALIFIED_NAME);
            return vec![format!(
                "a valid label key {text}) with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        errors.push(format!("name part {}", max_len_bytes(LABEL_MAX)));
    }
    if !qualified_shape(name) {
        errors.push(format!("name part {QUALIFIED_NAME}"));
    }
    errors
}

/// What is wrong with a label's value.
pub fn label_value_problems(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > LABEL_MAX {
        errors.push(max_len_bytes(LABEL_MAX));
    }
    if !text.is_empty() && !qualified_shape(text) {
        errors.push(LABEL_VALUE.to_owned());
    }
    errors
}

/// What is wrong with a C identifier.
pub fn c_identifier_problems(text: &str) -> Vec<String> {
    let bytes = text.as_bytes();
    let first = bytes.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_');
    let fits = first && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    checked(text, usize::MAX, fits, C_IDENTIFIER)
}

/// What is wrong with a key of a ConfigMap or Secret.
pub fn config_key_problems(text: &str) -> Vec<String> {
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

/// What is wrong with a name that is one segment of a URL path.
pub fn path_segment_problems(text: &str) -> Vec<String> {
    match text {
        "." | ".." => vec![format!("may not be '{text}'")],
        _ => path_segment_prefix_problems(text),
    }
}

/// What is wrong with the beginning of such a name.
pub fn path_segment_prefix_problems(text: &str) -> Vec<String> {
    let holds = ['/', '%'].into_iter().filter(|c| text.contains(*c));
    holds.map(|c| format!("may not contain '{c}'")).collect()
}

/// What is wrong with the name of a container or service port.
pub fn port_name_problems(text: &str) -> Vec<String> {
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
        check(label_problems, &["a", "a-1", "1a"], &["", "-a", "a-", "A", "a.b", &long]);
        check(subdomain_problems, &["a", "a.b-c.1"], &["", ".", "a.", "a..b", "a_b"]);
        check(label_1035_problems, &["a1"], &["1a", ""]);
        check(wildcard_problems, &["*.a.b"], &["*", "*.", "a.b", "*.*.a"]);
        check(
            qualified_problems,
            &["a", "A_b.c", "x.io/A"],
            &["", "/a", "a/", "a/b/c", "X.io/a", "a b"],
        );
        check(label_value_problems, &["", "a", "A.b_c"], &["-", "a b", &long]);
        check(config_key_problems, &["a", ".a", "A_b-c"], &["", ".", "..", "..a", "a/b"]);
        check(
            port_name_problems,
            &["http", "a-1"],
            &["", "1", "-a", "a--b", "A", "abcdefghijklmnop"],
        );
        check(path_segment_problems, &["a:b", "system:x"], &[".", "..", "a/b", "a%b"]);
    }

    #[test]
    fn a_long_label_value_is_counted_in_bytes() {
        assert_eq!(label_value_problems(&"n".repeat(64)), ["must be no more than 63 bytes"]);
    }
}
