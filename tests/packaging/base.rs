//! The Debian 12 that machines start from, made once by debootstrap, and the packages under test.
//!
//! Invariant: a base knows nothing of k3s; what k3s' packages depend on lies in apt's cache only,
//! since the machines have no way out.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cluster::run;

/// What a fresh Debian has, as far as it matters here.
const INCLUDED: &str = "systemd-sysv,dbus,iproute2,ca-certificates";
/// What the packages pull in, and what tests install: downloaded, not installed.
const CACHED: &[&str] =
    &["containerd", "runc", "nftables", "dbus", "procps", "openrc", "logrotate", "rpm"];
/// Package revisions under test: the first is installed, the second is the upgrade.
pub(crate) const REVISIONS: [&str; 2] = ["1", "2"];
const FORMATS: [&str; 4] = ["deb", "rpm", "apk", "repo"];
const MIRROR: &str = "http://deb.debian.org/debian";

/// Where machines and packages of this run are.
pub(crate) fn target() -> PathBuf {
    std::env::current_exe()
        .ok()
        .and_then(|path| Some(path.parent()?.parent()?.to_owned()))
        .unwrap_or_else(|| "target".into())
}

/// The base's root folder.
pub(crate) fn root() -> PathBuf {
    target().join("machines/base")
}

/// Makes the base when it is not there yet, and the packages in two revisions. This needs the
/// network, so it comes before `tests/isolate`.
pub(crate) fn prepare() -> Result<()> {
    for revision in REVISIONS {
        let mut build = Command::new("packaging/build");
        build.args(FORMATS).env("K3S_REVISION", revision);
        let profile = std::env::var("K3S_PROFILE").unwrap_or_else(|_| "dev".into());
        run(build.env("K3S_PROFILE", profile))?;
    }
    // What it was made with is its name's other half: a base of other packages is no use.
    let made_with = target().join("machines/base.packages");
    let packages = format!("{INCLUDED} {}\n", CACHED.join(" "));
    if !root().exists() || fs::read_to_string(&made_with).unwrap_or_default() != packages {
        if root().exists() {
            fs::remove_dir_all(root()).context("removing the base of an earlier run")?;
        }
        debian()?;
        fs::write(made_with, packages)?;
    }
    Ok(())
}

fn debian() -> Result<()> {
    let work = target().join("machines/base.part");
    if work.exists() {
        fs::remove_dir_all(&work).context("removing half a base")?;
    }
    fs::create_dir_all(&work)?;
    let include = format!("--include={INCLUDED}");
    let mut debootstrap = Command::new("debootstrap");
    run(debootstrap.args(["--variant=minbase", &include, "bookworm"]).arg(&work).arg(MIRROR))?;
    fs::write(work.join("etc/apt/apt.conf.d/90test"), "APT::Install-Recommends \"false\";\n")?;
    fs::write(work.join("etc/hosts"), "127.0.0.1 localhost\n")?;
    fs::copy("/etc/resolv.conf", work.join("etc/resolv.conf"))?;
    // Debian sends the answers of `debootstrap` to its archive; the cache gets only what follows.
    let chroot = |args: &[&str]| run(Command::new("chroot").arg(&work).args(args));
    chroot(&["apt-get", "clean"])?;
    chroot(&["apt-get", "-q", "update"])?;
    let mut download = vec!["apt-get", "-qy", "--download-only", "install"];
    download.extend(CACHED);
    chroot(&download)?;
    fs::remove_file(work.join("etc/resolv.conf"))?;
    fs::remove_file(work.join("etc/machine-id")).ok();
    fs::write(work.join("etc/machine-id"), "")?;
    fs::rename(&work, root())?;
    Ok(())
}

/// The .deb of a package.
pub(crate) fn deb(package: &str, revision: &str) -> Result<PathBuf> {
    made(&format!("{package}_{}-{revision}_", env!("CARGO_PKG_VERSION")), ".deb")
}

/// The .rpm of a package.
pub(crate) fn rpm(package: &str, revision: &str) -> Result<PathBuf> {
    made(&format!("{package}-{}-{revision}.", env!("CARGO_PKG_VERSION")), ".rpm")
}

fn made(begins: &str, ends: &str) -> Result<PathBuf> {
    let folder = target().join("packages");
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with(begins) && name.ends_with(ends) {
            return Ok(path);
        }
    }
    bail!("{}: no {begins}*{ends}", folder.display())
}
