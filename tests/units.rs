//! The systemd units: every one loads without a complaint, and none is more exposed than it must.
//!
//! Invariant: checked offline, in a root of its own, so the machine's units play no part.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// `systemd-analyze security`: the most that a unit may score, of 100. What changes the machine
/// itself cannot be walled in, its drop-in says why.
const EXPOSURE_MAX: &[(&str, u32)] = &[
    ("k3s-agent.service", 45),
    ("k3s-apiserver.service", 17),
    ("k3s-containerd.service", 96),
    ("k3s-controller-manager.service", 17),
    ("k3s-dns.service", 16),
    ("k3s-flannel.service", 25),
    ("k3s-kubelet.service", 91),
    ("k3s-proxy.service", 16),
    ("k3s-scheduler.service", 13),
    ("k3s-server.service", 45),
    ("k3s-shutdown.service", 96),
    ("k3s-store.service", 13),
];

/// What the units refer to and is not ours.
const OTHERS: &[&str] = &[
    "basic.target",
    "dbus.socket",
    "dbus.service",
    "multi-user.target",
    "network-online.target",
    "shutdown.target",
    "sockets.target",
    "sysinit.target",
    "tmp.mount",
    "systemd-tmpfiles-setup.service",
];

/// A root folder that holds our units and nothing else that matters.
struct Root(PathBuf);

impl Root {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("k3s-{name}-{}", std::process::id()));
        let units = root.join("usr/lib/systemd/system");
        let tree = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        copy(&tree.join("units/systemd"), &units);
        for other in OTHERS {
            let service =
                if other.ends_with("service") { "[Service]\nExecStart=k3s\n" } else { "" };
            let socket = if other.ends_with("socket") { "[Socket]\nListenStream=/x\n" } else { "" };
            let mount =
                if other.ends_with("mount") { "[Mount]\nWhat=tmpfs\nWhere=/tmp\n" } else { "" };
            fs::write(units.join(other), format!("[Unit]\n{service}{socket}{mount}")).unwrap();
        }
        let programs = root.join("usr/bin");
        fs::create_dir_all(&programs).unwrap();
        for program in ["k3s", "k3s-killall.sh", "containerd", "kill"] {
            fs::write(programs.join(program), "#!/bin/sh\n").unwrap();
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(programs.join(program), mode).unwrap();
        }
        Self(root)
    }

    /// Our unit files of these kinds.
    fn units(&self, kinds: &[&str]) -> Vec<String> {
        let entries = fs::read_dir(self.0.join("usr/lib/systemd/system")).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("k3s"))
            .filter(|name| kinds.iter().any(|kind| name.ends_with(kind)))
            .collect();
        names.sort();
        names
    }

    fn analyze(&self, verb: &str, args: &[String]) -> Output {
        Command::new("systemd-analyze")
            .args([verb, "--root"])
            .arg(&self.0)
            .args(args)
            .output()
            .expect("systemd-analyze is installed (package systemd)")
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

#[test]
fn every_unit_loads_without_a_complaint() {
    let root = Root::new("verify");
    let folder = root.0.join("usr/lib/systemd/system");
    let mut args = vec!["--man=no".to_owned()];
    let units = root.units(&[".service", ".socket", ".slice"]);
    args.extend(units.iter().map(|name| folder.join(name).display().to_string()));
    let output = root.analyze("verify", &args);
    let said = String::from_utf8_lossy(&output.stderr);
    let complaints: Vec<&str> = said.lines().filter(|line| line.contains("k3s")).collect();
    assert!(output.status.success() && complaints.is_empty(), "{said}");
}

#[test]
fn no_unit_is_more_exposed_than_it_must() {
    let root = Root::new("security");
    let listed: Vec<&str> = EXPOSURE_MAX.iter().map(|(unit, _)| *unit).collect();
    assert_eq!(root.units(&[".service"]), listed, "list every service with its most");
    for (unit, most) in EXPOSURE_MAX {
        let args = ["--offline=yes".to_owned(), format!("--threshold={most}"), (*unit).to_owned()];
        let output = root.analyze("security", &args);
        let said = String::from_utf8_lossy(&output.stdout);
        let overall = said.lines().last().unwrap_or_default();
        assert!(output.status.success(), "{unit} may score {most} of 100: {overall}");
    }
}
