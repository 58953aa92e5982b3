//! Kernel settings under `/proc/sys`.
//!
//! Knows only paths and strings. Invariant: a value that is already right is never written.

use crate::{Error, Result};

/// Whether [`ensure`] had to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sysctl {
    Already,
    Changed,
}

/// Sets `net.ipv4.ip_forward`-style `key` to `value` in the namespace of the calling thread.
pub fn ensure(key: &str, value: &str) -> Result<Sysctl> {
    let path = format!("/proc/sys/{}", key.replace('.', "/"));
    let failed = |source| Error::Kernel { what: format!("sysctl {key}={value}"), source };
    let now = std::fs::read_to_string(&path).map_err(failed)?;
    if now.trim() == value {
        return Ok(Sysctl::Already);
    }
    std::fs::write(&path, value).map_err(failed)?;
    Ok(Sysctl::Changed)
}
