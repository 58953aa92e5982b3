//! What linters do not check: layers, file sizes, the top level, leftover words.
//!
//! Invariant: an exception is a line here with its reason.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Lines without tests that a file may have.
const LINES_MAX: usize = 800;
/// Files that may be longer, and why.
const LONG: &[(&str, &str)] = &[];
/// What the top level may hold.
const TOP: &[&str] =
    &["Cargo.toml", "Cargo.lock", "src", "units", "packaging", "completions", "tests", "README.md"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the root").to_owned()
}

/// Libraries and the libraries of ours that each may use; components may use all of them.
fn allowed() -> BTreeMap<&'static str, &'static [&'static str]> {
    BTreeMap::from([
        ("api", &[][..]),
        ("apimachinery", &["api"][..]),
        ("client", &["api", "apimachinery", "pki"][..]),
        ("kubectl", &["apimachinery", "client"][..]),
        ("pki", &["api", "apimachinery"][..]),
        ("daemon", &[][..]),
        ("etcd", &[][..]),
        ("netlink", &[][..]),
        ("tunnel", &[][..]),
    ])
}

#[test]
fn crates_depend_only_on_the_layers_below() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo metadata");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let libraries = allowed();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("name");
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            if dependency["path"].is_null() {
                continue;
            }
            let on = dependency["name"].as_str().expect("name");
            let fine = match libraries.get(name) {
                Some(may) => may.contains(&on),
                None => matches!(name, "k3s" | "bench") || libraries.contains_key(on),
            };
            assert!(fine, "{name} must not depend on {on}");
        }
    }
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut wrong = Vec::new();
    for path in sources() {
        let text = fs::read_to_string(&path).expect("source");
        let name = path.strip_prefix(root()).expect("inside").display().to_string();
        if name.contains("/generated/") {
            if !text.starts_with("//")
                || !text.lines().next().is_some_and(|l| l.contains("enerated"))
            {
                wrong.push(format!("{name}: the first line must name the generator"));
            }
            continue;
        }
        let body = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let lines = body.lines().count();
        if lines > LINES_MAX && !LONG.iter().any(|(long, _)| *long == name) {
            wrong.push(format!("{name}: {lines} lines, look for the seam"));
        }
        if lines > 100 && !text.trim_start_matches("#!").starts_with("//!") {
            wrong.push(format!("{name}: must open with //!"));
        }
        for word in ["todo!(", "unimplemented!(", "#[ignore]", "dbg!("] {
            if body.contains(word) && !name.starts_with("tests/tidy") {
                wrong.push(format!("{name}: has {word}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_top_level_is_as_given() {
    let output = Command::new("git").args(["ls-files"]).current_dir(root()).output();
    let Ok(output) = output else { return };
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    for path in listed.lines() {
        let first = path.split('/').next().unwrap_or_default();
        assert!(first.starts_with('.') || TOP.contains(&first), "{path} is not of the top level");
    }
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("src"), root().join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("folder") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                found.push(path);
            }
        }
    }
    found
}
