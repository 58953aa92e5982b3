//! The servers under measurement: the store and the API server as processes of their own, on a
//! folder that goes with them.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::Method;
use pki::Leaf;
use pki::tls::Pair;

use crate::http::{Protocol, Target};
use crate::usage::{cpu_ms, number, read};

/// The longest that a server may take to start.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pause between two looks at a server that is starting.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// The executable under measurement: beside this one.
fn k3s() -> PathBuf {
    std::env::current_exe().map(|path| path.with_file_name("k3s")).unwrap_or_else(|_| "k3s".into())
}

/// A process that ends when this is dropped.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        child.map(Self).with_context(|| format!("starting {command:?}"))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    fn check(&mut self) -> Result<()> {
        match self.0.try_wait()? {
            Some(status) => bail!("it ended: {status}"),
            None => Ok(()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder on the disk that is measured, removed in the end.
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Beside the executable: a real disk, where `/tmp` may be memory.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let folder = k3s().with_file_name(format!("bench-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(Self(folder))
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A component of ours that stays off the bus and writes its log into the folder.
pub(crate) fn component(name: &str, folder: &Folder) -> Result<Command> {
    let mut command = Command::new(k3s());
    let log = File::create(folder.join(&format!("{name}.log")))?;
    command.arg(name).stderr(log);
    command.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent");
    Ok(command)
}

/// The store in a folder, at `unix://<folder>/store.sock`.
pub(crate) fn start_store(folder: &Folder) -> Result<Process> {
    let endpoint = store_endpoint(folder);
    let mut command = component("store", folder)?;
    command.arg("--db").arg(folder.join("state.db")).args(["--listen", &endpoint]);
    Process::start(&mut command)
}

pub(crate) fn store_endpoint(folder: &Folder) -> String {
    format!("unix://{}", folder.join("store.sock").display())
}

/// An API server on a store of its own, and how to reach it.
pub(crate) struct ApiServer {
    pub(crate) server: Process,
    pub(crate) store: Process,
    pub(crate) target: Target,
    /// From the start of the API server's process to its first answer to `/readyz`.
    pub(crate) ready_after: Duration,
    folder: Folder,
}

impl ApiServer {
    pub(crate) async fn start() -> Result<Self> {
        let folder = Folder::new("apiserver")?;
        let identity = make_trust(&folder).context("making certificates")?;
        let store = start_store(&folder)?;
        let address = free_address()?;
        let mut command = component("apiserver", &folder)?;
        let port = address.port().to_string();
        command.args(["--etcd-servers", &store_endpoint(&folder), "--secure-port", &port]);
        command.args(["--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1"]);
        for (flag, file) in [
            ("--tls-cert-file", "serving.crt"),
            ("--tls-private-key-file", "serving.key"),
            ("--client-ca-file", "ca.crt"),
            ("--service-account-key-file", "service.key"),
            ("--service-account-signing-key-file", "service.key"),
        ] {
            command.arg(flag).arg(folder.join(file));
        }
        let target = Target::new(address, &folder.join("ca.crt"), &identity)?;
        let begun = Instant::now();
        let mut server = Process::start(&mut command)?;
        let about = || format!("the API server did not start:\n{}", log(&folder));
        wait_until_ready(&mut server, &target).await.with_context(about)?;
        let ready_after = begun.elapsed();
        Ok(Self { server, store, target, ready_after, folder })
    }

    /// Where both keep their data.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder.0
    }

    /// The API server's memory now.
    pub(crate) fn resident_kib(&self) -> Result<u64> {
        Ok(number(&read(self.server.pid(), "status")?, "VmRSS:"))
    }

    /// The most that it was since [`ApiServer::forget_peak`].
    pub(crate) fn peak_kib(&self) -> Result<u64> {
        Ok(number(&read(self.server.pid(), "status")?, "VmHWM:"))
    }

    pub(crate) fn forget_peak(&self) -> Result<()> {
        let path = format!("/proc/{}/clear_refs", self.server.pid());
        fs::write(&path, "5").with_context(|| format!("writing {path}"))
    }

    /// CPU time of the API server and its store so far.
    pub(crate) fn cpu_ms(&self) -> Result<f64> {
        Ok(cpu_ms(self.server.pid())? + cpu_ms(self.store.pid())?)
    }
}

async fn wait_until_ready(server: &mut Process, target: &Target) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        server.check()?;
        let ready = async {
            let mut connection = target.connect(Protocol::Http1).await?;
            connection.exchange(Method::GET, "/readyz", Bytes::new()).await
        };
        match ready.await {
            Ok(_) => return Ok(()),
            Err(err) if Instant::now() > deadline => return Err(err),
            // It sends no sign before it listens.
            Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

/// An authority, a serving certificate and an administrator's; returns the last.
fn make_trust(folder: &Folder) -> Result<Pair> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs().cast_signed();
    let (cert, key) = (folder.join("ca.crt"), folder.join("ca.key"));
    let ca = pki::Authority::ensure(&cert, &key, "bench", now)?;
    let make = |leaf: Leaf, name: &str| {
        let cert = folder.join(&format!("{name}.crt"));
        let key = folder.join(&format!("{name}.key"));
        ca.ensure_leaf(&leaf, &cert, &key, now).map(|_| Pair { cert, key })
    };
    let localhost = vec![Ipv4Addr::LOCALHOST.into()];
    make(Leaf::server("bench", vec!["localhost".to_owned()], localhost), "serving")?;
    pki::ensure_signing_key(&folder.join("service.key"))?;
    make(Leaf::client("bench", "system:masters"), "admin")
}

fn log(folder: &Folder) -> String {
    let text = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
    text("store.log") + &text("apiserver.log")
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// The time that one write of this much takes to reach this folder's disk, in microseconds, in
/// the middle: into a file whose blocks are there already, as a log that is used again has them.
pub(crate) fn sync_time_us(folder: &Path, bytes: usize) -> Result<f64> {
    use std::os::unix::fs::FileExt;
    const ROUNDS: usize = 200;
    let path = folder.join("sync");
    let file = File::create(&path)?;
    file.write_all_at(&vec![0; bytes * ROUNDS], 0)?;
    file.sync_all()?;
    let mut samples = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        let begun = Instant::now();
        file.write_all_at(&vec![1; bytes], (bytes * round) as u64)?;
        file.sync_data()?;
        samples.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    fs::remove_file(&path)?;
    Ok(crate::figure::quantile(&mut samples, 0.5))
}
