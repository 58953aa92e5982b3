//! Container logs as clients want them: the CRI log format read from its files, rotated ones first.
//!
//! Following waits on inotify. Invariant: a line is sent whole or, where the runtime split it, its
//! parts are sent in order without a line end between them.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::StreamExt as _;
use inotify::{Inotify, WatchMask};
use jiff::Timestamp;
use tokio::io::{AsyncBufReadExt as _, AsyncSeekExt as _, BufReader};
use tokio::sync::{mpsc, watch};

use crate::pod::worker::View;

const LINE_MAX: usize = 1 << 20;
const TAIL_MAX: usize = 1_000_000;

/// What the client asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Options {
    pub(crate) follow: bool,
    pub(crate) previous: bool,
    pub(crate) timestamps: bool,
    pub(crate) tail: Option<usize>,
    pub(crate) limit_bytes: Option<u64>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) stream: Option<&'static str>,
}

/// Reads the options from a query.
pub(crate) fn options(query: &[(String, String)], now: Timestamp) -> Result<Options, String> {
    let mut out = Options::default();
    for (key, value) in query {
        let flag = || matches!(value.as_str(), "true" | "1" | "True" | "TRUE" | "t" | "T" | "");
        let number = || value.parse::<i64>().map_err(|_| format!("invalid {key}: {value:?}"));
        match key.as_str() {
            "follow" => out.follow = flag(),
            "previous" => out.previous = flag(),
            "timestamps" => out.timestamps = flag(),
            "tailLines" => out.tail = usize::try_from(number()?).ok(),
            "limitBytes" => out.limit_bytes = u64::try_from(number()?).ok(),
            "sinceSeconds" => {
                let secs = u64::try_from(number()?).map_err(|_| "invalid sinceSeconds")?;
                out.since = now.checked_sub(std::time::Duration::from_secs(secs)).ok();
            }
            "sinceTime" => {
                out.since =
                    Some(value.parse().map_err(|_| format!("invalid sinceTime: {value:?}"))?);
            }
            "stream" => {
                out.stream = match value.as_str() {
                    "Stdout" => Some("stdout"),
                    "Stderr" => Some("stderr"),
                    _ => None,
                }
            }
            _ => {}
        }
    }
    Ok(out)
}

/// One line of a CRI log: `<time> <stream> <P|F> <text>`.
#[derive(Debug, PartialEq)]
struct Line<'a> {
    time: &'a str,
    stream: &'a str,
    partial: bool,
    text: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = std::str::from_utf8(parts.next()?).ok()?;
    let tag = parts.next()?;
    let text = parts.next().unwrap_or_default();
    Some(Line { time, stream, partial: tag.starts_with(b"P"), text })
}

/// Sends the log, as asked, to `out`; ends when the client is gone.
pub(crate) async fn send(
    path: PathBuf,
    options: Options,
    container_id: String,
    view: watch::Receiver<View>,
    out: mpsc::Sender<Bytes>,
) -> anyhow::Result<()> {
    let mut output = Output { options: options.clone(), left: options.limit_bytes, out };
    // The watch stands before the first read, so no line falls between.
    let inotify = match options.follow {
        true => Some(follow_events(&path)?),
        false => None,
    };
    let mut reader = open(&path).await?;
    match options.tail {
        Some(count) => {
            let mut kept: VecDeque<Vec<u8>> = VecDeque::new();
            for file in rotated(&path) {
                if let Ok(mut old) = open(&file).await {
                    keep_tail(&mut old, count, &output, &mut kept).await?;
                }
            }
            keep_tail(&mut reader, count, &output, &mut kept).await?;
            for line in kept {
                if !output.line(&line).await {
                    return Ok(());
                }
            }
        }
        None => {
            for file in rotated(&path) {
                let Ok(mut old) = open(&file).await else { continue };
                if !drain(&mut old, &mut output).await? {
                    return Ok(());
                }
            }
            if !drain(&mut reader, &mut output).await? {
                return Ok(());
            }
        }
    }
    let Some(inotify) = inotify else { return Ok(()) };
    follow(inotify, reader, &path, &container_id, view, &mut output).await
}

fn follow_events(path: &Path) -> anyhow::Result<Inotify> {
    let inotify = Inotify::init()?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    // The directory: it tells of writes to the file and of its rotation.
    inotify.watches().add(dir, WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO)?;
    Ok(inotify)
}

type Reader = BufReader<tokio::fs::File>;

async fn open(path: &Path) -> anyhow::Result<Reader> {
    Ok(BufReader::new(tokio::fs::File::open(path).await?))
}

/// Rotated files of this log, oldest first; compressed ones are not made by us.
fn rotated(path: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Vec::new();
    };
    let prefix = format!("{name}.");
    let mut out: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    out.sort();
    out
}

/// Reads one whole line; `None` at the end, where an unfinished line is put back.
async fn read_line(reader: &mut Reader) -> anyhow::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let read = reader.read_until(b'\n', &mut line).await?;
    if read == 0 {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') && line.len() < LINE_MAX {
        let back = i64::try_from(line.len())?;
        reader.seek(std::io::SeekFrom::Current(-back)).await?;
        return Ok(None);
    }
    line.pop();
    Ok(Some(line))
}

