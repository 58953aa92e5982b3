//! The difference between two specs as upstream shows it in a refusal.
//!
//! Knows how the API's names and absences read in Go's internal types; it changes nothing.

use serde_json::Value;

/// The difference of two pod specs.
pub(crate) fn pod(old: &Value, new: &Value) -> String {
    value(old, new)
}

/// The difference of two specs of claims.
pub(crate) fn claim(old: &Value, new: &Value) -> String {
    value(old, new)
}

/// A value as Go prints one of its own structs: the members under their Go names.
pub(crate) fn internal(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            members.iter().map(|(name, member)| (go_name(name), internal(member))).collect()
        }
        Value::Array(items) => items.iter().map(internal).collect(),
        other => other.clone(),
    }
}

/// A unified diff of two values as indented JSON with Go's field names.
pub(crate) fn value(old: &Value, new: &Value) -> String {
    let (old, new) = (lines(old), lines(new));
    unified(&old, &new)
}

fn lines(value: &Value) -> Vec<String> {
    let mut out = Vec::new();
    write(value, 0, String::new(), "", &mut out);
    out
}

fn write(value: &Value, depth: usize, head: String, tail: &str, out: &mut Vec<String>) {
    let pad = " ".repeat(depth);
    match value {
        Value::Object(members) if !members.is_empty() => {
            out.push(format!("{pad}{head}{{"));
            let last = members.len() - 1;
            for (at, (name, member)) in members.iter().enumerate() {
                let comma = if at == last { "" } else { "," };
                write(member, depth + 1, format!("\"{}\": ", go_name(name)), comma, out);
            }
            out.push(format!("{pad}}}{tail}"));
        }
        Value::Array(items) if !items.is_empty() => {
            out.push(format!("{pad}{head}["));
            let last = items.len() - 1;
            for (at, item) in items.iter().enumerate() {
                let comma = if at == last { "" } else { "," };
                write(item, depth + 1, String::new(), comma, out);
            }
            out.push(format!("{pad}]{tail}"));
        }
        other => out.push(format!("{pad}{head}{other}{tail}")),
    }
}

fn go_name(name: &str) -> String {
    let mut chars = name.chars();
    match chars.next() {
        Some(first) if first.is_ascii_lowercase() && !name.contains(['.', '/', '-']) => {
            format!("{}{}", first.to_ascii_uppercase(), chars.as_str())
        }
        _ => name.to_owned(),
    }
}

/// One hunk with three lines of context: the changed middle between a common head and tail.
fn unified(old: &[String], new: &[String]) -> String {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let tail =
        old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    let start = head.saturating_sub(3);
    let (old_end, new_end) = (old.len() - tail, new.len() - tail);
    let after = tail.min(3);
    let mut text = format!(
        "@@ -{},{} +{},{} @@\n",
        start + 1,
        old_end - start + after,
        start + 1,
        new_end - start + after
    );
    let mut add = |mark: char, lines: &[String]| {
        for line in lines {
            text.push(mark);
            text.push_str(line);
            text.push('\n');
        }
    };
    add(' ', &old[start..head]);
    add('-', &old[head..old_end]);
    add('+', &new[head..new_end]);
    add(' ', &old[old_end..old_end + after]);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_change_is_one_hunk_with_context() {
        let diff = value(&json!({"a": 1, "b": 2}), &json!({"a": 1, "b": 3}));
        assert_eq!(diff, "@@ -1,4 +1,4 @@\n {\n  \"A\": 1,\n- \"B\": 2\n+ \"B\": 3\n }\n");
    }
}
