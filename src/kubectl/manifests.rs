//! `-f`: objects from files, folders and standard input.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::discovery::{items, text};

/// Every object of these files, lists taken apart, in order.
pub(crate) fn read(files: &[PathBuf], recursive: bool) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for file in files {
        if file == Path::new("-") {
            let mut all = String::new();
            std::io::stdin().read_to_string(&mut all).context("reading standard input")?;
            parse(&all, "STDIN", &mut objects)?;
        } else if file.to_str().is_some_and(|it| it.starts_with("http")) {
            bail!(
                "{}: reading manifests from a server needs kubectl, or curl and `-f -`",
                file.display()
            );
        } else {
            let meta = fs::metadata(file)
                .with_context(|| format!("the path {:?} does not exist", file.display()))?;
            let mut paths = Vec::new();
            match meta.is_dir() {
                true => folder(file, recursive, &mut paths)?,
                false => paths.push(file.clone()),
            }
            for path in paths {
                let all = fs::read_to_string(&path)
                    .with_context(|| format!("reading {}", path.display()))?;
                parse(&all, &path.display().to_string(), &mut objects)?;
            }
        }
    }
    if objects.is_empty() && !files.is_empty() {
        bail!("no objects passed to apply");
    }
    Ok(objects)
}

fn folder(path: &Path, recursive: bool, into: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(path).with_context(|| format!("reading {}", path.display()))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    for path in paths {
        let ending = path.extension().and_then(|it| it.to_str()).unwrap_or_default();
        if path.is_dir() {
            if recursive {
                folder(&path, recursive, into)?;
            }
        } else if ["yaml", "yml", "json"].contains(&ending) {
            into.push(path);
        }
    }
    Ok(())
}

fn parse(all: &str, place: &str, into: &mut Vec<Value>) -> Result<()> {
    for document in documents(all) {
        let parsed = apimachinery::yaml::parse(document.as_bytes())
            .map_err(|err| anyhow::anyhow!("error parsing {place}: {err}"))?;
        match parsed.value {
            Value::Null => {}
            list if list["kind"] == "List" => into.extend(items(&list, "items").to_vec()),
            object => {
                let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
                if version.is_empty() || kind.is_empty() {
                    bail!("error validating {place:?}: apiVersion and kind must be set");
                }
                into.push(object);
            }
        }
    }
    Ok(())
}

/// The documents of a YAML text, as they stand between the `---` lines.
fn documents(all: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for line in all.split_inclusive('\n') {
        let marker = line
            .strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        match (marker, documents.last_mut()) {
            (false, Some(last)) => last.push_str(line),
            _ => documents.push(String::new()),
        }
    }
    let said = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    documents.retain(|document| document.lines().any(said));
    documents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_and_lists_are_taken_apart() {
        let text = "# a comment\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\n\n---\n\
                    apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: b}}\n";
        let mut found = Vec::new();
        parse(text, "x", &mut found).unwrap();
        let names: Vec<_> = found.iter().map(|it| it["metadata"]["name"].clone()).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(parse("a: 1\n", "x", &mut found).is_err());
        assert!(parse("{", "x", &mut found).is_err());
    }
}
