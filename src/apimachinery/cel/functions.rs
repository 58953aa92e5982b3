//! The functions, by name and values.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use regex::Regex;

use super::eval::Authorize;
use super::library;
use super::text;
use super::time;
use super::value::{Key, Val, compare};

pub(super) fn no_overload() -> String {
    "no such overload".to_owned()
}

fn overflow() -> String {
    "integer overflow".to_owned()
}

/// Calls a function; the first value of a method is its target.
pub(super) fn call(
    function: &str,
    args: &[Val],
    authorize: Option<&Authorize<'_>>,
) -> Result<Val, String> {
    let simple = match args {
        [a] => one(function, a),
        [a, b] => two(function, a, b),
        _ => None,
    };
    if let Some(result) = simple {
        return result;
    }
    if let Some(result) = strings(function, args) {
        return result;
    }
    if let Some(result) = lists(function, args) {
        return result;
    }
    library::call(function, args, authorize).unwrap_or_else(|| Err(no_overload()))
}

fn one(function: &str, a: &Val) -> Option<Result<Val, String>> {
    Some(match (function, a) {
        ("!_", Val::Bool(flag)) => Ok(Val::Bool(!flag)),
        ("-_", Val::Int(number)) => number.checked_neg().map(Val::Int).ok_or_else(overflow),
        ("-_", Val::Double(number)) => Ok(Val::Double(-number)),
        ("size", value) => size(value),
        ("dyn", value) => Ok(value.clone()),
        ("type", value) => Ok(Val::Type(value.type_name().into())),
        ("string", value) => text::string(value),
        ("int", value) => int(value),
        ("uint", value) => uint(value),
        ("double", value) => double(value),
        ("bool", Val::Bool(flag)) => Ok(Val::Bool(*flag)),
        ("bool", Val::String(word)) => match &**word {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Val::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Val::Bool(false)),
            other => Err(format!("type conversion error from '{other}' to 'bool'")),
        },
        ("bytes", Val::String(text)) => Ok(Val::Bytes(text.as_bytes().into())),
        ("bytes", bytes @ Val::Bytes(_)) => Ok(bytes.clone()),
        ("timestamp", Val::String(text)) => text.parse().map(Val::Timestamp).map_err(|_| {
            "type conversion error from 'string' to 'google.protobuf.Timestamp'".into()
        }),
        ("timestamp", Val::Int(seconds)) => {
            Timestamp::from_second(*seconds).map(Val::Timestamp).map_err(|err| err.to_string())
        }
        ("timestamp", time @ Val::Timestamp(_)) => Ok(time.clone()),
        ("duration", Val::String(text)) => {
            crate::duration::parse(text).map(Val::Duration).map_err(|_| {
                "type conversion error from 'string' to 'google.protobuf.Duration'".into()
            })
        }
        ("duration", Val::Int(nanos) | Val::Duration(nanos)) => Ok(Val::Duration(*nanos)),
        (_, Val::Timestamp(at)) if function.starts_with("get") => time::part(function, *at, None),
        (_, Val::Duration(nanos)) if function.starts_with("get") => {
            Ok(time::duration_part(function, *nanos))
        }
        _ => return None,
    })
}

fn size(value: &Val) -> Result<Val, String> {
    let count = match value {
        Val::String(text) => text.chars().count(),
        Val::Bytes(bytes) => bytes.len(),
        Val::List(items) => items.len(),
        Val::Map(map) => map.len(),
        _ => return Err(no_overload()),
    };
    i64::try_from(count).map(Val::Int).map_err(|_| overflow())
}

fn int(value: &Val) -> Result<Val, String> {
    let range = || "integer overflow".to_owned();
    match value {
        Val::Int(number) | Val::Duration(number) => Ok(Val::Int(*number)),
        Val::Uint(number) => i64::try_from(*number).map(Val::Int).map_err(|_| range()),
        Val::Double(number) if number.abs() < 9.2e18 => Ok(Val::Int(*number as i64)),
        Val::Double(_) => Err(range()),
        Val::Timestamp(time) => Ok(Val::Int(time.as_second())),
        Val::String(text) => text
            .parse()
            .map(Val::Int)
            .map_err(|_| "type conversion error from 'string' to 'int'".to_owned()),
        _ => Err(no_overload()),
    }
}

