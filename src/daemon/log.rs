//! Logging: journald's native protocol where standard error is the journal, plain lines elsewhere;
//! the level can be changed while the process runs.
//!
//! Invariant: libraries return errors, programs log them once; field names are Kubernetes' own.

use std::fmt;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::UNIX_EPOCH;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, layer};

use crate::journal::{Fields, Journal};

/// What went wrong last, and when, seconds since the epoch.
static LAST_ERROR: Mutex<(u64, String)> = Mutex::new((0, String::new()));
static JOURNAL: OnceLock<()> = OnceLock::new();
static FILTER: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();

/// Starts logging for this process. `K3S_DEBUG=true` (or `K3S_LOG_LEVEL`) raises the level.
pub fn init(component: &'static str) {
    let (filter, handle) = reload::Layer::new(from_environment());
    let registry = tracing_subscriber::registry().with(filter).with(KeepErrors);
    match Journal::connect(component) {
        Some(journal) => {
            registry.with(journal).init();
            let _ = JOURNAL.set(());
        }
        None => {
            let layer = tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(false)
                .event_format(Line { component });
            registry.with(layer).init();
        }
    }
    let _ = FILTER.set(handle);
}

/// Whether this process logs to the journal.
pub(crate) fn to_journal() -> bool {
    JOURNAL.get().is_some()
}

/// The last event that was an error or was survived because of one: when, and its line.
pub(crate) fn last_error() -> (u64, String) {
    LAST_ERROR.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Remembers the last error for `k3s status`.
struct KeepErrors;

impl<S: Subscriber> Layer<S> for KeepErrors {
    fn on_event(&self, event: &Event<'_>, _: layer::Context<'_, S>) {
        let level = *event.metadata().level();
        if level > Level::WARN {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        if level == Level::ERROR || fields.has("err") {
            let now = std::time::SystemTime::now().duration_since(UNIX_EPOCH);
            let secs = now.map_or(0, |now| now.as_secs());
            *LAST_ERROR.lock().unwrap_or_else(PoisonError::into_inner) = (secs, fields.text());
        }
    }
}

/// The level in effect, by the name that [`set_level`] takes.
pub(crate) fn level() -> String {
    let level = FILTER.get().and_then(|filter| filter.clone_current());
    level.unwrap_or(LevelFilter::INFO).to_string()
}

/// Changes the level from now on: `error`, `warn`, `info`, `debug` or `trace`, or systemd's names
/// of them. The default comes back with a restart.
pub fn set_level(name: &str) -> Result<(), String> {
    let level = match name {
        "emerg" | "alert" | "crit" | "err" => LevelFilter::ERROR,
        "warning" => LevelFilter::WARN,
        "notice" => LevelFilter::INFO,
        other => match other.parse::<Level>() {
            Ok(level) => LevelFilter::from_level(level),
            Err(_) => {
                return Err(format!("{name:?} is no level; error, warn, info, debug, trace are"));
            }
        },
    };
    match FILTER.get().map(|filter| filter.reload(level)) {
        Some(Ok(())) => Ok(()),
        Some(Err(err)) => Err(err.to_string()),
        None => Err("logging has not started".to_owned()),
    }
}

fn from_environment() -> LevelFilter {
    let debug = std::env::var("K3S_DEBUG").is_ok_and(|value| value == "true" || value == "1");
    if debug {
        return LevelFilter::DEBUG;
    }
    std::env::var("K3S_LOG_LEVEL")
        .ok()
        .and_then(|value| value.parse::<Level>().ok())
        .map_or(LevelFilter::INFO, LevelFilter::from_level)
}

/// `2026-11-23T10:00:00Z INFO k3s-kubelet Started container pod=default/web`.
struct Line {
    component: &'static str,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        SystemTime.format_time(&mut writer)?;
        write!(writer, " {} {} ", event.metadata().level(), self.component)?;
        ctx.field_format().format_fields(writer.by_ref(), event)?;
        for span in ctx.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            if let Some(fields) = extensions.get::<tracing_subscriber::fmt::FormattedFields<N>>()
                && !fields.is_empty()
            {
                write!(writer, " {fields}")?;
            }
        }
        writeln!(writer)
    }
}
