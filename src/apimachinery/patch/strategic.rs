//! Strategic merge patch: a merge that knows, from the schema, which lists are maps in disguise.
//!
//! Works on plain JSON with the patch metadata of the types (`patchStrategy`, `patchMergeKey`), not
//! with list types. All directives: `$patch`, `$retainKeys`, `$deleteFromPrimitiveList/x`,
//! `$setElementOrder/x`. Where the schema knows nothing, maps merge and lists are replaced.

use serde_json::{Map, Value};

use api::schema::{Node, PatchStrategy, Type};

use crate::gotext;
use crate::status::Status;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";
const ELEMENT_ORDER: &str = "$setElementOrder/";

/// What the schema says of one list field.
#[derive(Clone, Copy)]
struct ListMeta<'a> {
    merges: bool,
    /// Empty for lists of scalars.
    key: &'a str,
    element: Option<Node<'a>>,
}

/// Merges the patch into the object.
pub fn apply(object: &mut Value, patch: Value, node: Node<'_>) -> Result<(), Status> {
    let Value::Object(patch) = patch else {
        return Err(Status::bad_request("error decoding patch: expected an object"));
    };
    let original = match std::mem::take(object) {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    let merged = merge_map(original, patch, Some(node)).map_err(Status::plain)?;
    *object = Value::Object(merged);
    Ok(())
}

fn child<'a>(node: Option<Node<'a>>, key: &str) -> Option<Node<'a>> {
    let node = node?;
    match node.ty() {
        Type::Map { .. } => node.element(),
        Type::ObjectOr { object, .. } => node.schema.node(object).child(key),
        _ => node.child(key),
    }
}

fn list_meta<'a>(node: Option<Node<'a>>, key: &str) -> ListMeta<'a> {
    let field = node.and_then(|node| node.field(key).map(|field| (node, field)));
    let Some((node, field)) = field else {
        return ListMeta { merges: false, key: "", element: None };
    };
    let merges = matches!(field.patch, PatchStrategy::Merge | PatchStrategy::MergeRetainKeys);
    let element = node.schema.node(field.ty).element();
    ListMeta { merges, key: node.schema.text(field.merge_key), element }
}

fn bad_type(directive: &str, map: Map<String, Value>) -> String {
    let map = gotext::print(&Value::Object(map));
    format!("unknown patch type: {directive} in map: {map}")
}

fn merge_map(
    mut original: Map<String, Value>,
    mut patch: Map<String, Value>,
    node: Option<Node<'_>>,
) -> Result<Map<String, Value>, String> {
    if let Some(directive) = patch.remove(DIRECTIVE) {
        match directive.as_str() {
            Some("replace") => return Ok(patch),
            Some("delete") => return Ok(Map::new()),
            Some("merge") => {}
            _ => {
                let text = gotext::print(&directive);
                patch.insert(DIRECTIVE.to_owned(), directive);
                return Err(bad_type(&text, patch));
            }
        }
    }
    retain_keys(&mut original, &mut patch)?;
    merge_ordered_lists(&mut original, &mut patch, node)?;
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix(DELETE_PRIMITIVES) {
            let Value::Array(gone) = value else { return Err(bad_argument(&key)) };
            if let Some(Value::Array(items)) = original.get_mut(field) {
                items.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let merged = match (original.remove(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                Some(Value::Object(merge_map(old, new, child(node, &key))?))
            }
            (Some(Value::Array(old)), Value::Array(new)) => {
                Some(Value::Array(merge_field_list(old, new, list_meta(node, &key))?))
            }
            (_, new) => strip(new),
        };
        if let Some(merged) = merged {
            original.insert(key, merged);
        }
    }
    Ok(original)
}

fn bad_argument(key: &str) -> String {
    format!("invalid argument type for directive {key}: expected a list")
}

/// `$retainKeys`: everything else goes.
fn retain_keys(
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
) -> Result<(), String> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(keys) = keys else { return Err(bad_argument(RETAIN_KEYS)) };
    let retained = |key: &str| keys.iter().any(|kept| kept.as_str() == Some(key));
    if patch.keys().any(|key| !key.starts_with('$') && !retained(key)) {
        return Err("retainKeys list doesn't contain the fields in the patch".to_owned());
    }
    original.retain(|key, _| retained(key));
    Ok(())
}

