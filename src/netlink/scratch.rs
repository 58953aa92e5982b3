//! Network namespaces that live as long as a test, here and in the crates that use this one.
//!
//! Invariant: a test touches only namespaces that it made, and they are gone when it ends, however
//! it ends.

use crate::netns::Netns;
use std::future::Future;
use std::path::PathBuf;
use std::process::Command;

/// A namespace of its own under `/run/netns`.
#[derive(Debug)]
pub struct Scratch {
    name: String,
}

impl Scratch {
    /// `None`, with a message, where namespaces cannot be made: the test should then return.
    pub fn new(name: &str) -> Option<Self> {
        let name = format!("k3s-{name}-{}", std::process::id());
        let made = Command::new("ip").args(["netns", "add", &name]).status();
        if made.is_ok_and(|status| status.success()) {
            return Some(Self { name });
        }
        eprintln!("skipped: needs root and ip(8) to make network namespaces");
        None
    }

    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs `work` on a single-threaded runtime inside the namespace; programs that it starts are
    /// inside as well.
    pub fn block_on<T, F>(&self, work: impl FnOnce() -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T>,
    {
        let outer = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime without drivers needs nothing");
        let netns = Netns::open(&self.path()).expect("the namespace was just made");
        let ran = outer.block_on(netns.run(move || {
            let inner = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime for the test");
            inner.block_on(work())
        }));
        ran.expect("the work should not panic")
    }

    /// Runs a shell command inside the namespace and returns what it printed.
    pub fn sh(&self, script: &str) -> String {
        let net = format!("--net=/run/netns/{}", self.name);
        let output = Command::new("nsenter")
            .args([&net, "sh", "-c", script])
            .output()
            .expect("nsenter is there");
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        text
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing more can be done about a namespace that does not go away.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}
