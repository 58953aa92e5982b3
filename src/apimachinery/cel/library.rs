//! Kubernetes' own libraries: quantities, URLs, addresses, formats, versions, optionals, the
//! authorizer.

use std::net::IpAddr;
use std::sync::Arc;

use super::eval::Authorize;
use super::functions::multimap;
use super::value::{Opaque, Val};
use crate::quantity::{Format, Quantity};
use crate::structural::matches_format;

const QUANTITY: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

type Answer = Option<Result<Val, String>>;

pub(super) fn call(function: &str, args: &[Val], authorize: Option<&Authorize<'_>>) -> Answer {
    match args {
        [Val::String(text)] => made(function, text),
        [Val::Optional(value), more @ ..] => optional(function, value.as_deref(), more),
        [Val::Opaque(own), more @ ..] => match &**own {
            Opaque::Quantity(quantity) => self::quantity(function, *quantity, more),
            Opaque::Url(text) => url(function, text),
            Opaque::Ip(address) => ip(function, *address),
            Opaque::Cidr(address, bits) => cidr(function, *address, *bits, more),
            Opaque::Format(name) => format(function, name, more),
            Opaque::Semver(..) => semver(function, own, more),
            Opaque::Authorizer(asked) => authorizer(function, asked, more, authorize),
        },
        [] => match function {
            "optional.none" => Some(Ok(Val::Optional(None))),
            other => {
                let name = other.strip_prefix("format.")?;
                Some(Ok(Val::opaque(Opaque::Format(name.to_owned()))))
            }
        },
        [value] => match function {
            "optional.of" => Some(Ok(Val::some(value.clone()))),
            "optional.ofNonZeroValue" => Some(Ok(non_zero(value))),
            "math.abs" => match value {
                Val::Int(number) => {
                    Some(number.checked_abs().map(Val::Int).ok_or("integer overflow".to_owned()))
                }
                Val::Double(number) => Some(Ok(Val::Double(number.abs()))),
                other => Some(Ok(other.clone())),
            },
            _ => None,
        },
        [a, b] => match (function, super::value::compare(a, b)) {
            ("math.greatest", Some(order)) => Some(Ok(if order.is_ge() { a } else { b }.clone())),
            ("math.least", Some(order)) => Some(Ok(if order.is_le() { a } else { b }.clone())),
            _ => None,
        },
        _ => None,
    }
}

/// What is made of a text.
fn made(function: &str, text: &str) -> Answer {
    let is = |holds: bool| Some(Ok(Val::Bool(holds)));
    Some(match function {
        "isQuantity" => return is(Quantity::parse(text).is_ok()),
        "isURL" => return is(is_url(text)),
        "isIP" => return is(text.parse::<IpAddr>().is_ok()),
        "isCIDR" => return is(parse_cidr(text).is_some()),
        "isSemver" => return is(parse_semver(text).is_some()),
        "ip.isCanonical" => match text.parse::<IpAddr>() {
            Ok(address) => Ok(Val::Bool(address.to_string() == text)),
            Err(_) => Err(format!("IP Address {text:?} parse error during conversion from string")),
        },
        "quantity" => match Quantity::parse(text) {
            Ok(quantity) => Ok(Val::opaque(Opaque::Quantity(quantity))),
            Err(_) => Err(QUANTITY.to_owned()),
        },
        "url" => match is_url(text) {
            true => Ok(Val::opaque(Opaque::Url(text.to_owned()))),
            false => Err(format!(
                "URL parse error during conversion from string: parse {text:?}: invalid URI for request"
            )),
        },
        "ip" => match text.parse() {
            Ok(address) => Ok(Val::opaque(Opaque::Ip(address))),
            Err(_) => Err(format!("IP Address {text:?} parse error during conversion from string")),
        },
        "cidr" => match parse_cidr(text) {
            Some((address, bits)) => Ok(Val::opaque(Opaque::Cidr(address, bits))),
            None => {
                Err(format!("network address parse error during conversion from string: {text:?}"))
            }
        },
        "semver" => match parse_semver(text) {
            Some(version) => Ok(Val::opaque(version)),
            None => Err(format!("Invalid semantic version: {text:?}")),
        },
        "format.named" => Ok(Val::some(Val::opaque(Opaque::Format(text.to_owned())))),
        "jsonpatch.escapeKey" => Ok(Val::text(text.replace('~', "~0").replace('/', "~1"))),
        "optional.of" => Ok(Val::some(Val::text(text))),
        "optional.ofNonZeroValue" => Ok(non_zero(&Val::text(text))),
        _ => return None,
    })
}

fn non_zero(value: &Val) -> Val {
    let zero = match value {
        Val::Null | Val::Bool(false) | Val::Int(0) | Val::Uint(0) => true,
        Val::Double(number) => *number == 0.0,
        Val::String(text) => text.is_empty(),
        Val::Bytes(bytes) => bytes.is_empty(),
        Val::List(items) => items.is_empty(),
        Val::Map(map) => map.is_empty(),
        _ => false,
    };
    if zero { Val::Optional(None) } else { Val::some(value.clone()) }
}

