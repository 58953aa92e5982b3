//! `kubectl exec`: a command in a container, with a terminal when asked for.
//!
//! Invariant: the terminal is as it was when the command ends, however it ends.

use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;

use anyhow::{Result, bail};
use futures::{SinkExt, StreamExt};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use crate::Exit;
use crate::cli::ExecArgs;
use crate::discovery::{Types, items, text};
use crate::logs::{container, pod_of};
use crate::select::one;
use crate::server::{Server, with_query};
use crate::socket::{self, CLOSE, ERROR, RESIZE, STDERR, STDIN, STDOUT};

/// A terminal that hands every key on; restored when dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> Result<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(stdin.as_fd())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin.as_fd(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin().as_fd(), OptionalActions::Now, &self.0);
    }
}

pub(crate) async fn run(server: &Server, args: &ExecArgs) -> Result<()> {
    let types = Types::read(server).await?;
    let (of, name) = one(&types, &args.target, "pods")?;
    let pod = pod_of(server, of, &name).await?;
    let phase = text(&pod["status"]["phase"]);
    if phase == "Succeeded" || phase == "Failed" {
        bail!("cannot exec into a container in a completed pod; current phase is {phase}");
    }
    let container = container(&pod, args.container.as_deref())?;
    let is_terminal = std::io::stdin().is_terminal();
    if args.tty && args.stdin && !is_terminal {
        eprintln!("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    let tty = args.tty && is_terminal;
    let yes = |flag: bool| if flag { "true" } else { "" };
    let path = format!(
        "/api/v1/namespaces/{}/pods/{}/exec",
        server.namespace,
        text(&pod["metadata"]["name"])
    );
    let mut query = vec![
        ("container", container.as_str()),
        ("stdin", yes(args.stdin)),
        ("stdout", "true"),
        ("stderr", yes(!tty)),
        ("tty", yes(tty)),
    ];
    query.extend(args.command.iter().map(|word| ("command", word.as_str())));
    // An empty argument is one, too.
    let mut path = with_query(&path, &query);
    for _ in args.command.iter().filter(|word| word.is_empty()) {
        path.push_str("&command=");
    }
    let protocols = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
    let socket = socket::open(server, &path, &protocols).await?;
    let raw = if tty && args.stdin { Some(Raw::enter()?) } else { None };
    let ended = talk(socket, args.stdin, tty).await;
    drop(raw);
    let code = exit_code(&ended?)?;
    if code == 0 { Ok(()) } else { Err(Exit(code).into()) }
}

/// Carries bytes both ways until the server says how the command ended.
async fn talk(socket: socket::Socket, reads: bool, tty: bool) -> Result<Value> {
    let (mut sink, mut stream) = socket.split();
    let mut resized = signal(SignalKind::window_change())?;
    let mut input = if reads { Some(input()) } else { None };
    if tty {
        sink.send(size()?).await?;
    }
    loop {
        tokio::select! {
            message = stream.next() => {
                let Some(message) = message else { return Ok(Value::Null) };
                let Message::Binary(bytes) = message? else { continue };
                let Some((channel, data)) = bytes.split_first() else { continue };
                match *channel {
                    STDOUT => write(&mut std::io::stdout(), data)?,
                    STDERR => write(&mut std::io::stderr(), data)?,
                    ERROR => return Ok(serde_json::from_slice(data)?),
                    _ => {}
                }
            }
            data = next(&mut input) => {
                let message = match data {
                    Some(data) => [&[STDIN], &*data].concat(),
                    None => {
                        input = None;
                        vec![CLOSE, STDIN]
                    }
                };
                sink.send(Message::Binary(Bytes::from(message))).await?;
            }
            _ = resized.recv(), if tty => sink.send(size()?).await?,
        }
    }
}

/// Standard input, read by a thread of its own: a terminal can't be waited for otherwise.
fn input() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 8 << 10];
        while let Ok(count) = std::io::stdin().read(&mut buffer) {
            let Some(data) = buffer.get(..count).filter(|it| !it.is_empty()) else { break };
            if sender.blocking_send(data.to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// The next piece of input; never comes when there is none to read.
async fn next(input: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}

fn write(out: &mut impl Write, data: &[u8]) -> Result<()> {
    out.write_all(data)?;
    Ok(out.flush()?)
}

fn size() -> Result<Message> {
    let size = tcgetwinsize(std::io::stdin().as_fd())?;
    let said = json!({"Width": size.ws_col, "Height": size.ws_row}).to_string();
    Ok(Message::Binary(Bytes::from([&[RESIZE], said.as_bytes()].concat())))
}

/// The exit code in the server's last word.
fn exit_code(status: &Value) -> Result<u8> {
    if status["status"] == "Success" || status.is_null() {
        return Ok(0);
    }
    let causes = items(&status["details"], "causes");
    let code = causes.iter().find(|it| it["reason"] == "ExitCode");
    match code.and_then(|it| text(&it["message"]).parse::<i64>().ok()) {
        Some(code) => Ok(u8::try_from(code & 0xff).unwrap_or(1)),
        None => bail!("{}", text(&status["message"])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_in_the_status() {
        assert_eq!(exit_code(&json!({"status": "Success"})).unwrap(), 0);
        let failed = json!({"status": "Failure", "reason": "NonZeroExitCode", "message": "x",
            "details": {"causes": [{"reason": "ExitCode", "message": "7"}]}});
        assert_eq!(exit_code(&failed).unwrap(), 7);
        assert!(exit_code(&json!({"status": "Failure", "message": "no such file"})).is_err());
    }
}
