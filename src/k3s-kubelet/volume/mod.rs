//! Volumes: what a pod's volumes are, and putting them on disk.
//!
//! [`plan`] is pure and yields one [`Volume`] each; [`setup`] and [`teardown`] act. Invariant:
//! everything lives under the pod's directory except host paths, so teardown is: unmount what is
//! mounted below it, then remove it, and never follow a mount while removing.

mod atomic;
pub(crate) mod image;
mod plan;
mod subpath;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use rustix::mount::{MountFlags, UnmountFlags};

pub(crate) use plan::{
    Claims, TokenRequest, Tokens, VolumeError, config_names, is_stale, plan, token_requests,
};
pub(crate) use subpath::bind as bind_subpath;

use crate::cri::snapshot::SnapshotMount;

/// The directory name that upstream gives image volumes.
const IMAGES: &str = "kubernetes.io~image";

/// One file of a volume.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct File {
    pub(crate) content: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) owner: Option<u32>,
}

/// Files by their path below the volume.
pub(crate) type Files = std::collections::BTreeMap<String, File>;

/// Where a volume's content comes from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Source {
    Disk,
    Memory {
        size_bytes: Option<u64>,
    },
    HostPath {
        path: PathBuf,
        kind: String,
    },
    /// `plugin` is the directory name that upstream gives this kind of volume.
    Files {
        plugin: &'static str,
        files: Files,
        in_memory: bool,
    },
    /// `mounts` are what the runtime shows of it, and none before it was asked.
    Image {
        reference: String,
        pull_policy: Option<String>,
        mounts: Vec<SnapshotMount>,
    },
}

/// A volume ready to be set up.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Volume {
    pub(crate) name: String,
    pub(crate) source: Source,
}

impl Volume {
    /// Where containers find it on the host.
    pub(crate) fn path(&self, pod_dir: &Path) -> PathBuf {
        let plugin = match &self.source {
            Source::HostPath { path, .. } => return path.clone(),
            Source::Disk | Source::Memory { .. } => "kubernetes.io~empty-dir",
            Source::Files { plugin, .. } => plugin,
            Source::Image { .. } => IMAGES,
        };
        pod_dir.join("volumes").join(plugin).join(&self.name)
    }

    /// Whether containers may never write to it, whatever their mounts say.
    pub(crate) fn is_read_only(&self) -> bool {
        matches!(self.source, Source::Image { .. })
    }

    /// Whether it is there and never changes.
    pub(crate) fn is_settled(&self, pod_dir: &Path) -> anyhow::Result<bool> {
        Ok(self.is_read_only() && is_mounted(&self.path(pod_dir))?)
    }
}

/// Makes the volume exist with its current content; calling it again updates it.
pub(crate) fn setup(pod_dir: &Path, volume: &Volume, fs_group: Option<u32>) -> anyhow::Result<()> {
    let path = volume.path(pod_dir);
    match &volume.source {
        Source::HostPath { path, kind } => return host_path(path, kind),
        Source::Image { mounts, .. } => return image::mount(&path, mounts),
        Source::Disk => {
            if path.is_dir() {
                return Ok(());
            }
            make_dir(&path, 0o777)?;
        }
        Source::Memory { size_bytes } => {
            if is_mounted(&path)? {
                return Ok(());
            }
            make_dir(&path, 0o777)?;
            mount_tmpfs(&path, *size_bytes)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
        }
        Source::Files { files, in_memory, .. } => {
            make_dir(&path, 0o755)?;
            if *in_memory && !is_mounted(&path)? {
                mount_tmpfs(&path, None)?;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            }
            if let Some(group) = fs_group {
                own(&path, group)?;
            }
            return atomic::write(&path, files, fs_group);
        }
    }
    if let Some(group) = fs_group {
        own(&path, group)?;
    }
    Ok(())
}

/// Gives the directory to the group, as `fsGroup` asks: setgid, group may read and write.
fn own(path: &Path, group: u32) -> anyhow::Result<()> {
    std::os::unix::fs::chown(path, None, Some(group))
        .with_context(|| format!("changing the group of {}", path.display()))?;
    let mode = fs::metadata(path)?.mode() & 0o7777;
    fs::set_permissions(path, fs::Permissions::from_mode(mode | 0o2770))?;
    Ok(())
}

fn make_dir(path: &Path, mode: u32) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| format!("creating {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn mount_tmpfs(path: &Path, size_bytes: Option<u64>) -> anyhow::Result<()> {
    let options = size_bytes.map(|size| format!("size={size}")).unwrap_or_default();
    let options = std::ffi::CString::new(options)?;
    rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::empty(), options.as_c_str())
        .with_context(|| format!("mounting a tmpfs on {}", path.display()))
}

fn is_mounted(path: &Path) -> anyhow::Result<bool> {
    Ok(mounts_below(path)?.iter().any(|mount| mount == path))
}

fn host_path(path: &Path, kind: &str) -> anyhow::Result<()> {
    let failed = |what: &str| {
        anyhow::anyhow!("hostPath type check failed: {} is not {what}", path.display())
    };
    use std::os::unix::fs::FileTypeExt as _;
    let meta = fs::metadata(path).ok();
    let file_type = meta.as_ref().map(fs::Metadata::file_type);
    match kind {
        "" => Ok(()),
        "DirectoryOrCreate" if meta.is_none() => make_dir(path, 0o755),
        "DirectoryOrCreate" | "Directory" => {
            file_type.filter(|t| t.is_dir()).map(drop).ok_or_else(|| failed("a directory"))
        }
        "FileOrCreate" if meta.is_none() => {
            fs::write(path, b"").with_context(|| format!("creating {}", path.display()))
        }
        "FileOrCreate" | "File" => {
            file_type.filter(|t| t.is_file()).map(drop).ok_or_else(|| failed("a file"))
        }
        "Socket" => {
            file_type.filter(|t| t.is_socket()).map(drop).ok_or_else(|| failed("a socket file"))
        }
        "CharDevice" => file_type
            .filter(|t| t.is_char_device())
            .map(drop)
            .ok_or_else(|| failed("a character device")),
        "BlockDevice" => file_type
            .filter(|t| t.is_block_device())
            .map(drop)
            .ok_or_else(|| failed("a block device")),
        other => bail!("hostPath type {other:?} is not known"),
    }
}

/// Mount points at or below `path`, in the order they were mounted.
pub(crate) fn mounts_below(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("reading the mount table")?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    Ok(points.filter(|point| point.starts_with(path)).collect())
}

fn unescape(field: &str) -> PathBuf {
    let replaced = field.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\");
    PathBuf::from(replaced)
}

/// Unmounts and removes everything of a pod; says what stands in the way.
pub(crate) fn teardown(pod_dir: &Path) -> anyhow::Result<()> {
    for point in mounts_below(pod_dir)?.iter().rev() {
        rustix::mount::unmount(point.as_path(), UnmountFlags::DETACH)
            .with_context(|| format!("unmounting {}", point.display()))?;
    }
    let left = mounts_below(pod_dir)?;
    ensure!(left.is_empty(), "{} is still mounted", left[0].display());
    match fs::remove_dir_all(pod_dir) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
            Err(err).with_context(|| format!("removing {}", pod_dir.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_spaces_are_read_back() {
        assert_eq!(unescape("/a\\040b\\134c"), PathBuf::from("/a b\\c"));
    }
}
