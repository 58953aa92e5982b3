//! A machine with a kernel of its own: Debian 12 under qemu's emulation, which needs no help of this
//! machine's processor.
//!
//! Requests go to a shell in the machine over a virtio serial port. Invariant: the machine is the one
//! process `qemu-system-x86_64`, which ends with the value; its disk is made anew for every story.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::base;
use super::guest::Guest;
use super::init::Init;
use crate::cluster::{run, wait};

/// What turns the base into something that boots from a disk.
const KERNEL: &[&str] = &["linux-image-cloud-amd64", "initramfs-tools"];
/// Emulation is some twenty times slower than the processor.
const BOOT: Duration = Duration::from_secs(900);
const ANSWER: Duration = Duration::from_secs(900);
const MEMORY_MIB: &str = "3072";
const DISK: &str = "6G";

/// Runs what comes from the serial port: a line with the script's length, then the script. The answer
/// is a line with the exit status and the lengths of what the script wrote, then both.
const SERVANT: &str = r#"#!/bin/sh
exec 3<>/dev/virtio-ports/test
while :; do
    # Nobody is there until the test connects.
    read -r length <&3 || { sleep 0.2; continue; }
    head -c "$length" <&3 >/run/test-script
    sh /run/test-script >/run/test-out 2>/run/test-err </dev/null 3>&-
    echo "$? $(stat -c %s /run/test-out) $(stat -c %s /run/test-err)" >&3
    cat /run/test-out /run/test-err >&3
done
"#;
const SERVANT_UNIT: &str = "[Unit]
Description=Runs what the test asks for
After=systemd-udevd.service dev-virtio\\x2dports-test.device
Requires=dev-virtio\\x2dports-test.device
[Service]
ExecStart=/usr/local/sbin/test-servant
Environment=HOME=/root LC_ALL=C DEBIAN_FRONTEND=noninteractive TERM=dumb
KillMode=process
";
const NETWORK_UNIT: &str = "[Unit]
Description=Address of this machine
DefaultDependencies=no
Requires=sys-subsystem-net-devices-eth0.device
After=sys-subsystem-net-devices-eth0.device
Wants=network-online.target
Before=network-online.target network.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=ip address add 10.0.2.15/24 dev eth0
ExecStart=ip link set eth0 up
ExecStart=ip route add default via 10.0.2.2
";
/// So slow a machine is not what k3s' watchdog is for.
const PATIENT: &str = "[Service]\nWatchdogSec=600\nTimeoutStopSec=300\n";
/// Devices and Debian's own services take their time, too.
const SLOW: &str = "[Manager]\nDefaultTimeoutStartSec=600\nDefaultDeviceTimeoutSec=600\n";

/// A machine under emulation.
pub(crate) struct Emulated {
    folder: PathBuf,
    qemu: Option<Child>,
    /// Kept open: to the machine an end of the connection is the end of its input.
    servant: RefCell<Option<BufReader<UnixStream>>>,
}