async fn keep_tail(
    reader: &mut Reader,
    count: usize,
    output: &Output,
    kept: &mut VecDeque<Vec<u8>>,
) -> anyhow::Result<()> {
    let count = count.min(TAIL_MAX);
    while let Some(line) = read_line(reader).await? {
        if !output.wants(&line) || count == 0 {
            continue;
        }
        if kept.len() >= count {
            kept.pop_front();
        }
        kept.push_back(line);
    }
    Ok(())
}

/// Sends what is there; false when the client is gone or has enough.
async fn drain(reader: &mut Reader, output: &mut Output) -> anyhow::Result<bool> {
    while let Some(line) = read_line(reader).await? {
        if !output.line(&line).await {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn follow(
    inotify: Inotify,
    mut reader: Reader,
    path: &Path,
    container_id: &str,
    mut view: watch::Receiver<View>,
    output: &mut Output,
) -> anyhow::Result<()> {
    let mut events = inotify.into_event_stream([0; 4096])?;
    loop {
        let running = is_running(&view.borrow_and_update(), container_id);
        if !drain(&mut reader, output).await? || !running {
            return Ok(());
        }
        tokio::select! {
            event = events.next() => {
                let Some(event) = event.transpose()? else { return Ok(()) };
                let ours = event.name.as_deref() == path.file_name();
                if ours && event.mask.intersects(inotify::EventMask::CREATE | inotify::EventMask::MOVED_TO) {
                    // Rotated: finish the old file, go on with the new one.
                    if !drain(&mut reader, output).await? {
                        return Ok(());
                    }
                    reader = open(path).await?;
                }
            }
            changed = view.changed() => {
                if changed.is_err() {
                    drain(&mut reader, output).await?;
                    return Ok(());
                }
            }
            () = output.out.closed() => return Ok(()),
        }
    }
}

fn is_running(view: &View, container_id: &str) -> bool {
    view.observed.all().any(|container| container.id == container_id && container.is_alive())
}

struct Output {
    options: Options,
    left: Option<u64>,
    out: mpsc::Sender<Bytes>,
}

impl Output {
    fn wants(&self, line: &[u8]) -> bool {
        let Some(line) = parse(line) else { return false };
        let late = self
            .options
            .since
            .is_none_or(|since| line.time.parse::<Timestamp>().is_ok_and(|time| time >= since));
        late && self.options.stream.is_none_or(|stream| stream == line.stream)
    }

    /// Sends one line; false when the client is gone or has enough.
    async fn line(&mut self, raw: &[u8]) -> bool {
        if !self.wants(raw) {
            return true;
        }
        let Some(line) = parse(raw) else { return true };
        let mut text = Vec::with_capacity(raw.len());
        if self.options.timestamps {
            text.extend_from_slice(line.time.as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(line.text);
        if !line.partial {
            text.push(b'\n');
        }
        let mut enough = false;
        if let Some(left) = &mut self.left {
            let most = usize::try_from(*left).unwrap_or(usize::MAX);
            text.truncate(most);
            *left -= text.len() as u64;
            enough = *left == 0;
        }
        self.out.send(Bytes::from(text)).await.is_ok() && !enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(log: &str, options: Options, expected: &str) {
        let name = format!("log-{}-{:p}", std::process::id(), &options);
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("0.log");
        std::fs::write(dir.join("0.log.20260101-000000"), "2026-01-01T00:00:00Z stdout F old\n")
            .unwrap();
        std::fs::write(&path, log).unwrap();
        let (out, mut sent) = mpsc::channel(64);
        let (_keep, view) = watch::channel(View::default());
        send(path, options, "id".into(), view, out).await.unwrap();
        let mut text = Vec::new();
        while let Ok(bytes) = sent.try_recv() {
            text.extend_from_slice(&bytes);
        }
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }

    const LOG: &str = "2026-01-02T00:00:00Z stdout P a\n2026-01-02T00:00:01Z stdout F b\n\
        2026-01-02T00:00:02Z stderr F c d\n2026-01-02T00:00:03Z stdout F unfinished";

    #[tokio::test]
    async fn lines_are_joined_cut_and_chosen() {
        let none = Options::default();
        check(LOG, none.clone(), "old\nab\nc d\n").await;
        check(LOG, Options { tail: Some(1), ..none.clone() }, "c d\n").await;
        check(LOG, Options { tail: Some(0), ..none.clone() }, "").await;
        check(LOG, Options { limit_bytes: Some(5), ..none.clone() }, "old\na").await;
        check(LOG, Options { stream: Some("stderr"), ..none.clone() }, "c d\n").await;
        let since = Some("2026-01-02T00:00:02Z".parse().unwrap());
        check(LOG, Options { since, timestamps: true, ..none }, "2026-01-02T00:00:02Z c d\n").await;
    }

    #[test]
    fn bad_options_are_refused() {
        let query = |key: &str, value: &str| vec![(key.to_owned(), value.to_owned())];
        assert!(options(&query("tailLines", "x"), Timestamp::UNIX_EPOCH).is_err());
        assert!(options(&query("sinceTime", "x"), Timestamp::UNIX_EPOCH).is_err());
        assert!(options(&query("follow", "true"), Timestamp::UNIX_EPOCH).unwrap().follow);
    }
}
