//! ConfigMaps.

use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::config_key_problems;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::table::{age, column, name};
use crate::registry::validate::problems;
use crate::registry::value::{flag, map};
use crate::registry::{AGE, Column, Cx, NAME, Object, Strategy};

const MAX_BYTES: usize = 1 << 20;
const IMMUTABLE: &str = "field is immutable when `immutable` is set";

#[derive(Debug)]
pub(super) struct ConfigMap;

impl Strategy for ConfigMap {
    fn resource(&self) -> &'static str {
        "configmaps"
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        validate(obj, errs);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        frozen(errs, new, old, &["data", "binaryData"]);
        validate(new, errs);
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, column("Data"), AGE];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        let count = map(obj, "data").len() + map(obj, "binaryData").len();
        vec![name(obj), json!(count), age(obj, now)]
    }
}

fn validate(obj: &Object, errs: &mut FieldErrors) {
    let mut size = 0;
    for (name, value) in map(obj, "data") {
        let path = Path::new("data").key(name);
        problems(errs, &path, name, config_key_problems(name));
        if map(obj, "binaryData").contains_key(name) {
            errs.invalid(path, name.as_str(), "duplicate of key present in binaryData");
        }
        size += value.as_str().map_or(0, str::len);
    }
    for (name, value) in map(obj, "binaryData") {
        problems(errs, &Path::new("binaryData").key(name), name, config_key_problems(name));
        size += decoded_len(value);
    }
    if size > MAX_BYTES {
        errs.too_long("[]", MAX_BYTES);
    }
}

/// The bytes that base64 text stands for.
pub(super) fn decoded_len(value: &Value) -> usize {
    let text = value.as_str().unwrap_or_default();
    text.len() / 4 * 3
        - text.bytes().rev().take_while(|b| *b == b'=').count().min(2).min(text.len())
}

/// `immutable` freezes the content, and itself.
pub(super) fn frozen(errs: &mut FieldErrors, new: &Object, old: &Object, fields: &[&str]) {
    if !flag(old, "immutable") {
        return;
    }
    if !flag(new, "immutable") {
        errs.forbidden("immutable", IMMUTABLE);
    }
    for field in fields {
        if map(new, field) != map(old, field) {
            errs.forbidden(*field, IMMUTABLE);
        }
    }
}
