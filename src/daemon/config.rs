//! Configuration files as k3s has them: `config.yaml`, then `config.yaml.d/*.yaml` in name order,
//! turned into flags that stand before the ones given on the command line.
//!
//! Knows no key by itself: the caller says what a key is. Precedence, lowest first: built-in
//! default, environment, files, command line; a list on the command line replaces the whole list.
//! Invariant: every problem of every file is reported at once, with file, line and key.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use crate::component::ConfigError;

/// What the command line makes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Present or not: `true` and `false`.
    Switch,
    Single,
    List,
    /// Known to another role only; skipped, so that one file may serve server and agent.
    Elsewhere,
}

/// One key of the files, merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    pub key: String,
    /// What it stands for on the command line: `--key=value`, one per value.
    pub flags: Vec<String>,
    /// `file:line` of its last mention.
    pub place: String,
}

/// What the caller knows of its flags.
pub struct Flags<'a> {
    /// What a key is, under the name that it is given by (a letter stands for a long name); `None`
    /// for an unknown one.
    pub known: &'a dyn Fn(&str) -> Option<(String, Key)>,
    /// Whether a flag (`--key=value`) is acceptable by itself, or why not.
    pub valid: &'a dyn Fn(&str) -> Result<(), String>,
}

struct Entry {
    kind: Key,
    values: Vec<String>,
    place: String,
}

/// Reads `file` and `<file>.d`, and returns what they set, sorted by key.
/// Files that do not exist count as empty.
///
/// # Errors
/// All problems of all files, one per line.
pub fn read(file: &Path, flags: &Flags<'_>) -> Result<Vec<Setting>, ConfigError> {
    let mut merged: BTreeMap<String, Entry> = BTreeMap::new();
    let mut problems = Vec::new();
    let paths = std::iter::once(file.to_owned()).chain(drop_ins(file, &mut problems));
    for path in paths {
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
            Err(err) => {
                problems.push(format!("{}: cannot be read: {err}", path.display()));
                continue;
            }
        };
        merge(&path, &text, flags, &mut merged, &mut problems);
    }
    if !problems.is_empty() {
        return Err(ConfigError(problems.join("\n")));
    }
    Ok(render(merged))
}

fn render(merged: BTreeMap<String, Entry>) -> Vec<Setting> {
    merged
        .into_iter()
        .map(|(key, entry)| {
            let flags = match entry.kind {
                Key::Switch if entry.values.iter().any(|value| value == "true") => {
                    vec![format!("--{key}")]
                }
                Key::Switch | Key::Elsewhere => Vec::new(),
                Key::Single | Key::List => {
                    entry.values.iter().map(|value| flag(&key, value)).collect()
                }
            };
            Setting { key, flags, place: entry.place }
        })
        .collect()
}

/// A flag as it is given: one letter after one dash.
fn flag(key: &str, value: &str) -> String {
    if key.len() == 1 { format!("-{key}={value}") } else { format!("--{key}={value}") }
}

/// `<file>.d/*.yaml` and `*.yml`, sorted by name.
fn drop_ins(file: &Path, problems: &mut Vec<String>) -> Vec<PathBuf> {
    let mut folder = file.as_os_str().to_owned();
    folder.push(".d");
    let folder = PathBuf::from(folder);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(err) => {
            problems.push(format!("{}: cannot be read: {err}", folder.display()));
            return Vec::new();
        }
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml"))
        .collect();
    paths.sort();
    paths
}

fn merge(
    path: &Path,
    text: &str,
    flags: &Flags<'_>,
    merged: &mut BTreeMap<String, Entry>,
    problems: &mut Vec<String>,
) {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return;
    }
    let entries: Entries = match serde_saphyr::from_str(text) {
        Ok(entries) => entries,
        Err(err) => {
            let first = err.to_string().lines().next().unwrap_or_default().to_owned();
            problems.push(format!("{}: not a YAML mapping of flags: {first}", path.display()));
            return;
        }
    };
    for (name, values) in entries.0 {
        let place = format!("{}:{}", path.display(), name.referenced.line());
        let (key, append) = match name.value.strip_suffix('+') {
            Some(key) => (key, true),
            None => (name.value.as_str(), false),
        };
        let Some((key, kind)) = (flags.known)(key) else {
            problems.push(format!("{place}: unknown key \"{key}\""));
            continue;
        };
        if let Err(reason) = check(kind, &values.value) {
            problems.push(format!("{place}: key \"{key}\" {reason}"));
            continue;
        }
        if matches!(kind, Key::Single | Key::List) {
            let invalid = |value: &String| (flags.valid)(&flag(&key, value)).err();
            if let Some(reason) = values.value.0.iter().find_map(invalid) {
                problems.push(format!("{place}: key \"{key}\": {reason}"));
                continue;
            }
        }
        let entry = merged.entry(key).or_insert_with(|| Entry {
            kind,
            values: Vec::new(),
            place: String::new(),
        });
        entry.place = place;
        match (append, kind) {
            (true, Key::List) => entry.values.extend(values.value.0),
            (true, _) => entry.values = vec![entry.values.concat() + &values.value.0.concat()],
            (false, _) => entry.values = values.value.0,
        }
    }
}

