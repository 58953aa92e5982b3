//! Joins the published schema, the JSON tags and the protobuf numbers into one arena of types.
//!
//! Every definition keeps its index; lists and maps are interned behind them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use api::schema::{ListKind, Omit, Other, PatchStrategy, Type, TypeId};

use crate::facts::{Definition, Encoding, Facts, Field as Fact, Proto};

/// A field with its texts still as strings.
pub(crate) struct Field {
    pub name: String,
    pub go: String,
    pub ty: TypeId,
    pub number: u16,
    pub within: [u8; 2],
    pub required: bool,
    pub omit: Omit,
    pub patch: PatchStrategy,
    pub merge_key: String,
    pub default: String,
}

/// A type with its texts still as strings.
pub(crate) struct Entry {
    pub ty: Type,
    /// The name of an object, the keys of a list.
    pub text: String,
}

/// The finished arena.
pub(crate) struct Built {
    pub types: Vec<Entry>,
    pub fields: Vec<Field>,
    /// Group, version, kind of everything that has one.
    pub kinds: BTreeMap<(String, String, String), TypeId>,
}

/// Types that travel on the wire but are in no published definition, with their group and version.
const UNPUBLISHED: &[(&str, &str)] = &[
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Table", "meta.k8s.io/v1/Table"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.TableColumnDefinition", ""),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.TableRow", ""),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.TableRowCondition", ""),
    (
        "io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata",
        "meta.k8s.io/v1/PartialObjectMetadata",
    ),
    (
        "io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadataList",
        "meta.k8s.io/v1/PartialObjectMetadataList",
    ),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.List", "v1/List"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.GroupVersionKind", ""),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.GroupVersionResource", ""),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.CreateOptions", "meta.k8s.io/v1/CreateOptions"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.UpdateOptions", "meta.k8s.io/v1/UpdateOptions"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.PatchOptions", "meta.k8s.io/v1/PatchOptions"),
    ("io.k8s.api.admission.v1.AdmissionReview", "admission.k8s.io/v1/AdmissionReview"),
    ("io.k8s.api.admission.v1.AdmissionRequest", ""),
    ("io.k8s.api.admission.v1.AdmissionResponse", ""),
    (
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.ConversionReview",
        "apiextensions.k8s.io/v1/ConversionReview",
    ),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.ConversionRequest", ""),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.ConversionResponse", ""),
];

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const APIEXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.";

/// A field as its Go struct declares it, with the embedded structs that lead to it.
struct Tag {
    encoding: Encoding,
    embeds: Vec<String>,
}

pub(crate) struct Builder<'a> {
    facts: &'a Facts,
    types: Vec<Entry>,
    fields: Vec<Field>,
    interned: HashMap<String, TypeId>,
    ids: HashMap<String, TypeId>,
}

/// `io.k8s.api.core.v1.Pod` → its Go package, protobuf package and type name.
fn packages(definition: &str) -> (String, String, String) {
    let (package, name) = definition.rsplit_once('.').unwrap();
    let package = package.strip_prefix("io.k8s.").unwrap();
    (package.replace('.', "/"), format!("k8s.io.{}", package.replace('-', "_")), name.to_owned())
}

/// Names are compared without case and punctuation: `x-kubernetes-list-type`, `xKubernetesListType`.
fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// The Go type as reflection prints it: source text with import aliases replaced by package names.
fn reflected(go: &str, package: &str) -> String {
    let (prefix, name) = match go.rfind(['*', ']']) {
        Some(at) => go.split_at(at + 1),
        None => ("", go),
    };
    let prefix = prefix.trim_start_matches('*');
    let builtin = ["string", "bool", "byte", "int32", "int64", "float64", "interface{}"];
    if let Some(inner) = prefix.strip_prefix("map[") {
        let (key, rest) = inner.split_once(']').unwrap();
        let key = reflected(key, package);
        return format!("map[{key}]{}", reflected(&format!("{rest}{name}"), package));
    }
    let name = match name.split_once('.') {
        Some((alias, name)) => {
            let digit = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
            let version = alias.match_indices('v').map(|(at, _)| &alias[at..]);
            let version = version.clone().find(|text| digit(&text[1..])).unwrap_or(alias);
            format!("{version}.{name}")
        }
        None if builtin.contains(&name) => name.to_owned(),
        None => format!("{}.{name}", package.rsplit('/').next().unwrap()),
    };
    let name = if name == "byte" { "uint8".to_owned() } else { name };
    format!("{prefix}{name}")
}

