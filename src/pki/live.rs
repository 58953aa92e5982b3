//! A value made from files that may be replaced while the process runs: certificates, bundles,
//! keys.
//!
//! Invariant: the files are the truth. Whoever asks gets what they hold now; while they can't be
//! used (half of a pair is written, say) the last good value stays.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tracing::{info, warn};

/// What tells one content of a file from another without reading it.
type Stamp = Vec<Option<(u64, i64, i64, u64)>>;
type Read<T> = Box<dyn Fn() -> Result<T> + Send + Sync>;

/// A value that follows its files. Looking costs one `stat` a file, so ask once per handshake.
pub struct Live<T> {
    files: Vec<PathBuf>,
    read: Read<T>,
    state: Mutex<State<T>>,
}

impl<T> std::fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("files", &self.files).finish_non_exhaustive()
    }
}

struct State<T> {
    value: Arc<T>,
    stamp: Stamp,
    /// The content that was refused last, to say so once.
    refused: Option<Stamp>,
}

impl<T> Live<T> {
    /// Reads the value for the first time; `read` depends on these files alone.
    ///
    /// # Errors
    /// When they can't be used.
    pub fn new(
        files: Vec<PathBuf>,
        read: impl Fn() -> Result<T> + Send + Sync + 'static,
    ) -> Result<Self> {
        let stamp = stamp(&files);
        let value = Arc::new(read()?);
        let state = Mutex::new(State { value, stamp, refused: None });
        Ok(Self { files, read: Box::new(read), state })
    }

    /// What the files hold now, or held when they were last good.
    pub fn get(&self) -> Arc<T> {
        let now = stamp(&self.files);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.stamp == now {
            return Arc::clone(&state.value);
        }
        let path = self.files.first().map(PathBuf::as_path).unwrap_or(Path::new(""));
        match (self.read)() {
            Ok(value) => {
                info!(path = %path.display(), "Read a replaced certificate or key");
                *state = State { value: Arc::new(value), stamp: now, refused: None };
            }
            Err(err) if state.refused.as_ref() != Some(&now) => {
                let err = format!("{err:#}");
                warn!(path = %path.display(), err, "Kept the old certificate or key, the new is not usable");
                state.refused = Some(now);
            }
            Err(_) => {}
        }
        Arc::clone(&state.value)
    }
}

fn stamp(files: &[PathBuf]) -> Stamp {
    let one = |path: &PathBuf| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.size()))
    };
    files.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_value_follows_the_file_and_survives_a_bad_one() {
        let path = std::env::temp_dir().join(format!("k3s-live-{}", std::process::id()));
        let write = |text: &str| crate::write_atomic(&path, text.as_bytes(), 0o600).unwrap();
        write("1");
        let source = path.clone();
        let live = Live::new(vec![path.clone()], move || {
            std::fs::read_to_string(&source)?.parse::<u32>().context("a number")
        })
        .unwrap();
        assert_eq!(*live.get(), 1);
        write("2");
        assert_eq!(*live.get(), 2);
        write("rubbish");
        assert_eq!(*live.get(), 2);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(*live.get(), 2);
        write("3");
        assert_eq!(*live.get(), 3);
        std::fs::remove_file(&path).unwrap();
    }
}