fn optional(function: &str, value: Option<&Val>, more: &[Val]) -> Answer {
    Some(match (function, more) {
        ("hasValue", []) => Ok(Val::Bool(value.is_some())),
        ("value", []) => value.cloned().ok_or_else(|| "optional.none() dereference".to_owned()),
        ("orValue", [other]) => Ok(value.unwrap_or(other).clone()),
        ("or", [other]) => Ok(value.map_or_else(|| other.clone(), |own| Val::some(own.clone()))),
        _ => return None,
    })
}

fn quantity(function: &str, own: Quantity, more: &[Val]) -> Answer {
    let other = match more {
        [Val::Opaque(other)] => match &**other {
            Opaque::Quantity(other) => Some(*other),
            _ => None,
        },
        [Val::Int(number)] => Some(Quantity::from_whole(*number, Format::DecimalSi)),
        _ => None,
    };
    Some(match (function, other) {
        ("isLessThan", Some(other)) => Ok(Val::Bool(own < other)),
        ("isGreaterThan", Some(other)) => Ok(Val::Bool(own > other)),
        ("compareTo", Some(other)) => Ok(Val::Int(own.cmp(&other) as i64)),
        ("add", Some(other)) => Ok(Val::opaque(Opaque::Quantity(own + other))),
        ("sub", Some(other)) => Ok(Val::opaque(Opaque::Quantity(own - other))),
        ("isInteger", None) => Ok(Val::Bool(own.is_whole())),
        ("asInteger", None) if own.is_whole() => Ok(Val::Int(own.value())),
        ("asInteger", None) => Err("cannot convert value to integer".to_owned()),
        ("asApproximateFloat", None) => Ok(Val::Double(own.as_f64())),
        ("sign", None) => Ok(Val::Int(match (own.is_zero(), own.is_negative()) {
            (true, _) => 0,
            (_, true) => -1,
            _ => 1,
        })),
        _ => return None,
    })
}

/// What Go's `url.ParseRequestURI` takes, and a host where there is a scheme.
fn is_url(text: &str) -> bool {
    if text.starts_with('/') {
        return true;
    }
    let Some((scheme, _)) = text.split_once("://") else { return false };
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    !scheme.is_empty()
        && scheme.chars().all(word)
        && !text.contains(|c: char| c.is_control() || c == ' ')
}

/// Scheme, host with port, path, query.
fn url_parts(text: &str) -> (&str, &str, &str, &str) {
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (host, path) = match (scheme.is_empty(), rest.find('/')) {
        (true, _) => ("", rest),
        (false, Some(at)) => rest.split_at(at),
        (false, None) => (rest, ""),
    };
    (scheme, host.rsplit_once('@').map_or(host, |(_, host)| host), path, query)
}

fn url(function: &str, text: &str) -> Answer {
    let (scheme, host, path, query) = url_parts(text);
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, rest)) => (name, rest.trim_start_matches(':')),
        None => host.split_once(':').unwrap_or((host, "")),
    };
    Some(Ok(Val::text(match function {
        "getScheme" => scheme,
        "getHost" => host,
        "getHostname" => name,
        "getPort" => port,
        "getEscapedPath" => path,
        "getQuery" => {
            let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                (unescape(key), unescape(value))
            });
            return Some(Ok(multimap(pairs.collect())));
        }
        _ => return None,
    })))
}

/// A part of a query without its escapes.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let hex = more.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match (first, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                rest = &more[2..];
                continue;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(*byte),
        }
        rest = more;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn ip(function: &str, own: IpAddr) -> Answer {
    Some(Ok(match function {
        "family" => Val::Int(if own.is_ipv4() { 4 } else { 6 }),
        "isUnspecified" => Val::Bool(own.is_unspecified()),
        "isLoopback" => Val::Bool(own.is_loopback()),
        "isLinkLocalMulticast" => Val::Bool(match own {
            IpAddr::V4(address) => address.octets()[..3] == [224, 0, 0],
            IpAddr::V6(address) => address.segments()[0] & 0xff0f == 0xff02,
        }),
        "isLinkLocalUnicast" => Val::Bool(link_local(own)),
        "isGlobalUnicast" => Val::Bool(
            !own.is_unspecified()
                && !own.is_loopback()
                && !own.is_multicast()
                && !link_local(own)
                && own != IpAddr::from([255, 255, 255, 255]),
        ),
        _ => return None,
    }))
}

fn link_local(own: IpAddr) -> bool {
    match own {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let max = if address.is_ipv4() { 32 } else { 128 };
    let plain = bits.bytes().all(|byte| byte.is_ascii_digit());
    let bits = bits.parse().ok().filter(|bits| plain && *bits <= max)?;
    Some((address, bits))
}

/// The address without what comes after the prefix.
fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((u32::from(address) & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((u128::from(address) & mask).into())
        }
    }
}

