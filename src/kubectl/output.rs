//! `-o`: what to print of objects that were read whole.

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::discovery::{Type, text};
use crate::jsonpath::Template;
use crate::yaml;

/// How to print.
#[derive(Debug)]
pub(crate) enum Output {
    /// A table, with all columns when wide.
    Table {
        wide: bool,
    },
    Json,
    Yaml,
    Name,
    Jsonpath(Template),
}

impl Output {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        Ok(match text {
            "" => Output::Table { wide: false },
            "wide" => Output::Table { wide: true },
            "json" => Output::Json,
            "yaml" => Output::Yaml,
            "name" => Output::Name,
            other => match other.split_once('=') {
                Some(("jsonpath", template)) => Output::Jsonpath(Template::parse(template)?),
                _ => bail!(
                    "unable to match a printer suitable for the output format {other:?}, allowed \
                     formats are: json,jsonpath,name,wide,yaml"
                ),
            },
        })
    }

    /// Prints one object, or a list of them when it is not exactly one that was asked for.
    pub(crate) fn print(&self, objects: &[(&Type, Value)], single: bool) {
        let whole = || match objects {
            [(_, one)] if single => one.clone(),
            many => json!({
                "apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""},
                "items": many.iter().map(|(_, it)| it).collect::<Vec<_>>(),
            }),
        };
        match self {
            Output::Json => println!("{}", pretty(&whole())),
            Output::Yaml => print!("{}", yaml::render(&whole())),
            Output::Jsonpath(template) => print!("{}", template.render(&whole())),
            Output::Name | Output::Table { .. } => {
                for (of, object) in objects {
                    println!("{}", of.named(&text(&object["metadata"]["name"])));
                }
            }
        }
    }
}

/// JSON with four spaces, as kubectl prints it.
pub(crate) fn pretty(value: &Value) -> String {
    use serde_json::ser::{PrettyFormatter, Serializer};
    let mut out = Vec::new();
    let mut serializer =
        Serializer::with_formatter(&mut out, PrettyFormatter::with_indent(b"    "));
    match serde::Serialize::serialize(value, &mut serializer) {
        Ok(()) => escaped(&String::from_utf8_lossy(&out)),
        Err(_) => value.to_string(),
    }
}

/// JSON as Go writes it: safe inside HTML. Outside of strings JSON has none of these characters.
pub(crate) fn escaped(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// Removes what only controllers read.
pub(crate) fn without_managed_fields(mut object: Value) -> Value {
    if let Some(meta) = object["metadata"].as_object_mut() {
        meta.remove("managedFields");
    }
    object
}
