//! Starts the store (its example executable) or a real etcd as processes in folders of their own.

#![allow(dead_code, reason = "every test uses another part")]
#![allow(clippy::unwrap_used, reason = "part of tests")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use etcd::Client;

/// A folder that goes away with its owner.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("k3s-store-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running server; killed when dropped.
pub(crate) struct Server {
    child: Child,
    endpoint: String,
}

impl Server {
    /// Our store with its database in `folder`.
    pub(crate) fn store(folder: &Path) -> Self {
        // Test executables are in target/<profile>/deps, examples beside.
        let tests = std::env::current_exe().unwrap();
        let program = tests.parent().unwrap().parent().unwrap().join("examples/store");
        let endpoint = format!("unix://{}", folder.join("store.sock").display());
        let child = Command::new(program)
            .arg("--db")
            .arg(folder.join("state.db"))
            .args(["--listen", &endpoint])
            .env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent")
            .stderr(Stdio::null())
            .spawn()
            .expect("the example executable is built with the tests");
        Self { child, endpoint }
    }

    /// A real etcd, when it is installed.
    pub(crate) fn etcd(folder: &Path) -> Option<Self> {
        let endpoint = format!("http://127.0.0.1:{}", free_port());
        let peer = format!("http://127.0.0.1:{}", free_port());
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(folder.join("etcd"))
            .args(["--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        Some(Self { child, endpoint })
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.endpoint).unwrap()
    }

    /// `kill -9`, and waits until the process is gone.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