impl<'a> Builder<'a> {
    pub(crate) fn new(facts: &'a Facts) -> Self {
        Self {
            facts,
            types: Vec::new(),
            fields: Vec::new(),
            interned: HashMap::new(),
            ids: HashMap::new(),
        }
    }

    /// Builds the whole arena.
    pub(crate) fn build(mut self) -> Built {
        let mut definitions = self.facts.definitions.iter().collect::<Vec<_>>();
        let unpublished = UNPUBLISHED.iter().map(|(name, gvk)| {
            let gvk = gvk.split('/').map(str::to_owned).collect::<Vec<_>>();
            let gvks = match gvk.as_slice() {
                [version, kind] => vec![(String::new(), version.clone(), kind.clone())],
                [group, version, kind] => vec![(group.clone(), version.clone(), kind.clone())],
                _ => Vec::new(),
            };
            Definition { name: (*name).to_owned(), gvks, atomic: false }
        });
        let unpublished = unpublished.collect::<Vec<_>>();
        definitions.extend(unpublished.iter());
        let mut kinds = BTreeMap::new();
        for (index, definition) in definitions.iter().enumerate() {
            let id = TypeId(u16::try_from(index).unwrap());
            self.ids.insert(definition.name.clone(), id);
            self.types.push(Entry { ty: Type::Any, text: String::new() });
            for gvk in &definition.gvks {
                kinds.insert(gvk.clone(), id);
            }
        }
        let meta = |name: &str| self.ids[&format!("{META}{name}")];
        for (kind, id) in [("DeleteOptions", meta("DeleteOptions")), ("Status", meta("Status"))] {
            kinds.insert((String::new(), "v1".to_owned(), kind.to_owned()), id);
        }
        kinds.insert(
            ("meta.k8s.io".to_owned(), "v1".to_owned(), "DeleteOptions".to_owned()),
            meta("DeleteOptions"),
        );
        for definition in &definitions {
            let entry = self.definition(definition);
            let id = self.ids[&definition.name];
            self.types[usize::from(id.0)] = entry;
        }
        Built { types: self.types, fields: self.fields, kinds }
    }

    fn definition(&mut self, definition: &Definition) -> Entry {
        let name = definition.name.as_str();
        let scalar = |ty| Entry { ty, text: String::new() };
        let props = || self.ids[&format!("{APIEXTENSIONS}JSONSchemaProps")];
        if let Some(name) = name.strip_prefix(META) {
            match name {
                "Time" => return scalar(Type::Time),
                "MicroTime" => return scalar(Type::MicroTime),
                "FieldsV1" => return scalar(Type::FieldsV1),
                "Patch" => return scalar(Type::Any),
                _ => {}
            }
        }
        match name.strip_prefix(APIEXTENSIONS) {
            Some("JSON") => return scalar(Type::Any),
            Some("JSONSchemaPropsOrArray") => {
                return scalar(Type::ObjectOr { object: props(), other: Other::Objects });
            }
            Some("JSONSchemaPropsOrBool") => {
                return scalar(Type::ObjectOr { object: props(), other: Other::Bool });
            }
            Some("JSONSchemaPropsOrStringArray") => {
                return scalar(Type::ObjectOr { object: props(), other: Other::Strings });
            }
            _ => {}
        }
        match name {
            "io.k8s.apimachinery.pkg.api.resource.Quantity" => return scalar(Type::Quantity),
            "io.k8s.apimachinery.pkg.util.intstr.IntOrString" => return scalar(Type::IntOrString),
            "io.k8s.apimachinery.pkg.runtime.RawExtension" => return scalar(Type::RawExtension),
            _ => {}
        }
        let mut fields = match self.facts.fields.get(name) {
            Some(rows) => self.published(definition, rows),
            None => self.unpublished(name),
        };
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        let first = u16::try_from(self.fields.len()).unwrap();
        let count = u16::try_from(fields.len()).unwrap();
        self.fields.extend(fields);
        let none = api::schema::Name::default();
        let ty = Type::Object { name: none, first, count, atomic: definition.atomic };
        Entry { ty, text: name.to_owned() }
    }

