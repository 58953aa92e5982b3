//! Checks that many kinds share: names, numbers, selectors, ports, addresses.
//!
//! Each function adds to `FieldErrors` in upstream's words; the `_problem` functions give the bare
//! text, for callers that put it elsewhere.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::field::{FieldErrors, Path};
use super::value::{at, key, list, map, text, texts};

pub(crate) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
pub(crate) const IMMUTABLE: &str = "field is immutable";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = r"a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const WILDCARD: &str = r"a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

fn is_label(text: &str, first: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.first().is_some_and(|b| plain(b) && first(*b))
        && bytes.last().is_some_and(plain)
        && bytes.iter().all(|b| plain(b) || *b == b'-')
}

/// What is wrong with an RFC 1123 label.
pub(crate) fn label_problems(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > 63 {
        out.push("must be no more than 63 characters".to_owned());
    }
    if !is_label(text, |_| true) {
        out.push(LABEL.to_owned());
    }
    out
}

/// What is wrong with an RFC 1123 subdomain.
pub(crate) fn subdomain_problems(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > 253 {
        out.push("must be no more than 253 characters".to_owned());
    }
    if !text.split('.').all(|part| is_label(part, |_| true)) {
        out.push(SUBDOMAIN.to_owned());
    }
    out
}

/// What is wrong with a wildcard subdomain (`*.example.com`).
pub(crate) fn wildcard_problems(text: &str) -> Vec<String> {
    let good = text
        .strip_prefix("*.")
        .is_some_and(|rest| rest.split('.').all(|part| is_label(part, |_| true)));
    if good { Vec::new() } else { vec![WILDCARD.to_owned()] }
}

/// What is wrong with an RFC 1035 label.
pub(crate) fn label_1035_problems(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > 63 {
        out.push("must be no more than 63 characters".to_owned());
    }
    if !is_label(text, |b| b.is_ascii_lowercase()) {
        out.push(LABEL_1035.to_owned());
    }
    out
}

fn is_word(text: &str) -> bool {
    let plain = |b: &u8| b.is_ascii_alphanumeric();
    let bytes = text.as_bytes();
    bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && bytes.iter().all(|b| plain(b) || b"-_.".contains(b))
}

/// What is wrong with a qualified name (`example.com/name`).
pub(crate) fn qualified_problems(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let parts: Vec<&str> = text.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                out.push("prefix part must be non-empty".to_owned());
            } else {
                out.extend(subdomain_problems(prefix).iter().map(|p| format!("prefix part {p}")));
            }
            *name
        }
        _ => {
            out.push(format!(
                "a qualified name {QUALIFIED} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            ));
            return out;
        }
    };
    if name.is_empty() {
        out.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        out.push("name part must be no more than 63 bytes".to_owned());
    }
    if !is_word(name) {
        out.push(format!("name part {QUALIFIED}"));
    }
    out
}

/// What is wrong with a label's value.
pub(crate) fn label_value_problems(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > 63 {
        out.push("must be no more than 63 bytes".to_owned());
    }
    if !text.is_empty() && !is_word(text) {
        out.push(LABEL_VALUE.to_owned());
    }
    out
}

/// What is wrong with a key of a ConfigMap or Secret.
pub(crate) fn config_key_problems(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > 253 {
        out.push("must be no more than 253 characters".to_owned());
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        out.push("a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')".to_owned());
    }
    match text {
        "." => out.push("must not be '.'".to_owned()),
        ".." => out.push("must not be '..'".to_owned()),
        _ if text.starts_with("..") => out.push("must not start with '..'".to_owned()),
        _ => {}
    }
    out
}

/// What is wrong with the name of a container or service port.
pub(crate) fn port_name_problems(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > 15 {
        out.push("must be no more than 15 characters".to_owned());
    }
    if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        || text.is_empty()
    {
        out.push(
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned(),
        );
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        out.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        out.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        out.push("must not begin or end with a hyphen".to_owned());
    }
    out
}

