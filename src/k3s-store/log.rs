//! Room for the write-ahead log: blocks that are on the disk before the log needs them.
//!
//! A sync after a write that made the file longer waits for the file system's own journal; after
//! a write into blocks that were written before it does not, which is a fraction of the time and
//! of the bytes. SQLite begins its log anew after a checkpoint and so uses the blocks again.
//!
//! Invariant: only zeros are written, and only beyond the end of the file: to SQLite that is no
//! frame.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Room that is made at a time: as much as was used, within these bounds.
const STEP_MIN: u64 = 256 << 10;
const STEP_MAX: u64 = 4 << 20;
/// Less room than this is too little for the next transactions.
const SPARE: u64 = 64 << 10;

const ZEROS: [u8; 4096] = [0; 4096];

/// How much of the log is used, about, and how long its file is.
pub(crate) struct Log {
    path: PathBuf,
    used: u64,
    length: u64,
}

impl Log {
    /// The log of the database at this path.
    pub(crate) fn new(database: &Path) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push("-wal");
        Self { path: path.into(), used: 0, length: 0 }
    }

    /// Bytes since the last checkpoint, about.
    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    /// The next commit will write this much more.
    pub(crate) fn grow(&mut self, bytes: u64) {
        self.used += bytes;
    }

    /// SQLite begins at the front again.
    pub(crate) fn restart(&mut self) {
        self.used = 0;
        // It may also have shortened the file.
        self.length = 0;
    }

    /// Makes the file long enough for what is about to be written, and more. Where that fails,
    /// the log grows as it is written.
    pub(crate) fn make_room(&mut self) {
        if self.used + SPARE <= self.length {
            return;
        }
        let wanted = self.used + SPARE + self.used.clamp(STEP_MIN, STEP_MAX);
        // Not to be tried again for every commit on a full disk.
        self.length = extend(&self.path, wanted).unwrap_or(wanted);
    }
}

/// Writes zeros from the end of the file to `wanted`; returns the file's length.
fn extend(path: &Path, wanted: u64) -> io::Result<u64> {
    let file = OpenOptions::new().write(true).open(path)?;
    let mut length = file.metadata()?.len();
    while length < wanted {
        file.write_all_at(&ZEROS, length)?;
        length += ZEROS.len() as u64;
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_made_ahead_and_nothing_that_is_there_is_touched() {
        let database = std::env::temp_dir().join(format!("k3s-log-{}", std::process::id()));
        let mut log = Log::new(&database);
        std::fs::write(&log.path, b"frames").unwrap();
        log.grow(100);
        log.make_room();
        let content = std::fs::read(&log.path).unwrap();
        assert!(content.len() as u64 >= 100 + SPARE + STEP_MIN);
        assert!(content.starts_with(b"frames\0"));
        log.grow(STEP_MIN);
        log.make_room();
        assert_eq!(std::fs::metadata(&log.path).unwrap().len(), content.len() as u64);
        log.grow(ZEROS.len() as u64);
        log.make_room();
        assert!(std::fs::metadata(&log.path).unwrap().len() > content.len() as u64);
        std::fs::remove_file(&log.path).unwrap();
    }
}
