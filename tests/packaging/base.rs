//! The Debian 12 that machines start from, made once by debootstrap, a copy of it that boots OpenRC,
//! and the packages under test.
//!
//! Invariant: a base knows nothing of k3s; what k3s' packages depend on lies in apt's cache only,
//! since the machines have no way out.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::init::Init;
use crate::cluster::run;

/// What a fresh Debian has, as far as it matters here.
const INCLUDED: &str = "systemd-sysv,dbus,iproute2,ca-certificates,curl";
/// What the packages pull in, and what tests install: downloaded, not installed.
const CACHED: &[&str] = &["containerd", "runc", "nftables", "dbus", "procps", "rpm", "polkitd"];
/// What makes OpenRC of systemd, and what takes the place of systemd's journal and timers.
const OPENRC: &[&str] =
    &["openrc", "sysvinit-core", "systemd-sysv-", "systemd-", "cron", "logrotate"];
/// Package revisions under test: the first is installed, the second is the upgrade.
pub(crate) const REVISIONS: [&str; 2] = ["1", "2"];
const FORMATS: [&str; 5] = ["deb", "rpm", "apk", "tar", "repo"];
const MIRROR: &str = "http://deb.debian.org/debian";

/// Where machines and packages of this run are.
pub(crate) fn target() -> PathBuf {
    std::env::current_exe()
        .ok()
        .and_then(|path| Some(path.parent()?.parent()?.to_owned()))
        .unwrap_or_else(|| "target".into())
}

/// The root folder of the base that boots an init system.
pub(crate) fn root(init: Init) -> PathBuf {
    target().join("machines").join(match init {
        Init::Systemd => "base",
        Init::OpenRc => "openrc",
    })
}

/// Makes the bases when they are not there yet, and the packages in two revisions. This needs the
/// network, so it comes before `tests/isolate`.
pub(crate) fn prepare() -> Result<()> {
    for revision in REVISIONS {
        let mut build = Command::new("packaging/build");
        build.args(FORMATS).env("K3S_REVISION", revision);
        let profile = std::env::var("K3S_PROFILE").unwrap_or_else(|_| "dev".into());
        run(build.env("K3S_PROFILE", profile))?;
    }
    for init in [Init::Systemd, Init::OpenRc] {
        // What it was made with is its name's other half: a base of other packages is no use.
        let made_with = root(init).with_extension("packages");
        let packages = format!("{INCLUDED} {} {}\n", CACHED.join(" "), OPENRC.join(" "));
        if root(init).exists() && fs::read_to_string(&made_with).unwrap_or_default() == packages {
            continue;
        }
        if root(init).exists() {
            fs::remove_dir_all(root(init)).context("removing the base of an earlier run")?;
        }
        let base = Base::empty()?;
        match init {
            Init::Systemd => debian(&base)?,
            Init::OpenRc => openrc(&base)?,
        }
        base.finish(&root(init))?;
        fs::write(made_with, packages)?;
    }
    Ok(())
}

/// A root folder that is being made.
struct Base(PathBuf);

impl Base {
    fn empty() -> Result<Self> {
        let work = target().join("machines/base.part");
        if work.exists() {
            fs::remove_dir_all(&work).context("removing half a base")?;
        }
        fs::create_dir_all(&work)?;
        Ok(Self(work))
    }

    fn chroot(&self, args: &[&str]) -> Result<()> {
        let mut command = Command::new("chroot");
        command.arg(&self.0).args(["env", "DEBIAN_FRONTEND=noninteractive"]).args(args);
        run(&mut command).map(drop)
    }

    /// Puts what the packages pull in into apt's cache.
    fn download(&self) -> Result<()> {
        let mut download = vec!["apt-get", "-qy", "--download-only", "install"];
        download.extend(CACHED);
        self.chroot(&download)
    }

    /// Leaves nothing of this machine in it.
    fn finish(&self, root: &Path) -> Result<()> {
        fs::remove_file(self.0.join("etc/resolv.conf"))?;
        fs::remove_file(self.0.join("etc/machine-id")).ok();
        fs::write(self.0.join("etc/machine-id"), "")?;
        Ok(fs::rename(&self.0, root)?)
    }
}

fn debian(base: &Base) -> Result<()> {
    let work = &base.0;
    let include = format!("--include={INCLUDED}");
    let mut debootstrap = Command::new("debootstrap");
    run(debootstrap.args(["--variant=minbase", &include, "bookworm"]).arg(work).arg(MIRROR))?;
    fs::write(work.join("etc/apt/apt.conf.d/90test"), "APT::Install-Recommends \"false\";\n")?;
    fs::write(work.join("etc/hosts"), "127.0.0.1 localhost\n")?;
    fs::copy("/etc/resolv.conf", work.join("etc/resolv.conf"))?;
    // Debian sends the answers of `debootstrap` to its archive; the cache gets only what follows.
    base.chroot(&["apt-get", "clean"])?;
    base.chroot(&["apt-get", "-q", "update"])?;
    base.download()
}

/// The same Debian with OpenRC, as Debian's wiki has it: sysvinit as process 1, which runs OpenRC.
fn openrc(base: &Base) -> Result<()> {
    let work = &base.0;
    run(Command::new("cp").arg("-a").arg(root(Init::Systemd)).arg("-T").arg(work))?;
    fs::copy("/etc/resolv.conf", work.join("etc/resolv.conf"))?;
    // Nothing is to start here.
    let policy = work.join("usr/sbin/policy-rc.d");
    fs::write(&policy, "#!/bin/sh\nexit 101\n")?;
    fs::set_permissions(&policy, fs::Permissions::from_mode(0o755))?;
    let mut install = vec!["apt-get", "-qy", "--allow-remove-essential", "install"];
    install.extend(OPENRC);
    base.chroot(&install)?;
    fs::remove_file(policy)?;
    // There are no terminals.
    base.chroot(&["sed", "-i", "/getty/d", "/etc/inittab"])?;
    base.download()
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
