//! journald's native protocol: an event is one datagram of fields, so that
//! `journalctl -u k3s-kubelet POD=default/web -p warning` answers.
//!
//! Invariant: a field is named as in the source, in capitals and without a prefix; `MESSAGE` holds
//! them all once more, since that is what people see first.

use std::fmt::{Debug, Write as _};
use std::fs::File;
use std::io::{self, IoSlice, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber, span};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

const SOCKET: &str = "/run/systemd/journal/socket";

/// A layer that sends every event to journald.
pub(crate) struct Journal {
    socket: UnixDatagram,
    component: &'static str,
}

impl Journal {
    /// The journal, when standard error is connected to it: `JOURNAL_STREAM` is its device and
    /// inode, systemd.exec(5). A child with another standard error keeps its lines there.
    pub(crate) fn connect(component: &'static str) -> Option<Self> {
        let stream = std::env::var("JOURNAL_STREAM").ok()?;
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned().ok()?).metadata().ok()?;
        if stream != format!("{}:{}", stderr.dev(), stderr.ino()) {
            return None;
        }
        let socket = UnixDatagram::unbound().ok()?;
        socket.connect(SOCKET).ok()?;
        Some(Self { socket, component })
    }

    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        match self.socket.send(datagram) {
            Err(err) if err.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) => {
                self.send_file(datagram)
            }
            sent => sent.map(drop),
        }
    }

    /// What is too long for a datagram goes as a sealed file in memory.
    fn send_file(&self, datagram: &[u8]) -> io::Result<()> {
        let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::memfd_create("k3s-journal", flags)?);
        file.write_all(datagram)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals)?;
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let files = [file.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&files));
        sendmsg(&self.socket, &[IoSlice::new(&[])], &mut control, SendFlags::empty())?;
        Ok(())
    }
}

impl<S> Layer<S> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, cx: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = cx.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, cx: Context<'_, S>) {
        if let Some(span) = cx.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, cx: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        for span in cx.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.pairs.extend(outer.pairs.iter().cloned());
            }
        }
        let meta = event.metadata();
        let place = meta.file().zip(meta.line());
        let datagram = datagram(self.component, *meta.level(), meta.target(), place, &fields);
        if let Err(err) = self.send(&datagram) {
            // The journal is gone; standard error is the last place that somebody may read.
            eprintln!("{} ({err}, writing to the journal)", fields.text());
        }
    }
}

/// The data of one event or span.
#[derive(Default)]
pub(crate) struct Fields {
    message: String,
    pairs: Vec<(&'static str, String)>,
}

impl Fields {
    pub(crate) fn has(&self, name: &str) -> bool {
        self.pairs.iter().any(|(have, _)| *have == name)
    }

    fn add(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = value,
            name => self.pairs.push((name, value)),
        }
    }

    /// The line that people see.
    pub(crate) fn text(&self) -> String {
        let mut text = self.message.clone();
        for (name, value) in &self.pairs {
            let _ = match value.contains([' ', '"', '\n']) && *name != "err" {
                true => write!(text, " {name}={value:?}"),
                false => write!(text, " {name}={value}"),
            };
        }
        text
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, format!("{value:?}"));
    }
}

fn datagram(
    component: &str,
    level: Level,
    target: &str,
    place: Option<(&str, u32)>,
    fields: &Fields,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    put(&mut out, "MESSAGE", &fields.text());
    put(&mut out, "PRIORITY", priority(level));
    put(&mut out, "SYSLOG_IDENTIFIER", component);
    put(&mut out, "TARGET", target);
    if let Some((file, line)) = place {
        put(&mut out, "CODE_FILE", file);
        put(&mut out, "CODE_LINE", &line.to_string());
    }
    let mut namespace = None;
    let mut namespace_given = false;
    for (name, value) in &fields.pairs {
        let name = field_name(name);
        namespace_given |= name == "NAMESPACE";
        // Objects are logged as `namespace/name`.
        if ["POD", "SERVICE", "OBJECT"].contains(&name.as_str()) {
            namespace = namespace.or(value.split_once('/').map(|(namespace, _)| namespace));
        }
        put(&mut out, &name, value);
    }
    if let Some(namespace) = namespace.filter(|_| !namespace_given) {
        put(&mut out, "NAMESPACE", namespace);
    }
    out
}

/// syslog(3)'s numbers.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    }
}

/// A name that journald takes: capitals, digits and underscores, a letter first.
fn field_name(name: &str) -> String {
    let name: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
        .collect();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_uppercase());
    // `journalctl -u` reads this one, from systemd itself.
    if name == "UNIT" { "K3S_UNIT".to_owned() } else { name.to_owned() }
}

fn put(out: &mut Vec<u8>, name: &str, value: &str) {
    if name.is_empty() {
        return;
    }
    out.extend(name.as_bytes());
    if value.contains('\n') {
        out.push(b'\n');
        out.extend((value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend(value.as_bytes());
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(message: &str, pairs: &[(&'static str, &str)], expected: &[&str]) {
        let pairs = pairs.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let fields = Fields { message: message.to_owned(), pairs };
        let sent = datagram("k3s-kubelet", Level::WARN, "kubelet", None, &fields);
        let text = String::from_utf8_lossy(&sent);
        for line in expected {
            assert!(text.contains(&format!("{line}\n")), "{line} is not in {text}");
        }
    }

    #[test]
    fn fields_are_what_journalctl_is_asked_for() {
        check(
            "Container failed",
            &[("pod", "default/web"), ("exit.code", "1"), ("unit", "x")],
            &[
                "MESSAGE=Container failed pod=default/web exit.code=1 unit=x",
                "PRIORITY=4",
                "SYSLOG_IDENTIFIER=k3s-kubelet",
                "POD=default/web",
                "NAMESPACE=default",
                "EXIT_CODE=1",
                "K3S_UNIT=x",
            ],
        );
        check("Lines", &[("err", "a\nb")], &["ERR\n\u{3}\0\0\0\0\0\0\0a\nb"]);
        check("Named", &[("pod", "a/b"), ("namespace", "c")], &["NAMESPACE=c"]);
    }

    #[test]
    fn an_event_too_long_for_a_datagram_arrives_as_a_file() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let journal = Journal { socket: ours, component: "k3s-kubelet" };
        journal.send_file(b"MESSAGE=long\n").unwrap();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
        let flags = rustix::net::RecvFlags::empty();
        rustix::net::recvmsg(&theirs, &mut [], &mut control, flags).unwrap();
        let passed = control.drain().find_map(|message| match message {
            rustix::net::RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        let mut file = File::from(passed.unwrap());
        io::Seek::rewind(&mut file).unwrap();
        assert_eq!(io::read_to_string(file).unwrap(), "MESSAGE=long\n");
    }
}
