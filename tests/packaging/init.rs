//! What machines with systemd and machines with OpenRC do differently.
//!
//! Invariant: stories ask an [`Init`] for what they need of the init system, so the same step runs on
//! either.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::Result;

/// The init system of a machine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Init {
    Systemd,
    OpenRc,
}

/// Script that a machine runs early at boot.
const SETUP: &str = "etc/test-machine";

impl Init {
    /// Lets a machine set itself up at boot: its address, and control groups that it may write to.
    /// nspawn mounts what is bound below /sys/fs/cgroup read-only, and sysvinit's scripts mount a
    /// /sys of their own over nspawn's.
    pub(crate) fn set_up(self, root: &Path, address: &str) -> Result<()> {
        let script = format!(
            "#!/bin/sh -e\n\
             ip address add {address}/24 dev host0\nip link set host0 up\n\
             ip route add default via 10.88.0.254\n\
             [ -n \"$(ls /sys/fs/cgroup)\" ] || umount -l /sys\n\
             for c in /sys/fs/cgroup/*/; do mount -o remount,rw,bind $c || true; done 2>/dev/null\n"
        );
        executable(&root.join(SETUP), &script)?;
        match self {
            Self::Systemd => {
                let unit = root.join("etc/systemd/system/test-machine.service");
                fs::write(
                    &unit,
                    format!(
                        "[Unit]\nDescription=Setting up this machine\nDefaultDependencies=no\n\
                         Before=network-online.target network.target\nWants=network-online.target\n\
                         [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/{SETUP}\n"
                    ),
                )?;
                let wants = root.join("etc/systemd/system/multi-user.target.wants");
                fs::create_dir_all(&wants)?;
                symlink("../test-machine.service", wants.join("test-machine.service"))?;
            }
            Self::OpenRc => {
                executable(
                    &root.join("etc/init.d/test-machine"),
                    &format!(
                        "#!/sbin/openrc-run\ndepend() {{ provide net; }}\nstart() {{ /{SETUP}; }}\n"
                    ),
                )?;
                let runlevel = root.join("etc/runlevels/default/test-machine");
                symlink("/etc/init.d/test-machine", runlevel)?;
            }
        }
        Ok(())
    }

    /// A line of shell that succeeds once the machine has booted.
    pub(crate) fn booted(self) -> &'static str {
        match self {
            Self::Systemd => "systemctl is-system-running | grep -q -e running -e degraded",
            Self::OpenRc => {
                "grep -qx default /run/openrc/softlevel && [ ! -e /run/openrc/rc.starting ] && \
                 rc-service -q test-machine status"
            }
        }
    }

    /// A line of shell that prints the end of k3s' log.
    pub(crate) fn log(self) -> &'static str {
        match self {
            // The reason of a failure is a field, which short output leaves out.
            Self::Systemd => {
                "journalctl --no-pager -u 'k3s*' -o verbose --output-fields=MESSAGE,ERR,_SYSTEMD_UNIT \
                 | sed -n 's/^    \\(MESSAGE\\|ERR\\|_SYSTEMD_UNIT\\)=/\\1 /p' | tail -n 90"
            }
            Self::OpenRc => "tail -n 60 /var/log/k3s.log",
        }
    }
}

fn executable(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}
