//! `FieldsV1` JSON ⇄ `Set`.
//!
//! Invariant: what is written reads back as the same set; unknown prefixes are refused, never kept.

use serde_json::{Map, Value};

use super::path::PathElement;
use super::set::Set;

/// Why a `fieldsV1` document is not a set of fields.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadFields(String);

impl Set {
    /// Reads a `fieldsV1` value.
    pub fn from_fields_v1(json: &Value) -> Result<Set, BadFields> {
        let Value::Object(map) = json else {
            return Err(BadFields("fieldsV1 is not an object".to_owned()));
        };
        Ok(read(map)?.1)
    }

    /// Writes the set as a `fieldsV1` value.
    pub fn to_fields_v1(&self) -> Value {
        Value::Object(write(self, false))
    }
}

fn read(map: &Map<String, Value>) -> Result<(bool, Set), BadFields> {
    let mut own = false;
    let mut set = Set::new();
    for (key, value) in map {
        if key == "." {
            own = true;
            continue;
        }
        let element = read_element(key)?;
        let (member, below) = match value {
            Value::Object(below) if !below.is_empty() => read(below)?,
            _ => (true, Set::new()),
        };
        set.insert(element, member || below.is_empty(), below);
    }
    Ok((own, set))
}

fn read_element(key: &str) -> Result<PathElement, BadFields> {
    let bad = || BadFields(format!("unable to parse path element {key:?}"));
    let (prefix, rest) = key.split_once(':').ok_or_else(bad)?;
    match prefix {
        "f" => Ok(PathElement::field(rest)),
        "v" => Ok(PathElement::Value(Box::new(serde_json::from_str(rest).map_err(|_| bad())?))),
        "i" => Ok(PathElement::Index(rest.parse().map_err(|_| bad())?)),
        "k" => {
            let map: Map<String, Value> = serde_json::from_str(rest).map_err(|_| bad())?;
            let mut keys: Vec<(Box<str>, Value)> =
                map.into_iter().map(|(name, value)| (name.into_boxed_str(), value)).collect();
            keys.sort_by(|a, b| a.0.cmp(&b.0));
            Ok(PathElement::Key(keys.into_boxed_slice()))
        }
        _ => Err(bad()),
    }
}

fn write(set: &Set, own: bool) -> Map<String, Value> {
    let mut map = Map::new();
    if own && !set.is_empty() {
        map.insert(".".to_owned(), Value::Object(Map::new()));
    }
    for node in set.nodes() {
        map.insert(write_element(&node.element), Value::Object(write(&node.below, node.member)));
    }
    map
}

fn write_element(element: &PathElement) -> String {
    match element {
        PathElement::Field(name) => format!("f:{name}"),
        PathElement::Value(value) => format!("v:{value}"),
        PathElement::Index(index) => format!("i:{index}"),
        PathElement::Key(keys) => {
            let mut text = String::from("k:{");
            for (at, (name, value)) in keys.iter().enumerate() {
                if at > 0 {
                    text.push(',');
                }
                text.push_str(&format!("{}:{value}", Value::from(&**name)));
            }
            text.push('}');
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_read_back_as_written() {
        for json in [
            json!({}),
            json!({"f:data": {".": {}, "f:a": {}}}),
            json!({"f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}}}),
            json!({"f:l": {"v:\"a\"": {}, "v:2": {}, "i:0": {}}}),
        ] {
            let set = Set::from_fields_v1(&json).expect("reads");
            assert_eq!(set.to_fields_v1(), json);
        }
    }

    #[test]
    fn unknown_elements_are_refused() {
        for json in [json!({"x:a": {}}), json!({"plain": {}}), json!({"k:nope": {}}), json!([])] {
            assert!(Set::from_fields_v1(&json).is_err(), "{json}");
        }
    }
}
