//! The fact tables, read and indexed. Knows their columns and nothing else.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// One row of `fields.tsv`.
pub(crate) struct Field {
    pub name: String,
    pub ty: String,
    pub format: String,
    pub required: bool,
    pub list_type: String,
    pub list_keys: String,
    pub map_type: String,
    pub patch_strategy: String,
    pub merge_key: String,
    pub default: String,
}

/// One row of `definitions.tsv`.
pub(crate) struct Definition {
    pub name: String,
    pub gvks: Vec<(String, String, String)>,
    pub atomic: bool,
}

/// One row of `json-encoding.tsv`.
#[derive(Clone)]
pub(crate) struct Encoding {
    pub name: String,
    pub go: String,
    pub omitempty: bool,
    pub omitzero: bool,
    pub inline: bool,
}

/// One row of `protobuf.tsv`.
#[derive(Clone)]
pub(crate) struct Proto {
    pub number: u16,
    pub ty: String,
    pub name: String,
}

/// One row of `resources.tsv`.
pub(crate) struct Resource {
    pub group: String,
    pub version: String,
    pub resource: String,
    pub kind: String,
    pub singular: String,
    pub namespaced: bool,
    pub verbs: Vec<String>,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
}

/// All of it.
pub(crate) struct Facts {
    pub definitions: Vec<Definition>,
    pub fields: HashMap<String, Vec<Field>>,
    /// By package and type.
    pub encoding: HashMap<(String, String), Vec<Encoding>>,
    /// By package and message.
    pub proto: HashMap<(String, String), Vec<Proto>>,
    pub resources: Vec<Resource>,
}

fn rows(dir: &Path, name: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(dir.join(name)).expect("a facts table that is there");
    let row = |line: &str| line.split('\t').map(str::to_owned).collect::<Vec<_>>();
    text.lines().skip(1).filter(|line| !line.is_empty()).map(row).collect()
}

fn list(text: &str) -> Vec<String> {
    text.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

fn gvk(text: &str) -> Option<(String, String, String)> {
    let parts = text.split('/').collect::<Vec<_>>();
    match parts.as_slice() {
        [version, kind] => Some((String::new(), (*version).to_owned(), (*kind).to_owned())),
        [group, version, kind] => {
            Some(((*group).to_owned(), (*version).to_owned(), (*kind).to_owned()))
        }
        _ => None,
    }
}

impl Facts {
    /// Reads every table; a missing column is a panic, which is right for a generator.
    pub(crate) fn read(dir: &Path) -> Facts {
        let mut facts = Facts {
            definitions: Vec::new(),
            fields: HashMap::new(),
            encoding: HashMap::new(),
            proto: HashMap::new(),
            resources: Vec::new(),
        };
        for row in rows(dir, "definitions.tsv") {
            facts.definitions.push(Definition {
                name: row[0].clone(),
                gvks: list(&row[3]).iter().filter_map(|text| gvk(text)).collect(),
                atomic: row[4] == "atomic",
            });
        }
        for row in rows(dir, "fields.tsv") {
            facts.fields.entry(row[0].clone()).or_default().push(Field {
                name: row[1].clone(),
                ty: row[2].clone(),
                format: row[3].clone(),
                required: row[4] == "1",
                list_type: row[5].clone(),
                list_keys: row[6].clone(),
                map_type: row[7].clone(),
                patch_strategy: row[8].clone(),
                merge_key: row[9].clone(),
                default: row[10].clone(),
            });
        }
        for row in rows(dir, "json-encoding.tsv") {
            facts.encoding.entry((row[0].clone(), row[1].clone())).or_default().push(Encoding {
                name: row[2].clone(),
                go: row[3].clone(),
                omitempty: row[4] == "1",
                omitzero: row[5] == "1",
                inline: row[6] == "1",
            });
        }
        for row in rows(dir, "protobuf.tsv") {
            facts.proto.entry((row[0].clone(), row[1].clone())).or_default().push(Proto {
                number: row[2].parse().unwrap(),
                ty: row[4].clone(),
                name: row[5].clone(),
            });
        }
        for row in rows(dir, "resources.tsv") {
            facts.resources.push(Resource {
                group: row[0].clone(),
                version: row[1].clone(),
                resource: row[2].clone(),
                kind: row[3].clone(),
                singular: row[4].clone(),
                namespaced: row[5] == "Namespaced",
                verbs: list(&row[6]),
                short_names: list(&row[7]),
                categories: list(&row[8]),
            });
        }
        facts
    }

    /// The types of one package, sorted by name.
    pub(crate) fn package<'a>(&'a self, package: &str) -> BTreeMap<&'a str, &'a [Encoding]> {
        let of_package = self.encoding.iter().filter(|((found, _), _)| found == package);
        of_package.map(|((_, name), rows)| (name.as_str(), rows.as_slice())).collect()
    }
}
