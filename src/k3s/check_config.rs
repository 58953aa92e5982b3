//! `k3s check-config`: can this machine run k3s, and what to do where it can't.
//!
//! Invariant: it changes nothing that lasts: probes are made in namespaces and files of their own
//! and removed.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::containerd::find_program;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    /// k3s runs, something is worse than it could be.
    Poor,
    /// k3s or pods do not run.
    Bad,
}

/// One line of the answer: what was looked at, what was found, what to do about it.
#[derive(Debug)]
struct Finding {
    what: String,
    verdict: Verdict,
    found: String,
    remedy: String,
}

fn good(what: &str, found: impl Into<String>) -> Finding {
    Finding {
        what: what.into(),
        verdict: Verdict::Good,
        found: found.into(),
        remedy: String::new(),
    }
}

fn poor(what: &str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { remedy: remedy.into(), verdict: Verdict::Poor, ..good(what, found) }
}

fn bad(what: &str, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { remedy: remedy.into(), verdict: Verdict::Bad, ..good(what, found) }
}

/// Prints what was found; `false` when k3s would not run.
pub(crate) fn run(data: &Path) -> Result<bool> {
    let mut findings = vec![user(), kernel(), memory()];
    findings.extend(cgroups());
    findings.extend(programs());
    findings.extend(modules());
    findings.extend([nft(), vxlan(), overlay(), namespaces(), devices()]);
    findings.extend(settings());
    findings.extend([open_files(), watches(), disk(data), clock()]);
    for finding in &findings {
        let mark = match finding.verdict {
            Verdict::Good => "ok  ",
            Verdict::Poor => "warn",
            Verdict::Bad => "FAIL",
        };
        println!("{mark}  {}: {}", finding.what, finding.found);
        if !finding.remedy.is_empty() {
            println!("      {}", finding.remedy);
        }
    }
    let count = |verdict| findings.iter().filter(|it| it.verdict == verdict).count();
    let (failed, warned) = (count(Verdict::Bad), count(Verdict::Poor));
    match failed {
        0 => println!("\nThis machine can run k3s ({warned} warnings)."),
        _ => println!("\nThis machine cannot run k3s: {failed} checks failed ({warned} warnings)."),
    }
    Ok(failed == 0)
}

fn user() -> Finding {
    match rustix::process::geteuid().is_root() {
        true => good("user", "root"),
        false => bad("user", "not root", "run k3s as root: sudo k3s check-config"),
    }
}

fn kernel() -> Finding {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    match version(&release) {
        Some(version) if version >= (5, 4) => good("kernel", release),
        _ => bad("kernel", release, "k3s needs Linux 5.4 or newer"),
    }
}

/// `6.1.0-18-amd64` is (6, 1).
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn memory() -> Finding {
    let total_mib = rustix::system::sysinfo().totalram >> 20;
    let found = format!("{total_mib} MiB");
    match total_mib {
        0..400 => bad("memory", found, "a server needs 512 MiB"),
        400..900 => poor("memory", found, "little is left for pods; a server wants 1 GiB"),
        _ => good("memory", found),
    }
}

const CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "cpuset"];

fn cgroups() -> Vec<Finding> {
    let unified = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").ok();
    let (kind, there) = match &unified {
        Some(controllers) => ("v2", controllers.split_whitespace().map(str::to_owned).collect()),
        None => ("v1", legacy_controllers(&read("/proc/cgroups"))),
    };
    let there: Vec<String> = there;
    let hierarchy = match (unified.is_some(), there.is_empty()) {
        (true, _) => good("cgroups", kind),
        (false, false) => {
            poor("cgroups", kind, "v2 is better: boot with systemd.unified_cgroup_hierarchy=1")
        }
        (false, true) => bad("cgroups", "not mounted", "mount cgroup2 on /sys/fs/cgroup"),
    };
    let one = |name: &&str| {
        let what = format!("cgroup controller {name}");
        match there.iter().any(|it| it == name) {
            true => good(&what, "there"),
            false if **name == *"memory" => bad(
                &what,
                "missing",
                "add cgroup_enable=memory cgroup_memory=1 to the kernel's command line \
                 (Raspberry Pi: /boot/firmware/cmdline.txt) and reboot",
            ),
            false => bad(&what, "missing", "the kernel was built or booted without it"),
        }
    };
    std::iter::once(hierarchy).chain(CONTROLLERS.iter().map(one)).collect()
}

/// The controllers that `/proc/cgroups` shows as enabled.
fn legacy_controllers(table: &str) -> Vec<String> {
    let lines = table.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            match fields[..] {
                [name, _, _, "1"] => Some(name.to_owned()),
                _ => None,
            }
        })
        .collect()
}

/// Programs that k3s runs: name, Debian package, what for.
const PROGRAMS: [(&str, &str); 5] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("runc", "runc"),
    ("nft", "nftables"),
    ("dbus-daemon", "dbus-daemon"),
];

fn programs() -> Vec<Finding> {
    PROGRAMS
        .iter()
        .map(|(name, package)| match find_program(name, package) {
            Ok(path) => good(&format!("program {name}"), path.display().to_string()),
            Err(_) => bad(
                &format!("program {name}"),
                "not installed",
                format!("apt install {package}, or equivalent"),
            ),
        })
        .collect()
}

