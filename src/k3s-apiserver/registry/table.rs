//! What the columns of `kubectl get` are made of: headings, ages, selectors, container lists.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::value::{at, key, list, map, text};
use super::{Column, Object};

/// A text column that is always shown.
pub(crate) const fn column(name: &'static str) -> Column {
    Column { name, kind: "string", format: "", priority: 0, description: "" }
}

/// A text column of `-o wide`.
pub(crate) const fn wide(name: &'static str) -> Column {
    Column { name, kind: "string", format: "", priority: 1, description: "" }
}

/// A number.
pub(crate) const fn integer(name: &'static str) -> Column {
    Column { name, kind: "integer", format: "", priority: 0, description: "" }
}

/// True or false.
pub(crate) const fn boolean(name: &'static str) -> Column {
    Column { name, kind: "boolean", format: "", priority: 0, description: "" }
}

/// `metadata.name`.
pub(crate) fn name(obj: &Object) -> Value {
    json!(text(obj, "metadata.name"))
}

/// The time since creation.
pub(crate) fn age(obj: &Object, now: Timestamp) -> Value {
    json!(since(at(obj, "metadata.creationTimestamp"), now))
}

/// The time since a timestamp, `<unknown>` when there is none.
pub(crate) fn since(time: &Value, now: Timestamp) -> String {
    match time.as_str().and_then(|text| text.parse::<Timestamp>().ok()) {
        Some(then) => human(now.as_second() - then.as_second()),
        None => "<unknown>".to_owned(),
    }
}

/// Seconds as kubectl prints a duration: two units while they matter.
pub(crate) fn human(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let two = |big: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{small_unit}") }
    };
    match seconds {
        ..=-2 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 24 * 8 => two(hours / 24, "d", hours % 24, "h"),
        _ if hours < 24 * 365 * 2 => format!("{}d", hours / 24),
        _ if hours < 24 * 365 * 8 => two(hours / 24 / 365, "y", hours / 24 % 365, "d"),
        _ => format!("{}y", hours / 24 / 365),
    }
}

/// A label selector in kubectl's notation, `<none>` when it selects everything.
pub(crate) fn selector(selector: &Value) -> String {
    let mut parts: Vec<(String, String)> = map(selector, "matchLabels")
        .iter()
        .map(|(key, value)| (key.clone(), format!("{key}={}", value.as_str().unwrap_or_default())))
        .collect();
    for term in list(selector, "matchExpressions") {
        let name = text(term, "key");
        let mut values: Vec<&str> = super::value::texts(term, "values").collect();
        values.sort_unstable();
        let values = values.join(",");
        let part = match text(term, "operator") {
            "In" => format!("{name} in ({values})"),
            "NotIn" => format!("{name} notin ({values})"),
            "Exists" => name.to_owned(),
            "DoesNotExist" => format!("!{name}"),
            _ => return "<error>".to_owned(),
        };
        parts.push((name.to_owned(), part));
    }
    parts.sort_by(|a, b| a.0.cmp(&b.0));
    let text = parts.into_iter().map(|(_, part)| part).collect::<Vec<_>>().join(",");
    if text.is_empty() { "<none>".to_owned() } else { text }
}

/// A map of labels as `a=b,c=d`, `<none>` when empty.
pub(crate) fn labels(labels: &Map<String, Value>) -> String {
    let text = labels
        .iter()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect::<Vec<_>>()
        .join(",");
    if text.is_empty() { "<none>".to_owned() } else { text }
}

/// Names and images of the containers of a pod spec, each joined by commas.
pub(crate) fn containers(spec: &Value) -> (String, String) {
    let join = |field: &str| {
        list(spec, "containers").iter().map(|c| text(c, field)).collect::<Vec<_>>().join(",")
    };
    (join("name"), join("image"))
}

/// An integer field, zero when missing.
pub(crate) fn number(obj: &Object, path: &str) -> Value {
    json!(super::value::int(obj, path).unwrap_or_default())
}

/// A text field, or what stands for its absence.
pub(crate) fn or<'a>(obj: &'a Object, path: &str, none: &'a str) -> &'a str {
    let found = text(obj, path);
    if found.is_empty() { none } else { found }
}

/// The condition with this type.
pub(crate) fn condition<'a>(obj: &'a Object, kind: &str) -> Option<&'a Value> {
    list(obj, "status.conditions").iter().find(|c| key(c, "type") == kind)
}

/// Access modes in short: `RWO,RWX`.
pub(crate) fn access_modes(modes: &Value) -> String {
    let has = |mode: &str| modes.as_array().is_some_and(|all| all.iter().any(|m| m == mode));
    [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ]
    .into_iter()
    .filter_map(|(mode, short)| has(mode).then_some(short))
    .collect::<Vec<_>>()
    .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_kubectl_prints_them() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (660, "11m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (47 * 3600, "47h"),
            (49 * 3600, "2d1h"),
            (9 * 86400, "9d"),
            (800 * 86400, "2y70d"),
            (4000 * 86400, "10y"),
        ] {
            assert_eq!(human(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn selectors_are_sorted_by_key() {
        let both = json!({"matchLabels": {"z": "1"}, "matchExpressions": [
            {"key": "a", "operator": "In", "values": ["w", "d"]},
            {"key": "b", "operator": "DoesNotExist"}]});
        assert_eq!(selector(&both), "a in (d,w),!b,z=1");
        assert_eq!(selector(&json!({})), "<none>");
    }
}
