//! Listening sockets: the ones a supervisor passed by `LISTEN_FDS`, or bound here when none came.
//!
//! Invariant: every listener is non-blocking and close-on-exec, wherever it came from.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use rustix::net::{AddressFamily, SocketType, sockopt};

use crate::sys;

/// A socket that is ready to accept or to receive.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
    Udp(UdpSocket),
}

impl Listener {
    /// The same socket under another descriptor.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(listener) => Self::Tcp(listener.try_clone()?),
            Self::Unix(listener) => Self::Unix(listener.try_clone()?),
            Self::Udp(socket) => Self::Udp(socket.try_clone()?),
        })
    }

    /// Gives up the type, keeps the socket.
    pub fn into_fd(self) -> OwnedFd {
        match self {
            Self::Tcp(listener) => listener.into(),
            Self::Unix(listener) => listener.into(),
            Self::Udp(socket) => socket.into(),
        }
    }

    fn from_fd(fd: OwnedFd) -> Result<Self> {
        let family = sockopt::socket_domain(&fd)?;
        let kind = sockopt::socket_type(&fd)?;
        Ok(match (family, kind) {
            (AddressFamily::UNIX, SocketType::STREAM) => Self::Unix(fd.into()),
            (_, SocketType::STREAM) => Self::Tcp(fd.into()),
            (_, SocketType::DGRAM) => Self::Udp(fd.into()),
            other => bail!("passed descriptor is a socket of an unexpected kind: {other:?}"),
        })
    }

    fn nonblocking(self) -> io::Result<Self> {
        match &self {
            Self::Tcp(listener) => listener.set_nonblocking(true)?,
            Self::Unix(listener) => listener.set_nonblocking(true)?,
            Self::Udp(socket) => socket.set_nonblocking(true)?,
        }
        Ok(self)
    }
}

/// The sockets that the supervisor passed, with their `LISTEN_FDNAMES`. Call once, at start.
pub(crate) fn passed() -> Result<Vec<(String, Listener)>> {
    let mut sockets = Vec::new();
    for (fd, name) in sd_notify::listen_fds_with_names().context("reading LISTEN_FDS")? {
        let listener = Listener::from_fd(sys::adopt(fd))
            .and_then(|listener| Ok(listener.nonblocking()?))
            .with_context(|| format!("passed socket {name}"))?;
        sockets.push((name, listener));
    }
    Ok(sockets)
}

/// Binds and listens on a TCP address.
pub fn bind_tcp(addr: SocketAddr) -> Result<Listener> {
    let listener = TcpListener::bind(addr).with_context(|| in_use(&addr.to_string()))?;
    Ok(Listener::Tcp(listener).nonblocking()?)
}

/// Binds a UDP address.
pub fn bind_udp(addr: SocketAddr) -> Result<Listener> {
    let socket = UdpSocket::bind(addr).with_context(|| in_use(&addr.to_string()))?;
    Ok(Listener::Udp(socket).nonblocking()?)
}

/// Binds a Unix socket with these permission bits, making its folder and replacing a socket that
/// nobody listens on any more.
///
/// # Errors
/// When another process answers on that path.
pub fn bind_unix(path: &Path, mode: u32) -> Result<Listener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        bail!("{} is in use by another process; stop it first", path.display());
    }
    match fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => {
            return Err(err).with_context(|| format!("removing stale socket {}", path.display()));
        }
        _ => (),
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("listening on {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(Listener::Unix(listener).nonblocking()?)
}

fn in_use(addr: &str) -> String {
    format!("cannot listen on {addr} (is another server running? see `ss -lnp`)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_unix_socket_is_replaced_and_a_live_one_refused() {
        let dir = std::env::temp_dir().join(format!("k3s-listen-{}", std::process::id()));
        let path = dir.join("a.sock");
        let first = bind_unix(&path, 0o600).unwrap();
        let refused = bind_unix(&path, 0o600).unwrap_err().to_string();
        assert!(refused.contains("in use"), "{refused}");
        drop(first);
        bind_unix(&path, 0o600).unwrap();
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_taken_port_names_the_address_and_the_remedy() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = taken.local_addr().unwrap();
        let err = format!("{:#}", bind_tcp(addr).unwrap_err());
        assert!(err.contains(&addr.to_string()) && err.contains("ss -lnp"), "{err}");
    }
}
