//! Tables of custom resources: `additionalPrinterColumns`.

use apimachinery::jsonpath::JsonPath;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::registry::table::since;
use crate::registry::value::{int, list, text};
use crate::registry::{AGE, NAME, Object};

/// One column besides the name.
pub(super) struct Column {
    name: String,
    kind: String,
    format: String,
    description: String,
    priority: i64,
    path: Option<JsonPath>,
}

/// The columns that a version declares, or Age.
pub(super) fn columns(version: &Value) -> Vec<Column> {
    let declared = list(version, "additionalPrinterColumns");
    if declared.is_empty() {
        return vec![Column {
            name: AGE.name.to_owned(),
            kind: "date".to_owned(),
            format: String::new(),
            description: AGE.description.to_owned(),
            priority: 0,
            path: JsonPath::parse(".metadata.creationTimestamp"),
        }];
    }
    let own = |name: &Value, field: &str| text(name, field).to_owned();
    declared
        .iter()
        .map(|column| {
            let path = text(column, "jsonPath");
            let description = match text(column, "description") {
                "" => format!("Custom resource definition column (in JSONPath format): {path}"),
                text => text.to_owned(),
            };
            Column {
                name: own(column, "name"),
                kind: own(column, "type"),
                format: own(column, "format"),
                description,
                priority: int(column, "priority").unwrap_or_default(),
                path: JsonPath::parse(path),
            }
        })
        .collect()
}

pub(super) fn definitions(columns: &[Column]) -> Value {
    let name = json!({"name": NAME.name, "type": NAME.kind, "format": NAME.format,
        "description": NAME.description, "priority": 0});
    let more = columns.iter().map(|column| {
        json!({"name": column.name, "type": column.kind, "format": column.format,
            "description": column.description, "priority": column.priority})
    });
    std::iter::once(name).chain(more).collect()
}

pub(super) fn row(columns: &[Column], obj: &Object, now: Timestamp) -> Vec<Value> {
    let name = obj["metadata"]["name"].clone();
    let more = columns.iter().map(|column| {
        let found = column.path.as_ref().map(|path| path.find(obj)).unwrap_or_default();
        found.first().map_or(Value::Null, |value| cell(column, value, now))
    });
    std::iter::once(name).chain(more).collect()
}

fn cell(column: &Column, value: &Value, now: Timestamp) -> Value {
    match (column.kind.as_str(), value) {
        ("string", Value::String(text)) => text.as_str().into(),
        ("string", Value::Null) => "<nil>".into(),
        ("string", other) => other.to_string().into(),
        ("integer", Value::Number(number)) => {
            let whole = number.as_i64().or_else(|| number.as_f64().map(|float| float as i64));
            whole.into()
        }
        ("number", number @ Value::Number(_)) => number.clone(),
        ("boolean", flag @ Value::Bool(_)) => flag.clone(),
        ("date", time @ Value::String(_)) => match since(time, now) {
            unknown if unknown == "<unknown>" => "<unknown>".into(),
            age => age.into(),
        },
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_have_the_type_of_their_column() {
        let version = json!({"additionalPrinterColumns": [
            {"name": "S", "type": "string", "jsonPath": ".spec"},
            {"name": "I", "type": "integer", "jsonPath": ".spec.n"},
            {"name": "Wrong", "type": "boolean", "jsonPath": ".spec.n"},
            {"name": "Gone", "type": "string", "jsonPath": ".spec.zz"}]});
        let object = json!({"metadata": {"name": "x"}, "spec": {"n": 3}});
        let row = row(&columns(&version), &object, Timestamp::UNIX_EPOCH);
        assert_eq!(Value::from(row), json!(["x", "{\"n\":3}", 3, null, null]));
    }
}
