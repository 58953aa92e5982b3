//! Files that change all at once: a timestamped directory behind the `..data` link.
//!
//! Invariant: a reader sees the old content or the new one, never a mixture, because only one
//! rename happens.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Component, Path};

use anyhow::{Context as _, ensure};

use super::Files;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Makes the directory hold exactly `files`.
pub(crate) fn write(dir: &Path, files: &Files, fs_group: Option<u32>) -> anyhow::Result<()> {
    for name in files.keys() {
        let plain = Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
        ensure!(plain && !name.starts_with(".."), "invalid path: {name:?}");
    }
    let old = fs::read_link(dir.join(DATA)).ok();
    if old.is_some() && is_current(&dir.join(DATA), files, fs_group) {
        return Ok(());
    }
    let stamp = jiff::Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S.%N").to_string();
    let new = dir.join(&stamp);
    fs::create_dir(&new).with_context(|| format!("creating {}", new.display()))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    for (name, file) in files {
        let path = new.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, &file.content).with_context(|| format!("writing {}", path.display()))?;
        let mode = match fs_group {
            Some(_) => file.mode | 0o440,
            None => file.mode,
        };
        chown(&path, file.owner, fs_group)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    let _ = fs::remove_file(dir.join(DATA_NEW));
    symlink(&stamp, dir.join(DATA_NEW))?;
    fs::rename(dir.join(DATA_NEW), dir.join(DATA))?;
    link_names(dir, files)?;
    if let Some(old) = old {
        fs::remove_dir_all(dir.join(old)).context("removing the old content")?;
    }
    Ok(())
}

/// Visible names are links into `..data`; names that are gone lose their link.
fn link_names(dir: &Path, files: &Files) -> anyhow::Result<()> {
    let tops: BTreeSet<&str> = files.keys().filter_map(|name| name.split('/').next()).collect();
    for top in &tops {
        let link = dir.join(top);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(top), &link)?;
        }
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !tops.contains(name.as_ref()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn is_current(data: &Path, files: &Files, fs_group: Option<u32>) -> bool {
    let same = |(name, file): (&String, &super::File)| {
        let path = data.join(name);
        let mode = if fs_group.is_some() { file.mode | 0o440 } else { file.mode };
        fs::read(&path).is_ok_and(|content| content == file.content)
            && fs::metadata(&path).is_ok_and(|meta| meta.permissions().mode() & 0o777 == mode)
    };
    files.iter().all(same) && count(data) == files.len()
}

fn count(dir: &Path) -> usize {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => count(&entry.path()),
            _ => 1,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::super::File;
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        let file = |text: &str| File { content: text.into(), mode: 0o640, owner: None };
        list.iter().map(|(name, text)| ((*name).to_owned(), file(text))).collect()
    }

    #[test]
    fn an_update_replaces_names_and_content_at_once() {
        let dir = std::env::temp_dir().join(format!("atomic-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        write(&dir, &files(&[("a", "1"), ("b/c", "2")]), None).unwrap();
        assert_eq!(fs::read_to_string(dir.join("b/c")).unwrap(), "2");
        let before = fs::read_link(dir.join(DATA)).unwrap();
        write(&dir, &files(&[("a", "1"), ("b/c", "2")]), None).unwrap();
        assert_eq!(fs::read_link(dir.join(DATA)).unwrap(), before);
        write(&dir, &files(&[("d", "3")]), None).unwrap();
        assert!(!dir.join("a").exists() && !dir.join(before).exists());
        assert_eq!(fs::read_to_string(dir.join("d")).unwrap(), "3");
        assert!(write(&dir, &files(&[("../x", "")]), None).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