/// Modules that may also be built in: name, what shows that it is at work, what needs it.
const MODULES: [(&str, &str, &str); 4] = [
    ("overlay", "/sys/module/overlay", "containers' file systems"),
    ("br_netfilter", "/sys/module/br_netfilter", "network policies of other vendors"),
    ("nf_conntrack", "/proc/sys/net/netfilter/nf_conntrack_max", "Services"),
    ("vxlan", "/sys/module/vxlan", "the pod network between nodes"),
];

fn modules() -> Vec<Finding> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let folder = format!("/lib/modules/{release}");
    let (built_in, loadable) =
        (read(&format!("{folder}/modules.builtin")), read(&format!("{folder}/modules.dep")));
    MODULES
        .iter()
        .map(|(name, sign, needed)| {
            let what = format!("module {name}");
            if Path::new(sign).exists() {
                return good(&what, "loaded");
            }
            match (has_module(&built_in, name), has_module(&loadable, name)) {
                (true, _) => good(&what, "built in"),
                (_, true) => good(&what, "loaded when needed"),
                _ if *name == "br_netfilter" => {
                    good(&what, format!("not there; only for {needed}"))
                }
                // The probes below tell for sure.
                _ => poor(
                    &what,
                    format!("not found in {folder}"),
                    format!(
                        "needed for {needed}; install the kernel's modules (Ubuntu: \
                             linux-modules-extra-{release}) unless the probe below is ok"
                    ),
                ),
            }
        })
        .collect()
}

/// Whether a list of modules has `…/name.ko`, packed or not.
fn has_module(list: &str, name: &str) -> bool {
    let file = name.replace('-', "_");
    list.lines().any(|line| {
        let path = line.split(':').next().unwrap_or_default();
        let base = path.rsplit('/').next().unwrap_or_default().replace('-', "_");
        base.strip_prefix(&file).is_some_and(|rest| rest.starts_with(".ko"))
    })
}

/// Runs a probe in a network namespace of its own.
fn probe(script: &str) -> Result<(), String> {
    let output = Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", script])
        .stdin(Stdio::null())
        .output()
        .map_err(|err| format!("unshare: {err}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(said.lines().next().unwrap_or("it failed").trim().to_owned())
        }
    }
}

fn nft() -> Finding {
    // What a Service needs: a verdict map with concatenated keys, translation, and numgen.
    let rules = "table ip k3s-check { map to { type ipv4_addr . inet_proto . inet_service : verdict; }; \
                 chain pick { meta l4proto tcp dnat to 192.0.2.1:80; }; \
                 chain pre { type nat hook prerouting priority dstnat; policy accept; \
                 ip daddr . meta l4proto . th dport vmap @to; numgen random mod 2 vmap { 0 : goto pick }; }; \
                 chain post { type nat hook postrouting priority srcnat; masquerade; }; }";
    match probe(&format!("echo '{rules}' | nft -f -")) {
        Ok(()) => good("nftables", "maps, translation and masquerading work"),
        Err(said) => bad(
            "nftables",
            said,
            "the kernel needs CONFIG_NF_TABLES, NFT_NAT, NFT_MASQ, NFT_NUMGEN and NF_CONNTRACK; \
             the nft program must be 1.0 or newer",
        ),
    }
}

fn vxlan() -> Finding {
    match probe("ip link add k3s-check type vxlan id 1 dstport 8472 nolearning local 127.0.0.1") {
        Ok(()) => good("vxlan", "a link could be made"),
        Err(said) => poor(
            "vxlan",
            said,
            "give --flannel-backend=host-gw (nodes on one link), or use a kernel with CONFIG_VXLAN",
        ),
    }
}

fn overlay() -> Finding {
    let script = "set -e; d=$(mktemp -d /run/k3s-check.XXXXXX); trap 'cd /; umount $d; rmdir $d' EXIT; \
                  mount -t tmpfs tmpfs $d; cd $d; mkdir lower upper work all; \
                  mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work all; umount all";
    match probe(script) {
        Ok(()) => good("overlayfs", "could be mounted"),
        Err(said) => bad(
            "overlayfs",
            said,
            "use a kernel with CONFIG_OVERLAY_FS, or give --snapshotter=native",
        ),
    }
}

fn namespaces() -> Finding {
    let kinds = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];
    let missing: Vec<&str> =
        kinds.into_iter().filter(|it| !Path::new("/proc/self/ns").join(it).exists()).collect();
    match missing.is_empty() {
        true => good("namespaces", kinds.join(" ")),
        false => bad(
            "namespaces",
            format!("missing: {}", missing.join(" ")),
            "use a kernel with CONFIG_NAMESPACES and all of its kinds",
        ),
    }
}

fn devices() -> Finding {
    match probe("ip link add k3s-a type veth peer name k3s-b") {
        Ok(()) => good("veth", "a pair could be made"),
        Err(said) => bad("veth", said, "use a kernel with CONFIG_VETH"),
    }
}