fn uint(value: &Val) -> Result<Val, String> {
    let range = || "unsigned integer overflow".to_owned();
    match value {
        Val::Uint(number) => Ok(Val::Uint(*number)),
        Val::Int(number) => u64::try_from(*number).map(Val::Uint).map_err(|_| range()),
        Val::Double(number) if (0.0..1.8e19).contains(number) => Ok(Val::Uint(*number as u64)),
        Val::Double(_) => Err(range()),
        Val::String(text) => text
            .parse()
            .map(Val::Uint)
            .map_err(|_| "type conversion error from 'string' to 'uint'".to_owned()),
        _ => Err(no_overload()),
    }
}

fn double(value: &Val) -> Result<Val, String> {
    match value {
        Val::Double(number) => Ok(Val::Double(*number)),
        Val::Int(number) => Ok(Val::Double(*number as f64)),
        Val::Uint(number) => Ok(Val::Double(*number as f64)),
        Val::String(text) => text
            .parse()
            .map(Val::Double)
            .map_err(|_| "type conversion error from 'string' to 'double'".to_owned()),
        _ => Err(no_overload()),
    }
}

fn two(function: &str, a: &Val, b: &Val) -> Option<Result<Val, String>> {
    let ordered = |test: fn(std::cmp::Ordering) -> bool| {
        compare(a, b).map(|order| Val::Bool(test(order))).ok_or_else(no_overload)
    };
    Some(match function {
        "_==_" => Ok(Val::Bool(a == b)),
        "_!=_" => Ok(Val::Bool(a != b)),
        "_<_" => ordered(std::cmp::Ordering::is_lt),
        "_<=_" => ordered(std::cmp::Ordering::is_le),
        "_>_" => ordered(std::cmp::Ordering::is_gt),
        "_>=_" => ordered(std::cmp::Ordering::is_ge),
        "_+_" | "_-_" | "_*_" | "_/_" | "_%_" => arithmetic(function, a, b),
        "@in" => match b {
            Val::List(items) => Ok(Val::Bool(items.contains(a))),
            Val::Map(map) => Ok(Val::Bool(a.key().is_some_and(|key| map.contains_key(&key)))),
            _ => Err(no_overload()),
        },
        "_[_]" => index(a, b),
        "_[?_]" => Ok(Val::optional(index(a, b).ok())),
        _ => match (a, b) {
            (Val::Timestamp(at), Val::String(zone)) if function.starts_with("get") => {
                time::part(function, *at, Some(zone))
            }
            _ => return None,
        },
    })
}

fn index(value: &Val, key: &Val) -> Result<Val, String> {
    match (value, key) {
        (Val::Optional(Some(inner)), key) => index(inner, key),
        (Val::List(items), Val::Int(at)) => usize::try_from(*at)
            .ok()
            .and_then(|place| items.get(place).cloned())
            .ok_or_else(|| format!("index out of bounds: {at}")),
        (Val::Map(map), key) => {
            let known = key.key().and_then(|key| map.get(&key).cloned());
            known.ok_or_else(|| match text::string(key) {
                Ok(Val::String(shown)) => format!("no such key: {shown}"),
                _ => no_overload(),
            })
        }
        _ => Err(no_overload()),
    }
}

