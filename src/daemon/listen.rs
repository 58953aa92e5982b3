//! Listening sockets: the ones a supervisor passed by `LISTEN_FDS`, or bound here when none came.
//!
//! Invariant: every listener is non-blocking and close-on-exec, wherever it came from.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, sockopt,
};
use tracing::debug;

use crate::sys;

/// Connections that wait while a process starts again; the kernel takes its own limit if lower.
const BACKLOG: i32 = 4096;

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

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
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

/// Where a socket listens: what a systemd socket unit says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Its `LISTEN_FDNAMES` name.
    pub name: String,
    pub address: Address,
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    /// TCP on an address that the machine may not have yet.
    TcpForeseen(SocketAddr),
    /// UDP on an address that the machine may not have yet.
    UdpForeseen(SocketAddr),
    /// Unix stream, for the owner only.
    Unix(PathBuf),
}

impl Socket {
    pub fn new(name: &str, address: Address) -> Self {
        Self { name: name.to_owned(), address }
    }
}

impl Address {
    /// Binds and listens.
    ///
    /// # Errors
    /// Names the address, and who to ask when it is in use.
    pub fn bind(&self) -> Result<Listener> {
        match self {
            Self::Tcp(addr) => bind_tcp(*addr),
            Self::Udp(addr) => bind_udp(*addr),
            Self::TcpForeseen(addr) => bind_foreseen(*addr, SocketType::STREAM),
            Self::UdpForeseen(addr) => bind_foreseen(*addr, SocketType::DGRAM),
            Self::Unix(path) => bind_unix(path, 0o600),
        }
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

/// Has a command find these sockets under their names. It must set `LISTEN_PID` to the process
/// that the command becomes.
pub(crate) fn pass<'a>(
    command: &mut Command,
    sockets: impl Iterator<Item = (&'a str, &'a Listener)>,
) -> io::Result<()> {
    let (mut names, mut fds) = (Vec::new(), Vec::new());
    for (name, socket) in sockets {
        names.push(name);
        fds.push(socket.try_clone()?.into_fd());
    }
    if names.is_empty() {
        // An empty list of names would be read as one name.
        command.env_remove("LISTEN_FDS").env_remove("LISTEN_FDNAMES");
        return Ok(());
    }
    command.env("LISTEN_FDS", names.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    sys::pass_fds(command, fds);
    Ok(())
}

/// Becomes another program in the same process, which finds these sockets as passed ones. Returns
/// only when it did not; by then descriptors may be damaged, so the process had better end.
pub fn exec(mut command: Command, sockets: &[(&str, Listener)]) -> io::Error {
    match pass(&mut command, sockets.iter().map(|(name, socket)| (*name, socket))) {
        Ok(()) => command.env("LISTEN_PID", std::process::id().to_string()).exec(),
        Err(err) => err,
    }
}

/// Leaves a socket with the service manager as well: while the unit is started again it stays open,
/// and the next process finds it passed under this name. It ends when the unit stops for good.
pub fn entrust(name: &str, listener: &Listener) {
    if let Err(err) = tell_store("FDSTORE", name, &[listener.as_fd()]) {
        debug!(%err, name, "The service manager does not keep a socket");
    }
}

/// Takes a socket back that was left with the service manager.
pub fn reclaim(name: &str) {
    if let Err(err) = tell_store("FDSTOREREMOVE", name, &[]) {
        debug!(%err, name, "The service manager did not give a socket back");
    }
}

/// A message about the file descriptor store, sd_notify(3); nothing without a service manager.
fn tell_store(what: &str, name: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    match std::env::var_os("NOTIFY_SOCKET") {
        Some(path) => tell_store_at(&path, what, name, fds),
        None => Ok(()),
    }
}

fn tell_store_at(path: &OsStr, what: &str, name: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddrUnix::new_abstract_name(name)?,
        None => SocketAddrUnix::new(path)?,
    };
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    let text = format!("{what}=1\nFDNAME={name}\n");
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let parts = [IoSlice::new(text.as_bytes())];
    rustix::net::sendmsg_addr(&socket, &address, &parts, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Binds and listens on a TCP address.
pub fn bind_tcp(addr: SocketAddr) -> Result<Listener> {
    let listener = TcpListener::bind(addr).with_context(|| in_use(&addr.to_string()))?;
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(Listener::Tcp(listener).nonblocking()?)
}

/// Binds a UDP address.
pub fn bind_udp(addr: SocketAddr) -> Result<Listener> {
    let socket = UdpSocket::bind(addr).with_context(|| in_use(&addr.to_string()))?;
    Ok(Listener::Udp(socket).nonblocking()?)
}

/// Binds before the address is there (`IP_FREEBIND`), as `FreeBind=` does in a socket unit.
fn bind_foreseen(addr: SocketAddr, kind: SocketType) -> Result<Listener> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let bound = || -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(family, kind, flags, None)?;
        sockopt::set_ip_freebind(&fd, true)?;
        if kind == SocketType::STREAM {
            sockopt::set_socket_reuseaddr(&fd, true)?;
        }
        rustix::net::bind(&fd, &addr)?;
        if kind == SocketType::STREAM {
            rustix::net::listen(&fd, BACKLOG)?;
        }
        Ok(fd)
    };
    Listener::from_fd(bound().with_context(|| in_use(&addr.to_string()))?)
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
    fn a_foreseen_address_is_bound_before_it_is_there() {
        let addr: SocketAddr = "192.0.2.53:0".parse().unwrap();
        assert!(matches!(Address::TcpForeseen(addr).bind().unwrap(), Listener::Tcp(_)));
        assert!(matches!(Address::UdpForeseen(addr).bind().unwrap(), Listener::Udp(_)));
        assert!(Address::Tcp(addr).bind().is_err());
    }

    #[test]
    fn a_socket_that_was_entrusted_arrives_with_its_name() {
        let path = std::env::temp_dir().join(format!("k3s-store-{}", std::process::id()));
        let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        let listener = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        tell_store_at(path.as_os_str(), "FDSTORE", "door", &[listener.as_fd()]).unwrap();
        let (mut space, mut text) =
            ([MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))], [0; 64]);
        let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
        let mut parts = [io::IoSliceMut::new(&mut text)];
        let flags = rustix::net::RecvFlags::empty();
        let got = rustix::net::recvmsg(&manager, &mut parts, &mut control, flags).unwrap();
        assert_eq!(&text[..got.bytes], b"FDSTORE=1\nFDNAME=door\n");
        assert_eq!(control.drain().count(), 1);
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_taken_port_names_the_address_and_the_remedy() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = taken.local_addr().unwrap();
        let err = format!("{:#}", bind_tcp(addr).unwrap_err());
        assert!(err.contains(&addr.to_string()) && err.contains("ss -lnp"), "{err}");
    }
}
