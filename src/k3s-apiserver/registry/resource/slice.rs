//! `ResourceSlice`: what a driver offers, and on which nodes.
//!
//! Invariant: what an update leaves as it was is not judged again where upstream's rules have become
//! stricter (capacities, taints).

use apimachinery::field::{ErrorKind, FieldErrors, Path};
use apimachinery::validation::subdomain_problems;
use serde_json::Value;

use super::parts::{attribute_name, binding, by, each, each_once, label, pool_name, taint};
use crate::registry::Object;
use crate::registry::core::podspec::{csi_driver_name, node_selector};
use crate::registry::core::resources::{nano, quantity};
use crate::registry::validate::{immutable, problems, spec};
use crate::registry::value::{at, flag, has, int, key, list, map, text};

const DEVICES_MAX: usize = 128;
/// With taints or shared counters.
const RICH_DEVICES_MAX: usize = 64;
const PROPERTIES_MAX: usize = 32;
const COUNTERS_MAX: usize = 32;
const VALUE_MAX: usize = 64;

/// Where devices are: the fields of a slice that say so.
const PLACES: &str = "`nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection`";

/// The spec of a slice.
pub(super) fn validate(errs: &mut FieldErrors, new: &Object, old: Option<&Object>) {
    let (path, body) = (spec(), at(new, "spec"));
    csi_driver_name(errs, &path.child("driver"), text(body, "driver"));
    pool(errs, &path.child("pool"), key(body, "pool"));
    if let Some(old) = old {
        let paths =
            [path.child("pool").child("name"), path.child("driver"), path.child("nodeName")];
        for (path, name) in paths.iter().zip(["pool.name", "driver", "nodeName"]) {
            immutable(errs, path, at(body, name), at(at(old, "spec"), name));
        }
    }
    place(errs, &path, body);
    let devices = list(body, "devices");
    if has(body, "sharedCounters") && has(body, "devices") {
        errs.invalid(&path, "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let rich = |device: &Value| {
        ["taints", "consumesCounters"].iter().any(|name| !list(device, name).is_empty())
    };
    let max = if devices.iter().any(rich) { RICH_DEVICES_MAX } else { DEVICES_MAX };
    let own_place = flag(body, "perDeviceNodeSelection");
    let had = old.map(|old| list(old, "spec.devices")).unwrap_or_default();
    let check = |errs: &mut FieldErrors, path: &Path, one: &Value| {
        let before = had.iter().find(|before| text(before, "name") == text(one, "name"));
        device(errs, path, one, before, own_place);
    };
    each_once(errs, &path.child("devices"), devices, max, check, by("name"));
    let shared = list(body, "sharedCounters");
    each_once(errs, &path.child("sharedCounters"), shared, 8, counter_set, by("name"));
}

fn pool(errs: &mut FieldErrors, path: &Path, pool: &Value) {
    pool_name(errs, &path.child("name"), text(pool, "name"));
    let count = int(pool, "resourceSliceCount").unwrap_or_default();
    if count <= 0 {
        errs.invalid(path.child("resourceSliceCount"), count, "must be greater than zero");
    }
    let generation = int(pool, "generation").unwrap_or_default();
    if generation < 0 {
        errs.invalid(path.child("generation"), generation, "must be greater than or equal to zero");
    }
}

fn node_name(errs: &mut FieldErrors, path: &Path, name: &str) {
    problems(errs, path, name, subdomain_problems(name));
}

/// Exactly one field says where a slice's devices are.
fn place(errs: &mut FieldErrors, path: &Path, body: &Value) {
    let mut set = Vec::new();
    if has(body, "nodeName") {
        let (path, name) = (path.child("nodeName"), text(body, "nodeName"));
        if name.is_empty() {
            errs.invalid(path, "", "must be either unset or set to a non-empty string");
        } else {
            set.push("`nodeName`");
            node_name(errs, &path, name);
        }
    }
    if has(body, "nodeSelector") {
        set.push("`nodeSelector`");
        let (path, selector) = (path.child("nodeSelector"), key(body, "nodeSelector"));
        node_selector(errs, &path, selector);
        if list(selector, "nodeSelectorTerms").len() != 1 {
            let terms = key(selector, "nodeSelectorTerms").clone();
            let detail = "must have exactly one node selector term";
            errs.invalid(path.child("nodeSelectorTerms"), terms, detail);
        }
    }
    for (name, shown) in
        [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")]
    {
        if flag(body, name) {
            set.push(shown);
        } else if has(body, name) {
            errs.invalid(path.child(name), false, "must be either unset or set to true");
        }
    }
    match set.len() {
        0 => errs.required(path, format!("exactly one of {PLACES} is required")),
        1 => {}
        _ => {
            let detail =
                format!("exactly one of {PLACES} is required, but multiple fields are set");
            errs.invalid(path, format!("{{{}}}", set.join(", ")), detail);
        }
    }
}

fn counter_set(errs: &mut FieldErrors, path: &Path, set: &Value) {
    let name = text(set, "name");
    if name.is_empty() {
        errs.required(path.child("name"), "");
    } else {
        label(errs, &path.child("name"), name);
    }
    counters(errs, &path.child("counters"), set);
}

fn counters(errs: &mut FieldErrors, path: &Path, holder: &Value) {
    let counters = map(holder, "counters");
    if counters.is_empty() {
        errs.required(path, "");
    } else if counters.len() > COUNTERS_MAX {
        errs.too_many(path, counters.len(), COUNTERS_MAX);
    } else {
        for name in counters.keys() {
            label(errs, path, name);
        }
    }
}

fn device(
    errs: &mut FieldErrors,
    path: &Path,
    device: &Value,
    old: Option<&Value>,
    own_place: bool,
) {
    label(errs, &path.child("name"), text(device, "name"));
    let (attributes, capacity) = (map(device, "attributes"), map(device, "capacity"));
    let count = attributes.len() + capacity.len();
    if count > PROPERTIES_MAX {
        let detail = format!(
            "the total number of attributes and capacities must not exceed {PROPERTIES_MAX}"
        );
        errs.invalid(path, count, detail);
    }
    let here = path.child("attributes");
    for (name, value) in attributes {
        attribute_name(errs, &here, name);
        attribute(errs, &here.key(name), value);
    }
    let changed = |name: &str| old.is_none_or(|old| key(old, name) != key(device, name));
    if changed("capacity") {
        let here = path.child("capacity");
        for (name, value) in capacity {
            attribute_name(errs, &here, name);
            let path = here.key(name).child("requestPolicy");
            if !has(value, "requestPolicy") {
                continue;
            }
            match flag(device, "allowMultipleAllocations") {
                true => policy(errs, &path, value),
                false => errs.forbidden(path, "allowMultipleAllocations must be true"),
            }
        }
    }
    if changed("taints") {
        each(errs, &path.child("taints"), list(device, "taints"), 16, |errs, path, one| {
            taint(errs, path, one, None);
        });
    }
    let consumes = list(device, "consumesCounters");
    let check = |errs: &mut FieldErrors, path: &Path, consumed: &Value| {
        let set = text(consumed, "counterSet");
        if set.is_empty() {
            errs.required(path.child("counterSet"), "");
        } else {
            label(errs, &path.child("counterSet"), set);
        }
        counters(errs, &path.child("counters"), consumed);
    };
    each_once(errs, &path.child("consumesCounters"), consumes, 2, check, by("counterSet"));
    device_place(errs, path, device, own_place);
    binding(errs, path, device);
}

/// A device says itself where it is when its slice leaves that to it.
fn device_place(errs: &mut FieldErrors, path: &Path, device: &Value, own_place: bool) {
    if !own_place {
        if ["nodeName", "nodeSelector", "allNodes"].iter().any(|name| has(device, name)) {
            let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            errs.add(ErrorKind::Invalid, path, "null", detail);
        }
        return;
    }
    let mut set = Vec::new();
    if has(device, "nodeName") {
        let (path, name) = (path.child("nodeName"), text(device, "nodeName"));
        if name.is_empty() {
            errs.invalid(path, "", "must not be empty");
        } else {
            set.push("`nodeName`");
            node_name(errs, &path, name);
        }
    }
    if has(device, "nodeSelector") {
        set.push("`nodeSelector`");
        node_selector(errs, &path.child("nodeSelector"), key(device, "nodeSelector"));
    }
    if flag(device, "allNodes") {
        set.push("`allNodes`");
    } else if has(device, "allNodes") {
        errs.invalid(path.child("allNodes"), false, "must be either unset or set to true");
    }
    let detail = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    match set.len() {
        0 => errs.required(path, detail),
        1 => {}
        _ => errs.invalid(path, format!("{{{}}}", set.join(", ")), detail),
    }
}

fn attribute(errs: &mut FieldErrors, path: &Path, attribute: &Value) {
    let long = |errs: &mut FieldErrors, path: Path, value: &str| {
        if value.len() > VALUE_MAX {
            errs.too_long(path, VALUE_MAX);
        }
    };
    let mut count = ["bool", "int"].iter().filter(|name| has(attribute, name)).count();
    if has(attribute, "string") {
        count += 1;
        long(errs, path.child("string"), text(attribute, "string"));
    }
    if has(attribute, "version") {
        count += 1;
        let (path, version) = (path.child("version"), text(attribute, "version"));
        if !is_semantic_version(version) {
            let detail = "must be a string compatible with semver.org spec 2.0.0";
            errs.invalid(&path, version, detail);
        }
        long(errs, path, version);
    }
    match count {
        0 => errs.invalid(path, "", "exactly one value must be specified"),
        1 => {}
        _ => errs.invalid(path, attribute.clone(), "exactly one value must be specified"),
    }
}

/// `1.2.3[-pre.release][+build]`
fn is_semantic_version(text: &str) -> bool {
    let number = |part: &str| {
        let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        digits && (part == "0" || !part.starts_with('0'))
    };
    let word = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let (rest, build) = text.split_once('+').map_or((text, None), |(a, b)| (a, Some(b)));
    let (core, before) = rest.split_once('-').map_or((rest, None), |(a, b)| (a, Some(b)));
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    core.split('.').count() == 3
        && core.split('.').all(number)
        && build.is_none_or(|build| build.split('.').all(word))
        && before.is_none_or(|before| {
            before.split('.').all(|part| word(part) && (number(part) || !all_digits(part)))
        })
}

/// What may be requested of a capacity.
fn policy(errs: &mut FieldErrors, path: &Path, capacity: &Value) {
    let (policy, most) = (key(capacity, "requestPolicy"), key(capacity, "value"));
    let values = list(policy, "validValues");
    let (default, range) = (key(policy, "default"), key(policy, "validRange"));
    if !values.is_empty() && !range.is_null() {
        let detail = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
        errs.forbidden(path, detail);
    } else if !values.is_empty() && default.is_null() {
        errs.required(path.child("default"), "required when validValues is defined");
    } else if !values.is_empty() {
        valid_values(errs, &path.child("validValues"), values, default, most);
    } else if !range.is_null() && default.is_null() {
        errs.required(path.child("default"), "required when validRange is defined");
    } else if !range.is_null() {
        valid_range(errs, &path.child("validRange"), range, default, most);
    }
}

fn shown(quantity: &Value) -> String {
    quantity.as_str().map_or_else(|| quantity.to_string(), str::to_owned)
}

fn valid_values(
    errs: &mut FieldErrors,
    path: &Path,
    values: &[Value],
    default: &Value,
    most: &Value,
) {
    for (n, pair) in values.windows(2).enumerate() {
        if nano(&pair[0]) > nano(&pair[1]) {
            let detail = "values must be sorted in ascending order";
            errs.invalid(path.index(n + 1), shown(&pair[1]), detail);
        }
    }
    let check = |errs: &mut FieldErrors, path: &Path, value: &Value| {
        if nano(value) > nano(most) {
            let detail = format!("option is larger than capacity value: {}", shown(most));
            errs.invalid(path, shown(value), detail);
        }
    };
    let whole = |value: &Value| (nano(value).unwrap_or_default() / 1_000_000_000).to_string();
    each_once(errs, path, values, 10, check, whole);
    if values.len() <= 10 && !values.iter().any(|value| nano(value) == nano(default)) {
        let detail = "default value is not valid according to the requestPolicy";
        errs.invalid(path, shown(default), detail);
    }
}

fn valid_range(errs: &mut FieldErrors, path: &Path, range: &Value, default: &Value, most: &Value) {
    let (min, max, step) = (key(range, "min"), key(range, "max"), key(range, "step"));
    if min.is_null() {
        errs.required(path.child("min"), "required when validRange is defined");
        return;
    }
    let mut above = |field: &str, a: &Value, b: &Value, value: &Value, what: &str, than: &Value| {
        if nano(a) > nano(b) {
            errs.invalid(path.child(field), shown(value), format!("{what}: {}", shown(than)));
        }
    };
    above("min", min, most, min, "min is larger than capacity value", most);
    above("default", min, default, default, "default is less than min", min);
    if !max.is_null() {
        above("max", min, max, min, "min is larger than max", max);
        above("max", max, most, max, "max is larger than capacity value", most);
        above("default", default, max, default, "default is more than max", max);
    }
    let Some(step_nanos) = nano(step) else { return };
    let path = path.child("step");
    if step_nanos <= 0 {
        errs.invalid(path, shown(step), "must be greater than zero");
        return;
    }
    let first = nano(min).unwrap_or_default();
    if first.checked_add(step_nanos) > nano(most) {
        let sum = quantity(first + step_nanos, min);
        let detail =
            format!("one step {} is larger than capacity value: {}", shown(&sum), shown(most));
        errs.invalid(&path, shown(step), detail);
    }
    for value in [default, max].into_iter().filter(|value| !value.is_null()) {
        if (nano(value).unwrap_or_default() - first) % step_nanos != 0 {
            let detail = format!(
                "value is not a multiple of a given step ({}) from ({})",
                shown(step),
                shown(min)
            );
            errs.invalid(&path, shown(value), detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn slice(devices: Value) -> Value {
        json!({"spec": {"driver": "d", "nodeName": "n", "devices": devices,
            "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}}})
    }

    fn check(slice: &Value, old: Option<&Value>, want: &str) {
        let mut errs = FieldErrors::default();
        validate(&mut errs, slice, old);
        let found = if errs.is_empty() { String::new() } else { errs.aggregate() };
        assert_eq!(found, want, "{slice}");
    }

    #[test]
    fn slices_are_refused_as_upstream_does() {
        check(
            &slice(json!([{"name": "a", "attributes": {"x": {"version": "1.0.0-rc.1+b"}}}])),
            None,
            "",
        );
        check(
            &slice(json!([{"name": "a", "attributes": {"x": {"version": "1.0"}, "y/z": {}}}])),
            None,
            "[spec.devices[0].attributes[x].version: Invalid value: \"1.0\": must be a string \
             compatible with semver.org spec 2.0.0, spec.devices[0].attributes[y/z]: Invalid value: \
             \"\": exactly one value must be specified]",
        );
        let mut moved = slice(json!([]));
        moved["spec"]["nodeName"] = json!("m");
        let want = "spec.nodeName: Invalid value: \"m\": field is immutable";
        check(&moved, Some(&slice(json!([]))), want);
        moved["spec"]["allNodes"] = json!(true);
        let want = "spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of `nodeName`, \
                    `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple \
                    fields are set";
        check(&moved, None, want);
    }

    #[test]
    fn capacities_keep_to_their_policy() {
        let device = |policy: Value| {
            slice(json!([{"name": "a", "allowMultipleAllocations": true,
                "capacity": {"m": {"value": "10", "requestPolicy": policy}}}]))
        };
        let at = "spec.devices[0].capacity[m].requestPolicy";
        check(&device(json!({"default": "4", "validRange": {"min": "1", "step": "3"}})), None, "");
        check(
            &device(json!({"validValues": ["1"]})),
            None,
            &format!("{at}.default: Required value: required when validValues is defined"),
        );
        check(
            &device(json!({"default": "5", "validRange": {"min": "1", "step": "3"}})),
            None,
            &format!(
                "{at}.validRange.step: Invalid value: \"5\": value is not a multiple of a given \
                 step (3) from (1)"
            ),
        );
    }
}