/// Lists with a `$setElementOrder` directive are merged first and then put in that order.
fn merge_ordered_lists(
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
    node: Option<Node<'_>>,
) -> Result<(), String> {
    let ordered = patch.keys().filter(|key| key.starts_with(ELEMENT_ORDER)).cloned();
    for directive in ordered.collect::<Vec<_>>() {
        let Some(Value::Array(order)) = patch.remove(&directive) else {
            return Err(bad_argument(&directive));
        };
        let field = &directive[ELEMENT_ORDER.len()..];
        let meta = list_meta(node, field);
        let old = match original.remove(field) {
            None | Some(Value::Null) => None,
            Some(Value::Array(items)) => Some(items),
            Some(_) => return Err(bad_argument(field)),
        };
        let new = match patch.remove(field) {
            None => None,
            Some(Value::Array(items)) => Some(items),
            Some(null) => {
                patch.insert(field.to_owned(), null);
                continue;
            }
        };
        check_order(new.as_deref().unwrap_or_default(), &order, meta.key)?;
        let server_order = old.clone().unwrap_or_default();
        let merged = match (old, new) {
            (None, None) => continue,
            (Some(old), None) => old,
            (None, Some(new)) => new.into_iter().filter_map(strip).collect(),
            (Some(old), Some(new)) => merge_field_list(old, new, meta)?,
        };
        let (mut listed, rest): (Vec<_>, Vec<_>) =
            merged.into_iter().partition(|item| position(&order, item, meta.key).is_some());
        listed.sort_by_key(|item| position(&order, item, meta.key));
        let merged = interleave(rest, listed, &server_order, meta.key);
        original.insert(field.to_owned(), Value::Array(merged));
    }
    Ok(())
}

/// The patch's own items must appear in the order that the directive gives.
fn check_order(items: &[Value], order: &[Value], key: &str) -> Result<(), String> {
    let kept = |item: &&Value| item.get(DIRECTIVE).is_none_or(|d| d.as_str() != Some("delete"));
    let mut order_left = order.iter();
    for item in items.iter().filter(kept) {
        if !order_left.any(|other| same(other, item, key)) {
            let items = gotext::print(&Value::Array(items.to_vec()));
            let order = gotext::print(&Value::Array(order.to_vec()));
            return Err(format!(
                "The order in patch list:\n{items}\n doesn't match $setElementOrder list:\n{order}\n"
            ));
        }
    }
    Ok(())
}

fn same(a: &Value, b: &Value, key: &str) -> bool {
    match key {
        "" => a == b,
        key => a.get(key).is_some_and(|value| Some(value) == b.get(key)),
    }
}

fn position(items: &[Value], item: &Value, key: &str) -> Option<usize> {
    items.iter().position(|other| same(other, item, key))
}

/// Server-only items keep their place before what followed them on the server; otherwise the
/// patch's items come first.
fn interleave(rest: Vec<Value>, listed: Vec<Value>, server: &[Value], key: &str) -> Vec<Value> {
    let mut out = Vec::with_capacity(rest.len() + listed.len());
    let (mut rest, mut listed) = (rest.into_iter().peekable(), listed.into_iter().peekable());
    loop {
        let rest_first = match (rest.peek(), listed.peek()) {
            (None, None) => return out,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(left), Some(right)) => {
                let places = (position(server, left, key), position(server, right, key));
                matches!(places, (Some(left), Some(right)) if left < right)
            }
        };
        out.extend(if rest_first { rest.next() } else { listed.next() });
    }
}

fn merge_field_list(
    original: Vec<Value>,
    patch: Vec<Value>,
    meta: ListMeta<'_>,
) -> Result<Vec<Value>, String> {
    match meta.merges {
        true => merge_list(original, patch, meta),
        false => Ok(patch),
    }
}

fn merge_list(
    original: Vec<Value>,
    patch: Vec<Value>,
    meta: ListMeta<'_>,
) -> Result<Vec<Value>, String> {
    let objects = original.iter().chain(&patch).any(Value::is_object);
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    if !objects {
        let order = patch.clone();
        let server = original.clone();
        let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
        for item in original.into_iter().chain(patch) {
            if !merged.contains(&item) {
                merged.push(item);
            }
        }
        return Ok(reorder(merged, &order, &server, ""));
    }
    if meta.key.is_empty() {
        return Err("cannot merge lists without merge key for type slice".to_owned());
    }
    let server = original.clone();
    let (mut merged, patch) = special_elements(original, patch, meta.key)?;
    let order = patch.clone();
    for item in patch {
        let Value::Object(new) = item else {
            return Err("unable to find api field in list element: expected a map".to_owned());
        };
        let Some(value) = new.get(meta.key) else {
            let map = gotext::print(&Value::Object(new));
            let key = meta.key;
            return Err(format!("map: {map} does not contain declared merge key: {key}"));
        };
        let found = merged.iter_mut().find(|old| old.get(meta.key) == Some(value));
        match found {
            Some(old) => {
                let map = match std::mem::take(old) {
                    Value::Object(map) => map,
                    _ => Map::new(),
                };
                *old = Value::Object(merge_map(map, new, meta.element)?);
            }
            None => merged.extend(strip(Value::Object(new))),
        }
    }
    Ok(reorder(merged, &order, &server, meta.key))
}

fn reorder(merged: Vec<Value>, order: &[Value], server: &[Value], key: &str) -> Vec<Value> {
    let (mut listed, rest): (Vec<_>, Vec<_>) =
        merged.into_iter().partition(|item| position(order, item, key).is_some());
    listed.sort_by_key(|item| position(order, item, key));
    interleave(rest, listed, server, key)
}