impl Emulated {
    /// Makes a disk with the files that `furnish` adds to the root, and boots from it.
    pub(crate) fn new(furnish: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        let template = template()?;
        let folder = base::target().join("machines/vm");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        let root = folder.join("root");
        fs::create_dir_all(&folder)?;
        run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(&template).arg(&root))?;
        for (name, content) in [("servant", SERVANT_UNIT), ("network", NETWORK_UNIT)] {
            let unit = format!("test-{name}.service");
            let wants = root.join("etc/systemd/system/multi-user.target.wants");
            fs::create_dir_all(&wants)?;
            fs::write(root.join("etc/systemd/system").join(&unit), content)?;
            std::os::unix::fs::symlink(format!("../{unit}"), wants.join(&unit))?;
        }
        fs::write(root.join("usr/local/sbin/test-servant"), SERVANT)?;
        run(Command::new("chmod").arg("755").arg(root.join("usr/local/sbin/test-servant")))?;
        fs::create_dir_all(root.join("etc/systemd/system.conf.d"))?;
        fs::write(root.join("etc/systemd/system.conf.d/slow.conf"), SLOW)?;
        fs::create_dir_all(root.join("etc/systemd/system/k3s-.service.d"))?;
        fs::write(root.join("etc/systemd/system/k3s-.service.d/90-slow.conf"), PATIENT)?;
        // containerd feeds no watchdog.
        let runtime = root.join("etc/systemd/system/k3s-containerd.service.d");
        fs::create_dir_all(&runtime)?;
        fs::write(runtime.join("90-slow.conf"), "[Service]\nWatchdogSec=0\n")?;
        fs::write(root.join("etc/hostname"), "vm\n")?;
        fs::write(root.join("etc/resolv.conf"), "nameserver 10.0.2.254\n")?;
        fs::write(root.join("etc/fstab"), "/dev/vda / ext4 defaults 0 1\n")?;
        furnish(&root)?;
        for (link, file) in [("vmlinuz", "kernel"), ("initrd.img", "initrd")] {
            let path = fs::read_link(root.join(link)).context("the kernel's link")?;
            fs::copy(root.join(path), folder.join(file)).context("the kernel")?;
        }
        let disk = folder.join("disk");
        run(Command::new("mkfs.ext4").args(["-q", "-d"]).arg(&root).arg(&disk).arg(DISK))?;
        fs::remove_dir_all(&root)?;
        let mut machine = Self { folder, qemu: None, servant: RefCell::default() };
        machine.boot()?;
        Ok(machine)
    }

    /// Where the kernel's and systemd's messages go.
    pub(crate) fn console(&self) -> PathBuf {
        base::target().join("machines/vm.log")
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    fn boot(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.console())?;
        let show = |path: &str| self.folder.join(path).display().to_string();
        let qemu = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", MEMORY_MIB])
            .args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"])
            .args(["-kernel", &show("kernel"), "-initrd", &show("initrd")])
            .args(["-append", "root=/dev/vda rw console=ttyS0 net.ifnames=0 panic=-1"])
            .args(["-drive", &format!("file={},format=raw,if=virtio,cache=unsafe", show("disk"))])
            .args(["-netdev", "user,id=net,restrict=on", "-device", "virtio-net-pci,netdev=net"])
            .args(["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"])
            .args([
                "-chardev",
                &format!("socket,id=test,path={},server=on,wait=off", show("socket")),
            ])
            .args(["-device", "virtserialport,chardev=test,name=test"])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("qemu-system-x86_64 (packaging/prerequisites vm)")?;
        self.qemu = Some(qemu);
        wait("qemu to listen", Duration::from_secs(20), &mut || {
            let stream = UnixStream::connect(self.socket())?;
            *self.servant.borrow_mut() = Some(BufReader::new(stream));
            Ok(true)
        })?;
        let state = self.ask("systemctl is-system-running --wait; true", BOOT);
        let state = state.with_context(|| format!("see {}", self.console().display()))?;
        ensure!(matches!(state.trim(), "running" | "degraded"), "the machine is {state}");
        Ok(())
    }

    /// Reboots as an administrator would; returns the time until everything is up again.
    pub(crate) fn reboot(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        self.shell("systemctl reboot --no-block")?;
        // It ends at the reset, and starts again with the same disk.
        self.ended()?;
        self.boot()?;
        Ok(begun.elapsed())
    }

    /// Lets somebody else speak to it: a line with the length of a script, then the script.
    pub(crate) fn hang_up(&self) -> PathBuf {
        self.servant.borrow_mut().take();
        self.socket()
    }

    fn ended(&mut self) -> Result<()> {
        self.servant.borrow_mut().take();
        let Some(mut qemu) = self.qemu.take() else { return Ok(()) };
        let ended = wait("the machine to shut down", Duration::from_secs(300), &mut || {
            Ok(qemu.try_wait()?.is_some())
        });
        if ended.is_err() {
            qemu.kill()?;
            qemu.wait()?;
        }
        ended
    }

    /// One request and its answer.
    fn ask(&self, script: &str, patience: Duration) -> Result<String> {
        let mut servant = self.servant.borrow_mut();
        let reader = servant.as_mut().context("the machine does not run")?;
        reader.get_ref().set_read_timeout(Some(patience))?;
        reader.get_mut().write_all(format!("{}\n{script}", script.len()).as_bytes())?;
        let mut head = String::new();
        reader.read_line(&mut head).with_context(|| format!("no answer to: {script}"))?;
        let numbers: Vec<usize> =
            head.split_whitespace().map(str::parse).collect::<Result<_, _>>().context("head")?;
        let [status, out, err] = numbers[..] else { bail!("answered {head:?} to: {script}") };
        let mut text = |length: usize| -> Result<String> {
            let mut bytes = vec![0; length];
            reader.read_exact(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let (out, err) = (text(out)?, text(err)?);
        ensure!(status == 0, "{script}: exit status {status}: {}", err.trim());
        Ok(out)
    }
}

impl Guest for Emulated {
    fn shell(&self, line: &str) -> Result<String> {
        self.ask(line, ANSWER)
    }
}

impl Drop for Emulated {
    fn drop(&mut self) {
        if let Some(mut qemu) = self.qemu.take() {
            let _ = qemu.kill();
            let _ = qemu.wait();
        }
        if std::env::var_os("K3S_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// The base with a kernel, made once; this needs the network.
fn template() -> Result<PathBuf> {
    let done = base::target().join("machines/vm-base");
    if done.exists() {
        return Ok(done);
    }
    let work = base::target().join("machines/vm-base.part");
    if work.exists() {
        fs::remove_dir_all(&work).context("removing half a root")?;
    }
    run(Command::new("cp")
        .args(["-a", "--reflink=auto"])
        .arg(base::root(Init::Systemd))
        .arg(&work))?;
    fs::copy("/etc/resolv.conf", work.join("etc/resolv.conf"))?;
    let mut install =
        vec!["apt-get", "-qy", "-o", "APT::Keep-Downloaded-Packages=false", "install"];
    install.extend(KERNEL);
    for args in [&["apt-get", "-q", "update"][..], &install] {
        let mut chroot = Command::new("chroot");
        run(chroot.arg(&work).args(args).env("DEBIAN_FRONTEND", "noninteractive"))?;
    }
    fs::rename(&work, &done)?;
    Ok(done)
}