/// Settings of the kernel: name, what it must be, what needs it.
const SETTINGS: [(&str, &str, &str); 2] = [
    (
        "net/ipv4/ip_forward",
        "1",
        "k3s sets it; a firewall or sysctl.d that resets it cuts pods off",
    ),
    ("kernel/panic", "10", "sysctl -w kernel.panic=10 restarts a machine whose kernel gave up"),
];

fn settings() -> Vec<Finding> {
    SETTINGS
        .iter()
        .map(|(name, wanted, remedy)| {
            let what = format!("sysctl {}", name.replace('/', "."));
            let found = read(&format!("/proc/sys/{name}")).trim().to_owned();
            match found == *wanted {
                true => good(&what, found),
                false => poor(&what, found, *remedy),
            }
        })
        .collect()
}

fn open_files() -> Finding {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    match limit.maximum {
        None => good("open files", "unlimited"),
        Some(most) if most >= 65_536 => good("open files", most.to_string()),
        Some(most) => poor(
            "open files",
            most.to_string(),
            "raise the hard limit to 65536 or more (the units do; in a shell: ulimit -Hn 65536)",
        ),
    }
}

fn watches() -> Finding {
    let number = |name: &str| {
        read(&format!("/proc/sys/fs/inotify/{name}")).trim().parse::<u64>().unwrap_or(0)
    };
    let (instances, watches) = (number("max_user_instances"), number("max_user_watches"));
    let found = format!("{instances} instances, {watches} watches");
    match instances >= 128 && watches >= 8192 {
        true => good("inotify", found),
        false => poor(
            "inotify",
            found,
            "sysctl -w fs.inotify.max_user_instances=8192 fs.inotify.max_user_watches=524288",
        ),
    }
}

/// How long the disk of the data folder takes until a small write has reached it.
fn disk(data: &Path) -> Finding {
    let what = format!("disk of {}", data.display());
    let there = data.ancestors().find(|it| it.is_dir()).unwrap_or(Path::new("/"));
    match sync_latency(there) {
        Err(err) => bad(
            &what,
            format!("cannot be written to: {err}"),
            "make room, remount it read-write, or give another --data-dir",
        ),
        Ok(median) => {
            let found = format!("a write is safe after {:.1} ms", median.as_secs_f64() * 1000.0);
            match median {
                // Leases are renewed every few seconds; a slow disk holds every other write up.
                _ if median > Duration::from_millis(100) => bad(
                    &what,
                    found,
                    "too slow for the datastore (10 ms is good): move --data-dir from the SD card \
                     or network disk to an SSD",
                ),
                _ if median > Duration::from_millis(20) => {
                    poor(&what, found, "10 ms is good; an SSD or NVMe disk for --data-dir helps")
                }
                _ => good(&what, found),
            }
        }
    }
}

/// The median of some small synchronous writes, as the datastore does them.
fn sync_latency(folder: &Path) -> std::io::Result<Duration> {
    const WRITES: usize = 21;
    let path = folder.join(format!(".k3s-check-{}", std::process::id()));
    let measured = (|| {
        let mut file = fs::File::create(&path)?;
        file.write_all(&[0; 64 << 10])?;
        file.sync_all()?;
        let mut times = Vec::new();
        for index in 0..WRITES {
            let begun = Instant::now();
            file.write_all_at(&[1; 4096], u64::try_from(index).unwrap_or(0) * 2048)?;
            file.sync_data()?;
            times.push(begun.elapsed());
        }
        times.sort();
        Ok(times.get(WRITES / 2).copied().unwrap_or_default())
    })();
    let _ = fs::remove_file(&path);
    measured
}

fn clock() -> Finding {
    let year = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).year();
    match year {
        ..2025 => bad(
            "clock",
            format!("the year is {year}"),
            "set the clock (timedatectl set-ntp true): certificates depend on it",
        ),
        _ => good("clock", jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_releases() {
        for (release, expected) in [
            ("6.1.0-18-amd64", Some((6, 1))),
            ("5.4.0", Some((5, 4))),
            ("6.17-rc1", Some((6, 17))),
            ("x", None),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
    }

    #[test]
    fn modules_are_found_packed_or_not() {
        let list = "kernel/fs/overlayfs/overlay.ko.xz: \nkernel/net/bridge/br_netfilter.ko:\n";
        assert!(has_module(list, "overlay") && has_module(list, "br_netfilter"));
        assert!(!has_module(list, "over") && !has_module("", "vxlan"));
        assert!(has_module("kernel/x/nf-conntrack.ko.zst:", "nf_conntrack"));
    }

    #[test]
    fn disabled_controllers_do_not_count() {
        let table =
            "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t3\t1\t1\nmemory\t0\t1\t0\n";
        assert_eq!(legacy_controllers(table), ["cpu"]);
    }

    #[test]
    fn a_disk_is_measured_and_left_as_it_was() {
        let folder = std::env::temp_dir().join(format!("k3s-check-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        assert!(sync_latency(&folder).unwrap() < Duration::from_secs(10));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        fs::remove_dir_all(&folder).unwrap();
        assert!(sync_latency(&folder).is_err());
    }
}