/// Elements with `$patch`: `delete` removes its counterpart, `replace` makes the patch the list.
fn special_elements(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), String> {
    let mut plain = Vec::with_capacity(patch.len());
    let mut replace = false;
    for item in patch {
        let directive = item.get(DIRECTIVE).map(|d| d.as_str().unwrap_or_default().to_owned());
        match directive.as_deref() {
            None => plain.push(item),
            Some("replace") => replace = true,
            Some("merge") => {
                return Err(format!("directive {DIRECTIVE}: merge is not allowed in a list"));
            }
            Some("delete") => {
                let Some(value) = item.get(key) else {
                    let map = gotext::print(&item);
                    return Err(format!("map: {map} does not contain declared merge key: {key}"));
                };
                original.retain(|old| old.get(key) != Some(value));
            }
            Some(other) => {
                let map = item.as_object().cloned().unwrap_or_default();
                return Err(bad_type(other, map));
            }
        }
    }
    match replace {
        true => Ok((Vec::new(), plain)),
        false => Ok((original, plain)),
    }
}

/// What is left of a value that has no counterpart: no directives, no nulls. `None` where a
/// directive deletes the whole.
fn strip(value: Value) -> Option<Value> {
    match value {
        Value::Object(mut map) => {
            if let Some(directive) = map.remove(DIRECTIVE)
                && directive.as_str() == Some("delete")
            {
                return None;
            }
            let mut out = Map::new();
            for (key, item) in map {
                let directive = key == RETAIN_KEYS
                    || key.starts_with(DELETE_PRIMITIVES)
                    || key.starts_with(ELEMENT_ORDER);
                if directive || item.is_null() {
                    continue;
                }
                if let Some(item) = strip(item) {
                    out.insert(key, item);
                }
            }
            Some(Value::Object(out))
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(strip).collect())),
        scalar => Some(scalar),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod_spec(original: Value, patch: Value) -> Result<Value, String> {
        let node = api::schema::kind("", "v1", "Pod").unwrap();
        let mut object = json!({"spec": original});
        apply(&mut object, json!({"spec": patch}), node).map_err(|status| status.message)?;
        Ok(object["spec"].take())
    }

    fn check(original: Value, patch: Value, result: Value) {
        assert_eq!(pod_spec(original, patch).unwrap(), result);
    }

    #[test]
    fn lists_of_maps_merge_by_key() {
        let two =
            json!({"containers": [{"name": "a", "image": "x", "args": ["1"]}, {"name": "b"}]});
        check(
            two.clone(),
            json!({"containers": [{"name": "b", "image": "y"}]}),
            json!({"containers": [{"name": "a", "image": "x", "args": ["1"]}, {"name": "b", "image": "y"}]}),
        );
        check(
            two.clone(),
            json!({"containers": [{"name": "c"}]}),
            json!({"containers": [{"name": "c"}, {"name": "a", "image": "x", "args": ["1"]}, {"name": "b"}]}),
        );
        check(
            two.clone(),
            json!({"containers": [{"name": "a", "$patch": "delete"}]}),
            json!({"containers": [{"name": "b"}]}),
        );
        check(
            two.clone(),
            json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}),
            json!({"containers": [{"name": "c"}]}),
        );
        check(
            two,
            json!({"containers": [{"name": "b", "image": "y"}], "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}),
            json!({"containers": [{"name": "b", "image": "y"}, {"name": "a", "image": "x", "args": ["1"]}]}),
        );
    }

    #[test]
    fn maps_take_directives() {
        check(
            json!({"nodeSelector": {"a": "1"}}),
            json!({"nodeSelector": {"$patch": "replace", "b": "2"}}),
            json!({"nodeSelector": {"b": "2"}}),
        );
        check(json!({"nodeSelector": {"a": "1"}}), json!({"nodeSelector": null}), json!({}));
        check(
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "secret"], "secret": {"secretName": "s"}}]}),
            json!({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}),
        );
    }

    #[test]
    fn lists_of_scalars_merge_and_delete() {
        let node = api::schema::kind("", "v1", "Pod").unwrap();
        let run = |patch: Value| {
            let mut object = json!({"metadata": {"finalizers": ["a", "b"]}});
            apply(&mut object, json!({"metadata": patch}), node).unwrap();
            object["metadata"]["finalizers"].take()
        };
        assert_eq!(run(json!({"finalizers": ["c"]})), json!(["c", "a", "b"]));
        assert_eq!(run(json!({"$deleteFromPrimitiveList/finalizers": ["a"]})), json!(["b"]));
        assert_eq!(
            run(json!({"finalizers": ["a"], "$setElementOrder/finalizers": ["b", "a"]})),
            json!(["b", "a"])
        );
    }

    #[test]
    fn errors_are_upstreams() {
        let error =
            pod_spec(json!({"nodeSelector": {}}), json!({"nodeSelector": {"$patch": "explode"}}));
        assert_eq!(error.unwrap_err(), "unknown patch type: explode in map: map[$patch:explode]");
        let error = pod_spec(
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"containers": [{"name": "b", "image": "y:2"}], "$setElementOrder/containers": [{"name": "a"}]}),
        );
        assert_eq!(
            error.unwrap_err(),
            "The order in patch list:\n[map[image:y:2 name:b]]\n doesn't match $setElementOrder list:\n[map[name:a]]\n"
        );
    }
}