/// Adds each problem as an invalid value.
pub(crate) fn problems(errs: &mut FieldErrors, path: &Path, value: &str, problems: Vec<String>) {
    for problem in problems {
        errs.invalid(path, value, problem);
    }
}

/// A number that may not be negative; absence is fine.
pub(crate) fn not_negative(errs: &mut FieldErrors, path: &Path, value: &Value) {
    if value.as_i64().is_some_and(|n| n < 0) {
        errs.invalid(path, value.clone(), NOT_NEGATIVE);
    }
}

/// A port number.
pub(crate) fn port(errs: &mut FieldErrors, path: &Path, value: &Value) {
    if !value.as_i64().is_some_and(|n| (1..=65535).contains(&n)) {
        let shown = if value.is_null() { json!(0) } else { value.clone() };
        errs.invalid(path, shown, "must be between 1 and 65535, inclusive");
    }
}

/// A port number or name.
pub(crate) fn port_or_name(errs: &mut FieldErrors, path: &Path, value: &Value) {
    match value.as_str() {
        Some(name) => problems(errs, path, name, port_name_problems(name)),
        None => port(errs, path, value),
    }
}

/// One of a closed list of values.
pub(crate) fn one_of(errs: &mut FieldErrors, path: &Path, value: &Value, valid: &[&str]) {
    let text = value.as_str().unwrap_or_default();
    if !valid.contains(&text) {
        errs.not_supported(path, text, valid);
    }
}

/// A field that must be there and not empty.
pub(crate) fn required(errs: &mut FieldErrors, path: &Path, value: &Value) -> bool {
    let missing = super::value::is_zero(value);
    if missing {
        errs.required(path, "");
    }
    !missing
}

/// A field that may not change.
pub(crate) fn immutable(errs: &mut FieldErrors, path: &Path, new: &Value, old: &Value) {
    if new != old {
        errs.invalid(path, new.clone(), IMMUTABLE);
    }
}

/// Label keys and values.
pub(crate) fn labels(errs: &mut FieldErrors, path: &Path, labels: &Value) {
    for (name, value) in labels.as_object().into_iter().flatten() {
        problems(errs, path, name, qualified_problems(name));
        let value = value.as_str().unwrap_or_default();
        problems(errs, path, value, label_value_problems(value));
    }
}

