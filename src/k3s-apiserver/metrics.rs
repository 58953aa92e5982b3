//! `/metrics`: counters under upstream's names.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

/// What is counted about requests. The label sets are bounded by the tables of kinds and verbs.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<Labels, Series>>,
    /// Everything else, by name and labels.
    counters: Mutex<BTreeMap<(&'static str, String), u64>>,
    times: Mutex<BTreeMap<(&'static str, String), Series>>,
    /// Health checks by name and page.
    checks: Mutex<BTreeMap<(&'static str, String), Checked>>,
    /// Requests in progress, without watches.
    pub inflight: AtomicI64,
    pub watches: AtomicI64,
}

/// The labels of `apiserver_request_total`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Labels {
    pub verb: &'static str,
    pub group: String,
    pub version: String,
    pub resource: String,
    pub subresource: String,
    pub code: u16,
}

#[derive(Clone, Copy, Debug, Default)]
struct Series {
    count: u64,
    seconds: f64,
}

/// How a health check went.
#[derive(Clone, Copy, Debug, Default)]
struct Checked {
    is_ok: bool,
    successes: u64,
    errors: u64,
}

impl Metrics {
    /// Notes how a health check went on one of the pages (`readyz`).
    pub fn note_check(&self, name: &'static str, page: &str, is_ok: bool) {
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        let checked = checks.entry((name, page.to_owned())).or_default();
        checked.is_ok = is_ok;
        *(if is_ok { &mut checked.successes } else { &mut checked.errors }) += 1;
    }

    /// The health checks and the start of the process, as Prometheus reads them.
    pub fn render_checks(&self, begun: Timestamp) -> String {
        let checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut out = String::from("# TYPE kubernetes_healthcheck gauge\n");
        for ((name, page), checked) in &checks {
            let (labels, ok) =
                (format!("name=\"{name}\",type=\"{page}\""), u8::from(checked.is_ok));
            let _infallible = writeln!(out, "kubernetes_healthcheck{{{labels}}} {ok}");
        }
        out.push_str("# TYPE kubernetes_healthchecks_total counter\n");
        for ((name, page), checked) in &checks {
            for (status, count) in [("error", checked.errors), ("success", checked.successes)] {
                let labels = format!("name=\"{name}\",status=\"{status}\",type=\"{page}\"");
                if count > 0 {
                    let _infallible =
                        writeln!(out, "kubernetes_healthchecks_total{{{labels}}} {count}");
                }
            }
        }
        let seconds = begun.as_second();
        let _infallible = writeln!(
            out,
            "# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds {seconds}"
        );
        out
    }

    /// Counts one answered request.
    pub fn count(&self, labels: Labels, took: Duration) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let series = requests.entry(labels).or_default();
        series.count += 1;
        series.seconds += took.as_secs_f64();
    }

    /// Adds one to a counter; the labels are as Prometheus reads them.
    pub fn add(&self, name: &'static str, labels: String) {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        *counters.entry((name, labels)).or_default() += 1;
    }

    /// Notes how long something took.
    pub fn observe(&self, name: &'static str, labels: String, took: Duration) {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let series = times.entry((name, labels)).or_default();
        series.count += 1;
        series.seconds += took.as_secs_f64();
    }

    fn render_named(&self, out: &mut String) {
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut last = "";
        for ((name, labels), count) in &counters {
            if *name != last {
                let _infallible = writeln!(out, "# TYPE {name} counter");
                last = name;
            }
            let _infallible = writeln!(out, "{name}{{{labels}}} {count}");
        }
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for ((name, labels), series) in &times {
            if *name != last {
                let _infallible = writeln!(out, "# TYPE {name} summary");
                last = name;
            }
            let (seconds, count) = (series.seconds, series.count);
            let _infallible = writeln!(
                out,
                "{name}_sum{{{labels}}} {seconds:.6}\n{name}_count{{{labels}}} {count}"
            );
        }
    }

    /// The text that Prometheus reads.
    pub fn render(&self) -> String {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut out = String::new();
        out.push_str("# TYPE apiserver_request_total counter\n");
        for (labels, series) in &requests {
            let _infallible =
                writeln!(out, "apiserver_request_total{{{}}} {}", labels.render(), series.count);
        }
        out.push_str("# TYPE apiserver_request_duration_seconds summary\n");
        for (labels, series) in &requests {
            let labels = labels.render();
            let _infallible = writeln!(
                out,
                "apiserver_request_duration_seconds_sum{{{labels}}} {:.6}\n\
                 apiserver_request_duration_seconds_count{{{labels}}} {}",
                series.seconds, series.count
            );
        }
        let inflight = self.inflight.load(Ordering::Relaxed);
        let watches = self.watches.load(Ordering::Relaxed);
        let _infallible = write!(
            out,
            "# TYPE apiserver_current_inflight_requests gauge\n\
             apiserver_current_inflight_requests{{request_kind=\"all\"}} {inflight}\n\
             # TYPE apiserver_longrunning_requests gauge\n\
             apiserver_longrunning_requests{{verb=\"WATCH\"}} {watches}\n"
        );
        self.render_named(&mut out);
        out
    }
}

impl Labels {
    fn render(&self) -> String {
        format!(
            "code=\"{}\",group=\"{}\",resource=\"{}\",subresource=\"{}\",verb=\"{}\",version=\"{}\"",
            self.code,
            self.group,
            self.resource,
            self.subresource,
            self.verb.to_ascii_uppercase(),
            self.version
        )
    }
}