fn arithmetic(function: &str, a: &Val, b: &Val) -> Result<Val, String> {
    let zero = |what: &str| match what {
        "_%_" => "modulus by zero".to_owned(),
        _ => "division by zero".to_owned(),
    };
    match (a, b) {
        (Val::Int(a), Val::Int(b)) => match function {
            "_+_" => a.checked_add(*b),
            "_-_" => a.checked_sub(*b),
            "_*_" => a.checked_mul(*b),
            _ if *b == 0 => return Err(zero(function)),
            "_/_" => a.checked_div(*b),
            _ => a.checked_rem(*b),
        }
        .map(Val::Int)
        .ok_or_else(overflow),
        (Val::Uint(a), Val::Uint(b)) => match function {
            "_+_" => a.checked_add(*b),
            "_-_" => a.checked_sub(*b),
            "_*_" => a.checked_mul(*b),
            _ if *b == 0 => return Err(zero(function)),
            "_/_" => a.checked_div(*b),
            _ => a.checked_rem(*b),
        }
        .map(Val::Uint)
        .ok_or_else(|| "unsigned integer overflow".to_owned()),
        (Val::Double(a), Val::Double(b)) => match function {
            "_+_" => Ok(Val::Double(a + b)),
            "_-_" => Ok(Val::Double(a - b)),
            "_*_" => Ok(Val::Double(a * b)),
            "_/_" => Ok(Val::Double(a / b)),
            _ => Err(no_overload()),
        },
        (Val::String(a), Val::String(b)) if function == "_+_" => Ok(Val::text(format!("{a}{b}"))),
        (Val::Bytes(a), Val::Bytes(b)) if function == "_+_" => {
            Ok(Val::Bytes([&a[..], &b[..]].concat().into()))
        }
        (Val::List(a), Val::List(b)) if function == "_+_" => {
            Ok(Val::list(a.iter().chain(b.iter()).cloned().collect()))
        }
        (Val::Timestamp(at), Val::Duration(nanos)) => {
            let span = SignedDuration::from_nanos(*nanos);
            let sum = if function == "_-_" { at.checked_sub(span) } else { at.checked_add(span) };
            sum.map(Val::Timestamp).map_err(|_| "timestamp overflow".to_owned())
        }
        (Val::Duration(_), Val::Timestamp(_)) if function == "_+_" => arithmetic(function, b, a),
        (Val::Timestamp(a), Val::Timestamp(b)) if function == "_-_" => {
            let nanos = a.as_nanosecond() - b.as_nanosecond();
            i64::try_from(nanos).map(Val::Duration).map_err(|_| "duration overflow".to_owned())
        }
        (Val::Duration(a), Val::Duration(b)) => match function {
            "_+_" => a.checked_add(*b),
            "_-_" => a.checked_sub(*b),
            _ => return Err(no_overload()),
        }
        .map(Val::Duration)
        .ok_or_else(|| "duration overflow".to_owned()),
        _ => Err(no_overload()),
    }
}

fn regex(pattern: &str) -> Result<Regex, String> {
    Regex::new(pattern).map_err(|err| format!("error parsing regexp: {err}"))
}

/// Methods of strings.
fn strings(function: &str, args: &[Val]) -> Option<Result<Val, String>> {
    let Some(Val::String(own)) = args.first() else {
        let (Some(Val::List(items)), "join") = (args.first(), function) else { return None };
        let separator = args.get(1).and_then(Val::as_str).unwrap_or_default();
        let texts: Option<Vec<&str>> = items.iter().map(Val::as_str).collect();
        return Some(texts.map(|texts| Val::text(texts.join(separator))).ok_or_else(no_overload));
    };
    Some(match (function, &args[1..]) {
        ("contains", [Val::String(part)]) => Ok(Val::Bool(own.contains(&**part))),
        ("startsWith", [Val::String(part)]) => Ok(Val::Bool(own.starts_with(&**part))),
        ("endsWith", [Val::String(part)]) => Ok(Val::Bool(own.ends_with(&**part))),
        ("matches", [Val::String(pattern)]) => {
            regex(pattern).map(|regex| Val::Bool(regex.is_match(own)))
        }
        ("find", [Val::String(pattern)]) => regex(pattern).map(|regex| {
            Val::text(regex.find(own).map(|found| found.as_str()).unwrap_or_default())
        }),
        ("findAll", [Val::String(pattern), limit @ ..]) => regex(pattern).map(|regex| {
            let limit = match limit {
                [Val::Int(limit)] => usize::try_from(*limit).unwrap_or(usize::MAX),
                _ => usize::MAX,
            };
            let found = regex.find_iter(own).take(limit);
            Val::list(found.map(|found| Val::text(found.as_str())).collect())
        }),
        ("charAt", [Val::Int(at)]) => text::char_at(own, *at),
        ("indexOf", [Val::String(part)]) => text::index_of(own, part, 0),
        ("indexOf", [Val::String(part), Val::Int(from)]) => text::index_of(own, part, *from),
        ("lastIndexOf", [Val::String(part)]) => text::last_index_of(own, part, None),
        ("lastIndexOf", [Val::String(part), Val::Int(from)]) => {
            text::last_index_of(own, part, Some(*from))
        }
        ("lowerAscii", []) => Ok(Val::text(own.to_ascii_lowercase())),
        ("upperAscii", []) => Ok(Val::text(own.to_ascii_uppercase())),
        ("trim", []) => Ok(Val::text(own.trim())),
        ("reverse", []) => Ok(Val::text(own.chars().rev().collect::<String>())),
        ("replace", [Val::String(old), Val::String(new)]) => Ok(text::replace(own, old, new, -1)),
        ("replace", [Val::String(old), Val::String(new), Val::Int(limit)]) => {
            Ok(text::replace(own, old, new, *limit))
        }
        ("split", [Val::String(separator)]) => Ok(text::split(own, separator, -1)),
        ("split", [Val::String(separator), Val::Int(limit)]) => {
            Ok(text::split(own, separator, *limit))
        }
        ("substring", [Val::Int(from)]) => text::substring(own, *from, None),
        ("substring", [Val::Int(from), Val::Int(to)]) => text::substring(own, *from, Some(*to)),
        ("format", [Val::List(args)]) => text::format(own, args),
        _ => return None,
    })
}

