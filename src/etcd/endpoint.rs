//! Where a server is: `unix:///run/k3s/store.sock` or `http://127.0.0.1:2379`.

use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::{fmt, io};

use http::uri::Authority;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A parsed address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Unix(PathBuf),
    Http(Authority),
}

#[derive(Debug, thiserror::Error)]
#[error("etcd endpoint {0:?}: expected unix:///path or http://host:port")]
pub struct InvalidEndpoint(pub String);

impl Endpoint {
    pub fn parse(text: &str) -> Result<Self, InvalidEndpoint> {
        let invalid = || InvalidEndpoint(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return path.starts_with('/').then(|| Self::Unix(path.into())).ok_or_else(invalid);
        }
        let authority = text.strip_prefix("http://").ok_or_else(invalid)?;
        let authority: Authority =
            authority.trim_end_matches('/').parse().map_err(|_| invalid())?;
        authority.port_u16().map(|_| Self::Http(authority)).ok_or_else(invalid)
    }

    pub(crate) fn authority(&self) -> Authority {
        match self {
            Self::Unix(_) => Authority::from_static("localhost"),
            Self::Http(authority) => authority.clone(),
        }
    }

    pub(crate) async fn dial(&self) -> io::Result<Stream> {
        match self {
            Self::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
            Self::Http(authority) => {
                let host = authority.host().trim_matches(['[', ']']);
                let port = authority.port_u16().unwrap_or(2379);
                let stream = TcpStream::connect((host, port)).await?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Http(authority) => write!(f, "http://{authority}"),
        }
    }
}

/// A dialled connection.
pub(crate) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

macro_rules! each {
    ($stream:expr, $io:ident => $call:expr) => {
        match $stream.get_mut() {
            Stream::Unix($io) => $call,
            Stream::Tcp($io) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_unix_paths_or_host_and_port() {
        for (text, expected) in [
            ("unix:///run/s.sock", Some("Unix(\"/run/s.sock\")")),
            ("unix:/run/s.sock", Some("Unix(\"/run/s.sock\")")),
            ("http://127.0.0.1:2379", Some("Http(127.0.0.1:2379)")),
            ("http://[::1]:2379/", Some("Http([::1]:2379)")),
            ("http://localhost", None),
            ("unix://relative", None),
            ("/run/s.sock", None),
            ("", None),
        ] {
            let got = Endpoint::parse(text).ok().map(|e| format!("{e:?}"));
            assert_eq!(got.as_deref(), expected, "{text}");
        }
    }
}
