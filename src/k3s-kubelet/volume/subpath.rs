//! `subPath`: one directory or file of a volume, bound so that no link can lead out of it.
//!
//! Invariant: the path is opened component by component below the volume (`RESOLVE_BENEATH`), and
//! what the runtime gets is a bind mount of that very descriptor.

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, bail};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

/// Binds `volume/sub` to a place of the pod's own and returns it; missing directories are made.
pub(crate) fn bind(volume: &Path, sub: &str, place: &Path) -> anyhow::Result<PathBuf> {
    let sub_path = Path::new(sub);
    for component in sub_path.components() {
        match component {
            Component::Normal(_) | Component::CurDir => {}
            _ => {
                bail!("failed to prepare subPath for volumeMount: {sub:?} must stay in the volume")
            }
        }
    }
    let target = open_beneath(volume, sub_path)?;
    let stat = rustix::fs::fstat(&target)?;
    if super::mounts_below(place)?.iter().any(|point| point == place) {
        rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH)?;
    }
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        fs::create_dir_all(place)?;
    } else {
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(place, b"")?;
    }
    let own = PathBuf::from(format!("/proc/self/fd/{}", target.as_raw_fd()));
    rustix::mount::mount_bind(&own, place)
        .with_context(|| format!("binding subPath {sub:?} to {}", place.display()))?;
    Ok(place.to_owned())
}

fn open_beneath(volume: &Path, sub: &Path) -> anyhow::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(volume, flags | OFlags::DIRECTORY, Mode::empty())
        .with_context(|| format!("opening volume {}", volume.display()))?;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let open = |path: &Path| rustix::fs::openat2(&root, path, flags, Mode::empty(), beneath);
    let mut walked = PathBuf::new();
    let mut current = open(Path::new("."))?;
    for component in sub.components() {
        let Component::Normal(name) = component else { continue };
        walked.push(name);
        current = match open(&walked) {
            Ok(next) => next,
            Err(rustix::io::Errno::NOENT) => {
                rustix::fs::mkdirat(&current, name, Mode::from_raw_mode(0o755))
                    .with_context(|| format!("creating subPath {}", walked.display()))?;
                open(&walked)?
            }
            Err(err) => {
                return Err(err).with_context(|| format!("opening subPath {}", walked.display()));
            }
        };
    }
    Ok(current)
}
