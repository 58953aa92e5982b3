//! A booted machine: Debian with systemd, or sysvinit and OpenRC, in `systemd-nspawn`, on a bridge.
//!
//! Invariant: whatever a machine is made of (processes, control groups, links, its root) is gone
//! when it is dropped. Control groups of every controller are its own, so that a machine sees none
//! of the host's.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::base;
use super::init::Init;
use crate::cluster::{kill, run, wait};

const BRIDGE: &str = "br0";
const CGROUPS: &str = "/sys/fs/cgroup";
/// Booting takes ten seconds on an idle machine, more on a busy one.
const BOOT: Duration = Duration::from_secs(120);

/// A machine.
pub(crate) struct Machine {
    pub(crate) name: &'static str,
    pub(crate) root: PathBuf,
    pub(crate) address: Ipv4Addr,
    pub(crate) init: Init,
    nspawn: Option<Child>,
    leader: u32,
}

impl Machine {
    /// Makes a machine from the base and boots it. `number` tells its address.
    pub(crate) fn new(name: &'static str, number: u8, init: Init) -> Result<Self> {
        bridge()?;
        let root = base::target().join("machines").join(name);
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(base::root(init)).arg(&root))?;
        let address = Ipv4Addr::new(10, 88, 0, number);
        fs::write(root.join("etc/hostname"), format!("{name}\n"))?;
        fs::write(root.join("etc/resolv.conf"), "nameserver 10.88.0.254\n")?;
        init.set_up(&root, &address.to_string())?;
        let mut machine = Self { name, root, address, init, nspawn: None, leader: 0 };
        machine.boot()?;
        Ok(machine)
    }

    fn log(&self) -> PathBuf {
        base::target().join("machines").join(format!("{}.log", self.name))
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        // Other runs on this host have machines of the same names; each has a namespace of its own.
        let run = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let run = run.to_string_lossy().replace(|sign: char| !sign.is_ascii_digit(), "");
        let controllers = fs::read_dir(CGROUPS).into_iter().flatten().flatten();
        controllers
            .map(|entry| entry.path())
            .filter(|path| path.join("cgroup.procs").exists())
            .map(|path| path.join(format!("k3s-test-{}-{run}", self.name)))
            .collect()
    }

    fn boot(&mut self) -> Result<()> {
        let mut command = Command::new("systemd-nspawn");
        command
            .args(["--quiet", "--boot", "--register=no", "--keep-unit", "--link-journal=no"])
            .args(["--capability=all", "--console=pipe", "--resolv-conf=off", "--timezone=off"])
            .arg("--system-call-filter=add_key keyctl request_key bpf @privileged")
            .arg(format!("--network-bridge={BRIDGE}"))
            .arg(format!("--machine={}", self.name))
            .arg("--directory")
            .arg(&self.root);
        let legacy = !Path::new(CGROUPS).join("cgroup.controllers").exists();
        let mut join = String::new();
        if legacy {
            command.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "0");
            for group in self.cgroups() {
                let controller = group.parent().and_then(Path::file_name).unwrap_or_default();
                let controller = controller.to_string_lossy();
                fs::create_dir_all(&group)?;
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    let parent = Path::new(CGROUPS).join(&*controller).join(file);
                    if controller == "cpuset" {
                        fs::write(group.join(file), fs::read(parent)?)?;
                    }
                }
                join += &format!("echo $$ >{}/cgroup.procs && ", group.display());
                // systemd's own hierarchy nspawn mounts, from where it is itself in the unified one.
                if !matches!(&*controller, "systemd" | "unified") {
                    command.arg(format!("--bind={}:{CGROUPS}/{controller}", group.display()));
                }
            }
        }
        // The shell enters the groups before it becomes nspawn.
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("{join}exec \"$@\"")).arg("sh").arg(command.get_program());
        shell.args(command.get_args());
        for (name, value) in command.get_envs() {
            shell.env(name, value.unwrap_or_default());
        }
        let log = File::options().create(true).append(true).open(self.log())?;
        let child = shell
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("systemd-nspawn")?;
        let id = child.id();
        self.nspawn = Some(child);
        wait("the machine to boot", BOOT, &mut || {
            let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
            self.leader = children.split_whitespace().next().context("no process 1")?.parse()?;
            Ok(self.shell(self.init.booted()).is_ok())
        })
        .with_context(|| format!("see {}", self.log().display()))
    }

    /// Runs a command in the machine and returns what it printed.
    pub(crate) fn run(&self, args: &[&str]) -> Result<String> {
        run(self.command().args(args))
    }

    /// Runs a line of shell in the machine.
    pub(crate) fn shell(&self, line: &str) -> Result<String> {
        self.run(&["sh", "-c", line])
    }

    /// kubectl as administrator, in the machine.
    pub(crate) fn kubectl(&self, args: &[&str]) -> Result<String> {
        let mut full = vec!["env", "KUBECONFIG=/etc/rancher/k3s/k3s.yaml", "/mnt/kubectl"];
        full.extend(args);
        self.run(&full)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.leader)).args([
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--pid",
            "--cgroup",
            "--root",
            "env",
            "-C/",
            "-i",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME=/root",
            "LC_ALL=C",
            "DEBIAN_FRONTEND=noninteractive",
            "TERM=dumb",
        ]);
        command
    }

    /// Waits for a condition in the machine.
    pub(crate) fn wait(
        &self,
        what: &str,
        seconds: u64,
        condition: &mut dyn FnMut() -> Result<bool>,
    ) -> Result<()> {
        wait(what, Duration::from_secs(seconds), condition)
    }

    /// The end of the log, for a failure.
    pub(crate) fn journal(&self) -> String {
        let text = self.shell(self.init.log()).unwrap_or_else(|err| err.to_string());
        if std::env::var_os("K3S_HOLD").is_some() {
            // `nsenter -t PID -a` looks inside until this file is there.
            let go = self.root.join("mnt/go");
            println!("holding machine {} in {}", self.name, self.root.display());
            wait("mnt/go", Duration::from_secs(1800), &mut || Ok(go.exists())).ok();
        }
        format!("log of {}:\n{text}---\n", self.name)
    }

    /// Reboots as an administrator would.
    pub(crate) fn reboot(&mut self) -> Result<()> {
        self.run(&["reboot"]).ok();
        self.ended()?;
        self.boot()
    }

    fn ended(&mut self) -> Result<()> {
        let Some(mut nspawn) = self.nspawn.take() else { return Ok(()) };
        let ended = wait("the machine to shut down", Duration::from_secs(100), &mut || {
            Ok(nspawn.try_wait()?.is_some())
        });
        if ended.is_err() {
            nspawn.kill()?;
            nspawn.wait()?;
        }
        ended
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.nspawn.is_some() {
            let _ = self.run(&["poweroff"]);
            if self.ended().is_err() {
                let _ = kill(self.leader, rustix::process::Signal::KILL);
            }
        }
        for group in self.cgroups() {
            let _ = run(Command::new("find")
                .arg(&group)
                .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]));
        }
        if std::env::var_os("K3S_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}

fn bridge() -> Result<()> {
    if run(Command::new("ip").args(["link", "show", BRIDGE])).is_ok() {
        return Ok(());
    }
    for line in [
        format!("link add {BRIDGE} type bridge"),
        format!("address add 10.88.0.254/24 dev {BRIDGE}"),
        format!("link set {BRIDGE} up"),
    ] {
        run(Command::new("ip").args(line.split(' ')))?;
    }
    Ok(())
}
