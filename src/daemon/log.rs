//! Logging: journald's native protocol where stderr is the journal, plain lines elsewhere.
//!
//! Invariant: libraries return errors, programs log them once; field names are Kubernetes' own and
//! become journal fields without a prefix, so that `journalctl POD=default/web` finds them.

use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging for this process. `K3S_DEBUG=true` (or `K3S_LOG_LEVEL`) raises the level.
pub fn init(component: &'static str) {
    let level = level();
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    let registry = tracing_subscriber::registry().with(level);
    match journal {
        Some(layer) => {
            let layer = layer.with_field_prefix(None).with_syslog_identifier(component.to_owned());
            registry.with(layer).init();
        }
        None => {
            let layer = tracing_subscriber::fmt::layer()
                .with_writer(std::io::stderr)
                .with_ansi(false)
                .event_format(Line { component });
            registry.with(layer).init();
        }
    }
}

fn level() -> LevelFilter {
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
