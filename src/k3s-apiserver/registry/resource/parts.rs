//! What claims, slices and classes of devices have in common: names, selectors, tolerations,
//! taints, parameters of drivers.
//!
//! Invariant: a list that is too long is refused as a whole, none of its items is looked at.

use std::collections::HashSet;

use apimachinery::cel::Ty;
use apimachinery::field::{ErrorKind, FieldErrors, Path};
use apimachinery::validation::{
    c_identifier_problems, label_problems, label_value_problems, qualified_problems,
    subdomain_problems,
};
use serde_json::Value;

use crate::expressions::Scope;
use crate::registry::core::podspec::csi_driver_name;
use crate::registry::validate::problems;
use crate::registry::value::{has, key, list, text, texts};

/// The longest name of an attribute, without its domain.
const ID_MAX: usize = 32;
const EXPRESSION_MAX: usize = 10 << 10;
const PARAMETERS_MAX: usize = 10 << 10;
const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];

/// Checks each item of a list that has at most `max`; false when there are more.
pub(super) fn each(
    errs: &mut FieldErrors,
    path: &Path,
    items: &[Value],
    max: usize,
    mut check: impl FnMut(&mut FieldErrors, &Path, &Value),
) -> bool {
    if items.len() > max {
        errs.too_many(path, items.len(), max);
        return false;
    }
    for (n, item) in items.iter().enumerate() {
        check(errs, &path.index(n), item);
    }
    true
}

/// The same for a list whose items differ in what `key` says.
pub(super) fn each_once(
    errs: &mut FieldErrors,
    path: &Path,
    items: &[Value],
    max: usize,
    check: impl FnMut(&mut FieldErrors, &Path, &Value),
    key: impl Fn(&Value) -> String,
) {
    if !each(errs, path, items, max, check) {
        return;
    }
    let mut seen = HashSet::new();
    for (n, item) in items.iter().enumerate() {
        let key = key(item);
        if seen.contains(&key) {
            errs.duplicate(path.index(n), key);
        } else {
            seen.insert(key);
        }
    }
}

/// The member of an item by which it is known.
pub(super) fn by(name: &'static str) -> impl Fn(&Value) -> String {
    move |item| text(item, name).to_owned()
}

/// The item itself.
pub(super) fn by_itself(item: &Value) -> String {
    item.as_str().unwrap_or_default().to_owned()
}

/// The name of a device, a request or a set of counters.
pub(super) fn label(errs: &mut FieldErrors, path: &Path, name: &str) {
    problems(errs, path, name, label_problems(name));
}

/// Names of subdomains, separated by slashes.
pub(super) fn pool_name(errs: &mut FieldErrors, path: &Path, name: &str) {
    if name.is_empty() {
        errs.required(path, "");
        return;
    }
    if name.len() > 253 {
        errs.too_long(path, 253);
    }
    for part in name.split('/') {
        problems(errs, path, part, subdomain_problems(part));
    }
}

/// The id of one of the shares that a device is allocated in.
pub(super) fn share_id(errs: &mut FieldErrors, path: &Path, id: &str) {
    if let Err(err) = uuid::Uuid::parse_str(id) {
        errs.invalid(path, id, format!("error validating uid: {err}"));
    } else if id.len() != 36 || id != id.to_lowercase() {
        let detail = "uid must be in RFC 4122 normalized form, \
                      `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters";
        errs.invalid(path, id, detail);
    }
}

/// `[domain/]name` of an attribute or a capacity.
pub(super) fn attribute_name(errs: &mut FieldErrors, path: &Path, name: &str) {
    let parts: Vec<&str> = name.split('/').collect();
    match parts.as_slice() {
        [id] => identifier(errs, path, id),
        [domain, id] => {
            match domain.is_empty() {
                true => errs.invalid(path, "", "the domain must not be empty"),
                false => csi_driver_name(errs, path, domain),
            }
            match id.is_empty() {
                true => errs.invalid(path, "", "the name must not be empty"),
                false => identifier(errs, path, id),
            }
        }
        _ => {}
    }
}

/// The same with a domain.
pub(super) fn full_attribute_name(errs: &mut FieldErrors, path: &Path, name: &str) {
    attribute_name(errs, path, name);
    if !name.contains('/') {
        let detail = "a fully qualified name must be a domain and a name separated by a slash";
        errs.invalid(path, name, detail);
    }
}

fn identifier(errs: &mut FieldErrors, path: &Path, id: &str) {
    if id.len() > ID_MAX {
        errs.too_long(path, ID_MAX);
    }
    problems(errs, path, id, c_identifier_problems(id));
}

/// Device selectors: expressions about a device. What was stored before has been compiled.
pub(super) fn selectors(errs: &mut FieldErrors, path: &Path, selectors: &[Value], stored: bool) {
    each(errs, path, selectors, 32, |errs, path, selector| {
        let path = path.child("cel");
        if !has(selector, "cel") {
            errs.required(path, "");
        } else if !stored {
            expression(errs, &path.child("expression"), text(selector, "cel.expression"));
        }
    });
}