    /// The fields of a published definition.
    fn published(&mut self, definition: &Definition, rows: &[Fact]) -> Vec<Field> {
        let names = rows.iter().map(|row| row.name.as_str()).collect::<BTreeSet<_>>();
        let (package, proto_package, type_name) = packages(&definition.name);
        let tags = self.tags_for(&package, &type_name, &names);
        let type_meta = definition.gvks.iter().any(|gvk| gvk.2 == type_name)
            || tags.get("kind").is_some_and(|tag| tag.encoding.inline);
        let mut fields = Vec::new();
        for row in rows {
            let tag = tags.get(&row.name);
            let ty = self.published_type(definition, row, tag.map(|tag| tag.encoding.go.as_str()));
            let in_type_meta = type_meta && matches!(row.name.as_str(), "kind" | "apiVersion");
            let embeds = tag.map_or(&[] as &[String], |tag| &tag.embeds);
            let (number, within) = match in_type_meta {
                true => (0, [0, 0]),
                false => self.number(&proto_package, &type_name, &row.name, embeds),
            };
            let omit = match (in_type_meta, tag) {
                (true, _) => Omit::Empty,
                (false, Some(tag)) => self.omit(&tag.encoding, ty),
                (false, None) => Omit::Never,
            };
            fields.push(Field {
                name: row.name.clone(),
                go: tag.map_or("string".to_owned(), |tag| reflected(&tag.encoding.go, &package)),
                ty,
                number,
                within,
                required: row.required,
                omit,
                patch: match row.patch_strategy.as_str() {
                    "merge" => PatchStrategy::Merge,
                    "merge,retainKeys" => PatchStrategy::MergeRetainKeys,
                    "retainKeys" => PatchStrategy::RetainKeys,
                    _ => PatchStrategy::Replace,
                },
                merge_key: row.merge_key.clone(),
                default: row.default.clone(),
            });
        }
        fields
    }

    /// The fields of a type that only its Go declaration and its protobuf message describe.
    fn unpublished(&mut self, definition: &str) -> Vec<Field> {
        let (package, proto_package, type_name) = packages(definition);
        let mut tags = self.flatten(&package, &type_name);
        if !UNPUBLISHED.iter().any(|(name, _)| *name == definition) {
            return Vec::new();
        }
        if tags.is_empty() {
            let message = self.facts.proto.get(&(proto_package.clone(), type_name.clone()));
            for proto in message.into_iter().flatten() {
                let encoding = Encoding {
                    name: proto.name.clone(),
                    go: "string".to_owned(),
                    omitempty: false,
                    omitzero: false,
                    inline: false,
                };
                tags.insert(proto.name.clone(), Tag { encoding, embeds: Vec::new() });
            }
        }
        let mut fields = Vec::new();
        for (name, tag) in tags {
            let ty = self.go_type(&package, &tag.encoding.go);
            let (number, within) = match tag.encoding.inline {
                true => (0, [0, 0]),
                false => self.number(&proto_package, &type_name, &name, &tag.embeds),
            };
            fields.push(Field {
                go: reflected(&tag.encoding.go, &package),
                ty,
                number,
                within,
                required: false,
                omit: self.omit(&tag.encoding, ty),
                patch: PatchStrategy::Replace,
                merge_key: String::new(),
                default: String::new(),
                name,
            });
        }
        fields
    }

    /// The Go struct of a definition. Where the type is an alias, or its rows went to a neighbour,
    /// another type with exactly these fields stands in.
    fn tags_for(&self, package: &str, name: &str, names: &BTreeSet<&str>) -> BTreeMap<String, Tag> {
        let fits = |tags: &BTreeMap<String, Tag>| {
            tags.keys().map(String::as_str).collect::<BTreeSet<_>>() == *names
        };
        let tags = self.flatten(package, name);
        if fits(&tags) {
            return tags;
        }
        let v1 = package.rsplit_once('/').map(|(group, _)| format!("{group}/v1"));
        let v1 = v1.unwrap_or_default();
        let tags = self.flatten(&v1, name);
        if fits(&tags) {
            return tags;
        }
        let neighbours = self.facts.package(package);
        let mut neighbours = neighbours.keys().map(|other| self.flatten(package, other));
        neighbours.find(|tags| fits(tags)).unwrap_or_default()
    }

