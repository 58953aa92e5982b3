//! The runtime's streaming port: an HTTP upgrade to SPDY/3.1 on a URL that CRI handed out.

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const ANSWER_MAX: usize = 16 << 10;

/// A connection that was upgraded, and what the runtime answered.
pub(crate) struct Upgraded {
    pub(crate) io: TcpStream,
    /// The stream protocol that the runtime chose.
    pub(crate) protocol: String,
}

/// Upgrades with the first of `protocols` that the runtime knows.
pub(crate) async fn upgrade(url: &str, protocols: &[&str]) -> anyhow::Result<Upgraded> {
    let uri: http::Uri = url.parse().with_context(|| format!("streaming URL {url:?}"))?;
    let authority = uri.authority().context("streaming URL has no host")?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    ensure!(uri.scheme_str() == Some("http"), "streaming URL {url:?} is not http");
    let mut io = TcpStream::connect(authority.as_str())
        .await
        .with_context(|| format!("connecting to the runtime at {authority}"))?;
    io.set_nodelay(true)?;
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n"
    );
    for protocol in protocols {
        request.push_str(&format!("X-Stream-Protocol-Version: {protocol}\r\n"));
    }
    request.push_str("\r\n");
    io.write_all(request.as_bytes()).await?;
    let head = read_head(&mut io).await?;
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !status.contains(" 101 ") {
        let mut rest = vec![0; 1024];
        let read = io.read(&mut rest).await.unwrap_or(0);
        let body = String::from_utf8_lossy(&rest[..read]).trim().to_owned();
        anyhow::bail!("the runtime refused to stream: {status}: {body}");
    }
    let protocol = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("x-stream-protocol-version"))
        .map(|(_, value)| value.trim().to_owned());
    Ok(Upgraded { io, protocol: protocol.unwrap_or_default() })
}

/// Reads exactly the head: what follows belongs to the upgraded protocol.
async fn read_head(io: &mut TcpStream) -> anyhow::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(head.len() < ANSWER_MAX, "the runtime's answer is too long");
        head.push(io.read_u8().await.context("reading the runtime's answer")?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
