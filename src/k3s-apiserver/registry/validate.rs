//! Checks that many kinds share: names, numbers, selectors, ports, addresses.
//!
//! Each function adds to `FieldErrors` in upstream's words.

use std::net::IpAddr;

use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::{label_value_problems, port_name_problems, qualified_problems};
use serde_json::{Value, json};

use super::value::{at, int, key, list, map, text, texts};

pub(crate) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
pub(crate) const IMMUTABLE: &str = "field is immutable";
const CONDITION_REASON: &str = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";

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

/// `metav1.Condition`s: each type once, with everything that a condition has.
pub(crate) fn conditions(errs: &mut FieldErrors, path: &Path, conditions: &[Value]) {
    for (n, condition) in conditions.iter().enumerate() {
        let (path, kind) = (path.index(n), text(condition, "type"));
        if conditions[..n].iter().any(|before| text(before, "type") == kind) {
            errs.duplicate(path.child("type"), kind);
        }
        problems(errs, &path.child("type"), kind, qualified_problems(kind));
        let status = key(condition, "status");
        one_of(errs, &path.child("status"), status, &["False", "True", "Unknown"]);
        if let Some(generation) = int(condition, "observedGeneration").filter(|n| *n < 0) {
            let detail = "must be greater than or equal to zero";
            errs.invalid(path.child("observedGeneration"), generation, detail);
        }
        required(errs, &path.child("lastTransitionTime"), key(condition, "lastTransitionTime"));
        let reason = text(condition, "reason");
        if required(errs, &path.child("reason"), key(condition, "reason")) {
            if !is_condition_reason(reason) {
                errs.invalid(path.child("reason"), reason, CONDITION_REASON);
            }
            if reason.len() > 1 << 10 {
                errs.too_long(path.child("reason"), 1 << 10);
            }
        }
        if text(condition, "message").len() > 32 << 10 {
            errs.too_long(path.child("message"), 32 << 10);
        }
    }
}

fn is_condition_reason(text: &str) -> bool {
    let bytes = text.as_bytes();
    let word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().is_some_and(word)
        && bytes.iter().all(|byte| word(byte) || b",:".contains(byte))
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
    fn a_selector_selects() {
        let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "c", "operator": "NotIn", "values": ["x"]}]});
        assert!(selects(&selector, &json!({"a": "b"})));
        assert!(!selects(&selector, &json!({"a": "b", "c": "x"})));
        assert!(!selects(&Value::Null, &json!({})));
    }
}
