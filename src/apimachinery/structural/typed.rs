//! A structural schema as the `Schema` that server-side apply walks.
//!
//! Invariant: what does not fit into the tables' 16-bit numbers becomes `Any`; the tables are
//! complete at every time.

use std::borrow::Cow;
use std::collections::HashMap;

use api::schema::{
    Field, ListKind, Name, Node, Omit, PatchStrategy, Schema, Type, TypeId, builtin, definition,
};

use super::{Additional, Structural};

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const NONE: Name = Name { start: 0, len: 0 };

/// The schema of whole objects, and the type of its root.
pub fn typed(root: &Structural) -> (Schema, TypeId) {
    let mut maker = Maker::default();
    // The types of fields are made before the object that lists them.
    maker.types.push(Type::Any);
    let root = maker.root(root);
    let Maker { text, types, fields, .. } = maker;
    let (types, fields) = (Cow::Owned(types), Cow::Owned(fields));
    (Schema { text: Cow::Owned(text), types, fields }, root)
}

#[derive(Default)]
struct Maker {
    text: String,
    types: Vec<Type>,
    fields: Vec<Field>,
    /// What has been copied from the built-in schema.
    copied: HashMap<u16, TypeId>,
}

const ANY: TypeId = TypeId(0);

impl Maker {
    fn name(&mut self, text: &str) -> Name {
        let start = u32::try_from(self.text.len()).unwrap_or_default();
        let Ok(len) = u16::try_from(text.len()) else { return NONE };
        self.text.push_str(text);
        Name { start, len }
    }

    fn add(&mut self, ty: Type) -> TypeId {
        match u16::try_from(self.types.len()) {
            Ok(at) => {
                self.types.push(ty);
                TypeId(at)
            }
            Err(_) => ANY,
        }
    }

    fn root(&mut self, root: &Structural) -> TypeId {
        let string = self.add(Type::String);
        let meta = definition(OBJECT_META).map_or(ANY, |node| self.copy(node));
        let mut children = vec![
            ("apiVersion".to_owned(), string),
            ("kind".to_owned(), string),
            ("metadata".to_owned(), meta),
        ];
        for (name, child) in &root.properties {
            if !matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                let ty = self.ty(child);
                children.push((name.clone(), ty));
            }
        }
        let object = self.object(children, root.atomic);
        if root.preserve { self.add(Type::Open { object }) } else { object }
    }

    fn object(&mut self, mut children: Vec<(String, TypeId)>, atomic: bool) -> TypeId {
        children.sort_by(|a, b| a.0.cmp(&b.0));
        let first = self.fields.len();
        let numbers = (u16::try_from(first), u16::try_from(children.len()));
        let (Ok(first), Ok(count)) = numbers else { return ANY };
        for (name, ty) in children {
            let name = self.name(&name);
            self.fields.push(plain(name, ty));
        }
        self.add(Type::Object { name: NONE, first, count, atomic })
    }

    fn ty(&mut self, schema: &Structural) -> TypeId {
        if schema.int_or_string {
            return self.add(Type::IntOrString);
        }
        match schema.ty.as_str() {
            "string" => self.add(Type::String),
            "boolean" => self.add(Type::Bool),
            "integer" => self.add(Type::Int64),
            "number" => self.add(Type::Double),
            "array" => {
                let item = schema.items.as_ref().map_or(ANY, |item| self.ty(item));
                let keys = schema.list.keys.join(",");
                let keys = self.name(&keys);
                let kind = schema.list.kind.unwrap_or(ListKind::Atomic);
                self.add(Type::List { item, kind, keys })
            }
            "object" => self.map(schema),
            _ => ANY,
        }
    }

    fn map(&mut self, schema: &Structural) -> TypeId {
        if schema.properties.is_empty() {
            match &schema.additional {
                Additional::Schema(child) => {
                    let value = self.ty(child);
                    return self.add(Type::Map { value, atomic: schema.atomic });
                }
                Additional::Anything => {
                    return self.add(Type::Map { value: ANY, atomic: schema.atomic });
                }
                Additional::None => {}
            }
        }
        let mut children = Vec::new();
        for (name, child) in &schema.properties {
            let ty = self.ty(child);
            children.push((name.clone(), ty));
        }
        if schema.embedded {
            for name in ["apiVersion", "kind", "metadata"] {
                if !schema.properties.contains_key(name) {
                    children.push((name.to_owned(), ANY));
                }
            }
        }
        let object = self.object(children, schema.atomic);
        if schema.preserve { self.add(Type::Open { object }) } else { object }
    }

    /// Copies a type of the built-in schema, with all that it refers to.
    fn copy(&mut self, node: Node<'static>) -> TypeId {
        if let Some(known) = self.copied.get(&node.id.0) {
            return *known;
        }
        let schema = builtin();
        let made = match node.ty() {
            Type::Object { atomic, .. } => {
                let mut children = Vec::new();
                for field in node.fields() {
                    let ty = self.copy(schema.node(field.ty));
                    let default = self.name(schema.text(field.default));
                    children.push((schema.text(field.name), Field { ty, default, ..*field }));
                }
                let numbers = (u16::try_from(self.fields.len()), u16::try_from(children.len()));
                let (Ok(first), Ok(count)) = numbers else { return ANY };
                for (name, field) in children {
                    let name = self.name(name);
                    self.fields.push(Field { name, go: NONE, merge_key: NONE, ..field });
                }
                self.add(Type::Object { name: NONE, first, count, atomic })
            }
            Type::List { item, kind, keys } => {
                let item = self.copy(schema.node(item));
                let keys = self.name(schema.text(keys));
                self.add(Type::List { item, kind, keys })
            }
            Type::Map { value, atomic } => {
                let value = self.copy(schema.node(value));
                self.add(Type::Map { value, atomic })
            }
            Type::ObjectOr { .. } | Type::Open { .. } => ANY,
            scalar => self.add(scalar),
        };
        self.copied.insert(node.id.0, made);
        made
    }
}

fn plain(name: Name, ty: TypeId) -> Field {
    Field {
        name,
        ty,
        go: NONE,
        number: 0,
        within: [0, 0],
        required: false,
        omit: Omit::Absent,
        patch: PatchStrategy::Replace,
        merge_key: NONE,
        default: NONE,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_becomes_tables() {
        let root = Structural::read(&json!({"type": "object", "properties": {"spec": {
            "type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {
            "l": {"type": "array", "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["a", "b"], "items": {"type": "object"}}}}}}));
        let (schema, root) = typed(&root);
        let root = schema.node(root);
        assert!(root.child("metadata").unwrap().child("ownerReferences").is_some());
        let Type::Open { object } = root.child("spec").unwrap().ty() else { panic!("not open") };
        let list = schema.node(object).child("l").unwrap();
        let Type::List { kind, keys, .. } = list.ty() else { panic!("no list") };
        assert_eq!((kind, schema.text(keys)), (ListKind::Map, "a,b"));
    }
}
