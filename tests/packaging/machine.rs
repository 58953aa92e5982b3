//! A booted machine: Debian with systemd as process 1 in `systemd-nspawn`, on a bridge.
//!
//! Invariant: whatever a machine is made of (processes, control groups, links, its root) is gone
//! when it is dropped. Control groups of every controller are its own, so that a machine sees none
//! of the host's.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::base;
use crate::cluster::{kill, run, wait};

const BRIDGE: &str = "br0";
const CGROUPS: &str = "/sys/fs/cgroup";
/// Booting takes ten seconds on an idle machine, more on a busy one.
const BOOT: Duration = Duration::from_secs(120);

/// A machine.
pub(crate) struct Machine {
    pub(crate) name: &'static str,
    pub(crate) root: PathBuf,
    nspawn: Option<Child>,
    leader: u32,
}

impl Machine {
    /// Makes a machine from the base and boots it. `number` tells its address.
    pub(crate) fn new(name: &'static str, number: u8) -> Result<Self> {
        bridge()?;
        let root = base::target().join("machines").join(name);
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(base::root()).arg(&root))?;
        let address = format!("10.88.0.{number}");
        fs::write(root.join("etc/hostname"), format!("{name}\n"))?;
        fs::write(root.join("etc/resolv.conf"), "nameserver 10.88.0.254\n")?;
        fs::write(root.join("etc/systemd/system/test-network.service"), network(&address))?;
        let wants = root.join("etc/systemd/system/multi-user.target.wants");
        fs::create_dir_all(&wants)?;
        std::os::unix::fs::symlink(
            "/etc/systemd/system/test-network.service",
            wants.join("test-network.service"),
        )?;
        let mut machine = Self { name, root, nspawn: None, leader: 0 };
        machine.boot()?;
        Ok(machine)
    }

    fn log(&self) -> PathBuf {
        base::target().join("machines").join(format!("{}.log", self.name))
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        let controllers = fs::read_dir(CGROUPS).into_iter().flatten().flatten();
        controllers
            .map(|entry| entry.path())
            .filter(|path| path.join("cgroup.procs").exists())
            .map(|path| path.join(format!("k3s-test-{}", self.name)))
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
                if controller == "systemd" || controller == "unified" {
                    continue;
                }
                fs::create_dir_all(&group)?;
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    let parent = Path::new(CGROUPS).join(&*controller).join(file);
                    if controller == "cpuset" {
                        fs::write(group.join(file), fs::read(parent)?)?;
                    }
                }
                join += &format!("echo $$ >{}/cgroup.procs && ", group.display());
                command.arg(format!("--bind={}:{CGROUPS}/{controller}", group.display()));
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
            let state = self.shell("systemctl is-system-running || true")?;
            Ok(matches!(state.trim(), "running" | "degraded"))
        })
        .with_context(|| format!("see {}", self.log().display()))?;
        if legacy {
            // nspawn mounts what is bound below /sys/fs/cgroup read-only.
            self.shell(&format!(
                "for c in {CGROUPS}/*/; do mount -o remount,rw,bind $c; done 2>/dev/null; true"
            ))?;
        }
        Ok(())
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

    /// The end of the journal, for a failure.
    pub(crate) fn journal(&self) -> String {
        // The reason of a failure is a field, which short output leaves out.
        let text = self
            .shell(
                "journalctl --no-pager -u 'k3s*' -o verbose --output-fields=MESSAGE,ERR,_SYSTEMD_UNIT \
                 | sed -n 's/^    \\(MESSAGE\\|ERR\\|_SYSTEMD_UNIT\\)=/\\1 /p' | tail -n 90",
            )
            .unwrap_or_else(|err| err.to_string());
        if std::env::var_os("K3S_HOLD").is_some() {
            // `nsenter -t PID -a` looks inside until this file is there.
            let go = self.root.join("mnt/go");
            println!("holding machine {} in {}", self.name, self.root.display());
            wait("mnt/go", Duration::from_secs(1800), &mut || Ok(go.exists())).ok();
        }
        format!("journal of {}:\n{text}---\n", self.name)
    }

    /// Reboots as an administrator would.
    pub(crate) fn reboot(&mut self) -> Result<()> {
        self.run(&["systemctl", "reboot"]).ok();
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
            // SIGRTMIN+4 is poweroff to process 1.
            let _ = run(Command::new("kill").args(["-s", "RTMIN+4", &self.leader.to_string()]));
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

/// Gives the machine its address at boot; it has no other way to one.
fn network(address: &str) -> String {
    format!(
        "[Unit]\nDescription=Address of this machine\nDefaultDependencies=no\nBefore=network-online.target network.target\nWants=network-online.target\n\
         [Service]\nType=oneshot\nRemainAfterExit=yes\n\
         ExecStart=ip address add {address}/24 dev host0\nExecStart=ip link set host0 up\n\
         ExecStart=ip route add default via 10.88.0.254\n"
    )
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
