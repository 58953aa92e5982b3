//! YAML as kubectl writes it: keys in order, lists not indented, strings quoted only when they must be.

use serde_json::Value;

/// The text of a value, ending with a line break.
pub(crate) fn render(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => mapping(&mut out, value, 0),
        Value::Array(list) if !list.is_empty() => sequence(&mut out, value, 0),
        other => {
            out += &scalar(other, 0);
            out.push('\n');
        }
    }
    out
}

fn mapping(out: &mut String, value: &Value, indent: usize) {
    for (index, (key, value)) in value.as_object().into_iter().flatten().enumerate() {
        if index > 0 {
            pad(out, indent);
        }
        out.push_str(&string(key, indent));
        out.push(':');
        after_key(out, value, indent);
    }
}

fn after_key(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            pad(out, indent + 2);
            mapping(out, value, indent + 2);
        }
        Value::Array(list) if !list.is_empty() => {
            out.push('\n');
            pad(out, indent);
            sequence(out, value, indent);
        }
        other => {
            out.push(' ');
            out.push_str(&scalar(other, indent + 2));
            out.push('\n');
        }
    }
}

fn sequence(out: &mut String, value: &Value, indent: usize) {
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        if index > 0 {
            pad(out, indent);
        }
        out.push_str("- ");
        match item {
            Value::Object(map) if !map.is_empty() => mapping(out, item, indent + 2),
            Value::Array(list) if !list.is_empty() => sequence(out, item, indent + 2),
            other => {
                out.push_str(&scalar(other, indent + 2));
                out.push('\n');
            }
        }
    }
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn scalar(value: &Value, indent: usize) -> String {
    match value {
        Value::String(text) => string(text, indent),
        Value::Object(_) => "{}".to_owned(),
        Value::Array(_) => "[]".to_owned(),
        other => other.to_string(),
    }
}

fn string(text: &str, indent: usize) -> String {
    if text.contains('\n') && is_literal(text) {
        let chomp = match text.strip_suffix('\n') {
            None => "-",
            Some(rest) if rest.ends_with('\n') || rest.is_empty() => "+",
            Some(_) => "",
        };
        let begins_indented = if text.starts_with([' ', '\n']) { "2" } else { "" };
        let mut out = format!("|{begins_indented}{chomp}");
        for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
            out.push('\n');
            if !line.is_empty() {
                pad(&mut out, indent);
                out.push_str(line);
            }
        }
        return out;
    }
    if text.contains(|c: char| c.is_control()) {
        return serde_json::Value::from(text).to_string();
    }
    if is_other_type(text) {
        return format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    }
    if is_plain(text) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "''"))
}

/// Whether every line may stand in a block as it is.
fn is_literal(text: &str) -> bool {
    text.chars().all(|c| c == '\n' || !c.is_control())
        && !text.lines().any(|line| line.ends_with(' '))
}

/// Whether a reader would take it for something else than a string.
fn is_other_type(text: &str) -> bool {
    let lower = text.to_lowercase();
    let words = ["", "~", "null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    let digits = text.trim_start_matches(['+', '-']);
    let numeric = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && (text.replace('_', "").parse::<f64>().is_ok()
            || digits.strip_prefix("0x").is_some_and(|hex| u64::from_str_radix(hex, 16).is_ok())
            || digits.strip_prefix("0o").is_some_and(|oct| u64::from_str_radix(oct, 8).is_ok())
            || digits.strip_prefix("0b").is_some_and(|bin| u64::from_str_radix(bin, 2).is_ok()));
    words.contains(&lower.as_str())
        || numeric
        || [".inf", "-.inf", "+.inf", ".nan"].contains(&lower.as_str())
        || is_time(text)
        || is_sexagesimal(digits)
}

/// `2026-11-23T10:00:00Z` and `2026-11-23` are times in YAML.
fn is_time(text: &str) -> bool {
    let date = text.get(..10).unwrap_or_default();
    let mut parts = date.split('-').map(|part| (part.len(), part.parse::<u32>().is_ok()));
    let is_date = parts.next() == Some((4, true))
        && parts.next() == Some((2, true))
        && parts.next() == Some((2, true));
    is_date && text.get(10..).is_some_and(|rest| rest.is_empty() || rest.starts_with(['T', ' ']))
}

/// `1:30` is a number in old YAML.
fn is_sexagesimal(text: &str) -> bool {
    text.contains(':')
        && text.split(':').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

fn is_plain(text: &str) -> bool {
    let first = text.chars().next().unwrap_or(' ');
    let starts_well = !"!&*|>'\"%@`#,[]{} ".contains(first)
        && !(first == '-' && (text.len() == 1 || text.starts_with("- ")))
        && !(first == '?' && (text.len() == 1 || text.starts_with("? ")))
        && !(first == ':' && (text.len() == 1 || text.starts_with(": ")))
        && !text.starts_with("---")
        && !(first == '=' && text.len() == 1)
        && text != "<<";
    starts_well && !text.contains(": ") && !text.contains(" #") && !text.ends_with([':', ' '])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_written_as_kubectl_does() {
        let check = |value: Value, expected: &str| assert_eq!(render(&value), expected);
        check(
            json!({"b": [{"x": 1, "y": [2]}, "z"], "a": {"k": {}}, "c": [], "d": null}),
            "a:\n  k: {}\nb:\n- x: 1\n  \"y\":\n  - 2\n- z\nc: []\nd: null\n",
        );
        check(json!({"t": "2026-11-23T10:00:00Z"}), "t: \"2026-11-23T10:00:00Z\"\n");
        check(json!({"s": "a: b"}), "s: 'a: b'\n");
        check(json!({"s": "it's: so"}), "s: 'it''s: so'\n");
        check(json!({"s": "true", "d": "12", "e": ""}), "d: \"12\"\ne: \"\"\ns: \"true\"\n");
        check(json!({"s": "one\ntwo\n"}), "s: |\n  one\n  two\n");
        check(json!({"s": "one\n\ntwo"}), "s: |-\n  one\n\n  two\n");
        check(json!([{"s": "one\ntwo"}]), "- s: |-\n    one\n    two\n");
        check(
            json!({"i": "docker.io/library/busybox:1.35"}),
            "i: docker.io/library/busybox:1.35\n",
        );
    }

    #[test]
    fn what_is_written_is_read_back() {
        for text in [
            "",
            " x",
            "x ",
            "- a",
            "#a",
            "a #b",
            "a:",
            "1e3",
            "0x1f",
            "1:30",
            "~",
            "Yes",
            "a\tb",
            "line\n",
            "\n",
            "a\n\n",
            " a\nb",
            "{}",
            "[1]",
            "!x",
            "&a",
            "*a",
            "'q'",
            "\"q\"",
            "%",
            "@",
            "`",
            "2026-11-23",
            "-",
            "?",
            "...",
            "---",
            "a\u{7}b",
            "é",
            "0b1",
            "+1",
            ".5",
        ] {
            let value = json!({"key": text, "list": [text, {"deep": text}]});
            let parsed = apimachinery::yaml::parse(render(&value).as_bytes()).unwrap();
            assert_eq!(parsed.value, value, "{text:?}:\n{}", render(&value));
        }
    }
}
