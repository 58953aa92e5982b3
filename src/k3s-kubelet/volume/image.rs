//! Image volumes: the files of an image, read-only, where containers find every volume.
//!
//! The runtime unpacks the image and keeps it ([`Runtime::view_image`]); this mounts what it shows.
//! Invariant: nothing of the image can be changed through the volume.

use std::ffi::CString;
use std::path::Path;

use anyhow::{Context as _, bail};
use rustix::mount::{MountFlags, UnmountFlags};

use super::{IMAGES, is_mounted, make_dir, mounts_below};
use crate::cri::Runtime;
use crate::cri::snapshot::SnapshotMount;

const FLAGS: MountFlags = MountFlags::RDONLY.union(MountFlags::NOSUID).union(MountFlags::NODEV);

/// The runtime's name for what this volume of this pod shows.
pub(crate) fn key(pod_uid: &str, volume: &str) -> String {
    format!("k3s-image-volume-{pod_uid}-{volume}")
}

/// Mounts what the runtime shows of the image.
pub(super) fn mount(path: &Path, mounts: &[SnapshotMount]) -> anyhow::Result<()> {
    if is_mounted(path)? {
        return Ok(());
    }
    make_dir(path, 0o755)?;
    let [mount] = mounts else {
        bail!("the runtime shows the image as {} mounts, not one", mounts.len());
    };
    let failed = || format!("mounting the image on {}", path.display());
    // The flags say all that these do.
    let given = |option: &&String| !["ro", "rw", "bind", "rbind"].contains(&option.as_str());
    let options: Vec<&str> = mount.options.iter().filter(given).map(String::as_str).collect();
    if mount.kind == "bind" {
        rustix::mount::mount_bind(mount.source.as_str(), path).with_context(failed)?;
        return rustix::mount::mount_remount(path, MountFlags::BIND | FLAGS, c"")
            .with_context(failed);
    }
    let options = CString::new(options.join(","))?;
    rustix::mount::mount(&*mount.source, path, &*mount.kind, FLAGS, options.as_c_str())
        .with_context(failed)
}

/// Unmounts the images below a pod's directory and has the runtime let go of them.
pub(crate) async fn release(runtime: &Runtime, pod_dir: &Path) -> anyhow::Result<()> {
    let dir = pod_dir.join("volumes").join(IMAGES);
    let uid = pod_dir.file_name().unwrap_or_default().to_string_lossy();
    for volume in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
        super::teardown(&pod_dir.join("volume-subpaths"))?;
        let path = volume.path();
        for point in mounts_below(&path)?.iter().rev() {
            rustix::mount::unmount(point.as_path(), UnmountFlags::DETACH)
                .with_context(|| format!("unmounting {}", point.display()))?;
        }
        let key = key(&uid, &volume.file_name().to_string_lossy());
        runtime.forget_image(&key).await.map_err(|err| {
            anyhow::anyhow!("letting go of the image at {}: {}", path.display(), err.message())
        })?;
    }
    Ok(())
}
