//! JSON patch (RFC 6902) with upstream's bounds: operations, and bytes copied.

use json_patch::PatchOperation;
use serde_json::Value;

use api::schema::Node;

use crate::encode::declared_order;
use crate::json as parser;
use crate::status::Status;

const MAX_OPERATIONS: usize = 10_000;
const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;

/// Applies all operations or fails.
pub fn apply(object: &mut Value, patch: &[u8]) -> Result<(), Status> {
    let parsed = parser::parse(patch)
        .map_err(|err| Status::bad_request(format!("error decoding patch: {err}")))?;
    let Value::Array(operations) = parsed.value else {
        let what = match parsed.value {
            Value::Object(_) => "object",
            Value::String(_) => "string",
            Value::Number(_) => "number",
            Value::Bool(_) => "bool",
            _ => return Ok(()),
        };
        let text = format!(
            "error decoding patch: json: cannot unmarshal {what} into Go value of type jsonpatch.Patch"
        );
        return Err(Status::bad_request(text));
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(Status::too_large(&format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut copied = 0;
    for mut operation in operations {
        root_paths(&mut operation);
        let operation = serde_json::from_value::<PatchOperation>(operation)
            .map_err(|_| Status::unprocessable())?;
        if let PatchOperation::Copy(copy) = &operation {
            let from = object.pointer(copy.from.as_str()).ok_or_else(Status::unprocessable)?;
            copied += from.to_string().len();
            if copied > MAX_COPIED_BYTES {
                return Err(Status::unprocessable());
            }
        }
        if missing_is_null(object, &operation) {
            continue;
        }
        json_patch::patch_unsafe(object, &[operation]).map_err(|_| Status::unprocessable())?;
    }
    Ok(())
}

/// Upstream's library ignores what stands before the first slash of a path.
fn root_paths(operation: &mut Value) {
    for key in ["path", "from"] {
        let Some(Value::String(path)) = operation.get_mut(key) else { continue };
        if let Some(slash) = path.find('/') {
            path.drain(..slash);
        }
    }
}

/// The patched object as refusals show it: top-level fields by name, and those that no operation
/// touched as Go had written them before.
pub(super) fn shown(object: &Value, patch: &[u8], node: Node<'_>) -> String {
    let parsed = parser::parse(patch).map(|parsed| parsed.value).unwrap_or_default();
    let operations = parsed.as_array().map_or(&[] as &[Value], Vec::as_slice);
    let first = |operation: &Value| {
        let path = operation.get("path").and_then(Value::as_str)?;
        path.split('/').nth(1).map(str::to_owned)
    };
    let touched = operations.iter().filter_map(first).collect::<Vec<_>>();
    let Value::Object(map) = object else { return object.to_string() };
    let mut out = String::from("{");
    for (index, (key, item)) in map.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(&Value::from(key.as_str()).to_string());
        out.push(':');
        match node.child(key).filter(|_| !touched.contains(key)) {
            Some(node) => declared_order(&mut out, item, node),
            None => out.push_str(&item.to_string()),
        }
    }
    out.push('}');
    out
}

/// A test for null also passes where nothing is.
fn missing_is_null(object: &Value, operation: &PatchOperation) -> bool {
    match operation {
        PatchOperation::Test(test) => {
            test.value.is_null() && object.pointer(test.path.as_str()).is_none()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn operations_apply_in_order() {
        let mut object = json!({"a": [1, 2]});
        let patch = br#"[{"op":"add","path":"/a/-","value":3},{"op":"remove","path":"/a/0"},{"op":"copy","from":"/a","path":"/b"},{"op":"test","path":"/b/0","value":2}]"#;
        apply(&mut object, patch).unwrap();
        assert_eq!(object, json!({"a": [2, 3], "b": [2, 3]}));
    }

    #[test]
    fn what_stands_before_the_first_slash_is_ignored() {
        let mut object = json!({});
        apply(&mut object, br#"[{"op":"add","path":"data/a","value":1}]"#).unwrap();
        assert_eq!(object, json!({"a": 1}));
    }

    #[test]
    fn bad_patches_are_refused() {
        let code = |patch: &str| apply(&mut json!({"a": [1]}), patch.as_bytes()).unwrap_err().code;
        assert_eq!(code("{}"), 400);
        assert_eq!(code("[{"), 400);
        assert_eq!(code(r#"[{"op":"remove","path":"/x"}]"#), 422);
        assert_eq!(code(r#"[{"op":"what","path":"/x"}]"#), 422);
        assert_eq!(code(r#"[{"op":"remove","path":"/a/7"}]"#), 422);
        let many = vec![r#"{"op":"add","path":"/z","value":1}"#; 10_001].join(",");
        assert_eq!(code(&format!("[{many}]")), 413);
    }

    #[test]
    fn refusals_show_untouched_fields_as_go_declares_them() {
        let node = api::schema::kind("", "v1", "ConfigMap").unwrap();
        let object = json!({"kind": "ConfigMap", "metadata": {"labels": {}, "uid": "u", "name": "c"}, "data": {"a": 5}});
        let patch = br#"[{"op":"replace","path":"/data/a","value":5}]"#;
        assert_eq!(
            shown(&object, patch, node),
            r#"{"data":{"a":5},"kind":"ConfigMap","metadata":{"name":"c","uid":"u","labels":{}}}"#
        );
    }

    #[test]
    fn copies_are_bounded() {
        let copies = vec![r#"{"op":"copy","from":"","path":"/a"}"#; 5000].join(",");
        let mut object = json!({"x": "y".repeat(100)});
        assert_eq!(apply(&mut object, format!("[{copies}]").as_bytes()).unwrap_err().code, 422);
    }
}
