//! Exec, attach and port-forward between a client and the runtime's streaming port.
//!
//! A SPDY client's bytes are the runtime's own protocol and pass through; WebSocket channels are
//! translated to SPDY streams. Invariant: what the runtime says of the exit reaches the client
//! before the connection ends.

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use super::runtime_stream::{Upgraded, upgrade};
use super::spdy::{self, Sender, Session, Stream};
use super::websocket::{self, Incoming, Outgoing, Protocol, Received};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;

/// The remote command protocol that runtimes speak.
pub(crate) const REMOTE_COMMAND: &str = "v4.channel.k8s.io";
pub(crate) const PORT_FORWARD: &str = "portforward.k8s.io";

/// Which streams the client asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) tty: bool,
}

/// Copies both ways until either side ends.
pub(crate) async fn tunnel<T: AsyncRead + AsyncWrite + Unpin>(
    mut client: T,
    mut runtime: TcpStream,
) {
    if let Err(err) = tokio::io::copy_bidirectional(&mut client, &mut runtime).await {
        tracing::debug!(%err, "Stream ended");
    }
}

/// Serves a WebSocket client's exec or attach.
pub(crate) async fn remote_command<T>(client: T, protocol: Protocol, url: String, wanted: Wanted)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut outgoing, incoming) = websocket::channels(client, protocol).await;
    if let Err(err) = command(&mut outgoing, incoming, protocol, &url, wanted).await {
        tracing::debug!(err = %format!("{err:#}"), "Remote command ended with an error");
        let status = serde_json::json!({
            "metadata": {}, "status": "Failure", "message": format!("{err:#}"),
            "reason": "InternalError", "code": 500
        });
        outgoing.send(ERROR, status.to_string().as_bytes()).await;
    }
    outgoing.close().await;
}

async fn command<T>(
    outgoing: &mut Outgoing<T>,
    mut incoming: Incoming<T>,
    protocol: Protocol,
    url: &str,
    wanted: Wanted,
) -> anyhow::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Upgraded { io, .. } = upgrade(url, &[REMOTE_COMMAND]).await?;
    let (mut session, driver) = spdy::session(io);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        if let Err(err) = driver.run().await {
            tracing::debug!(%err, "Runtime's stream ended with an error");
        }
    });
    let mut error = open(&mut session, true, "error").await?;
    let stdin = open(&mut session, wanted.stdin, "stdin").await?.map(|stream| stream.sender());
    let mut stdout = open(&mut session, wanted.stdout, "stdout").await?;
    let mut stderr = open(&mut session, wanted.stderr && !wanted.tty, "stderr").await?;
    let resize = open(&mut session, wanted.tty, "resize").await?.map(|stream| stream.sender());
    for channel in [STDIN, STDOUT, STDERR].into_iter().filter(|_| !protocol.status) {
        // The oldest protocol begins with an empty message on each channel.
        outgoing.send(channel, &[]).await;
    }
    let ends: Vec<Sender> = [&stdin, &resize].into_iter().flatten().cloned().collect();
    let (gone, mut client_gone) = tokio::sync::oneshot::channel::<()>();
    tasks.spawn(async move {
        while let Some(received) = incoming.recv().await {
            let (channel, data) = match received {
                Received::Data(channel, data) => (channel, Some(data)),
                Received::Closed(channel) => (channel, None),
            };
            let to = match channel {
                STDIN => &stdin,
                RESIZE => &resize,
                _ => continue,
            };
            match (to, data) {
                (Some(to), Some(data)) if !data.is_empty() => {
                    to.send(data).await;
                }
                (Some(to), None) => to.finish().await,
                _ => {}
            }
        }
        for end in ends {
            end.reset().await;
        }
        // The other side may already be done.
        let _ = gone.send(());
    });
    let mut status = Vec::new();
    let mut left = false;
    while error.is_some() || stdout.is_some() || stderr.is_some() {
        let sent = tokio::select! {
            data = next(&mut stdout) => forward(outgoing, STDOUT, data, &mut stdout).await,
            data = next(&mut stderr) => forward(outgoing, STDERR, data, &mut stderr).await,
            data = next(&mut error) => {
                match data {
                    Some(data) => status.extend_from_slice(&data),
                    None => error = None,
                }
                true
            }
            _ = &mut client_gone, if !left => {
                left = true;
                false
            }
        };
        if !sent {
            return Ok(());
        }
    }
    if let Some(message) = final_message(protocol, &status) {
        outgoing.send(ERROR, &message).await;
    }
    Ok(())
}

async fn open(session: &mut Session, wanted: bool, kind: &str) -> anyhow::Result<Option<Stream>> {
    if !wanted {
        return Ok(None);
    }
    session.open(&[("streamtype", kind)]).await.map(Some)
}

