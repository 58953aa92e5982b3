//! The kernel's network, as the components use it: links, addresses, routes, neighbours and
//! forwarding entries over rtnetlink, and nftables tables.
//!
//! Knows nothing of Kubernetes. Invariant: every `ensure_*` call is idempotent and every `delete_*`
//! call succeeds when the thing is already gone, so callers can repeat a half-done piece of work.

pub mod conntrack;
pub mod link;
pub mod monitor;
pub mod neighbour;
pub mod netns;
pub mod nft;
pub mod nft_elements;
pub mod route;
pub mod scratch;
pub mod sysctl;

mod batch;

use rtnetlink::packet_core::ErrorMessage;
use std::future::Future;
use std::pin::Pin;

pub use ipnetwork::{IpNetwork, Ipv4Network};

/// What went wrong in the kernel or on the way to it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what}: {source}")]
    Kernel { what: String, source: std::io::Error },
    #[error("{what}: {source}")]
    Netlink { what: String, source: rtnetlink::Error },
    #[error("no such link: {0}")]
    NoLink(String),
    #[error("the netlink connection is closed")]
    Closed,
    #[error("nft refused the ruleset: {0}")]
    Nft(String),
}

impl Error {
    /// The errno the kernel answered with, as a positive number.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { source, .. } => source.raw_os_error(),
            Self::Netlink { source: rtnetlink::Error::NetlinkError(message), .. } => {
                Some(errno_of(message))
            }
            _ => None,
        }
    }

    pub fn is_exists(&self) -> bool {
        self.errno() == Some(rustix::io::Errno::EXIST.raw_os_error())
    }

    /// The object, or the link it hangs on, is gone.
    pub fn is_gone(&self) -> bool {
        use rustix::io::Errno;
        let gone = [Errno::NOENT, Errno::NODEV, Errno::SRCH, Errno::ADDRNOTAVAIL, Errno::NXIO];
        matches!(self, Self::NoLink(_))
            || self
                .errno()
                .is_some_and(|errno| gone.iter().any(|gone| gone.raw_os_error() == errno))
    }
}

fn errno_of(message: &ErrorMessage) -> i32 {
    message.raw_code().abs()
}

pub type Result<T> = std::result::Result<T, Error>;

/// The future that moves bytes for a [`Netlink`]; it ends when the last clone is dropped.
pub type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A request connection to one network namespace. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Netlink {
    pub(crate) handle: rtnetlink::Handle,
}

impl Netlink {
    /// Connects to the namespace of the calling thread. The driver must be polled by the caller,
    /// in its `JoinSet` or through [`drive`].
    pub fn connect() -> std::io::Result<(Self, Driver)> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok((Self { handle }, Box::pin(connection)))
    }
}

/// Runs `work` while `driver` moves its bytes, for short pieces of work in another namespace.
pub async fn drive<T>(driver: Driver, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        result = work => result,
        () = driver => Err(Error::Closed),
    }
}

/// Names the request in an rtnetlink error.
pub(crate) fn ctx<'a>(what: &'a str, name: &'a str) -> impl FnOnce(rtnetlink::Error) -> Error + 'a {
    move |source| match source {
        rtnetlink::Error::NetlinkError(message) => Error::Kernel {
            what: format!("{what} {name}"),
            source: std::io::Error::from_raw_os_error(errno_of(&message)),
        },
        source => Error::Netlink { what: format!("{what} {name}"), source },
    }
}

/// `Ok` when the object is there already.
pub(crate) fn or_exists(result: Result<()>) -> Result<()> {
    match result {
        Err(err) if err.is_exists() => Ok(()),
        other => other,
    }
}

/// `Ok` when the object is gone already.
pub(crate) fn or_gone(result: Result<()>) -> Result<()> {
    match result {
        Err(err) if err.is_gone() => Ok(()),
        other => other,
    }
}
