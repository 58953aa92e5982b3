//! Secrets: typed keys, and `stringData` that becomes `data`.

use apimachinery::field::{FieldErrors, Path};
use apimachinery::validation::config_key_problems;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::configmap::{decoded_len, frozen};
use crate::registry::table::{age, column, name};
use crate::registry::validate::{immutable, problems};
use crate::registry::value::{at, default_zero, key, map, object, remove, text};
use crate::registry::{AGE, Column, Cx, NAME, Object, Selectable, Strategy};

const MAX_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Secret;

impl Strategy for Secret {
    fn resource(&self) -> &'static str {
        "secrets"
    }

    fn default(&self, obj: &mut Object) {
        default_zero(obj, "type", "Opaque");
        if let Some(Value::Object(plain)) = remove(obj, "stringData") {
            let data = object(obj, "data");
            for (name, value) in plain {
                let text = value.as_str().unwrap_or_default();
                data.insert(name, json!(STANDARD.encode(text)));
            }
        }
    }

    fn prepare_for_update(&self, _cx: &Cx<'_>, new: &mut Object, old: &Object) {
        if text(new, "type").is_empty() {
            new["type"] = old["type"].clone();
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Object, errs: &mut FieldErrors) {
        validate(obj, errs);
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Object, old: &Object, errs: &mut FieldErrors) {
        immutable(errs, &Path::new("type"), at(new, "type"), at(old, "type"));
        frozen(errs, new, old, &["data"]);
        validate(new, errs);
    }

    fn warnings(&self, _cx: &Cx<'_>, obj: &Object, _old: Option<&Object>) -> Vec<String> {
        if text(obj, "type") != "kubernetes.io/tls" {
            return Vec::new();
        }
        let cert = key(key(obj, "data"), "tls.crt").as_str().unwrap_or_default();
        let cert = STANDARD.decode(cert).unwrap_or_default();
        if String::from_utf8_lossy(&cert).contains("-----BEGIN") {
            return Vec::new();
        }
        vec!["tls: failed to find any PEM data in certificate input".to_owned()]
    }

    fn selectable_fields(&self) -> &'static [Selectable] {
        const FIELDS: &[Selectable] = &[Selectable { name: "type", path: "type", zero: "" }];
        FIELDS
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, column("Type"), column("Data"), AGE];
        COLUMNS
    }

    fn row(&self, obj: &Object, now: Timestamp) -> Vec<Value> {
        vec![name(obj), json!(text(obj, "type")), json!(map(obj, "data").len()), age(obj, now)]
    }
}

fn validate(obj: &Object, errs: &mut FieldErrors) {
    let data = map(obj, "data");
    let path = Path::new("data");
    let mut size = 0;
    for (name, value) in data {
        problems(errs, &path.key(name), name, config_key_problems(name));
        size += decoded_len(value);
    }
    if size > MAX_BYTES {
        errs.too_long("data", MAX_BYTES);
    }
    let mut need = |name: &str| {
        if !data.contains_key(name) {
            errs.required(path.key(name), "");
        }
        data.contains_key(name)
    };
    match text(obj, "type") {
        "kubernetes.io/service-account-token" => {
            let annotation = "kubernetes.io/service-account.name";
            if key(at(obj, "metadata.annotations"), annotation)
                .as_str()
                .unwrap_or_default()
                .is_empty()
            {
                errs.required(Path::new("metadata").child("annotations").key(annotation), "");
            }
        }
        "kubernetes.io/dockercfg" if need(".dockercfg") => {
            json_content(errs, &path, data, ".dockercfg");
        }
        "kubernetes.io/dockerconfigjson" if need(".dockerconfigjson") => {
            json_content(errs, &path, data, ".dockerconfigjson");
        }
        "kubernetes.io/basic-auth"
            if !data.contains_key("username") && !data.contains_key("password") =>
        {
            need("username");
            need("password");
        }
        "kubernetes.io/ssh-auth" => {
            let empty = data.get("ssh-privatekey").is_none_or(|v| v.as_str() == Some(""));
            if empty {
                errs.required(path.key("ssh-privatekey"), "");
            }
        }
        "kubernetes.io/tls" => {
            need("tls.crt");
            need("tls.key");
        }
        _ => {}
    }
}

fn json_content(
    errs: &mut FieldErrors,
    path: &Path,
    data: &serde_json::Map<String, Value>,
    name: &str,
) {
    let raw = data.get(name).and_then(Value::as_str).and_then(|text| STANDARD.decode(text).ok());
    let raw = raw.unwrap_or_default();
    if serde_json::from_slice::<Value>(&raw).is_ok() {
        return;
    }
    let detail = match raw.iter().find(|b| !b.is_ascii_whitespace()) {
        None => "unexpected end of JSON input".to_owned(),
        Some(first) if b"{[\"-0123456789tfn".contains(first) => {
            "unexpected end of JSON input".to_owned()
        }
        Some(first) => {
            format!("invalid character '{}' looking for beginning of value", char::from(*first))
        }
    };
    errs.invalid(path.key(name), "<secret contents redacted>", detail);
}