    fn flatten(&self, package: &str, name: &str) -> BTreeMap<String, Tag> {
        let mut tags = BTreeMap::new();
        let key = (package.to_owned(), name.to_owned());
        for row in self.facts.encoding.get(&key).into_iter().flatten() {
            if !row.inline || !row.name.is_empty() {
                tags.insert(row.name.clone(), Tag { encoding: row.clone(), embeds: Vec::new() });
                continue;
            }
            let embedded = row.go.rsplit('.').next().unwrap();
            if embedded == "TypeMeta" {
                for name in ["apiVersion", "kind"] {
                    let encoding = Encoding {
                        name: name.to_owned(),
                        go: "string".to_owned(),
                        omitempty: true,
                        omitzero: false,
                        inline: true,
                    };
                    tags.insert(name.to_owned(), Tag { encoding, embeds: Vec::new() });
                }
                continue;
            }
            let mut inner = self.flatten(package, embedded);
            if inner.is_empty() {
                let group = package.rsplit_once('/').unwrap().0;
                inner = self.flatten(&format!("{group}/v1"), embedded);
            }
            for (name, mut tag) in inner {
                tag.embeds.insert(0, embedded.to_owned());
                tags.insert(name, tag);
            }
        }
        tags
    }

    /// The field's number, and those of the messages embedded on the way to it.
    fn number(
        &self,
        package: &str,
        message: &str,
        name: &str,
        embeds: &[String],
    ) -> (u16, [u8; 2]) {
        let (mut package, mut message) = (package.to_owned(), message.to_owned());
        let mut within = [0, 0];
        for (depth, embed) in embeds.iter().enumerate() {
            let rows = self.message(&package, &message);
            let row = rows.iter().find(|row| row.ty.rsplit('.').next() == Some(embed));
            let Some(row) = row else { return (0, [0, 0]) };
            within[depth] = u8::try_from(row.number).unwrap();
            if let Some((full, _)) = row.ty.trim_start_matches('.').rsplit_once('.') {
                package = full.to_owned();
            }
            message.clone_from(embed);
        }
        let rows = self.message(&package, &message);
        let row = rows.iter().find(|row| plain(&row.name) == plain(name));
        row.map_or((0, [0, 0]), |row| (row.number, within))
    }

    fn message(&self, package: &str, message: &str) -> &[Proto] {
        let key = (package.to_owned(), message.to_owned());
        self.facts.proto.get(&key).map_or(&[], Vec::as_slice)
    }

    fn omit(&self, encoding: &Encoding, ty: TypeId) -> Omit {
        let pointer = encoding.go.starts_with('*');
        let shape = match self.types.get(usize::from(ty.0)).map(|entry| entry.ty) {
            // Definitions that are still to be filled in are structs, all of them.
            Some(Type::Any) | None => Shape::Struct,
            Some(ty) => shape(ty),
        };
        let shape = if encoding.go.contains("interface{}") { Shape::Other } else { shape };
        match (pointer, encoding.omitempty, encoding.omitzero, shape) {
            (true, true, ..) => Omit::Absent,
            (true, false, ..) => Omit::Null,
            (false, _, true, _) => Omit::Empty,
            (false, true, false, Shape::Struct) | (false, false, false, _) => Omit::Never,
            (false, true, false, Shape::Other) => Omit::Empty,
        }
    }