/// Functions of lists and sets.
fn lists(function: &str, args: &[Val]) -> Option<Result<Val, String>> {
    let Some(Val::List(own)) = args.first() else { return None };
    let place =
        |at: Option<usize>| Ok(Val::Int(at.and_then(|at| i64::try_from(at).ok()).unwrap_or(-1)));
    let extreme = |want: std::cmp::Ordering| {
        let mut best: Option<&Val> = None;
        for item in own.iter() {
            match best.map(|best| compare(item, best)) {
                None => best = Some(item),
                Some(Some(order)) if order == want => best = Some(item),
                Some(Some(_)) => {}
                Some(None) => return Err(no_overload()),
            }
        }
        best.cloned().ok_or_else(|| "min/max called on empty list".to_owned())
    };
    Some(match (function, &args[1..]) {
        ("isSorted", []) => {
            let mut sorted = true;
            for pair in own.windows(2) {
                match compare(&pair[0], &pair[1]) {
                    Some(order) => sorted &= order.is_le(),
                    None => return Some(Err(no_overload())),
                }
            }
            Ok(Val::Bool(sorted))
        }
        ("sum", []) => {
            let mut items = own.iter();
            let first = items.next().cloned().unwrap_or(Val::Int(0));
            items.try_fold(first, |sum, item| arithmetic("_+_", &sum, item))
        }
        ("min", []) | ("math.least", []) => extreme(std::cmp::Ordering::Less),
        ("max", []) | ("math.greatest", []) => extreme(std::cmp::Ordering::Greater),
        ("indexOf", [item]) => place(own.iter().position(|own| own == item)),
        ("lastIndexOf", [item]) => place(own.iter().rposition(|own| own == item)),
        ("first", []) => Ok(Val::optional(own.first().cloned())),
        ("last", []) => Ok(Val::optional(own.last().cloned())),
        ("reverse", []) => Ok(Val::list(own.iter().rev().cloned().collect())),
        ("distinct", []) => {
            let mut seen: Vec<Val> = Vec::new();
            for item in own.iter() {
                if !seen.contains(item) {
                    seen.push(item.clone());
                }
            }
            Ok(Val::list(seen))
        }
        ("sort", []) => {
            let mut items = own.to_vec();
            items.sort_by(|a, b| compare(a, b).unwrap_or(std::cmp::Ordering::Equal));
            Ok(Val::list(items))
        }
        ("flatten", []) => {
            let inner = |item: &Val| match item {
                Val::List(items) => items.to_vec(),
                other => vec![other.clone()],
            };
            Ok(Val::list(own.iter().flat_map(inner).collect()))
        }
        ("slice", [Val::Int(from), Val::Int(to)]) => {
            let range = (usize::try_from(*from), usize::try_from(*to));
            match range {
                (Ok(from), Ok(to)) if from <= to && to <= own.len() => {
                    Ok(Val::list(own[from..to].to_vec()))
                }
                _ => Err(format!("cannot slice({from}, {to}), list is length {}", own.len())),
            }
        }
        ("sets.contains", [Val::List(other)]) => {
            Ok(Val::Bool(other.iter().all(|item| own.contains(item))))
        }
        ("sets.intersects", [Val::List(other)]) => {
            Ok(Val::Bool(other.iter().any(|item| own.contains(item))))
        }
        ("sets.equivalent", [Val::List(other)]) => Ok(Val::Bool(
            other.iter().all(|item| own.contains(item))
                && own.iter().all(|item| other.contains(item)),
        )),
        _ => return None,
    })
}

/// A map from texts to lists of texts.
pub(super) fn multimap(entries: Vec<(String, String)>) -> Val {
    let mut map: BTreeMap<Key, Vec<Val>> = BTreeMap::new();
    for (key, value) in entries {
        map.entry(Key::String(key.into())).or_default().push(Val::text(value));
    }
    Val::Map(Arc::new(map.into_iter().map(|(key, values)| (key, Val::list(values))).collect()))
}
