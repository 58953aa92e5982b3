//! The file of the audit log: appended to, and set aside when it has grown.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use jiff::Timestamp;
use serde_json::Value;
use tracing::warn;

use crate::args::Args;

/// Upstream's size where none is given, in MiB.
const SIZE: u64 = 100;

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Legacy,
}

/// Where lines go.
#[derive(Debug)]
pub(super) struct Log {
    path: Option<PathBuf>,
    format: Format,
    bytes_max: u64,
    /// Files set aside that are kept, none for all.
    backups_max: usize,
    age_max: Option<Duration>,
    open: Mutex<Option<(File, u64)>>,
}

impl Log {
    pub(super) fn open(path: &str, args: &Args) -> anyhow::Result<Self> {
        let format = match args.audit_log_format.as_str() {
            "json" => Format::Json,
            "legacy" => Format::Legacy,
            other => bail!("--audit-log-format {other}: must be json or legacy"),
        };
        let path = (path != "-").then(|| PathBuf::from(path));
        let log = Self {
            format,
            bytes_max: if args.audit_log_maxsize == 0 { SIZE } else { args.audit_log_maxsize }
                << 20,
            backups_max: args.audit_log_maxbackup,
            age_max: (args.audit_log_maxage > 0)
                .then(|| Duration::from_secs(args.audit_log_maxage * 86_400)),
            open: Mutex::new(None),
            path,
        };
        if let Some(path) = &log.path {
            let opened = open(path).with_context(|| format!("open {}", path.display()))?;
            *log.open.lock().unwrap_or_else(PoisonError::into_inner) = Some(opened);
        }
        Ok(log)
    }

    /// Writes one event. An audit log that cannot be written is said and does not stop the server.
    pub(super) fn write(&self, event: &Value) {
        let line = match self.format {
            Format::Json => format!("{event}\n"),
            Format::Legacy => super::event::legacy(event),
        };
        let Some(path) = &self.path else {
            let _closed = std::io::stdout().write_all(line.as_bytes());
            return;
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(err) = self.append(path, &mut open, line.as_bytes()) {
            warn!(path = %path.display(), %err, "Could not write the audit log, an event is lost");
            *open = None;
        }
    }

    fn append(
        &self,
        path: &Path,
        held: &mut Option<(File, u64)>,
        line: &[u8],
    ) -> std::io::Result<()> {
        let length = line.len() as u64;
        if held.as_ref().is_some_and(|(_, size)| size + length > self.bytes_max && *size > 0) {
            *held = None;
            fs::rename(path, aside(path))?;
            self.clean(path);
        }
        if held.is_none() {
            *held = Some(open(path)?);
        }
        if let Some((file, size)) = held {
            file.write_all(line)?;
            *size += length;
        }
        Ok(())
    }

    /// Removes files set aside that are too many or too old.
    fn clean(&self, path: &Path) {
        let mut old = set_aside(path);
        old.sort();
        old.reverse();
        let now = SystemTime::now();
        for (at, file) in old.iter().enumerate() {
            let many = self.backups_max > 0 && at >= self.backups_max;
            let written = fs::metadata(file).and_then(|meta| meta.modified());
            let age = written.ok().and_then(|written| now.duration_since(written).ok());
            let aged = self.age_max.is_some_and(|most| age.is_some_and(|age| age > most));
            if (many || aged) && fs::remove_file(file).is_err() {
                warn!(path = %file.display(), "Could not remove an old audit log");
            }
        }
    }
}

fn open(path: &Path) -> std::io::Result<(File, u64)> {
    use std::os::unix::fs::OpenOptionsExt;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

/// `audit.log` becomes `audit-2026-01-02T03-04-05.678.log`, a name that is free.
fn aside(path: &Path) -> PathBuf {
    let (stem, end) = parts(path);
    let mut at = Timestamp::now();
    loop {
        let time = at.strftime("%Y-%m-%dT%H-%M-%S%.3f");
        let free = path.with_file_name(format!("{stem}-{time}{end}"));
        if !free.exists() {
            return free;
        }
        at += Duration::from_millis(1);
    }
}

fn parts(path: &Path) -> (String, String) {
    let of = |part: Option<&std::ffi::OsStr>| {
        part.map(|part| part.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let end = of(path.extension());
    (of(path.file_stem()), if end.is_empty() { end } else { format!(".{end}") })
}

fn set_aside(path: &Path) -> Vec<PathBuf> {
    let (stem, end) = parts(path);
    let folder = path.parent().map(Path::to_owned).unwrap_or_default();
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|found| {
            let name = found.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.starts_with(&format!("{stem}-")) && name.ends_with(&end)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_file_that_has_grown_is_set_aside_and_few_are_kept() {
        let folder = std::env::temp_dir().join(format!("k3s-audit-{}", std::process::id()));
        let path = folder.join("audit.log");
        let log = Log {
            path: Some(path.clone()),
            format: Format::Json,
            bytes_max: 64,
            backups_max: 2,
            age_max: None,
            open: Mutex::new(None),
        };
        for n in 0..8 {
            log.write(&json!({"n": n, "text": "x".repeat(40)}));
        }
        assert_eq!(set_aside(&path).len(), 2);
        let last = fs::read_to_string(&path).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&last).unwrap()["n"], 7);
        fs::remove_dir_all(folder).unwrap();
    }
}
