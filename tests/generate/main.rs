//! Keeps `src/api/generated/` equal to what the fact tables say.
//!
//! `GENERATE=1 cargo test -p tests --test generate` rewrites the files; without the variable the
//! test compares. Skips where the fact tables are absent: the committed output is the source then.

// A fact that is not as this generator knows it has to fail the test.
#![allow(clippy::unwrap_used)]

mod facts;
mod render;
mod schema;

use std::path::{Path, PathBuf};

/// The fact tables lie beside the project, or where `FACTS` says.
fn facts_dir(root: &Path) -> PathBuf {
    std::env::var_os("FACTS").map_or_else(|| root.join("../shared/facts"), PathBuf::from)
}

#[test]
fn the_generated_tables_are_what_the_facts_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let dir = facts_dir(&root);
    if !dir.is_dir() {
        eprintln!("skipped: no fact tables at {}", dir.display());
        return;
    }
    let facts = facts::Facts::read(&dir);
    let built = schema::Builder::new(&facts).build();
    let files = [
        ("schema.rs", render::schema(&built)),
        ("resources.rs", render::resources(&facts, &built)),
    ];
    for (name, text) in files {
        let path = root.join("src/api/generated").join(name);
        if std::env::var_os("GENERATE").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == text, "{name} is not what the facts say; run with GENERATE=1");
    }
}
