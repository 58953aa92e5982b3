//! Everything a machine has that k3s might leave behind, as comparable lines.
//!
//! Invariant: what is not listed is left out by a line here that says why.

use std::collections::BTreeSet;

use anyhow::Result;

use super::guest::Guest;

/// Files that change by themselves, or belong to what keeps packages.
const IGNORED: &[&str] = &[
    // Mounted by the machine, not on its disk.
    "/dev",
    "/proc",
    "/run",
    "/sys",
    "/tmp",
    // dpkg's and apt's own books; logs of the system's own.
    "/var/lib/dpkg",
    "/var/lib/apt",
    "/var/cache",
    "/var/log/apt",
    "/var/log/dpkg.log",
    "/var/log/alternatives.log",
    "/var/log/journal",
    "/var/log/wtmp",
    "/var/log/btmp",
    "/var/log/lastlog",
    "/var/log/faillog",
    "/var/log/dmesg",
    "/var/log/dmesg.0",
    "/var/lib/logrotate",
    "/usr/lib/rc/cache",
    "/etc/ld.so.cache",
    "/var/lib/systemd",
    "/root/.cache",
    "/var/tmp",
    // Written by the users' database tools at each change, also of the packages that k3s pulls in.
    "/etc/passwd-",
    "/etc/group-",
    "/etc/shadow-",
    "/etc/gshadow-",
    "/etc/.pwd.lock",
    "/etc/subuid-",
    "/etc/subgid-",
    // Debian's containerd keeps its folders through a purge; k3s runs its own beside it.
    "/var/lib/containerd",
    "/opt/containerd",
    "/etc/cni",
    // kubectl's.
    "/root/.kube",
    // The test's own.
    "/mnt",
];

/// Prints the services of k3s that the init system knows of.
const SERVICES: &str = "if [ -d /run/openrc ]; then rc-status --all | grep k3s || true
    else systemctl list-units --all --no-legend --plain 'k3s*' | awk '{ print $1, $3 }'; fi";

/// What a machine has, each line with its kind in front.
pub(crate) fn take(machine: &impl Guest) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut add = |kind: &str, text: &str| {
        found.extend(
            text.lines()
                .filter(|line| !line.trim().is_empty())
                .map(|line| format!("{kind}: {}", line.trim_end())),
        );
    };
    // Names of programs, since process ids differ; what looks at them is not part of it.
    add("process", &machine.shell("for p in /proc/[0-9]*; do readlink $p/exe; done 2>/dev/null | grep -v -e '/dash$' -e '/readlink$' -e '/grep$' -e '/sort$' -e '/apt' -e agetty -e '/login$' | sort -u")?);
    add(
        "mount",
        &machine.shell("awk '{ print $2, $3 }' /proc/mounts | sort -u | grep -v '/run/user'")?,
    );
    add("link", &machine.shell("ip -o link show | awk '{ sub(/@.*/, \"\", $2); print $2 }'")?);
    add("address", &machine.shell("ip -4 -o address show | awk '{ print $2, $4 }'")?);
    add("route", &machine.shell("ip -4 route show table all | sort")?);
    add("netns", &machine.shell("ls /run/netns 2>/dev/null || true")?);
    add("nftables", &machine.shell("! command -v nft >/dev/null || nft list tables")?);
    add("cgroup", &machine.shell("find /sys/fs/cgroup -type d \\( -name '*k3s*' -o -name '*kubepods*' -o -path '*cri-containerd*' \\)")?);
    add("unit", &machine.shell(SERVICES)?);
    add("run", &machine.shell("ls -d /run/k3s /run/flannel 2>/dev/null || true")?);
    add("user", &machine.shell("cat /etc/passwd")?);
    add("group", &machine.shell("cat /etc/group")?);
    let ignored: Vec<String> = IGNORED.iter().map(|path| format!("-path {path}")).collect();
    let ignored = ignored.join(" -o ");
    add("file", &machine.shell(&format!("find / -mindepth 1 \\( {ignored} \\) -prune -o -print"))?);
    Ok(found)
}

/// Lines that are only in one of two inventories, with their sign.
pub(crate) fn difference(before: &BTreeSet<String>, after: &BTreeSet<String>) -> String {
    let gone = before.difference(after).map(|line| format!("- {line}"));
    let new = after.difference(before).map(|line| format!("+ {line}"));
    gone.chain(new).collect::<Vec<_>>().join("\n")
}