/// A `LabelSelector`.
pub(crate) fn label_selector(errs: &mut FieldErrors, path: &Path, selector: &Value) {
    labels(errs, &path.child("matchLabels"), key(selector, "matchLabels"));
    for (at, term) in list(selector, "matchExpressions").iter().enumerate() {
        let path = path.child("matchExpressions").index(at);
        let values = list(term, "values");
        match text(term, "operator") {
            "In" | "NotIn" if values.is_empty() => errs.required(
                path.child("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            ),
            "Exists" | "DoesNotExist" if !values.is_empty() => errs.forbidden(
                path.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errs.invalid(path.child("operator"), other, "not a valid selector operator"),
        }
        let name = text(term, "key");
        problems(errs, &path.child("key"), name, qualified_problems(name));
        for (n, value) in texts(term, "values").enumerate() {
            problems(errs, &path.child("values").index(n), value, label_value_problems(value));
        }
    }
}

/// Whether a `LabelSelector` is well-formed (what Go's conversion to a selector accepts).
pub(crate) fn selector_converts(selector: &Value) -> bool {
    let mut errs = FieldErrors::default();
    label_selector(&mut errs, &Path::new(""), selector);
    errs.is_empty()
}

/// Whether a `LabelSelector` is empty: it selects everything.
pub(crate) fn selector_is_empty(selector: &Value) -> bool {
    map(selector, "matchLabels").is_empty() && list(selector, "matchExpressions").is_empty()
}

/// Whether labels satisfy a `LabelSelector`; a missing selector selects nothing.
pub(crate) fn selects(selector: &Value, labels: &Value) -> bool {
    if selector.is_null() {
        return false;
    }
    let get = |name: &str| labels.get(name).and_then(Value::as_str);
    map(selector, "matchLabels").iter().all(|(name, value)| get(name) == value.as_str())
        && list(selector, "matchExpressions").iter().all(|term| {
            let have = get(text(term, "key"));
            let listed = || have.is_some_and(|have| texts(term, "values").any(|v| v == have));
            match text(term, "operator") {
                "In" => listed(),
                "NotIn" => !listed(),
                "Exists" => have.is_some(),
                "DoesNotExist" => have.is_none(),
                _ => false,
            }
        })
}

/// An IP address, strictly written.
pub(crate) fn ip(errs: &mut FieldErrors, path: &Path, text: &str) -> Option<IpAddr> {
    let parsed = text.parse::<IpAddr>().ok();
    if parsed.is_none() {
        errs.invalid(path, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    }
    parsed
}

/// A CIDR block.
pub(crate) fn cidr(
    errs: &mut FieldErrors,
    path: &Path,
    text: &str,
) -> Option<ipnetwork::IpNetwork> {
    let parsed = text.contains('/').then(|| text.parse::<ipnetwork::IpNetwork>().ok()).flatten();
    if parsed.is_none() {
        errs.invalid(path, text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
    }
    parsed
}

/// An address that other machines can be reached at.
pub(crate) fn endpoint_ip(errs: &mut FieldErrors, path: &Path, ip: IpAddr) {
    let shown = ip.to_string();
    if ip.is_unspecified() {
        errs.invalid(path, shown.as_str(), format!("may not be unspecified ({shown})"));
    }
    if ip.is_loopback() {
        errs.invalid(
            path,
            shown.as_str(),
            "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        );
    }
    let (local, local_multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => (ip.is_unicast_link_local(), ip.segments()[0] == 0xff02),
    };
    if local {
        errs.invalid(
            path,
            shown.as_str(),
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        );
    }
    if local_multicast {
        errs.invalid(
            path,
            shown.as_str(),
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        );
    }
}

/// A percentage or a number that may not be negative.
pub(crate) fn int_or_percent(errs: &mut FieldErrors, path: &Path, value: &Value) {
    match value.as_str() {
        Some(text) => {
            let digits = text.strip_suffix('%').unwrap_or("x");
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                errs.invalid(path, text, "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')");
            }
        }
        None => not_negative(errs, path, value),
    }
}

/// The number of a percentage.
pub(crate) fn percent(value: &Value) -> Option<i64> {
    value.as_str()?.strip_suffix('%')?.parse().ok()
}

/// A percentage over 100 makes no sense.
pub(crate) fn at_most_100(errs: &mut FieldErrors, path: &Path, value: &Value) {
    if percent(value).is_some_and(|n| n > 100) {
        errs.invalid(path, value.clone(), "must not be greater than 100%");
    }
}

/// The path of `spec` of anything.
pub(crate) fn spec() -> Path {
    Path::new("spec")
}

/// A member of `spec` that may not change.
pub(crate) fn immutable_spec(errs: &mut FieldErrors, name: &str, new: &Value, old: &Value) {
    let full = format!("spec.{name}");
    immutable(errs, &spec().child(name), at(new, &full), at(old, &full));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged_as_upstream_does() {
        assert!(label_problems("a-1").is_empty());
        assert_eq!(label_problems("Bad_"), [LABEL]);
        assert!(subdomain_problems("a.b-c.d").is_empty());
        assert_eq!(subdomain_problems("a..b"), [SUBDOMAIN]);
        assert_eq!(qualified_problems("a b"), [format!("name part {QUALIFIED}")]);
        assert_eq!(qualified_problems("").len(), 2);
        assert!(qualified_problems("example.com/Name").is_empty());
        assert_eq!(
            port_name_problems("a-very-long-port-name"),
            ["must be no more than 15 characters"]
        );
    }

    #[test]
    fn a_selector_selects() {
        let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "c", "operator": "NotIn", "values": ["x"]}]});
        assert!(selects(&selector, &json!({"a": "b"})));
        assert!(!selects(&selector, &json!({"a": "b", "c": "x"})));
        assert!(!selects(&Value::Null, &json!({})));
    }
}
