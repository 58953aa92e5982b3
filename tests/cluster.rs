//! A real cluster for a test: `k3s server` with real containerd, driven with the real kubectl.
//!
//! Invariant: it runs inside `tests/isolate` only, so that fixed paths are private and every
//! process ends with the test.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Name of the image that pods of the tests run, made from the system's busybox.
pub(crate) const IMAGE: &str = "docker.io/library/busybox:1.35";
/// The longest that anything is waited for unless the step says otherwise.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks at a condition that has no event to wait for.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Rows of `k3s status` that are no component of ours.
const NO_COMPONENTS: [&str; 4] = ["k3s-server", "k3s-agent", "k3s-containerd", "k3s-dbus"];

/// A running `k3s server`.
pub(crate) struct Cluster {
    server: Child,
    pub(crate) started: Instant,
    log: PathBuf,
}

impl Cluster {
    /// Starts a server on the (private) default paths.
    pub(crate) fn start(log: &Path) -> Result<Self> {
        Self::launch(log, "k3s", &[], &[])
    }

    /// Starts a server on `/var/lib/rancher/<data>`, with further flags.
    pub(crate) fn start_with(log: &Path, data: &str, flags: &[&str]) -> Result<Self> {
        Self::launch(log, data, flags, &[])
    }

    /// Starts a server with additional environment variables.
    pub(crate) fn start_in(log: &Path, env: &[(&str, &str)]) -> Result<Self> {
        Self::launch(log, "k3s", &[], env)
    }

    fn launch(log: &Path, data: &str, flags: &[&str], env: &[(&str, &str)]) -> Result<Self> {
        ensure!(
            fs::read_to_string("/etc/hostname").is_ok() && hostname() == "isolated",
            "run this inside tests/isolate"
        );
        let data = Path::new("/var/lib/rancher").join(data);
        let image = data.join("agent/images/busybox.tar");
        if !image.exists() {
            run(Command::new("packaging/busybox-image").arg(IMAGE).arg(&image))?;
        }
        let out = File::options().create(true).append(true).open(log).context("opening the log")?;
        let started = Instant::now();
        let server = Command::new(k3s())
            .arg("server")
            .arg("--data-dir")
            .arg(&data)
            .args(flags)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .context("starting k3s server")?;
        Ok(Self { server, started, log: log.to_owned() })
    }

    /// Waits until the API server says that it is ready; returns the time since the start.
    pub(crate) fn api_ready(&mut self) -> Result<Duration> {
        self.wait("API ready", PATIENCE, || {
            Ok(kubectl(&["get", "--raw", "/readyz"])?.trim() == "ok")
        })?;
        Ok(self.started.elapsed())
    }

    /// Waits until the node is Ready; returns the time since the start.
    pub(crate) fn node_ready(&mut self) -> Result<Duration> {
        self.wait("node Ready", PATIENCE, || {
            let jsonpath = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}";
            Ok(kubectl(&["get", "nodes", "-o", jsonpath])? == "True")
        })?;
        Ok(self.started.elapsed())
    }

    /// Waits for a condition; an error counts as "not yet" and is reported at the end.
    pub(crate) fn wait(
        &mut self,
        what: &str,
        patience: Duration,
        mut condition: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        if let Some(status) = self.server.try_wait()? {
            bail!("k3s server ended ({status}):\n{}", self.tail());
        }
        wait(what, patience, &mut condition)
    }

    /// SIGTERM, then the time it took to end.
    pub(crate) fn stop(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        kill(self.server.id(), rustix::process::Signal::TERM)?;
        wait("the server to end", Duration::from_secs(15), &mut || {
            Ok(self.server.try_wait()?.is_some())
        })?;
        Ok(begun.elapsed())
    }

    /// The last lines that the server wrote.
    pub(crate) fn tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(15)).copied().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.server.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.stop();
            let _ = self.server.kill();
        }
    }
}

/// The executable under test.
pub(crate) fn k3s() -> PathBuf {
    std::env::current_exe().map(|path| path.with_file_name("k3s")).unwrap_or_else(|_| "k3s".into())
}

/// Runs the real kubectl as administrator and returns what it printed.
pub(crate) fn kubectl(args: &[&str]) -> Result<String> {
    run(kubectl_command().args(args))
}

/// Runs a kubectl command that must fail and returns its complaint.
pub(crate) fn kubectl_fails(args: &[&str]) -> Result<String> {
    match kubectl(args) {
        Ok(text) => bail!("kubectl {} did not fail: {text}", args.join(" ")),
        Err(err) => Ok(err.to_string()),
    }
}

/// kubectl with a manifest on standard input.
pub(crate) fn apply(manifest: &str) -> Result<String> {
    use std::io::Write;
    let mut child = kubectl_command()
        .args(["apply", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("stdin")?.write_all(manifest.as_bytes())?;
    text("kubectl apply", child.wait_with_output()?)
}

pub(crate) fn kubectl_command() -> Command {
    let bundled = Path::new("target/tools/kubectl");
    let mut command = Command::new(if bundled.exists() { bundled } else { Path::new("kubectl") });
    command.env("KUBECONFIG", "/etc/rancher/k3s/k3s.yaml");
    command
}

/// Runs a command to its end and returns its standard output; failure carries standard error.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let name = format!("{command:?}");
    text(&name, command.stdin(Stdio::null()).output().with_context(|| name.clone())?)
}

fn text(name: &str, output: Output) -> Result<String> {
    if !output.status.success() {
        bail!("{name}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Looks until the condition holds; the last error or the deadline is the failure.
pub(crate) fn wait(
    what: &str,
    patience: Duration,
    condition: &mut dyn FnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        let last = match condition() {
            Ok(true) => return Ok(()),
            Ok(false) => "not so".to_owned(),
            Err(err) => format!("{err:#}"),
        };
        if Instant::now() >= deadline {
            bail!("gave up waiting for {what} after {patience:?}: {last}");
        }
        pause();
    }
}

#[allow(clippy::disallowed_methods, reason = "looking again at something that sends no event")]
fn pause() {
    std::thread::sleep(LOOK_AGAIN);
}

/// Sends a signal to a process of this machine.
pub(crate) fn kill(pid: u32, signal: rustix::process::Signal) -> Result<()> {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("process id")?;
    rustix::process::kill_process(pid, signal).with_context(|| format!("killing {pid:?}"))
}

/// The components and their process ids, from `k3s status`.
pub(crate) fn components() -> Result<Vec<(String, u32)>> {
    let output = Command::new(k3s()).args(["status", "--json"]).output()?;
    components_of(&output.stdout)
}

/// The components and their process ids in what `k3s status --json` printed.
pub(crate) fn components_of(status: &[u8]) -> Result<Vec<(String, u32)>> {
    let rows: serde_json::Value = serde_json::from_slice(status).context("k3s status")?;
    let rows = rows.as_array().context("k3s status")?;
    Ok(rows
        .iter()
        .filter_map(|row| {
            let pid = u32::try_from(row["pid"].as_u64()?).ok()?;
            Some((row["component"].as_str()?.to_owned(), pid))
        })
        // The role, and the parts that are not ours.
        .filter(|(name, _)| !NO_COMPONENTS.contains(&name.as_str()))
        .collect())
}

/// What a server shows in a handshake: the certificate's serial number.
pub(crate) fn serial(address: &str) -> Result<String> {
    let script = format!(
        "openssl s_client -connect {address} </dev/null 2>/dev/null | openssl x509 -noout -serial"
    );
    run(Command::new("sh").args(["-c", &script]))
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
