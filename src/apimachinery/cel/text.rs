//! Functions on strings.

use std::sync::Arc;

use super::value::{Opaque, Val};
use crate::structural::go_float;

fn chars(text: &str) -> Vec<char> {
    text.chars().collect()
}

fn place(index: i64, len: usize) -> Result<usize, String> {
    usize::try_from(index)
        .ok()
        .filter(|at| *at <= len)
        .ok_or_else(|| format!("index out of range: {index}"))
}

pub(super) fn char_at(text: &str, index: i64) -> Result<Val, String> {
    let chars = chars(text);
    let at = place(index, chars.len())?;
    Ok(Val::text(chars.get(at).map(char::to_string).unwrap_or_default()))
}

pub(super) fn substring(text: &str, from: i64, to: Option<i64>) -> Result<Val, String> {
    let chars = chars(text);
    let from = place(from, chars.len())?;
    let to = to.map_or(Ok(chars.len()), |to| place(to, chars.len()))?;
    if from > to {
        return Err(format!("invalid substring range. start: {from}, end: {to}"));
    }
    Ok(Val::text(chars[from..to].iter().collect::<String>()))
}

pub(super) fn index_of(text: &str, part: &str, from: i64) -> Result<Val, String> {
    let (text, part) = (chars(text), chars(part));
    let from = place(from, text.len())?;
    let found = (from..=text.len()).find(|at| text[*at..].starts_with(&part));
    Ok(Val::Int(found.and_then(|at| i64::try_from(at).ok()).unwrap_or(-1)))
}

pub(super) fn last_index_of(text: &str, part: &str, from: Option<i64>) -> Result<Val, String> {
    let (text, part) = (chars(text), chars(part));
    let from = from.map_or(Ok(text.len()), |from| place(from, text.len()))?;
    let found = (0..=from).rev().find(|at| text[*at..].starts_with(&part));
    Ok(Val::Int(found.and_then(|at| i64::try_from(at).ok()).unwrap_or(-1)))
}

pub(super) fn replace(text: &str, old: &str, new: &str, limit: i64) -> Val {
    match usize::try_from(limit) {
        Ok(limit) => Val::text(text.replacen(old, new, limit)),
        Err(_) => Val::text(text.replace(old, new)),
    }
}

pub(super) fn split(text: &str, separator: &str, limit: i64) -> Val {
    let own = |part: &str| Val::text(part);
    let parts: Vec<Val> = match (separator, usize::try_from(limit)) {
        (_, Ok(0)) => Vec::new(),
        ("", Ok(limit)) => {
            let all = chars(text);
            let (head, tail) = all.split_at(all.len().min(limit - 1));
            let rest: String = tail.iter().collect();
            let head = head.iter().map(|c| Val::text(c.to_string()));
            head.chain((!rest.is_empty()).then(|| Val::text(rest))).collect()
        }
        ("", Err(_)) => chars(text).iter().map(|c| Val::text(c.to_string())).collect(),
        (_, Ok(limit)) => text.splitn(limit, separator).map(own).collect(),
        (_, Err(_)) => text.split(separator).map(own).collect(),
    };
    Val::list(parts)
}

/// `format`: `%s %d %f %e %b %x %X %o %%`.
pub(super) fn format(pattern: &str, args: &[Val]) -> Result<Val, String> {
    let mut out = String::new();
    let mut args = args.iter();
    let mut rest = pattern.chars().peekable();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut precision = None;
        if rest.peek() == Some(&'.') {
            rest.next();
            let mut digits = String::new();
            while let Some(digit) = rest.peek().filter(|c| c.is_ascii_digit()) {
                digits.push(*digit);
                rest.next();
            }
            precision = digits.parse::<usize>().ok();
        }
        let verb = rest.next().ok_or("unexpected end of format string")?;
        if verb == '%' {
            out.push('%');
            continue;
        }
        let arg = args.next().ok_or("index out of range in format string")?;
        let wrong =
            || format!("error during formatting: %{verb} clause does not take {}", arg.type_name());
        out.push_str(&match (verb, arg) {
            ('s', arg) => show(arg),
            ('d', Val::Int(number)) => number.to_string(),
            ('d', Val::Uint(number)) => number.to_string(),
            ('f', Val::Double(number)) => format!("{number:.*}", precision.unwrap_or(6)),
            ('f', Val::Int(number)) => format!("{:.*}", precision.unwrap_or(6), *number as f64),
            ('e', Val::Double(number)) => {
                let text = format!("{number:.*e}", precision.unwrap_or(6));
                match text.split_once('e') {
                    Some((digits, power)) => {
                        let power: i32 = power.parse().unwrap_or_default();
                        let sign = if power < 0 { '-' } else { '+' };
                        format!("{digits}e{sign}{:02}", power.abs())
                    }
                    None => text,
                }
            }
            ('b', Val::Int(number)) => format!("{number:b}"),
            ('b', Val::Bool(flag)) => u8::from(*flag).to_string(),
            ('o', Val::Int(number)) => format!("{number:o}"),
            ('x', Val::Int(number)) => format!("{number:x}"),
            ('X', Val::Int(number)) => format!("{number:X}"),
            ('x', Val::String(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
            ('X', Val::String(text)) => text.bytes().map(|byte| format!("{byte:02X}")).collect(),
            _ => return Err(wrong()),
        });
    }
    Ok(Val::text(out))
}

/// A value as `%s` shows it.
fn show(value: &Val) -> String {
    match value {
        Val::List(items) => {
            format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", "))
        }
        Val::Map(map) => {
            let entry = |(key, value): (&super::value::Key, &Val)| {
                format!("{}: {}", show(&Val::from(key.clone())), show(value))
            };
            format!("{{{}}}", map.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
        Val::Null => "null".to_owned(),
        other => match string(other) {
            Ok(Val::String(text)) => text.to_string(),
            _ => format!("{other:?}"),
        },
    }
}

/// The conversion `string(…)`.
pub(super) fn string(value: &Val) -> Result<Val, String> {
    Ok(match value {
        Val::String(_) => value.clone(),
        Val::Bool(flag) => Val::text(flag.to_string()),
        Val::Int(number) => Val::text(number.to_string()),
        Val::Uint(number) => Val::text(number.to_string()),
        Val::Double(number) => Val::text(go_float(*number)),
        Val::Bytes(bytes) => {
            let text = std::str::from_utf8(bytes);
            Val::text(text.map_err(|_| "invalid UTF-8 in bytes, cannot convert to string")?)
        }
        Val::Timestamp(time) => Val::text(time.to_string()),
        Val::Duration(nanos) => {
            let (whole, part) = (nanos / 1_000_000_000, (nanos % 1_000_000_000).abs());
            let fraction = format!("{part:09}");
            let fraction = fraction.trim_end_matches('0');
            let dot = if fraction.is_empty() { "" } else { "." };
            let sign = if *nanos < 0 && whole == 0 { "-" } else { "" };
            Val::text(format!("{sign}{whole}{dot}{fraction}s"))
        }
        Val::Type(name) => Val::String(Arc::clone(name)),
        Val::Opaque(opaque) => match &**opaque {
            Opaque::Quantity(quantity) => Val::text(quantity.to_string()),
            Opaque::Url(text) | Opaque::Format(text) => Val::text(text.as_str()),
            Opaque::Ip(address) => Val::text(address.to_string()),
            Opaque::Cidr(address, bits) => Val::text(format!("{address}/{bits}")),
            _ => return Err(super::functions::no_overload()),
        },
        _ => return Err(super::functions::no_overload()),
    })
}
