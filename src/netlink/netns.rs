//! Other network namespaces.
//!
//! Invariant: only a thread of our own ever changes its namespace, and it ends right after; threads
//! of the runtime stay where they were.

use crate::{Driver, Error, Netlink, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use tokio::sync::oneshot;

/// An open network namespace.
#[derive(Debug)]
pub struct Netns {
    pub file: File,
}

impl Netns {
    /// Opens `/run/netns/NAME`, `/proc/PID/ns/net` and the like.
    pub fn open(path: &Path) -> Result<Self> {
        File::open(path).map(|file| Self { file }).map_err(|source| Error::Kernel {
            what: format!("open network namespace {}", path.display()),
            source,
        })
    }

    /// Runs `work` on a thread inside the namespace.
    pub async fn run<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let failed = |what: &str| {
            let what = what.to_string();
            move |source| Error::Kernel { what, source }
        };
        let file = self.file.try_clone().map_err(failed("duplicate network namespace"))?;
        let (answer, result) = oneshot::channel();
        std::thread::Builder::new()
            .name("netns".into())
            .stack_size(256 * 1024)
            .spawn(move || {
                let entered =
                    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                        .map_err(|errno| Error::Kernel {
                            what: "enter network namespace".into(),
                            source: errno.into(),
                        });
                // The receiver is gone only when the caller was cancelled.
                let _ = answer.send(entered.map(|()| work()));
            })
            .map_err(failed("start thread"))?;
        result.await.map_err(|_| Error::Closed)?
    }

    /// A request connection to the namespace; its socket stays there, the thread does not.
    pub async fn connect(&self) -> Result<(Netlink, Driver)> {
        let runtime = tokio::runtime::Handle::current();
        self.run(move || {
            let _entered = runtime.enter();
            Netlink::connect()
        })
        .await?
        .map_err(|source| Error::Kernel { what: "netlink socket".into(), source })
    }
}
