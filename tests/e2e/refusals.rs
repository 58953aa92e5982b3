//! Bad input to `k3s server`: one clear line that names the thing and the remedy, and a non-zero
//! exit, before anything is started.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use crate::cluster::k3s;

/// One refusal: a sentence, and what proves it.
type Step = (&'static str, fn() -> Result<()>);

pub(super) const STEPS: &[Step] = &[
    ("an unknown configuration key is refused with file and line", unknown_key),
    ("a bad value is refused with its flag, file and line", bad_value),
    ("flags of missing features are refused with the reason", missing),
    ("a flag that a component would not take is refused", passed_on),
    ("a port in use is refused", port_in_use),
    ("a missing containerd is refused", no_containerd),
    ("a read-only data folder is refused", read_only),
    ("a full disk is refused", full_disk),
    ("a second server on the same data folder is refused", second_server),
    ("a damaged certificate authority is refused", damaged_ca),
];

/// Runs a server that must end by itself; checks its exit code and what it said.
fn refused(args: &[&str], path: Option<&Path>, says: &[&str]) -> Result<()> {
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", "20"]).arg(k3s()).arg("server").args(args);
    if let Some(path) = path {
        command.env("PATH", path);
    }
    let output = command.stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success(), "it did not refuse: {text}");
    ensure!(output.status.code().is_some_and(|code| code < 128), "it hung: {text}");
    for part in says {
        ensure!(text.contains(part), "{part:?} is not in: {text}");
    }
    ensure!(!text.contains("panicked"), "{text}");
    Ok(())
}

fn unknown_key() -> Result<()> {
    let file = "/run/bad-config.yaml";
    fs::write(file, "token: a\nno-such-key: 1\n")?;
    refused(&["--config", file], None, &["/run/bad-config.yaml:2", "no-such-key"])
}

fn bad_value() -> Result<()> {
    refused(&["--cluster-cidr=banana"], None, &["--cluster-cidr", "banana"])?;
    let file = "/run/bad-value.yaml";
    for line in ["https-listen-port: banana", "cluster-cidr: banana"] {
        fs::write(file, format!("token: a\n{line}\n"))?;
        let key = line.split(':').next().unwrap_or_default();
        refused(&["--config", file], None, &["/run/bad-value.yaml:2", key, "banana"])?;
    }
    Ok(())
}

fn missing() -> Result<()> {
    refused(
        &["--cluster-init", "--docker"],
        None,
        &["--cluster-init: not available yet", "no embedded etcd", "--docker: not available yet"],
    )?;
    let file = "/run/missing.yaml";
    fs::write(file, "lb-server-port: 7444\nsecrets-encryption: true\n")?;
    refused(&["--config", file], None, &["/run/missing.yaml:2: --secrets-encryption"])
}

fn passed_on() -> Result<()> {
    refused(&["--kubelet-arg=no-such-flag=1"], None, &["--kubelet-arg", "--no-such-flag"])
}

fn port_in_use() -> Result<()> {
    let taken = TcpListener::bind("0.0.0.0:6443")?;
    let result = refused(&[], None, &["0.0.0.0:6443", "ss -lnp"]);
    drop(taken);
    result
}

fn no_containerd() -> Result<()> {
    let bin = Path::new("/run/bin-without-containerd");
    fs::create_dir_all(bin)?;
    for name in ["sh", "timeout", "dbus-daemon"] {
        let from = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(name));
        let _ = symlink(from.iter().find(|path| path.exists()).unwrap_or(&from[0]), bin.join(name));
    }
    // The program is also looked for in the administrator's folders; hide it there as well.
    let hide = "mount --bind /dev/null /usr/bin/containerd && exec \"$@\"";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", hide, "sh", "timeout", "--signal=KILL", "20"])
        .arg(k3s())
        .arg("server")
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code().is_some_and(|code| code != 0 && code < 128), "{text}");
    ensure!(text.contains("containerd is not installed (apt install containerd"), "{text}");
    Ok(())
}

fn read_only() -> Result<()> {
    with_tmpfs("/run/read-only", "size=1m,ro", |path| {
        refused(&["--data-dir", path], None, &[path, "--data-dir"])
    })
}

fn full_disk() -> Result<()> {
    with_tmpfs("/run/full", "size=64k", |path| {
        let _ = fs::write(Path::new(path).join("ballast"), vec![0; 1 << 20]);
        refused(&["--data-dir", path], None, &[path, "make room"])
    })
}

fn with_tmpfs(path: &str, options: &str, test: impl FnOnce(&str) -> Result<()>) -> Result<()> {
    fs::create_dir_all(path)?;
    crate::cluster::run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs", path]))?;
    let result = test(path);
    crate::cluster::run(Command::new("umount").arg(path))?;
    result
}

fn second_server() -> Result<()> {
    let data = "/run/second";
    fs::create_dir_all(data)?;
    let lock = fs::File::create(Path::new(data).join("k3s.lock"))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
    refused(&["--data-dir", data], None, &["another k3s runs on /run/second"])
}

fn damaged_ca() -> Result<()> {
    let tls = Path::new("/run/damaged/server/tls");
    fs::create_dir_all(tls)?;
    fs::write(tls.join("server-ca.crt"), "garbage")?;
    fs::write(tls.join("server-ca.key"), "garbage")?;
    refused(&["--data-dir", "/run/damaged"], None, &["server-ca.crt", "damaged", "restore"])
}