fn expression(errs: &mut FieldErrors, path: &Path, expression: &str) {
    if expression.len() > EXPRESSION_MAX {
        errs.too_long(path, EXPRESSION_MAX);
        return;
    }
    let detail = match Scope::device().compile(expression) {
        Err(why) => format!("compilation failed: {why}"),
        Ok(program) => match &program.ty {
            Ty::Bool | Ty::Dyn => return,
            ty => format!("must evaluate to bool or the unknown type, not {ty}"),
        },
    };
    errs.invalid(path, expression, detail);
}

/// What a driver is told: an object that means something to it alone.
pub(super) fn configuration(errs: &mut FieldErrors, path: &Path, config: &Value, stored: bool) {
    let path = path.child("opaque");
    if !has(config, "opaque") {
        errs.required(path, "");
        return;
    }
    let opaque = key(config, "opaque");
    csi_driver_name(errs, &path.child("driver"), text(opaque, "driver"));
    let max = if stored { usize::MAX } else { PARAMETERS_MAX };
    raw(errs, &path.child("parameters"), key(opaque, "parameters"), max);
}

/// An object of any kind.
pub(super) fn raw(errs: &mut FieldErrors, path: &Path, value: &Value, max: usize) {
    if value.is_null() {
        errs.required(path, "");
    } else if value.to_string().len() > max {
        errs.too_long(path, max);
    } else if !value.is_object() {
        errs.invalid(path, "<value omitted>", "must be a valid JSON object");
    }
}

/// `tolerations` of a request or of what it was given.
pub(super) fn tolerations(errs: &mut FieldErrors, path: &Path, tolerations: &[Value]) {
    for (n, toleration) in tolerations.iter().enumerate() {
        let path = path.index(n);
        let (name, value) = (text(toleration, "key"), text(toleration, "value"));
        if !name.is_empty() {
            problems(errs, &path.child("key"), name, qualified_problems(name));
        }
        match text(toleration, "operator") {
            "Exists" if value.is_empty() => {}
            "Exists" => {
                errs.invalid(path.child("value"), value, "must be empty for operator `Exists`");
            }
            "Equal" => {
                problems(errs, &path.child("value"), value, label_value_problems(value));
            }
            "" => errs.required(path.child("operator"), ""),
            other => errs.not_supported(path.child("operator"), other, &["Equal", "Exists"]),
        }
        let effect = text(toleration, "effect");
        if !effect.is_empty() && !EFFECTS.contains(&effect) {
            errs.not_supported(path.child("effect"), effect, EFFECTS);
        }
    }
}

/// One taint; the effect of an old one is not judged again.
pub(super) fn taint(errs: &mut FieldErrors, path: &Path, taint: &Value, old: Option<&Value>) {
    let (name, value, effect) = (text(taint, "key"), text(taint, "value"), text(taint, "effect"));
    problems(errs, &path.child("key"), name, qualified_problems(name));
    if !value.is_empty() {
        problems(errs, &path.child("value"), value, label_value_problems(value));
    }
    if old.is_some_and(|old| text(old, "effect") == effect) {
        return;
    }
    if effect.is_empty() {
        errs.required(path.child("effect"), "");
    } else if !EFFECTS.contains(&effect) {
        errs.not_supported(path.child("effect"), effect, EFFECTS);
    }
}

/// `bindingConditions` and `bindingFailureConditions` of a device.
pub(super) fn binding(errs: &mut FieldErrors, path: &Path, device: &Value) {
    let of = |name: &str| (path.child(name), texts(device, name).collect::<Vec<_>>());
    let (path, wanted) = of("bindingConditions");
    let (failure_path, failures) = of("bindingFailureConditions");
    for (path, name) in [(&path, "bindingConditions"), (&failure_path, "bindingFailureConditions")]
    {
        each(errs, path, list(device, name), 4, |errs, path, condition| {
            let condition = condition.as_str().unwrap_or_default();
            problems(errs, path, condition, qualified_problems(condition));
        });
    }
    for (n, condition) in wanted.iter().enumerate() {
        if wanted[..n].contains(condition) {
            errs.duplicate(path.index(n), *condition);
        }
    }
    for (n, condition) in failures.iter().enumerate() {
        if failures[..n].contains(condition) {
            errs.duplicate(failure_path.index(n), *condition);
        }
        if wanted.contains(condition) {
            let detail = "bindingFailureConditions must not overlap with bindingConditions";
            errs.invalid(failure_path.index(n), *condition, detail);
        }
    }
    match (wanted.is_empty(), failures.is_empty()) {
        (true, false) => {
            let detail = "bindingConditions are required to use bindingFailureConditions";
            errs.add(ErrorKind::Invalid, path, "null", detail);
        }
        (false, true) => {
            let detail = "bindingFailureConditions are required to use bindingConditions";
            errs.add(ErrorKind::Invalid, failure_path, "null", detail);
        }
        _ => {}
    }
}