fn check(kind: Key, values: &Values) -> Result<(), String> {
    match (kind, values.0.as_slice()) {
        (Key::List | Key::Elsewhere, _) => Ok(()),
        (Key::Switch, [one]) if one == "true" || one == "false" => Ok(()),
        (Key::Switch, _) => Err("must be true or false".to_owned()),
        (Key::Single, [_]) => Ok(()),
        (Key::Single, _) => Err("takes one value, not a list".to_owned()),
    }
}

/// A mapping in file order, keys with their place.
struct Entries(Vec<(Spanned<String>, Spanned<Values>)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Mapping;
        impl<'de> Visitor<'de> for Mapping {
            type Value = Entries;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of flags to values")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Mapping)
    }
}

/// A scalar or a list of scalars, as text.
struct Values(Vec<String>);

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Scalars;
        impl<'de> Visitor<'de> for Scalars {
            type Value = Values;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value or a list of values")
            }
            fn visit_bool<E>(self, value: bool) -> Result<Values, E> {
                Ok(Values(vec![value.to_string()]))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Values, E> {
                Ok(Values(vec![value.to_string()]))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Values, E> {
                Ok(Values(vec![value.to_string()]))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Values, E> {
                Ok(Values(vec![value.to_string()]))
            }
            fn visit_str<E>(self, value: &str) -> Result<Values, E> {
                Ok(Values(vec![value.to_owned()]))
            }
            fn visit_unit<E>(self) -> Result<Values, E> {
                Ok(Values(vec![String::new()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Values, A::Error> {
                let mut all = Vec::new();
                while let Some(Values(mut one)) = seq.next_element()? {
                    all.append(&mut one);
                }
                Ok(Values(all))
            }
        }
        deserializer.deserialize_any(Scalars)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(key: &str) -> Option<(String, Key)> {
        let kind = match key {
            "disable-agent" => Key::Switch,
            "token" | "https-listen-port" => Key::Single,
            "node-label" | "disable" => Key::List,
            "lb-server-port" => Key::Elsewhere,
            _ => return None,
        };
        Some((key.to_owned(), kind))
    }

    fn check(files: &[(&str, &str)], expected: Result<&[&str], &[&str]>) {
        let dir = std::env::temp_dir().join(format!(
            "k3s-config-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let main = dir.join("config.yaml");
        fs::create_dir_all(dir.join("config.yaml.d")).unwrap();
        for (name, text) in files {
            fs::write(dir.join(name), text).unwrap();
        }
        let valid = |flag: &str| match flag.strip_prefix("--https-listen-port=") {
            Some(port) => port.parse::<u16>().map(drop).map_err(|err| err.to_string()),
            None => Ok(()),
        };
        let got = read(&main, &Flags { known: &known, valid: &valid });
        let got = got.map(|all| all.into_iter().flat_map(|one| one.flags).collect::<Vec<_>>());
        fs::remove_dir_all(&dir).unwrap();
        match (got, expected) {
            (Ok(got), Ok(expected)) => assert_eq!(got, expected),
            (Err(got), Err(expected)) => {
                for part in expected {
                    assert!(got.0.contains(part), "{part} not in {}", got.0);
                }
            }
            (got, expected) => panic!("{got:?} is not {expected:?}"),
        }
    }

    #[test]
    fn files_become_flags_in_k3s_order() {
        check(&[], Ok(&[]));
        check(&[("config.yaml", "# nothing\n")], Ok(&[]));
        check(
            &[("config.yaml", "token: a\nhttps-listen-port: 7443\ndisable-agent: true\n")],
            Ok(&["--disable-agent", "--https-listen-port=7443", "--token=a"]),
        );
        check(
            &[
                ("config.yaml", "token: a\nnode-label:\n- a=b\n- c=d\n"),
                ("config.yaml.d/10.yaml", "token: b\nnode-label+:\n- e=f\n"),
                ("config.yaml.d/20.txt", "token: ignored\n"),
            ],
            Ok(&["--node-label=a=b", "--node-label=c=d", "--node-label=e=f", "--token=b"]),
        );
        check(&[("config.yaml", "lb-server-port: 1\ndisable-agent: false\n")], Ok(&[]));
    }

    #[test]
    fn mistakes_are_named_with_file_line_and_key() {
        check(
            &[
                ("config.yaml", "token: a\nbogus: 1\n"),
                ("config.yaml.d/a.yaml", "disable-agent: x\n"),
            ],
            Err(&[
                "config.yaml:2: unknown key \"bogus\"",
                "a.yaml:1: key \"disable-agent\" must be",
            ]),
        );
        check(&[("config.yaml", "token: [a, b]\n")], Err(&["takes one value"]));
        check(
            &[("config.yaml", "\nhttps-listen-port: banana\n")],
            Err(&["config.yaml:2: key \"https-listen-port\": invalid digit"]),
        );
        check(&[("config.yaml", "- a\n")], Err(&["not a YAML mapping"]));
        check(&[("config.yaml", "token: {\n")], Err(&["not a YAML mapping"]));
    }
}