async fn next(stream: &mut Option<Stream>) -> Option<Bytes> {
    match stream {
        Some(stream) => stream.recv().await,
        None => std::future::pending().await,
    }
}

async fn forward<T: AsyncRead + AsyncWrite + Unpin>(
    outgoing: &mut Outgoing<T>,
    channel: u8,
    data: Option<Bytes>,
    stream: &mut Option<Stream>,
) -> bool {
    match data {
        Some(data) => outgoing.send(channel, &data).await,
        None => {
            *stream = None;
            true
        }
    }
}

/// What goes to the error channel at the end.
fn final_message(protocol: Protocol, status: &[u8]) -> Option<Vec<u8>> {
    if protocol.status {
        let success = || br#"{"metadata":{},"status":"Success"}"#.to_vec();
        return Some(if status.is_empty() { success() } else { status.to_vec() });
    }
    let value: serde_json::Value = serde_json::from_slice(status).ok()?;
    if value["status"] == "Success" {
        return None;
    }
    Some(value["message"].as_str().unwrap_or("command failed").as_bytes().to_vec())
}

/// A port-forward whose SPDY is wrapped in WebSocket messages: unwrap, and it is the runtime's own.
pub(crate) async fn tunnel_in_websocket<T>(client: T, runtime: TcpStream)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sink, mut stream) = websocket::server(client).await.split();
    let (mut read, mut write) = runtime.into_split();
    let inward = async {
        while let Some(Ok(message)) = stream.next().await {
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Close(_) => break,
                _ => continue,
            };
            if write.write_all(&bytes).await.is_err() {
                break;
            }
        }
    };
    let outward = async {
        let mut buffer = vec![0; 32 << 10];
        while let Ok(read) = read.read(&mut buffer).await {
            if read == 0 || sink.send(Message::binary(buffer[..read].to_vec())).await.is_err() {
                break;
            }
        }
        // The client may have closed first.
        let _ = sink.send(websocket::farewell()).await;
        let _ = sink.close().await;
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
    }
}

/// A port-forward over WebSocket channels: two per port, data and error.
pub(crate) async fn forward_ports<T>(client: T, protocol: Protocol, url: String, ports: Vec<u16>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut outgoing, incoming) = websocket::channels(client, protocol).await;
    if let Err(err) = channels(&mut outgoing, incoming, &url, &ports).await {
        tracing::debug!(err = %format!("{err:#}"), "Port forward ended with an error");
    }
    outgoing.close().await;
}

async fn channels<T>(
    outgoing: &mut Outgoing<T>,
    mut incoming: Incoming<T>,
    url: &str,
    ports: &[u16],
) -> anyhow::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Upgraded { io, .. } = upgrade(url, &[PORT_FORWARD]).await?;
    let (mut session, driver) = spdy::session(io);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        if let Err(err) = driver.run().await {
            tracing::debug!(%err, "Runtime's stream ended with an error");
        }
    });
    let (merged, mut arriving) = tokio::sync::mpsc::channel::<(u8, Bytes)>(32);
    let mut senders = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let (text, request) = (port.to_string(), index.to_string());
        let headers =
            |kind| [("streamtype", kind), ("port", text.as_str()), ("requestid", request.as_str())];
        let error = session.open(&headers("error")).await?;
        error.sender().finish().await;
        let data = session.open(&headers("data")).await?;
        senders.push(data.sender());
        let base = u8::try_from(index * 2)?;
        for (channel, mut stream) in [(base, data), (base + 1, error)] {
            // Each channel begins with the port that it is for.
            outgoing.send(channel, &port.to_le_bytes()).await;
            let merged = merged.clone();
            tasks.spawn(async move {
                while let Some(data) = stream.recv().await {
                    if merged.send((channel, data)).await.is_err() {
                        return;
                    }
                }
            });
        }
    }
    drop(merged);
    tasks.spawn(async move {
        while let Some(Received::Data(channel, data)) = incoming.recv().await {
            if let Some(sender) = senders.get(usize::from(channel / 2)).filter(|_| channel % 2 == 0)
            {
                sender.send(data).await;
            }
        }
        for sender in senders {
            sender.reset().await;
        }
    });
    while let Some((channel, data)) = arriving.recv().await {
        if !outgoing.send(channel, &data).await {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::websocket::PROTOCOLS;
    use super::*;

    #[test]
    fn the_end_is_told_in_the_words_of_the_protocol() {
        let failure = br#"{"status":"Failure","message":"exit 3"}"#;
        let (new, old) = (PROTOCOLS[0], PROTOCOLS[3]);
        assert_eq!(final_message(new, failure).unwrap(), failure);
        assert_eq!(final_message(old, failure).unwrap(), b"exit 3");
        assert!(final_message(new, b"").unwrap().ends_with(br#""status":"Success"}"#));
        assert_eq!(final_message(old, br#"{"status":"Success"}"#), None);
    }
}