fn cidr(function: &str, own: IpAddr, bits: u8, more: &[Val]) -> Answer {
    let within = |other: IpAddr| {
        other.is_ipv4() == own.is_ipv4() && masked(other, bits) == masked(own, bits)
    };
    let contained = |other: Option<(IpAddr, u8)>| match other {
        Some((other, longer)) => Ok(Val::Bool(longer >= bits && within(other))),
        None => Err("network address parse error during conversion from string".to_owned()),
    };
    Some(match (function, more) {
        ("ip", []) => Ok(Val::opaque(Opaque::Ip(own))),
        ("masked", []) => Ok(Val::opaque(Opaque::Cidr(masked(own, bits), bits))),
        ("prefixLength", []) => Ok(Val::Int(bits.into())),
        ("containsIP", [Val::String(text)]) => match text.parse() {
            Ok(address) => Ok(Val::Bool(within(address))),
            Err(_) => Err(format!("IP Address {text:?} parse error during conversion from string")),
        },
        ("containsCIDR", [Val::String(text)]) => contained(parse_cidr(text)),
        (_, [Val::Opaque(other)]) => match (function, &**other) {
            ("containsIP", Opaque::Ip(address)) => Ok(Val::Bool(within(*address))),
            ("containsCIDR", Opaque::Cidr(other, longer)) => contained(Some((*other, *longer))),
            _ => return None,
        },
        _ => return None,
    })
}

fn format(function: &str, name: &str, more: &[Val]) -> Answer {
    let ("validate", [Val::String(text)]) = (function, more) else { return None };
    let (known, problem) = match name {
        "dns1123Label" => ("k8s-short-name", "a lowercase RFC 1123 label"),
        "dns1123Subdomain" => ("k8s-long-name", "a lowercase RFC 1123 subdomain"),
        "datetime" => ("date-time", "Invalid datetime"),
        other => (other, "Invalid value"),
    };
    Some(Ok(match matches_format(known, text) {
        true => Val::Optional(None),
        false => Val::some(Val::list(vec![Val::text(problem)])),
    }))
}

pub(super) fn parse_semver(text: &str) -> Option<Opaque> {
    let cut = text.find(['-', '+']).unwrap_or(text.len());
    let (core, rest) = text.split_at(cut);
    let numbers: Option<Vec<u64>> = core
        .split('.')
        .map(|part| {
            let plain = part == "0" || !part.starts_with('0');
            part.parse().ok().filter(|_| plain && part.bytes().all(|b| b.is_ascii_digit()))
        })
        .collect();
    match numbers?.as_slice() {
        [major, minor, patch] => {
            let pre = rest.split('+').next().unwrap_or_default();
            Some(Opaque::Semver(*major, *minor, *patch, pre.to_owned()))
        }
        _ => None,
    }
}

fn semver(function: &str, own: &Arc<Opaque>, more: &[Val]) -> Answer {
    let key = |version: &Opaque| match version {
        // A release comes after everything that leads to it.
        Opaque::Semver(a, b, c, rest) => (*a, *b, *c, rest.is_empty(), rest.clone()),
        _ => (0, 0, 0, false, String::new()),
    };
    let (major, minor, patch, ..) = key(own);
    let number = |number: u64| Some(Ok(Val::Int(i64::try_from(number).unwrap_or(i64::MAX))));
    match (function, more) {
        ("major", []) => number(major),
        ("minor", []) => number(minor),
        ("patch", []) => number(patch),
        (_, [Val::Opaque(other)]) => {
            let order = key(own).cmp(&key(other));
            Some(Ok(match function {
                "isLessThan" => Val::Bool(order.is_lt()),
                "isGreaterThan" => Val::Bool(order.is_gt()),
                "compareTo" => Val::Int(order as i64),
                _ => return None,
            }))
        }
        _ => None,
    }
}

fn authorizer(
    function: &str,
    asked: &[(String, String)],
    more: &[Val],
    authorize: Option<&Authorize<'_>>,
) -> Answer {
    let texts: Vec<&str> = more.iter().filter_map(Val::as_str).collect();
    let decided = asked.iter().rev().find(|(name, _)| name == "allowed");
    match (function, texts.as_slice()) {
        ("allowed", []) => Some(Ok(Val::Bool(decided.is_some_and(|(_, value)| value == "true")))),
        ("errored", []) => Some(Ok(Val::Bool(false))),
        ("reason" | "error", []) => Some(Ok(Val::text(""))),
        ("check", [verb]) => {
            let mut asked = asked.to_vec();
            asked.push(("verb".to_owned(), (*verb).to_owned()));
            let Some(authorize) = authorize else {
                return Some(Err("no authorizer is available here".to_owned()));
            };
            let allowed = authorize(&asked);
            asked.push(("allowed".to_owned(), allowed.to_string()));
            Some(Ok(Val::opaque(Opaque::Authorizer(asked))))
        }
        (name, values) => {
            let mut asked = asked.to_vec();
            asked.push((name.to_owned(), values.join("/")));
            Some(Ok(Val::opaque(Opaque::Authorizer(asked))))
        }
    }
}
