//! Writing small files so that a crash leaves the old content or the new, never half of it.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use anyhow::{Context, Result};

/// Whether a file must outlive a loss of power, or can be made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// On the disk when the call returns: two fsyncs.
    Durable,
    /// Whole or absent after a crash of the process; after a loss of power it is made again.
    Derived,
}

/// Replaces `path` by `content` with these permission bits, durably, making its folder (0700).
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    write_with(path, content, mode, Durability::Durable)
}

/// Replaces `path` by `content` with these permission bits, making its folder (0700).
pub fn write_with(path: &Path, content: &[u8], mode: u32, durability: Durability) -> Result<()> {
    replace(path, content, mode, durability).with_context(|| format!("writing {}", path.display()))
}

fn replace(path: &Path, content: &[u8], mode: u32, durability: Durability) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    if !folder.exists() {
        fs::create_dir_all(folder)?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = folder.join(name);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)?;
    // Whose the file was, its successor is: a component may run as a user of its own.
    if let Ok(meta) = fs::metadata(path) {
        let _ = fchown(&file, Some(meta.uid()), Some(meta.gid()));
    }
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    let durable = durability == Durability::Durable;
    let written = file.write_all(content).and_then(|()| match durable {
        true => file.sync_all(),
        false => Ok(()),
    });
    if let Err(err) = written.and_then(|()| fs::rename(&temporary, path)) {
        let _ = fs::remove_file(&temporary);
        return Err(err);
    }
    if durable { fs::File::open(folder)?.sync_all() } else { Ok(()) }
}

/// The file's text, `None` when there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err).with_context(|| format!("reading {}", path.display())),
    }
}