    fn published_type(&mut self, of: &Definition, row: &Fact, go: Option<&str>) -> TypeId {
        if row.ty == "string" && go.is_some_and(|go| go.ends_with("metav1.Duration")) {
            return self.intern(Type::Duration, "");
        }
        let (list, rest) = match row.ty.strip_prefix("[]") {
            Some(rest) => (true, rest),
            None => (false, row.ty.as_str()),
        };
        let atomic = row.map_type == "atomic";
        let bytes = go.is_some_and(|go| go.ends_with("[]byte"));
        if list {
            let item = self.named(rest, &row.format);
            let kind = match row.list_type.as_str() {
                "set" => ListKind::Set,
                "map" => ListKind::Map,
                _ => ListKind::Atomic,
            };
            return self.list(item, kind, &row.list_keys);
        }
        if let Some(value) = rest.strip_prefix("map:") {
            let value = match (value.strip_prefix("[]"), bytes) {
                (Some(item), _) => {
                    let item = self.named(item, "");
                    self.list(item, ListKind::Atomic, "")
                }
                (None, true) => self.intern(Type::Bytes, ""),
                (None, false) => self.named(value, &row.format),
            };
            return self.intern(Type::Map { value, atomic }, "");
        }
        let id = self.named(rest, &row.format);
        let inner_atomic = self.facts.definitions.iter().any(|d| d.name == rest && d.atomic);
        match atomic && !of.atomic && !inner_atomic && rest.starts_with("io.k8s.") {
            true => panic!("{}.{} is atomic by itself: not foreseen", of.name, row.name),
            false => id,
        }
    }

    fn list(&mut self, item: TypeId, kind: ListKind, keys: &str) -> TypeId {
        self.intern(Type::List { item, kind, keys: api::schema::Name::default() }, keys)
    }

    fn named(&mut self, name: &str, format: &str) -> TypeId {
        let scalar = match (name, format) {
            ("string", "byte") => Type::Bytes,
            ("string", _) => Type::String,
            ("boolean", _) => Type::Bool,
            ("integer", "int32") => Type::Int32,
            ("integer", _) => Type::Int64,
            ("number", _) => Type::Double,
            ("any" | "object", _) => Type::Any,
            _ => return *self.ids.get(name).unwrap_or_else(|| panic!("no definition {name}")),
        };
        self.intern(scalar, "")
    }

    /// A type from its Go text, for what is not published.
    fn go_type(&mut self, package: &str, go: &str) -> TypeId {
        let go = go.trim_start_matches('*');
        if go == "[]byte" {
            return self.intern(Type::Bytes, "");
        }
        if let Some(item) = go.strip_prefix("[]") {
            let item = self.go_type(package, item);
            return self.list(item, ListKind::Atomic, "");
        }
        if let Some(value) = go.strip_prefix("map[string]") {
            let value = self.go_type(package, value);
            return self.intern(Type::Map { value, atomic: false }, "");
        }
        let scalar = match go {
            "bool" => Some(Type::Bool),
            "int32" => Some(Type::Int32),
            "int64" => Some(Type::Int64),
            "interface{}" => Some(Type::Any),
            _ => None,
        };
        if let Some(scalar) = scalar {
            return self.intern(scalar, "");
        }
        let full = match go.split_once('.') {
            Some(("metav1" | "v1", name)) => format!("{META}{name}"),
            Some(("runtime", name)) => format!("io.k8s.apimachinery.pkg.runtime.{name}"),
            Some(("authenticationv1", name)) => format!("io.k8s.api.authentication.v1.{name}"),
            _ => format!("io.k8s.{}.{go}", package.replace('/', ".")),
        };
        match self.ids.get(&full) {
            Some(id) => *id,
            None => self.intern(Type::String, ""),
        }
    }

    fn intern(&mut self, ty: Type, text: &str) -> TypeId {
        let key = format!("{ty:?} {text}");
        let next = TypeId(u16::try_from(self.types.len()).unwrap());
        let id = *self.interned.entry(key).or_insert(next);
        if id == next {
            self.types.push(Entry { ty, text: text.to_owned() });
        }
        id
    }
}

/// Whether Go's `omitempty` has an effect on a value of the type.
enum Shape {
    Struct,
    Other,
}

fn shape(ty: Type) -> Shape {
    match ty {
        Type::Object { .. }
        | Type::ObjectOr { .. }
        | Type::Quantity
        | Type::IntOrString
        | Type::Time
        | Type::MicroTime
        | Type::Duration
        | Type::FieldsV1
        | Type::RawExtension => Shape::Struct,
        _ => Shape::Other,
    }
}
